package redislock

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// A debounceStage plays the scripts of a debounce. After each of them all that stands in
// Redis has an expiry.
type debounceStage struct {
	*stage
	wait, maxWait, minInterval, lease time.Duration
	edge                              Edge
	payload                           PayloadChoice
	awaited                           int64
	notAfter                          int64
	expiry                            time.Duration
}

func newDebounceStage(t *testing.T) *debounceStage {
	return &debounceStage{stage: newStage(t), wait: time.Hour, maxWait: 3 * time.Hour, lease: time.Minute, edge: Trailing, payload: LastPayload, expiry: 24 * time.Hour}
}

var debounceKeys = []string{debounceKey, sourcesKey(debounceKey), heardKey(debounceKey)}

func (s *debounceStage) expiring(r reply) reply {
	s.t.Helper()
	for _, k := range s.rdb.Keys(s.t.Context(), "*").Val() {
		s.Expect(s.rdb.PTTL(s.t.Context(), k).Val()).To(BeNumerically(">", time.Minute), "the expiry of %q after %q", k, r.word())
	}
	return r
}

func (s *debounceStage) call(source string, sequence, count int, last, first string) reply {
	s.t.Helper()
	return s.expiring(s.play(debounceCallScript, debounceKeys, source, sequence, s.notAfter, count, last, first,
		wire.Milliseconds(s.expiry), wire.Milliseconds(sourceMemory), wakeChannel(debounceKey)))
}

// called records one call and returns its generation.
func (s *debounceStage) called(sequence int, payload string) int64 {
	s.t.Helper()
	r := s.call("a", sequence, 1, payload, "")
	s.Expect(r.word()).To(Equal("recorded"))
	return r.number(1)
}

func (s *debounceStage) claim(claimant string) debounceLook {
	s.t.Helper()
	return s.look(s.play(debounceClaimScript, debounceKeys[:1], claimant, s.notAfter, s.lease.Microseconds(), s.wait.Microseconds(),
		s.maxWait.Microseconds(), s.minInterval.Microseconds(), string(s.edge), string(s.payload), wire.Milliseconds(s.expiry), s.awaited))
}

func (s *debounceStage) look(r reply) debounceLook {
	s.t.Helper()
	s.expiring(r)
	return debounceLook{word: r.word(), at: fromMicros(r.number(2)), state: debounceState(r.number(1), r.list(3)), payload: r.text(4), reply: r}
}

func (s *debounceStage) extend(claimant string, generation int64, attempt int) debounceLook {
	s.t.Helper()
	return s.look(s.play(debounceExtendScript, debounceKeys[:1], claimant, generation, attempt, s.lease.Microseconds(), wire.Milliseconds(s.expiry)))
}

func (s *debounceStage) finish(claimant string, generation int64, attempt int, outcome string) debounceLook {
	s.t.Helper()
	return s.look(s.play(debounceFinishScript, debounceKeys[:1], claimant, generation, attempt, outcome, "a word", wire.Milliseconds(s.expiry), wakeChannel(debounceKey)))
}

func (s *debounceStage) state() debounceLook {
	s.t.Helper()
	return s.look(s.play(debounceStateScript, debounceKeys[:1]))
}

func (s *debounceStage) field(name string) string {
	s.t.Helper()
	return s.rdb.HGet(s.t.Context(), debounceKey, name).Val()
}

func (s *debounceStage) setField(name string, v any) {
	s.t.Helper()
	s.Expect(s.rdb.HSet(s.t.Context(), debounceKey, name, v).Err()).To(Succeed())
}

// pass has all that happened be longer ago.
func (s *debounceStage) pass(d time.Duration) {
	s.t.Helper()
	for name, v := range s.rdb.HGetAll(s.t.Context(), debounceKey).Val() {
		switch name {
		case "first", "previous", "lastCall", "since", "claimed", "till", "runSince", "runLast", "lastStart", "doneStart", "doneAt":
			n, err := strconv.ParseInt(v, 10, 64)
			s.Expect(err).NotTo(HaveOccurred())
			s.setField(name, max(n-d.Microseconds(), 0))
		}
	}
}

