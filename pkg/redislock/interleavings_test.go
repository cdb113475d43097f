package redislock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// Each test here is an order of events that broke an earlier design. A proxy
// brings it about, request by request.

func TestInterleaving01StuckReleaseMustNotDeleteTheNextGrant(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())

	first := mustAcquire(t, c, key, patient(), WithRenewEvery(2*time.Second))
	stuck := p.Hold(releaseOf(key))
	g.Expect(first.Release(t.Context())).NotTo(Succeed(), "no answer came")
	<-stuck.Arrived
	rdb := connect(t, server.URL())
	g.Eventually(func() string { return value(t, rdb, key) }).Should(BeEmpty(), "its retry has released")

	second := mustAcquire(t, c, key, patient())
	g.Expect(stuck.Deliver()).To(ContainSubstring("mismatch"))
	g.Expect(value(t, rdb, key)).To(Equal(second.Token()))
	g.Expect(second.Status(t.Context())).To(Equal(Acquired))
	g.Expect(first.Release(t.Context())).To(Succeed(), "releasing twice is one release")
	g.Expect(value(t, rdb, key)).To(Equal(second.Token()))
}

func TestInterleaving02OfManyGoroutinesOneAcquires(t *testing.T) {
	t.Parallel()
	for name, fence := range map[string]LockOption{"fenced": patient(), "unfenced": WithoutFence()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			c := dial(t, startRedis(t).URL())
			const callers = 20
			var wg sync.WaitGroup
			results := make(chan error, callers)
			start := make(chan struct{})
			for range callers {
				wg.Go(func() {
					<-start
					_, err := c.TryAcquire(t.Context(), key, patient(), fence)
					results <- err
				})
			}
			close(start)
			wg.Wait()
			close(results)
			winners := 0
			for err := range results {
				if err == nil {
					winners++
					continue
				}
				g.Expect(err).To(MatchError(ErrNotAcquired))
			}
			g.Expect(winners).To(Equal(1))
		})
	}
}

func TestInterleaving03WhoLostALockWaitsLikeEverybody(t *testing.T) {
	t.Parallel()
	g := within(t)
	clk := &bentClock{}
	c := newClient(t, connect(t, startRedis(t).URL()), WithIdentity("host-1"), withClock(clk))

	lost := mustAcquire(t, c, key, lapsing(5*time.Minute), WithLockDelay(5*time.Minute))
	clk.pass(5 * time.Minute)
	<-lost.Context().Done()
	g.Expect(context.Cause(lost.Context())).To(MatchError(ErrLost))

	_, err := c.Acquire(t.Context(), key, patient(), WithRetry(3, time.Millisecond))
	var held *HeldError
	g.Expect(errors.As(err, &held)).To(BeTrue(), "%v", err)
	g.Expect(held.Value).To(Equal(lost.Token()))
	g.Expect(held.Holder).To(Equal("host-1"))
	g.Expect(held.TTL).To(BeNumerically(">", time.Minute))
}

func TestInterleaving04AnAcquireThatArrivesAfterItsCleanUpIsVoid(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	acquaint(t, c)
	// The last reply took a second, so the server's time is known no better.
	told := connect(t, server.URL()).Time(t.Context()).Val()
	now := c.clock.now()
	asked := instant{now.t.Add(-time.Second), now.wall - time.Second, now.boot - time.Second}
	c.server.learn(asked, now, told.UnixMicro())
	stuck := p.Hold(acquireOf(key))
	abandonAcquire(t, g, c, stuck, WithLease(4*time.Second), WithoutRenewal())

	g.Eventually(func() int { return p.Count(releaseOf(key)) }).Should(Equal(2), "at once, and when the request is void")
	g.Expect(stuck.Deliver()).To(ContainSubstring("late"))
	g.Expect(value(t, connect(t, server.URL()), key)).To(BeEmpty())
}

func TestInterleaving04AnAcquireThatArrivesBetweenItsCleanUpsIsGivenBack(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL(), deaf))
	acquaint(t, c)
	stuck := p.Hold(acquireOf(key))
	// The expiry is out of reach: only the clean-up can free the key.
	abandonAcquire(t, g, c, stuck, WithLease(12*time.Second), WithoutRenewal(), WithLockDelay(10*time.Minute))

	g.Eventually(func() int { return p.Count(releaseOf(key)) }).Should(Equal(1))
	g.Expect(stuck.Deliver()).To(MatchRegexp(`^:\d{16}`), "granted")
	rdb := connect(t, server.URL())
	g.Eventually(func() string { return value(t, rdb, key) }).Should(BeEmpty())
}

