package redislock

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

var runKeys = []string{key, fenceKey(key), runsKey(key)}

// A claimPlay is the claim script with arguments that tests seldom change.
type claimPlay struct {
	grant, run, claimant, rerun, shared string
	cover                               int
	retention, expiry                   time.Duration
	notAfter, seen                      int64
}

func (s *stage) claim(c claimPlay) reply {
	s.t.Helper()
	if c.retention == 0 {
		c.retention = time.Hour
	}
	if c.expiry == 0 {
		c.expiry = 4 * time.Hour
	}
	return s.play(claimScript, runKeys, c.grant, c.run, c.claimant, c.rerun, c.shared, c.cover,
		c.retention.Microseconds(), wire.Milliseconds(c.expiry), wire.Milliseconds(3*time.Hour), c.notAfter, c.seen)
}

func (s *stage) finish(run, fence, outcome, success string) string {
	s.t.Helper()
	r := s.play(finishScript, runKeys[2:], run, fence, outcome, success)
	s.Expect(r).To(HaveExactElements(Not(BeEmpty()), "", Not(BeZero())))
	return r.word()
}

func (s *stage) reopen(run, fence string) string {
	s.t.Helper()
	r := s.play(reopenScript, runKeys[2:], run, fence)
	s.Expect(r).To(HaveExactElements(Not(BeEmpty()), "", Not(BeZero())))
	return r.word()
}

// granted is a grant of the lock with a fence that is long past.
func (s *stage) granted(fence string) (token string) {
	s.t.Helper()
	s.set(key, mine+fence, time.Minute)
	return mine + fence
}

func (s *stage) put(fields ...string) {
	s.t.Helper()
	s.Expect(s.rdb.HSet(s.t.Context(), runsKey(key), fields).Err()).To(Succeed())
	s.Expect(s.rdb.PExpire(s.t.Context(), runsKey(key), time.Hour).Err()).To(Succeed())
}

func (s *stage) fields() map[string]string {
	s.t.Helper()
	return s.rdb.HGetAll(s.t.Context(), runsKey(key)).Val()
}

// secondsAgo names a tick of a series by its age.
func (s *stage) secondsAgo(series string, age int64) string {
	s.t.Helper()
	return fmt.Sprintf("tick %s %d", series, s.now()/1e6-age)
}

// snapshot is all that stands in Redis, and for how long it will.
func (s *stage) snapshot() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, k := range s.rdb.Keys(s.t.Context(), "*").Val() {
		left := s.rdb.PTTL(s.t.Context(), k).Val().Round(time.Minute)
		// The order of a hash in a dump is that of its insertion.
		all[k] = fmt.Sprint(s.rdb.Dump(s.t.Context(), k).Val(), left)
	}
	return all
}

func digits(r reply, i int) string { return strconv.FormatInt(r.number(i), 10) }

func TestClaimScriptGrantsARunOnceAndKnowsItsClaimant(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	grant, run := s.granted("7"), s.secondsAgo("ns/cj", 5)
	second := strings.Fields(run)[2]
	before := s.now()
	first := s.claim(claimPlay{grant: grant, run: run, claimant: "c/1"})
	s.Expect(first).To(HaveExactElements("new", BeNumerically(">=", before), BeNumerically("<=", minute), BeNumerically(">=", before)))
	fence := digits(first, 1)
	s.expects(fenceKey(key), fence, about(3*time.Hour))
	s.expects(key, grant, about(time.Minute))
	s.Expect(s.rdb.PTTL(t.Context(), runsKey(key)).Val()).To(about(4 * time.Hour))
	at := digits(first, 3)
	s.Expect(s.fields()).To(Equal(map[string]string{
		run:               "claimed " + fence + " 7 " + at + " c/1 ",
		"active " + fence: "7 " + at + " c/1 " + run,
		"newest ns/cj":    second,
		"expiry":          "14400000",
	}))

	recorded := s.fields()
	again := s.claim(claimPlay{grant: grant, run: run, claimant: "c/1"})
	s.Expect(again).To(HaveExactElements("again", first[1], Not(BeZero()), Not(BeZero())))
	s.Expect(s.fields()).To(Equal(recorded))
	s.expects(fenceKey(key), fence, about(3*time.Hour))
	s.Expect(s.rdb.HDel(t.Context(), runsKey(key), "active "+fence).Err()).To(Succeed())
	again = s.claim(claimPlay{grant: grant, run: run, claimant: "c/1", notAfter: 1})
	s.Expect(again).To(HaveExactElements("again", first[1], Not(BeZero()), Not(BeZero())), "late or not, it was claimed")
	s.Expect(s.fields()).To(HaveKeyWithValue("active "+fence, HaveSuffix(" c/1 "+run)), "an entry that is missing comes back")
	s.Expect(s.fields()).To(HaveKeyWithValue(run, recorded[run]), "and no more")

	// Adoption swaps the token, and it is the same grant.
	adopted := "host#0b.1#7"
	s.set(key, adopted, time.Minute)
	s.Expect(s.claim(claimPlay{grant: adopted, run: run, claimant: "c/1"}).word()).To(Equal("again"))

	other := s.claim(claimPlay{grant: adopted, run: run, claimant: "c/2"})
	s.Expect(other.word()).To(Equal("superseding"))
	s.Expect(other.number(1)).To(BeNumerically(">", first.number(1)))
	s.Expect(s.fields()).To(HaveKeyWithValue(run, HavePrefix("claimed "+digits(other, 1)+" 7 ")))
	s.Expect(s.fields()).To(HaveKey("active " + digits(other, 1)))
	s.Expect(s.fields()).NotTo(HaveKey("active "+fence), "whoever was superseded is active no more")
}

