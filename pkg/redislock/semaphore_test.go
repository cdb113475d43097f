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

func semaphore(t testing.TB, c *Client, permits int, opts ...LockOption) *Semaphore {
	t.Helper()
	s, err := c.Semaphore(key, permits, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// get returns what a call that must succeed acquired.
func get(t testing.TB, acquire func(context.Context, ...LockOption) (*Lock, error), opts ...LockOption) *Lock {
	t.Helper()
	l, err := acquire(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// refusalOf returns the *HeldError that a call must get.
func refusalOf(t testing.TB, acquire func(context.Context, ...LockOption) (*Lock, error), opts ...LockOption) *HeldError {
	t.Helper()
	_, err := acquire(t.Context(), opts...)
	held, ok := errors.AsType[*HeldError](err)
	if !ok || !errors.Is(err, ErrNotAcquired) {
		t.Fatalf("not refused: %v", err)
	}
	return held
}

// turnedAway is refusalOf for who does not ask why.
func turnedAway(t testing.TB, acquire func(context.Context, ...LockOption) (*Lock, error), opts ...LockOption) {
	t.Helper()
	_ = refusalOf(t, acquire, opts...)
}

// waitBy starts a call that waits, and returns when it does.
func waitBy(t *testing.T, g *WithT, ctx context.Context, c *Client, acquire func(context.Context, ...LockOption) (*Lock, error), opts ...LockOption) <-chan error {
	t.Helper()
	before := c.wakes.waiting(key)
	done := make(chan error, 1)
	go func() {
		_, err := acquire(ctx, append(opts, WithWait())...)
		done <- err
	}()
	g.Eventually(func() int { return c.wakes.waiting(key) }).Should(Equal(before + 1))
	g.Eventually(func() bool { return c.wakes.listening(key) }).Should(BeTrue())
	return done
}

// acquaintWithShares is acquaint for the scripts of a semaphore.
func acquaintWithShares(t *testing.T, c *Client) {
	t.Helper()
	s, err := c.Semaphore("lock:other", 1, patient())
	if err != nil {
		t.Fatal(err)
	}
	if err := get(t, s.TryAcquire).Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func shareOf(key string) proxy.Match { return proxy.Script(key, fenceKey(key), placesKey(key)) }

func TestSemaphoreHasSoManyHoldersAndNoMore(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c := dial(t, server.URL(), WithIdentity("site-a"))
	s := semaphore(t, c, 3, patient())
	g.Expect(s.Key()).To(Equal(key))
	g.Expect(s.Permits()).To(Equal(3))
	const callers = 20
	var wg sync.WaitGroup
	results := make(chan *Lock, callers)
	for range callers {
		wg.Go(func() {
			l, err := s.TryAcquire(t.Context())
			if err != nil && !errors.Is(err, ErrNotAcquired) {
				t.Error(err)
			}
			results <- l
		})
	}
	wg.Wait()
	close(results)
	tokens, fences := map[string]bool{}, map[uint64]bool{}
	var held []*Lock
	for l := range results {
		if l != nil {
			held = append(held, l)
			tokens[l.Token()], fences[l.Fence()] = true, true
			g.Expect(l.IsHeld()).To(BeTrue())
			g.Expect(l.Status(t.Context())).To(Equal(Acquired))
		}
	}
	g.Expect(held).To(HaveLen(3))
	g.Expect(tokens).To(HaveLen(3))
	g.Expect(fences).To(HaveLen(3), "each has a fence of its own")

	full := refusalOf(t, s.TryAcquire)
	g.Expect(full.Kind).To(Equal(KindSemaphore))
	g.Expect(full.TTL).To(about(5 * time.Minute))
	g.Expect(full.Error()).To(ContainSubstring("by as many as it has permits"))

	info, err := dial(t, server.URL()).Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Status).To(Equal(Acquired))
	g.Expect(info.Kind).To(Equal(KindSemaphore))
	g.Expect(info.Permits).To(Equal(3))
	g.Expect(info.Holders).To(HaveLen(3))
	for _, h := range info.Holders {
		g.Expect(h.Identity).To(Equal("site-a"))
		g.Expect(h.Nonce).To(Equal(c.Nonce()))
		g.Expect(fences).To(HaveKey(h.Fence))
		g.Expect(h.TTL).To(about(5 * time.Minute))
	}

	g.Expect(held[0].Release(t.Context())).To(Succeed())
	g.Expect(held[0].Release(t.Context())).To(Succeed(), "releasing twice is one release")
	g.Expect(held[0].Status(t.Context())).To(Equal(Free))
	next := get(t, s.TryAcquire)
	g.Expect(fences).NotTo(HaveKey(next.Fence()))
	turnedAway(t, s.TryAcquire)
	for _, l := range []*Lock{held[1], held[2], next} {
		g.Expect(l.Release(t.Context())).To(Succeed())
	}
	info, err = c.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Kind).To(Equal(KindNone))
	g.Expect(info.Status).To(Equal(Free))
}

func TestSemaphoreLimitIsRefusedWhileAnotherIsInUse(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := dial(t, startRedis(t).URL())
	held := get(t, semaphore(t, c, 2, patient()).TryAcquire)
	other := semaphore(t, c, 5, patient(), WithWait())
	_, err := other.Acquire(t.Context())
	limit, ok := errors.AsType[*LimitError](err)
	g.Expect(ok).To(BeTrue(), "%v: nobody waits for another's configuration", err)
	g.Expect(*limit).To(Equal(LimitError{Key: key, Limit: 2, Asked: 5}))
	g.Expect(err).To(And(MatchError(ErrLimit), MatchError(ErrNotAcquired)))
	g.Expect(held.Release(t.Context())).To(Succeed())
	get(t, other.Acquire)
}

func TestSemaphoreExcludesOtherLocksAndIsExcluded(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL(), WithIdentity("site-a"))
	s := semaphore(t, c, 3, patient())
	plain := mustAcquire(t, c, key, patient())
	held := refusalOf(t, s.TryAcquire)
	g.Expect(held.Holder).To(Equal("site-a"))
	g.Expect(held.Kind).To(Equal(KindLock))
	g.Expect(plain.Release(t.Context())).To(Succeed())

	permit := get(t, s.TryAcquire)
	for name, opts := range map[string][]LockOption{"fenced": nil, "unfenced": {WithoutFence()}, "fair": {WithFair()}} {
		_, err := c.TryAcquire(t.Context(), key, append(opts, patient())...)
		g.Expect(err).To(MatchError(ErrNotAcquired), name)
	}
	g.Expect(rdb.SetNX(t.Context(), key, "theirs", time.Minute).Val()).To(BeFalse())
	_, err := c.ForceRelease(t.Context(), key, permit.Fence(), Immediately())
	g.Expect(err).To(MatchError(ErrMismatch))
	_, err = c.Adopt(t.Context(), key, permit.Token())
	g.Expect(err).To(MatchError(ErrMismatch))
	g.Expect(permit.Status(t.Context())).To(Equal(Acquired))
	g.Expect(permit.Release(t.Context())).To(Succeed())
	g.Expect(rdb.SetNX(t.Context(), key, "theirs", time.Minute).Val()).To(BeTrue())
	turnedAway(t, s.TryAcquire)
}

func TestOperationsOfOneHolderAreRefusedToSeveralBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	for name, acquire := range map[string]func(*Client) *Lock{
		"permit": func(c *Client) *Lock { return get(t, semaphore(t, c, 2, patient()).TryAcquire) },
		"reader": func(c *Client) *Lock {
			rw, err := c.RWLock("lock:rw", patient())
			if err != nil {
				t.Fatal(err)
			}
			return get(t, rw.TryRLock)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			p := proxy.Start(t, server.URL())
			l := acquire(dial(t, p.URL()))
			sent := len(p.Requests())
			_, claim := l.Claim(t.Context(), ClaimRequest{Run: Run{ID: "m"}, Claimant: "c"})
			_, detach := l.Detach(t.Context())
			for operation, err := range map[string]error{"claim": claim, "detach": detach, "cover": l.Cover(t.Context(), time.Minute)} {
				refused, ok := errors.AsType[*KindError](err)
				g.Expect(ok).To(BeTrue(), "%s: %v", operation, err)
				g.Expect(refused.Key).To(Equal(l.Key()))
				g.Expect(refused.Kind).To(BeElementOf(KindSemaphore, KindReaders))
				g.Expect(err).To(MatchError(ErrInvalid))
			}
			g.Expect(p.Requests()).To(HaveLen(sent))
			g.Expect(l.IsHeld()).To(BeTrue())
		})
	}
}

