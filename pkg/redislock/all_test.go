package redislock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

var threeKeys = []string{keyA, keyB, keyC}

func mustAcquireAll(t testing.TB, c *Client, keys []string, opts ...LockOption) *Locks {
	t.Helper()
	ls, err := c.AcquireAll(t.Context(), keys, opts...)
	if err != nil {
		t.Fatalf("acquire %q: %v", keys, err)
	}
	return ls
}

// acquaintAll has a client know the server's time, and the server the scripts.
func acquaintAll(t *testing.T, c *Client) {
	t.Helper()
	if err := mustAcquireAll(t, c, []string{"a", "b"}, patient()).Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func once() LockOption { return WithRetry(1, 0) }

func acquireAllOf(keys ...string) proxy.Match {
	return proxy.Script(keys[0], historyKey(keys[0]), historyKey(keys[len(keys)-1]))
}

func TestAcquireAllTakesAllInOneRoundTrip(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c, other := dial(t, p.URL()), dial(t, server.URL())
	acquaintAll(t, c)
	p.Forget()
	ls := mustAcquireAll(t, c, threeKeys, patient(), WithHistory(1), WithMetadata("three"))
	g.Expect(p.Requests()).To(HaveLen(1))
	g.Expect(ls.Keys()).To(Equal(threeKeys))
	g.Expect(ls.IsHeld()).To(BeTrue())
	g.Expect(ls.Err()).NotTo(HaveOccurred())
	g.Expect(ls.ValidUntil()).To(BeTemporally("~", time.Now().Add(5*time.Minute), time.Minute))
	fences := map[uint64]bool{}
	for _, k := range threeKeys {
		g.Expect(value(t, rdb, k)).To(And(Equal(ls.Token(k)), HaveSuffix(fmt.Sprint("#", ls.Fence(k)))))
		g.Expect(ls.Fence(k)).NotTo(BeZero())
		fences[ls.Fence(k)] = true
		held := tryInVain(t, other, k)
		g.Expect(held.Fence).To(Equal(ls.Fence(k)))
		g.Expect(held.Metadata).To(Equal("three"))
		info, err := other.Inspect(t.Context(), k)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.History).To(HaveLen(1))
	}
	g.Expect(ls.Fence("lock:{t}:d")).To(BeZero())
	g.Expect(ls.Token("lock:{t}:d")).To(BeEmpty())

	p.Forget()
	g.Expect(ls.Release(t.Context())).To(Succeed())
	g.Expect(p.Requests()).To(HaveLen(1))
	g.Expect(rdb.Exists(t.Context(), threeKeys...).Val()).To(BeZero())
	g.Expect(ls.parts[0].renewer.ends.entries).To(BeEmpty(), "none is renewed any more")
	g.Expect(ls.IsHeld()).To(BeFalse())
	g.Expect(ls.ValidUntil()).To(BeTemporally("<=", time.Now()))
	g.Expect(context.Cause(ls.Context())).To(MatchError(ErrReleased))
	g.Expect(ls.Release(t.Context())).To(Succeed())
	g.Expect(p.Requests()).To(HaveLen(1))
	next := mustAcquire(t, other, keyB, patient())
	g.Expect(next.Fence()).To(BeNumerically(">", ls.Fence(keyB)))
}

func TestAcquireAllExcludesAndIsExcluded(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c, other := dial(t, server.URL()), dial(t, server.URL())
	for _, k := range threeKeys {
		l := mustAcquire(t, other, k, patient(), WithMetadata("one"))
		_, err := c.AcquireAll(t.Context(), threeKeys, patient(), once())
		var held *HeldError
		g.Expect(errors.As(err, &held)).To(BeTrue(), "%v", err)
		g.Expect(held.Key).To(Equal(k))
		g.Expect(held.Fence).To(Equal(l.Fence()))
		g.Expect(held.Metadata).To(Equal("one"))
		g.Expect(rdb.Exists(t.Context(), threeKeys...).Val()).To(BeEquivalentTo(1), "none of the others")
		g.Expect(l.Release(t.Context())).To(Succeed())
	}
	mustAcquireAll(t, c, []string{keyA, keyB}, patient())
	for _, keys := range [][]string{{keyB, keyC}, {keyC, keyA}, {keyB}} {
		_, err := other.AcquireAll(t.Context(), keys, patient(), once())
		g.Expect(err).To(MatchError(ErrNotAcquired))
	}
	g.Expect(value(t, rdb, keyC)).To(BeEmpty())
}

