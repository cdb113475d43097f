package redislock

import (
	"context"
	"errors"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

func TestTryAcquireTriesOnceAndSaysWhoHolds(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	holder := mustAcquire(t, dial(t, server.URL(), WithIdentity("host-1")), key, patient())

	_, err := dial(t, p.URL()).TryAcquire(t.Context(), key, WithRetry(5, time.Hour))
	var held *HeldError
	g.Expect(errors.As(err, &held)).To(BeTrue(), "%v", err)
	g.Expect(held).To(HaveField("Holder", "host-1"))
	g.Expect(held).To(HaveField("Fence", holder.Fence()))
	g.Expect(held).To(HaveField("Value", holder.Token()))
	g.Expect(held.TTL).To(BeNumerically("~", 5*time.Minute, time.Minute))
	g.Expect(held.Free()).To(BeFalse())
	g.Expect(err).To(MatchError(ErrNotAcquired))
	g.Expect(p.Count(acquireOf(key))).To(BeNumerically("<=", 2), "one try, and the source where the server had no script")
}

func TestAcquireTriesAsOftenAsItIsTold(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts     []LockOption
		refusals int
		least    time.Duration
	}{
		"default": {nil, 3, 200 * time.Millisecond},
		"once":    {[]LockOption{WithRetry(1, time.Hour)}, 1, 0},
		"five":    {[]LockOption{WithRetry(5, 50*time.Millisecond)}, 5, 200 * time.Millisecond},
		"no wait": {[]LockOption{WithRetry(4, 0)}, 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			mustAcquire(t, dial(t, server.URL()), key, patient())
			refusals := 0
			count := OnRefusal(func(err error) {
				refusals++
				g.Expect(err).To(MatchError(ErrNotAcquired))
			})
			started := time.Now()
			_, err := dial(t, server.URL()).Acquire(t.Context(), key, append(test.opts, patient(), count)...)
			g.Expect(err).To(MatchError(ErrNotAcquired))
			g.Expect(refusals).To(Equal(test.refusals))
			g.Expect(time.Since(started)).To(BeNumerically(">=", test.least), "no sleep after the last try, one between any two")
			g.Expect(time.Since(started)).To(BeNumerically("<", time.Minute))
		})
	}
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	mustAcquire(t, dial(t, server.URL()), key, patient())
	for name, opt := range map[string]LockOption{
		"between tries": WithRetry(2, time.Hour),
		"while waiting": WithWait(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			c := dial(t, server.URL())
			ctx, cancel := context.WithCancel(t.Context())
			refused := make(chan struct{}, 100)
			done := make(chan error, 1)
			go func() {
				_, err := c.Acquire(ctx, key, patient(), opt, OnRefusal(func(error) { refused <- struct{}{} }))
				done <- err
			}()
			<-refused
			cancel()
			var err error
			g.Eventually(done).Should(Receive(&err))
			g.Expect(err).To(MatchError(context.Canceled))
			// A waiter may be in the midst of a try that its subscription woke it for.
			if name == "between tries" {
				g.Expect(err).To(MatchError(ErrNotAcquired), "and says what it waited for")
			}
			g.Expect(c.wakes.waiting(key)).To(BeZero())
		})
	}
	t.Run("in OnRefusal", func(t *testing.T) {
		t.Parallel()
		g := within(t)
		for _, opt := range []LockOption{WithRetry(2, 0), WithWait()} {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := dial(t, server.URL()).Acquire(ctx, key, patient(), opt, OnRefusal(func(error) { cancel() }))
			g.Expect(err).To(MatchError(context.Canceled))
		}
	})
	t.Run("before it starts", func(t *testing.T) {
		t.Parallel()
		g := within(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := dial(t, server.URL()).Acquire(ctx, key, patient())
		g.Expect(err).To(MatchError(context.Canceled))
	})
}

