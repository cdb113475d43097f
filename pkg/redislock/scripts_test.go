package redislock

import (
	"fmt"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	"github.com/redis/go-redis/v9"
)

// A stage is a Redis on which a script is played without a client around it.
type stage struct {
	*WithT
	t   *testing.T
	rdb *redis.Client
}

func newStage(t *testing.T) *stage {
	return &stage{within(t), t, connect(t, startRedis(t).URL())}
}

func (s *stage) play(script *script, keys []string, args ...any) reply {
	s.t.Helper()
	r, err := s.try(script, keys, args...)
	s.Expect(err).NotTo(HaveOccurred())
	return r
}

func (s *stage) try(script *script, keys []string, args ...any) (reply, error) {
	answer, err := redis.NewScript(script.source).Run(s.t.Context(), s.rdb, keys, args...).Result()
	if err != nil {
		return nil, err
	}
	return parseReply(answer)
}

// set puts a value at a key; 0 is no expiry.
func (s *stage) set(key, value string, expiry time.Duration) {
	s.t.Helper()
	s.Expect(s.rdb.Set(s.t.Context(), key, value, expiry).Err()).To(Succeed())
}

func (s *stage) hash(key string) {
	s.t.Helper()
	s.Expect(s.rdb.Del(s.t.Context(), key).Err()).To(Succeed())
	s.Expect(s.rdb.HSet(s.t.Context(), key, "f", "v").Err()).To(Succeed())
}

func (s *stage) expects(key string, expected string, pttl types.GomegaMatcher) {
	s.t.Helper()
	s.Expect(value(s.t, s.rdb, key)).To(Equal(expected))
	s.Expect(s.rdb.PTTL(s.t.Context(), key).Val()).To(pttl)
}

func (s *stage) now() int64 { return s.rdb.Time(s.t.Context()).Val().UnixMicro() }

func (s *stage) subscribe(channel string) <-chan *redis.Message {
	s.t.Helper()
	sub := s.rdb.Subscribe(s.t.Context(), channel)
	s.t.Cleanup(func() { _ = sub.Close() })
	_, err := sub.Receive(s.t.Context())
	s.Expect(err).NotTo(HaveOccurred())
	return sub.Channel()
}

func about(d time.Duration) types.GomegaMatcher {
	return And(BeNumerically("<=", d), BeNumerically(">", d*3/4))
}

const (
	gone       = time.Duration(-2)
	persistent = time.Duration(-1)
	mine       = "host#0a.1#"
	minute     = 60_000
)

var acquireKeys = []string{key, fenceKey(key), metadataKey(key), historyKey(key)}

// acquire plays the script with arguments that tests seldom change.
func (s *stage) acquire(attempt string, change ...any) reply {
	s.t.Helper()
	args := []any{attempt, minute, 0, 0, 0, 2 * minute, 0, ""}
	copy(args[1:], change)
	return s.play(acquireScript, acquireKeys, args...)
}

func TestAcquireScriptGrantsOnce(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	before := s.now()
	granted := s.acquire(mine)
	s.Expect(granted).To(HaveLen(4))
	s.Expect(granted.word()).To(Equal("granted"))
	fence := granted.number(1)
	s.Expect(fence).To(BeNumerically(">=", before), "the server's time is its floor")
	s.Expect(granted.number(3)).To(Equal(fence), "the server's time")
	s.expects(key, fmt.Sprint(mine, fence), about(time.Minute))
	s.expects(fenceKey(key), fmt.Sprint(fence), about(2*time.Minute))
	s.Expect(s.rdb.Exists(t.Context(), historyKey(key)).Val()).To(BeZero())

	s.Expect(s.rdb.PExpire(t.Context(), key, 30*time.Second).Val()).To(BeTrue())
	again := s.acquire(mine, 2*minute)
	s.Expect(again.word()).To(Equal("again"))
	s.Expect(again.number(1)).To(Equal(fence))
	s.Expect(again.duration(2)).To(about(30*time.Second), "a repeat prolongs nothing")
	s.expects(fenceKey(key), fmt.Sprint(fence), about(2*time.Minute))

	for _, other := range []string{"host#0a.2#", "host#0a.11#", "host#0b.1#", "hos#0a.1#", "other#0a.1#"} {
		held := s.acquire(other)
		s.Expect(held.word()).To(Equal("held"), other)
		s.Expect(held.text(1)).To(Equal(fmt.Sprint(mine, fence)))
	}
}