func TestPermitsAreRenewedInOnePipelineWithPlainLocks(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	permit := get(t, semaphore(t, c, 2, WithLease(5*time.Minute), WithRenewEvery(2*time.Minute)).TryAcquire)
	plain := mustAcquire(t, c, "lock:plain", WithLease(5*time.Minute), WithRenewEvery(2*time.Minute))
	g.Expect(permit.renewer).To(BeIdenticalTo(plain.renewer))
	renewOften(t, permit)
	renewOften(t, plain)

	// Shortened by hand, so that a renewal shows: first with the scripts forgotten, by
	// their source, then by their hash.
	for _, forget := range []bool{true, false} {
		if forget {
			g.Expect(rdb.ScriptFlush(t.Context()).Err()).To(Succeed())
		}
		soon := float64(time.Now().Add(time.Minute).UnixMilli())
		g.Expect(rdb.ZAddXX(t.Context(), key, redis.Z{Member: permit.Token(), Score: soon}).Err()).To(Succeed())
		g.Expect(rdb.PExpire(t.Context(), "lock:plain", time.Minute).Err()).To(Succeed())
		g.Eventually(func() float64 { return rdb.ZScore(t.Context(), key, permit.Token()).Val() }).Should(BeNumerically(">", soon+60_000))
		g.Eventually(func() time.Duration { return rdb.PTTL(t.Context(), "lock:plain").Val() }).Should(BeNumerically(">", 2*time.Minute))
	}
	g.Expect(permit.Err()).NotTo(HaveOccurred())
	g.Expect(permit.Extend(t.Context(), 20*time.Minute)).To(Succeed())
	g.Expect(time.Until(permit.ValidUntil())).To(BeNumerically(">", 19*time.Minute))
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", 19*time.Minute))
}