func (s *debounceStage) claims(claimant string, generation int64, payload string, calls int) {
	s.t.Helper()
	look := s.claim(claimant)
	s.Expect(look.word).To(Equal("claimed"))
	s.Expect(look.payload).To(Equal(payload))
	s.Expect(look.state.Running).To(HaveValue(And(
		HaveField("Generation", uint64(generation)), HaveField("Claimant", claimant), HaveField("Attempt", 1), HaveField("Calls", calls))))
	s.Expect(look.at).To(Equal(look.state.Running.Till))
	s.Expect(look.state.Running.Till.Sub(look.state.Running.Claimed)).To(Equal(s.lease))
}

func (s *debounceStage) waits() debounceLook {
	s.t.Helper()
	look := s.claim("r/1")
	s.Expect(look.word).To(Equal("waiting"))
	return look
}

func TestDebounceCallScriptOpensOneWindow(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	heard := s.subscribe(wakeChannel(debounceKey))
	before := s.now()
	first := s.call("a", 1, 1, "one", "")
	s.Expect(first).To(HaveExactElements("recorded", BeNumerically(">=", before), BeNumerically(">=", before), int64(1)))
	s.Eventually(heard).Should(Receive())
	s.Expect(s.rdb.PTTL(t.Context(), debounceKey).Val()).To(about(24 * time.Hour))
	for _, k := range debounceKeys[1:] {
		s.Expect(s.rdb.PTTL(t.Context(), k).Val()).To(about(2 * sourceMemory))
	}
	second := s.call("b", 1, 1, "two", "")
	s.Expect(second).To(HaveExactElements("recorded", first[1], BeNumerically(">", first.number(2)), int64(0)))
	s.Expect(s.state().state).To(And(
		HaveField("Open", true), HaveField("Since", fromMicros(first.number(2))), HaveField("LastCall", fromMicros(second.number(2))),
		HaveField("Pending", uint64(first.number(1))), HaveField("Waiting", 2), HaveField("Calls", int64(2)), HaveField("Running", BeNil())))
	s.Expect(s.field("firstPayload")).To(Equal("one"))
	s.Expect(s.field("lastPayload")).To(Equal("two"))
	s.Consistently(heard, 50*time.Millisecond).ShouldNot(Receive(), "only a window is announced")
}

func TestDebounceCallScriptKeepsFirstAndLastPayloadOfABatch(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	s.call("a", 1, 3, "three", "one")
	s.Expect(s.field("firstPayload")).To(Equal("one"))
	s.Expect(s.field("lastPayload")).To(Equal("three"))
	s.call("a", 2, 2, "five", "four")
	s.Expect(s.field("firstPayload")).To(Equal("one"))
	s.Expect(s.field("lastPayload")).To(Equal("five"))
	s.Expect(s.field("count")).To(Equal("5"))
	s.Expect(s.state().state.Calls).To(Equal(int64(5)))
	s.call("a", 3, 1, "", "")
	s.Expect(s.rdb.HGet(t.Context(), debounceKey, "lastPayload").Result()).To(BeEmpty(), "an empty payload is one")
	s.pass(s.wait)
	s.claims("r/1", int64(s.state().state.Pending), "", 6)
}