func TestAcquireScriptRaisesTheFenceAboveAllItKnows(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	future := s.now() + int64(24*time.Hour/time.Microsecond)
	s.set(fenceKey(key), fmt.Sprint(future), time.Minute)
	s.Expect(s.acquire(mine).number(1)).To(Equal(future+1), "stored")
	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	s.Expect(s.acquire(mine, minute, 0, future+5, future+5).number(1)).To(Equal(future+6), "seen and forgiven")
	s.expects(fenceKey(key), fmt.Sprint(future+6), about(2*time.Minute))
}

func TestAcquireScriptRefuses(t *testing.T) {
	t.Parallel()
	year := int64(366 * 24 * time.Hour / time.Microsecond)
	for name, test := range map[string]struct {
		prepare func(*stage)
		args    func(now int64) []any
		word    string
		detail  string
	}{
		"late":                   {nil, func(now int64) []any { return []any{minute, now - 1} }, "late", ""},
		"amnesia":                {nil, func(now int64) []any { return []any{minute, 0, now} }, "amnesia", ""},
		"amnesia, forgiven less": {nil, func(now int64) []any { return []any{minute, 0, now, now - 1} }, "amnesia", ""},
		"seen in a year":         {nil, func(now int64) []any { return []any{minute, 0, now + year + 60_000_000} }, "corrupt", "seen"},
		"counter in a year":      {func(s *stage) { s.set(fenceKey(key), fmt.Sprint(s.now()+year+60_000_000), time.Minute) }, nil, "corrupt", "stored"},
		"garbage counter":        {func(s *stage) { s.set(fenceKey(key), "1e3", time.Minute) }, nil, "corrupt", "stored"},
		"overlong counter":       {func(s *stage) { s.set(fenceKey(key), strings.Repeat("1", 500), time.Minute) }, nil, "corrupt", "stored"},
		"counter with newline":   {func(s *stage) { s.set(fenceKey(key), "12\n", time.Minute) }, nil, "corrupt", "stored"},
		"hash as counter":        {func(s *stage) { s.hash(fenceKey(key)) }, nil, "corrupt", "stored"},
		"string as history":      {func(s *stage) { s.set(historyKey(key), "x", time.Minute) }, func(int64) []any { return []any{minute, 0, 0, 0, 2 * minute, 5} }, "corrupt", "history"},
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
			r := s.acquire(mine, args...)
			s.Expect(r).To(HaveLen(4))
			s.Expect(r.word()).To(Equal(test.word))
			s.Expect(r.text(1)).To(Equal(test.detail))
			s.Expect(r.number(3)).To(BeNumerically("~", s.now(), int64(time.Minute/time.Microsecond)))
			s.Expect(s.rdb.DBSize(t.Context()).Val()).To(Equal(before), "nothing is written")
			s.Expect(value(t, s.rdb, key)).To(BeEmpty())
		})
	}
}

func TestAcquireScriptAcceptsNotAfterWhereTheLockIsItsOwn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	fence := s.acquire(mine, minute, s.now()+60_000_000).number(1)
	r := s.acquire(mine, minute, 1)
	s.Expect(r.word()).To(Equal("again"), "late or not, it was granted")
	s.Expect(r.number(1)).To(Equal(fence))
}

func TestAcquireScriptTakesForeignValuesForHeld(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.hash(key)
	r := s.acquire(mine)
	s.Expect(r).To(HaveExactElements("held", "", BeEquivalentTo(-1), Not(BeZero())))
	s.set(key, "theirs", 0)
	r = s.acquire(mine)
	s.Expect(r).To(HaveExactElements("held", "theirs", BeEquivalentTo(-1), Not(BeZero())))
	s.set(key, tombstone+mine+"7", time.Minute)
	r = s.acquire(mine)
	s.Expect(r.word()).To(Equal("held"))
	s.Expect(r.text(1)).To(Equal(tombstone + mine + "7"))
}

func TestAcquireScriptKeepsABoundedHistory(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	var fences []string
	for range 10 {
		r := s.acquire(mine, minute, 0, 0, 0, 2*minute, 3)
		fences = append(fences, fmt.Sprint(r.number(1)))
		s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	}
	entries := s.rdb.XRange(t.Context(), historyKey(key), "-", "+").Val()
	s.Expect(entries).To(HaveLen(3))
	for i, e := range entries {
		s.Expect(e.Values).To(Equal(map[string]any{"fence": fences[7+i], "holder": "host"}))
	}
	s.Expect(s.rdb.PTTL(t.Context(), historyKey(key)).Val()).To(about(2 * time.Minute))
}