// The classic of go-redis: its SetNX is retried by itself, finds its own key, and
// says that somebody else has it.
func TestAReplyThatIsDroppedIsNotARefusal(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts   []LockOption
		victim proxy.Match
	}{
		"fenced":   {nil, acquireOf(key)},
		"unfenced": {[]LockOption{WithoutFence()}, proxy.All(proxy.Command("SET"), proxy.With(key))},
	} {
		for who, change := range map[string]func(*redis.Options){
			"retried by go-redis": impatient,
			"retried by us":       func(o *redis.Options) { impatient(o); singleShot(o) },
		} {
			t.Run(name+" "+who, func(t *testing.T) {
				t.Parallel()
				g := within(t)
				server := startRedis(t)
				p := proxy.Start(t, server.URL())
				c := newClient(t, connect(t, p.URL(), change))
				acquaint(t, c)
				dropped := p.DropReply(test.victim)
				l := mustAcquire(t, c, key, append(test.opts, patient(), WithRetry(5, 10*time.Millisecond))...)
				<-dropped.Done
				g.Expect(value(t, connect(t, server.URL()), key)).To(Equal(l.Token()))
				g.Expect(l.IsHeld()).To(BeTrue())
				g.Expect(l.Status(t.Context())).To(Equal(Acquired))
				if l.Fence() != 0 {
					g.Expect(dropped.Reply()).To(ContainSubstring(":"+value(t, connect(t, server.URL()), fenceKey(key))), "granted once")
				}
				g.Expect(l.Release(t.Context())).To(Succeed())
				g.Expect(value(t, connect(t, server.URL()), key)).To(BeEmpty())
			})
		}
	}
}

func TestAnAcquireThatIsCancelledAfterItWasGrantedLeavesNoOrphan(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts   []LockOption
		victim proxy.Match
	}{
		"fenced":   {nil, acquireOf(key)},
		"unfenced": {[]LockOption{WithoutFence()}, proxy.All(proxy.Command("SET"), proxy.With(key))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			p := proxy.Start(t, server.URL())
			c := dial(t, p.URL())
			acquaint(t, c)
			unheard := p.HoldReply(test.victim)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-unheard.Arrived
				if value(t, rdb, key) == "" {
					t.Error("it was not granted")
				}
				cancel()
			}()
			_, err := c.Acquire(ctx, key, append(test.opts, patient())...)
			g.Expect(err).To(MatchError(context.Canceled))
			g.Eventually(func() string { return value(t, rdb, key) }).Should(BeEmpty())
		})
	}
}

func TestALockOfAnotherLibraryExcludesAndIsExcluded(t *testing.T) {
	t.Parallel()
	for name, fence := range map[string]LockOption{"fenced": patient(), "unfenced": WithoutFence()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			c := dial(t, server.URL())

			theirs := redis.SetArgs{Mode: "NX", TTL: time.Minute}
			g.Expect(rdb.SetArgs(t.Context(), key, "theirs", theirs).Err()).To(Succeed())
			_, err := c.TryAcquire(t.Context(), key, patient(), fence)
			var held *HeldError
			g.Expect(errors.As(err, &held)).To(BeTrue(), "%v", err)
			g.Expect(held.Holder).To(BeEmpty())
			g.Expect(held.Value).To(Equal("theirs"))
			g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())

			ours := mustAcquire(t, c, key, patient(), fence)
			g.Expect(rdb.SetArgs(t.Context(), key, "theirs", theirs).Err()).To(MatchError(redis.Nil))
			g.Expect(value(t, rdb, key)).To(Equal(ours.Token()))

			// A lock kept as another type is held, too.
			g.Expect(rdb.HSet(t.Context(), "lock:hash", "holder", 1).Err()).To(Succeed())
			_, err = c.TryAcquire(t.Context(), "lock:hash", patient(), fence)
			g.Expect(errors.As(err, &held)).To(BeTrue(), "%v", err)
			g.Expect(held.Value).To(BeEmpty())
			g.Expect(held.TTL).To(BeNumerically("<", 0))
		})
	}
}

