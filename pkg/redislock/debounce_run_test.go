package redislock

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// brief is the wait of a debounce whose run a test waits for.
const brief = 20 * time.Millisecond

func debounceClaimOf() proxy.Match { return proxy.Script(debounceKey, string(Trailing)) }

func debounceExtendOf() proxy.Match {
	return proxy.All(proxy.Script(debounceKey), func(args []string) bool { return len(args) == 9 })
}

func debounceFinishOf(outcome string) proxy.Match {
	return proxy.Script(debounceKey, outcome, wakeChannel(debounceKey))
}

// A performance is a run that goes on until the test ends it.
type performance struct {
	DebounceRun
	ctx context.Context
	end chan error
}

// performing has a debouncer run. Each run is handed to the test, which ends it.
func performing(t *testing.T, d *Debouncer) (runs chan *performance, stop func() error) {
	t.Helper()
	runs = make(chan *performance, 100)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		result <- d.Run(ctx, func(ctx context.Context, r DebounceRun) error {
			p := &performance{r, ctx, make(chan error, 1)}
			runs <- p
			return <-p.end
		})
	}()
	t.Cleanup(cancel)
	return runs, sync.OnceValue(func() error {
		cancel()
		return <-result
	})
}

func nextRun(g *WithT, runs chan *performance) *performance {
	var p *performance
	g.Eventually(runs).Should(Receive(&p))
	return p
}

func stateOf(t *testing.T, d *Debouncer) DebounceState {
	t.Helper()
	s, err := d.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRunsOfADebounceHaveOutcomes(t *testing.T) {
	t.Parallel()
	g := within(t)
	d := debouncer(t, dial(t, startRedis(t).URL()), Debounce{Wait: brief, Claimant: "r/1"})
	runs, stop := performing(t, d)
	for _, tc := range []struct {
		err              error
		outcome, message string
	}{
		{nil, DebounceSucceeded, ""},
		{errors.New("no luck"), DebounceFailed, "no luck"},
		{errors.New(strings.Repeat("ü", 1000)), DebounceFailed, strings.Repeat("ü", 512)},
		{errors.New("x" + strings.Repeat("ü", 1000)), DebounceFailed, "x" + strings.Repeat("ü", 511)},
	} {
		call := mustCall(t, d, "p")
		p := nextRun(g, runs)
		g.Expect(p.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("First", call.At), HaveField("Last", call.At),
			HaveField("Attempt", 1), HaveField("Resumed", false), HaveField("Payload", []byte("p"))))
		g.Expect(stateOf(t, d)).To(And(HaveField("Running.Generation", call.Generation), HaveField("Quiet()", false)))
		p.end <- tc.err
		g.Eventually(func() *EndedDebounce { return stateOf(t, d).LastRun }).Should(HaveValue(And(
			HaveField("Generation", call.Generation), HaveField("Claimant", "r/1"), HaveField("Started", p.Claimed),
			HaveField("Outcome", tc.outcome), HaveField("Message", tc.message))))
	}
	g.Expect(stop()).To(Succeed())
	g.Expect(runs).To(BeEmpty())
}

func TestCallsDuringARunAreRunAfterIt(t *testing.T) {
	t.Parallel()
	g := within(t)
	d := debouncer(t, dial(t, startRedis(t).URL()), Debounce{Wait: brief})
	runs, _ := performing(t, d)
	first := mustCall(t, d, "one")
	p := nextRun(g, runs)
	second := mustCall(t, d, "two")
	g.Expect(second.Generation).To(BeNumerically(">", first.Generation))
	g.Expect(second.Opened).To(BeTrue())
	g.Expect(mustCall(t, d, "three").Generation).To(Equal(second.Generation))
	g.Expect(stateOf(t, d)).To(And(HaveField("Pending", second.Generation), HaveField("Waiting", 2), HaveField("Running.Generation", first.Generation)))
	p.end <- nil
	p = nextRun(g, runs)
	g.Expect(p.DebounceRun).To(And(HaveField("Generation", second.Generation), HaveField("Calls", 2), HaveField("Payload", []byte("three"))))
	p.end <- nil
}

