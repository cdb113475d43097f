package leaderelection

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// A stage is a Redis on which a script is played without a candidate around it.
type stage struct {
	*WithT
	t   *testing.T
	rdb *redis.Client
}

func newStage(t *testing.T) *stage {
	return &stage{within(t), t, connect(t, startRedis(t).URL())}
}

func (s *stage) play(script *redis.Script, keys []string, args ...any) reply {
	s.t.Helper()
	r, err := script.Run(s.t.Context(), s.rdb, keys, args...).Slice()
	s.Expect(err).NotTo(HaveOccurred())
	return r
}

func (s *stage) set(key, value string, expiry time.Duration) {
	s.t.Helper()
	s.Expect(s.rdb.Set(s.t.Context(), key, value, expiry).Err()).To(Succeed())
}

func (s *stage) hash(key string) {
	s.t.Helper()
	s.Expect(s.rdb.Del(s.t.Context(), key).Err()).To(Succeed())
	s.Expect(s.rdb.HSet(s.t.Context(), key, "f", "v").Err()).To(Succeed())
}

func (s *stage) expects(key, expected string, pttl types.GomegaMatcher) {
	s.t.Helper()
	value, err := s.rdb.Get(s.t.Context(), key).Result()
	if expected != "" {
		s.Expect(err).NotTo(HaveOccurred())
	}
	s.Expect(value).To(Equal(expected))
	s.Expect(s.rdb.PTTL(s.t.Context(), key).Val()).To(pttl)
}

func (s *stage) subscribe() <-chan *redis.Message {
	s.t.Helper()
	sub := s.rdb.Subscribe(s.t.Context(), wakeChannel(key))
	s.t.Cleanup(func() { _ = sub.Close() })
	_, err := sub.Receive(s.t.Context())
	s.Expect(err).NotTo(HaveOccurred())
	return sub.Channel()
}

func (s *stage) now() int64 { return s.rdb.Time(s.t.Context()).Val().UnixMicro() }

func about(d time.Duration) types.GomegaMatcher {
	return And(BeNumerically("<=", d), BeNumerically(">", d*3/4))
}

const (
	gone   = time.Duration(-2)
	mine   = "blue#0a.1#"
	minute = 60_000
	hour   = 60 * minute
)

var (
	termKeys = []string{key, recordKey(key)}
	takeKeys = append(termKeys[:2:2], fenceKey(key))
)

// take plays the script with arguments that tests seldom change: observed, record,
// expiry, retention, notAfter, seen, forgiven.
func (s *stage) take(attempt string, change ...any) reply {
	s.t.Helper()
	args := []any{attempt, "", "r1", minute, hour, 0, 0, 0, wakeChannel(key)}
	copy(args[1:], change)
	return s.play(takeScript, takeKeys, args...)
}

func (s *stage) renew(token, observed, record string, expiry int) string {
	s.t.Helper()
	return s.play(renewScript, termKeys, token, observed, record, expiry, hour).text(0)
}

func (s *stage) release(named, record, mode string) string {
	s.t.Helper()
	return s.play(releaseScript, termKeys, named, record, hour, wakeChannel(key), mode).text(0)
}

// granted begins a term and returns its token.
func (s *stage) granted() string {
	s.t.Helper()
	r := s.take(mine)
	s.Expect(r.text(0)).To(Equal("granted"))
	return fmt.Sprint(mine, r.number(1))
}

func TestTakeBeginsATermOnce(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	before := s.now()
	r := s.take(mine)
	s.Expect(r.text(0)).To(Equal("granted"))
	s.Expect(r.number(1)).To(BeNumerically(">=", before), "the server's time is its floor")
	s.Expect(r.number(2)).To(BeNumerically(">=", before))
	token := fmt.Sprint(mine, r.number(1))
	s.expects(key, token, about(time.Minute))
	s.expects(recordKey(key), "r1", about(time.Hour))
	s.expects(fenceKey(key), fmt.Sprint(r.number(1)), about(time.Hour))

	s.Expect(s.rdb.PExpire(t.Context(), key, 30*time.Second).Val()).To(BeTrue())
	again := s.take(mine, "", "r2")
	s.Expect(again.text(0)).To(Equal("again"))
	s.Expect(again.number(1)).To(Equal(r.number(1)))
	s.Expect(again.text(3)).To(Equal("r1"))
	s.expects(key, token, about(30*time.Second))
	s.expects(recordKey(key), "r1", about(time.Hour))

	for _, other := range []string{"blue#0a.2#", "blue#0b.1#", "green#0a.1#"} {
		s.Expect(s.take(other, "r1", "r2").text(0)).To(Equal("held"), "though the record is known: "+other)
	}
	s.expects(key, token, about(30*time.Second))
	s.Expect(s.rdb.Del(t.Context(), recordKey(key)).Err()).To(Succeed())
	s.Expect(s.take(mine).text(3)).To(BeEmpty())
}

