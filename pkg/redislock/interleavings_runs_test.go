package redislock

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// Interleavings of runs under a lock that changes hands.

// Two clusters share a lock; the first one's lease can be made to end.
type twoClusters struct {
	server *redisserver.Server
	clk    *bentClock
	a, b   *Client
}

func startTwoClusters(t *testing.T) *twoClusters {
	t.Helper()
	server, clk := startRedis(t), &bentClock{}
	return &twoClusters{server, clk, newClient(t, connect(t, server.URL()), withClock(clk)), dial(t, server.URL())}
}

// takeOver has the lock of cluster a lapse, and its key, and cluster b acquire it.
func (c *twoClusters) takeOver(t *testing.T, g *WithT, l *Lock) *Lock {
	t.Helper()
	c.clk.pass(5 * time.Minute)
	g.Expect(l.Err()).To(MatchError(ErrLost))
	g.Expect(connect(t, c.server.URL()).Del(t.Context(), key).Err()).To(Succeed())
	return mustAcquire(t, c.b, key, patient())
}

func TestInterleaving09AFinishAfterItsLeaseLapsedIsRecorded(t *testing.T) {
	t.Parallel()
	for name, takenOver := range map[string]bool{"nobody took over": false, "another has the lock": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			c := startTwoClusters(t)
			l := mustAcquire(t, c.a, key, lapsing(5*time.Minute))
			run := tickAgo(0)
			claim := mustClaim(t, l, claimBy("a/1", run))
			next := c.takeOver(t, g, l)
			if !takenOver {
				g.Expect(next.Release(t.Context())).To(Succeed())
			}
			g.Expect(c.a.FinishRun(t.Context(), key, run, claim.Fence, "Complete", true)).To(Equal(FinishDone))
			if !takenOver {
				next = mustAcquire(t, c.b, key, patient())
			}
			g.Expect(refused(g, next, ClaimRequest{Run: run, Claimant: "b/1", Rerun: true}).Reason).To(Equal(RunDone))
			g.Expect(c.b.Runs(t.Context(), key)).To(HaveField("LastSuccess", HaveKey(run.Series)))
		})
	}
}

func TestInterleaving09AFinishOfASupersededRunIsRefused(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := startTwoClusters(t)
	ctx := t.Context()
	p := proxy.Start(t, c.server.URL())
	g.Expect(connect(t, c.server.URL()).ScriptLoad(ctx, finishScript.source).Err()).To(Succeed())
	l := mustAcquire(t, c.a, key, lapsing(5*time.Minute))
	run := tickAgo(0)
	first := mustClaim(t, l, claimBy("a/1", run))

	// Its runner says that it is done, but that is stuck until another has it.
	stuck := p.Hold(finishOf(run))
	gaveUp, cancel := context.WithCancel(ctx)
	go func() {
		<-stuck.Arrived
		cancel()
	}()
	_, err := dial(t, p.URL()).FinishRun(gaveUp, key, run, first.Fence, "Complete late", true)
	g.Expect(err).To(MatchError(context.Canceled))
	next := c.takeOver(t, g, l)
	second := mustClaim(t, next, ClaimRequest{Run: run, Claimant: "b/1", Rerun: true})
	g.Expect(second.Kind).To(Equal(ClaimSuperseding))
	g.Expect(second.Fence).To(BeNumerically(">", first.Fence))
	g.Expect(stuck.Deliver()).To(ContainSubstring("superseded"))
	g.Expect(c.b.Runs(ctx, key)).To(And(
		HaveField("Ticks", HaveExactElements(And(HaveField("State", TickClaimed), HaveField("Claimant", "b/1")))),
		HaveField("Active", HaveExactElements(HaveField("Fence", second.Fence))),
		HaveField("LastSuccess", BeEmpty()),
	))
	g.Expect(c.b.FinishRun(ctx, key, run, second.Fence, "Complete", true)).To(Equal(FinishDone))
	g.Expect(c.a.FinishRun(ctx, key, run, first.Fence, "Complete later", true)).To(Equal(FinishSuperseded))
	g.Expect(c.b.Runs(ctx, key)).To(HaveField("Ticks", HaveExactElements(HaveField("Outcome", "Complete"))))
}

