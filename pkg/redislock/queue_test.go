package redislock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

// promptly is less than the time after which a waiter asks again to keep its place.
const promptly = longestPlace / 3

func queuedOf(key string) proxy.Match { return proxy.Script(key, historyKey(key), placesKey(key)) }

// fairly acquires the test's lock in order of arrival.
func fairly(c *Client) func(context.Context, ...LockOption) (*Lock, error) {
	return func(ctx context.Context, opts ...LockOption) (*Lock, error) {
		return c.Acquire(ctx, key, append([]LockOption{patient(), WithFair(), WithRetry(1, 0)}, opts...)...)
	}
}

func waitingIn(t *testing.T, c *Client) int {
	info, err := c.Inspect(t.Context(), key)
	if err != nil {
		t.Error(err)
	}
	return info.Waiting
}

func TestFairWaitersAcquireInOrderOfArrival(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	clients := []*Client{dial(t, server.URL()), dial(t, server.URL()), dial(t, server.URL())}
	holder := mustAcquire(t, clients[0], key, patient(), WithFair())
	const waiters = 12
	order := make(chan int, waiters)
	var wg sync.WaitGroup
	for n := range waiters {
		c := clients[(n*n+n/3)%3]
		wg.Go(func() {
			l, err := fairly(c)(t.Context(), WithWait())
			if err != nil {
				t.Error(err)
				return
			}
			order <- n
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
		g.Eventually(func() int { return waitingIn(t, clients[0]) }).Should(Equal(n + 1))
	}
	started := time.Now()
	g.Expect(holder.Release(t.Context())).To(Succeed())
	for n := range waiters {
		g.Eventually(order).Should(Receive(Equal(n)))
	}
	g.Expect(time.Since(started)).To(BeNumerically("<", waiters*promptly), "woken, not by their timers")
	wg.Wait()
	g.Expect(connect(t, server.URL()).Exists(t.Context(), key, queueKey(key), placesKey(key)).Val()).To(BeZero(), "nothing is left")
}

func TestADeadWaiterAtTheHeadDelaysTheOthersNoLongerThanItsPlace(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	holder := mustAcquire(t, dial(t, server.URL()), key, patient())
	for n := range 3 {
		p := proxy.Start(t, server.URL())
		dead := dial(t, p.URL())
		waitBy(t, g, t.Context(), dead, fairly(dead), WithLease(2*time.Second))
		g.Eventually(func() int { return waitingIn(t, holder.client) }).Should(Equal(n + 1))
		p.Partition()
	}
	alive := dial(t, server.URL())
	done := waitBy(t, g, t.Context(), alive, fairly(alive))
	g.Expect(holder.Release(t.Context())).To(Succeed())
	g.Eventually(done).Should(Receive(BeNil()))
	g.Expect(waitingIn(t, alive)).To(BeZero())
}

func TestAFairWaiterThatGivesUpLeavesItsPlace(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	holder := mustAcquire(t, dial(t, server.URL()), key, patient())
	c := dial(t, server.URL())
	ctx, giveUp := context.WithCancel(t.Context())
	first := waitBy(t, g, ctx, c, fairly(c))
	other := dial(t, server.URL())
	second := waitBy(t, g, t.Context(), other, fairly(other))
	g.Eventually(func() int { return waitingIn(t, c) }).Should(Equal(2))
	giveUp()
	g.Expect(<-first).To(MatchError(context.Canceled))
	g.Eventually(func() int { return waitingIn(t, c) }, promptly).Should(Equal(1))
	g.Expect(holder.Release(t.Context())).To(Succeed())
	g.Eventually(second, promptly).Should(Receive(BeNil()))
}

// The first is woken, and dies on its way to the lock.
func TestAFairWaiterThatGivesUpAsItsTurnComesWakesTheNext(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"of its process": true, "of another": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			p := proxy.Start(t, server.URL())
			holder := mustAcquire(t, dial(t, server.URL()), key, patient())
			c := dial(t, p.URL())
			ctx, giveUp := context.WithCancel(t.Context())
			first := waitBy(t, g, ctx, c, fairly(c))
			g.Eventually(func() int { return waitingIn(t, holder.client) }).Should(Equal(1))
			other := c
			if !same {
				other = dial(t, server.URL())
			}
			second := waitBy(t, g, t.Context(), other, fairly(other))
			g.Eventually(func() int { return waitingIn(t, holder.client) }).Should(Equal(2))

			woken := p.Hold(queuedOf(key))
			g.Expect(holder.Release(t.Context())).To(Succeed())
			<-woken.Arrived
			giveUp()
			g.Expect(<-first).To(MatchError(context.Canceled))
			g.Expect(woken.Cut()).To(Succeed(), "the request never arrives")
			g.Eventually(second, promptly).Should(Receive(BeNil()))
		})
	}
}