// Three dine at one table, each with two of the three forks: with locks that are
// taken one after the other they would sit there for good.
func TestAcquireAllNeverDeadlocks(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	clients := []*Client{dial(t, server.URL()), dial(t, server.URL())}
	forks := map[string]*atomic.Int32{keyA: {}, keyB: {}, keyC: {}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 12 {
		keys := []string{threeKeys[i%3], threeKeys[(i+1)%3]}
		wg.Go(func() {
			for range 5 {
				ls, err := clients[i%2].AcquireAll(ctx, keys, patient(), WithWait())
				if err != nil {
					t.Error(err)
					return
				}
				for _, k := range keys {
					if forks[k].Add(1) != 1 {
						t.Errorf("two hold %q", k)
					}
				}
				for _, k := range keys {
					forks[k].Add(-1)
				}
				if err := ls.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, c := range clients {
		for _, k := range threeKeys {
			g.Expect(c.wakes.waiting(k)).To(BeZero())
		}
	}
}

func TestWaitingForAllIsWokenByWhicheverIsInTheWay(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	holder, c := dial(t, server.URL()), dial(t, server.URL())
	a, b := mustAcquire(t, holder, keyA, patient()), mustAcquire(t, holder, keyB, patient())
	done := make(chan *Locks, 1)
	go func() {
		ls, err := c.AcquireAll(t.Context(), threeKeys, patient(), WithWait())
		if err != nil {
			t.Error(err)
		}
		done <- ls
	}()
	for i, l := range []*Lock{a, b} {
		g.Eventually(func() bool { return c.wakes.listening(l.Key()) }).Should(BeTrue())
		if i == 1 {
			g.Expect(c.wakes.waiting(keyA)).To(BeZero(), "that is not in the way any more")
		}
		g.Expect(done).NotTo(Receive())
		g.Expect(l.Release(t.Context())).To(Succeed())
	}
	var ls *Locks
	g.Eventually(done, soon).Should(Receive(&ls))
	// And a release of all wakes who waits for one.
	one := make(chan error, 1)
	go func() {
		_, err := c.Acquire(t.Context(), keyC, patient(), WithWait())
		one <- err
	}()
	g.Eventually(func() bool { return c.wakes.listening(keyC) }).Should(BeTrue())
	g.Expect(ls.Release(t.Context())).To(Succeed())
	g.Eventually(one, soon).Should(Receive(BeNil()))
}

// Who waits for several and is woken by one of them, but finds another in the way,
// must leave that one to whoever waits for it alone.
func TestAWaiterForAllPassesAWakeUpOn(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	holder, c := dial(t, server.URL()), dial(t, server.URL())
	a := mustAcquire(t, holder, keyA, patient())
	ctx, cancel := context.WithCancel(t.Context())
	all := make(chan error, 1)
	go func() {
		_, err := c.AcquireAll(ctx, []string{keyA, keyB}, patient(), WithWait())
		all <- err
	}()
	g.Eventually(func() bool { return c.wakes.listening(keyA) }).Should(BeTrue())
	mustAcquire(t, holder, keyB, patient())
	one := make(chan error, 1)
	go func() {
		_, err := c.Acquire(t.Context(), keyA, patient(), WithWait())
		one <- err
	}()
	g.Eventually(func() int { return c.wakes.waiting(keyA) }).Should(Equal(2))
	g.Expect(a.Release(t.Context())).To(Succeed())
	g.Eventually(one, soon).Should(Receive(BeNil()))
	cancel()
	g.Eventually(all).Should(Receive(MatchError(context.Canceled)))
}

func TestTheLossOfOneIsTheLossOfAll(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*WithT, *bentClock, *redis.Client, *Locks) string{
		"at a renewal": func(g *WithT, _ *bentClock, rdb *redis.Client, ls *Locks) string {
			g.Expect(rdb.Set(context.Background(), keyB, "theirs", time.Hour).Err()).To(Succeed())
			ls.parts[1].renewNow()
			return keyB
		},
		"at an extension": func(g *WithT, _ *bentClock, rdb *redis.Client, ls *Locks) string {
			g.Expect(rdb.Del(context.Background(), keyC).Err()).To(Succeed())
			g.Expect(ls.Extend(context.Background(), time.Hour)).To(MatchError(ErrLost))
			return keyC
		},
		"at the end of a lease": func(_ *WithT, clk *bentClock, _ *redis.Client, ls *Locks) string {
			clk.pass(time.Hour)
			return keyA
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			p := proxy.Start(t, server.URL())
			clk := &bentClock{}
			c := newClient(t, connect(t, p.URL()), withClock(clk))
			ls := mustAcquireAll(t, c, threeKeys, patient())
			lost := lose(g, clk, rdb, ls)
			g.Eventually(ls.Context().Done()).Should(BeClosed())
			var why *LostError
			g.Expect(errors.As(context.Cause(ls.Context()), &why)).To(BeTrue())
			if name != "at the end of a lease" { // where any may be the first
				g.Expect(why.Key).To(Equal(lost))
			}
			g.Expect(ls.Err()).To(Equal(context.Cause(ls.Context())))
			g.Expect(ls.IsHeld()).To(BeFalse())
			for _, l := range ls.parts {
				g.Eventually(func() int {
					l.renewer.mu.Lock()
					defer l.renewer.mu.Unlock()
					return l.renewer.ends.Len()
				}).Should(BeZero(), "none is renewed any more")
			}
			p.Forget()
			g.Expect(ls.Release(t.Context())).To(Equal(ls.Err()))
			g.Expect(ls.Extend(t.Context(), time.Hour)).To(Equal(ls.Err()))
			g.Expect(p.Requests()).To(BeEmpty(), "what is left of the others' expiry is a safety margin")
			g.Expect(value(t, rdb, keyA)).To(Equal(ls.Token(keyA)))
		})
	}
}

// The clock alone says so, before anything else has looked at it.
func TestAllEndByTheClock(t *testing.T) {
	t.Parallel()
	for name, over := range map[string]func(*WithT, *Locks){
		"IsHeld": func(g *WithT, ls *Locks) { g.Expect(ls.IsHeld()).To(BeFalse()) },
		"Err":    func(g *WithT, ls *Locks) { g.Expect(ls.Err()).To(MatchError(ErrLost)) },
		"Extend": func(g *WithT, ls *Locks) {
			g.Expect(ls.Extend(context.Background(), time.Hour)).To(MatchError(ErrLost))
		},
		"Release": func(g *WithT, ls *Locks) { g.Expect(ls.Release(context.Background())).To(MatchError(ErrLost)) },
		"ValidUntil": func(g *WithT, ls *Locks) {
			g.Expect(ls.ValidUntil()).To(BeTemporally("~", ls.client.clock.now().t, time.Minute))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			clk := &bentClock{}
			ls := mustAcquireAll(t, newClient(t, connect(t, server.URL()), withClock(clk)), threeKeys, lapsing(time.Hour))
			clk.pass(time.Hour)
			over(g, ls)
			g.Expect(context.Cause(ls.Context())).To(MatchError(ErrLost))
			g.Expect(rdb.Exists(t.Context(), threeKeys...).Val()).To(BeEquivalentTo(3), "nothing is released")
		})
	}
}

func TestAllAreRenewedAndExtended(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, server.URL()), withClock(clk))
	ls := mustAcquireAll(t, c, threeKeys, WithLease(10*time.Minute))
	before := ls.ValidUntil()
	clk.pass(5 * time.Minute)
	g.Eventually(ls.ValidUntil).Should(BeTemporally(">", before.Add(time.Minute)))

	g.Expect(ls.Extend(t.Context(), time.Hour)).To(Succeed())
	for _, k := range threeKeys {
		g.Expect(rdb.PTTL(t.Context(), k).Val()).To(about(time.Hour))
	}
	g.Expect(ls.ValidUntil()).To(BeTemporally(">", before.Add(30*time.Minute)))
	g.Expect(rdb.ScriptFlush(t.Context()).Err()).To(Succeed())
	g.Expect(ls.Extend(t.Context(), 2*time.Hour)).To(Succeed())
	for _, d := range []time.Duration{0, -time.Second, time.Millisecond, math.MaxInt64} {
		g.Expect(ls.Extend(t.Context(), d)).To(MatchError(ErrInvalid))
	}
	bounded := mustAcquireAll(t, c, []string{"a", "b"}, patient(), WithMaxHold(time.Hour))
	g.Expect(bounded.Extend(t.Context(), 2*time.Hour)).To(MatchError(ErrInvalid))
}