func TestDebounceCallScriptCountsARequestOnce(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	first := s.call("a", 5, 1, "one", "")
	s.call("b", 1, 1, "two", "")
	before := s.snapshot()
	for _, sequence := range []int{5, 4, 0} {
		s.Expect(s.call("a", sequence, 1, "old", "")).To(HaveExactElements("again", first[1], Not(BeZero()), int64(0)))
	}
	s.Expect(s.snapshot()).To(Equal(before), "a repetition changes nothing, nor does what is older")
	s.pass(s.wait)
	s.claims("r/1", first.number(1), "two", 2)
	s.finish("r/1", first.number(1), 1, DebounceSucceeded)
	s.Expect(s.call("a", 5, 1, "old", "").word()).To(Equal("again"), "nor once it was run")
	s.Expect(s.claim("r/1").word).To(Equal("idle"))
	s.Expect(s.call("a", 1<<53-1, 1, "new", "").word()).To(Equal("recorded"))
	s.Expect(s.call("a", 1<<53-2, 1, "old", "").word()).To(Equal("again"), "numbers are exact to the last")

	s.Expect(s.rdb.HSet(t.Context(), sourcesKey(debounceKey), "a", "nonsense").Err()).To(Succeed())
	s.Expect(s.call("a", 7, 1, "new", "").word()).To(Equal("recorded"))
}

func TestDebounceCallScriptIsVoidWhenItComesLate(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	s.notAfter = s.now() - 1
	s.Expect(s.call("a", 1, 1, "one", "")).To(HaveExactElements("late", int64(0), BeNumerically(">", s.notAfter)))
	s.Expect(s.rdb.DBSize(t.Context()).Val()).To(BeZero())
	s.notAfter = s.now() + time.Minute.Microseconds()
	s.Expect(s.call("a", 1, 1, "one", "").word()).To(Equal("recorded"))
	s.pass(s.wait)
	s.notAfter = s.now() - 1
	before := s.snapshot()
	s.Expect(s.claim("r/1").word).To(Equal("late"))
	s.Expect(s.snapshot()).To(Equal(before))
}

func TestDebounceCallScriptForgetsSourcesInTime(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	ctx := t.Context()
	for i := range 20 {
		s.call(fmt.Sprint("old", i), 1, 1, "", "")
	}
	s.call("young", 1, 1, "", "")
	for i := range 20 {
		s.Expect(s.rdb.ZIncrBy(ctx, heardKey(debounceKey), -float64(sourceMemory.Milliseconds())-1, fmt.Sprint("old", i)).Err()).To(Succeed())
	}
	s.call("new", 1, 1, "", "")
	s.Expect(s.rdb.HLen(ctx, sourcesKey(debounceKey)).Val()).To(BeNumerically("==", 22-16), "a few at a time")
	s.call("new", 2, 1, "", "")
	for _, k := range []string{"young", "new"} {
		s.Expect(s.rdb.HExists(ctx, sourcesKey(debounceKey), k).Val()).To(BeTrue(), k)
	}
	s.Expect(s.rdb.HLen(ctx, sourcesKey(debounceKey)).Val()).To(BeNumerically("==", 2))
	s.Expect(s.rdb.ZCard(ctx, heardKey(debounceKey)).Val()).To(BeNumerically("==", 2))
	s.Expect(s.call("young", 1, 1, "", "").word()).To(Equal("again"))
}

func TestDebounceGenerationsRise(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	generation := s.called(1, "")
	s.setField("generation", s.now()+time.Hour.Microseconds())
	ahead, _ := strconv.ParseInt(s.field("generation"), 10, 64)
	s.pass(s.wait)
	s.claims("r/1", generation, "", 1)
	s.Expect(s.called(2, "")).To(Equal(ahead+1), "also where the clock was stepped back")

	s.Expect(s.rdb.Del(t.Context(), debounceKey).Err()).To(Succeed())
	before := s.now()
	s.Expect(s.called(3, "")).To(BeNumerically(">=", before), "also where the key was deleted")
}

