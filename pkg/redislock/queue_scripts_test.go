package redislock

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
)

var queuedKeys = []string{key, fenceKey(key), metadataKey(key), historyKey(key), queueKey(key), placesKey(key)}

// queued plays the script with a place that counts for so many ms, and arguments that
// tests seldom change: expiry, notAfter, seen, forgiven, retention, history.
func (s *stage) queued(attempt string, place int, change ...any) reply {
	s.t.Helper()
	args := append([]any{attempt, minute, 0, 0, 0, 2 * minute, 0, "", place}, channelArgs...)
	copy(args[1:], change)
	return s.play(queuedScript, queuedKeys, args...)
}

func (s *stage) inQueue() []string {
	s.t.Helper()
	return s.rdb.ZRange(s.t.Context(), queueKey(key), 0, -1).Val()
}

const tenSeconds = 10_000

func TestQueuedScriptGrantsInOrderOfArrival(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	before := s.now()
	granted := s.queued(attemptNo(9), tenSeconds)
	s.Expect(granted.word()).To(Equal("granted"))
	s.Expect(granted.number(1)).To(BeNumerically(">=", before))
	s.expects(key, tokenOf(attemptNo(9), granted), about(time.Minute))
	s.Expect(granted.number(5)).To(BeZero())
	s.Expect(s.inQueue()).To(BeEmpty(), "who need not wait takes no place")

	var tickets []int64
	for i, n := range []int{3, 1, 2} {
		held := s.queued(attemptNo(n), tenSeconds)
		s.Expect(held.word()).To(Equal("held"))
		s.Expect(held.text(1)).To(Equal(tokenOf(attemptNo(9), granted)))
		s.Expect(held.duration(2)).To(about(time.Minute))
		s.Expect(held.number(4)).To(BeEquivalentTo(i), "so many are ahead")
		s.Expect(held.text(6)).To(Equal("lock"))
		tickets = append(tickets, held.number(5))
	}
	s.Expect(tickets[0]).To(BeNumerically(">=", before))
	s.Expect(tickets[1]).To(BeNumerically(">", tickets[0]))
	s.Expect(tickets[2]).To(BeNumerically(">", tickets[1]))
	s.Expect(s.queued(attemptNo(3), tenSeconds).number(5)).To(Equal(tickets[0]), "asking again keeps the place")
	s.Expect(s.inQueue()).To(Equal([]string{attemptNo(3), attemptNo(1), attemptNo(2)}))
	s.everythingExpires()

	again := s.queued(attemptNo(9), tenSeconds)
	s.Expect(again.word()).To(Equal("again"))
	s.Expect(again.number(1)).To(Equal(granted.number(1)))
	s.Expect(s.inQueue()).To(HaveLen(3))

	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	kept := s.queued(attemptNo(2), tenSeconds)
	s.Expect(kept.word()).To(Equal("held"), "it is free, but not for the last")
	s.Expect(kept.duration(2)).To(about(10*time.Second), "until the place of the first lapses")
	s.Expect(kept.number(4)).To(BeEquivalentTo(2))
	s.Expect(kept.text(6)).To(Equal("none"))
	newcomer := s.queued(attemptNo(7), 0)
	s.Expect(newcomer.number(4)).To(BeEquivalentTo(3))
	s.Expect(newcomer.number(5)).To(BeZero(), "who does not wait takes no place")
	s.Expect(s.inQueue()).To(HaveLen(3))

	for i, n := range []int{3, 1, 2} {
		next := s.queued(attemptNo(n), tenSeconds)
		s.Expect(next.word()).To(Equal("granted"))
		s.Expect(next.number(1)).To(BeNumerically(">", granted.number(1)))
		s.Expect(next.number(5)).To(Equal(tickets[i]))
		granted = next
		s.Expect(s.inQueue()).NotTo(ContainElement(attemptNo(n)), "its place is free")
		s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	}
	s.Expect(s.rdb.Exists(t.Context(), queueKey(key), placesKey(key)).Val()).To(BeZero())
	s.Expect(s.queued(attemptNo(7), 0).word()).To(Equal("granted"))
}

func TestQueuedScriptDropsTheDead(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	messages := s.subscribe(wakeChannel(key))
	s.set(key, "theirs", time.Minute)
	for n := 1; n <= 4; n++ {
		s.queued(attemptNo(n), tenSeconds)
	}
	first := s.queued(attemptNo(1), tenSeconds).number(5)
	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	s.lapse(placesKey(key), attemptNo(1))
	s.lapse(placesKey(key), attemptNo(3))
	s.Expect(messages).NotTo(Receive())

	held := s.queued(attemptNo(4), tenSeconds)
	s.Expect(held.number(4)).To(BeEquivalentTo(1))
	s.Expect(s.inQueue()).To(Equal([]string{attemptNo(2), attemptNo(4)}))
	s.Eventually(messages).Should(Receive(), "the new first is told")

	s.Expect(s.rdb.ZRem(t.Context(), placesKey(key), attemptNo(2)).Val()).To(BeEquivalentTo(1))
	late := s.queued(attemptNo(1), tenSeconds)
	s.Expect(late.number(5)).To(BeNumerically(">", first), "who was taken for dead comes last")
	s.Expect(s.inQueue()).To(Equal([]string{attemptNo(4), attemptNo(1)}), "nor does one count without a place")
	s.Expect(s.queued(attemptNo(4), tenSeconds).word()).To(Equal("granted"))
}