func TestRenewScript(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	token := mine + "7"
	renew := func(ms int) reply { return s.play(renewScript, []string{key}, token, ms) }
	s.Expect(renew(minute)).To(HaveExactElements("mismatch", ""))
	s.expects(key, "", Equal(gone))

	s.set(key, token, time.Second*30)
	s.Expect(renew(minute)).To(HaveExactElements("ok"))
	s.expects(key, token, about(time.Minute))
	s.Expect(renew(1000)).To(HaveExactElements("ok"))
	s.expects(key, token, about(time.Minute))

	s.set(key, token, 0)
	s.Expect(renew(minute)).To(HaveExactElements("ok"), "an expiry that somebody took away comes back")
	s.expects(key, token, about(time.Minute))

	for _, other := range []string{mine + "8", mine + "77", mine, tombstone + token, "theirs"} {
		s.set(key, other, time.Second*30)
		s.Expect(renew(minute)).To(HaveExactElements("mismatch", other))
		s.expects(key, other, about(30*time.Second))
	}
	s.hash(key)
	s.Expect(renew(minute)).To(HaveExactElements("mismatch", ""))
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(Equal(persistent))
}

func TestReleaseScript(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	token, channel := mine+"7", wakeChannel(key)
	heard := s.subscribe(channel)
	release := func(what string, rest int, mode string) reply {
		return s.play(releaseScript, []string{key}, what, rest, channel, mode)
	}
	s.Expect(release(token, 0, "token")).To(HaveExactElements("gone"))

	s.set(key, token, time.Minute)
	s.Expect(release(token, 0, "token")).To(HaveExactElements("done"))
	s.expects(key, "", Equal(gone))
	s.Eventually(heard).Should(Receive(HaveField("Channel", channel)))

	s.set(key, token, time.Minute)
	s.Expect(release(mine, 0, "attempt")).To(HaveExactElements("done"), "a grant whose fence was not heard")
	s.expects(key, "", Equal(gone))

	s.set(key, token, time.Minute)
	s.Expect(release(token, 20_000, "token")).To(HaveExactElements("done"))
	s.expects(key, tombstone+token, about(20*time.Second))
	s.Eventually(heard).Should(Receive(), "waiters hear for how long")
	for _, mode := range []string{"token", "attempt"} {
		what := map[string]string{"token": token, "attempt": mine}[mode]
		s.Expect(release(what, 0, mode)).To(HaveExactElements("gone"), "a repeat does not remove the tombstone")
		s.expects(key, tombstone+token, about(20*time.Second))
	}

	for _, other := range []string{mine + "8", mine + "77", "theirs", tombstone + "x#1.1#7", mine} {
		s.set(key, other, time.Minute)
		s.Expect(release(token, 0, "token")).To(HaveExactElements("mismatch", other))
		s.expects(key, other, about(time.Minute))
	}
	s.set(key, "host#0a.11#7", time.Minute)
	s.Expect(release(mine, 0, "attempt")).To(HaveExactElements("mismatch", "host#0a.11#7"))
	s.hash(key)
	s.Expect(release(token, 0, "token")).To(HaveExactElements("mismatch", ""))
	s.Expect(s.rdb.Exists(t.Context(), key).Val()).To(BeEquivalentTo(1))
}

func TestAdoptScript(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	before, after := mine+"7", "host#0b.1#7"
	adopt := func() reply { return s.play(adoptScript, []string{key}, before, after, minute) }
	s.Expect(adopt()).To(HaveExactElements("mismatch", "", Not(BeZero())))
	s.expects(key, "", Equal(gone))

	s.set(key, before, 30*time.Second)
	s.Expect(adopt()).To(HaveExactElements("ok", BeEquivalentTo(minute), Not(BeZero())))
	s.expects(key, after, about(time.Minute))
	s.Expect(adopt().word()).To(Equal("ok"), "a repeat")
	s.expects(key, after, about(time.Minute))

	s.set(key, before, time.Hour)
	s.Expect(adopt().duration(1)).To(about(time.Hour))
	s.expects(key, after, about(time.Hour))

	for _, other := range []string{mine + "8", mine, tombstone + before, tombstone + after, "theirs"} {
		s.set(key, other, 30*time.Second)
		s.Expect(adopt()).To(HaveExactElements("mismatch", other, Not(BeZero())))
		s.expects(key, other, about(30*time.Second))
	}
	s.hash(key)
	s.Expect(adopt()).To(HaveExactElements("mismatch", "", Not(BeZero())))
}

