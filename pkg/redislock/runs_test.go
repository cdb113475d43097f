package redislock

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

func claimOf(key string) proxy.Match       { return proxy.Script(key, runsKey(key)) }
func finishOf(run Run) proxy.Match         { return proxy.Script(runsKey(key), run.name()) }
func tickAgo(age time.Duration) Run        { return Run{Series: "ns/cj", Tick: aSecondAgo().Add(-age)} }
func aSecondAgo() time.Time                { return time.Now().Add(-time.Second).Truncate(time.Second).UTC() }
func claimBy(c string, r Run) ClaimRequest { return ClaimRequest{Run: r, Claimant: c} }

func mustClaim(t testing.TB, l *Lock, req ClaimRequest) Claim {
	t.Helper()
	claim, err := l.Claim(t.Context(), req)
	if err != nil {
		t.Fatalf("claim %q: %v", req.name(), err)
	}
	return claim
}

// refused is a claim that must not be had.
func refused(g *WithT, l *Lock, req ClaimRequest) *ClaimError {
	claim, err := l.Claim(context.Background(), req)
	g.Expect(claim).To(BeZero())
	g.Expect(err).To(MatchError(ErrNotClaimed))
	var refusal *ClaimError
	g.Expect(errors.As(err, &refusal)).To(BeTrue())
	g.Expect(refusal.Key).To(Equal(l.Key()))
	g.Expect(refusal.Run).To(Equal(req.Run))
	return refusal
}

