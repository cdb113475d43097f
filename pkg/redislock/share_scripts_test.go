package redislock

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
)

const readers = "~readers"

var (
	enterKeys   = []string{key, fenceKey(key), metadataKey(key), queueKey(key), placesKey(key)}
	channelArgs = []any{wakeChannel(key)}
)

// enter plays the script with arguments that tests seldom change: expiry, notAfter,
// seen, forgiven.
func (s *stage) enter(attempt, mark string, change ...any) reply {
	s.t.Helper()
	limit := 0
	_, _ = fmt.Sscanf(mark, "~permits %d", &limit)
	args := append([]any{attempt, minute, 0, 0, 0, 10 * minute, 0, "", mark, limit}, channelArgs...)
	copy(args[1:], change)
	return s.play(enterScript, enterKeys, args...)
}

// attempts returns the nth attempt of a process.
func attemptNo(n int) string { return fmt.Sprintf("host#0a.%d#", n) }

func tokenOf(attempt string, granted reply) string { return fmt.Sprint(attempt, granted.number(1)) }

// lapse makes a member of a set one that has lapsed, though its key has not.
func (s *stage) lapse(key, member string) {
	s.t.Helper()
	s.Expect(s.rdb.ZAddXX(s.t.Context(), key, redis.Z{Score: float64(s.now()/1000 - 1), Member: member}).Err()).To(Succeed())
	s.Expect(s.rdb.ZScore(s.t.Context(), key, member).Result()).To(BeNumerically("<", s.now()/1000))
}

func (s *stage) grants() []string {
	s.t.Helper()
	return s.rdb.ZRange(s.t.Context(), key, 0, -2).Val()
}

// everythingExpires is the rule that nothing is written without an expiry.
func (s *stage) everythingExpires() {
	s.t.Helper()
	for _, k := range s.rdb.Keys(s.t.Context(), "*").Val() {
		s.Expect(s.rdb.PTTL(s.t.Context(), k).Val()).To(BeNumerically(">", 0), k)
	}
}

func TestEnterScriptGrantsUpToTheLimit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	before := s.now()
	first := s.enter(attemptNo(1), "~permits 2", 2*minute)
	s.Expect(first.word()).To(Equal("granted"))
	s.Expect(first.number(1)).To(BeNumerically(">=", before), "the server's time is its floor")
	s.Expect(first.duration(2)).To(Equal(2 * time.Minute))
	s.Expect(first.number(3)).To(BeNumerically(">=", before))
	second := s.enter(attemptNo(2), "~permits 2", 4*minute)
	s.Expect(second.word()).To(Equal("granted"))
	s.Expect(second.number(1)).To(BeNumerically(">", first.number(1)), "each grant has a fence of its own")
	s.expects(fenceKey(key), fmt.Sprint(second.number(1)), about(10*time.Minute))
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(about(4*time.Minute), "it expires with the last")
	s.everythingExpires()

	full := s.enter(attemptNo(3), "~permits 2")
	s.Expect(full.word()).To(Equal("held"))
	s.Expect(full.text(1)).To(BeEmpty())
	s.Expect(full.duration(2)).To(about(2*time.Minute), "until the first lapses")
	s.Expect(full.text(6)).To(Equal("permits"))

	again := s.enter(attemptNo(1), "~permits 2", 9*minute)
	s.Expect(again.word()).To(Equal("again"))
	s.Expect(again.number(1)).To(Equal(first.number(1)))
	s.Expect(again.duration(2)).To(about(2*time.Minute), "a repeat prolongs nothing")
	s.Expect(s.grants()).To(ConsistOf(tokenOf(attemptNo(1), first), tokenOf(attemptNo(2), second)))
	for _, other := range []string{"host#0a.11#", "host#0b.1#", "hos#0a.1#"} {
		s.Expect(s.enter(other, "~permits 2").word()).To(Equal("held"), other)
	}

	s.lapse(key, tokenOf(attemptNo(1), first))
	third := s.enter(attemptNo(3), "~permits 2")
	s.Expect(third.word()).To(Equal("granted"), "who died holds no permit")
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(about(4*time.Minute), "it expires no sooner for one that does")
	s.Expect(s.grants()).To(ConsistOf(tokenOf(attemptNo(3), third), tokenOf(attemptNo(2), second)))
	s.lapse(key, tokenOf(attemptNo(3), third))
	s.Expect(s.enter(attemptNo(3), "~permits 2").number(1)).To(BeNumerically(">", third.number(1)), "what lapsed is not granted again")
}