func TestInterleaving09DoneNeverTurnsBack(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := startTwoClusters(t)
	ctx := t.Context()
	p := proxy.Start(t, c.server.URL())
	l := mustAcquire(t, c.a, key, lapsing(5*time.Minute))
	rdb := connect(t, c.server.URL())
	for _, source := range []string{finishScript.source, reopenScript.source} {
		g.Expect(rdb.ScriptLoad(ctx, source).Err()).To(Succeed())
	}
	run := tickAgo(0)
	claim := mustClaim(t, l, claimBy("a/1", run))

	// A reopening and another outcome come after the run was recorded as done.
	proxied := dial(t, p.URL())
	var late []*proxy.Held
	for _, call := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := proxied.ReopenRun(ctx, key, run, claim.Fence); return err },
		func(ctx context.Context) error {
			_, err := proxied.FinishRun(ctx, key, run, claim.Fence, "Failed", false)
			return err
		},
	} {
		stuck := p.Hold(finishOf(run))
		gaveUp, cancel := context.WithCancel(ctx)
		go func() {
			<-stuck.Arrived
			cancel()
		}()
		g.Expect(call(gaveUp)).To(MatchError(context.Canceled))
		late = append(late, stuck)
	}
	g.Expect(c.a.FinishRun(ctx, key, run, claim.Fence, "Complete", true)).To(Equal(FinishDone))
	g.Expect(late[0].Deliver()).To(ContainSubstring("finished"))
	g.Expect(late[1].Deliver()).To(ContainSubstring("already"))
	g.Expect(refused(g, l, claimBy("a/1", run)).Record).To(HaveField("Outcome", "Complete"))
	next := c.takeOver(t, g, l)
	for _, rerun := range []bool{false, true} {
		g.Expect(refused(g, next, ClaimRequest{Run: run, Claimant: "b/1", Rerun: rerun}).Reason).To(Equal(RunDone))
	}
}

func TestInterleaving10AClusterThatIsThreeDaysLateRunsNothing(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := startTwoClusters(t)
	ctx := t.Context()
	threeDays := tickAgo(72 * time.Hour)

	// Nothing is known of that tick, and nothing of its series.
	late := mustAcquire(t, c.b, key, patient())
	g.Expect(refused(g, late, ClaimRequest{Run: threeDays, Claimant: "b/1", Rerun: true}).Reason).To(Equal(RunTooOld))
	g.Expect(late.Release(ctx)).To(Succeed())

	// And within the retention: the record of the tick is gone, the mark is not.
	l := mustAcquire(t, c.a, key, lapsing(5*time.Minute))
	old := tickAgo(time.Hour)
	claim := mustClaim(t, l, claimBy("a/0", old))
	g.Expect(c.a.FinishRun(ctx, key, old, claim.Fence, "ok", true)).To(Equal(FinishDone))
	newest := tickAgo(0)
	claim = mustClaim(t, l, claimBy("a/1", newest))
	g.Expect(c.a.FinishRun(ctx, key, newest, claim.Fence, "ok", true)).To(Equal(FinishDone))
	g.Expect(connect(t, c.server.URL()).HDel(ctx, runsKey(key), old.name()).Err()).To(Succeed())
	late = c.takeOver(t, g, l)
	refusal := refused(g, late, ClaimRequest{Run: old, Claimant: "b/1", Rerun: true})
	g.Expect(refusal.Reason).To(Equal(RunSuperseded))
	g.Expect(refusal.Newest).To(Equal(newest.Tick))
	g.Expect(refused(g, late, ClaimRequest{Run: threeDays, Claimant: "b/1", Rerun: true}).Reason).To(Equal(RunTooOld))
	g.Expect(c.b.Runs(ctx, key)).To(HaveField("Active", BeEmpty()))
}
