package redislock

// The defects that were seen in other lock libraries, and the tests that show that
// this one does not have them. The tests of this file are those that no other file
// had use for.
//
//	library          defect                                     test
//	go-redis         SetNX, retried, takes its own key for      TestAReplyThatIsDroppedIsNotARefusal
//	                 another's
//	redsync, bsm     an orphan where ctx ends after the grant   TestAnAcquireThatIsCancelledAfterItWasGrantedLeavesNoOrphan
//	bsm              a lease of 500 µs has no key behind it     TestWhatIsRefusedHereNeverReachesTheServer
//	rueidislock      the client's wall clock in the expiry      TestDefectNoWallClockOfAClientIsWritten
//	rueidislock      many keys in parallel hang                 TestDefectManyKeysInParallelDoNotHang
//	upstash          extend by little, or with little left      TestDefectExtendByLittleWithLittleLeft
//	upstash          extend by a negative amount deletes        TestExtendProlongsAndNeverShortens
//	upstash          a second acquire makes the first           TestDefectARefusedAcquireLeavesTheFirstReleasable
//	                 unreleasable
//	upstash          sleeps after the last failed try           TestRetriesSleepBetweenTriesAndNotAfterTheLast
//	upstash          acquire's options stay                     TestDefectOptionsOfOneCallAreNotThoseOfTheNext
//	Redisson #775,   renewal ends with its first error          TestDefectRenewalGoesOnAfterErrors
//	#5698
//	Redisson #1626   renewal goes on after the release          TestAReleasedLockIsNotRenewed
//	Redisson #1763   released before SUBSCRIBE took effect      TestDefectAReleaseBeforeTheSubscriptionStandsIsHeard
//	Redisson #4216   a connection for each lock waited for      TestDefectAllWaitersShareOneConnection
//	Redisson #3730   a queue in Redis outlives who waits        TestDefectWaitingLeavesNothingInRedis
//	Redisson #4698   nobody is told of a loss                   TestAMismatchIsALossAtOnce, TestAnObserverIsToldOfEachLossOnce
//	redis-semaphore  renewal acquires again                     TestAMismatchIsALossAtOnce
//	#175, redsync
//	open-match #1576 unlock with a cancelled ctx                TestReleaseIsIdempotentAndOutlivesItsContext
//	redis-py #3847   a release that failed forgets its token    TestReleaseGoesOnInTheBackground
//	rueidis #602     a lost watcher spins                       TestDefectALostSubscriptionDoesNotSpin
//	node-redlock     a release after the expiry burns retries   TestInterleaving07ReleaseAfterALossLeavesTheSafetyMargin
//	#168
//	INCR as a fence  the same token twice after a failover      TestInterleaving11APromotedReplicaThatLagsAndWhoseClockIsBehind
//
// What is about debounces, leader election, CronJobs and other controllers belongs
// to the tests of those.

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

func TestDefectNoWallClockOfAClientIsWritten(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{"ahead": 48 * time.Hour, "behind": -48 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			clk := &bentClock{}
			clk.setWall(off)
			c := newClient(t, connect(t, server.URL()), withClock(clk))
			l := mustAcquire(t, c, key, lapsing(time.Hour), WithHistory(1), WithMetadata("m"))
			g.Expect(l.IsHeld()).To(BeTrue())
			g.Expect(rdb.PTTL(t.Context(), key).Val()).To(about(time.Hour))
			now := rdb.Time(t.Context()).Val().UnixMicro()
			g.Expect(l.Fence()).To(BeNumerically("~", now, time.Minute.Microseconds()), "the server's")
			g.Expect(l.Extend(t.Context(), 2*time.Hour)).To(Succeed())
			g.Expect(rdb.PTTL(t.Context(), key).Val()).To(about(2 * time.Hour))
			g.Expect(l.Release(t.Context())).To(Succeed())
			mustAcquire(t, dial(t, server.URL()), key, patient())
		})
	}
}

func TestDefectManyKeysInParallelDoNotHang(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c := dial(t, server.URL())
	const keys = 500
	var ran atomic.Int32
	var wg sync.WaitGroup
	done := make(chan struct{})
	for i := range keys {
		wg.Go(func() {
			err := c.WithLock(t.Context(), fmt.Sprint("lock:", i), func(context.Context, *Lock) error {
				ran.Add(1)
				return nil
			}, patient(), WithWait())
			if err != nil {
				t.Error(err)
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	g.Eventually(done).Should(BeClosed())
	g.Expect(ran.Load()).To(BeEquivalentTo(keys))
}

func TestDefectExtendByLittleWithLittleLeft(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, server.URL()), withClock(clk))
	l := mustAcquire(t, c, key, lapsing(time.Hour))
	g.Expect(l.Extend(t.Context(), 500*time.Millisecond)).To(Succeed())
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", 50*time.Minute), "it shortens nothing")

	// A hundredth of its validity is left.
	clk.pass(l.ValidUntil().Sub(clk.now().t) - 36*time.Second)
	g.Expect(l.IsHeld()).To(BeTrue())
	g.Expect(l.Extend(t.Context(), 500*time.Millisecond)).To(Succeed())
	g.Expect(l.Extend(t.Context(), time.Hour)).To(Succeed())
	g.Expect(l.ValidUntil()).To(BeTemporally(">", clk.now().t.Add(50*time.Minute)))
	g.Expect(l.IsHeld()).To(BeTrue())
}

func TestDefectARefusedAcquireLeavesTheFirstReleasable(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]LockOption{"fenced": nil, "unfenced": {WithoutFence()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			c := dial(t, server.URL())
			opts := append(opts, patient(), once())
			first := mustAcquire(t, c, key, opts...)
			_, err := c.Acquire(t.Context(), key, opts...)
			g.Expect(err).To(MatchError(ErrNotAcquired))
			g.Expect(first.Status(t.Context())).To(Equal(Acquired))
			g.Expect(first.Release(t.Context())).To(Succeed())
			g.Expect(value(t, rdb, key)).To(BeEmpty())
		})
	}
}

