package redislock

import (
	"context"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

// waitFor starts an Acquire that waits, and returns when it does.
func waitFor(t *testing.T, g *WithT, ctx context.Context, c *Client, opts ...LockOption) <-chan error {
	t.Helper()
	before := c.wakes.waiting(key)
	done := make(chan error, 1)
	go func() {
		_, err := c.Acquire(ctx, key, append(opts, patient(), WithWait())...)
		done <- err
	}()
	g.Eventually(func() int { return c.wakes.waiting(key) }).Should(Equal(before + 1))
	g.Eventually(func() bool { return c.wakes.listening(key) }).Should(BeTrue())
	return done
}

// soon is less than a waiter's timer, which would end the wait too.
const soon = longestWait / 2

func TestWaitersAreWokenByARelease(t *testing.T) {
	t.Parallel()
	for name, release := range map[string]func(context.Context, *Client, *Lock) error{
		"of its holder": func(ctx context.Context, _ *Client, l *Lock) error { return l.Release(ctx) },
		"by force": func(ctx context.Context, c *Client, l *Lock) error {
			_, err := c.ForceRelease(ctx, key, l.Fence(), Immediately())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			holder := dial(t, server.URL())
			l := mustAcquire(t, holder, key, patient())
			done := waitFor(t, g, t.Context(), dial(t, server.URL()))
			g.Expect(release(t.Context(), holder, l)).To(Succeed())
			g.Eventually(done, soon).Should(Receive(BeNil()))
		})
	}
}

func TestWaitersAreWokenByAnExpiry(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	mustAcquire(t, dial(t, server.URL()), key, lapsing(4*time.Second))
	p := proxy.Start(t, server.URL())
	done := waitFor(t, g, t.Context(), dial(t, p.URL()))
	g.Eventually(done).Should(Receive(BeNil()))
	g.Expect(p.Count(acquireOf(key))).To(BeNumerically("<", 10), "by a timer, not by asking over and over")
}

func TestARenewedLockIsWaitedForBeyondItsFirstExpiry(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := mustAcquire(t, dial(t, server.URL()), key, lapsing(6*time.Second))
	done := waitFor(t, g, t.Context(), dial(t, server.URL()))
	g.Expect(l.Extend(t.Context(), 5*time.Minute)).To(Succeed())
	g.Consistently(done, "7s").ShouldNot(Receive())
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Eventually(done, soon).Should(Receive(BeNil()))
}

func TestManyWaitersAcquireOneAfterTheOther(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	clients := []*Client{dial(t, server.URL()), dial(t, server.URL())}
	var held sync.Mutex
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			l, err := clients[i%2].Acquire(t.Context(), key, patient(), WithWait())
			if err != nil {
				t.Error(err)
				return
			}
			if !held.TryLock() {
				t.Error("two hold it")
				return
			}
			held.Unlock()
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, c := range clients {
		g.Expect(c.wakes.waiting(key)).To(BeZero())
	}
}

func TestOneReleaseCostsAProcessOneTry(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	holder := dial(t, server.URL())
	l := mustAcquire(t, holder, key, patient())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	acquaint(t, c)
	waiters := make([]<-chan error, 10)
	for i := range waiters {
		waiters[i] = waitFor(t, g, t.Context(), c)
	}
	tries := p.Count(acquireOf(key))
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Eventually(func() int { return c.wakes.waiting(key) }).Should(Equal(len(waiters) - 1))
	g.Expect(p.Count(acquireOf(key)) - tries).To(BeNumerically("<=", 3))
}

func TestCloseEndsWaiting(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	mustAcquire(t, dial(t, server.URL()), key, patient())
	c := dial(t, server.URL())
	first, second := waitFor(t, g, t.Context(), c), waitFor(t, g, t.Context(), c)
	g.Expect(c.Close(t.Context())).To(Succeed())
	g.Eventually(first).Should(Receive(MatchError(ErrClosed)))
	g.Eventually(second).Should(Receive(MatchError(ErrClosed)))
	_, err := c.Acquire(t.Context(), key, patient())
	g.Expect(err).To(MatchError(ErrClosed))
	g.Expect(c.Close(t.Context())).To(Succeed(), "again")
}

func TestASubscriptionThatBreaksLosesNoWakeUp(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	l := mustAcquire(t, dial(t, server.URL()), key, patient())
	done := waitFor(t, g, t.Context(), dial(t, server.URL()))
	g.Expect(rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Val()).To(BeEquivalentTo(1))
	// Released while nobody listens: what wakes is that the subscription stands again.
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Eventually(done, soon).Should(Receive(BeNil()))
}