func TestInterleaving04AnUnfencedAcquireThatArrivesLateCostsOneLease(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL(), deaf))
	stuck := p.Hold(proxy.All(proxy.Command("SET"), proxy.With(key)))
	const lease = 4 * time.Second
	abandonAcquire(t, g, c, stuck, WithoutFence(), WithLease(lease), WithoutRenewal())

	g.Eventually(func() int { return p.Count(releaseOf(key)) }).Should(Equal(2))
	g.Expect(stuck.Deliver()).To(Equal("+OK\r\n"))
	rdb := connect(t, server.URL())
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically("<=", lease))
	g.Eventually(func() string { return value(t, rdb, key) }).Should(BeEmpty())
}

// acquaint has the server know the scripts and the client the server's time.
func acquaint(t *testing.T, c *Client) {
	t.Helper()
	if err := mustAcquire(t, c, "lock:other", patient()).Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// abandonAcquire gives up on an acquire while its request is stuck.
func abandonAcquire(t *testing.T, g *WithT, c *Client, stuck *proxy.Held, opts ...LockOption) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-stuck.Arrived
		cancel()
	}()
	_, err := c.TryAcquire(ctx, key, opts...)
	g.Expect(err).To(MatchError(context.Canceled))
}

func TestInterleaving05LateAdoptOfADeadProcessMustNotOustItsSuccessor(t *testing.T) {
	t.Parallel()
	for name, catch := range map[string]func(*proxy.Proxy, proxy.Match) (arrived <-chan struct{}, deliver func() (string, error)){
		"repeated": func(p *proxy.Proxy, m proxy.Match) (<-chan struct{}, func() (string, error)) {
			copied := p.Duplicate(m)
			return copied.Arrived, copied.Deliver
		},
		"stuck": func(p *proxy.Proxy, m proxy.Match) (<-chan struct{}, func() (string, error)) {
			held := p.Hold(m)
			return held.Arrived, held.Deliver
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			p := proxy.Start(t, server.URL())
			original := mustAcquire(t, dial(t, server.URL()), key, patient())
			// With the script known the request that is caught is the only one.
			g.Expect(rdb.ScriptLoad(t.Context(), adoptSource).Err()).To(Succeed())

			// The second process adopts, or thinks so, and dies.
			arrived, deliver := catch(p, proxy.Script(key, original.Token()))
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-arrived
				cancel()
			}()
			_, _ = dial(t, p.URL()).Adopt(ctx, key, original.Token(), patient(), WithRetry(1, 0))
			<-arrived

			third, err := dial(t, server.URL()).Adopt(t.Context(), key, value(t, rdb, key), patient())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(third.Fence()).To(Equal(original.Fence()), "it is the same grant")
			g.Expect(deliver()).To(ContainSubstring("mismatch"))
			g.Expect(value(t, rdb, key)).To(Equal(third.Token()))
		})
	}
}

func TestInterleaving06ForceReleaseByAFenceThatOnlyEqualsTheCounter(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	l := mustAcquire(t, c, key, patient())
	g.Expect(l.Release(t.Context())).To(Succeed())

	for _, foreign := range []string{
		"5e1f7a36-0000-4000-8000-000000000000",
		fmt.Sprint(l.Fence()),
		fmt.Sprintf("somebody#%d", l.Fence()),
	} {
		g.Expect(rdb.Set(t.Context(), key, foreign, time.Minute).Err()).To(Succeed())
		for _, opts := range [][]ForceOption{nil, {Immediately()}} {
			_, err := c.ForceRelease(t.Context(), key, l.Fence(), opts...)
			var mismatch *MismatchError
			g.Expect(errors.As(err, &mismatch)).To(BeTrue(), "%v", err)
			g.Expect(mismatch.Found).To(Equal(foreign))
			g.Expect(value(t, rdb, key)).To(Equal(foreign))
		}
	}
}