func TestReleasingAllSaysWhichIsAnothers(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	ls := mustAcquireAll(t, c, threeKeys, patient())
	g.Expect(rdb.Set(t.Context(), keyB, "theirs", time.Hour).Err()).To(Succeed())
	err := ls.Release(t.Context())
	var lost *LostError
	g.Expect(errors.As(err, &lost)).To(BeTrue(), "%v", err)
	g.Expect(lost.Key).To(Equal(keyB))
	g.Expect(lost.Token).To(Equal(ls.Token(keyB)))
	g.Expect(lost.Found).To(Equal("theirs"))
	g.Expect(rdb.Exists(t.Context(), keyA, keyC).Val()).To(BeZero())
	g.Expect(value(t, rdb, keyB)).To(Equal("theirs"))
}

func TestReleaseOfAllGoesOnInTheBackgroundAndOutlivesItsContext(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL(), singleShot))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ls := mustAcquireAll(t, c, threeKeys, patient())
	g.Expect(ls.Release(ctx)).To(Succeed())
	g.Expect(rdb.Exists(t.Context(), threeKeys...).Val()).To(BeZero())

	ls = mustAcquireAll(t, c, threeKeys, patient())
	p.Refuse()
	p.Cut()
	g.Expect(ls.Release(t.Context())).To(HaveOccurred())
	g.Expect(rdb.Exists(t.Context(), threeKeys...).Val()).To(BeEquivalentTo(3))
	g.Expect(p.Accept()).To(Succeed())
	g.Eventually(func() int64 { return rdb.Exists(t.Context(), threeKeys...).Val() }).Should(BeZero())

	ls = mustAcquireAll(t, c, threeKeys, patient(), WithMinHold(time.Hour))
	g.Expect(ls.Release(t.Context())).To(Succeed())
	for _, k := range threeKeys {
		g.Expect(value(t, rdb, k)).To(Equal(tombstone + ls.Token(k)))
	}
}

