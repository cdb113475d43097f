package redislock

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
)

// wonTerm is a term whose body goes on until the test lets it end.
type wonTerm struct {
	*Term
	end chan string // "return", "break" or "panic"
}

// campaign runs an elector's loop. Each term is handed to the test; one that the
// test does not end by itself ends with its context.
func campaign(t *testing.T, ctx context.Context, e *Elector) (won <-chan wonTerm, over <-chan error) {
	t.Helper()
	terms, result := make(chan wonTerm), make(chan error, 1)
	go func() {
		defer close(result)
		defer func() {
			if r := recover(); r != nil {
				result <- r.(error)
			}
		}()
		for term, err := range e.Terms(ctx) {
			if err != nil {
				result <- err
				continue
			}
			w := wonTerm{term, make(chan string)}
			select {
			case terms <- w:
			case <-t.Context().Done():
				return
			}
			select {
			case how := <-w.end:
				switch how {
				case "break":
					return
				case "panic":
					panic(errors.New("panic of the body"))
				}
			case <-t.Context().Done():
				return
			}
		}
	}()
	return terms, result
}

func elector(t *testing.T, c *Client, name string, opts ...LockOption) *Elector {
	t.Helper()
	e, err := c.Elector(key, append([]LockOption{LockIdentity(name), patient()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func next[T any](g *WithT, c <-chan T) T {
	var v T
	g.Eventually(c).Should(Receive(&v))
	return v
}

func TestElectorRefusesOptionsThatMakeNoElection(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := newClient(t, unreachable(t))
	for name, opt := range map[string]LockOption{
		"no renewal": WithoutRenewal(), "no fence": WithoutFence(), "lease": WithLease(0), "identity": LockIdentity("a b"),
	} {
		_, err := c.Elector(key, opt)
		g.Expect(err).To(MatchError(ErrInvalid), name)
	}
	_, err := c.Elector("")
	g.Expect(err).To(MatchError(ErrInvalid))
}

func TestOneLeadsAndAnotherAfterItsEnd(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"return", "break", "panic"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			refused := make(chan error, 9)
			blue, green := elector(t, dial(t, server.URL()), "blue"), elector(t, dial(t, server.URL()), "green",
				WithRetry(1, 0), OnRefusal(func(err error) { refused <- err }))
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			blueWon, blueOver := campaign(t, ctx, blue)
			first := next(g, blueWon)
			g.Expect(blue.IsLeader()).To(BeTrue())
			greenWon, greenOver := campaign(t, t.Context(), green)
			g.Expect(green.IsLeader()).To(BeFalse())
			g.Expect(next(g, refused)).To(MatchError(ErrNotAcquired))

			if how == "return" {
				g.Expect(green.StepDown(time.Hour)).To(BeFalse(), "it has nothing to step down from")
				g.Expect(blue.StepDown(time.Hour)).To(BeTrue())
				g.Eventually(first.Context().Done()).Should(BeClosed())
				g.Expect(context.Cause(first.Context())).To(MatchError(ErrSteppedDown))
				g.Expect(blue.IsLeader()).To(BeFalse())
				g.Expect(first.IsHeld()).To(BeTrue(), "until the body has returned")
			}
			first.end <- how
			second := next(g, greenWon)
			g.Expect(greenOver).NotTo(Receive(), "an election waits, whatever WithRetry says")
			g.Expect(second.Fence()).To(BeNumerically(">", first.Fence()))
			g.Expect(first.Context().Err()).To(HaveOccurred())
			switch how {
			case "panic":
				g.Expect(next(g, blueOver)).To(MatchError("panic of the body"))
			case "break":
				g.Eventually(blueOver).Should(BeClosed())
			case "return":
				g.Expect(blue.StepDown(0)).To(BeFalse(), "its term is over")
				second.end <- "break"
				rdb := connect(t, server.URL())
				g.Eventually(func() string { return value(t, rdb, key) }).Should(BeEmpty())
				g.Consistently(func() string { return value(t, rdb, key) }, 100*time.Millisecond).Should(BeEmpty(), "blue rests")
				leave() // also then
				g.Eventually(blueOver).Should(BeClosed())
			}
		})
	}
}

func TestALostTermIsCampaignedForAgainOnceItsBodyHasReturned(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	e := elector(t, dial(t, server.URL()), "blue")
	won, _ := campaign(t, t.Context(), e)
	first := next(g, won)
	g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())
	renewOften(t, first.Lock)
	g.Eventually(first.Context().Done()).Should(BeClosed())
	g.Expect(context.Cause(first.Context())).To(MatchError(ErrLost))
	g.Expect(e.IsLeader()).To(BeFalse())

	g.Consistently(func() int64 { return rdb.Exists(t.Context(), key).Val() }, 200*time.Millisecond).Should(BeZero(), "the body still runs")
	g.Expect(won).NotTo(Receive())
	first.end <- "return"
	g.Expect(next(g, won).Fence()).To(BeNumerically(">", first.Fence()))
}