func TestARunFromItsClaimToItsEnd(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := dial(t, startRedis(t).URL())
	ctx := t.Context()
	g.Expect(c.Runs(ctx, key)).To(And(HaveField("Active", BeEmpty()), HaveField("Ticks", BeEmpty()), HaveField("Now", Not(BeZero()))))
	l := mustAcquire(t, c, key, patient())
	run := tickAgo(0)
	claim := mustClaim(t, l, claimBy("cluster/job", run))
	g.Expect(claim.Kind).To(Equal(ClaimNew))
	g.Expect(claim.Fence).To(BeNumerically(">", l.Fence()))
	g.Expect(mustClaim(t, l, claimBy("cluster/job", run))).To(Equal(Claim{Fence: claim.Fence, Kind: ClaimAgain}))

	runs, err := c.Runs(ctx, key)
	g.Expect(err).NotTo(HaveOccurred())
	at := time.UnixMicro(int64(claim.Fence)).UTC()
	g.Expect(runs.Now).To(BeTemporally(">=", at))
	g.Expect(runs.Active).To(HaveExactElements(ActiveRun{Run: run, Fence: claim.Fence, Grant: l.Fence(), Claimant: "cluster/job", At: at}))
	g.Expect(runs.Ticks).To(HaveExactElements(TickRecord{
		Series: run.Series, Tick: run.Tick, State: TickClaimed, Fence: claim.Fence, Grant: l.Fence(), Claimant: "cluster/job", At: at,
	}))
	g.Expect(runs.HighWater).To(Equal(map[string]time.Time{run.Series: run.Tick}))
	g.Expect(runs.LastSuccess).To(BeEmpty())
	g.Expect(runs.Unreadable).To(BeZero())

	g.Expect(c.FinishRun(ctx, key, run, claim.Fence, "Complete: 3 of 3", true)).To(Equal(FinishDone))
	g.Expect(c.FinishRun(ctx, key, run, claim.Fence, "Failed", false)).To(Equal(FinishAlready))
	runs, err = c.Runs(ctx, key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(runs.Active).To(BeEmpty())
	g.Expect(runs.Ticks).To(HaveExactElements(And(HaveField("State", TickDone), HaveField("Outcome", "Complete: 3 of 3"))))
	g.Expect(runs.LastSuccess).To(Equal(map[string]time.Time{run.Series: runs.Ticks[0].At}))
	refusal := refused(g, l, claimBy("cluster/job", run))
	g.Expect(refusal.Reason).To(Equal(RunDone))
	g.Expect(refusal.Record).To(Equal(runs.Ticks[0]))

	manual := Run{ID: "uid-1"}
	second := mustClaim(t, l, claimBy("cluster/manual", manual))
	g.Expect(second.Fence).To(BeNumerically(">", claim.Fence))
	g.Expect(c.ReopenRun(ctx, key, manual, second.Fence)).To(Equal(Reopened))
	g.Expect(c.ReopenRun(ctx, key, manual, second.Fence)).To(Equal(ReopenedAlready))
	g.Expect(mustClaim(t, l, claimBy("cluster/manual", manual)).Fence).To(BeNumerically(">", second.Fence))
	g.Expect(l.Release(ctx)).To(Succeed())
	g.Expect(mustAcquire(t, c, key, patient()).Fence()).To(BeNumerically(">", second.Fence+1), "a grant comes after its runs")
}

func TestRefusalsOfARunSayWhy(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := dial(t, startRedis(t).URL())
	first := mustAcquire(t, c, key, patient())
	old, run := tickAgo(time.Minute), tickAgo(0)
	claim := mustClaim(t, first, claimBy("a/1", run))

	refusal := refused(g, first, claimBy("a/2", Run{ID: "m"}))
	g.Expect(refusal.Reason).To(Equal(RunActive))
	g.Expect(refusal.Active).To(And(HaveField("Run", run), HaveField("Fence", claim.Fence), HaveField("Claimant", "a/1")))
	g.Expect(refusal).To(MatchError(ContainSubstring("ns/cj")))
	refusal = refused(g, first, claimBy("a/2", old))
	g.Expect(refusal.Reason).To(Equal(RunSuperseded))
	g.Expect(refusal.Newest).To(Equal(run.Tick))
	g.Expect(refused(g, first, claimBy("a/2", tickAgo(DefaultRunRetention+time.Minute))).Reason).To(Equal(RunTooOld))
	g.Expect(refused(g, first, ClaimRequest{Run: tickAgo(2 * time.Hour), Claimant: "a/2", Retention: time.Hour}).Reason).To(Equal(RunTooOld))
	g.Expect(refused(g, first, claimBy("a/2", tickAgo(-2*time.Minute))).Reason).To(Equal(RunInFuture))
	g.Expect(mustClaim(t, first, ClaimRequest{Run: Run{ID: "m"}, Claimant: "a/2", Shared: true}).Kind).To(Equal(ClaimNew))
	g.Expect(first.Err()).NotTo(HaveOccurred(), "a refusal is no loss")

	g.Expect(first.Release(t.Context())).To(Succeed())
	second := mustAcquire(t, c, key, patient())
	refusal = refused(g, second, claimBy("b/1", run))
	g.Expect(refusal.Reason).To(Equal(RunClaimed))
	g.Expect(refusal.Record).To(And(HaveField("State", TickClaimed), HaveField("Claimant", "a/1"), HaveField("Grant", first.Fence())))
	again := mustClaim(t, second, ClaimRequest{Run: run, Claimant: "b/1", Rerun: true})
	g.Expect(again.Kind).To(Equal(ClaimSuperseding))
	g.Expect(c.FinishRun(t.Context(), key, run, claim.Fence, "", true)).To(Equal(FinishSuperseded))
	g.Expect(c.ReopenRun(t.Context(), key, run, claim.Fence)).To(Equal(ReopenSuperseded))
	g.Expect(c.FinishRun(t.Context(), key, run, again.Fence, "", true)).To(Equal(FinishDone))
	g.Expect(c.ReopenRun(t.Context(), key, run, again.Fence)).To(Equal(ReopenFinished))
}

func TestAClaimUnderALockThatIsGoneEndsTheGrant(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(context.Context, *Lock) error{
		"claim": func(ctx context.Context, l *Lock) error { _, err := l.Claim(ctx, claimBy("a", tickAgo(0))); return err },
		"cover": func(ctx context.Context, l *Lock) error { return l.Cover(ctx, time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			p := proxy.Start(t, server.URL())
			l := mustAcquire(t, dial(t, p.URL()), key, patient())
			g.Expect(rdb.Set(t.Context(), key, "theirs", time.Minute).Err()).To(Succeed())
			var lost *LostError
			err := call(t.Context(), l)
			g.Expect(errors.As(err, &lost)).To(BeTrue(), "%v", err)
			g.Expect(lost.Found).To(Equal("theirs"))
			g.Expect(l.IsHeld()).To(BeFalse())
			g.Expect(l.Context().Done()).To(BeClosed())
			g.Expect(context.Cause(l.Context())).To(Equal(err))
			g.Expect(rdb.Exists(t.Context(), runsKey(key)).Val()).To(BeZero())

			sent := len(p.Requests())
			g.Expect(call(t.Context(), l)).To(Equal(err))
			g.Expect(p.Requests()).To(HaveLen(sent), "a lock that is over asks nobody")
		})
	}
}

func TestALeaseThatEndsWhileAClaimIsUnderWay(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, p.URL()), withClock(clk))
	g.Expect(connect(t, server.URL()).ScriptLoad(t.Context(), claimSource).Err()).To(Succeed())
	l := mustAcquire(t, c, key, lapsing(time.Minute))
	run := tickAgo(0)
	stuck := p.HoldReply(claimOf(key))
	go func() {
		<-stuck.Arrived
		clk.pass(time.Minute)
		_, _ = stuck.Deliver()
	}()
	claim, err := l.Claim(t.Context(), claimBy("a", run))
	g.Expect(err).To(MatchError(ErrLost))
	g.Expect(claim.Fence).NotTo(BeZero(), "it was recorded")
	g.Expect(c.ReopenRun(t.Context(), key, run, claim.Fence)).To(Equal(Reopened))
}