func TestAReplyToAcquireAllThatIsDroppedIsNotARefusal(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL(), impatient, singleShot))
	acquaintAll(t, c)
	dropped := p.DropReply(acquireAllOf(threeKeys...))
	ls := mustAcquireAll(t, c, threeKeys, patient(), WithRetry(100, 10*time.Millisecond))
	<-dropped.Done
	for _, k := range threeKeys {
		g.Expect(value(t, rdb, k)).To(Equal(ls.Token(k)))
		g.Expect(dropped.Reply()).To(ContainSubstring(fmt.Sprint(":", ls.Fence(k))), "granted once")
	}
	g.Expect(ls.Release(t.Context())).To(Succeed())
	g.Expect(rdb.Exists(t.Context(), threeKeys...).Val()).To(BeZero())
}

func TestAnAcquireAllThatIsCancelledAfterItWasGrantedLeavesNoOrphans(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	acquaintAll(t, c)
	unheard := p.HoldReply(acquireAllOf(threeKeys...))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-unheard.Arrived
		if rdb.Exists(context.Background(), threeKeys...).Val() != 3 {
			t.Error("they were not granted")
		}
		cancel()
	}()
	_, err := c.AcquireAll(ctx, threeKeys, patient())
	g.Expect(err).To(MatchError(context.Canceled))
	g.Eventually(func() int64 { return rdb.Exists(t.Context(), threeKeys...).Val() }).Should(BeZero())
}

