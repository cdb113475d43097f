package leaderelection

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
	"github.com/redislock-operator/redislock-operator/test/proxy"
)

func TestBadArgumentsAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := redis.NewClient(&redis.Options{Dialer: nil, Addr: "127.0.0.1:1"})
	defer func() { _ = rdb.Close() }()
	for name, opt := range map[string]Option{
		"under 2 s":             WithTimings(1999*time.Millisecond, time.Second, 100*time.Millisecond),
		"0.9 s":                 WithTimings(900*time.Millisecond, 600*time.Millisecond, 200*time.Millisecond),
		"fraction of a second":  WithTimings(2500*time.Millisecond, 2*time.Second, 100*time.Millisecond),
		"too long":              WithTimings(25*time.Hour, time.Second, 100*time.Millisecond),
		"deadline is the lease": WithTimings(10*time.Second, 10*time.Second, time.Second),
		"deadline near retry":   WithTimings(10*time.Second, 2400*time.Millisecond, 2*time.Second),
		"no retry":              WithTimings(10*time.Second, 5*time.Second, 0),
		"no identity":           WithIdentity(""),
		"identity":              WithIdentity("a b"),
	} {
		_, err := New(rdb, key, opt)
		g.Expect(err).To(MatchError(redislock.ErrInvalid), name)
	}
	_, err := New(rdb, "")
	g.Expect(err).To(MatchError(redislock.ErrInvalid))
	_, err = New(nil, key)
	g.Expect(err).To(MatchError(redislock.ErrInvalid))

	l, err := New(rdb, key)
	g.Expect(err).NotTo(HaveOccurred(), "the defaults will do")
	other, err := New(rdb, key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(l.Identity()).NotTo(Equal(other.Identity()), "each process has a name of its own")

	ler := leads(l)
	ler.LeaseDurationSeconds = 30
	err = l.Create(t.Context(), ler)
	g.Expect(err).To(MatchError(redislock.ErrInvalid))
	g.Expect(err).To(MatchError(ContainSubstring("WithTimings")), "it says what to change")
	ler.LeaseDurationSeconds = 0
	g.Expect(l.Update(t.Context(), ler)).To(MatchError(redislock.ErrInvalid))
}

// client-go goes on leading for a RetryPeriod and RenewDeadline after it heard of its
// last renewal.
func TestTheKeyOutlivesTheLongestThatClientGoLeads(t *testing.T) {
	t.Parallel()
	g := within(t)
	for _, timings := range [][3]time.Duration{
		{DefaultLeaseDuration, DefaultRenewDeadline, DefaultRetryPeriod},
		{2 * time.Second, 1900 * time.Millisecond, 100 * time.Millisecond},
		{8 * time.Second, 6 * time.Second, 1500 * time.Millisecond},
		{60 * time.Second, 59 * time.Second, 40 * time.Second},
	} {
		c := config{}
		WithTimings(timings[0], timings[1], timings[2])(&c)
		g.Expect(c.validate()).To(Succeed())
		g.Expect(c.expiry()).To(BeNumerically(">", c.operationTimeout()+c.retryPeriod+c.renewDeadline))
		g.Expect(c.expiry()).To(BeNumerically(">", c.leaseDuration))
		g.Expect(2 * c.operationTimeout()).To(BeNumerically("<", 2*c.renewDeadline))
	}
}

