package redislock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

func TestALeaseEndsByWhicheverClockSaysSoFirst(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	const lease = 10 * time.Minute
	valid := validitySpan(lease)
	for name, move := range map[string]func(*bentClock, time.Duration){
		"time passes":                (*bentClock).pass,
		"the machine sleeps":         (*bentClock).sleep,
		"the wall clock is set":      (*bentClock).setWall,
		"only the boot clock counts": func(c *bentClock, d time.Duration) { c.bend(0, 0, d) },
		"the others stand still":     func(c *bentClock, d time.Duration) { c.bend(d, 0, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			p := proxy.Start(t, server.URL())
			clk := &bentClock{}
			c := newClient(t, connect(t, p.URL()), withClock(clk))
			l := mustAcquire(t, c, Key("clock", name), lapsing(lease), WithLockDelay(time.Minute))
			ended := l.Context().Done()

			move(clk, valid-time.Minute)
			g.Consistently(ended, "1500ms").ShouldNot(BeClosed(), "not before its end")
			g.Expect(l.IsHeld()).To(BeTrue())
			g.Expect(l.Err()).NotTo(HaveOccurred())

			move(clk, time.Minute)
			g.Expect(l.IsHeld()).To(BeFalse(), "at once")
			g.Eventually(ended).Should(BeClosed())
			g.Expect(context.Cause(l.Context())).To(MatchError(ErrLost))
			g.Expect(l.Err()).To(MatchError(errNotRenewed))
			g.Expect(l.Release(t.Context())).To(MatchError(ErrLost))
			g.Expect(p.Count(releaseOf(l.Key()))).To(BeZero(), "nothing is sent")
			g.Expect(l.Status(t.Context())).To(Equal(Acquired), "what is left of its expiry is not ours")
		})
	}
}

// A jump that ends no lease still brings the end of each nearer.
func TestAJumpThatEndsNoLeaseBringsItsEndNearer(t *testing.T) {
	t.Parallel()
	g := within(t)
	clk := &bentClock{}
	c := newClient(t, connect(t, startRedis(t).URL()), withClock(clk))
	l := mustAcquire(t, c, key, lapsing(10*time.Minute))
	clk.sleep(validitySpan(10*time.Minute) - 3*time.Second)
	g.Eventually(l.Context().Done(), "30s").Should(BeClosed())
}

func TestAWallClockThatIsSetBackProlongsNothing(t *testing.T) {
	t.Parallel()
	g := within(t)
	clk := &bentClock{}
	c := newClient(t, connect(t, startRedis(t).URL()), withClock(clk))
	l := mustAcquire(t, c, key, lapsing(10*time.Minute))
	clk.setWall(-time.Hour)
	clk.pass(10 * time.Minute)
	g.Eventually(l.Context().Done()).Should(BeClosed())
}

func TestATransportThatIsDownEndsTheLeaseWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	clk := &bentClock{}
	rdb := connect(t, p.URL(), impatient, singleShot)
	c := newClient(t, rdb, withClock(clk))
	takeDown := func() {
		p.Refuse()
		// A connection that was being made may survive the first cut.
		g.Eventually(func() error {
			p.Cut()
			return rdb.Ping(t.Context()).Err()
		}).Should(HaveOccurred())
	}
	l := mustAcquire(t, c, key, WithLease(10*time.Minute))
	lost := l.Context().Done()
	takeDown()

	clk.pass(5 * time.Minute) // several renewals would have been due
	g.Eventually(l.lastFailure).Should(HaveOccurred())
	g.Consistently(lost, "1s").ShouldNot(BeClosed(), "an error is no loss")
	g.Expect(l.IsHeld()).To(BeTrue())
	clk.pass(5 * time.Minute)
	g.Eventually(lost).Should(BeClosed())
	var err *LostError
	g.Expect(errors.As(context.Cause(l.Context()), &err)).To(BeTrue())
	g.Expect(err.Err).To(HaveOccurred(), "says why")
	g.Expect(err.Err).NotTo(MatchError(errNotRenewed))
	g.Expect(err.Key).To(Equal(key))

	// And one that comes back in time ends nothing.
	g.Expect(p.Accept()).To(Succeed())
	l = mustAcquire(t, c, "lock:b", WithLease(10*time.Minute))
	takeDown()
	clk.pass(5 * time.Minute)
	g.Eventually(l.lastFailure).Should(HaveOccurred())
	g.Expect(p.Accept()).To(Succeed())
	g.Eventually(l.lastFailure).ShouldNot(HaveOccurred())
	g.Expect(time.Until(l.ValidUntil())-5*time.Minute-5*time.Minute).To(BeNumerically(">", 8*time.Minute), "renewed")
}

