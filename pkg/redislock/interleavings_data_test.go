package redislock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// Interleavings in which Redis itself forgets, or remembers nonsense.

// A failover is a primary with a replica behind a link that can be frozen.
type failover struct {
	primary, replica *redisserver.Server
	link             *proxy.Proxy
}

func startFailover(t *testing.T, g *WithT) *failover {
	t.Helper()
	f := &failover{primary: startReachableRedis(t, "--repl-diskless-sync-delay", "0"), replica: startReachableRedis(t)}
	f.link = proxy.Start(t, f.primary.URL())
	host, port := splitAddr(t, f.link.Addr())
	g.Expect(connect(t, f.replica.URL()).ReplicaOf(t.Context(), host, port).Err()).To(Succeed())
	g.Eventually(func() string {
		return connect(t, f.replica.URL()).Info(t.Context(), "replication").Val()
	}).WithPolling(50 * time.Millisecond).Should(ContainSubstring("master_link_status:up"))
	return f
}

func splitAddr(t *testing.T, addr string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// caughtUp waits until the replica has all that the primary has.
func (f *failover) caughtUp(t *testing.T, g *WithT) {
	t.Helper()
	g.Expect(connect(t, f.primary.URL()).Wait(t.Context(), 1, patience).Val()).To(BeEquivalentTo(1))
}

// promote loses the primary and makes the replica one.
func (f *failover) promote(t *testing.T, g *WithT) {
	t.Helper()
	g.Expect(f.primary.Kill()).To(Succeed())
	g.Expect(connect(t, f.replica.URL()).ReplicaOf(t.Context(), "NO", "ONE").Err()).To(Succeed())
}

// client follows the failover as a Sentinel client does: it connects to the
// primary while there is one.
func (f *failover) client(t *testing.T) *redis.Client {
	t.Helper()
	return connect(t, f.primary.URL(), func(o *redis.Options) {
		o.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
			to := f.replica
			if f.primary.Running() {
				to = f.primary
			}
			return new(net.Dialer).DialContext(ctx, "tcp", to.Addr())
		}
	})
}

// ahead puts the counter of a lock so far beyond the clock of the server, and by
// more than the test can take, that a
// server whose clock is right is one whose clock is behind.
func (f *failover) ahead(t *testing.T, g *WithT, d time.Duration) (counter int64) {
	t.Helper()
	rdb := connect(t, f.primary.URL())
	counter = rdb.Time(t.Context()).Val().Add(d).UnixMicro()
	g.Expect(rdb.Set(t.Context(), fenceKey(key), counter, time.Hour).Err()).To(Succeed())
	return counter
}

func TestInterleaving11APromotedReplicaThatLagsAndWhoseClockIsBehind(t *testing.T) {
	t.Parallel()
	g := within(t)
	f := startFailover(t, g)
	rdb := f.client(t)
	clk := &bentClock{}
	witness := newClient(t, rdb, withClock(clk))
	counter := f.ahead(t, g, 5*time.Minute)
	first := mustAcquire(t, witness, key, patient())
	g.Expect(first.Fence()).To(BeNumerically(">", counter))
	g.Expect(first.Release(t.Context())).To(Succeed())
	f.caughtUp(t, g)
	swallowed := f.link.Swallow(proxy.ToClient)
	second := mustAcquire(t, witness, key, patient())
	g.Expect(second.Fence()).To(BeNumerically(">", first.Fence()))
	<-swallowed.First
	f.promote(t, g)
	g.Expect(value(t, connect(t, f.replica.URL()), fenceKey(key))).To(Equal(fmt.Sprint(first.Fence())), "the newest grant is lost")

	_, err := witness.TryAcquire(t.Context(), key, patient())
	var quarantine *QuarantineError
	g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
	g.Expect(quarantine.Seen).To(Equal(second.Fence()))
	g.Expect(quarantine.Stored).To(Equal(first.Fence()))
	clk.pass(quarantine.Remaining)
	third := mustAcquire(t, witness, key, patient())
	g.Expect(third.Fence()).To(BeNumerically(">", second.Fence()))
}

func TestInterleaving11APromotedReplicaThatIsUpToDateAndWhoseClockIsBehind(t *testing.T) {
	t.Parallel()
	g := within(t)
	f := startFailover(t, g)
	rdb := f.client(t)
	witness, stranger := newClient(t, rdb), newClient(t, rdb)
	counter := f.ahead(t, g, 5*time.Minute)
	first := mustAcquire(t, witness, key, patient())
	g.Expect(first.Fence()).To(BeNumerically(">", counter))
	f.caughtUp(t, g)
	f.promote(t, g)

	g.Expect(first.Status(t.Context())).To(Equal(Acquired), "the grant survives")
	g.Expect(first.Release(t.Context())).To(Succeed())
	second := mustAcquire(t, stranger, key, patient())
	g.Expect(second.Fence()).To(BeNumerically(">", first.Fence()), "though its clock is behind the last")
}