func TestARunThatStopsIsTakenOverAtOnce(t *testing.T) {
	t.Parallel()
	g := within(t)
	url := startRedis(t).URL()
	settings := Debounce{Wait: brief, Lease: 5 * time.Minute}
	first, second := debouncer(t, dial(t, url), settings), debouncer(t, dial(t, url), settings)
	runs, stop := performing(t, first)
	call := mustCall(t, second, "one")
	p := nextRun(g, runs)
	others, _ := performing(t, second)
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	<-p.ctx.Done()
	p.end <- context.Cause(p.ctx)
	g.Eventually(stopped).Should(Receive(BeNil()))
	taken := nextRun(g, others)
	g.Expect(taken.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("Attempt", 2), HaveField("Resumed", false),
		HaveField("Payload", []byte("one")), HaveField("Calls", 1), HaveField("First", call.At)))
	taken.end <- nil
	g.Eventually(func() DebounceState { return stateOf(t, first) }).Should(HaveField("LastRun.Attempt", 2))
}

func TestARunIsLeftToASuccessorOfTheSameName(t *testing.T) {
	t.Parallel()
	g := within(t)
	url := startRedis(t).URL()
	settings := Debounce{Wait: brief, Lease: 5 * time.Minute, Claimant: "blue"}
	first := debouncer(t, dial(t, url), settings)
	runs, stop := performing(t, first)
	call := mustCall(t, first, "one")
	p := nextRun(g, runs)
	other := settings
	other.Claimant = "green"
	looked := make(chan DebounceState, 1000)
	other.OnState = func(s DebounceState) { looked <- s }
	others, _ := performing(t, debouncer(t, dial(t, url), other))
	go func() {
		<-p.ctx.Done()
		p.end <- p.ctx.Err()
	}()
	g.Expect(stop()).To(Succeed())
	g.Expect(stateOf(t, first).Running).To(HaveValue(HaveField("Claimant", "blue")))

	successor, _ := performing(t, debouncer(t, dial(t, url), settings))
	resumed := nextRun(g, successor)
	g.Expect(resumed.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("Attempt", 1), HaveField("Resumed", true), HaveField("Payload", []byte("one"))))
	resumed.end <- nil
	g.Eventually(looked).Should(Receive(HaveField("LastRun", HaveValue(HaveField("Claimant", "blue")))))
	g.Expect(others).To(BeEmpty())
}

func TestARunEndsWithItsLeaseThoughRedisHangs(t *testing.T) {
	t.Parallel()
	for name, deaf := range map[string]bool{"deadlines are heeded": false, "deadlines are not heeded": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			const lease = 2 * time.Second
			d := debouncer(t, newClient(t, connect(t, server.URL(), func(o *redis.Options) { o.ContextTimeoutEnabled = !deaf })), Debounce{Wait: brief, Lease: lease})
			runs, _ := performing(t, d)
			call := mustCall(t, d, "one")
			p := nextRun(g, runs)
			begun := time.Now()
			g.Expect(server.Pause()).To(Succeed())
			g.Eventually(p.ctx.Done()).Should(BeClosed())
			took := time.Since(begun)
			lost, ok := errors.AsType[*DebounceLostError](context.Cause(p.ctx))
			g.Expect(ok).To(BeTrue(), "%v", context.Cause(p.ctx))
			g.Expect(lost).To(And(MatchError(ErrLost), HaveField("Generation", call.Generation), HaveField("Err", HaveOccurred())))
			g.Expect(lost.Error()).To(ContainSubstring("ended without a renewal"))
			g.Expect(took).To(BeNumerically("<", lease+patience/2))
			p.end <- p.ctx.Err()
			g.Expect(server.Resume()).To(Succeed())
			again := nextRun(g, runs)
			g.Expect(again.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("Resumed", true)))
			again.end <- nil
		})
	}
}

func TestARunIsRenewedForAsLongAsItGoesOn(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	told := make(chan DebounceState, 1000)
	d := debouncer(t, dial(t, p.URL()), Debounce{Wait: brief, Lease: 3 * time.Second, OnState: func(s DebounceState) { told <- s }})
	runs, _ := performing(t, d)
	mustCall(t, d, "one")
	run := nextRun(g, runs)
	first := stateOf(t, d).Running.Till
	g.Eventually(func() time.Time { return stateOf(t, d).Running.Till }).Should(BeTemporally(">", first.Add(3*time.Second)))
	g.Expect(run.ctx.Err()).NotTo(HaveOccurred())
	g.Expect(p.Count(debounceExtendOf())).To(BeNumerically(">=", 3))
	g.Eventually(told).Should(Receive(HaveField("Running", HaveValue(HaveField("Till", BeTemporally(">", first))))))
	run.end <- nil
}