func TestClaimScriptRaisesTheFenceAboveAllItKnows(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"stored", "grant", "seen", "record"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			future := s.now() + int64(24*time.Hour/time.Microsecond)
			fence := strconv.FormatInt(future, 10)
			grant, run := s.granted("7"), s.secondsAgo("x", 5)
			play := claimPlay{run: run, claimant: "c/1", rerun: "rerun"}
			switch which {
			case "stored":
				s.set(fenceKey(key), fence, time.Minute)
			case "grant":
				grant = s.granted(fence)
			case "seen":
				play.seen = future
			case "record":
				s.put(run, "claimed "+fence+" 5 1 c/0 ")
			}
			play.grant = grant
			r := s.claim(play)
			s.Expect(r.number(1)).To(Equal(future+1), "%v", r)
			s.Expect(value(t, s.rdb, fenceKey(key))).To(Equal(digits(r, 1)))
		})
	}
}

func TestClaimScriptRefuses(t *testing.T) {
	t.Parallel()
	year := int64(366 * 24 * time.Hour / time.Microsecond)
	tooFar := func(s *stage) string { return strconv.FormatInt(s.now()+year+60_000_000, 10) }
	for name, test := range map[string]struct {
		prepare func(s *stage, p *claimPlay)
		word    string
		detail  string
	}{
		"lock gone":       {func(s *stage, p *claimPlay) { s.rdb.Del(t.Context(), key) }, "lost", ""},
		"lock of another": {func(s *stage, p *claimPlay) { s.set(key, "host#0a.1#8", time.Minute) }, "lost", "host#0a.1#8"},
		"a longer token":  {func(s *stage, p *claimPlay) { s.set(key, mine+"77", time.Minute) }, "lost", mine + "77"},
		"tombstone":       {func(s *stage, p *claimPlay) { s.set(key, tombstone+mine+"7", time.Minute) }, "lost", tombstone + mine + "7"},
		"lock no string":  {func(s *stage, p *claimPlay) { s.hash(key) }, "lost", ""},
		"lost before done": {func(s *stage, p *claimPlay) {
			s.put(p.run, "done 9 7 1 c/1 ok")
			s.set(key, "x", time.Minute)
		}, "lost", "x"},
		"in the future":            {func(s *stage, p *claimPlay) { p.run = s.secondsAgo("x", -70) }, "future", ""},
		"done":                     {func(s *stage, p *claimPlay) { s.put(p.run, "done 9 7 1 c/1 ok") }, "done", "done 9 7 1 c/1 ok"},
		"done, rerun":              {func(s *stage, p *claimPlay) { p.rerun = "rerun"; s.put(p.run, "done 9 5 1 c/1 ok") }, "done", "done 9 5 1 c/1 ok"},
		"done without a tick":      {func(s *stage, p *claimPlay) { p.run = "id x"; s.put(p.run, "done 9 7 1 c/1 ok") }, "done", "done 9 7 1 c/1 ok"},
		"claimed by another grant": {func(s *stage, p *claimPlay) { s.put(p.run, "claimed 9 5 1 c/1 ") }, "claimed", "claimed 9 5 1 c/1 "},
		"too old":                  {func(s *stage, p *claimPlay) { p.run = s.secondsAgo("x", 3601) }, "tooold", ""},
		"at the high-water mark":   {func(s *stage, p *claimPlay) { s.put("newest x", strings.Fields(p.run)[2]) }, "superseded", ""},
		"under it": {func(s *stage, p *claimPlay) { s.put("newest x", strconv.FormatInt(s.now()/1e6+30, 10)) },
			"superseded", ""},
		"another run active": {func(s *stage, p *claimPlay) {
			s.put("active 12", "7 1 c/1 id b", "active 9", "7 1 c/9 tick x 1", "active 10", "7 1 c/1 id c")
		}, "active", "7 1 c/9 tick x 1"},
		"another active, without a tick": {func(s *stage, p *claimPlay) { p.run = "id a"; s.put("active 9", "7 1 c/1 id b") }, "active", "7 1 c/1 id b"},
		"another active, superseding":    {func(s *stage, p *claimPlay) { s.put("active 9", "7 1 c/1 id b", p.run, "claimed 8 7 1 c/8 ") }, "active", "7 1 c/1 id b"},
		"late":                           {func(s *stage, p *claimPlay) { p.notAfter = s.now() - 1 }, "late", ""},
		"string as runs":                 {func(s *stage, p *claimPlay) { s.set(runsKey(key), "x", time.Minute) }, "corrupt", "runs"},
		"garbage record":                 {func(s *stage, p *claimPlay) { s.put(p.run, "nonsense") }, "corrupt", "runs"},
		"record of no claimant":          {func(s *stage, p *claimPlay) { s.put(p.run, "open 9 5 1  ok") }, "corrupt", "runs"},
		"record of unknown state":        {func(s *stage, p *claimPlay) { s.put(p.run, "paused 9 5 1 c/1 ") }, "corrupt", "runs"},
		"record in a year":               {func(s *stage, p *claimPlay) { s.put(p.run, "open "+tooFar(s)+" 5 1 c/1 ") }, "corrupt", "runs"},
		"garbage mark":                   {func(s *stage, p *claimPlay) { s.put("newest x", "1e3") }, "corrupt", "runs"},
		"mark in a year":                 {func(s *stage, p *claimPlay) { s.put("newest x", tooFar(s)) }, "corrupt", "runs"},
		"hash as counter":                {func(s *stage, p *claimPlay) { s.hash(fenceKey(key)) }, "corrupt", "stored"},
		"garbage counter":                {func(s *stage, p *claimPlay) { s.set(fenceKey(key), "1e3", time.Minute) }, "corrupt", "stored"},
		"counter in a year":              {func(s *stage, p *claimPlay) { s.set(fenceKey(key), tooFar(s), time.Minute) }, "corrupt", "stored"},
		"seen in a year":                 {func(s *stage, p *claimPlay) { p.seen = s.now() + year + 60_000_000 }, "corrupt", "seen"},
		"grant in a year":                {func(s *stage, p *claimPlay) { p.grant = s.granted(tooFar(s)) }, "corrupt", "seen"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			// What is stale must not be swept by a claim that is refused, either.
			s.put("active 3", "2 1 c/3 id stale")
			play := claimPlay{grant: s.granted("7"), run: s.secondsAgo("x", 5), claimant: "c/2", cover: 600_000}
			test.prepare(s, &play)
			before := s.snapshot()
			r := s.claim(play)
			s.Expect(r).To(HaveLen(4))
			s.Expect(r.word()).To(Equal(test.word))
			s.Expect(r.text(1)).To(Equal(test.detail))
			s.Expect(r.number(3)).To(BeNumerically("~", s.now(), int64(time.Minute/time.Microsecond)))
			s.Expect(s.snapshot()).To(Equal(before), "nothing is written")
			switch test.word {
			case "active":
				s.Expect(r.number(2)).To(BeEquivalentTo(9), "its fence; the oldest of several")
			case "superseded":
				s.Expect(digits(r, 2)).To(Equal(s.fields()["newest x"]))
			}
		})
	}
}