func TestEnterScriptLimitIsFixedWhileItIsInUse(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	granted := s.enter(attemptNo(1), "~permits 3")
	for _, mark := range []string{"~permits 2", "~permits 4", "~permits 33"} {
		refused := s.enter(attemptNo(2), mark)
		s.Expect(refused.word()).To(Equal("limit"))
		s.Expect(refused.number(1)).To(BeEquivalentTo(3))
	}
	s.Expect(s.enter(attemptNo(1), "~permits 4").word()).To(Equal("again"))
	s.Expect(s.grants()).To(HaveLen(1))
	s.lapse(key, tokenOf(attemptNo(1), granted))
	s.Expect(s.enter(attemptNo(2), "~permits 4").word()).To(Equal("granted"), "nobody uses the former any more")
	s.Expect(s.rdb.ZRange(t.Context(), key, 0, -1).Val()).To(And(HaveLen(2), ContainElement("~permits 4")))
	s.Expect(s.enter(attemptNo(3), "~permits 3").number(1)).To(BeEquivalentTo(4))
}

func TestEnterScriptLetsAnyNumberOfReadersIn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for n := range 50 {
		s.Expect(s.enter(attemptNo(n), readers).word()).To(Equal("granted"))
	}
	s.Expect(s.grants()).To(HaveLen(50))
	s.everythingExpires()
}

func TestEnterScriptIsRefusedByWhatElseStandsThere(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, mark := range []string{readers, "~permits 5"} {
		s.set(key, "theirs", time.Minute)
		held := s.enter(attemptNo(1), mark)
		s.Expect(held.word()).To(Equal("held"))
		s.Expect(held.text(1)).To(Equal("theirs"))
		s.Expect(held.duration(2)).To(about(time.Minute))
		s.Expect(held.text(6)).To(Equal("lock"))
		s.expects(key, "theirs", about(time.Minute))

		s.set(key, attemptNo(1)+"7", time.Minute)
		s.Expect(s.enter(attemptNo(1), mark).word()).To(Equal("held"), "a plain lock of this attempt is no permit")

		s.hash(key)
		held = s.enter(attemptNo(1), mark)
		s.Expect(held.word()).To(Equal("held"))
		s.Expect(held.number(2)).To(BeEquivalentTo(-1))
		s.Expect(held.text(6)).To(Equal("other"))

		for _, z := range []redis.Z{{Score: 1, Member: "theirs"}, {Score: 1, Member: readers}, {Score: 1 << 50, Member: "~readerss"}} {
			s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
			s.Expect(s.rdb.ZAdd(t.Context(), key, z).Err()).To(Succeed())
			s.Expect(s.enter(attemptNo(1), mark).text(6)).To(Equal("other"))
			s.Expect(s.rdb.ZRange(t.Context(), key, 0, -1).Val()).To(Equal([]string{z.Member.(string)}), "it is left as it is")
		}
		s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	}
	reader := s.enter(attemptNo(1), readers)
	held := s.enter(attemptNo(2), "~permits 5")
	s.Expect(held.word()).To(Equal("held"))
	s.Expect(held.text(6)).To(Equal("readers"))
	s.lapse(key, tokenOf(attemptNo(1), reader))
	s.Expect(s.enter(attemptNo(2), "~permits 5").word()).To(Equal("granted"))
	s.Expect(s.enter(attemptNo(3), readers).text(6)).To(Equal("permits"))
	s.Expect(s.acquire(attemptNo(4)).word()).To(Equal("held"), "and a plain lock by it")
	s.Expect(s.rdb.SetNX(t.Context(), key, "theirs", time.Minute).Val()).To(BeFalse(), "as is another library's")
}