func TestDefectOptionsOfOneCallAreNotThoseOfTheNext(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	special := mustAcquire(t, c, key, WithLease(time.Hour), WithLockDelay(time.Hour), LockIdentity("other"), WithMetadata("m"))
	g.Expect(special.Release(t.Context())).To(Succeed())
	plain := mustAcquire(t, c, key)
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(BeNumerically("<=", DefaultLease))
	info, err := c.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Holder).To(Equal(hostIdentity()))
	g.Expect(info.Metadata).To(BeEmpty())
	g.Expect(plain.cfg.lease).To(Equal(DefaultLease))
}

// errFailingOver is what a primary says that was made a replica.
type errFailingOver struct{}

func (errFailingOver) Error() string { return "READONLY You can't write against a read only replica." }
func (errFailingOver) RedisError()   {}

// unwell answers pipelines, which renewals come in, with an error for a while.
type unwell struct {
	answers
	times, asked atomic.Int32
}

func (u *unwell) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if u.asked.Add(1) > u.times.Load() {
			return next(ctx, cmds)
		}
		for _, cmd := range cmds {
			cmd.SetErr(errFailingOver{})
		}
		return errFailingOver{}
	}
}

func TestDefectRenewalGoesOnAfterErrors(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	hook := &unwell{answers: func(redis.Cmder) error { return nil }}
	hook.times.Store(2)
	rdb.AddHook(hook)
	c := newClient(t, rdb)
	l := mustAcquire(t, c, key, patient())
	before := l.ValidUntil()
	l.renewNow()
	g.Eventually(hook.asked.Load).Should(BeNumerically(">", 2), "by itself, after each error")
	g.Eventually(l.ValidUntil).Should(BeTemporally(">", before))
	g.Expect(l.IsHeld()).To(BeTrue())
}

func TestDefectAReleaseBeforeTheSubscriptionStandsIsHeard(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := mustAcquire(t, dial(t, server.URL()), key, patient())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	slow := p.Hold(proxy.All(proxy.Command("SUBSCRIBE"), proxy.With(wakeChannel(key))))
	refused := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() {
		_, err := c.Acquire(t.Context(), key, patient(), WithWait(), OnRefusal(func(error) { refused <- struct{}{} }))
		done <- err
	}()
	<-refused
	<-slow.Arrived
	g.Expect(l.Release(t.Context())).To(Succeed())
	_, err := slow.Deliver()
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(done, soon).Should(Receive(BeNil()))
}

func TestDefectAllWaitersShareOneConnection(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	holder := dial(t, server.URL())
	const waiters = 50
	c := newClient(t, connect(t, server.URL(), func(o *redis.Options) { o.PoolSize, o.PoolTimeout = 2, patience }))
	done := make(chan error, waiters)
	var held []*Lock
	for i := range waiters {
		k := fmt.Sprint("lock:", i)
		held = append(held, mustAcquire(t, holder, k, patient()))
		go func() {
			_, err := c.Acquire(t.Context(), k, patient(), WithWait())
			done <- err
		}()
	}
	for i := range waiters {
		g.Eventually(func() bool { return c.wakes.listening(fmt.Sprint("lock:", i)) }).Should(BeTrue())
	}
	list, err := rdb.Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(list).To(ContainSubstring(fmt.Sprintf("sub=%d ", waiters)), "all on one connection")
	for _, l := range held {
		g.Expect(l.Release(t.Context())).To(Succeed())
	}
	for range waiters {
		g.Eventually(done, soon).Should(Receive(BeNil()))
	}
}

func TestDefectWaitingLeavesNothingInRedis(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	l := mustAcquire(t, dial(t, server.URL()), key, patient())
	before := rdb.DBSize(t.Context()).Val()
	// The first of two who wait dies: nothing of it is in the way of the second.
	dying := connect(t, server.URL())
	gone := newClient(t, dying)
	first := waitFor(t, g, t.Context(), gone)
	second := waitFor(t, g, t.Context(), dial(t, server.URL()))
	g.Expect(rdb.DBSize(t.Context()).Val()).To(Equal(before))
	g.Expect(dying.Close()).To(Succeed())
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Eventually(second, soon).Should(Receive(BeNil()))
	g.Expect(gone.Close(t.Context())).To(Succeed())
	g.Eventually(first).Should(Receive(HaveOccurred()))
}

func TestDefectALostSubscriptionDoesNotSpin(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := redisserver.Start(t, redisserver.Options{
		UnixSocket: true,
		Password:   "secret",
		ACL:        []string{"user app on >app ~* +@all resetchannels"},
	})
	l := mustAcquire(t, dial(t, server.URL()), key, patient())
	var asked atomic.Int32
	rdb := connect(t, server.UserURL("app", "app"))
	rdb.AddHook(answers(func(redis.Cmder) error { asked.Add(1); return nil }))
	c := newClient(t, rdb)
	done := make(chan error, 1)
	refused := make(chan struct{}, 1)
	go func() {
		_, err := c.Acquire(t.Context(), key, patient(), WithWait(), OnRefusal(func(error) { notify(refused) }))
		done <- err
	}()
	<-refused
	before := asked.Load()
	g.Consistently(done, "2s").ShouldNot(Receive())
	g.Expect(asked.Load()-before).To(BeNumerically("<", 50), "it asks with a pause")
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Eventually(done).Should(Receive(BeNil()))
}