func TestATermFromBeginningToEnd(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	ctx := t.Context()
	blue, green := candidate(t, rdb, "blue"), candidate(t, rdb, "green")

	_, _, err := blue.Get(ctx)
	g.Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%v", err)
	g.Expect(blue.Fence()).To(BeZero())
	g.Expect(blue.Create(ctx, leads(blue))).To(Succeed())
	first := blue.Fence()
	g.Expect(first).NotTo(BeZero())

	err = green.Create(ctx, leads(green))
	g.Expect(apierrors.IsConflict(err)).To(BeTrue(), "%v", err)
	g.Expect(err).To(MatchError(redislock.ErrNotAcquired))
	seen, raw, err := green.Get(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(*seen).To(Equal(leads(blue)))
	g.Expect(apierrors.IsConflict(green.Update(ctx, leads(green)))).To(BeTrue(), "the key stands, whatever green's clock says")

	g.Expect(rdb.Rename(ctx, key, "aside").Err()).To(Succeed()) // as if it had expired
	seen, gone, err := green.Get(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(seen.HolderIdentity).To(BeEmpty(), "everybody may lead")
	g.Expect(gone).NotTo(Equal(raw))
	g.Expect(rdb.Rename(ctx, "aside", key).Err()).To(Succeed())

	g.Expect(blue.Update(ctx, leads(blue))).To(Succeed(), "the same record, within the same second")
	_, renewed, err := green.Get(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(renewed).NotTo(Equal(raw), "each renewal can be seen")
	g.Expect(blue.Fence()).To(Equal(first), "it is one term")

	ler := released()
	ler.LeaderTransitions = 3
	g.Expect(blue.Update(ctx, ler)).To(Succeed())
	g.Expect(blue.Fence()).To(BeZero())
	seen, _, err = green.Get(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(seen.HolderIdentity).To(BeEmpty())
	g.Expect(seen.LeaderTransitions).To(Equal(3))
	g.Expect(green.Update(ctx, leads(green))).To(Succeed())
	g.Expect(green.Fence()).To(BeNumerically(">", first))
	err = blue.Update(ctx, leads(blue))
	g.Expect(apierrors.IsConflict(err)).To(BeTrue(), "blue saw another record")
	for _, k := range rdb.Keys(ctx, "*").Val() {
		g.Expect(rdb.PTTL(ctx, k).Val()).To(BeNumerically(">", 0), "%s has no expiry", k)
	}
}

// A restart under the same name must not go on with the term of a process that may be
// alive.
func TestTheTermOfAnotherProcessOfTheSameNameIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	before, after := candidate(t, rdb, "blue"), candidate(t, rdb, "blue")
	ctx := t.Context()
	g.Expect(before.Create(ctx, leads(before))).To(Succeed())
	_, _, err := after.Get(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(apierrors.IsConflict(after.Update(ctx, leads(after)))).To(BeTrue())
	g.Expect(after.Update(ctx, released())).To(Succeed(), "it has nothing to release")
	g.Expect(before.Update(ctx, leads(before))).To(Succeed())
}

func TestWhatRedisDoesNotAnswerIsNeitherNotFoundNorConflict(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := candidate(t, connect(t, server.URL()), "blue")
	ctx := t.Context()
	g.Expect(l.Create(ctx, leads(l))).To(Succeed())
	calls := map[string]func(context.Context) error{
		"get":     func(ctx context.Context) error { _, _, err := l.Get(ctx); return err },
		"create":  func(ctx context.Context) error { return candidate(t, l.rdb, "green").Create(ctx, leads(l)) },
		"renew":   func(ctx context.Context) error { return l.Update(ctx, leads(l)) },
		"release": func(ctx context.Context) error { return l.Update(ctx, released()) },
	}
	fails := func(why string, ctx context.Context) {
		t.Helper()
		for name, call := range calls {
			err := call(ctx)
			g.Expect(err).To(HaveOccurred(), "%s: %s", why, name)
			g.Expect(apierrors.IsNotFound(err)).To(BeFalse(), "%s: %s: %v", why, name, err)
			g.Expect(apierrors.IsConflict(err)).To(BeFalse(), "%s: %s: %v", why, name, err)
		}
	}
	g.Expect(server.Pause()).To(Succeed())
	hung, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	fails("hangs", hung)
	g.Expect(hung.Err()).To(MatchError(context.DeadlineExceeded))
	g.Expect(server.Resume()).To(Succeed())
	g.Expect(server.Kill()).To(Succeed())
	fails("is gone", ctx)
}

// The connection heeds no deadline, and client-go relies on ours to stop in time.
func TestARequestThatHangsIsGivenUpOn(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := candidate(t, connect(t, server.URL(), func(o *redis.Options) { o.ReadTimeout = -1 }), "blue")
	g.Expect(l.Create(t.Context(), leads(l))).To(Succeed())
	g.Expect(server.Pause()).To(Succeed())
	defer func() { _ = server.Resume() }()
	result := make(chan error, 1)
	go func() { result <- l.Update(t.Context(), leads(l)) }()
	var err error
	g.Eventually(result).Should(Receive(&err))
	var timeout *wire.TimeoutError
	g.Expect(errors.As(err, &timeout)).To(BeTrue(), "%v", err)
	g.Expect(err).NotTo(MatchError(context.DeadlineExceeded), "no context of the caller ended")
}

func proxied(t *testing.T) (*proxy.Proxy, *redis.Client, *redis.Client) {
	t.Helper()
	url := startRedis(t).URL()
	p, direct := proxy.Start(t, url), connect(t, url)
	// What the rules are to catch is the run of a script, not the question for it.
	for _, script := range []*redis.Script{getScript, takeScript, renewScript, releaseScript} {
		if err := script.Load(t.Context(), direct).Err(); err != nil {
			t.Fatal(err)
		}
	}
	return p, connect(t, p.URL()), direct
}

func TestATakeWhoseAnswerIsLostIsRecognised(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, slow, direct := proxied(t)
	l, other := candidate(t, slow, "blue"), candidate(t, direct, "green")
	ctx := t.Context()
	lost := p.DropReply(proxy.Script(fenceKey(key)))
	g.Expect(l.Create(ctx, leads(l))).NotTo(Succeed())
	g.Eventually(lost.Done).Should(BeClosed())
	g.Expect(l.Fence()).To(BeZero(), "it was not heard of")

	seen, _, err := l.Get(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(seen.HolderIdentity).To(Equal("blue"))
	g.Expect(direct.PExpire(ctx, key, time.Second).Val()).To(BeTrue())
	g.Expect(l.Update(ctx, leads(l))).To(Succeed())
	g.Expect(l.Fence()).NotTo(BeZero())
	g.Expect(direct.PTTL(ctx, key).Val()).To(BeNumerically(">", time.Second), "its expiry ran since the first try")
	_, _, err = other.Get(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(apierrors.IsConflict(other.Update(ctx, leads(other)))).To(BeTrue())
}

// redsync and others leave an orphan for the whole lease here.
func TestATakeWhoseCallerLeftIsGivenBack(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, slow, direct := proxied(t)
	l := candidate(t, slow, "blue", WithTimings(10*time.Minute, 4*time.Second, time.Second)) // it outlives the test
	held := p.Hold(proxy.Script(fenceKey(key)))
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- l.Create(ctx, leads(l)) }()
	g.Eventually(held.Arrived).Should(BeClosed())
	cancel()
	g.Eventually(result).Should(Receive(MatchError(context.Canceled)))
	_, err := held.Deliver()
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(func() int64 { return direct.Exists(t.Context(), key).Val() }).Should(BeZero())
	g.Expect(direct.Exists(t.Context(), recordKey(key)).Val()).NotTo(BeZero(), "it had been granted")
}

func TestARenewalWhoseAnswerIsLostIsSeenByTheNextLook(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, slow, _ := proxied(t)
	l := candidate(t, slow, "blue")
	ctx := t.Context()
	g.Expect(l.Create(ctx, leads(l))).To(Succeed())
	lost := p.DropReply(proxy.Script(key, l.term.token))
	g.Expect(l.Update(ctx, leads(l))).NotTo(Succeed())
	g.Eventually(lost.Done).Should(BeClosed())
	g.Expect(apierrors.IsConflict(l.Update(ctx, leads(l)))).To(BeTrue(), "compared with what was seen last")
	_, _, err := l.Get(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(l.Update(ctx, leads(l))).To(Succeed())
}

// client-go would begin another term behind the back of those who work in this one.
func TestALostTermIsNotBegunAgain(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	told := make(chan error, 9)
	l := candidate(t, rdb, "blue", OnLost(func(err error) { told <- err }))
	c := campaigning(t, l, true)
	var first uint64
	g.Eventually(c.began).Should(Receive(&first))
	g.Expect(rdb.Del(t.Context(), key, recordKey(key)).Err()).To(Succeed())
	g.Eventually(told).Should(Receive(MatchError(redislock.ErrLost)))
	g.Expect(l.Fence()).To(BeZero())
	g.Expect(apierrors.IsConflict(l.Create(t.Context(), leads(l)))).To(BeTrue())

	g.Eventually(c.ended).Should(BeClosed(), "it stops leading")
	g.Expect(c.began).NotTo(Receive())
	g.Expect(told).NotTo(Receive(), "once")
	g.Expect(rdb.Exists(t.Context(), key).Val()).To(BeZero())

	again := campaigning(t, l, true)
	g.Eventually(again.began).Should(Receive(BeNumerically(">", first)), "but the next campaign may win")
}

// client-go releases also when it could not renew, before it tells those who work.
func TestNothingIsReleasedAfterRenewalsFailed(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	l := candidate(t, rdb, "blue")
	g.Expect(l.Create(t.Context(), leads(l))).To(Succeed())
	l.mu.Lock()
	l.term.sent = l.term.sent.Add(-deadline - time.Millisecond)
	l.mu.Unlock()
	err := l.Update(t.Context(), released())
	g.Expect(err).To(MatchError(redislock.ErrLost))
	g.Expect(apierrors.IsConflict(err)).To(BeFalse(), "client-go would try again at once")
	g.Expect(rdb.Get(t.Context(), key).Val()).To(Equal(l.term.token))

	l.mu.Lock()
	l.term.sent = time.Now()
	l.mu.Unlock()
	g.Expect(l.Update(t.Context(), released())).To(Succeed())
	g.Expect(rdb.Exists(t.Context(), key).Val()).To(BeZero())
}

func TestReleaseOfALostTermIsNoConflict(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	l := candidate(t, rdb, "blue")
	g.Expect(l.Create(t.Context(), leads(l))).To(Succeed())
	g.Expect(rdb.Set(t.Context(), key, "green#0b.1#5", time.Minute).Err()).To(Succeed())
	for range 2 {
		err := l.Update(t.Context(), released())
		g.Expect(err).To(MatchError(redislock.ErrLost))
		g.Expect(apierrors.IsConflict(err)).To(BeFalse())
	}
	g.Expect(rdb.Get(t.Context(), key).Val()).To(Equal("green#0b.1#5"))
}

func TestALockOfTheCoreAndATermExcludeEachOther(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"lock:leader", "lock:{leader}:x"} {
		g := within(t)
		rdb := connect(t, startRedis(t).URL())
		ctx := t.Context()
		c := core(t, rdb)
		l, err := New(rdb, key, WithIdentity("blue"), WithTimings(lease, deadline, retry))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(l.Create(ctx, leads(l))).To(Succeed())

		_, err = c.TryAcquire(ctx, key)
		var held *redislock.HeldError
		g.Expect(errors.As(err, &held)).To(BeTrue(), "%v", err)
		g.Expect(held.Holder).To(Equal("blue"))
		info, err := c.Inspect(ctx, key)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.Holder).To(Equal("blue"))
		g.Expect(info.Fence).To(Equal(l.Fence()))
		g.Expect(info.HighestFence).To(Equal(l.Fence()), "they share the counter")

		result := make(chan *redislock.Lock, 1)
		go func() {
			waiter, err := c.Acquire(ctx, key, redislock.WithWait(), redislock.LockIdentity("worker"))
			g.Expect(err).NotTo(HaveOccurred())
			result <- waiter
		}()
		fence := l.Fence()
		g.Expect(l.Update(ctx, released())).To(Succeed())
		var lock *redislock.Lock
		g.Eventually(result).Should(Receive(&lock), "the release wakes it")
		g.Expect(lock.Fence()).To(BeNumerically(">", fence))

		seen, raw, err := l.Get(ctx)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(seen.HolderIdentity).To(Equal("worker"), "not what the record of a former term says")
		g.Expect(seen.LeaseDurationSeconds).To(BeNumerically(">", 0))
		g.Expect(string(raw)).To(ContainSubstring(lock.Token()))
		g.Expect(apierrors.IsConflict(l.Update(ctx, leads(l)))).To(BeTrue())

		_, err = c.ForceRelease(ctx, key, lock.Fence())
		g.Expect(err).NotTo(HaveOccurred())
		seen, _, err = l.Get(ctx)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(seen.HolderIdentity).To(Equal(keptTaken))
		g.Expect(rdb.Set(ctx, key, "x", 0).Err()).To(Succeed())
		seen, _, err = l.Get(ctx)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(seen.HolderIdentity).To(Equal(anotherLibrary))
		g.Expect(apierrors.IsConflict(l.Update(ctx, leads(l)))).To(BeTrue())
	}
}

func TestARedisThatForgotAFenceIsWaitedOut(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	ctx := t.Context()
	blue, green := candidate(t, rdb, "blue"), candidate(t, rdb, "green")
	g.Expect(blue.Create(ctx, leads(blue))).To(Succeed())
	_, _, err := green.Get(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(rdb.FlushAll(ctx).Err()).To(Succeed())

	_, _, err = green.Get(ctx)
	g.Expect(apierrors.IsNotFound(err)).To(BeTrue())
	var quarantine *redislock.QuarantineError
	for range 2 {
		err = green.Create(ctx, leads(green))
		g.Expect(apierrors.IsConflict(err)).To(BeTrue(), "%v", err)
		g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
	}
	g.Expect(quarantine.Seen).To(Equal(blue.Fence()))
	g.Expect(rdb.Exists(ctx, key).Val()).To(BeZero())

	green.mu.Lock()
	green.memory.begun = green.memory.begun.Add(-green.cfg.expiry())
	green.mu.Unlock()
	g.Expect(green.Create(ctx, leads(green))).To(Succeed(), "one expiry later")
	g.Expect(green.Fence()).To(BeNumerically(">", blue.Fence()))
}

func TestWhatIsNoRecordIsSaidToBeCorrupt(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	l := candidate(t, rdb, "blue")
	ctx := t.Context()
	g.Expect(rdb.Set(ctx, recordKey(key), "{", time.Minute).Err()).To(Succeed())
	_, _, err := l.Get(ctx)
	g.Expect(err).To(MatchError(redislock.ErrCorrupt))
	g.Expect(err).To(MatchError(ContainSubstring(recordKey(key))), "it says what to delete")
	g.Expect(rdb.Del(ctx, recordKey(key)).Err()).To(Succeed())
	g.Expect(rdb.Set(ctx, fenceKey(key), "x", time.Minute).Err()).To(Succeed())
	err = l.Create(ctx, leads(l))
	g.Expect(err).To(MatchError(redislock.ErrCorrupt))
	g.Expect(err).To(MatchError(ContainSubstring(fenceKey(key))))
	g.Expect(apierrors.IsConflict(err)).To(BeFalse())
}

func TestAnotherLeadsAfterARelease(t *testing.T) {
	t.Parallel()
	g := within(t)
	url := startRedis(t).URL()
	blue := campaigning(t, candidate(t, connect(t, url), "blue"), true)
	var first uint64
	g.Eventually(blue.began).Should(Receive(&first))
	green := campaigning(t, candidate(t, connect(t, url), "green"), true)
	blue.leave()
	g.Eventually(green.began).Should(Receive(BeNumerically(">", first)))
	g.Expect(blue.ended).To(BeClosed())
}

func TestAnotherLeadsAfterALeaderDied(t *testing.T) {
	t.Parallel()
	g := within(t)
	url := startRedis(t).URL()
	blue := campaigning(t, candidate(t, connect(t, url), "blue"), false)
	var first uint64
	g.Eventually(blue.began).Should(Receive(&first))
	green := campaigning(t, candidate(t, connect(t, url), "green"), false)
	rdb := connect(t, url)
	blue.leave()
	g.Eventually(blue.ended).Should(BeClosed())
	token := rdb.Get(t.Context(), key).Val()
	g.Expect(strings.HasPrefix(token, "blue#")).To(BeTrue(), "nothing was released")
	g.Expect(green.began).NotTo(Receive())
	g.Eventually(green.began).Should(Receive(BeNumerically(">", first)))
}

func TestALeaderStopsWhenRedisIsAway(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := candidate(t, connect(t, server.URL()), "blue")
	c := campaigning(t, l, true)
	g.Eventually(c.began).Should(Receive())
	g.Expect(server.Pause()).To(Succeed())
	g.Eventually(c.ended).Should(BeClosed())
	g.Expect(server.Resume()).To(Succeed())
}