func TestEnterScriptIsVoidWhenLateAndCarefulWithFences(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const year = int64(366 * 24 * time.Hour / time.Microsecond)
	now := s.now()
	s.Expect(s.enter(attemptNo(1), readers, minute, now-1).word()).To(Equal("late"))
	s.Expect(s.enter(attemptNo(1), readers, minute, 0, now+2*year).text(1)).To(Equal("seen"))
	amnesia := s.enter(attemptNo(1), readers, minute, 0, now)
	s.Expect(amnesia.word()).To(Equal("amnesia"))
	s.Expect(amnesia.number(1)).To(BeZero())
	for _, corrupt := range []string{"x", "", "-1", fmt.Sprint(now + 2*year)} {
		s.set(fenceKey(key), corrupt, time.Minute)
		s.Expect(s.enter(attemptNo(1), readers).text(1)).To(Equal("stored"), corrupt)
	}
	s.hash(fenceKey(key))
	s.Expect(s.enter(attemptNo(1), readers).text(1)).To(Equal("stored"))
	s.Expect(s.rdb.Del(t.Context(), fenceKey(key)).Err()).To(Succeed())
	for _, companion := range []string{queueKey(key), placesKey(key)} {
		s.set(companion, "x", time.Minute)
		s.Expect(s.enter(attemptNo(1), readers).text(1)).To(Equal("queue"))
		s.Expect(s.rdb.Del(t.Context(), companion).Err()).To(Succeed())
	}
	s.Expect(s.rdb.Exists(t.Context(), key, fenceKey(key)).Val()).To(BeZero(), "none of these wrote anything")

	s.set(fenceKey(key), fmt.Sprint(now+year/2), time.Minute)
	s.Expect(s.enter(attemptNo(1), readers, minute, now+year, now+year/2+5, now+year/2+5).number(1)).To(Equal(now + year/2 + 6))
	s.Expect(s.enter(attemptNo(1), readers, minute, now-1).word()).To(Equal("again"), "a late repeat is no new grant")
	s.Expect(s.enter(attemptNo(2), readers, minute, now-1).word()).To(Equal("late"))
	s.Expect(s.grants()).To(HaveLen(1))
}

func TestEnterScriptStandsBackForWhoWaitsForTheWhole(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.enter(attemptNo(1), readers)
	s.Expect(s.queued(attemptNo(2), 10_000).word()).To(Equal("held"))
	refused := s.enter(attemptNo(3), readers)
	s.Expect(refused.word()).To(Equal("held"))
	s.Expect(refused.duration(2)).To(about(10*time.Second), "until the place of the first lapses")
	s.Expect(refused.number(4)).To(BeEquivalentTo(1))
	s.Expect(refused.text(6)).To(Equal("readers"))
	s.Expect(s.enter(attemptNo(1), readers).word()).To(Equal("again"), "who is in is in")

	s.lapse(placesKey(key), attemptNo(2))
	s.Expect(s.enter(attemptNo(3), readers).word()).To(Equal("granted"), "nobody waits for the dead")
	s.Expect(s.rdb.Exists(t.Context(), queueKey(key), placesKey(key)).Val()).To(BeZero())
}

