package redislock

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

// Interleavings of calls, runs and their ends.

// startDebounce returns a proxy, a debouncer behind it and one beside it. All their
// scripts are known to the server, so that a request that comes late is not refused.
func startDebounce(t *testing.T, g *WithT, settings Debounce) (p *proxy.Proxy, behind, beside *Debouncer) {
	t.Helper()
	server := startRedis(t)
	rdb := connect(t, server.URL())
	for _, s := range []*script{debounceCallScript, debounceClaimScript, debounceExtendScript, debounceFinishScript, debounceStateScript} {
		g.Expect(rdb.ScriptLoad(t.Context(), s.source).Err()).To(Succeed())
	}
	p = proxy.Start(t, server.URL())
	behind = debouncer(t, newClient(t, connect(t, p.URL(), singleShot)), settings)
	g.Eventually(func() error { // it knows the server's time
		_, err := behind.State(t.Context())
		return err
	}).Should(Succeed())
	return p, behind, debouncer(t, dial(t, server.URL()), settings)
}

func TestInterleaving23CallsDuringAFinishAreNotLost(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, d, other := startDebounce(t, g, Debounce{Wait: brief})
	runs, _ := performing(t, d)
	first := mustCall(t, other, "one")
	run := nextRun(g, runs)
	stuck := p.Hold(debounceFinishOf(DebounceSucceeded))
	run.end <- nil
	<-stuck.Arrived
	second := mustCall(t, other, "two")
	g.Expect(second.Generation).To(BeNumerically(">", first.Generation))
	g.Expect(stuck.Deliver()).NotTo(BeEmpty())
	run = nextRun(g, runs)
	g.Expect(run.DebounceRun).To(And(HaveField("Generation", second.Generation), HaveField("Payload", []byte("two")), HaveField("Calls", 1)))
	run.end <- nil
}

func TestInterleaving23AFinishIsRepeatedAndClearsOneRunOnly(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, d, other := startDebounce(t, g, Debounce{Wait: brief, Lease: 5 * time.Minute})
	runs, _ := performing(t, d)
	mustCall(t, other, "one")
	run := nextRun(g, runs)
	dropped := p.DropReply(debounceFinishOf(DebounceSucceeded))
	stuck := p.Duplicate(debounceFinishOf(DebounceSucceeded))
	run.end <- nil
	<-dropped.Done
	g.Expect(dropped.Cut()).To(Succeed())
	second := mustCall(t, other, "two")
	run = nextRun(g, runs)
	<-stuck.Arrived
	g.Expect(run.Generation).To(Equal(second.Generation))
	g.Expect(stuck.Deliver()).To(ContainSubstring("again"), "a late repetition")
	g.Expect(stateOf(t, other)).To(And(HaveField("Running.Generation", second.Generation), HaveField("Runs", int64(1))))
	run.end <- nil
	g.Eventually(func() DebounceState { return stateOf(t, other) }).Should(HaveField("Runs", int64(2)))
	g.Expect(runs).To(BeEmpty())
}

func TestInterleaving23ARetriedCallCountsOnce(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]CallOption{"by itself": nil, "by its caller": {WithSequence("webhook", 1)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			p, d, other := startDebounce(t, g, Debounce{Wait: time.Hour})
			dropped := p.DropReply(callOf())
			copied := p.Duplicate(callOf())
			call, err := d.Call(t.Context(), []byte("one"), opts...)
			g.Expect(err).NotTo(HaveOccurred())
			<-dropped.Done
			<-copied.Arrived
			g.Expect(call.Again).To(BeTrue())
			g.Expect(copied.Deliver()).To(ContainSubstring("again"))
			if opts != nil {
				g.Expect(mustCall(t, d, "one", opts...).Again).To(BeTrue())
			}
			g.Expect(stateOf(t, other)).To(And(HaveField("Waiting", 1), HaveField("Calls", int64(1)), HaveField("Pending", call.Generation)))
		})
	}
}

func TestInterleaving23ALateDuplicateDoesNotRestoreAnOlderPayload(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, d, other := startDebounce(t, g, Debounce{Wait: time.Hour})
	copied := p.Duplicate(callOf())
	mustCall(t, d, "old")
	<-copied.Arrived
	mustCall(t, d, "new")
	before := other.c.rdb.HGetAll(t.Context(), debounceKey).Val()
	g.Expect(before).To(HaveKeyWithValue("lastPayload", "new"))
	g.Expect(copied.Deliver()).To(ContainSubstring("again"))
	g.Expect(other.c.rdb.HGetAll(t.Context(), debounceKey).Val()).To(Equal(before))
}

func TestInterleaving23ACallThatIsStuckIsOvertakenByItsRetry(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, d, other := startDebounce(t, g, Debounce{Wait: brief})
	stuck := p.Hold(callOf())
	call := mustCall(t, d, "old") // its second try
	<-stuck.Arrived
	runs, _ := performing(t, d)
	run := nextRun(g, runs)
	g.Expect(run.Generation).To(Equal(call.Generation))
	run.end <- nil
	g.Eventually(func() DebounceState { return stateOf(t, other) }).Should(HaveField("Quiet()", true))
	g.Expect(stuck.Deliver()).To(Or(ContainSubstring("again"), ContainSubstring("late")))
	g.Expect(stateOf(t, other)).To(And(HaveField("Open", false), HaveField("Calls", int64(1))))
}

