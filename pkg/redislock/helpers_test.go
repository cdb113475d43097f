package redislock

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/parallel"
	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// A test's own processes are this program, too.
func TestMain(m *testing.M) {
	if role := os.Getenv(debounceRole); role != "" {
		os.Exit(debounceProcess(role))
	}
	parallel.Many()
	os.Exit(m.Run())
}

const key = "lock:a"

// Bounds for what happens by itself. A test that passes does not wait for them.
const (
	patience = 30 * time.Second
	polling  = 5 * time.Millisecond
)

// within returns gomega for a test that waits as long as a loaded machine needs.
func within(t *testing.T) *WithT {
	t.Helper()
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(patience)
	g.SetDefaultEventuallyPollingInterval(polling)
	g.SetDefaultConsistentlyPollingInterval(polling)
	return g
}

// lasting is the time of a random history: at least so long, and on a loaded machine
// longer, until enough has happened in it for the test to have tested anything.
func lasting(t *testing.T, least time.Duration, enough func() bool) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), least+patience)
	t.Cleanup(stop)
	go func() {
		defer stop()
		for pause(ctx, least); ctx.Err() == nil && !enough(); {
			pause(ctx, 20*time.Millisecond)
		}
	}()
	return ctx
}

// startRedis starts a server that ends with the test.
func startRedis(t testing.TB, args ...string) *redisserver.Server {
	t.Helper()
	return redisserver.Start(t, redisserver.Options{UnixSocket: true, Args: args})
}

// startReachableRedis starts one that other servers can connect to.
func startReachableRedis(t testing.TB, args ...string) *redisserver.Server {
	t.Helper()
	return redisserver.Start(t, redisserver.Options{Args: args})
}

// connect returns a connection that ends with the test.
func connect(t testing.TB, url string, change ...func(*redis.Options)) *redis.Client {
	t.Helper()
	heeding := func(o *redis.Options) { o.ContextTimeoutEnabled = true }
	return redisserver.Connect(t, url, append([]func(*redis.Options){heeding}, change...)...)
}

// impatient has go-redis give up on a connection that does not answer, and try
// again on another, long before a test is over.
func impatient(o *redis.Options) {
	o.ReadTimeout, o.WriteTimeout = 2*time.Second, 2*time.Second
}

// hasty is impatient where a request that was given up too early does no harm.
func hasty(o *redis.Options) {
	o.ReadTimeout, o.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
}

// deaf has each command in a goroutine of its own, so that a context that is cancelled
// is noticed at once: see line.
func deaf(o *redis.Options) { o.ContextTimeoutEnabled = false }

// singleShot takes go-redis' own retries away: what is sent is what we sent.
func singleShot(o *redis.Options) { o.MaxRetries = -1 }

// newClient returns a client that ends with the test.
func newClient(t testing.TB, rdb redis.UniversalClient, opts ...Option) *Client {
	t.Helper()
	c, err := New(rdb, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Clean-ups that a test leaves behind need not be waited for.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Close(ctx)
	})
	return c
}

// dial returns a client with a connection of its own, as another process has.
func dial(t testing.TB, url string, opts ...Option) *Client {
	t.Helper()
	return newClient(t, connect(t, url), opts...)
}

// patient is a lease that outlives the test, however loaded the machine.
func patient() LockOption { return WithLease(5 * time.Minute) }

// lapsing is a lease that ends soon, for nobody renews it.
func lapsing(lease time.Duration) LockOption {
	return func(c *lockConfig) {
		WithLease(lease)(c)
		WithoutRenewal()(c)
	}
}

// mustAcquire takes a lock that is free.
func mustAcquire(t testing.TB, c *Client, key string, opts ...LockOption) *Lock {
	t.Helper()
	l, err := c.Acquire(t.Context(), key, opts...)
	if err != nil {
		t.Fatalf("acquire %q: %v", key, err)
	}
	return l
}

// renewOften makes a lock's renewal due over and over, which a lease that is
// short would only do with deadlines that a loaded machine misses.
func renewOften(t testing.TB, l *Lock) *Lock {
	t.Helper()
	go func() {
		for tick := time.Tick(50 * time.Millisecond); t.Context().Err() == nil && l.Err() == nil; <-tick {
			l.renewNow()
		}
	}()
	return l
}

func (l *Lock) renewNow() {
	r := l.renewer
	now := r.c.clock.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	l.mu.Lock()
	l.renewAt = now.t
	l.mu.Unlock()
	if r.renewals.has(l) {
		r.renewals.put(l, now.t)
	}
	notify(r.kick)
}

// value returns what stands at a key; empty where there is nothing.
func value(t testing.TB, rdb redis.UniversalClient, key string) string {
	t.Helper()
	v, err := rdb.Get(t.Context(), key).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatalf("GET %q: %v", key, err)
	}
	return v
}

// acquireOf matches a try at a fenced lock; what inspects it has no arguments.
func acquireOf(key string) proxy.Match {
	return proxy.All(proxy.Script(key, metadataKey(key)), func(args []string) bool { return len(args) > 6 })
}

// releaseOf matches what Release, Lock clean-ups and no other operation sends.
func releaseOf(key string) proxy.Match { return proxy.Script(key, wakeChannel(key)) }

func renewalOf(l *Lock) proxy.Match {
	return proxy.All(proxy.Script(l.Key(), l.Token()), func(args []string) bool { return len(args) == 6 })
}

// bentClock is the system's clock with each of its three moved at will.
type bentClock struct {
	systemClock
	mu               sync.Mutex
	mono, wall, boot time.Duration
}

func (c *bentClock) now() instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.systemClock.now()
	return instant{t: now.t.Add(c.mono), wall: now.wall + c.wall, boot: now.boot + c.boot}
}

// pass lets time pass.
func (c *bentClock) pass(d time.Duration) { c.bend(d, d, d) }

// sleep puts the machine to sleep, while the monotonic clock stands still.
func (c *bentClock) sleep(d time.Duration) { c.bend(0, d, d) }

// setWall sets the wall clock ahead.
func (c *bentClock) setWall(d time.Duration) { c.bend(0, d, 0) }

func (c *bentClock) bend(mono, wall, boot time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mono, c.wall, c.boot = c.mono+mono, c.wall+wall, c.boot+boot
}