func TestClaimScriptMayBeAMinuteAhead(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.Expect(s.claim(claimPlay{grant: s.granted("7"), run: s.secondsAgo("x", -50), claimant: "c"}).word()).To(Equal("new"))
}

func TestClaimScriptTakesOverWhatAnEarlierGrantLeft(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	run := s.secondsAgo("x", 5)
	first := s.claim(claimPlay{grant: s.granted("7"), run: run, claimant: "c/1"})
	next := s.granted("8")
	for _, claimant := range []string{"c/1", "c/2"} {
		s.Expect(s.claim(claimPlay{grant: next, run: run, claimant: claimant}).word()).To(Equal("claimed"), claimant)
	}
	second := s.claim(claimPlay{grant: next, run: run, claimant: "c/1", rerun: "rerun"})
	s.Expect(second.word()).To(Equal("superseding"), "though it is the same claimant: its old run has another token")
	s.Expect(second.number(1)).To(BeNumerically(">", first.number(1)))
	s.Expect(s.fields()).NotTo(HaveKey("active " + digits(first, 1)))
	s.Expect(s.fields()).To(HaveKeyWithValue(run, HavePrefix("claimed "+digits(second, 1)+" 8 ")))

	// What is given up is new, also under the high-water mark and without rerun.
	s.Expect(s.reopen(run, digits(second, 1))).To(Equal("reopened"))
	newer := s.secondsAgo("x", -5)
	s.Expect(s.claim(claimPlay{grant: next, run: newer, claimant: "c/3"}).word()).To(Equal("new"))
	s.Expect(s.finish(newer, strings.Fields(s.fields()[newer])[1], "", "")).To(Equal("done"))
	third := s.claim(claimPlay{grant: s.granted("9"), run: run, claimant: "c/1", retention: time.Second})
	s.Expect(third.word()).To(Equal("new"))
	s.Expect(third.number(1)).To(BeNumerically(">", second.number(1)))
	s.Expect(s.fields()).To(HaveKeyWithValue(run, HavePrefix("claimed "+digits(third, 1)+" 9 ")), "old as it is")
	s.Expect(s.fields()).To(HaveKeyWithValue("newest x", strings.Fields(newer)[2]), "the mark is not lowered")
}