func TestARenewalThatFailsIsRepeatedSoon(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	d := debouncer(t, newClient(t, connect(t, p.URL(), singleShot)), Debounce{Wait: brief, Lease: 12 * time.Second})
	runs, _ := performing(t, d)
	mustCall(t, d, "one")
	run := nextRun(g, runs)
	first := p.CutOn(debounceExtendOf())
	second := p.CutOn(debounceExtendOf())
	<-first.Done
	failed := time.Now()
	<-second.Done
	g.Eventually(func() int { return p.Count(debounceExtendOf()) }).Should(BeNumerically(">=", 3))
	g.Expect(time.Since(failed)).To(BeNumerically("<", 6*time.Second), "and not a third of the lease later, twice")
	g.Expect(run.ctx.Err()).NotTo(HaveOccurred())
	run.end <- nil
}

func TestALongerLeaseOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	g := within(t)
	d := debouncer(t, dial(t, startRedis(t).URL()), Debounce{Wait: brief, Lease: 4 * time.Second})
	runs, _ := performing(t, d)
	mustCall(t, d, "one")
	run := nextRun(g, runs)
	g.Expect(run.SetLease(t.Context(), time.Hour)).To(Succeed())
	s := stateOf(t, d)
	g.Expect(s.Running.Till).To(BeTemporally(">", s.At.Add(59*time.Minute)))
	g.Expect(run.SetLease(t.Context(), 0)).To(MatchError(ErrInvalid))
	g.Expect(run.SetLease(t.Context(), 2*longestSpan)).To(MatchError(ErrInvalid))
	g.Expect(DebounceRun{}.SetLease(t.Context(), time.Minute)).To(MatchError(ErrInvalid))
	g.Expect(d.c.rdb.Del(t.Context(), debounceKey).Err()).To(Succeed())
	err := run.SetLease(t.Context(), time.Hour)
	g.Expect(err).To(MatchError(ErrLost))
	g.Eventually(run.ctx.Done()).Should(BeClosed())
	g.Expect(context.Cause(run.ctx)).To(Equal(err))
	run.end <- nil
}

func TestTheEndOfARunIsRecordedOnceRedisIsBack(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	const lease = time.Second
	d := debouncer(t, newClient(t, connect(t, p.URL(), singleShot)), Debounce{Wait: brief, Lease: lease})
	runs, _ := performing(t, d)
	call := mustCall(t, d, "one")
	run := nextRun(g, runs)
	p.Refuse()
	p.Cut()
	g.Eventually(run.ctx.Done()).Should(BeClosed(), "the lease is over")
	run.end <- nil // and its work is done, and nobody else has it
	g.Eventually(p.Accept).Should(Succeed())
	g.Eventually(func() (DebounceState, error) { return d.State(t.Context()) }).Should(HaveField("LastRun", HaveValue(And(
		HaveField("Generation", call.Generation), HaveField("Outcome", DebounceSucceeded), HaveField("Attempt", 1)))))
	g.Expect(runs).To(BeEmpty())
}

func TestTheFinishOfAStragglerIsRefused(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	settings := Debounce{Wait: brief, Lease: time.Second}
	straggler := debouncer(t, newClient(t, connect(t, p.URL(), singleShot)), settings)
	runs, _ := performing(t, straggler)
	call := mustCall(t, straggler, "one")
	run := nextRun(g, runs)
	p.Refuse()
	p.Cut()
	settings.Lease = time.Minute
	d := debouncer(t, dial(t, server.URL()), settings)
	others, _ := performing(t, d)
	taken := nextRun(g, others)
	g.Expect(taken.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("Attempt", 2)))
	g.Eventually(run.ctx.Done()).Should(BeClosed())
	g.Eventually(p.Accept).Should(Succeed())
	run.end <- nil
	g.Eventually(func() int { return p.Count(debounceFinishOf(DebounceSucceeded)) }).Should(BeNumerically(">=", 1))
	g.Expect(stateOf(t, d).Running).To(HaveValue(HaveField("Attempt", 2)))
	taken.end <- errors.New("no luck")
	g.Eventually(func() *EndedDebounce { return stateOf(t, d).LastRun }).Should(HaveValue(And(
		HaveField("Outcome", DebounceFailed), HaveField("Attempt", 2))))
}