func TestDebounceScriptsRefuseWhatIsNoDebounce(t *testing.T) {
	t.Parallel()
	all := func(s *debounceStage) []reply {
		return []reply{s.call("a", 9, 1, "p", ""), s.claim("r/1").reply, s.extend("r/1", 7, 1).reply, s.finish("r/1", 7, 1, "x").reply, s.state().reply}
	}
	spoil := map[string]func(*debounceStage){
		"a lock":               func(s *debounceStage) { s.set(debounceKey, mine+"7", time.Hour) },
		"a hash":               func(s *debounceStage) { s.hash(debounceKey) },
		"no number":            func(s *debounceStage) { s.setField("till", "soon") },
		"a negative number":    func(s *debounceStage) { s.setField("first", "-1") },
		"no last call":         func(s *debounceStage) { s.drop("lastCall") },
		"no generation":        func(s *debounceStage) { s.drop("generation") },
		"a year ahead":         func(s *debounceStage) { s.setField("generation", s.now()+400*24*time.Hour.Microseconds()) },
		"at the limit":         func(s *debounceStage) { s.setField("generation", int64(1)<<53) },
		"a window of nothing":  func(s *debounceStage) { s.drop("pending") },
		"calls without number": func(s *debounceStage) { s.drop("count") },
		"calls without time":   func(s *debounceStage) { s.drop("since") },
		"no window":            func(s *debounceStage) { s.drop("first") },
		"led by nothing": func(s *debounceStage) {
			s.setField("led", s.now())
		},
		"a run without an end": func(s *debounceStage) { s.setField("running", s.now()) },
	}
	for name, spoil := range spoil {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newDebounceStage(t)
			s.called(1, "p")
			spoil(s)
			s.Expect(s.rdb.Expire(t.Context(), debounceKey, time.Hour).Err()).To(Succeed())
			before := s.snapshot()
			for i, r := range all(s) {
				if i == 4 && name != "a lock" { // it reads, and only tells
					continue
				}
				s.Expect(r.word()).To(Equal("corrupt"), "script %d", i)
				s.Expect(r).To(ContainElement("key"))
			}
			s.Expect(s.snapshot()).To(Equal(before))
			d := debouncer(t, newClient(t, s.rdb), Debounce{})
			_, err := d.Call(t.Context(), nil)
			s.Expect(err).To(MatchError(ErrCorrupt))
			s.Expect(d.Run(t.Context(), nil)).To(MatchError(ErrCorrupt))
			s.Expect(s.snapshot()).To(Equal(before))
		})
	}
	for i, k := range debounceKeys[1:] {
		t.Run([]string{"sources", "heard"}[i], func(t *testing.T) {
			t.Parallel()
			s := newDebounceStage(t)
			s.called(1, "p")
			s.set(k, "x", time.Hour)
			before := s.snapshot()
			s.Expect(s.call("a", 2, 1, "p", "")).To(HaveExactElements("corrupt", "sources", Not(BeZero())))
			s.Expect(s.snapshot()).To(Equal(before))
			_, err := debouncer(t, newClient(t, s.rdb), Debounce{}).Call(t.Context(), nil)
			s.Expect(err).To(MatchError(ErrCorrupt))
			s.Expect(err).To(MatchError(ContainSubstring(k)))
			s.pass(s.wait)
			s.Expect(s.claim("r/1").word).To(Equal("claimed"), "who runs needs none of it")
		})
	}
}

func (s *debounceStage) drop(field string) {
	s.t.Helper()
	s.Expect(s.rdb.HDel(s.t.Context(), debounceKey, field).Val()).To(BeEquivalentTo(1))
}

func TestDebounceClaimScriptTellsWhenAWindowIsDue(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	s.Expect(s.claim("r/1").word).To(Equal("idle"))
	s.Expect(s.rdb.DBSize(t.Context()).Val()).To(BeZero(), "a look creates nothing")
	generation := s.called(1, "one")
	opened := s.state().state
	s.Expect(s.waits().at).To(Equal(opened.LastCall.Add(s.wait)))
	s.pass(s.wait - time.Minute)
	s.called(2, "two")
	s.Expect(s.waits().at).To(Equal(s.state().state.LastCall.Add(s.wait)), "each call puts it off")
	s.pass(s.wait - time.Minute)
	s.called(3, "three")
	s.pass(s.wait - time.Minute)
	s.called(4, "four")
	late := s.state().state
	s.Expect(s.waits().at).To(Equal(late.Since.Add(s.maxWait)), "but not for ever")
	s.pass(4 * time.Minute)
	s.claims("r/1", generation, "four", 4)
	running := s.state().state.Running
	s.Expect(running.First).To(Equal(late.Since.Add(-4 * time.Minute)))
	s.Expect(running.Last).To(Equal(late.LastCall.Add(-4 * time.Minute)))
	s.Expect(s.state().state.Open).To(BeFalse())
}