func TestClaimScriptKeepsOneRunActiveUnlessShared(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	grant := s.granted("7")
	s.put("active 3", "2 1 c/3 tick y 5", "active 4", "nonsense", "active five", "kept", "tick y 5", "claimed 3 2 1 c/3 ")
	a, b := s.secondsAgo("a", 5), s.secondsAgo("b", 5)
	first := s.claim(claimPlay{grant: grant, run: a, claimant: "c/1", retention: 60 * 365 * 24 * time.Hour})
	s.Expect(first.word()).To(Equal("new"))
	s.Expect(s.fields()).To(And(
		Not(HaveKey("active 3")), Not(HaveKey("active 4")), // stale
		HaveKey("active five"),                             // none of ours
		HaveKeyWithValue("tick y 5", "claimed 3 2 1 c/3 "), // its record stays claimed
	))
	s.Expect(s.claim(claimPlay{grant: grant, run: b, claimant: "c/1"}).word()).To(Equal("active"))
	s.Expect(s.claim(claimPlay{grant: grant, run: "id m", claimant: "c/1"}).word()).To(Equal("active"))
	s.Expect(s.claim(claimPlay{grant: grant, run: a, claimant: "c/1"}).word()).To(Equal("again"))
	superseding := s.claim(claimPlay{grant: grant, run: a, claimant: "c/2"})
	s.Expect(superseding.word()).To(Equal("superseding"), "the run that it replaces is no other")

	for _, run := range []string{b, "id m"} {
		s.Expect(s.claim(claimPlay{grant: grant, run: run, claimant: "c/1", shared: "shared"}).word()).To(Equal("new"))
	}
	s.Expect(s.claim(claimPlay{grant: grant, run: b, claimant: "c/1"}).word()).To(Equal("again"))
	s.Expect(s.fields()).To(HaveKey("active " + digits(superseding, 1)))
	s.Expect(s.finish(a, digits(superseding, 1), "", "")).To(Equal("done"))
	s.Expect(s.claim(claimPlay{grant: grant, run: "id n", claimant: "c/1"}).word()).To(Equal("active"), "there still are two")

	// Under the next grant all of them are stale.
	s.Expect(s.claim(claimPlay{grant: s.granted("8"), run: "id n", claimant: "c/1"}).word()).To(Equal("new"))
	s.Expect(s.active()).To(HaveLen(1))
}

func (s *stage) active() []ActiveRun {
	s.t.Helper()
	return parseRuns(s.play(runsScript, runKeys[2:]).list(2)).Active
}

func TestClaimScriptOfARunWithoutATick(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	grant := s.granted("7")
	first := s.claim(claimPlay{grant: grant, run: "id m", claimant: "c/1"})
	s.Expect(first.word()).To(Equal("new"))
	s.Expect(s.fields()).To(And(HaveLen(2), HaveKeyWithValue("active "+digits(first, 1), "7 "+digits(first, 3)+" c/1 id m")), "and 'expiry'")
	again := s.claim(claimPlay{grant: grant, run: "id m", claimant: "c/1"})
	s.Expect(again).To(HaveExactElements("again", first[1], Not(BeZero()), Not(BeZero())))
	second := s.claim(claimPlay{grant: grant, run: "id m", claimant: "c/2"})
	s.Expect(second.word()).To(Equal("superseding"))
	s.Expect(second.number(1)).To(BeNumerically(">", first.number(1)))
	s.Expect(s.active()).To(HaveExactElements(HaveField("Claimant", "c/2")))

	grant = s.granted("8")
	third := s.claim(claimPlay{grant: grant, run: "id m", claimant: "c/2"})
	s.Expect(third.word()).To(Equal("new"), "what an earlier grant left is forgotten")
	s.Expect(third.number(1)).To(BeNumerically(">", second.number(1)))
	s.Expect(s.finish("id m", digits(third, 1), "fine", "success")).To(Equal("done"))
	s.Expect(s.claim(claimPlay{grant: grant, run: "id m", claimant: "c/2"}).word()).To(Equal("done"), "a late duplicate of its claim")
	s.Expect(s.active()).To(BeEmpty())
}

func TestClaimScriptCoversTheLock(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	grant, run := s.granted("7"), s.secondsAgo("x", 5)
	play := claimPlay{grant: grant, run: run, claimant: "c", cover: 30 * minute}
	s.Expect(s.claim(play)).To(HaveExactElements("new", Not(BeZero()), BeEquivalentTo(30*minute), Not(BeZero())))
	s.expects(key, grant, about(30*time.Minute))
	play.cover = 10 * minute
	s.Expect(s.claim(play).duration(2)).To(about(30*time.Minute), "never shortened")
	s.expects(key, grant, about(30*time.Minute))
	play.cover = 60 * minute
	s.Expect(s.claim(play).word()).To(Equal("again"))
	s.expects(key, grant, about(time.Hour))
	play.cover = 0
	s.Expect(s.claim(play).duration(2)).To(about(time.Hour))
	s.Expect(s.rdb.Persist(t.Context(), key).Val()).To(BeTrue())
	s.Expect(s.claim(play).word()).To(Equal("again"))
	s.expects(key, grant, Equal(persistent))
	play.cover = minute
	s.Expect(s.claim(play).word()).To(Equal("again"))
	s.expects(key, grant, about(time.Minute))
}

func TestClaimScriptKeepsTheLongestExpiryThatWasAskedFor(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	grant, run := s.granted("7"), s.secondsAgo("x", 5)
	expiry := func() time.Duration { return s.rdb.PTTL(t.Context(), runsKey(key)).Val() }
	shorten := func() { s.Expect(s.rdb.PExpire(t.Context(), runsKey(key), time.Minute).Val()).To(BeTrue()) }
	first := s.claim(claimPlay{grant: grant, run: run, claimant: "c", expiry: 8 * time.Hour})
	s.Expect(expiry()).To(about(8 * time.Hour))
	shorten()
	s.Expect(s.claim(claimPlay{grant: grant, run: run, claimant: "c", expiry: time.Hour}).word()).To(Equal("again"))
	s.Expect(expiry()).To(about(8 * time.Hour))
	shorten()
	s.Expect(s.finish(run, digits(first, 1), "", "")).To(Equal("done"))
	s.Expect(expiry()).To(about(8 * time.Hour))
	second := s.claim(claimPlay{grant: grant, run: s.secondsAgo("y", 5), claimant: "c", expiry: time.Hour})
	s.Expect(expiry()).To(about(8 * time.Hour))
	shorten()
	s.Expect(s.reopen(s.active()[0].name(), digits(second, 1))).To(Equal("reopened"))
	s.Expect(expiry()).To(about(8 * time.Hour))
	s.Expect(s.rdb.HDel(t.Context(), runsKey(key), "expiry").Err()).To(Succeed())
	s.claim(claimPlay{grant: grant, run: s.secondsAgo("y", 4), claimant: "c", expiry: time.Hour})
	s.Expect(expiry()).To(about(8*time.Hour), "never shortened")
}