func TestARunEndsWithItsClient(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := dial(t, startRedis(t).URL())
	d := debouncer(t, c, Debounce{Wait: brief})
	runs, stop := performing(t, d)
	mustCall(t, d, "one")
	run := nextRun(g, runs)
	g.Expect(c.Close(t.Context())).To(Succeed())
	g.Eventually(run.ctx.Done()).Should(BeClosed())
	g.Expect(context.Cause(run.ctx)).To(MatchError(ErrClosed))
	run.end <- run.ctx.Err()
	g.Expect(stop()).To(Or(BeNil(), MatchError(ErrClosed)))
}

func TestAPanicOfARunComesThroughAndTheRunIsTakenOver(t *testing.T) {
	t.Parallel()
	g := within(t)
	d := debouncer(t, dial(t, startRedis(t).URL()), Debounce{Wait: brief})
	call := mustCall(t, d, "one")
	g.Expect(func() {
		_ = d.Run(t.Context(), func(context.Context, DebounceRun) error { panic("a run's") })
	}).To(PanicWith("a run's"))
	runs, _ := performing(t, d)
	run := nextRun(g, runs)
	g.Expect(run.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("Resumed", true)))
	run.end <- nil
}

func TestARunnerThatIsStoppedBeforeItBeganGivesTheRunBack(t *testing.T) {
	t.Parallel()
	for name, claimant := range map[string]string{"unnamed": "", "named": "blue"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			p, d, other := startDebounce(t, g, Debounce{Wait: brief, Claimant: claimant})
			call := mustCall(t, other, "one")
			g.Eventually(func() time.Time { return stateOf(t, other).At }).Should(BeTemporally(">", call.At.Add(brief)))
			claimed := p.HoldReply(debounceClaimOf())
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				ended <- d.Run(ctx, func(context.Context, DebounceRun) error {
					t.Error("it ran")
					return nil
				})
			}()
			<-claimed.Arrived
			cancel()
			g.Expect(claimed.Deliver()).To(ContainSubstring("claimed"))
			g.Eventually(ended).Should(Receive(BeNil()))
			g.Expect(stateOf(t, other).Running).To(HaveValue(And(HaveField("Generation", call.Generation), HaveField("Claimant", ""))))
		})
	}
}

func TestCallersOfOneDebouncerRunOnce(t *testing.T) {
	t.Parallel()
	g := within(t)
	d := debouncer(t, dial(t, startRedis(t).URL()), Debounce{Wait: 200 * time.Millisecond, MaxWait: patience, Claimant: "blue"})
	var ran, runs, atOnce atomic.Int32
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() {
			did, err := d.CallAndWait(t.Context(), nil, func(context.Context, DebounceRun) error {
				runs.Add(1)
				if atOnce.Add(1) > 1 {
					t.Error("two run at once")
				}
				time.Sleep(20 * time.Millisecond) // for the others to come in
				atOnce.Add(-1)
				return errors.New("no luck")
			})
			switch {
			case did && (err == nil || err.Error() != "no luck"):
				t.Errorf("its run ended with %v", err)
			case !did && err != nil:
				t.Error(err)
			}
			if did {
				ran.Add(1)
			}
		})
	}
	calls.Wait()
	g.Expect(ran.Load()).To(Equal(runs.Load()))
	g.Expect(stateOf(t, d)).To(And(HaveField("Runs", int64(runs.Load())), HaveField("Calls", int64(10)), HaveField("Quiet()", true)))
}