func (l *Lock) lastFailure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

func TestAMismatchIsALossAtOnce(t *testing.T) {
	t.Parallel()
	for name, found := range map[string]string{"gone": "", "another's": "somebody else's"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			l := renewOften(t, mustAcquire(t, dial(t, server.URL()), key, patient()))
			ctx := l.Context()
			if found == "" {
				g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())
			} else {
				g.Expect(rdb.Set(t.Context(), key, found, time.Minute).Err()).To(Succeed())
			}
			g.Eventually(ctx.Done()).Should(BeClosed())
			var lost *LostError
			g.Expect(errors.As(context.Cause(ctx), &lost)).To(BeTrue())
			g.Expect(lost.Found).To(Equal(found))
			g.Expect(lost.Err).NotTo(HaveOccurred())
			g.Expect(l.Release(t.Context())).To(MatchError(ErrLost))
			g.Expect(value(t, rdb, key)).To(Equal(found), "it is left alone")
			g.Expect(l.Extend(t.Context(), time.Hour)).To(MatchError(ErrLost))
			_, err := l.Detach(t.Context())
			g.Expect(err).To(MatchError(ErrLost))
			g.Expect(l.IsHeld()).To(BeFalse())
			g.Expect(l.ValidUntil()).To(BeTemporally("<=", time.Now()))
		})
	}
}

func TestReleaseIsIdempotentAndOutlivesItsContext(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	l := mustAcquire(t, c, key, patient())
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	g.Expect(l.Release(cancelled)).To(Succeed())
	g.Expect(value(t, rdb, key)).To(BeEmpty())
	g.Expect(context.Cause(l.Context())).To(MatchError(ErrReleased))
	g.Expect(l.IsHeld()).To(BeFalse())

	next := mustAcquire(t, c, key, patient())
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Expect(value(t, rdb, key)).To(Equal(next.Token()))
	g.Expect(l.Extend(t.Context(), time.Hour)).To(MatchError(ErrReleased))
	g.Expect(l.Status(t.Context())).To(Equal(Free), "this grant is over")
}

func TestReleaseGoesOnInTheBackground(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL(), impatient, singleShot))
	l := mustAcquire(t, c, key, patient())
	p.Refuse()
	p.Cut()
	g.Expect(l.Release(t.Context())).NotTo(Succeed())
	g.Expect(l.Release(t.Context())).To(Succeed(), "there is nothing more to do")
	g.Expect(l.IsHeld()).To(BeFalse())
	g.Expect(p.Accept()).To(Succeed())
	rdb := connect(t, server.URL())
	g.Eventually(func() string { return value(t, rdb, key) }).Should(BeEmpty())
}

func TestExtendProlongsAndNeverShortens(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	l := mustAcquire(t, c, key, lapsing(5*time.Minute), WithLockDelay(time.Hour))
	g.Expect(l.Extend(t.Context(), 20*time.Minute)).To(Succeed())
	until := l.ValidUntil()
	g.Expect(until).To(BeTemporally(">", time.Now().Add(15*time.Minute)))
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", 75*time.Minute), "the delay comes on top")
	g.Expect(l.Extend(t.Context(), time.Second)).To(Succeed())
	g.Expect(l.ValidUntil()).To(BeTemporally("~", until, 10*time.Second))
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", 75*time.Minute))

	sent := p.Count(proxy.Script(key))
	for _, d := range []time.Duration{0, -1, -time.Hour, time.Millisecond, math.MaxInt64} {
		g.Expect(l.Extend(t.Context(), d)).To(MatchError(ErrInvalid))
	}
	g.Expect(p.Count(proxy.Script(key))).To(Equal(sent))
	g.Expect(l.IsHeld()).To(BeTrue())

	g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())
	g.Expect(l.Extend(t.Context(), time.Minute)).To(MatchError(ErrLost))
	g.Expect(value(t, rdb, key)).To(BeEmpty(), "it is not acquired again")
	g.Expect(context.Cause(l.Context())).To(MatchError(ErrLost))
}