func TestFencesRiseWithEveryGrant(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	clients := []*Client{dial(t, server.URL()), dial(t, server.URL())}
	last := uint64(0)
	for i := range 20 {
		l := mustAcquire(t, clients[i%2], key, patient())
		g.Expect(l.Fence()).To(BeNumerically(">", last))
		last = l.Fence()
		g.Expect(l.Release(t.Context())).To(Succeed())
	}
	unfenced := mustAcquire(t, clients[0], key, patient(), WithoutFence())
	g.Expect(unfenced.Fence()).To(BeZero())
}

func TestNothingIsWrittenWithoutAnExpiry(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	l := mustAcquire(t, c, key, patient(), WithHistory(5), WithMinHold(time.Minute))
	mustAcquire(t, c, "lock:plain", patient(), WithoutFence())
	check := func() {
		for _, k := range rdb.Keys(t.Context(), "*").Val() {
			g.Expect(rdb.PTTL(t.Context(), k).Val()).To(BeNumerically(">", 0), k)
		}
	}
	check()
	g.Expect(l.Release(t.Context())).To(Succeed())
	check()
}

func TestADeniedCommandIsAnErrorAndNotARefusal(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	admin := connect(t, server.URL())
	for user, rules := range map[string][]string{
		"noscript": {"on", ">pw", "~*", "&*", "+@all", "-eval", "-evalsha"},
		"nokey":    {"on", ">pw", "~other:*", "&*", "+@all"},
		"noget":    {"on", ">pw", "~*", "&*", "+@all", "-get"},
		"noset":    {"on", ">pw", "~*", "&*", "+@all", "-set"},
	} {
		g.Expect(admin.Do(t.Context(), append([]any{"ACL", "SETUSER", user}, anySlice(rules)...)...).Err()).To(Succeed())
		c := dial(t, server.UserURL(user, "pw"))
		tries := 0
		_, err := c.Acquire(t.Context(), key, patient(), WithRetry(3, 0), OnRefusal(func(error) { tries++ }))
		g.Expect(err).To(HaveOccurred())
		g.Expect(Refused(err)).To(BeTrue(), "%s: %v", user, err)
		g.Expect(err).NotTo(MatchError(ErrNotAcquired), user)
		g.Expect(tries).To(Equal(1), "%s: nothing is gained by trying again", user)
	}
	g.Expect(value(t, admin, key)).To(BeEmpty())
}

func anySlice(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}

func TestWithLockReleasesHoweverItsFunctionEnds(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	free := func() { g.Expect(value(t, rdb, key)).To(BeEmpty()) }

	g.Expect(c.WithLock(t.Context(), key, func(_ context.Context, l *Lock) error {
		g.Expect(value(t, rdb, key)).To(Equal(l.Token()))
		return nil
	}, patient())).To(Succeed())
	free()

	broken := errors.New("broken")
	g.Expect(c.WithLock(t.Context(), key, func(context.Context, *Lock) error { return broken }, patient())).To(MatchError(broken))
	free()

	func() {
		defer func() { g.Expect(recover()).To(Equal("help")) }()
		_ = c.WithLock(t.Context(), key, func(context.Context, *Lock) error { panic("help") }, patient())
	}()
	free()

	ctx, cancel := context.WithCancel(t.Context())
	g.Expect(c.WithLock(ctx, key, func(inner context.Context, _ *Lock) error {
		cancel()
		<-inner.Done()
		return inner.Err()
	}, patient())).To(MatchError(context.Canceled))
	free()

	mustAcquire(t, c, key, patient())
	g.Expect(c.WithLock(t.Context(), key, func(context.Context, *Lock) error {
		t.Error("it runs without the lock")
		return nil
	}, patient())).To(MatchError(ErrNotAcquired))
}

func TestWithLockTellsItsFunctionAndItsCallerOfALoss(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	type mark struct{}
	err := c.WithLock(context.WithValue(t.Context(), mark{}, 1), key, func(ctx context.Context, l *Lock) error {
		g.Expect(ctx.Value(mark{})).To(Equal(1))
		g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())
		renewOften(t, l)
		<-ctx.Done()
		g.Expect(context.Cause(ctx)).To(MatchError(ErrLost))
		return nil
	}, patient())
	var lost *LostError
	g.Expect(errors.As(err, &lost)).To(BeTrue(), "%v", err)
}