func TestTheEndOfTheCampaignEndsTheTermAndGivesItBack(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	type mark struct{}
	ctx, leave := context.WithCancel(context.WithValue(t.Context(), mark{}, "x"))
	won, over := campaign(t, ctx, elector(t, dial(t, server.URL()), "blue"))
	term := next(g, won)
	g.Expect(term.Context().Value(mark{})).To(Equal("x"))
	waiting, waitingOver := campaign(t, ctx, elector(t, dial(t, server.URL()), "green"))
	leave()
	g.Eventually(term.Context().Done()).Should(BeClosed())
	g.Eventually(waitingOver).Should(BeClosed())
	g.Expect(waiting).NotTo(Receive())
	g.Expect(value(t, rdb, key)).To(Equal(term.Token()), "until the body has returned")
	term.end <- "return"
	g.Eventually(over).Should(BeClosed())
	g.Expect(value(t, rdb, key)).To(BeEmpty())
}

// client-go cannot go below 2 s.
func TestALeaderThatDiedIsFollowedAfterALeaseOfLessThanTwoSeconds(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	dying := dial(t, server.URL())
	blueWon, blueOver := campaign(t, t.Context(), elector(t, dying, "blue", WithLease(300*time.Millisecond)))
	first := next(g, blueWon)
	greenWon, _ := campaign(t, t.Context(), elector(t, dial(t, server.URL()), "green", WithLease(300*time.Millisecond)))
	g.Expect(dying.Close(t.Context())).To(Succeed()) // nothing is released
	g.Eventually(first.Context().Done()).Should(BeClosed())
	g.Expect(next(g, greenWon).Fence()).To(BeNumerically(">", first.Fence()))
	first.end <- "return"
	g.Expect(next(g, blueOver)).To(MatchError(ErrClosed))
	g.Eventually(blueOver).Should(BeClosed(), "no more terms")
}

func TestWhatCannotBeHelpedEndsTheCampaign(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	g.Expect(rdb.Set(t.Context(), fenceKey(key), "x", time.Minute).Err()).To(Succeed())
	_, over := campaign(t, t.Context(), elector(t, dial(t, server.URL()), "blue"))
	g.Expect(next(g, over)).To(MatchError(ErrCorrupt))
	g.Eventually(over).Should(BeClosed())
}

func TestRedisThatIsAwayIsWaitedFor(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	g.Expect(server.Kill()).To(Succeed())
	refused := make(chan error, 1)
	won, _ := campaign(t, t.Context(), elector(t, newClient(t, connect(t, server.URL(), impatient, singleShot)), "blue",
		OnRefusal(func(err error) {
			select {
			case refused <- err:
			default:
			}
		})))
	g.Expect(next(g, refused)).NotTo(MatchError(ErrNotAcquired))
	g.Expect(server.Start()).To(Succeed())
	next(g, won)
}

// stillClock has timers that never fire: what happens with it was told, not found out.
type stillClock struct{ systemClock }

func (stillClock) timer(time.Duration) (<-chan time.Time, func()) { return nil, func() {} }

// seen is what a watcher was told.
type seen struct {
	Leader
	err error
}

func watching(t *testing.T, leaders iter.Seq2[Leader, error]) <-chan seen {
	t.Helper()
	told := make(chan seen)
	go func() {
		defer close(told)
		for leader, err := range leaders {
			select {
			case told <- seen{leader, err}:
			case <-t.Context().Done():
				return
			}
		}
	}()
	return told
}