func TestAnUnfairCallerMayOvertakeButTakesNobodysPlace(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	unfair := dial(t, server.URL())
	holder := mustAcquire(t, unfair, key, patient())
	c := dial(t, p.URL())
	fair := waitBy(t, g, t.Context(), c, fairly(c))
	g.Eventually(func() int { return waitingIn(t, unfair) }).Should(Equal(1))

	woken := p.Hold(queuedOf(key))
	g.Expect(holder.Release(t.Context())).To(Succeed())
	<-woken.Arrived
	kept := refusalOf(t, fairly(unfair))
	g.Expect(kept.Ahead).To(Equal(1), "a fair caller does not overtake")
	g.Expect(kept.Kind).To(Equal(KindNone))
	g.Expect(kept.TTL).To(BeNumerically("<=", longestPlace))
	g.Expect(kept.Error()).To(ContainSubstring("is free, but 1 who came earlier"))
	_, err := unfair.TryAcquire(t.Context(), key, patient(), WithFair())
	g.Expect(err).To(MatchError(ErrNotAcquired))
	g.Expect(waitingIn(t, unfair)).To(Equal(1), "nor does it take a place, for it does not wait")

	overtaker := mustAcquire(t, unfair, key, patient())
	g.Expect(woken.Deliver()).To(ContainSubstring("held"))
	g.Expect(waitingIn(t, unfair)).To(Equal(1))
	g.Expect(overtaker.Release(t.Context())).To(Succeed())
	g.Eventually(fair, promptly).Should(Receive(BeNil()))
}

func TestFairAndUnfairWaitersOfOneProcessAreBothWoken(t *testing.T) {
	t.Parallel()
	for name, fairFirst := range map[string]bool{"the fair one first": true, "the unfair one first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			holder := mustAcquire(t, dial(t, server.URL()), key, patient())
			c := dial(t, server.URL())
			unfairly := func(ctx context.Context, opts ...LockOption) (*Lock, error) {
				return c.Acquire(ctx, key, append(opts, patient())...)
			}
			calls := []func(context.Context, ...LockOption) (*Lock, error){unfairly, fairly(c)}
			if fairFirst {
				calls[0], calls[1] = calls[1], calls[0]
			}
			got := make(chan *Lock, 2)
			for n, call := range calls {
				go func() {
					l, err := call(t.Context(), WithWait())
					if err != nil {
						t.Error(err)
					}
					got <- l
				}()
				g.Eventually(func() int { return c.wakes.waiting(key) }).Should(Equal(n + 1))
				g.Eventually(func() bool { return c.wakes.listening(key) }).Should(BeTrue())
			}
			g.Expect(holder.Release(t.Context())).To(Succeed())
			for range calls {
				var l *Lock
				g.Eventually(got, promptly).Should(Receive(&l))
				g.Expect(l.Release(t.Context())).To(Succeed())
			}
		})
	}
}

func TestAFairLockIsAPlainLock(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	l := mustAcquire(t, c, key, patient(), WithFair(), WithHistory(3), WithWait())
	g.Expect(value(t, rdb, key)).To(Equal(l.Token()))
	_, err := l.Claim(t.Context(), ClaimRequest{Run: Run{ID: "m"}, Claimant: "c"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(l.Cover(t.Context(), time.Minute)).To(Succeed())
	token, err := l.Detach(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	adopted, err := c.Adopt(t.Context(), key, token, patient())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(adopted.Fence()).To(Equal(l.Fence()))
	info, err := c.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.History).To(HaveLen(1))
	g.Expect(info.Kind).To(Equal(KindLock))
	g.Expect(adopted.Release(t.Context())).To(Succeed())
}

func TestAnAbandonedFairWaitLeavesNeitherPlaceNorGrant(t *testing.T) {
	t.Parallel()
	for name, free := range map[string]bool{"granted late": true, "queued late": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			p := proxy.Start(t, server.URL())
			c := newClient(t, connect(t, p.URL(), singleShot))
			warm := mustAcquire(t, c, "lock:other", patient(), WithFair())
			g.Expect(warm.Release(t.Context())).To(Succeed())
			var holder *Lock
			if !free {
				holder = mustAcquire(t, dial(t, server.URL()), key, patient())
			}
			stuck := p.Hold(queuedOf(key))
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-stuck.Arrived
				cancel()
			}()
			_, err := fairly(c)(ctx, WithWait(), WithRenewEvery(4*time.Second))
			g.Expect(err).To(MatchError(context.Canceled))
			_, err = stuck.Deliver()
			g.Expect(err).NotTo(HaveOccurred())
			g.Eventually(func() int64 { return rdb.Exists(t.Context(), queueKey(key), placesKey(key)).Val() }).Should(BeZero())
			if free {
				g.Eventually(func() string { return value(t, rdb, key) }).Should(BeEmpty())
			} else {
				g.Expect(value(t, rdb, key)).To(Equal(holder.Token()))
			}
		})
	}
}

