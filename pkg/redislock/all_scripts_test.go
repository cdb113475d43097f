package redislock

import (
	"fmt"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

const (
	keyA = "lock:{t}:a"
	keyB = "lock:{t}:b"
	keyC = "lock:{t}:c"
)

var allKeys = []string{
	keyA, fenceKey(keyA), metadataKey(keyA), historyKey(keyA),
	keyB, fenceKey(keyB), metadataKey(keyB), historyKey(keyB),
	keyC, fenceKey(keyC), metadataKey(keyC), historyKey(keyC),
}

// acquireAll plays the script for three locks, of which Redis lost nothing.
func (s *stage) acquireAll(attempt string, change ...any) reply {
	s.t.Helper()
	args := []any{attempt, minute, 0, 2 * minute, 0, "", 0, 0, 0, 0, 0, 0}
	copy(args[1:], change)
	return s.play(acquireAllScript, allKeys, args...)
}

// free deletes what stands at the keys, and nothing beside them.
func (s *stage) free(keys ...string) {
	s.t.Helper()
	s.Expect(s.rdb.Del(s.t.Context(), keys...).Err()).To(Succeed())
}

func TestAcquireAllScriptGrantsAllOnce(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	future := s.now() + int64(time.Hour/time.Microsecond)
	s.set(fenceKey(keyB), fmt.Sprint(future), time.Minute)
	granted := s.acquireAll(mine, minute, 0, 2*minute, 2, "why")
	s.Expect(granted).To(HaveLen(4))
	s.Expect(granted.word()).To(Equal("granted"))
	s.Expect(granted.duration(2)).To(Equal(time.Minute))
	fences := granted.list(1)
	s.Expect(fences).To(HaveLen(3))
	s.Expect(fences.number(1)).To(Equal(future+1), "each has a counter of its own")
	for i, k := range []string{keyA, keyB, keyC} {
		s.Expect(fences.number(i)).To(BeNumerically(">", 0))
		s.expects(k, fmt.Sprint(mine, fences.number(i)), about(time.Minute))
		s.expects(fenceKey(k), fmt.Sprint(fences.number(i)), about(2*time.Minute))
		s.expects(metadataKey(k), fmt.Sprint(fences.number(i), " why"), about(2*time.Minute))
		s.Expect(s.rdb.XLen(t.Context(), historyKey(k)).Val()).To(BeEquivalentTo(1))
		s.Expect(s.rdb.PTTL(t.Context(), historyKey(k)).Val()).To(about(2 * time.Minute))
	}
	s.Expect(s.rdb.DBSize(t.Context()).Val()).To(BeEquivalentTo(12))

	s.Expect(s.rdb.PExpire(t.Context(), keyB, 30*time.Second).Val()).To(BeTrue())
	again := s.acquireAll(mine, 2*minute, 1) // late or not, it was granted
	s.Expect(again.word()).To(Equal("again"))
	s.Expect(again.list(1)).To(Equal(fences))
	s.Expect(again.duration(2)).To(about(30*time.Second), "the shortest")
	s.expects(keyA, fmt.Sprint(mine, fences.number(0)), about(time.Minute))

	held := s.acquireAll("other#0a.1#")
	s.Expect(held.word()).To(Equal("held"))
	s.Expect(held.text(1)).To(Equal(fmt.Sprint(mine, fences.number(0))))
	s.Expect(held.number(4)).To(BeEquivalentTo(1))
	s.Expect(held.text(5)).To(Equal(fmt.Sprint(fences.number(0), " why")))
}

func TestAcquireAllScriptGrantsNoneWhereOneIsInTheWay(t *testing.T) {
	t.Parallel()
	year := int64(366 * 24 * time.Hour / time.Microsecond)
	for name, test := range map[string]struct {
		prepare func(*stage)
		args    func(now int64) []any
		word    string
		detail  string
		which   int64
	}{
		"held first":        {func(s *stage) { s.set(keyA, "theirs", time.Minute) }, nil, "held", "theirs", 1},
		"held last":         {func(s *stage) { s.set(keyC, "theirs", 0) }, nil, "held", "theirs", 3},
		"two held":          {func(s *stage) { s.set(keyB, "one", 0); s.set(keyC, "two", 0) }, nil, "held", "one", 2},
		"hash":              {func(s *stage) { s.hash(keyB) }, nil, "held", "", 2},
		"tombstone":         {func(s *stage) { s.set(keyB, tombstone+mine+"7", time.Minute) }, nil, "held", tombstone + mine + "7", 2},
		"held and late":     {func(s *stage) { s.set(keyB, "theirs", 0) }, func(now int64) []any { return []any{minute, now - 1} }, "held", "theirs", 2},
		"late":              {nil, func(now int64) []any { return []any{minute, now - 1} }, "late", "", 0},
		"seen in a year":    {nil, func(now int64) []any { return []any{minute, 0, 2 * minute, 0, "", 0, 0, now + year + 60_000_000} }, "corrupt", "seen", 2},
		"counter in a year": {func(s *stage) { s.set(fenceKey(keyC), fmt.Sprint(s.now()+year+60_000_000), time.Minute) }, nil, "corrupt", "stored", 3},
		"garbage counter":   {func(s *stage) { s.set(fenceKey(keyB), "1e3", time.Minute) }, nil, "corrupt", "stored", 2},
		"hash as counter":   {func(s *stage) { s.hash(fenceKey(keyC)) }, nil, "corrupt", "stored", 3},
		"string as history": {func(s *stage) { s.set(historyKey(keyC), "x", time.Minute) }, func(int64) []any { return []any{minute, 0, 2 * minute, 5} }, "corrupt", "history", 3},
		"rest of its own":   {func(s *stage) { s.set(keyB, mine+"7", time.Minute) }, nil, "held", mine + "7", 2},
		"own and others":    {func(s *stage) { s.set(keyA, mine+"7", time.Minute); s.set(keyC, "theirs", 0) }, nil, "held", "theirs", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			if test.prepare != nil {
				test.prepare(s)
			}
			var args []any
			if test.args != nil {
				args = test.args(s.now())
			}
			before := s.rdb.DBSize(t.Context()).Val()
			r := s.acquireAll(mine, args...)
			s.Expect(r.word()).To(Equal(test.word))
			s.Expect(r.text(1)).To(Equal(test.detail))
			s.Expect(r.number(3)).To(BeNumerically("~", s.now(), int64(time.Minute/time.Microsecond)))
			s.Expect(r.number(4)).To(Equal(test.which))
			s.Expect(s.rdb.DBSize(t.Context()).Val()).To(Equal(before), "nothing is written")
		})
	}
}