func TestDebounceClaimScriptKeepsAWindowThatSomebodyWaitsFor(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	s.expiry = 10 * time.Minute // as a caller asks that knows nothing of the wait
	s.called(1, "one")
	s.expiry = 24 * time.Hour
	s.waits()
	s.Expect(s.rdb.PTTL(t.Context(), debounceKey).Val()).To(about(24 * time.Hour))
}

func TestDebounceClaimScriptGivesThePayloadThatIsAskedFor(t *testing.T) {
	t.Parallel()
	for choice, want := range map[PayloadChoice]string{FirstPayload: "one", LastPayload: "three"} {
		s := newDebounceStage(t)
		s.payload = choice
		generation := s.called(1, "one")
		s.called(2, "two")
		s.called(3, "three")
		s.pass(s.wait)
		s.claims("r/1", generation, want, 3)
		s.payload = FirstPayload
		s.called(4, "four")
		s.pass(s.lease)
		taken := s.claim("r/2")
		s.Expect(taken.word).To(Equal("taken"))
		s.Expect(taken.payload).To(Equal(want), "whoever takes over gets the same")
	}
}

func TestDebounceClaimScriptGivesARunToOne(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	generation := s.called(1, "one")
	s.pass(s.wait)
	s.claims("r/1", generation, "one", 1)
	till := s.state().state.Running.Till
	busy := s.claim("r/2")
	s.Expect(busy.word).To(Equal("busy"))
	s.Expect(busy.at).To(Equal(till))
	s.Expect(busy.payload).To(BeEmpty())

	resumed := s.claim("r/1")
	s.Expect(resumed.word).To(Equal("resumed"))
	s.Expect(resumed.payload).To(Equal("one"))
	s.Expect(resumed.state.Running).To(HaveValue(And(HaveField("Attempt", 1), HaveField("Till", BeTemporally(">=", till)))))
	s.setField("till", s.now()+time.Hour.Microseconds())
	s.Expect(s.claim("r/1").at).To(BeTemporally(">", fromMicros(s.now()).Add(s.lease)), "a longer lease is not cut short")
	s.setField("till", s.now()+s.lease.Microseconds())

	s.pass(s.lease)
	taken := s.claim("r/2")
	s.Expect(taken.word).To(Equal("taken"))
	s.Expect(taken.payload).To(Equal("one"))
	s.Expect(taken.state.Running).To(HaveValue(And(
		HaveField("Generation", uint64(generation)), HaveField("Claimant", "r/2"), HaveField("Attempt", 2), HaveField("Calls", 1),
		HaveField("Claimed", taken.state.At))))
	s.Expect(s.claim("r/1").word).To(Equal("busy"))
	s.Expect(s.extend("r/1", generation, 1).word).To(Equal("gone"))
	s.Expect(s.finish("r/1", generation, 1, DebounceSucceeded).word).To(Equal("gone"))
	s.Expect(s.state().state.Running).To(HaveValue(HaveField("Claimant", "r/2")))
}

func TestDebounceClaimScriptClaimsNothingForWhoHasWhatHeWaitsFor(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	first := s.called(1, "one")
	s.pass(s.wait)
	s.awaited = first
	s.claims("r/1", first, "one", 1)
	second := s.called(2, "two")
	s.finish("r/1", first, 1, DebounceSucceeded)
	s.pass(s.wait)
	before := s.snapshot()
	s.Expect(s.claim("r/1").word).To(Equal("over"))
	s.awaited = first - 1
	s.Expect(s.claim("r/1").word).To(Equal("over"))
	s.Expect(s.snapshot()).To(Equal(before))
	s.awaited = second
	s.claims("r/1", second, "two", 1)
}