func TestAFairGrantThatWasUnheardIsItsOwn(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL(), singleShot))
	warm := mustAcquire(t, c, "lock:other", patient(), WithFair())
	g.Expect(warm.Release(t.Context())).To(Succeed())
	dropped := p.DropReply(queuedOf(key))
	l := get(t, fairly(c), WithRenewEvery(2*time.Second), WithWait())
	<-dropped.Done
	g.Expect(dropped.Reply()).To(ContainSubstring("granted"))
	g.Expect(value(t, connect(t, server.URL()), key)).To(Equal(l.Token()))
}

// A place that was lost (its owner was slow, or Redis was flushed) is taken anew, last;
// whoever is first now in the same process is not left to its timer.
func TestWhoLostItsPlaceWakesWhoIsFirstNow(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	holder := mustAcquire(t, dial(t, server.URL()), key, patient())
	c := dial(t, server.URL())
	first := waitBy(t, g, t.Context(), c, fairly(c))
	g.Eventually(func() int { return waitingIn(t, c) }).Should(Equal(1))
	second := waitBy(t, g, t.Context(), c, fairly(c))
	g.Eventually(func() int { return waitingIn(t, c) }).Should(Equal(2))
	head := rdb.ZRange(t.Context(), queueKey(key), 0, 0).Val()[0]
	g.Expect(rdb.ZRem(t.Context(), queueKey(key), head).Val()).To(BeEquivalentTo(1))
	g.Expect(rdb.ZRem(t.Context(), placesKey(key), head).Val()).To(BeEquivalentTo(1))
	g.Expect(holder.Release(t.Context())).To(Succeed())
	g.Eventually(second, promptly).Should(Receive(BeNil()))
	g.Consistently(first, "50ms").ShouldNot(Receive())
}

func TestAWaiterKeepsItsPlaceForLongerThanItCounts(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	holder := mustAcquire(t, dial(t, server.URL()), key, patient())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	done := waitBy(t, g, t.Context(), c, fairly(c), WithLease(4*time.Second))
	g.Eventually(func() int { return waitingIn(t, holder.client) }).Should(Equal(1))
	till := rdb.ZRangeWithScores(t.Context(), placesKey(key), 0, 0).Val()[0]
	asked := p.Count(queuedOf(key))
	g.Eventually(func() float64 { return rdb.ZScore(t.Context(), placesKey(key), fmt.Sprint(till.Member)).Val() }).
		Should(BeNumerically(">", till.Score+1000))
	g.Expect(p.Count(queuedOf(key))).To(BeNumerically("<=", asked+2), "now and then")
	g.Expect(done).NotTo(Receive())
}

func TestACorruptQueueIsAnErrorThatSaysSo(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c := dial(t, server.URL())
	g.Expect(connect(t, server.URL()).Set(t.Context(), placesKey(key), "x", time.Minute).Err()).To(Succeed())
	_, err := fairly(c)(t.Context(), WithWait())
	g.Expect(err).To(MatchError(ErrCorrupt))
	g.Expect(err).To(MatchError(ContainSubstring(placesKey(key))))
	g.Expect(errors.Is(err, ErrNotAcquired)).To(BeFalse())
}

func TestPauseOfAWaiterWithAPlace(t *testing.T) {
	t.Parallel()
	const place = 8 * time.Second
	for name, test := range map[string]struct {
		refusal       error
		least, utmost time.Duration
	}{
		"first, until the expiry":       {&HeldError{Holder: "h", Value: "h", Kind: KindLock, TTL: time.Second}, time.Second, time.Second + 5*time.Millisecond},
		"first, but keeps its place":    {&HeldError{Holder: "h", Value: "h", Kind: KindLock, TTL: time.Hour}, place/2 - place/20, place / 2},
		"second, no matter the expiry":  {&HeldError{Holder: "h", Value: "h", Kind: KindLock, TTL: time.Second, Ahead: 1}, place/2 - place/20, place / 2},
		"second, until the first's end": {&HeldError{TTL: time.Second, Ahead: 1}, time.Second, time.Second + 5*time.Millisecond},
		"readers are no strangers":      {&HeldError{Kind: KindReaders, TTL: 3 * time.Second}, 3 * time.Second, 3*time.Second + 5*time.Millisecond},
		"of another library":            {&HeldError{Value: "x", Kind: KindLock, TTL: time.Hour}, longestBlind * 9 / 10, longestBlind},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			a := attempt{place: place}
			w := newWakes(nil).newWaiter(key)
			for range 100 {
				g.Expect(a.pause(w, test.refusal, pauseAfter(test.refusal, true))).
					To(And(BeNumerically(">=", test.least), BeNumerically("<=", test.utmost)))
			}
		})
	}
	g := NewWithT(t)
	for lease, span := range map[time.Duration]time.Duration{
		minLease: shortestPlace, 3 * time.Second: 3 * time.Second, time.Hour: longestPlace,
	} {
		g.Expect((&lockConfig{lease: lease}).placeSpan()).To(Equal(span))
	}
}