func TestInterleaving23ADeletedWindowDoesNotRestartItsGeneration(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, d, other := startDebounce(t, g, Debounce{Wait: time.Hour})
	copied := p.Duplicate(callOf())
	first := mustCall(t, d, "old")
	<-copied.Arrived
	g.Expect(other.c.rdb.Del(t.Context(), debounceKey).Err()).To(Succeed())
	g.Expect(copied.Deliver()).To(ContainSubstring("again"), "it was counted")
	g.Expect(stateOf(t, other).Open).To(BeFalse())
	second := mustCall(t, other, "new")
	g.Expect(second.Generation).To(BeNumerically(">", first.Generation))
	g.Expect(second.Opened).To(BeTrue())
	g.Expect(copied.Deliver()).To(ContainSubstring("again"))
	g.Expect(other.c.rdb.HGet(t.Context(), debounceKey, "firstPayload").Val()).To(Equal("new"))
}

func TestInterleaving23AClaimThatIsRepeatedIsOneRun(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, d, other := startDebounce(t, g, Debounce{Wait: brief, Lease: 5 * time.Minute})
	call := mustCall(t, other, "one")
	g.Eventually(func() time.Time { return stateOf(t, other).At }).Should(BeTemporally(">", call.At.Add(brief)))
	dropped := p.DropReply(debounceClaimOf())
	copied := p.Duplicate(debounceClaimOf())
	runs, _ := performing(t, d)
	<-dropped.Done
	g.Expect(dropped.Cut()).To(Succeed())
	run := nextRun(g, runs)
	g.Expect(run.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("Attempt", 1), HaveField("Resumed", true)))
	<-copied.Arrived
	g.Expect(copied.Deliver()).To(ContainSubstring("resumed"))
	run.end <- nil
	g.Eventually(func() DebounceState { return stateOf(t, other) }).Should(HaveField("Runs", int64(1)))
	g.Expect(copied.Deliver()).To(Or(ContainSubstring("idle"), ContainSubstring("late")))
	g.Expect(runs).To(BeEmpty())
}

func TestInterleaving23AGiveBackThatComesLateTakesNothing(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, d, other := startDebounce(t, g, Debounce{Wait: brief, Lease: 5 * time.Minute})
	call := mustCall(t, other, "one")
	runs, stop := performing(t, d)
	run := nextRun(g, runs)
	renewal := p.Duplicate(debounceExtendOf())
	g.Expect(run.SetLease(t.Context(), time.Minute)).To(Succeed())
	<-renewal.Arrived
	back := p.Duplicate(debounceFinishOf(""))
	go func() {
		<-run.ctx.Done()
		run.end <- context.Canceled
	}()
	g.Expect(stop()).To(Succeed())
	<-back.Arrived
	g.Expect(renewal.Deliver()).To(ContainSubstring("gone"), "what was given back is anybody's")
	again, _ := performing(t, d)
	run = nextRun(g, again)
	g.Expect(run.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("Attempt", 2)))
	g.Expect(back.Deliver()).To(ContainSubstring("gone"))
	g.Expect(renewal.Deliver()).To(ContainSubstring("gone"))
	s := stateOf(t, other)
	g.Expect(s.Running.Till).To(BeTemporally(">", s.At.Add(time.Minute)))
	run.end <- nil
}

func TestInterleaving16WhileASlotMigratesRunsGoOnAndACallWaits(t *testing.T) {
	t.Parallel()
	g := within(t)
	m := startMigration(t, debounceKey)
	d := debouncer(t, newClient(t, m.cluster), Debounce{Wait: brief})
	runs, _ := performing(t, d)
	mustCall(t, d, "before")
	run := nextRun(g, runs)

	m.begin()
	mustCall(t, d, "while all keys are still here")
	m.move(debounceKey)
	run.end <- nil
	run = nextRun(g, runs)
	g.Expect(run.DebounceRun).To(And(HaveField("Payload", []byte("while all keys are still here")), HaveField("Calls", 1)))
	run.end <- nil
	g.Eventually(func() DebounceState { return stateOf(t, d) }).Should(HaveField("Runs", int64(2)))

	// The debounce stands there, and what is known of its callers stands here.
	called := make(chan Call)
	go func() {
		call, err := d.Call(t.Context(), []byte("meanwhile"))
		if err != nil {
			t.Error(err)
		}
		called <- call
	}()
	g.Eventually(m.refusals).Should(BeNumerically(">", 10), "more than go-redis itself bears")
	m.move(sourcesKey(debounceKey))
	m.move(heardKey(debounceKey))
	m.end()
	call := <-called
	run = nextRun(g, runs)
	g.Expect(run.DebounceRun).To(And(HaveField("Generation", call.Generation), HaveField("Payload", []byte("meanwhile")), HaveField("Calls", 1)))
	run.end <- nil
	g.Eventually(func() DebounceState { return stateOf(t, d) }).Should(And(HaveField("Runs", int64(3)), HaveField("Calls", int64(3))))
}