func TestClaimScriptForgetsWhatNoDecisionNeeds(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	now := s.now() / 1e6
	tick := func(series string, age int64) string { return fmt.Sprintf("tick %s %d", series, now-age) }
	const day = int64(24 * 60 * 60)
	kept := map[string]string{
		tick("fresh", 100):    "claimed 9 6 1 c/1 ",
		tick("fresh", 200):    "open 9 6 1 c/1 ",
		tick("running", 9000): "claimed 11 7 1 c/1 ",
		"active 11":           "7 1 c/1 " + tick("running", 9000),
		"newest fresh":        strconv.FormatInt(now-360*day, 10),
		"success fresh":       strconv.FormatInt((now-360*day)*1e6, 10),
		"newest bad":          "nonsense", // a claim of that series says so
		"later":               "what a later version keeps",
	}
	dropped := map[string]string{
		tick("old", 4000):    "claimed 9 6 1 c/1 ",
		tick("old", 5000):    "open 9 6 1 c/1 ",
		tick("old", 6000):    "nonsense",
		tick("old", 370*day): "done 9 6 1 c/1 ",
		"newest ancient":     strconv.FormatInt(now-367*day, 10),
		"success ancient":    strconv.FormatInt((now-367*day)*1e6, 10),
		"success mine":       strconv.FormatInt((now-367*day)*1e6, 10),
		"id crumpled":        "nonsense",
		"active 3":           "2 1 c/1 id stale",
	}
	for i := range int64(20) {
		to := kept
		if i >= 16 {
			to = dropped
		}
		to[tick("busy", i*day)] = fmt.Sprintf("done %d 6 1 c/1 ok", i+20)
		to[tick("other", 50+i)] = fmt.Sprintf("done %d 6 1 c/1 ok", i+50)
		to[fmt.Sprintf("id %d", i)] = fmt.Sprintf("done %d 6 %d c/1 ok", i+100, (now-i*day)*1e6)
	}
	for field, value := range kept {
		s.put(field, value)
	}
	for field, value := range dropped {
		s.put(field, value)
	}
	mine := tick("mine", 5)
	r := s.claim(claimPlay{grant: s.granted("7"), run: mine, claimant: "c/2", shared: "shared"})
	s.Expect(r.word()).To(Equal("new"))
	left := s.fields()
	for _, own := range []string{mine, "active " + digits(r, 1), "newest mine", "expiry"} {
		s.Expect(left).To(HaveKey(own))
		delete(left, own)
	}
	s.Expect(left).To(Equal(kept))

	// A mark of the series itself that is over a year old is raised, not dropped.
	s.put("newest risen", strconv.FormatInt(now-367*day, 10))
	s.Expect(s.claim(claimPlay{grant: s.granted("7"), run: tick("risen", 5), claimant: "c/2", shared: "shared"}).word()).To(Equal("new"))
	s.Expect(s.fields()).To(HaveKeyWithValue("newest risen", strconv.FormatInt(now-5, 10)))
}

func TestAPrunedTickIsRefusedAllTheSame(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	grant := s.granted("7")
	now := s.now() / 1e6
	var first string
	for i := range int64(20) {
		run := fmt.Sprintf("tick x %d", now-100+i)
		if i == 0 {
			first = run
		}
		r := s.claim(claimPlay{grant: grant, run: run, claimant: "c"})
		s.Expect(r.word()).To(Equal("new"))
		s.Expect(s.finish(run, digits(r, 1), "", "")).To(Equal("done"))
	}
	s.Expect(s.fields()).NotTo(HaveKey(first))
	s.Expect(s.claim(claimPlay{grant: grant, run: first, claimant: "c", rerun: "rerun"}).word()).To(Equal("superseded"))
}

func TestClaimAndFinishScriptsWithoutMemory(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	grant, run := s.granted("7"), s.secondsAgo("x", 5)
	first := s.claim(claimPlay{grant: grant, run: run, claimant: "c"})
	s.Expect(s.rdb.ConfigSet(t.Context(), "maxmemory", "1").Err()).To(Succeed())
	before := s.snapshot()
	_, err := s.try(claimScript, runKeys, grant, s.secondsAgo("y", 5), "c", "", "shared", 0, int64(time.Hour/time.Microsecond), 1, 1, 0, 0)
	s.Expect(redis.IsOOMError(err)).To(BeTrue(), "%v", err)
	s.Expect(s.snapshot()).To(Equal(before))
	again := s.claim(claimPlay{grant: grant, run: run, claimant: "c", cover: 30 * minute})
	s.Expect(again.word()).To(Equal("again"), "what is there needs none")
	s.Expect(again.number(1)).To(Equal(first.number(1)))
	s.expects(key, grant, about(30*time.Minute))
	before = s.snapshot()
	_, err = s.try(finishScript, runKeys[2:], run, digits(first, 1), "", "")
	s.Expect(redis.IsOOMError(err)).To(BeTrue(), "%v", err)
	s.Expect(s.snapshot()).To(Equal(before), "all or nothing")
	s.Expect(s.rdb.ConfigSet(t.Context(), "maxmemory", "0").Err()).To(Succeed())
	s.Expect(s.finish(run, digits(first, 1), "", "")).To(Equal("done"))
}