func TestAPermitTellsItsLoss(t *testing.T) {
	t.Parallel()
	t.Run("when its token is gone", func(t *testing.T) {
		t.Parallel()
		g := within(t)
		server := startRedis(t)
		rdb := connect(t, server.URL())
		s := semaphore(t, dial(t, server.URL()), 2, patient())
		lost, kept := get(t, s.TryAcquire), get(t, s.TryAcquire)
		g.Expect(rdb.ZRem(t.Context(), key, lost.Token()).Val()).To(BeEquivalentTo(1))
		lost.renewNow()
		kept.renewNow()
		<-lost.Context().Done()
		g.Expect(context.Cause(lost.Context())).To(MatchError(ErrLost))
		g.Expect(lost.Release(t.Context())).To(MatchError(ErrLost))
		g.Expect(kept.Extend(t.Context(), time.Minute)).To(Succeed())
		g.Expect(kept.Err()).NotTo(HaveOccurred())
	})
	t.Run("when its lease is over", func(t *testing.T) {
		t.Parallel()
		g := within(t)
		server := startRedis(t)
		clk := &bentClock{}
		c := newClient(t, connect(t, server.URL()), withClock(clk))
		lost := get(t, semaphore(t, c, 1, lapsing(5*time.Minute), WithLockDelay(5*time.Minute)).TryAcquire)
		clk.pass(5 * time.Minute)
		<-lost.Context().Done()
		g.Expect(lost.IsHeld()).To(BeFalse())
		g.Expect(lost.Release(t.Context())).To(MatchError(ErrLost))
		turnedAway(t, semaphore(t, dial(t, server.URL()), 1).TryAcquire)
		g.Expect(lost.ReleaseStopped(t.Context())).To(Succeed(), "unless it is known to have stopped")
		get(t, semaphore(t, dial(t, server.URL()), 1, patient()).TryAcquire)
	})
}