func TestDebounceExtendScriptExtendsOnly(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	generation := s.called(1, "one")
	s.pass(s.wait)
	s.claims("r/1", generation, "one", 1)
	s.pass(s.lease / 2)
	ok := s.extend("r/1", generation, 1)
	s.Expect(ok.word).To(Equal("ok"))
	s.Expect(ok.at).To(Equal(ok.state.At.Add(s.lease)))
	s.lease /= 2
	s.Expect(s.extend("r/1", generation, 1).at).To(Equal(ok.at))
	before := s.snapshot()
	s.Expect(s.extend("r/2", generation, 1).word).To(Equal("gone"))
	s.Expect(s.extend("r/1", generation+1, 1).word).To(Equal("gone"))
	s.Expect(s.extend("r/1", generation, 2).word).To(Equal("gone"))
	s.Expect(s.snapshot()).To(Equal(before))
	s.pass(time.Hour)
	s.Expect(s.extend("r/1", generation, 1).word).To(Equal("ok"), "a lease that lapsed and that nobody took over")
	s.Expect(s.rdb.PExpire(t.Context(), debounceKey, time.Hour).Val()).To(BeTrue())
	s.extend("r/1", generation, 1)
	s.Expect(s.rdb.PTTL(t.Context(), debounceKey).Val()).To(about(24 * time.Hour))
	s.Expect(s.rdb.Del(t.Context(), debounceKey).Err()).To(Succeed())
	s.Expect(s.extend("r/1", generation, 1).word).To(Equal("gone"))
	s.Expect(s.rdb.Exists(t.Context(), debounceKey).Val()).To(BeZero(), "it creates nothing")
}

func TestDebounceFinishScriptEndsTheRunAlone(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	heard := s.subscribe(wakeChannel(debounceKey))
	first := s.called(1, "one")
	s.Eventually(heard).Should(Receive())
	s.pass(s.wait)
	s.claims("r/1", first, "one", 1)
	second := s.called(2, "two")
	s.Eventually(heard).Should(Receive())
	s.Expect(second).To(BeNumerically(">", first))
	before := s.state().state
	s.Expect(s.finish("r/2", first, 1, DebounceSucceeded).word).To(Equal("gone"))
	s.Expect(s.finish("r/1", second, 1, DebounceSucceeded).word).To(Equal("gone"))
	s.Expect(s.finish("r/1", first, 2, DebounceSucceeded).word).To(Equal("gone"))
	done := s.finish("r/1", first, 1, DebounceFailed)
	s.Expect(done.word).To(Equal("done"))
	s.Eventually(heard).Should(Receive())
	s.Expect(done.state).To(And(
		HaveField("Open", true), HaveField("Pending", uint64(second)), HaveField("Waiting", 1), HaveField("Running", BeNil()),
		HaveField("Runs", int64(1)), HaveField("Calls", int64(2)), HaveField("Since", before.Since), HaveField("LastCall", before.LastCall),
		HaveField("LastRun", HaveValue(Equal(EndedDebounce{
			Generation: uint64(first), Claimant: "r/1", Started: before.Running.Claimed, Finished: done.state.At, Calls: 1, Attempt: 1,
			Outcome: DebounceFailed, Message: "a word",
		})))))
	kept := s.snapshot()
	s.Expect(s.finish("r/1", first, 1, DebounceSucceeded).word).To(Equal("again"))
	s.Expect(s.finish("r/1", first, 1, "").word).To(Equal("again"))
	s.Expect(s.finish("r/2", first, 1, DebounceSucceeded).word).To(Equal("gone"))
	s.Expect(s.snapshot()).To(Equal(kept))
	s.pass(s.wait)
	s.claims("r/2", second, "two", 1)
}