func TestProlongScriptOnlyProlongsWhatStands(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	prolong := func(token string, ms int) reply { return s.play(prolongScript, []string{key}, token, ms) }
	mismatch := func(token, found string) {
		t.Helper()
		r := prolong(token, minute)
		s.Expect(r.word()).To(Equal("mismatch"))
		s.Expect(r.text(1)).To(Equal(found))
	}
	mismatch(attemptNo(1)+"5", "")
	s.Expect(s.rdb.Exists(t.Context(), key).Val()).To(BeZero(), "nothing is created")

	granted := s.enter(attemptNo(1), "~permits 2")
	token := tokenOf(attemptNo(1), granted)
	s.Expect(s.enter(attemptNo(2), "~permits 2", 3*minute).word()).To(Equal("granted"))
	left := func() time.Duration {
		return time.Duration(int64(s.rdb.ZScore(t.Context(), key, token).Val())-s.now()/1000) * time.Millisecond
	}
	s.Expect(prolong(token, 2*minute)).To(HaveExactElements("ok"))
	s.Expect(left()).To(about(2 * time.Minute))
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(about(3*time.Minute), "the other's")
	s.Expect(prolong(token, minute)).To(HaveExactElements("ok"))
	s.Expect(left()).To(about(2*time.Minute), "never shortened")
	s.Expect(prolong(token, 5*minute)).To(HaveExactElements("ok"))
	s.Expect(left()).To(about(5 * time.Minute))
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(about(5 * time.Minute))
	s.Expect(s.rdb.Persist(t.Context(), key).Val()).To(BeTrue())
	prolong(token, minute)
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(about(5*time.Minute), "an expiry that was taken away is mended")

	mismatch(attemptNo(1)+"5", "")
	mismatch(attemptNo(1), "")
	s.lapse(key, token)
	mismatch(token, "")
	s.Expect(s.rdb.ZScore(t.Context(), key, token).Val()).To(BeNumerically("<", s.now()/1000), "what has lapsed stays so")
	s.set(key, "theirs", time.Minute)
	mismatch(token, "theirs")
	s.hash(key)
	mismatch(token, "")
}

func TestLeaveScriptGivesBackTheNamedGrantAlone(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	messages := s.subscribe(wakeChannel(key))
	leave := func(token, mode string) string {
		return s.play(leaveScript, []string{key}, token, 0, wakeChannel(key), mode).word()
	}
	s.Expect(leave("host#0a.1#5", "token")).To(Equal("gone"))
	tokens := map[int]string{}
	for _, n := range []int{1, 2, 11} {
		tokens[n] = tokenOf(attemptNo(n), s.enter(attemptNo(n), readers, n*minute))
	}
	s.Expect(leave(attemptNo(1), "token")).To(Equal("gone"), "the attempt is not the token")
	s.Expect(leave(attemptNo(1)+"5", "attempt")).To(Equal("gone"))
	s.Expect(leave(readers, "token")).To(Equal("gone"), "nor is the mark")
	s.Expect(leave(readers, "attempt")).To(Equal("gone"))
	s.Expect(s.rdb.ZCard(t.Context(), key).Val()).To(BeEquivalentTo(4))
	s.Expect(messages).NotTo(Receive())

	s.Expect(leave(attemptNo(1), "attempt")).To(Equal("done"))
	s.Expect(s.grants()).To(ConsistOf(tokens[2], tokens[11]))
	s.Eventually(messages).Should(Receive())
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(about(11 * time.Minute))
	s.Expect(leave(tokens[11], "token")).To(Equal("done"))
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(about(2*time.Minute), "it expires with the last that is left")
	s.Expect(leave(tokens[11], "token")).To(Equal("gone"))
	s.Expect(leave(tokens[2], "token")).To(Equal("done"))
	s.Expect(s.rdb.Exists(t.Context(), key).Val()).To(BeZero(), "it goes with the last")

	lapsed := tokenOf(attemptNo(1), s.enter(attemptNo(1), readers))
	last := tokenOf(attemptNo(2), s.enter(attemptNo(2), readers))
	s.lapse(key, lapsed)
	s.Expect(leave(last, "token")).To(Equal("done"))
	s.Expect(s.rdb.Exists(t.Context(), key).Val()).To(BeZero(), "those that lapsed keep it no longer")

	for _, mode := range []string{"token", "attempt"} {
		s.set(key, attemptNo(1)+"5", time.Minute)
		r := s.play(leaveScript, []string{key}, attemptNo(1)+"5", 0, wakeChannel(key), mode)
		s.Expect(r.word()).To(Equal("mismatch"))
		s.Expect(r.text(1)).To(Equal(attemptNo(1)+"5"), "a plain lock is not given back here")
		s.hash(key)
		s.Expect(leave(attemptNo(1)+"5", mode)).To(Equal("mismatch"))
	}
	s.Expect(s.rdb.Exists(t.Context(), key).Val()).To(BeEquivalentTo(1))
}