func TestAClaimWhoseAnswerIsLostIsFoundAgain(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	rdb := connect(t, server.URL())
	g.Expect(rdb.ScriptLoad(t.Context(), claimSource).Err()).To(Succeed())
	l := mustAcquire(t, c, key, patient())
	run := tickAgo(0)
	lost := p.HoldReply(claimOf(key))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-lost.Arrived
		cancel()
	}()
	_, err := l.Claim(ctx, claimBy("a", run))
	g.Expect(err).To(MatchError(context.Canceled))
	recorded, err := c.Runs(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(mustClaim(t, l, claimBy("a", run))).To(Equal(Claim{Fence: recorded.Ticks[0].Fence, Kind: ClaimAgain}))
}

// A claim that was stuck on its way until nobody waits for it any more is void.
func TestAClaimThatArrivesTooLateIsVoid(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	rdb := connect(t, server.URL())
	g.Expect(rdb.ScriptLoad(t.Context(), claimSource).Err()).To(Succeed())
	l := mustAcquire(t, c, key, WithLease(4*patience), WithRenewEvery(2*time.Second))
	stuck := p.Hold(claimOf(key))
	_, err := l.Claim(t.Context(), claimBy("a", tickAgo(0)))
	g.Expect(err).To(HaveOccurred(), "no answer came")
	<-stuck.Arrived
	args := stuck.Request().Args
	notAfter, err := strconv.ParseInt(args[len(args)-2], 10, 64)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(notAfter).To(BeNumerically("~", rdb.Time(t.Context()).Val().UnixMicro(), patience.Microseconds()))
	g.Eventually(func() int64 { return rdb.Time(t.Context()).Val().UnixMicro() }).Should(BeNumerically(">", notAfter))
	g.Expect(stuck.Deliver()).To(ContainSubstring("late"))
	g.Expect(c.Runs(t.Context(), key)).To(HaveField("Active", BeEmpty()))
}

func TestAClaimDeliveredTwiceIsOneClaim(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]Run{"tick": tickAgo(0), "no tick": {ID: "m"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			p := proxy.Start(t, server.URL())
			c := dial(t, p.URL())
			g.Expect(connect(t, server.URL()).ScriptLoad(t.Context(), claimSource).Err()).To(Succeed())
			l := mustAcquire(t, c, key, patient())
			first, second := p.Duplicate(claimOf(key)), p.Duplicate(claimOf(key))
			claim := mustClaim(t, l, claimBy("a", run))
			g.Expect(mustClaim(t, l, claimBy("a", run)).Kind).To(Equal(ClaimAgain))
			<-first.Arrived
			g.Expect(first.Deliver()).To(ContainSubstring("again"))
			runs, err := c.Runs(t.Context(), key)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(runs.Active).To(HaveExactElements(HaveField("Fence", claim.Fence)))

			g.Expect(c.FinishRun(t.Context(), key, run, claim.Fence, "ok", true)).To(Equal(FinishDone))
			<-second.Arrived
			g.Expect(second.Deliver()).To(ContainSubstring("done"))
			g.Expect(c.Runs(t.Context(), key)).To(HaveField("Active", BeEmpty()))
		})
	}
}

func TestAClaimWaitsWhileAClusterMovesItsKeys(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	var moving atomic.Int32
	rdb.AddHook(answers(func(cmd redis.Cmder) error {
		if args := cmd.Args(); len(args) > 5 && (args[5] == runsKey(key) || args[5] == runsKey("lock:short")) && moving.Add(-1) >= 0 {
			return movingError{}
		}
		return nil
	}))
	c := newClient(t, rdb)
	l := mustAcquire(t, c, key, patient())
	moving.Store(3)
	g.Expect(mustClaim(t, l, claimBy("a", tickAgo(0))).Kind).To(Equal(ClaimNew))
	g.Expect(moving.Load()).To(BeNumerically("<", 0))

	moving.Store(1 << 20)
	short := mustAcquire(t, c, "lock:short", WithLease(4*patience), WithRenewEvery(2*time.Second))
	started := time.Now()
	_, err := short.Claim(t.Context(), claimBy("a", tickAgo(0)))
	g.Expect(err).To(MatchError(movingError{}))
	g.Expect(time.Since(started)).To(BeNumerically(">=", 900*time.Millisecond), "within the operation's timeout, and not at once")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.Claim(ctx, claimBy("a", tickAgo(0)))
	g.Expect(err).To(MatchError(context.Canceled))
}