func TestForceReleaseScript(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	token, channel := mine+"7", wakeChannel(key)
	heard := s.subscribe(channel)
	force := func(by, what, mode string) reply {
		return s.play(forceReleaseScript, []string{key}, by, what, mode, channel)
	}
	s.Expect(force("fence", "7", "wait")).To(HaveExactElements("free", ""))

	s.set(key, token, time.Minute)
	s.Expect(force("fence", "7", "wait")).To(HaveExactElements("done", ""))
	s.expects(key, tombstone+token, about(time.Minute))
	s.Eventually(heard).Should(Receive())
	s.Expect(force("fence", "7", "now")).To(HaveExactElements("mismatch", tombstone+token))
	s.Expect(force("value", tombstone+token, "wait")).To(HaveExactElements("done", ""))
	s.expects(key, tombstone+token, about(time.Minute))
	s.Expect(force("value", tombstone+token, "now")).To(HaveExactElements("done", ""))
	s.expects(key, "", Equal(gone))

	for _, holder := range []string{token, "host#0a.1.stopped#7", "h#with#0a.1#7"} {
		s.set(key, holder, time.Minute)
		s.Expect(force("fence", "7", "now").word()).To(Equal("done"), holder)
		s.expects(key, "", Equal(gone))
	}
	s.set(key, "theirs", 0)
	s.Expect(force("value", "theirs", "wait")).To(HaveExactElements("done", ""), "there is no expiry to wait for")
	s.expects(key, "", Equal(gone))

	for _, other := range []string{mine + "17", mine + "77", "7", "#7", "theirs#7", "theirs"} {
		s.set(key, other, time.Minute)
		s.Expect(force("fence", "7", "now")).To(HaveExactElements("mismatch", other))
		s.Expect(force("value", token, "now")).To(HaveExactElements("mismatch", other))
		s.expects(key, other, about(time.Minute))
	}
	s.hash(key)
	s.Expect(force("value", token, "now")).To(HaveExactElements("mismatch", ""))
}

func TestInspectScript(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	inspect := func() reply { return s.play(inspectScript, []string{key, fenceKey(key)}) }
	s.Expect(inspect()).To(HaveExactElements("none", "", BeEquivalentTo(-2), "", Not(BeZero())))
	s.set(fenceKey(key), "7", time.Minute)
	s.set(key, mine+"7", 0)
	s.Expect(inspect()).To(HaveExactElements("string", mine+"7", BeEquivalentTo(-1), "7", Not(BeZero())))
	s.set(key, mine+"7", time.Minute)
	s.Expect(inspect().duration(2)).To(about(time.Minute))
	s.hash(key)
	s.hash(fenceKey(key))
	s.Expect(inspect()).To(HaveExactElements("other", "", BeEquivalentTo(-1), "", Not(BeZero())))
}

func TestScriptsComeBackAfterAScriptFlush(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	flush := func() { g.Expect(rdb.ScriptFlush(t.Context()).Err()).To(Succeed()) }
	flush()
	l := mustAcquire(t, c, key, patient())
	flush()
	g.Expect(l.Extend(t.Context(), time.Hour)).To(Succeed())
	flush()
	claim := mustClaim(t, l, claimBy("a", Run{ID: "m"}))
	flush()
	g.Expect(c.FinishRun(t.Context(), key, Run{ID: "m"}, claim.Fence, "", true)).To(Equal(FinishDone))
	flush()
	g.Expect(l.Status(t.Context())).To(Equal(Acquired))
	flush()
	adopted, err := c.Adopt(t.Context(), key, l.Token(), patient())
	g.Expect(err).NotTo(HaveOccurred())
	flush()
	g.Expect(adopted.Release(t.Context())).To(Succeed())
	l = mustAcquire(t, c, key, patient())
	flush()
	g.Expect(c.ForceRelease(t.Context(), key, l.Fence())).To(BeTrue())
}