func TestInterleaving12FlushedWithAHolderAlive(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	holder := renewOften(t, mustAcquire(t, dial(t, server.URL()), key, patient()))
	clk := &bentClock{}
	witness := newClient(t, connect(t, server.URL()), withClock(clk))
	_, err := witness.TryAcquire(t.Context(), key)
	g.Expect(err).To(MatchError(ErrNotAcquired))

	g.Expect(rdb.FlushAll(t.Context()).Err()).To(Succeed())
	const lease = 5 * time.Minute
	_, err = witness.TryAcquire(t.Context(), key, WithLease(lease))
	var quarantine *QuarantineError
	g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
	g.Expect(quarantine.Seen).To(Equal(holder.Fence()))
	g.Expect(quarantine.Remaining).To(Equal(lease))
	clk.pass(lease - time.Minute)
	_, err = witness.TryAcquire(t.Context(), key, WithLease(lease))
	g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "for one expiry: %v", err)
	g.Expect(quarantine.Remaining).To(BeNumerically("<=", time.Minute))

	g.Eventually(holder.Context().Done()).Should(BeClosed())
	var lost *LostError
	g.Expect(errors.As(context.Cause(holder.Context()), &lost)).To(BeTrue())
	g.Expect(lost.Err).NotTo(HaveOccurred(), "Redis said so")
	g.Expect(value(t, rdb, key)).To(BeEmpty(), "a renewal creates nothing")

	clk.pass(time.Minute)
	next := mustAcquire(t, witness, key, WithLease(lease))
	g.Expect(next.Fence()).To(BeNumerically(">", holder.Fence()))
}

func TestInterleaving13CorruptCountersAreRefusedAndNotHandedOn(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	ctx := t.Context()
	farAhead := time.Now().Add(367 * 24 * time.Hour).UnixMicro()
	for name, counter := range map[string]string{
		"2^53":         "9007199254740992",
		"a year ahead": fmt.Sprint(farAhead),
		"overlong":     strings.Repeat("9", 400),
		"garbage":      "12x",
		"hexadecimal":  "0x10",
		"negative":     "-5",
		"empty":        "",
	} {
		t.Run(name, func(t *testing.T) {
			g := within(t)
			key := "lock:" + name
			g.Expect(rdb.Set(ctx, fenceKey(key), counter, time.Minute).Err()).To(Succeed())
			_, err := dial(t, server.URL()).Acquire(ctx, key, patient(), WithWait())
			g.Expect(err).To(MatchError(ErrCorrupt))
			g.Expect(value(t, rdb, key)).To(BeEmpty(), "nothing is granted")
			g.Expect(value(t, rdb, fenceKey(key))).To(Equal(counter), "nor repaired in silence")
		})
	}

	c := dial(t, server.URL())
	for _, seen := range []uint64{1 << 53, 1<<64 - 1, uint64(farAhead)} {
		_, err := c.Acquire(ctx, key, patient(), WithSeen(seen))
		g.Expect(err).To(MatchError(ErrCorrupt))
	}
	// What is read in others' tokens is not believed either.
	forged := fmt.Sprintf("somebody#0.1#%d", farAhead)
	g.Expect(rdb.Set(ctx, key, forged, time.Minute).Err()).To(Succeed())
	_, err := c.TryAcquire(ctx, key)
	g.Expect(err).To(MatchError(ErrNotAcquired))
	_, err = c.Inspect(ctx, key)
	g.Expect(err).NotTo(HaveOccurred())
	adopted, err := c.Adopt(ctx, key, forged, patient())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(adopted.Release(ctx)).To(Succeed())
	l := mustAcquire(t, c, key, patient())
	g.Expect(l.Fence()).To(BeNumerically("<", uint64(farAhead)))
}

func TestInterleaving22EvictionIsNoticedAndTheFenceRises(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t, "--maxmemory-policy", "volatile-lru", "--maxmemory", "4mb")
	rdb := connect(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, server.URL()), withClock(clk))
	g.Expect(finding(t, c, "Eviction").Verdict).To(Equal(Dangerous)) // said beforehand
	l := renewOften(t, mustAcquire(t, c, key, patient()))

	// Only what has an expiry is evicted: lock and counter, before anything of ours.
	block := strings.Repeat("x", 64<<10)
	for i := 0; rdb.Exists(t.Context(), key, fenceKey(key)).Val() > 0; i++ {
		g.Expect(i).To(BeNumerically("<", 1000))
		_ = rdb.Set(t.Context(), fmt.Sprintf("ballast:%d", i), block, 0).Err() // fails when nothing is left to evict
	}
	g.Expect(rdb.ConfigSet(t.Context(), "maxmemory", "100mb").Err()).To(Succeed())

	g.Eventually(l.Context().Done()).Should(BeClosed())
	g.Expect(context.Cause(l.Context())).To(MatchError(ErrLost))
	_, err := c.TryAcquire(t.Context(), key, patient())
	var quarantine *QuarantineError
	g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
	clk.pass(quarantine.Remaining)
	next := mustAcquire(t, c, key, patient())
	g.Expect(next.Fence()).To(BeNumerically(">", l.Fence()))
}