func TestTakeWantsTheKeyGoneAndTheRecordUnchanged(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set(recordKey(key), "r7", time.Minute)
	s.Expect(s.take(mine, "", "r8").text(0)).To(Equal("changed"))
	s.Expect(s.take(mine, "r6", "r8").text(0)).To(Equal("changed"))
	s.expects(key, "", Equal(gone))
	s.expects(fenceKey(key), "", Equal(gone))
	s.expects(recordKey(key), "r7", about(time.Minute))
	s.Expect(s.take(mine, "r7", "r8").text(0)).To(Equal("granted"))
	s.expects(recordKey(key), "r8", about(time.Hour))

	s.hash(key)
	s.Expect(s.take(mine, "r8", "r9").text(0)).To(Equal("held"), "a lock that is no string")
	s.set(key, "x", 0)
	s.Expect(s.take(mine, "r8", "r9").text(0)).To(Equal("held"), "a lock of another library")
}

func TestTakeIsVoidWhenItArrivesLate(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.Expect(s.take(mine, "", "r1", minute, hour, s.now()-1).text(0)).To(Equal("late"))
	s.expects(key, "", Equal(gone))
	s.Expect(s.take(mine, "", "r1", minute, hour, s.now()+minute*1000).text(0)).To(Equal("granted"))
}

func TestTakeRaisesTheFenceAboveAllItKnows(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	future := s.now() + int64(time.Hour/time.Microsecond)
	s.set(fenceKey(key), fmt.Sprint(future), time.Minute)
	s.Expect(s.take(mine).number(1)).To(Equal(future + 1))
	s.Expect(s.rdb.Del(t.Context(), key, recordKey(key)).Err()).To(Succeed())

	amnesia := s.take(mine, "", "r1", minute, hour, 0, future+5)
	s.Expect(amnesia.text(0)).To(Equal("amnesia"))
	s.Expect(amnesia.number(1)).To(Equal(future + 1))
	s.expects(key, "", Equal(gone))
	s.Expect(s.take(mine, "", "r1", minute, hour, 0, future+5, future+4).text(0)).To(Equal("amnesia"), "forgiven is another")
	s.Expect(s.take(mine, "", "r1", minute, hour, 0, future+5, future+5).number(1)).To(Equal(future + 6))
}

func TestTakeRefusesWhatItNeverWrote(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ahead := s.now() + int64(2*366*24*time.Hour/time.Microsecond)
	for _, bad := range []string{"", "x", "-1", "1.5", "1e3", fmt.Sprint(ahead)} {
		s.set(fenceKey(key), bad, time.Minute)
		r := s.take(mine)
		s.Expect([]string{r.text(0), r.text(1)}).To(Equal([]string{"corrupt", "stored"}), bad)
	}
	s.hash(fenceKey(key))
	s.Expect(s.take(mine).text(1)).To(Equal("stored"))
	s.Expect(s.rdb.Del(t.Context(), fenceKey(key)).Err()).To(Succeed())
	s.Expect(s.take(mine, "", "r1", minute, hour, 0, ahead).text(1)).To(Equal("seen"))
	s.hash(recordKey(key))
	s.Expect(s.take(mine).text(1)).To(Equal("record"))
	s.expects(key, "", Equal(gone))
}

func TestRenewProlongsItsOwnTermOnly(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.Expect(s.renew(mine+"1", "", "r2", minute)).To(Equal("lost"))
	s.expects(key, "", Equal(gone))
	s.expects(recordKey(key), "", Equal(gone))

	token := s.granted()
	s.Expect(s.renew(token, "r1", "r2", 2*minute)).To(Equal("ok"))
	s.expects(key, token, about(2*time.Minute))
	s.expects(recordKey(key), "r2", about(time.Hour))
	s.Expect(s.renew(token, "r2", "r3", minute)).To(Equal("ok"))
	s.expects(key, token, about(2*time.Minute)) // never shorter
	s.Expect(s.renew(mine+"1", "r3", "r4", minute)).To(Equal("lost"))
	s.Expect(s.renew(token+"1", "r3", "r4", minute)).To(Equal("lost"))
	s.expects(recordKey(key), "r3", about(time.Hour))

	s.set(key, "green#0b.1#99", time.Minute)
	s.Expect(s.renew(token, "r3", "r4", 2*minute)).To(Equal("lost"))
	s.expects(key, "green#0b.1#99", about(time.Minute))
	s.hash(key)
	s.Expect(s.renew(token, "r3", "r4", 2*minute)).To(Equal("lost"))
}

func TestRenewThatComesAgainOrLateChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	token := s.granted()
	s.Expect(s.renew(token, "r1", "r2", minute)).To(Equal("ok"))
	s.Expect(s.rdb.PExpire(t.Context(), key, 30*time.Second).Val()).To(BeTrue())
	s.Expect(s.renew(token, "r1", "r2", minute)).To(Equal("ok"), "its answer was lost")
	s.expects(key, token, about(30*time.Second))
	s.Expect(s.renew(token, "r2", "r3", 30_000)).To(Equal("ok"))
	s.Expect(s.renew(token, "r1", "r2", minute)).To(Equal("changed"), "after a later one")
	s.expects(key, token, about(30*time.Second))
	s.expects(recordKey(key), "r3", about(time.Hour))
}