func TestASubscriptionThatBrokeIsWokenLater(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	l := mustAcquire(t, dial(t, server.URL()), key, patient())
	c := dial(t, server.URL())
	done := waitFor(t, g, t.Context(), c)
	subscribers := func() int64 { return rdb.PubSubNumSub(t.Context(), wakeChannel(key)).Val()[wakeChannel(key)] }
	for range 3 {
		g.Expect(rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Val()).To(BeEquivalentTo(1))
		g.Eventually(subscribers).Should(BeEquivalentTo(1))
	}
	g.Eventually(func() bool { return c.wakes.listening(key) }).Should(BeTrue())
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Eventually(done, soon).Should(Receive(BeNil()))
}

// A waiter that joins just after the last one left finds the subscription still
// standing, or about to end. It must hear for itself that it stands.
func TestAWaiterThatJoinsAsTheLastOneLeavesIsConfirmed(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := mustAcquire(t, dial(t, server.URL()), key, patient())
	c := dial(t, server.URL())
	c.wakes.join("lock:keeps the connection")
	for range 50 {
		w := c.wakes.join(key)
		g.Eventually(w.pushed).Should(BeTrue())
		w.leave(false)
		next := c.wakes.join(key)
		g.Eventually(next.wake).Should(Receive())
		g.Eventually(next.pushed).Should(BeTrue())
		next.leave(false)
		g.Eventually(func() int { return c.wakes.waiting(key) }).Should(BeZero())
	}
	g.Expect(l.Release(t.Context())).To(Succeed())
}

func TestPauseAfterARefusal(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		refusal       error
		pushed        bool
		least, utmost time.Duration
	}{
		"until the expiry":             {&HeldError{Holder: "h", TTL: time.Second}, true, time.Second, time.Second + 5*time.Millisecond},
		"capped":                       {&HeldError{Holder: "h", TTL: time.Hour}, true, longestWait * 9 / 10, longestWait},
		"not heard of":                 {&HeldError{Holder: "h", TTL: time.Hour}, false, longestBlind * 9 / 10, longestBlind},
		"of another library":           {&HeldError{Value: "x", TTL: time.Hour}, true, longestBlind * 9 / 10, longestBlind},
		"without expiry":               {&HeldError{Value: "x", TTL: -1}, true, longestBlind * 9 / 10, longestBlind},
		"ours without expiry":          {&HeldError{Holder: "h", TTL: -1}, true, longestWait * 9 / 10, longestWait},
		"tombstone":                    {&HeldError{Value: "~x", TTL: 5 * time.Second}, true, 5 * time.Second, 5*time.Second + 5*time.Millisecond},
		"quarantine":                   {&QuarantineError{Remaining: 42 * time.Second}, true, 42 * time.Second, 42 * time.Second},
		"expires within a millisecond": {&HeldError{Holder: "h"}, true, time.Millisecond, 5 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			for range 100 {
				g.Expect(pauseAfter(test.refusal, test.pushed)).To(And(BeNumerically(">=", test.least), BeNumerically("<=", test.utmost)))
			}
		})
	}
}

// Of those who have a place in the lock's queue the one that came first is woken,
// whatever the order in which they joined.
func TestOfWaitersWithAPlaceTheForemostIsWoken(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := dial(t, startRedis(t).URL())
	late := c.wakes.joinPlaced(key, 7)
	g.Eventually(late.wake).Should(Receive(), "the subscription is confirmed: it may have missed its turn")
	early := c.wakes.joinPlaced(key, 5)
	g.Expect(early.wake).To(Receive(), "it may have been its turn before it joined")
	g.Expect(late.wake).NotTo(Receive())

	c.wakes.wakeFirst(wakeChannel(key), false)
	g.Expect(early.wake).To(Receive())
	g.Expect(late.wake).NotTo(Receive())

	ordinary := c.wakes.join(key)
	unknown := c.wakes.joinPlaced(key, 0)
	g.Expect(unknown.wake).To(Receive())
	c.wakes.wakeFirst(wakeChannel(key), false)
	for _, w := range []*waiter{early, unknown, ordinary} {
		g.Expect(w.wake).To(Receive(), "whoever may be the first of its sort")
	}
	g.Expect(late.wake).NotTo(Receive())
	unknown.leave(true)
	ordinary.leave(false)
	g.Expect(late.wake).NotTo(Receive())

	early.setTicket(9)
	g.Expect(late.wake).To(Receive(), "who lost its place is not the foremost any more")
	early.setTicket(9)
	g.Expect(late.wake).NotTo(Receive())
	late.leave(false)
	g.Expect(early.wake).To(Receive(), "who gives up hands its wake-up on")
	early.leave(true)
	g.Expect(c.wakes.waiting(key)).To(BeZero())
}