func TestFinishScriptOfATick(t *testing.T) {
	t.Parallel()
	const run = "tick x 1000"
	for name, test := range map[string]struct {
		fields map[string]string
		word   string
		record string // what it begins with afterwards; empty for none
	}{
		"claimed":                {map[string]string{run: "claimed 9 7 1 c/1 ", "active 9": "7 1 c/1 " + run}, "done", "done 9 7 "},
		"claimed, entry dropped": {map[string]string{run: "claimed 9 7 1 c/1 "}, "done", "done 9 7 "},
		"given up":               {map[string]string{run: "open 9 7 1 c/1 "}, "done", "done 9 7 "},
		"done before":            {map[string]string{run: "done 9 7 1 c/1 first"}, "already", "done 9 7 1 c/1 first"},
		"claimed by another":     {map[string]string{run: "claimed 10 8 1 c/2 ", "active 9": "7 1 c/1 " + run, "active 10": "8 1 c/2 " + run}, "superseded", "claimed 10 8 1 c/2 "},
		"given up by another":    {map[string]string{run: "open 10 8 1 c/2 "}, "superseded", "open 10 8 1 c/2 "},
		"done by another":        {map[string]string{run: "done 10 8 1 c/2 theirs"}, "superseded", "done 10 8 1 c/2 theirs"},
		"a fence that begins so": {map[string]string{run: "claimed 99 8 1 c/2 "}, "superseded", "claimed 99 8 1 c/2 "},
		"unknown":                {map[string]string{"active 9": "7 1 c/1 " + run}, "superseded", ""},
		"garbage":                {map[string]string{run: "nonsense", "active 9": "7 1 c/1 " + run}, "corrupt", "nonsense"},
		"unknown state":          {map[string]string{run: "paused 9 7 1 c/1 ", "active 9": "7 1 c/1 " + run}, "corrupt", "paused 9 7 1 c/1 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			others := map[string]string{"active 8": "7 1 c/1 tick x 999", "tick x 999": "claimed 8 7 1 c/1 ", "newest x": "1000", "success x": "5", "success y": "6"}
			for field, value := range others {
				s.put(field, value)
			}
			for field, value := range test.fields {
				s.put(field, value)
			}
			before := s.now()
			s.Expect(s.finish(run, "9", "all is well", "success")).To(Equal(test.word))
			after := s.fields()
			if test.record == "" {
				s.Expect(after).NotTo(HaveKey(run))
			} else {
				s.Expect(after).To(HaveKeyWithValue(run, HavePrefix(test.record)))
			}
			if test.word == "corrupt" {
				s.Expect(after).To(HaveKey("active 9"), "nothing is written")
				return
			}
			s.Expect(after).NotTo(HaveKey("active 9"))
			if _, ok := test.fields["active 10"]; ok {
				s.Expect(after).To(HaveKey("active 10"))
			}
			if test.word == "done" {
				record, ok := parseRecord(Run{}, after[run])
				s.Expect(ok).To(BeTrue())
				s.Expect(record.Outcome).To(Equal("all is well"))
				s.Expect(record.Claimant).To(Equal("c/1"))
				s.Expect(record.At.UnixMicro()).To(BeNumerically(">=", before))
				s.Expect(strconv.ParseInt(after["success x"], 10, 64)).To(BeNumerically(">=", before))
				delete(others, "success x")
			}
			for field, value := range others {
				s.Expect(after).To(HaveKeyWithValue(field, value), "others are left alone")
			}

			// Whatever comes later, done stays.
			if strings.HasPrefix(after[run], "done") {
				repeated := s.fields()
				want := "already"
				if test.word == "superseded" {
					want = "superseded"
				}
				s.Expect(s.finish(run, "9", "another outcome", "success")).To(Equal(want))
				s.Expect(s.finish(run, "11", "another claim", "success")).To(Equal("superseded"))
				s.Expect(s.reopen(run, "11")).To(Equal("superseded"))
				s.Expect(s.reopen(run, strings.Fields(after[run])[1])).To(Equal("finished"))
				s.Expect(s.fields()).To(Equal(repeated))
			}
		})
	}
}

func TestFinishScriptRecordsSuccessOnlyUpwards(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.put("tick x 1000", "claimed 9 7 1 c/1 ")
	s.Expect(s.finish("tick x 1000", "9", "failed", "")).To(Equal("done"))
	s.Expect(s.fields()).NotTo(HaveKey("success x"), "a failure is none")
	ahead := strconv.FormatInt(s.now()+int64(time.Hour/time.Microsecond), 10)
	s.put("tick x 2000", "claimed 10 7 1 c/1 ", "success x", ahead)
	s.Expect(s.finish("tick x 2000", "10", "", "success")).To(Equal("done"))
	s.Expect(s.fields()).To(HaveKeyWithValue("success x", ahead), "the server's clock was set back")
	for i, garbage := range []string{"nonsense", "nan", "inf", "-1", strings.Repeat("9", 40)} {
		run := fmt.Sprint("tick x ", 3000+i)
		s.put(run, "claimed 11 7 1 c/1 ", "success x", garbage)
		s.Expect(s.finish(run, "11", "", "success")).To(Equal("done"))
		s.Expect(strconv.ParseInt(s.fields()["success x"], 10, 64)).To(BeNumerically("~", s.now(), int64(time.Minute/time.Microsecond)))
	}
}