func TestDetachAndAdoptGoOnWithTheSameGrant(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]LockOption{"fenced": nil, "unfenced": {WithoutFence()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			old, successor := dial(t, server.URL(), WithIdentity("site-a")), dial(t, server.URL(), WithIdentity("site-a"))
			l := mustAcquire(t, old, key, append(opts, patient())...)
			token, err := l.Detach(t.Context())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(token).To(Equal(value(t, rdb, key)))
			g.Expect(context.Cause(l.Context())).To(MatchError(ErrReleased))
			g.Expect(l.Release(t.Context())).To(Succeed(), "there is nothing of ours to release")
			g.Expect(value(t, rdb, key)).To(Equal(token))
			info, err := successor.Inspect(t.Context(), key)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(info.Stopped).To(BeTrue())
			g.Expect(info.Nonce).To(Equal(old.Nonce()))
			g.Expect(info.Holder).To(Equal("site-a"))

			adopted, err := successor.Adopt(t.Context(), key, token, patient())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(adopted.Fence()).To(Equal(l.Fence()))
			g.Expect(adopted.Token()).To(Equal(value(t, rdb, key)))
			g.Expect(adopted.IsHeld()).To(BeTrue())
			info, err = successor.Inspect(t.Context(), key)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(info.Stopped).To(BeFalse())
			g.Expect(info.Nonce).To(Equal(successor.Nonce()))

			for _, stale := range []string{token, l.Token()} {
				_, err = old.Adopt(t.Context(), key, stale, patient())
				var mismatch *MismatchError
				g.Expect(errors.As(err, &mismatch)).To(BeTrue(), "%v", err)
				g.Expect(mismatch.Found).To(Equal(adopted.Token()))
			}
			g.Expect(adopted.Release(t.Context())).To(Succeed())
			_, err = old.Adopt(t.Context(), key, token, patient())
			g.Expect(err).To(MatchError(ErrMismatch))
			g.Expect(value(t, rdb, key)).To(BeEmpty(), "nothing is created")
		})
	}
}

func TestAProcessThatWasAdoptedFromLoses(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := renewOften(t, mustAcquire(t, dial(t, server.URL()), key, patient()))
	adopted, err := dial(t, server.URL()).Adopt(t.Context(), key, l.Token(), patient())
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(l.Context().Done()).Should(BeClosed())
	var lost *LostError
	g.Expect(errors.As(l.Err(), &lost)).To(BeTrue())
	g.Expect(lost.Found).To(Equal(adopted.Token()))
}

func TestAdoptRefusesWhatIsNoToken(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := newClient(t, unreachable(t))
	for _, bad := range []string{"", "theirs", "~host#n.1#5", "host#n.1#05", "host#n.1#-1", "host#n#5"} {
		_, err := c.Adopt(t.Context(), key, bad)
		g.Expect(err).To(MatchError(ErrInvalid), bad)
	}
}