func TestInterleaving07ReleaseAfterALossLeavesTheSafetyMargin(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, p.URL()), withClock(clk))
	l := mustAcquire(t, c, key, lapsing(5*time.Minute), WithLockDelay(5*time.Minute))
	clk.pass(5 * time.Minute)
	<-l.Context().Done()

	var lost *LostError
	err := l.Release(t.Context())
	g.Expect(errors.As(err, &lost)).To(BeTrue(), "%v", err)
	g.Expect(p.Count(releaseOf(key))).To(BeZero(), "nothing is sent")
	rdb := connect(t, server.URL())
	g.Expect(value(t, rdb, key)).To(Equal(l.Token()))
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", 2*time.Minute))
}

func TestInterleaving08ALateRenewalMustNotShortenTheExpiry(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	rdb := connect(t, server.URL())
	c := dial(t, p.URL())

	l := renewOften(t, mustAcquire(t, c, key, patient()))
	stuck := p.Hold(renewalOf(l))
	<-stuck.Arrived
	g.Expect(l.Extend(t.Context(), 95*time.Minute)).To(Succeed())
	g.Expect(stuck.Deliver()).To(Equal(":2\r\n"), "ok")
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", 90*time.Minute))
	g.Expect(time.Until(l.ValidUntil())).To(BeNumerically(">", 90*time.Minute))
}

func TestInterleaving14ReleaseSucceedsWhereAnACLDeniesTheChannel(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := redisserver.Start(t, redisserver.Options{
		UnixSocket: true,
		Password:   "secret",
		ACL:        []string{"user app on >app ~* +@all resetchannels"},
	})
	rdb := connect(t, server.URL())
	c := dial(t, server.UserURL("app", "app"))
	g.Expect(connect(t, server.UserURL("app", "app")).Publish(t.Context(), wakeChannel(key), "").Err()).To(HaveOccurred(), "the ACL is in force")

	l := mustAcquire(t, c, key, patient())
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Expect(value(t, rdb, key)).To(BeEmpty())

	l = mustAcquire(t, c, key, patient(), WithMinHold(time.Minute))
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Expect(value(t, rdb, key)).To(Equal(tombstone + l.Token()))
	g.Expect(c.ForceReleaseValue(t.Context(), key, tombstone+l.Token(), Immediately())).To(BeTrue())

	// Who may not subscribe waits all the same.
	l = mustAcquire(t, c, key, patient())
	waited := make(chan error, 1)
	refused := make(chan struct{}, 100)
	go func() {
		_, err := c.Acquire(t.Context(), key, patient(), WithWait(), OnRefusal(func(error) { refused <- struct{}{} }))
		waited <- err
	}()
	<-refused
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Eventually(waited).Should(Receive(BeNil()))
}

func TestInterleaving15WithoutMemoryHeldLocksGoOn(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t, "--maxmemory-policy", "noeviction")
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	kept := renewOften(t, mustAcquire(t, c, key, patient()))
	short := mustAcquire(t, c, "lock:short", patient(), WithMinHold(2*time.Second))

	g.Expect(rdb.ConfigSet(t.Context(), "maxmemory", "1").Err()).To(Succeed())
	for name, opts := range map[string][]LockOption{"fenced": nil, "unfenced": {WithoutFence()}} {
		_, err := c.Acquire(t.Context(), "lock:"+name, append(opts, patient(), WithRetry(2, 0))...)
		g.Expect(redis.IsOOMError(err)).To(BeTrue(), "%s: says why: %v", name, err)
		g.Expect(err).NotTo(MatchError(ErrNotAcquired))
		g.Expect(value(t, rdb, "lock:"+name)).To(BeEmpty())
		g.Expect(value(t, rdb, fenceKey("lock:"+name))).To(BeEmpty())
	}
	renewals := p.Count(renewalOf(kept))
	g.Eventually(func() int { return p.Count(renewalOf(kept)) }).Should(BeNumerically(">", renewals+2))
	g.Expect(kept.Err()).NotTo(HaveOccurred())
	g.Expect(kept.Extend(t.Context(), 10*time.Minute)).To(Succeed())
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", 9*time.Minute))

	g.Expect(kept.Release(t.Context())).To(Succeed())
	g.Expect(value(t, rdb, key)).To(BeEmpty())
	// There is no memory for a tombstone: the token stands there for its time.
	g.Expect(short.Release(t.Context())).To(Succeed())
	g.Expect(rdb.PTTL(t.Context(), "lock:short").Val()).To(BeNumerically("<=", 2*time.Second))
	g.Eventually(func() string { return value(t, rdb, "lock:short") }).Should(BeEmpty())
}