func TestSharesGoOnWhereRedisIsOutOfMemory(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	token := tokenOf(attemptNo(1), s.enter(attemptNo(1), readers))
	s.Expect(s.rdb.ConfigSet(t.Context(), "maxmemory", "1").Err()).To(Succeed())
	s.Expect(s.rdb.ZAdd(t.Context(), "x", redis.Z{Member: "x"}).Err()).To(MatchError(ContainSubstring("OOM")))
	s.Expect(s.play(prolongScript, []string{key}, token, 5*minute).word()).To(Equal("ok"))
	s.Expect(s.rdb.ZScore(t.Context(), key, token).Val()).To(BeNumerically(">", s.now()/1000+4*minute))
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(about(5 * time.Minute))
	s.Expect(s.play(leaveScript, []string{key}, token, 0, wakeChannel(key), "token").word()).To(Equal("done"))
	s.Expect(s.rdb.Exists(t.Context(), key).Val()).To(BeZero())
}

func TestOccupancyScriptOnlyLooks(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	look := func() reply { return s.play(occupancyScript, []string{key, placesKey(key)}) }
	expect := func(kind string, limit, waiting, grants int) {
		t.Helper()
		r := look()
		s.Expect(r.word()).To(Equal(kind))
		s.Expect(r.number(1)).To(BeEquivalentTo(limit))
		s.Expect(r.number(2)).To(BeNumerically("~", s.now(), int64(time.Minute/time.Microsecond)))
		s.Expect(r.number(3)).To(BeEquivalentTo(waiting))
		s.Expect(r.list(4)).To(HaveLen(2 * grants))
	}
	expect("none", 0, 0, 0)
	s.set(key, "theirs", time.Minute)
	s.set(placesKey(key), "x", time.Minute)
	expect("lock", 0, 0, 0)
	s.Expect(s.rdb.Del(t.Context(), placesKey(key)).Err()).To(Succeed())
	s.queued(attemptNo(1), 10_000)
	s.queued(attemptNo(2), 10_000)
	expect("lock", 0, 2, 0)
	s.lapse(placesKey(key), attemptNo(1))
	expect("lock", 0, 1, 0)
	s.hash(key)
	expect("other", 0, 1, 0)
	s.Expect(s.rdb.Del(t.Context(), key, queueKey(key), placesKey(key)).Err()).To(Succeed())
	s.Expect(s.rdb.ZAdd(t.Context(), key, redis.Z{Member: "x"}).Err()).To(Succeed())
	expect("other", 0, 0, 0)
	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())

	lapsed := tokenOf(attemptNo(1), s.enter(attemptNo(1), "~permits 7"))
	later := tokenOf(attemptNo(2), s.enter(attemptNo(2), "~permits 7", 9*minute))
	sooner := tokenOf(attemptNo(3), s.enter(attemptNo(3), "~permits 7", 8*minute))
	expect("permits", 7, 0, 3)
	s.lapse(key, lapsed)
	expect("permits", 7, 0, 2)
	grants := look().list(4)
	s.Expect([]string{grants.text(0), grants.text(2)}).To(Equal([]string{sooner, later}))
	s.Expect(time.Duration(grants.number(1)) * time.Millisecond).To(about(8 * time.Minute))
	s.Expect(s.rdb.ZCard(t.Context(), key).Val()).To(BeEquivalentTo(4), "nothing was touched")

	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	s.enter(attemptNo(1), readers)
	expect("readers", 0, 0, 1)
}