func TestAnAnswerToAcquireAllThatComesTooLateLeavesNoOrphans(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, p.URL()), withClock(clk))
	acquaintAll(t, c)
	slow, again := p.HoldReply(acquireAllOf(threeKeys...)), p.HoldReply(acquireAllOf(threeKeys...))
	done := make(chan error, 1)
	go func() {
		_, err := c.AcquireAll(t.Context(), threeKeys, patient(), once(), WithLockDelay(time.Hour))
		done <- err
	}()
	for _, held := range []*proxy.Held{slow, again} { // one that is late is asked once more
		<-held.Arrived
		g.Expect(rdb.Exists(t.Context(), threeKeys...).Val()).To(BeEquivalentTo(3))
		clk.pass(10 * time.Minute)
		_, err := held.Deliver()
		g.Expect(err).NotTo(HaveOccurred())
	}
	g.Eventually(done).Should(Receive(HaveOccurred()))
	g.Eventually(func() int64 { return rdb.Exists(t.Context(), threeKeys...).Val() }).Should(BeZero())
}

// A request that is delivered once more, after one of its locks was taken away,
// takes nothing back.
func TestALateDuplicateOfAcquireAllChangesNothing(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	acquaintAll(t, c)
	late := p.Duplicate(acquireAllOf(threeKeys...))
	ls := mustAcquireAll(t, c, threeKeys, patient())
	g.Expect(c.ForceRelease(t.Context(), keyB, ls.Fence(keyB), Immediately())).To(BeTrue())
	g.Expect(late.Deliver()).To(ContainSubstring("held"))
	g.Expect(value(t, rdb, keyB)).To(BeEmpty())
}

func TestWhatRedisForgotOfSeveralLocksIsWaitedOutAtOnce(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, server.URL()), withClock(clk))
	ls := mustAcquireAll(t, c, threeKeys, patient())
	g.Expect(rdb.FlushAll(t.Context()).Err()).To(Succeed())

	var quarantine *QuarantineError
	_, err := c.AcquireAll(t.Context(), threeKeys, patient(), once())
	g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
	g.Expect(quarantine.Key).To(Equal(keyA))
	g.Expect(quarantine.Seen).To(Equal(ls.Fence(keyA)))
	g.Expect(quarantine.Remaining).To(Equal(5 * time.Minute))
	clk.pass(4 * time.Minute)
	for _, k := range threeKeys {
		_, err := c.TryAcquire(t.Context(), k, patient())
		g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
		g.Expect(quarantine.Seen).To(Equal(ls.Fence(k)))
		g.Expect(quarantine.Remaining).To(BeNumerically("<=", time.Minute), "it began for all at once")
	}
	// The quarantine of one keeps all.
	_, err = c.AcquireAll(t.Context(), []string{"lock:{t}:z", keyC}, patient(), once())
	g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
	g.Expect(quarantine.Key).To(Equal(keyC))
	g.Expect(quarantine.Remaining).To(BeNumerically("<=", time.Minute))
	g.Expect(rdb.DBSize(t.Context()).Val()).To(BeZero())

	clk.pass(time.Minute + time.Second)
	next := mustAcquireAll(t, c, threeKeys, patient())
	for _, k := range threeKeys {
		g.Expect(next.Fence(k)).To(BeNumerically(">", ls.Fence(k)))
	}
}

func TestACorruptCompanionOfOneIsNamed(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	g.Expect(rdb.Set(t.Context(), fenceKey(keyB), "garbage", time.Hour).Err()).To(Succeed())
	_, err := c.AcquireAll(t.Context(), threeKeys, patient())
	g.Expect(err).To(MatchError(ErrCorrupt))
	g.Expect(err).To(MatchError(ContainSubstring(fenceKey(keyB))))
}