func TestQueuedScriptKeepsAPlaceAsLongAsItWasAskedFor(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set(key, "theirs", time.Minute)
	s.queued(attemptNo(1), 3*minute)
	s.queued(attemptNo(1), minute)
	till := s.rdb.ZScore(t.Context(), placesKey(key), attemptNo(1)).Val()
	s.Expect(time.Duration(int64(till)-s.now()/1000)*time.Millisecond).To(about(3*time.Minute), "never shortened")
	s.queued(attemptNo(2), 5*minute)
	for _, k := range []string{queueKey(key), placesKey(key)} {
		s.Expect(s.rdb.PTTL(t.Context(), k).Val()).To(about(5*time.Minute), "as long as the last place")
	}
}

func TestQueuedScriptWaitsForReadersAndWhateverStandsThere(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.enter(attemptNo(1), readers, 3*minute)
	held := s.queued(attemptNo(2), 0)
	s.Expect(held.word()).To(Equal("held"))
	s.Expect(held.text(1)).To(BeEmpty())
	s.Expect(held.duration(2)).To(about(3 * time.Minute))
	s.Expect(held.text(6)).To(Equal("readers"))
	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	s.enter(attemptNo(1), "~permits 1")
	s.Expect(s.queued(attemptNo(2), 0).text(6)).To(Equal("permits"))
	s.hash(key)
	held = s.queued(attemptNo(2), 0)
	s.Expect(held.text(6)).To(Equal("other"))
	s.Expect(held.number(2)).To(BeEquivalentTo(-1))
	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	s.Expect(s.rdb.ZAdd(t.Context(), key, redis.Z{Member: "x"}).Err()).To(Succeed())
	s.Expect(s.queued(attemptNo(2), 0).text(6)).To(Equal("other"))
	s.set(key, tombstone+attemptNo(2)+"5", time.Minute)
	s.Expect(s.queued(attemptNo(2), 0).word()).To(Equal("held"), "a tombstone of its own is none of its grants")
}

func TestQueuedScriptIsVoidWhenLateAndCarefulWithFences(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const year = int64(366 * 24 * time.Hour / time.Microsecond)
	now := s.now()
	s.set(key, "theirs", time.Minute)
	s.Expect(s.queued(attemptNo(1), tenSeconds, minute, now-1).word()).To(Equal("late"))
	s.Expect(s.inQueue()).To(BeEmpty(), "a late request takes no place")
	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	s.Expect(s.queued(attemptNo(1), tenSeconds, minute, now-1).word()).To(Equal("late"))
	s.Expect(s.queued(attemptNo(1), tenSeconds, minute, 0, now+2*year).text(1)).To(Equal("seen"))
	s.Expect(s.queued(attemptNo(1), tenSeconds, minute, 0, now).word()).To(Equal("amnesia"))
	s.set(fenceKey(key), "x", time.Minute)
	s.Expect(s.queued(attemptNo(1), tenSeconds).text(1)).To(Equal("stored"))
	s.Expect(s.rdb.Del(t.Context(), fenceKey(key)).Err()).To(Succeed())
	s.set(historyKey(key), "x", time.Minute)
	s.Expect(s.queued(attemptNo(1), tenSeconds, minute, 0, 0, 0, 2*minute, 3).text(1)).To(Equal("history"))
	s.Expect(s.rdb.Del(t.Context(), historyKey(key)).Err()).To(Succeed())
	for _, companion := range []string{queueKey(key), placesKey(key)} {
		s.set(companion, "x", time.Minute)
		s.Expect(s.queued(attemptNo(1), tenSeconds).text(1)).To(Equal("queue"))
		s.Expect(s.rdb.Del(t.Context(), companion).Err()).To(Succeed())
	}
	s.Expect(s.rdb.Keys(t.Context(), "*").Val()).To(BeEmpty(), "none of these wrote anything")

	granted := s.queued(attemptNo(1), tenSeconds, minute, now+year, now+5, now+5, 2*minute, 3)
	s.Expect(granted.number(1)).To(BeNumerically(">", now+5))
	s.Expect(s.rdb.XLen(t.Context(), historyKey(key)).Val()).To(BeEquivalentTo(1))
	s.everythingExpires()
}

func TestAbandonScriptLeavesNothingOfAnAttempt(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	messages := s.subscribe(wakeChannel(key))
	abandon := func(n int) string {
		return s.play(abandonScript, []string{key, queueKey(key), placesKey(key)}, attemptNo(n), wakeChannel(key)).word()
	}
	s.Expect(abandon(1)).To(Equal("gone"))
	granted := s.queued(attemptNo(1), tenSeconds)
	for _, n := range []int{2, 22, 3} {
		s.queued(attemptNo(n), tenSeconds)
	}
	s.Expect(abandon(4)).To(Equal("gone"))
	s.Consistently(messages, "50ms").ShouldNot(Receive())

	s.Expect(abandon(2)).To(Equal("done"))
	s.Eventually(messages).Should(Receive())
	s.Expect(s.inQueue()).To(Equal([]string{attemptNo(22), attemptNo(3)}))
	s.Expect(s.rdb.ZRange(t.Context(), placesKey(key), 0, -1).Val()).To(ConsistOf(attemptNo(22), attemptNo(3)))
	s.expects(key, tokenOf(attemptNo(1), granted), about(time.Minute))
	s.Expect(abandon(1)).To(Equal("done"))
	s.Expect(s.rdb.Exists(t.Context(), key).Val()).To(BeZero())

	s.enter(attemptNo(5), readers)
	s.Expect(abandon(5)).To(Equal("gone"), "a read lock is not its business")
	for _, k := range []string{key, queueKey(key), placesKey(key)} {
		s.hash(k)
	}
	s.Expect(abandon(3)).To(Equal("gone"))
	s.set(key, fmt.Sprint(tombstone, attemptNo(3), 5), time.Minute)
	s.Expect(abandon(3)).To(Equal("gone"))
}