func TestADeadHoldersPermitLapses(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	get(t, semaphore(t, dial(t, server.URL()), 2, lapsing(4*time.Second)).TryAcquire)
	c := dial(t, server.URL())
	s := semaphore(t, c, 2, patient())
	get(t, s.TryAcquire)
	get(t, s.Acquire, WithWait())
	turnedAway(t, s.TryAcquire)
}

func TestWaitersForPermitsAreWokenOneForEach(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	holder := semaphore(t, dial(t, server.URL()), 3, patient())
	held := []*Lock{get(t, holder.Acquire), get(t, holder.Acquire), get(t, holder.Acquire)}
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	s := semaphore(t, c, 3, patient())
	var waiting []<-chan error
	for range 4 {
		waiting = append(waiting, waitBy(t, g, t.Context(), c, s.Acquire))
	}
	g.Eventually(func() int { return p.Count(shareOf(key)) }).Should(BeNumerically(">=", 5))
	idle := p.Count(shareOf(key))
	g.Consistently(func() int { return p.Count(shareOf(key)) }, "300ms").Should(Equal(idle), "they cost nothing meanwhile")

	// Two at once: the message for the second may come while the first is dealt with.
	var wg sync.WaitGroup
	for _, l := range held[:2] {
		wg.Go(func() {
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	in := 0
	g.Eventually(func() int {
		for _, w := range waiting {
			select {
			case err := <-w:
				g.Expect(err).NotTo(HaveOccurred())
				in++
			default:
			}
		}
		return in
	}, soon).Should(Equal(2))
	turnedAway(t, s.TryAcquire)
	g.Expect(held[2].Release(t.Context())).To(Succeed())
	g.Eventually(func() int { return c.wakes.waiting(key) }, soon).Should(Equal(1))
}

func TestAPermitWhoseGrantWasUnheardIsItsOwn(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL(), singleShot))
	acquaintWithShares(t, c)
	dropped := p.DropReply(shareOf(key))
	l := get(t, semaphore(t, c, 1, patient(), WithRenewEvery(2*time.Second)).Acquire)
	<-dropped.Done
	g.Expect(dropped.Reply()).To(ContainSubstring("granted"))
	rdb := connect(t, server.URL())
	g.Expect(rdb.ZRange(t.Context(), key, 0, -2).Val()).To(Equal([]string{l.Token()}), "one permit")
}

func TestAPermitNobodyHeardOfIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, deliver := range map[string]bool{"granted before it is given up": true, "granted after": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			p := proxy.Start(t, server.URL())
			c := newClient(t, connect(t, p.URL(), singleShot))
			acquaintWithShares(t, c)
			s := semaphore(t, c, 1, patient(), WithRenewEvery(4*time.Second))
			ctx, cancel := context.WithCancel(t.Context())
			rdb := connect(t, server.URL())
			if deliver {
				lost := p.HoldReply(shareOf(key))
				go func() { <-lost.Arrived; cancel() }()
			} else {
				stuck := p.Hold(shareOf(key))
				go func() { <-stuck.Arrived; cancel() }()
				defer func() {
					g.Expect(stuck.Deliver()).To(Or(ContainSubstring("granted"), ContainSubstring("late")))
					g.Eventually(func() int64 { return rdb.Exists(t.Context(), key).Val() }).Should(BeZero())
				}()
			}
			_, err := s.TryAcquire(ctx)
			g.Expect(err).To(MatchError(context.Canceled))
			g.Eventually(func() int64 { return rdb.Exists(t.Context(), key).Val() }).Should(BeZero())
		})
	}
}

func TestAStuckReleaseOfAPermitLeavesTheNextAlone(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	s := semaphore(t, dial(t, p.URL()), 1, patient(), WithRenewEvery(4*time.Second))
	first := get(t, s.TryAcquire)
	stuck := p.Hold(releaseOf(key))
	g.Expect(first.Release(t.Context())).NotTo(Succeed(), "no answer came")
	<-stuck.Arrived
	rdb := connect(t, server.URL())
	g.Eventually(func() int64 { return rdb.Exists(t.Context(), key).Val() }).Should(BeZero(), "its retry has released")
	second := get(t, s.TryAcquire)
	g.Expect(stuck.Deliver()).To(ContainSubstring("gone"))
	g.Expect(second.Status(t.Context())).To(Equal(Acquired))
}