type movingError struct{}

func (movingError) Error() string { return "TRYAGAIN Multiple keys request during rehashing of slot" }
func (movingError) RedisError()   {}

// answers is a hook that answers in the server's place where it returns an error.
type answers func(redis.Cmder) error

func (answers) DialHook(next redis.DialHook) redis.DialHook { return next }
func (a answers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := a(cmd); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (answers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestCoverKeepsTheKeyAndLeavesTheLease(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	l := mustAcquire(t, c, key, lapsing(5*time.Minute), WithLockDelay(time.Minute), WithMaxHold(time.Hour))
	until := l.ValidUntil()
	g.Expect(l.Cover(t.Context(), 40*time.Minute)).To(Succeed())
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(about(40 * time.Minute))
	g.Expect(l.ValidUntil()).To(BeTemporally("~", until, time.Second))
	g.Expect(l.Cover(t.Context(), time.Minute)).To(Succeed())
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(about(40*time.Minute), "never shortened")
	mustClaim(t, l, ClaimRequest{Run: tickAgo(0), Claimant: "a", Cover: 50 * time.Minute})
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(about(50 * time.Minute))
	g.Expect(l.ValidUntil()).To(BeTemporally("~", until, time.Second))

	// The maximum hold and the delay after it bound the key.
	g.Expect(l.Cover(t.Context(), time.Hour+30*time.Second)).To(Succeed())
	g.Expect(l.Cover(t.Context(), time.Hour+2*time.Minute)).To(MatchError(ErrInvalid))
	_, err := l.Claim(t.Context(), ClaimRequest{Run: tickAgo(-time.Second), Claimant: "a", Cover: time.Hour + 2*time.Minute})
	g.Expect(err).To(MatchError(ErrInvalid))
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically("<=", time.Hour+30*time.Second))
	g.Expect(l.Err()).NotTo(HaveOccurred())
}

func TestTheRecordsOfRunsOutliveTheTicksThatTheyRefuse(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	expiry := func() time.Duration { return rdb.PTTL(t.Context(), runsKey(key)).Val() }
	l := mustAcquire(t, c, key, patient(), WithFenceRetention(time.Hour))
	mustClaim(t, l, ClaimRequest{Run: Run{ID: "1"}, Claimant: "a", Shared: true, Retention: time.Minute})
	g.Expect(expiry()).To(about(time.Hour))
	mustClaim(t, l, ClaimRequest{Run: Run{ID: "2"}, Claimant: "a", Shared: true, Retention: time.Minute, Cover: 2 * time.Hour})
	g.Expect(expiry()).To(about(2 * time.Hour))
	mustClaim(t, l, ClaimRequest{Run: Run{ID: "3"}, Claimant: "a", Shared: true})
	g.Expect(expiry()).To(And(BeNumerically(">", DefaultRunRetention+time.Minute), BeNumerically("<=", DefaultRunRetention+2*time.Minute)))
}

// The client takes a run's fence for the highest it saw, so that it notices when
// Redis forgot the run.
func TestTheFenceOfARunIsAWitness(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c := dial(t, server.URL())
	l := mustAcquire(t, c, key, patient())
	claim := mustClaim(t, l, claimBy("a", tickAgo(0)))
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Expect(connect(t, server.URL()).Set(t.Context(), fenceKey(key), l.Fence(), time.Hour).Err()).To(Succeed())
	_, err := c.TryAcquire(t.Context(), key)
	var quarantine *QuarantineError
	g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
	g.Expect(quarantine.Seen).To(Equal(claim.Fence))
}

func TestCorruptRecordsAreReported(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	ctx := t.Context()
	l := mustAcquire(t, c, key, patient())
	run := tickAgo(0)
	corrupt := func() {
		t.Helper()
		_, err := l.Claim(ctx, claimBy("a", run))
		g.Expect(err).To(MatchError(ErrCorrupt))
		_, err = c.FinishRun(ctx, key, run, 5, "", true)
		g.Expect(err).To(MatchError(ErrCorrupt))
		_, err = c.ReopenRun(ctx, key, run, 5)
		g.Expect(err).To(MatchError(ErrCorrupt))
	}
	g.Expect(rdb.HSet(ctx, runsKey(key), run.name(), "nonsense").Err()).To(Succeed())
	corrupt()
	g.Expect(c.Runs(ctx, key)).To(And(HaveField("Unreadable", 1), HaveField("Ticks", BeEmpty())))
	g.Expect(rdb.Set(ctx, runsKey(key), "nonsense", time.Hour).Err()).To(Succeed())
	corrupt()
	_, err := c.Runs(ctx, key)
	g.Expect(err).To(MatchError(ErrCorrupt))
	g.Expect(rdb.Del(ctx, runsKey(key)).Err()).To(Succeed())
	for _, counter := range []any{"nonsense", time.Now().Add(400 * 24 * time.Hour).UnixMicro()} {
		g.Expect(rdb.Set(ctx, fenceKey(key), counter, time.Hour).Err()).To(Succeed())
		_, err = l.Claim(ctx, claimBy("a", run))
		g.Expect(err).To(MatchError(ErrCorrupt))
	}
	g.Expect(l.Err()).NotTo(HaveOccurred())

	g.Expect(rdb.Set(ctx, candidatesKey(key), "x", time.Hour).Err()).To(Succeed())
	_, err = c.Announce(ctx, key, "a", time.Minute)
	g.Expect(err).To(MatchError(ErrCorrupt))
	g.Expect(c.Withdraw(ctx, key, "a")).To(MatchError(ContainSubstring("WRONGTYPE")))
}

func TestCandidatesSeeEachOther(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	a, b := dial(t, server.URL()), dial(t, server.URL())
	ctx := t.Context()
	first, err := a.Announce(ctx, key, "a", time.Hour)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first).To(And(HaveLen(1), HaveKeyWithValue("a", BeTemporally("~", time.Now(), time.Minute))))
	both, err := b.Announce(ctx, key, "b", time.Hour)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(both).To(And(HaveLen(2), HaveKeyWithValue("a", first["a"])))
	g.Expect(a.Announce(ctx, key, "a", time.Hour)).To(Equal(both))
	g.Expect(a.Announce(ctx, "lock:other", "", 0)).To(BeEmpty())
	g.Expect(a.Withdraw(ctx, key, "a")).To(Succeed())
	g.Expect(a.Withdraw(ctx, key, "a")).To(Succeed())
	g.Expect(b.Announce(ctx, key, "", 0)).To(And(HaveLen(1), HaveKey("b")))
	g.Expect(b.Announce(ctx, key, "c", 10*time.Millisecond)).To(HaveKey("c"))
	g.Eventually(func() (map[string]time.Time, error) { return a.Announce(ctx, key, "", 0) }).Should(And(HaveLen(1), HaveKey("b")))
	later, err := a.Announce(ctx, key, "a", time.Hour)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(later["a"]).To(BeTemporally(">", first["a"]), "it had withdrawn")
}