func TestAcquireAllScriptNamesAllThatRedisForgot(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	now := s.now()
	s.set(fenceKey(keyB), fmt.Sprint(now), time.Minute)
	r := s.acquireAll(mine, minute, 0, 2*minute, 0, "", now, 0, now, 0, now+7, now+6)
	s.Expect(r.word()).To(Equal("amnesia"))
	s.Expect(r.list(1)).To(HaveExactElements(BeEquivalentTo(1), BeEquivalentTo(0), BeEquivalentTo(3), BeEquivalentTo(0)))
	s.Expect(s.rdb.DBSize(t.Context()).Val()).To(BeEquivalentTo(1), "nothing is written")

	future := now + int64(time.Hour/time.Microsecond)
	r = s.acquireAll(mine, minute, 0, 2*minute, 0, "", now, now, 0, 0, future, future)
	s.Expect(r.word()).To(Equal("granted"), "forgiven")
	s.Expect(r.list(1).number(2)).To(Equal(future + 1))
}

func TestReleaseAllScript(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	keys := []string{keyA, keyB, keyC}
	release := func(rest int) reply {
		t.Helper()
		return s.play(releaseAllScript, keys, rest, mine+"1", wakeChannel(keyA), mine+"2", wakeChannel(keyB), mine+"3", wakeChannel(keyC))
	}
	hold := func() {
		for i, k := range keys {
			s.set(k, fmt.Sprint(mine, i+1), time.Minute)
		}
	}
	woken := s.subscribe(wakeChannel(keyC))

	hold()
	s.Expect(release(0)).To(HaveExactElements("done", ""))
	s.Expect(s.rdb.Exists(t.Context(), keys...).Val()).To(BeZero())
	s.Eventually(woken).Should(Receive())
	s.Expect(release(0)).To(HaveExactElements("done", ""), "they are gone already")

	hold()
	s.free(keyB)
	s.Expect(release(30_000)).To(HaveExactElements("done", ""))
	s.Eventually(woken).Should(Receive())
	s.expects(keyA, tombstone+mine+"1", about(30*time.Second))
	s.expects(keyB, "", Equal(gone))
	s.expects(keyC, tombstone+mine+"3", about(30*time.Second))
	s.Expect(release(0)).To(HaveExactElements("done", ""), "our own tombstones stay")
	s.expects(keyA, tombstone+mine+"1", about(30*time.Second))

	for name, theirs := range map[string]string{
		"another": "theirs", "an earlier grant": mine + "1", "a later grant": mine + "22", "another's tombstone": tombstone + mine + "22",
	} {
		hold()
		s.set(keyB, theirs, time.Minute)
		s.Expect(release(0)).To(HaveExactElements("mismatch", theirs, BeEquivalentTo(2)), name)
		s.Expect(s.rdb.Exists(t.Context(), keyA, keyC).Val()).To(BeZero(), "what is ours is given back")
		s.expects(keyB, theirs, about(time.Minute))
	}
	hold()
	s.hash(keyC)
	s.Expect(release(0)).To(HaveExactElements("mismatch", "", BeEquivalentTo(3)))
	s.Expect(s.rdb.Exists(t.Context(), keys...).Val()).To(BeEquivalentTo(1))
}

func TestReleaseAllScriptWithoutMemory(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set(keyA, mine+"1", time.Hour)
	s.set(keyB, mine+"2", time.Hour)
	s.Expect(s.rdb.Set(t.Context(), "filler", strings.Repeat("x", 1<<20), 0).Err()).To(Succeed())
	s.Expect(s.rdb.ConfigSet(t.Context(), "maxmemory", "1mb").Err()).To(Succeed())
	s.Expect(s.rdb.Set(t.Context(), "x", "y", 0).Err()).To(HaveOccurred(), "there is no memory")
	args := []any{30_000, mine + "1", wakeChannel(keyA), mine + "2", wakeChannel(keyB)}
	s.Expect(s.play(releaseAllScript, []string{keyA, keyB}, args...).word()).To(Equal("done"))
	s.expects(keyA, mine+"1", about(30*time.Second))
	// Redis lets a script that has written go on.
	s.expects(keyB, tombstone+mine+"2", about(30*time.Second))
	args[0] = 0
	s.Expect(s.play(releaseAllScript, []string{keyA, keyB}, args...).word()).To(Equal("done"))
	s.expects(keyA, "", Equal(gone))
}