func TestMaxHoldEndsALockThatIsRenewed(t *testing.T) {
	t.Parallel()
	g := within(t)
	clk := &bentClock{}
	rdb := connect(t, startRedis(t).URL())
	c := newClient(t, rdb, withClock(clk))
	const lease = 10 * time.Minute
	const most = 20 * time.Minute
	end := clk.now().t.Add(most)
	l := mustAcquire(t, c, key, WithLease(lease), WithMaxHold(most))
	for _, step := range []time.Duration{5 * time.Minute, 8 * time.Minute} { // it is renewed after each
		before := l.ValidUntil()
		clk.pass(step)
		g.Eventually(l.ValidUntil).Should(BeTemporally(">", before.Add(time.Minute)))
	}
	g.Expect(l.ValidUntil()).To(BeTemporally("<", end.Add(time.Minute)))
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically("<=", lease), "its key does not outlive it")
	g.Expect(l.Extend(t.Context(), lease)).To(MatchError(ErrInvalid), "nor is it extended past its maximum")
	clk.pass(6 * time.Minute)
	g.Consistently(l.Context().Done(), "1500ms").ShouldNot(BeClosed())
	clk.pass(time.Minute)
	g.Eventually(l.Context().Done()).Should(BeClosed())
	g.Expect(l.Err()).To(MatchError(errMaxHold))
}

// Interleaving 18.
func TestMinHoldLeavesATombstoneThatIsNobodys(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	l := mustAcquire(t, c, key, patient(), WithMinHold(20*time.Minute))
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", 15*time.Minute), "though the holder should die")
	g.Expect(l.Release(t.Context())).To(Succeed())
	stone := tombstone + l.Token()
	g.Expect(value(t, rdb, key)).To(Equal(stone))
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically("~", 20*time.Minute, 2*time.Minute))

	for _, opts := range [][]LockOption{nil, {WithoutFence()}} {
		_, err := c.TryAcquire(t.Context(), key, append(opts, patient())...)
		var held *HeldError
		g.Expect(errors.As(err, &held)).To(BeTrue(), "%v", err)
		g.Expect(held.Free()).To(BeTrue())
		g.Expect(held.Holder).To(BeEmpty())
		g.Expect(held.Value).To(Equal(stone))
	}
	_, err := c.Adopt(t.Context(), key, l.Token(), patient())
	g.Expect(err).To(MatchError(ErrMismatch))
	_, err = c.Adopt(t.Context(), key, stone, patient())
	g.Expect(err).To(MatchError(ErrInvalid))
	g.Expect(c.run(t.Context(), patience, renewScript, []string{key}, l.Token(), 3_600_000)).To(HaveExactElements("mismatch", stone))
	_, err = c.ForceRelease(t.Context(), key, l.Fence(), Immediately())
	g.Expect(err).To(MatchError(ErrMismatch), "a fence names a holder")
	info, err := c.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Status).To(Equal(Free))
	g.Expect(info.Kept).To(BeTrue())
	g.Expect(info.Holder).To(BeEmpty())
	g.Expect(info.TTL).To(BeNumerically(">", 15*time.Minute))
	g.Expect(value(t, rdb, key)).To(Equal(stone), "nothing has changed it")

	// Over after its time, and not before.
	started := time.Now()
	const least = 5 * time.Second
	g.Expect(mustAcquire(t, c, "lock:b", lapsing(4*time.Second), WithMinHold(least)).Release(t.Context())).To(Succeed())
	mustAcquire(t, c, "lock:b", patient(), WithWait())
	g.Expect(time.Since(started)).To(BeNumerically(">=", least))

	// One that was held for longer is free at once.
	clk := &bentClock{}
	c = newClient(t, connect(t, server.URL()), withClock(clk))
	l = mustAcquire(t, c, "lock:c", patient(), WithMinHold(time.Minute))
	clk.pass(time.Minute)
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Expect(value(t, rdb, "lock:c")).To(BeEmpty())
}

func TestContextCarriesTheCallersValuesButNotItsEnd(t *testing.T) {
	t.Parallel()
	g := within(t)
	type mark struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), mark{}, 1))
	l, err := dial(t, startRedis(t).URL()).Acquire(ctx, key, patient())
	g.Expect(err).NotTo(HaveOccurred())
	cancel()
	g.Expect(l.Context().Value(mark{})).To(Equal(1))
	g.Expect(l.Context().Err()).NotTo(HaveOccurred())
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Expect(l.Context().Err()).To(MatchError(context.Canceled))
	g.Expect(fmt.Sprint(l.Err())).To(Equal(ErrReleased.Error()))
}