func TestDebounceFinishScriptGivesARunBackOnce(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	heard := s.subscribe(wakeChannel(debounceKey))
	generation := s.called(1, "one")
	s.Eventually(heard).Should(Receive())
	s.pass(s.wait)
	s.claims("r/1", generation, "one", 1)
	back := s.finish("r/1", generation, 1, "")
	s.Expect(back.word).To(Equal("done"))
	s.Eventually(heard).Should(Receive())
	s.Expect(back.state).To(And(HaveField("Runs", int64(0)), HaveField("LastRun", BeNil()), HaveField("Running.Claimant", "")))
	s.Expect(s.extend("r/1", generation, 1).word).To(Equal("gone"), "a renewal that was stuck")
	taken := s.claim("r/1")
	s.Expect(taken.word).To(Equal("taken"))
	s.Expect(taken.state.Running.Attempt).To(Equal(2))
	s.Expect(s.finish("r/1", generation, 1, "").word).To(Equal("gone"), "a repetition that was stuck")
	s.Expect(s.claim("r/2").word).To(Equal("busy"))
}

func TestDebounceLeadingEdgeCoversItsWindow(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	s.edge = Leading
	first := s.called(1, "one")
	s.claims("r/1", first, "one", 1)
	s.Expect(s.called(2, "two")).To(Equal(first), "covered by the run")
	s.Expect(s.finish("r/1", first, 1, DebounceSucceeded).word).To(Equal("done"))
	s.Expect(s.called(3, "three")).To(Equal(first))
	look := s.waits()
	s.Expect(look.at).To(Equal(look.state.LastCall.Add(s.wait)))
	s.Expect(look.state).To(And(HaveField("Open", true), HaveField("Pending", uint64(0)), HaveField("Calls", int64(3))))
	s.pass(s.wait)
	closed := s.snapshot()
	s.Expect(s.claim("r/1").word).To(Equal("idle"))
	s.Expect(s.state().state.Open).To(BeFalse())
	s.Expect(s.snapshot()).NotTo(Equal(closed))
	second := s.called(4, "four")
	s.Expect(second).To(BeNumerically(">", first))
	s.claims("r/1", second, "four", 1)
	s.finish("r/1", second, 1, DebounceSucceeded)

	// Nobody looked when the window ended: the call itself finds out.
	s.pass(s.wait)
	r := s.call("a", 5, 1, "five", "")
	s.Expect(r.number(3)).To(Equal(int64(1)), "it opened a window")
	s.claims("r/1", r.number(1), "five", 1)
	s.finish("r/1", r.number(1), 1, DebounceSucceeded)

	// A stream that does not cease runs again after maxWait.
	for i := range 4 {
		s.pass(s.wait - 10*time.Minute)
		s.called(6+i, "more")
	}
	look = s.claim("r/1")
	s.Expect(look.word).To(Equal("claimed"))
	s.Expect(look.state.Running.Generation).To(BeNumerically(">", r.number(1)))
}

func TestDebounceLeadingEdgeTakesInWhatCameBeforeItsRunner(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	s.edge = Leading
	generation := s.called(1, "one")
	s.called(2, "two")
	s.pass(24 * time.Hour)
	s.claims("r/1", generation, "two", 2)
	s.finish("r/1", generation, 1, DebounceSucceeded)
	s.Expect(s.claim("r/1").word).To(Equal("idle"))
}