func TestWhoWaitedForItsCallClaimsNoMore(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	d := debouncer(t, dial(t, p.URL()), Debounce{Wait: brief})
	other := debouncer(t, dial(t, p.URL()), Debounce{})
	var later Call
	ran, err := d.CallAndWait(t.Context(), []byte("one"), func(ctx context.Context, r DebounceRun) error {
		later = mustCall(t, other, "two")
		for s := stateOf(t, other); s.At.Before(later.At.Add(2 * brief)); s = stateOf(t, other) { // it is due at the end of this run
		}
		return nil
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ran).To(BeTrue())
	g.Expect(stateOf(t, d)).To(And(HaveField("Running", BeNil()), HaveField("Pending", later.Generation)))
	ran, err = d.CallAndWait(t.Context(), []byte("three"), func(_ context.Context, r DebounceRun) error {
		g.Expect(r.Generation).To(Equal(later.Generation))
		g.Expect(r.Calls).To(Equal(2))
		return nil
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ran).To(BeTrue())
}

func TestWhoWaitsForACallThatIsLostCallsAgain(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	d := debouncer(t, dial(t, server.URL()), Debounce{Wait: 2 * time.Second})
	rdb := connect(t, server.URL())
	done := make(chan string, 1)
	go func() {
		ran, err := d.CallAndWait(t.Context(), []byte("one"), func(_ context.Context, r DebounceRun) error {
			done <- string(r.Payload)
			return nil
		})
		if !ran || err != nil {
			t.Errorf("ran: %t, %v", ran, err)
		}
		close(done)
	}()
	g.Eventually(func() int { return stateOf(t, d).Waiting }).Should(Equal(1))
	g.Expect(rdb.FlushAll(t.Context()).Err()).To(Succeed())
	g.Eventually(done).Should(Receive(Equal("one")))
	g.Eventually(done).Should(BeClosed())
}

func TestWhoWaitsEndsWithItsContext(t *testing.T) {
	t.Parallel()
	g := within(t)
	d := debouncer(t, dial(t, startRedis(t).URL()), Debounce{Wait: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for stateOf(t, d).Waiting == 0 {
		}
		cancel()
	}()
	ran, err := d.CallAndWait(ctx, nil, nil)
	g.Expect(ran).To(BeFalse())
	g.Expect(err).To(MatchError(context.Canceled))
}

// What Redis forgets.

func TestALostWindowIsToldOnceAndTheNextCallWorks(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*WithT, *redisserver.Server, *redis.Client){
		"restarted empty": func(g *WithT, s *redisserver.Server, _ *redis.Client) {
			g.Expect(s.Restart(redisserver.EmptyData)).To(Succeed())
		},
		"flushed": func(g *WithT, _ *redisserver.Server, rdb *redis.Client) {
			g.Expect(rdb.FlushAll(context.Background()).Err()).To(Succeed())
		},
		"the key deleted": func(g *WithT, _ *redisserver.Server, rdb *redis.Client) {
			g.Expect(rdb.Del(context.Background(), debounceKey).Err()).To(Succeed())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startReachableRedis(t)
			var mu sync.Mutex
			var told []DebounceState
			settings := Debounce{Wait: 3 * time.Second, OnState: func(s DebounceState) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, s)
			}}
			seen := func() []DebounceState {
				mu.Lock()
				defer mu.Unlock()
				return append([]DebounceState(nil), told...)
			}
			d := debouncer(t, dial(t, server.URL()), settings)
			runs, _ := performing(t, d)
			lost := mustCall(t, d, "one")
			g.Eventually(seen).Should(ContainElement(HaveField("Pending", lost.Generation)))
			lose(g, server, connect(t, server.URL()))
			caller := debouncer(t, dial(t, server.URL()), Debounce{})
			call := mustCall(t, caller, "two")
			g.Expect(call.Generation).To(BeNumerically(">", lost.Generation))
			g.Expect(call.Opened).To(BeTrue())
			run := nextRun(g, runs)
			g.Expect(run.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("Payload", []byte("two"))))
			run.end <- nil
			g.Eventually(func() DebounceState { return stateOf(t, d) }).Should(HaveField("Quiet()", true))
			var losses []DebounceState
			for _, s := range seen() {
				if s.Lost {
					losses = append(losses, s)
				}
			}
			g.Expect(losses).To(HaveExactElements(HaveField("LostGeneration", lost.Generation)))
		})
	}
}