func TestInterleaving16WhileASlotMigratesHoldersGoOnAndAnAcquireWaits(t *testing.T) {
	t.Parallel()
	g := within(t)
	ctx := t.Context()
	m := startMigration(t, key)
	c := newClient(t, m.cluster)
	l := renewOften(t, mustAcquire(t, c, key, patient()))

	m.begin()
	g.Expect(l.Extend(ctx, 6*time.Minute)).To(Succeed(), "while the lock is still here")
	m.move(key)
	g.Expect(l.Extend(ctx, 7*time.Minute)).To(Succeed(), "when it has moved, and its counter has not")
	g.Expect(l.Release(ctx)).To(Succeed())

	// The lock would stand there and its counter stands here.
	again := make(chan *Lock)
	go func() {
		next, err := c.TryAcquire(ctx, key, patient())
		if err != nil {
			t.Error(err)
		}
		again <- next
	}()
	g.Eventually(m.refusals).Should(BeNumerically(">", 10), "more than go-redis itself bears")
	m.move(fenceKey(key))
	m.end()
	next := <-again
	g.Expect(next).NotTo(BeNil())
	g.Expect(next.Fence()).To(BeNumerically(">", l.Fence()))
}

func TestInterleaving17BracesThatBreakTheSlotAreRefused(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startReachableRedis(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "60000")
	rdb := connect(t, server.URL())
	g.Expect(rdb.ClusterAddSlotsRange(t.Context(), 0, 16383).Err()).To(Succeed())
	g.Eventually(func() string { return rdb.ClusterInfo(t.Context()).Val() }).Should(ContainSubstring("cluster_state:ok"))
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr()}})
	t.Cleanup(func() { _ = cluster.Close() })
	c := newClient(t, cluster)

	for _, bad := range []string{"a{}b", "{}x", "foo}bar", "foo{bar", "a{x}{y}", "}{", "{{x}}", "{x}:fence"} {
		_, err := c.TryAcquire(t.Context(), bad)
		g.Expect(err).To(MatchError(ErrInvalid), bad)
	}
	// Redis itself says that each lock and its companions share a slot.
	locks := map[string]*Lock{}
	for _, good := range []string{"a{x}", "b{x}", "{x}", "{x}a", "plain", "lock:ns:name"} {
		locks[good] = mustAcquire(t, c, good, patient(), WithHistory(3))
		for _, companion := range []string{fenceKey(good), historyKey(good), metadataKey(good), runsKey(good), candidatesKey(good)} {
			g.Expect(rdb.ClusterKeySlot(t.Context(), companion).Val()).To(Equal(rdb.ClusterKeySlot(t.Context(), good).Val()))
			g.Expect(slotOf(companion)).To(BeEquivalentTo(rdb.ClusterKeySlot(t.Context(), good).Val()))
		}
	}
	for name, l := range locks {
		info, err := c.Inspect(t.Context(), name)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.HighestFence).To(Equal(l.Fence()), "%s shares its counter with no other", name)
		g.Expect(info.History).To(HaveLen(1))
		g.Expect(mustClaim(t, l, ClaimRequest{Run: Run{ID: "same"}, Claimant: name}).Kind).To(Equal(ClaimNew), "nor its runs")
		g.Expect(c.Announce(t.Context(), name, "a", time.Minute)).To(HaveLen(1))
		g.Expect(l.Release(t.Context())).To(Succeed())
	}
}