// FuzzRuns reads what others may have put into the hash.
func FuzzRuns(f *testing.F) {
	for _, seed := range [][2]string{
		{"tick ns/cj 1700000000", "claimed 9 7 1 c/1 "},
		{"tick ns/cj 1700000000", "done 9 7 1 c/1 Complete: 3 of 3"},
		{"id uid", "done 9 7 1 c/1 "},
		{"active 9", "7 1 c/1 tick ns/cj 1700000000"},
		{"active 9", "7 1 c/1 id m"},
		{"newest ns/cj", "1700000000"},
		{"success ns/cj", "1700000000000000"},
		{"expiry", "1"},
		{"", ""}, {"tick", "open"}, {"tick  5", "open 1 1 1  "}, {"tick x 05", "open 1 1 1 c "}, {"active -1", "x"},
		{"newest x 5", "6"}, {"tick x 99999999999999999999", "open 1 1 1 c "}, {"success ", "5"}, {"id a b", "done 1 1 1 c "},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, field, value string) {
		runs := parseRuns(reply{"newest other", "5", field, value, 7, nil, "odd"})
		if runs.Unreadable < 1 || runs.Unreadable > 2 {
			t.Fatalf("%d entries are unreadable", runs.Unreadable)
		}
		if runs.HighWater["other"].Unix() != 5 && field != "newest other" {
			t.Fatal("garbage hides what is not")
		}
		for _, tick := range runs.Ticks {
			run := Run{Series: tick.Series, Tick: tick.Tick}
			if err := run.validate(); err != nil || run.name() != field {
				t.Fatalf("%+v of %q: %v", tick, field, err)
			}
		}
		for _, active := range runs.Active {
			if err := active.validate(); err != nil {
				t.Fatalf("%+v: %v", active, err)
			}
		}
	})
}