func TestRenewRestoresARecordThatIsGone(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	token := s.granted()
	s.Expect(s.rdb.Del(t.Context(), recordKey(key)).Err()).To(Succeed())
	s.Expect(s.renew(token, "r1", "r2", minute)).To(Equal("ok"))
	s.expects(recordKey(key), "r2", about(time.Hour))
	s.hash(recordKey(key))
	s.Expect(s.renew(token, "r2", "r3", minute)).To(Equal("changed"), "what we did not write is left alone")
}

func TestReleaseEndsItsOwnTermOnly(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	told := s.subscribe()
	s.Expect(s.release(mine+"1", "r0", "token")).To(Equal("gone"))
	s.expects(recordKey(key), "", Equal(gone))

	token := s.granted()
	s.Expect(s.release(mine+"1", "r0", "token")).To(Equal("mismatch"))
	s.Expect(s.release(mine, "r0", "token")).To(Equal("mismatch"), "an attempt is no token")
	s.Expect(s.release("blue#0a.11#", "", "attempt")).To(Equal("mismatch"))
	s.expects(key, token, about(time.Minute))
	s.expects(recordKey(key), "r1", about(time.Hour))

	s.Eventually(told).Should(Receive(), "the take")
	s.Expect(s.release(token, "r2", "token")).To(Equal("done"))
	s.expects(key, "", Equal(gone))
	s.expects(recordKey(key), "r2", about(time.Hour))
	s.Eventually(told).Should(Receive())

	s.Expect(s.take("green#0b.1#", "r2", "r3").text(0)).To(Equal("granted"))
	s.Expect(s.release(token, "r2", "token")).To(Equal("mismatch"), "it comes again")
	s.expects(recordKey(key), "r3", about(time.Hour))
	s.Expect(s.release("green#0b.1#", "", "attempt")).To(Equal("done"))
	s.expects(key, "", Equal(gone))
	s.expects(recordKey(key), "r3", about(time.Hour))
	s.hash(key)
	s.Expect(s.release(token, "r2", "token")).To(Equal("mismatch"))
}

func TestTermsBeginAndEndWithoutTheChannelAndEndWithoutMemory(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ctx := t.Context()
	s.Expect(s.rdb.ACLSetUser(ctx, "app", "on", "nopass", "~*", "resetchannels", "+@all").Err()).To(Succeed())
	s.Expect(s.rdb.Do(ctx, "AUTH", "app", "x").Err()).To(Succeed())
	token := s.granted()
	s.Expect(s.rdb.ConfigSet(ctx, "maxmemory", "1").Err()).To(Succeed())
	s.Expect(s.release(token, "r2", "token")).To(Equal("done"))
	s.expects(key, "", Equal(gone))
}

func TestGetSeesAndTouchesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	get := func() []any {
		r := s.play(getScript, termKeys)
		s.Expect(r.number(4)).To(BeNumerically(">", 0))
		return []any{r.text(0), r.text(1), r.text(2)}
	}
	s.Expect(get()).To(Equal([]any{"none", "", ""}))
	token := s.granted()
	s.Expect(get()).To(Equal([]any{"string", token, "r1"}))
	s.Expect(time.Duration(s.play(getScript, termKeys).number(3)) * time.Millisecond).To(about(time.Minute))
	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	s.Expect(get()).To(Equal([]any{"none", "", "r1"}))
	s.hash(key)
	s.hash(recordKey(key))
	s.Expect(get()).To(Equal([]any{"other", "", ""}))
	s.Expect(s.rdb.PTTL(t.Context(), key).Val()).To(Equal(time.Duration(-1)))
}

func TestScriptsPassOnWhatAnACLDenies(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ctx := t.Context()
	s.Expect(s.rdb.ACLSetUser(ctx, "app", "on", "nopass", "~*", "&*", "+@all", "-get").Err()).To(Succeed())
	s.Expect(s.rdb.Do(ctx, "AUTH", "app", "x").Err()).To(Succeed())
	for name, err := range map[string]error{
		"get":     getScript.Run(ctx, s.rdb, termKeys).Err(),
		"take":    takeScript.Run(ctx, s.rdb, takeKeys, mine, "", "r1", minute, hour, 0, 0, 0, wakeChannel(key)).Err(),
		"renew":   renewScript.Run(ctx, s.rdb, termKeys, mine+"1", "r1", "r2", minute, hour).Err(),
		"release": releaseScript.Run(ctx, s.rdb, termKeys, mine+"1", "r2", hour, wakeChannel(key), "token").Err(),
	} {
		s.Expect(redislock.Refused(err)).To(BeTrue(), "%s: %v", name, err)
	}
}