func TestASemaphoreOfARedisThatForgotIsQuarantined(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	s := semaphore(t, dial(t, server.URL()), 2, lapsing(5*time.Minute))
	get(t, s.TryAcquire)
	g.Expect(connect(t, server.URL()).FlushAll(t.Context()).Err()).To(Succeed())
	_, err := s.TryAcquire(t.Context())
	quarantine, ok := errors.AsType[*QuarantineError](err)
	g.Expect(ok).To(BeTrue(), "%v", err)
	g.Expect(quarantine.Remaining).To(about(5 * time.Minute))
}

func TestBadSemaphoresAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newClient(t, unreachable(t))
	for _, permits := range []int{-1, 0, MaxPermits + 1} {
		_, err := c.Semaphore(key, permits)
		g.Expect(err).To(MatchError(ErrInvalid), fmt.Sprint(permits))
	}
	bad := map[string]LockOption{
		"unfenced": WithoutFence(), "fair": WithFair(), "minimum": WithMinHold(time.Second),
		"history": WithHistory(1), "metadata": WithMetadata("m"), "lease": WithLease(0),
	}
	s := semaphore(t, c, MaxPermits)
	rw, err := c.RWLock(key)
	g.Expect(err).NotTo(HaveOccurred())
	for name, opt := range bad {
		_, err := c.Semaphore(key, 1, opt)
		g.Expect(err).To(MatchError(ErrInvalid), name)
		_, err = s.TryAcquire(t.Context(), opt)
		g.Expect(err).To(MatchError(ErrInvalid), name)
		_, err = c.RWLock(key, opt)
		g.Expect(err).To(MatchError(ErrInvalid), name)
		_, err = rw.RLock(t.Context(), opt)
		g.Expect(err).To(MatchError(ErrInvalid), name)
	}
	for _, bad := range []string{"", "{a}:queue"} {
		_, err := c.Semaphore(bad, 1)
		g.Expect(err).To(MatchError(ErrInvalid))
		_, err = c.RWLock(bad)
		g.Expect(err).To(MatchError(ErrInvalid))
	}
	_, err = c.TryAcquire(t.Context(), key, WithFair(), WithoutFence())
	g.Expect(err).To(MatchError(ErrInvalid))

	g.Expect(c.Close(t.Context())).To(Succeed())
	for name, call := range map[string]func(context.Context, ...LockOption) (*Lock, error){
		"TryAcquire": s.TryAcquire, "Acquire": s.Acquire, "TryLock": rw.TryLock, "Lock": rw.Lock, "TryRLock": rw.TryRLock, "RLock": rw.RLock,
	} {
		_, err := call(t.Context(), WithWait())
		g.Expect(err).To(MatchError(ErrClosed), name)
	}
}

func TestInspectTellsTheHolderWhereAnACLDeniesSortedSets(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := redisserver.Start(t, redisserver.Options{
		UnixSocket: true,
		Password:   "secret",
		ACL:        []string{"user app on >app ~* &* +@all -@sortedset"},
	})
	all, few := dial(t, server.URL()), dial(t, server.UserURL("app", "app"))
	l := mustAcquire(t, few, key, patient())
	info, err := few.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Kind).To(Equal(KindLock))
	g.Expect(info.Fence).To(Equal(l.Fence()))
	g.Expect(l.Release(t.Context())).To(Succeed())

	permit := get(t, semaphore(t, all, 2, patient()).TryAcquire)
	info, err = few.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Status).To(Equal(Acquired))
	g.Expect(info.Kind).To(Equal(KindOther))
	_, err = semaphore(t, few, 2, patient(), WithWait()).Acquire(t.Context())
	g.Expect(Refused(err)).To(BeTrue(), "%v", err)
	g.Expect(permit.Release(t.Context())).To(Succeed())
}