func TestWatchersAreToldOfEachChange(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	watcher := elector(t, dial(t, server.URL(), withClock(stillClock{})), "watcher")
	told := watching(t, watcher.Leaders(t.Context()))
	g.Expect(next(g, told)).To(Equal(seen{}), "nobody leads")

	before := rdb.Time(t.Context()).Val()
	won, _ := campaign(t, t.Context(), elector(t, dial(t, server.URL()), "blue"))
	first := next(g, won)
	leader := next(g, told)
	g.Expect(leader.err).NotTo(HaveOccurred())
	g.Expect(leader.Held).To(BeTrue())
	g.Expect(leader.Name).To(Equal("blue"))
	g.Expect(leader.Fence).To(Equal(first.Fence()))
	g.Expect(leader.Since).To(BeTemporally("~", before, patience))
	asked, err := watcher.Leader(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(asked).To(Equal(leader.Leader))

	first.end <- "break"
	g.Expect(next(g, told)).To(Equal(seen{}))
	g.Expect(rdb.Set(t.Context(), key, "x", 0).Err()).To(Succeed())
	g.Expect(rdb.Publish(t.Context(), wakeChannel(key), "").Err()).To(Succeed())
	g.Expect(next(g, told).Leader).To(Equal(Leader{Held: true}), "a lock of another library")
}

func TestAWatcherTakesNoWakeUpFromAWaiter(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	holder := mustAcquire(t, dial(t, server.URL()), key, patient())
	// Watchers before and after the waiter, in its own client.
	c := dial(t, server.URL(), withClock(stillClock{}))
	before := watching(t, elector(t, c, "x").Leaders(t.Context()))
	g.Expect(next(g, before).Held).To(BeTrue())
	won, _ := campaign(t, t.Context(), elector(t, c, "green"))
	after := watching(t, elector(t, c, "y").Leaders(t.Context()))
	g.Expect(next(g, after).Held).To(BeTrue())
	g.Eventually(func() int {
		c.wakes.mu.Lock()
		defer c.wakes.mu.Unlock()
		return len(c.wakes.queues[wakeChannel(key)].waiters)
	}).Should(Equal(1))
	g.Expect(holder.Release(t.Context())).To(Succeed())
	term := next(g, won)
	for _, told := range []<-chan seen{before, after} {
		g.Eventually(told).Should(Receive(WithTransform(func(s seen) uint64 { return s.Fence }, Equal(term.Fence()))))
	}
}

func TestTheLastWatcherEndsTheSubscription(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL(), withClock(stillClock{}))
	subscribers := func() int64 { return rdb.PubSubNumSub(t.Context(), wakeChannel(key)).Val()[wakeChannel(key)] }
	ctx, cancel := context.WithCancel(t.Context())
	told := watching(t, elector(t, c, "x").Leaders(ctx))
	next(g, told)
	for _, err := range elector(t, c, "y").Leaders(t.Context()) {
		g.Expect(err).NotTo(HaveOccurred())
		break
	}
	g.Eventually(subscribers).Should(Equal(int64(1)))
	cancel()
	g.Eventually(told).Should(BeClosed())
	g.Eventually(subscribers).Should(BeZero())
}

func TestWatchersAreToldOnceThatRedisIsAway(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c := newClient(t, connect(t, server.URL(), impatient, singleShot, func(o *redis.Options) { o.DialerRetries = 1 }))
	e := elector(t, c, "x")
	told := watching(t, e.Leaders(t.Context()))
	g.Expect(next(g, told)).To(Equal(seen{}))
	g.Expect(server.Kill()).To(Succeed())
	away := next(g, told)
	g.Expect(away.err).To(HaveOccurred())
	g.Expect(away.Leader).To(Equal(Leader{}))
	g.Consistently(told, 300*time.Millisecond).ShouldNot(Receive(), "once")
	g.Expect(server.Start()).To(Succeed())
	g.Expect(next(g, told)).To(Equal(seen{}), "who leads, though that has not changed")
	g.Expect(c.Close(t.Context())).To(Succeed())
	g.Expect(next(g, told).err).To(MatchError(ErrClosed))
	g.Eventually(told).Should(BeClosed())
}

func TestAnIdleWatcherAsksSeldom(t *testing.T) {
	t.Parallel()
	g := within(t)
	for name, c := range map[string]struct {
		info     Info
		pushed   bool
		min, max time.Duration
	}{
		"nobody leads":         {Info{Status: Free}, true, 9 * time.Second, 10 * time.Second},
		"a long lease":         {Info{Status: Acquired, Holder: "blue", TTL: time.Minute}, true, 9 * time.Second, 10 * time.Second},
		"a short one":          {Info{Status: Acquired, Holder: "blue", TTL: 300 * time.Millisecond}, true, 300 * time.Millisecond, 310 * time.Millisecond},
		"kept taken":           {Info{Status: Free, Kept: true, Value: "~x", TTL: 2 * time.Second}, true, 2 * time.Second, 2010 * time.Millisecond},
		"no subscription":      {Info{Status: Free}, false, time.Second, time.Second},
		"a foreign lock":       {Info{Status: Acquired, Value: "x", TTL: -1}, true, 900 * time.Millisecond, time.Second},
		"held, not subscribed": {Info{Status: Acquired, Holder: "blue", TTL: time.Minute}, false, 900 * time.Millisecond, time.Second},
	} {
		pause := pauseOfWatcher(c.info, c.pushed)
		g.Expect(pause).To(And(BeNumerically(">=", c.min), BeNumerically("<=", c.max)), name)
	}
}

// ACLs may deny the channel: leading goes on, and watchers find out by themselves.
func TestAnElectionWorksWithoutItsChannel(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	admin := connect(t, server.URL())
	g.Expect(admin.ACLSetUser(t.Context(), "app", "on", "nopass", "~*", "resetchannels", "+@all").Err()).To(Succeed())
	app := connect(t, server.URL(), func(o *redis.Options) { o.Username, o.Password = "app", "x" })
	e := elector(t, newClient(t, app), "blue")
	won, _ := campaign(t, t.Context(), e)
	term := next(g, won)
	g.Expect(term.IsHeld()).To(BeTrue())
	told := watching(t, e.Leaders(t.Context()))
	g.Expect(next(g, told).Name).To(Equal("blue"))
	term.end <- "break"
	g.Expect(next(g, told)).To(Equal(seen{}))
}