func TestALossIsToldThoughLaterGenerationsAreOver(t *testing.T) {
	t.Parallel()
	g := within(t)
	var told []DebounceState
	d := debouncer(t, newClient(t, redis.NewClient(&redis.Options{})), Debounce{OnState: func(s DebounceState) { told = append(told, s) }})
	at := time.Now()
	step := func(s DebounceState) DebounceState {
		at = at.Add(time.Second)
		s.At = at
		d.tell(s)
		return told[len(told)-1]
	}
	g.Expect(step(DebounceState{Pending: 7, Calls: 10}).Lost).To(BeFalse())
	g.Expect(step(DebounceState{LastRun: &EndedDebounce{Generation: 9}, Calls: 3, Runs: 1})).To(And(HaveField("Lost", true), HaveField("LostGeneration", uint64(7))))
	g.Expect(step(DebounceState{LastRun: &EndedDebounce{Generation: 9}, Calls: 3, Runs: 1}).Lost).To(BeFalse())
	g.Expect(step(DebounceState{Running: &RunningDebounce{Generation: 11}, Pending: 12, Calls: 4}).Lost).To(BeFalse())
	g.Expect(step(DebounceState{LastRun: &EndedDebounce{Generation: 12}, Calls: 4}).Lost).To(BeFalse())
	g.Expect(step(DebounceState{}).Lost).To(BeFalse(), "nothing was open")
	step(DebounceState{Running: &RunningDebounce{Generation: 13}, Calls: 1})
	before := len(told)
	d.tell(DebounceState{At: at.Add(-100 * time.Millisecond)})
	g.Expect(told).To(HaveLen(before), "old news")
	d.tell(DebounceState{At: at.Add(-time.Hour)})
	g.Expect(told[before:]).To(HaveExactElements(HaveField("Lost", true)), "the clock was stepped back, and the run is gone")
}

// How it is woken.

func TestAnIdleRunnerIsWokenByACallAndHardlyAsks(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	d := debouncer(t, dial(t, server.URL()), Debounce{Wait: time.Millisecond})
	runs, _ := performing(t, d)
	g.Eventually(func() int64 {
		return rdb.PubSubNumSub(t.Context(), wakeChannel(debounceKey)).Val()[wakeChannel(debounceKey)]
	}).Should(Equal(int64(1)))
	caller := debouncer(t, dial(t, server.URL()), Debounce{})
	commands := func() int {
		for line := range strings.Lines(rdb.Info(t.Context(), "commandstats").Val()) {
			if rest, ok := strings.CutPrefix(line, "cmdstat_evalsha:calls="); ok {
				n, err := strconv.Atoi(rest[:strings.IndexByte(rest, ',')])
				g.Expect(err).NotTo(HaveOccurred())
				return n
			}
		}
		return 0
	}
	mustCall(t, caller, "warm")
	nextRun(g, runs).end <- nil
	g.Eventually(func() DebounceState { return stateOf(t, caller) }).Should(HaveField("Quiet()", true))
	var before int
	g.Eventually(func() bool { // its look after the finish
		before = commands()
		time.Sleep(50 * time.Millisecond)
		return commands() == before
	}).Should(BeTrue())
	g.Consistently(commands, 3*time.Second, 100*time.Millisecond).Should(Equal(before))
	begun := time.Now()
	mustCall(t, caller, "go")
	nextRun(g, runs).end <- nil
	g.Expect(time.Since(begun)).To(BeNumerically("<", idleLook/3), "it was woken")
}

func TestARunnerWorksAfterItsConnectionBroke(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	runs, _ := performing(t, debouncer(t, dial(t, p.URL()), Debounce{Wait: brief}))
	caller := debouncer(t, dial(t, server.URL()), Debounce{})
	for i := range 3 {
		p.Refuse()
		p.Cut()
		call := mustCall(t, caller, fmt.Sprint(i))
		g.Eventually(p.Accept).Should(Succeed())
		run := nextRun(g, runs)
		g.Expect(run.Generation).To(Equal(call.Generation))
		run.end <- nil
	}
}

func TestADebounceWorksWhereTheChannelIsDenied(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := redisserver.Start(t, redisserver.Options{UnixSocket: true, ACL: []string{"user app on >app ~* +@all resetchannels"}})
	url := server.UserURL("app", "app")
	runs, _ := performing(t, debouncer(t, dial(t, url), Debounce{Wait: brief}))
	caller := debouncer(t, dial(t, url), Debounce{})
	for range 2 {
		call := mustCall(t, caller, "one")
		run := nextRun(g, runs)
		g.Expect(run.Generation).To(Equal(call.Generation))
		run.end <- nil
	}
}

func TestADebounceSaysThatItIsDenied(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := redisserver.Start(t, redisserver.Options{UnixSocket: true, ACL: []string{"user app on >app ~other:* &* +@all"}})
	d := debouncer(t, dial(t, server.UserURL("app", "app")), Debounce{})
	_, err := d.Call(t.Context(), nil)
	g.Expect(Refused(err)).To(BeTrue(), "%v", err)
	err = d.Run(t.Context(), nil)
	g.Expect(Refused(err)).To(BeTrue(), "%v", err)
}