func TestFinishScriptOfARunWithoutATick(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.Expect(s.finish("id m", "9", "", "")).To(Equal("already"), "nothing is known")
	s.Expect(s.finish("tick x 5", "9", "", "")).To(Equal("superseded"))
	s.Expect(s.rdb.Exists(t.Context(), runsKey(key)).Val()).To(BeZero(), "it creates no key")

	s.put("active 9", "7 1 c/1 id m", "active 10", "7 1 c/1 id mm")
	s.Expect(s.finish("id m", "10", "", "")).To(Equal("superseded"), "that is the claim of another run")
	s.Expect(s.finish("id m", "8", "", "")).To(Equal("superseded"))
	s.Expect(s.active()).To(HaveLen(2))
	s.Expect(s.finish("id m", "9", "fine", "success")).To(Equal("done"))
	s.Expect(s.active()).To(HaveLen(1))
	s.Expect(s.fields()).To(And(HaveLen(2), HaveKeyWithValue("id m", And(HavePrefix("done 9 7 "), HaveSuffix(" c/1 fine")))))
	s.Expect(s.finish("id m", "9", "", "")).To(Equal("already"))
	s.Expect(s.finish("id m", "8", "", "")).To(Equal("superseded"))
	s.Expect(s.fields()["id m"]).To(HaveSuffix(" fine"))
}

func TestReopenScript(t *testing.T) {
	t.Parallel()
	const tick, id = "tick x 1000", "id m"
	for name, test := range map[string]struct {
		run    string
		fields map[string]string
		word   string
		after  map[string]string
	}{
		"claimed":            {tick, map[string]string{tick: "claimed 9 7 1 c/1 ", "active 9": "7 1 c/1 " + tick}, "reopened", map[string]string{tick: "open 9 7 1 c/1 "}},
		"given up before":    {tick, map[string]string{tick: "open 9 7 1 c/1 "}, "already", map[string]string{tick: "open 9 7 1 c/1 "}},
		"done":               {tick, map[string]string{tick: "done 9 7 1 c/1 ok", "active 9": "7 1 c/1 " + tick}, "finished", map[string]string{tick: "done 9 7 1 c/1 ok"}},
		"done by another":    {tick, map[string]string{tick: "done 10 7 1 c/1 ok"}, "superseded", map[string]string{tick: "done 10 7 1 c/1 ok"}},
		"claimed by another": {tick, map[string]string{tick: "claimed 10 7 1 c/1 ", "active 10": "7 1 c/1 " + tick}, "superseded", map[string]string{tick: "claimed 10 7 1 c/1 ", "active 10": "7 1 c/1 " + tick}},
		"open by another":    {tick, map[string]string{tick: "open 99 7 1 c/1 "}, "superseded", map[string]string{tick: "open 99 7 1 c/1 "}},
		"unknown":            {tick, map[string]string{}, "superseded", map[string]string{}},
		"garbage":            {tick, map[string]string{tick: "claimed 9 7", "active 9": "7 1 c/1 " + tick}, "corrupt", map[string]string{tick: "claimed 9 7", "active 9": "7 1 c/1 " + tick}},
		"no tick":            {id, map[string]string{"active 9": "7 1 c/1 id m"}, "reopened", map[string]string{}},
		"no tick, unknown":   {id, map[string]string{}, "already", map[string]string{}},
		"no tick, another's": {id, map[string]string{"active 10": "7 1 c/1 id m"}, "superseded", map[string]string{"active 10": "7 1 c/1 id m"}},
		"no tick, other run": {id, map[string]string{"active 9": "7 1 c/1 id n"}, "already", map[string]string{"active 9": "7 1 c/1 id n"}},
		"no tick, done":      {id, map[string]string{id: "done 9 7 1 c/1 "}, "finished", map[string]string{id: "done 9 7 1 c/1 "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.put("newest x", "1000")
			for field, value := range test.fields {
				s.put(field, value)
			}
			s.Expect(s.reopen(test.run, "9")).To(Equal(test.word))
			test.after["newest x"] = "1000"
			s.Expect(s.fields()).To(Equal(test.after))
			s.Expect(s.rdb.PTTL(t.Context(), runsKey(key)).Val()).To(about(time.Hour))
			if test.word == "reopened" {
				s.Expect(s.reopen(test.run, "9")).To(Equal("already"))
			}
		})
	}
}

func TestFinishReopenAndRunsScriptsRefuseAKeyThatIsNoHash(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set(runsKey(key), "x", time.Minute)
	s.Expect(s.finish("tick x 1", "9", "", "")).To(Equal("corrupt"))
	s.Expect(s.reopen("tick x 1", "9")).To(Equal("corrupt"))
	s.Expect(s.play(runsScript, runKeys[2:])).To(HaveExactElements("corrupt", Not(BeZero()), BeEmpty()))
	s.expects(runsKey(key), "x", about(time.Minute))
}