func TestInterleaving19AStuckNodeDelaysNeitherItsCallerNorOtherNodes(t *testing.T) {
	t.Parallel()
	g := within(t)
	stuck, healthy := startRedis(t), startRedis(t)
	p := proxy.Start(t, healthy.URL())
	// go-redis' defaults, but for a read that would outlast the test: only we can
	// make the call return.
	blind := newClient(t, connect(t, stuck.URL(), func(o *redis.Options) {
		o.ReadTimeout = 10 * time.Minute
		o.ContextTimeoutEnabled = false
	}))
	held := mustAcquire(t, blind, "lock:held", patient())
	other := renewOften(t, mustAcquire(t, dial(t, p.URL()), key, patient()))
	g.Expect(stuck.Pause()).To(Succeed())

	calls := map[string]func(context.Context) error{
		"try": func(ctx context.Context) error { _, err := blind.TryAcquire(ctx, key, patient()); return err },
		"plain": func(ctx context.Context) error {
			_, err := blind.TryAcquire(ctx, key, patient(), WithoutFence())
			return err
		},
		"wait": func(ctx context.Context) error { _, err := blind.Acquire(ctx, key, patient(), WithWait()); return err },
		"adopt": func(ctx context.Context) error {
			_, err := blind.Adopt(ctx, "lock:held", held.Token(), patient())
			return err
		},
		"inspect": func(ctx context.Context) error { _, err := blind.Inspect(ctx, key); return err },
		"extend":  func(ctx context.Context) error { return held.Extend(ctx, time.Hour) },
		"status":  func(ctx context.Context) error { _, err := held.Status(ctx); return err },
		"force":   func(ctx context.Context) error { _, err := blind.ForceRelease(ctx, key, 1); return err },
		"claim": func(ctx context.Context) error {
			_, err := held.Claim(ctx, ClaimRequest{Run: Run{ID: "m"}, Claimant: "c"})
			return err
		},
		"cover": func(ctx context.Context) error { return held.Cover(ctx, time.Hour) },
		"finish": func(ctx context.Context) error {
			_, err := blind.FinishRun(ctx, key, Run{ID: "m"}, 1, "", true)
			return err
		},
		"reopen":   func(ctx context.Context) error { _, err := blind.ReopenRun(ctx, key, Run{ID: "m"}, 1); return err },
		"runs":     func(ctx context.Context) error { _, err := blind.Runs(ctx, key); return err },
		"announce": func(ctx context.Context) error { _, err := blind.Announce(ctx, key, "a", time.Minute); return err },
		"withdraw": func(ctx context.Context) error { return blind.Withdraw(ctx, key, "a") },
	}
	renewals := p.Count(renewalOf(other))
	var wg sync.WaitGroup
	for name, call := range calls {
		wg.Go(func() {
			started := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(started); took < time.Second || took > 20*time.Second {
				t.Errorf("%s: returned after %s", name, took)
			}
		})
	}
	wg.Wait()
	g.Eventually(func() int { return p.Count(renewalOf(other)) }).Should(BeNumerically(">", renewals+1))
	g.Expect(other.Err()).NotTo(HaveOccurred())
}

func TestInterleaving20AKeyWithoutExpiryNeitherSpinsNorStarvesItsWaiters(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	g.Expect(rdb.Set(t.Context(), key, "somebody's", 0).Err()).To(Succeed())

	acquired := make(chan error, 1)
	go func() {
		_, err := c.Acquire(t.Context(), key, patient(), WithWait())
		acquired <- err
	}()
	g.Eventually(func() int { return p.Count(acquireOf(key)) }).Should(BeNumerically(">=", 2), "it tries")
	tries := p.Count(acquireOf(key))
	g.Consistently(func() int { return p.Count(acquireOf(key)) }, "2s").Should(BeNumerically("<=", tries+4), "but does not spin")
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeEquivalentTo(-1), "nor touches what is not its own")
	g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())
	g.Eventually(acquired).Should(Receive(BeNil()))
}

func TestInterleaving21AWokenWaiterThatGivesUpWakesTheNext(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	holder := mustAcquire(t, dial(t, server.URL()), key, patient())
	c := dial(t, p.URL())

	ctx, giveUp := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := c.Acquire(ctx, key, patient(), WithWait())
		first <- err
	}()
	g.Eventually(func() int { return c.wakes.waiting(key) }).Should(Equal(1))
	g.Eventually(func() bool { return c.wakes.listening(key) }).Should(BeTrue())
	go func() {
		_, err := c.Acquire(t.Context(), key, patient(), WithWait())
		second <- err
	}()
	g.Eventually(func() int { return c.wakes.waiting(key) }).Should(Equal(2))

	// The first is woken; while it asks, its caller has enough.
	woken := p.Hold(acquireOf(key))
	g.Expect(holder.Release(t.Context())).To(Succeed())
	<-woken.Arrived
	g.Consistently(second, "100ms").ShouldNot(Receive(), "one waiter is woken, not all")
	giveUp()
	g.Expect(<-first).To(MatchError(context.Canceled))
	g.Eventually(second, longestWait/2).Should(Receive(BeNil()), "long before its timer")
}

func (h *wakes) waiting(key string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if q := h.queues[wakeChannel(key)]; q != nil {
		return len(q.waiters) + len(q.placed)
	}
	return 0
}

func (h *wakes) listening(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queues[wakeChannel(key)]
	return q != nil && q.confirmed
}