func TestDebounceBothEdges(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	s.edge = Both
	lead := s.called(1, "one")
	s.claims("r/1", lead, "one", 1)
	s.finish("r/1", lead, 1, DebounceSucceeded)
	trail := s.called(2, "two")
	s.Expect(trail).To(BeNumerically(">", lead))
	s.Expect(s.called(3, "three")).To(Equal(trail))
	look := s.waits()
	s.Expect(look.at).To(Equal(look.state.LastCall.Add(s.wait)))
	s.pass(s.wait)
	s.claims("r/1", trail, "three", 2)
	s.finish("r/1", trail, 1, DebounceSucceeded)
	s.Expect(s.claim("r/1").word).To(Equal("idle"))

	// One call alone runs once.
	alone := s.called(4, "four")
	s.claims("r/1", alone, "four", 1)
	s.finish("r/1", alone, 1, DebounceSucceeded)
	s.waits()
	s.pass(s.wait)
	s.Expect(s.claim("r/1").word).To(Equal("idle"))

	// A window that maxWait ended while calls go on is followed by none with a leading edge.
	lead = s.called(5, "five")
	s.claims("r/1", lead, "five", 1)
	s.finish("r/1", lead, 1, DebounceSucceeded)
	for i := range 3 {
		s.pass(s.wait - time.Minute)
		trail = s.called(6+i, "more")
	}
	look = s.waits()
	s.Expect(look.at).To(Equal(look.state.Since.Add(s.maxWait)))
	s.pass(10 * time.Minute)
	s.claims("r/1", trail, "more", 3)
	s.finish("r/1", trail, 1, DebounceSucceeded)
	s.called(9, "nine")
	look = s.waits()
	s.Expect(look.at).To(Equal(look.state.LastCall.Add(s.wait)))
	s.pass(s.wait)
	s.Expect(s.claim("r/1").word).To(Equal("claimed"))
	next := s.state().state.Running.Generation
	s.finish("r/1", int64(next), 1, DebounceSucceeded)
	s.pass(time.Second)
	lead = s.called(10, "ten")
	s.claims("r/1", lead, "ten", 1)
}

func TestDebounceMinIntervalGoesBeforeMaxWait(t *testing.T) {
	t.Parallel()
	for _, edge := range []Edge{Trailing, Leading} {
		t.Run(string(edge), func(t *testing.T) {
			t.Parallel()
			s := newDebounceStage(t)
			s.edge, s.minInterval = edge, 10*time.Hour
			first := s.called(1, "one")
			s.pass(s.wait)
			s.claims("r/1", first, "one", 1)
			started := s.state().state.Running.Claimed
			s.finish("r/1", first, 1, DebounceSucceeded)
			s.pass(4 * time.Hour)
			second := s.called(2, "two")
			s.pass(4 * time.Hour)
			s.Expect(s.called(3, "three")).To(Equal(second))
			s.Expect(s.waits().at).To(Equal(started.Add(s.minInterval - 8*time.Hour)))
			s.pass(2 * time.Hour)
			s.claims("r/1", second, "three", 2)
		})
	}
}

func TestDebounceScriptsWorkWhereTheChannelIsDenied(t *testing.T) {
	t.Parallel()
	s := newDebounceStage(t)
	s.Expect(s.rdb.Do(t.Context(), "ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "resetchannels").Err()).To(Succeed())
	s.Expect(s.rdb.Do(t.Context(), "AUTH", "u", "p").Err()).To(Succeed())
	generation := s.called(1, "one")
	s.pass(s.wait)
	s.claims("r/1", generation, "one", 1)
	s.Expect(s.finish("r/1", generation, 1, DebounceSucceeded).word).To(Equal("done"))
}

func TestDebounceScriptsTellTheirLayout(t *testing.T) {
	t.Parallel()
	// The header names each field that the scripts keep.
	s := newDebounceStage(t)
	s.edge = Both
	generation := s.called(1, "one")
	s.claims("r/1", generation, "one", 1)
	s.called(2, "two")
	s.called(3, "three")
	s.finish("r/1", generation, 1, DebounceSucceeded)
	header, _, _ := strings.Cut(debounceSource, "local ")
	for name := range s.rdb.HGetAll(t.Context(), debounceKey).Val() {
		s.Expect(header).To(ContainSubstring(name))
	}
}