func TestRunsScript(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.Expect(s.play(runsScript, runKeys[2:])).To(HaveExactElements("ok", Not(BeZero()), BeEmpty()))
	s.put("newest x", "1000")
	r := s.play(runsScript, runKeys[2:])
	s.Expect(r).To(HaveExactElements("ok", Not(BeZero()), HaveExactElements("newest x", "1000")))
	s.Expect(s.rdb.PTTL(t.Context(), runsKey(key)).Val()).To(about(time.Hour))
}

func TestAnnounceScript(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	candidates := candidatesKey(key)
	announce := func(name string, ttl time.Duration) map[string]int64 {
		t.Helper()
		r := s.play(announceScript, []string{candidates}, name, ttl.Microseconds())
		s.Expect(r).To(HaveLen(3))
		s.Expect(r.word()).To(Equal("ok"))
		present := map[string]int64{}
		for i := 0; i < len(r.list(2)); i += 2 {
			present[r.list(2).text(i)] = r.list(2).number(i + 1)
		}
		return present
	}
	expiry := func() time.Duration { return s.rdb.PTTL(t.Context(), candidates).Val() }
	s.Expect(announce("", 0)).To(BeEmpty())
	s.Expect(expiry()).To(Equal(gone), "reading creates nothing")

	before := s.now()
	first := announce("a", time.Minute)
	s.Expect(first).To(And(HaveLen(1), HaveKeyWithValue("a", BeNumerically(">=", before))))
	s.Expect(expiry()).To(about(time.Minute))
	s.Expect(announce("a", 2*time.Minute)).To(Equal(first), "since when stays")
	s.Expect(expiry()).To(about(2 * time.Minute))
	both := announce("b", time.Minute)
	s.Expect(both).To(And(HaveLen(2), HaveKeyWithValue("a", first["a"])))
	s.Expect(expiry()).To(about(2*time.Minute), "never shortened")
	s.Expect(announce("a", time.Minute)).To(Equal(both))
	s.Expect(strings.Fields(s.rdb.HGet(t.Context(), candidates, "a").Val())[1] > fmt.Sprint(s.now()+70_000_000)).To(BeTrue(), "nor is an announcement")

	// What lapsed is gone for readers, and from Redis with the next announcement.
	past := fmt.Sprintf("%d %d", s.now()-2, s.now()-1)
	s.Expect(s.rdb.HSet(t.Context(), candidates, "a", past, "c", past, "d", "nonsense", "e", "1 "+strings.Repeat("9", 30)).Err()).To(Succeed())
	s.Expect(announce("", 0)).To(And(HaveLen(1), HaveKey("b")))
	s.Expect(s.rdb.HLen(t.Context(), candidates).Val()).To(BeEquivalentTo(5))
	again := announce("a", time.Minute)
	s.Expect(again).To(And(HaveLen(2), HaveKeyWithValue("a", BeNumerically(">", first["a"])), HaveKeyWithValue("b", both["b"])))
	s.Expect(maps.Keys(s.rdb.HGetAll(t.Context(), candidates).Val())).To(ConsistOf("a", "b"))

	s.set(candidates, "x", time.Minute)
	s.Expect(s.play(announceScript, []string{candidates}, "a", 1)).To(HaveExactElements("corrupt", Not(BeZero()), BeEmpty()))
}

// TestScriptsSurviveGarbageInTheHash has them meet what nobody of ours wrote: none
// may fail after its first write, nor leave a key without an expiry.
func TestScriptsSurviveGarbageInTheHash(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newStage(t)
	second := strconv.FormatInt(s.now()/1e6-5, 10)
	kinds := []string{"tick", "id", "active", "newest", "success", "expiry", "", "open", "claimed", "done"}
	words := []string{"x", "m", second, "7", "9", "c/1", "nan", "inf", "-1", "1e999", "0x7f", "", "\x00", "é", strings.Repeat("9", 400), "00", "5.5", "%d", "tick x " + second}
	phrase := func(first []string, most int) string {
		parts := []string{first[random.IntN(len(first))]}
		for range random.IntN(most + 1) {
			parts = append(parts, words[random.IntN(len(words))])
		}
		return strings.Join(parts, " ")
	}
	own := []string{"tick x " + second, "id m", "active 9", "newest x", "success x", "expiry"}
	answers := map[string]int{}
	for range 1500 {
		s.Expect(s.rdb.Del(t.Context(), runsKey(key)).Err()).To(Succeed())
		grant := s.granted("7")
		var fields []string
		for range 1 + random.IntN(6) {
			field := phrase(kinds, 2)
			if random.IntN(2) == 0 {
				field = own[random.IntN(len(own))]
			}
			fields = append(fields, field, phrase(append(kinds, words...), 6))
		}
		s.put(fields...)
		run, fence := own[random.IntN(2)], "9"
		r := s.claim(claimPlay{grant: grant, run: run, claimant: "c/1", rerun: "rerun", shared: []string{"", "shared"}[random.IntN(2)]})
		answers[r.word()]++
		if random.IntN(2) == 0 && r.number(1) > 0 {
			fence = digits(r, 1)
		}
		if random.IntN(2) == 0 {
			answers["finish "+s.finish(run, fence, "", "success")]++
		} else {
			answers["reopen "+s.reopen(run, fence)]++
		}
		parseRuns(s.play(runsScript, runKeys[2:]).list(2))
		s.Expect(s.rdb.PTTL(t.Context(), runsKey(key)).Val()).NotTo(Equal(persistent), "%q", fields)
	}
	t.Logf("%v", answers)
	s.Expect(len(answers)).To(BeNumerically(">", 6))
}