func TestCloseEndsAllWithoutReleasingThem(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	ls := mustAcquireAll(t, c, threeKeys, patient())
	g.Expect(c.Close(t.Context())).To(Succeed())
	g.Expect(ls.Context().Done()).To(BeClosed())
	g.Expect(ls.Err()).To(MatchError(ErrClosed))
	g.Expect(ls.Release(t.Context())).To(MatchError(ErrClosed))
	g.Expect(rdb.Exists(t.Context(), threeKeys...).Val()).To(BeEquivalentTo(3))
	_, err := c.AcquireAll(t.Context(), threeKeys)
	g.Expect(err).To(MatchError(ErrClosed))
}

func TestBadArgumentsOfAcquireAllAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newClient(t, unreachable(t))
	many := make([]string, MaxKeys+1)
	for i := range many {
		many[i] = fmt.Sprintf("{t}%d", i)
	}
	for name, test := range map[string]struct {
		keys []string
		opts []LockOption
	}{
		"no key":        {nil, nil},
		"too many":      {many, nil},
		"twice":         {[]string{keyA, keyB, keyA}, nil},
		"bad first":     {[]string{"", keyB}, nil},
		"bad last":      {[]string{keyA, "a{}b"}, nil},
		"bad option":    {threeKeys, []LockOption{WithLease(0)}},
		"without fence": {threeKeys, []LockOption{WithoutFence()}},
		"seen":          {threeKeys, []LockOption{WithSeen(7)}},
		"fair":          {threeKeys, []LockOption{WithFair(), WithWait()}},
	} {
		_, err := c.AcquireAll(t.Context(), test.keys, test.opts...)
		g.Expect(err).To(MatchError(ErrInvalid), name)
	}
	server := startRedis(t)
	mustAcquireAll(t, dial(t, server.URL()), many[:MaxKeys], patient())

	cluster := redis.NewClusterClient(&redis.ClusterOptions{ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
		t.Error("something was asked for")
		return nil, errors.New("unreachable")
	}})
	t.Cleanup(func() { _ = cluster.Close() })
	c = newClient(t, cluster)
	for _, keys := range [][]string{{"a", "b"}, {keyA, "lock:{u}:a"}, {"t", keyA, "b"}} {
		_, err := c.AcquireAll(t.Context(), keys)
		g.Expect(err).To(MatchError(ErrInvalid), "%q", keys)
	}
	_, err := c.newJointAttempt([]string{keyA, "t", "{t}"}, nil)
	g.Expect(err).NotTo(HaveOccurred(), "a key that is the tag has its slot")
}

// A cluster-enabled server refuses scripts whose keys are not in one slot, or that
// touch keys which were not declared.
func TestAcquireAllInACluster(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startReachableRedis(t, "--cluster-enabled", "yes")
	node := connect(t, server.URL())
	g.Expect(node.ClusterAddSlotsRange(t.Context(), 0, 16383).Err()).To(Succeed())
	g.Eventually(func() string { return node.ClusterInfo(t.Context()).Val() }).Should(ContainSubstring("cluster_state:ok"))
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr()}})
	t.Cleanup(func() { _ = cluster.Close() })
	c, other := newClient(t, cluster), newClient(t, cluster)

	ls := mustAcquireAll(t, c, threeKeys, patient(), WithHistory(1), WithMetadata("m"))
	g.Expect(tryInVain(t, other, keyC).Metadata).To(Equal("m"))
	g.Expect(ls.Extend(t.Context(), time.Hour)).To(Succeed())
	one := make(chan error, 1)
	go func() {
		_, err := other.Acquire(t.Context(), keyB, patient(), WithWait())
		one <- err
	}()
	g.Eventually(func() bool { return other.wakes.listening(keyB) }).Should(BeTrue())
	g.Expect(ls.Release(t.Context())).To(Succeed())
	g.Eventually(one, soon).Should(Receive(BeNil()))
}