func TestReleaseStoppedGivesBackWhatWasLost(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		standing func(l *Lock) string // what stands at the key by then
		after    func(l *Lock) string
	}{
		"its token":       {(*Lock).Token, func(*Lock) string { return "" }},
		"nothing":         {func(*Lock) string { return "" }, func(*Lock) string { return "" }},
		"another's token": {func(*Lock) string { return "host#0a.1#7" }, func(*Lock) string { return "host#0a.1#7" }},
		"its tombstone":   {func(l *Lock) string { return tombstone + l.Token() }, func(l *Lock) string { return tombstone + l.Token() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			clk := &bentClock{}
			c := newClient(t, connect(t, server.URL()), withClock(clk))
			l := mustAcquire(t, c, key, lapsing(5*time.Minute), WithLockDelay(5*time.Minute))
			clk.pass(5 * time.Minute)
			g.Expect(l.Release(t.Context())).To(MatchError(ErrLost))
			g.Expect(value(t, rdb, key)).To(Equal(l.Token()), "Release has no proof")
			if standing := test.standing(l); standing != l.Token() {
				g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())
				if standing != "" {
					g.Expect(rdb.Set(t.Context(), key, standing, time.Minute).Err()).To(Succeed())
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for range 2 {
				g.Expect(l.ReleaseStopped(ctx)).To(Succeed())
				g.Expect(value(t, rdb, key)).To(Equal(test.after(l)))
			}
			g.Expect(l.Err()).To(MatchError(ErrLost))
		})
	}
}

func TestReleaseStoppedKeepsAMinimumHold(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	clk := &bentClock{}
	c := newClient(t, connect(t, server.URL()), withClock(clk))
	l := mustAcquire(t, c, key, lapsing(5*time.Minute), WithMinHold(20*time.Minute))
	clk.pass(5 * time.Minute)
	g.Expect(l.ReleaseStopped(t.Context())).To(Succeed())
	rdb := connect(t, server.URL())
	g.Expect(value(t, rdb, key)).To(Equal(tombstone + l.Token()))
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(about(15 * time.Minute))
}

func TestReleaseStoppedOfALockThatIsNotLost(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	l := mustAcquire(t, c, key, patient())
	g.Expect(l.ReleaseStopped(t.Context())).To(Succeed())
	g.Expect(l.Err()).To(MatchError(ErrReleased))
	g.Expect(value(t, rdb, key)).To(BeEmpty())
	g.Expect(l.ReleaseStopped(t.Context())).To(Succeed())
	g.Expect(p.Count(releaseOf(key))).To(BeNumerically("<=", 2), "once, or twice where the script was unknown")

	// Somebody took it away, and this process had not noticed.
	l = mustAcquire(t, c, key, patient())
	g.Expect(rdb.Set(t.Context(), key, "theirs", time.Minute).Err()).To(Succeed())
	g.Expect(l.ReleaseStopped(t.Context())).To(Succeed())
	g.Expect(value(t, rdb, key)).To(Equal("theirs"))
	g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())

	// What was left to another process is not taken from it.
	l = mustAcquire(t, c, key, patient())
	token, err := l.Detach(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(l.ReleaseStopped(t.Context())).To(Succeed())
	g.Expect(value(t, rdb, key)).To(Equal(token))

	l = mustAcquire(t, c, "lock:b", patient())
	g.Expect(c.Close(t.Context())).To(Succeed())
	g.Expect(l.ReleaseStopped(t.Context())).To(MatchError(ErrClosed))
	g.Expect(value(t, rdb, "lock:b")).To(Equal(l.Token()))
}

func TestReleaseStoppedSaysThatRedisDidNotAnswer(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, p.URL()), withClock(clk))
	l := mustAcquire(t, c, key, lapsing(4*time.Second), WithLockDelay(time.Hour))
	clk.pass(4 * time.Second)
	lost := p.Hold(releaseOf(key))
	g.Expect(l.ReleaseStopped(t.Context())).To(MatchError(ContainSubstring("no answer")))
	<-lost.Arrived
	g.Expect(l.ReleaseStopped(t.Context())).To(Succeed())
	g.Expect(value(t, connect(t, server.URL()), key)).To(BeEmpty())
}
