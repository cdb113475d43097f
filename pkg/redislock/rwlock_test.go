package redislock

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

func rwLock(t testing.TB, c *Client, opts ...LockOption) *RWLock {
	t.Helper()
	rw, err := c.RWLock(key, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return rw
}

func TestRWLockHasManyReadersOrOneWriter(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c := dial(t, server.URL(), WithIdentity("site-a"))
	rw := rwLock(t, c, patient())
	other := rwLock(t, dial(t, server.URL()), patient())
	g.Expect(rw.Key()).To(Equal(key))
	a, b := get(t, rw.TryRLock), get(t, other.RLock)
	g.Expect(b.Fence()).To(BeNumerically(">", a.Fence()))
	held := refusalOf(t, rw.TryLock)
	g.Expect(held.Kind).To(Equal(KindReaders))
	g.Expect(held.Error()).To(ContainSubstring("by readers"))
	info, err := c.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Kind).To(Equal(KindReaders))
	g.Expect(info.Holders).To(HaveLen(2))
	g.Expect(info.Permits).To(BeZero())

	g.Expect(a.Release(t.Context())).To(Succeed())
	turnedAway(t, other.TryLock)
	g.Expect(b.Release(t.Context())).To(Succeed())
	w := get(t, other.TryLock)
	g.Expect(w.Fence()).To(BeNumerically(">", b.Fence()))
	g.Expect(refusalOf(t, rw.TryRLock).Value).To(Equal(w.Token()))
	g.Expect(refusalOf(t, rw.TryLock).Kind).To(Equal(KindLock))
	info, err = c.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Kind).To(Equal(KindLock))
	g.Expect(info.Fence).To(Equal(w.Fence()))
	g.Expect(w.Release(t.Context())).To(Succeed())
	get(t, rw.TryRLock)
}

func TestRWLockExcludesOtherLocksAndIsExcluded(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	rw := rwLock(t, c, patient())
	for name, lock := range map[string]func(context.Context, ...LockOption) (*Lock, error){"read": rw.TryRLock, "write": rw.TryLock} {
		l := get(t, lock)
		_, err := c.TryAcquire(t.Context(), key, patient())
		g.Expect(err).To(MatchError(ErrNotAcquired), name)
		g.Expect(rdb.SetNX(t.Context(), key, "theirs", time.Minute).Val()).To(BeFalse(), name)
		turnedAway(t, semaphore(t, c, 9).TryAcquire)
		g.Expect(l.Release(t.Context())).To(Succeed())

		g.Expect(rdb.SetNX(t.Context(), key, "theirs", time.Minute).Val()).To(BeTrue())
		g.Expect(refusalOf(t, lock).Value).To(Equal("theirs"))
		g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())
		plain := mustAcquire(t, c, key, patient())
		g.Expect(refusalOf(t, lock).Value).To(Equal(plain.Token()))
		g.Expect(plain.Release(t.Context())).To(Succeed())
	}
}

func TestAWaitingWriterKeepsNewReadersOutUntilItHadItsTurn(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	readersClient, writersClient := dial(t, server.URL()), dial(t, server.URL())
	rw := rwLock(t, readersClient, patient())
	early := get(t, rw.RLock)
	writes := make(chan *Lock, 1)
	go func() {
		l, err := rwLock(t, writersClient, patient()).Lock(t.Context(), WithWait())
		if err != nil {
			t.Error(err)
		}
		writes <- l
	}()
	g.Eventually(func() int { return waitingIn(t, readersClient) }).Should(Equal(1))
	g.Eventually(func() bool { return writersClient.wakes.listening(key) }).Should(BeTrue())
	held := refusalOf(t, rw.TryRLock)
	g.Expect(held.Ahead).To(Equal(1))
	g.Expect(held.Error()).To(ContainSubstring("1 who came earlier"))
	late := []<-chan error{waitBy(t, g, t.Context(), readersClient, rw.RLock), waitBy(t, g, t.Context(), readersClient, rw.RLock), waitBy(t, g, t.Context(), readersClient, rw.RLock)}

	g.Expect(early.Release(t.Context())).To(Succeed())
	var writer *Lock
	g.Eventually(writes, promptly).Should(Receive(&writer))
	for _, reader := range late {
		g.Expect(reader).NotTo(Receive())
	}
	g.Expect(writer.Release(t.Context())).To(Succeed())
	for _, reader := range late {
		g.Eventually(reader, promptly).Should(Receive(BeNil()), "all readers are let in")
	}
}

func TestAWaitingWriterThatDiesKeepsReadersOutNoLongerThanItsPlace(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c := dial(t, server.URL())
	rw := rwLock(t, c, patient())
	get(t, rw.RLock)
	p := proxy.Start(t, server.URL())
	dead := dial(t, p.URL())
	waitBy(t, g, t.Context(), dead, rwLock(t, dead, WithLease(2*time.Second)).Lock)
	g.Eventually(func() int { return waitingIn(t, c) }).Should(Equal(1))
	p.Partition()
	get(t, rw.RLock, WithWait())
	g.Expect(waitingIn(t, c)).To(BeZero())
}

func TestAWaitingWriterThatGivesUpLetsReadersIn(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c, writers := dial(t, server.URL()), dial(t, server.URL())
	rw := rwLock(t, c, patient())
	get(t, rw.RLock)
	ctx, giveUp := context.WithCancel(t.Context())
	writer := waitBy(t, g, ctx, writers, rwLock(t, writers, patient()).Lock)
	g.Eventually(func() int { return waitingIn(t, c) }).Should(Equal(1))
	reader := waitBy(t, g, t.Context(), c, rw.RLock)
	g.Expect(reader).NotTo(Receive())
	giveUp()
	g.Expect(<-writer).To(MatchError(context.Canceled))
	g.Eventually(reader, promptly).Should(Receive(BeNil()))
}

// A writer behind a reader in one process: the release wakes both, or the writer would
// be left to its timer, and the reader to the writer.
func TestAWriterIsWokenThoughAReaderOfItsProcessWaitsInFront(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	holder := get(t, rwLock(t, dial(t, server.URL()), patient()).Lock)
	c := dial(t, server.URL())
	rw := rwLock(t, c, patient())
	reader := waitBy(t, g, t.Context(), c, rw.RLock)
	writer := make(chan *Lock, 1)
	go func() {
		l, err := rw.Lock(t.Context(), WithWait())
		if err != nil {
			t.Error(err)
		}
		writer <- l
	}()
	g.Eventually(func() int { return waitingIn(t, holder.client) }).Should(Equal(1))
	g.Eventually(func() int { return c.wakes.waiting(key) }).Should(Equal(2))
	g.Expect(holder.Release(t.Context())).To(Succeed())
	var l *Lock
	g.Eventually(writer, promptly).Should(Receive(&l))
	g.Expect(reader).NotTo(Receive())
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Eventually(reader, promptly).Should(Receive(BeNil()))
}

func TestWorkUnderAShareGivesItBack(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	c := dial(t, server.URL())
	rw := rwLock(t, c, patient())
	s := semaphore(t, c, 1, patient())
	for name, test := range map[string]struct {
		run  func(context.Context, func(context.Context, *Lock) error, ...LockOption) error
		kind Kind
	}{
		"permit": {s.WithPermit, KindSemaphore}, "read": {rw.WithRLock, KindReaders}, "write": {rw.WithLock, KindLock},
	} {
		g := within(t)
		g.Expect(test.run(t.Context(), func(ctx context.Context, l *Lock) error {
			info, err := c.Inspect(ctx, key)
			g.Expect(info.Kind).To(Equal(test.kind), name)
			g.Expect(l.IsHeld()).To(BeTrue())
			return err
		})).To(Succeed())
		info, err := c.Inspect(t.Context(), key)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.Kind).To(Equal(KindNone), name)
	}
}

func TestSharesAndQueuesWorkInACluster(t *testing.T) {
	t.Parallel()
	g := within(t)
	_, cluster := startCluster(t, g, 2)
	c := newClient(t, cluster)
	for _, k := range []string{"lock:a", "lock:{a}", "b{a}", "lock:c", "lock:d"} {
		s, err := c.Semaphore(k, 2, patient())
		g.Expect(err).NotTo(HaveOccurred())
		permit := get(t, s.TryAcquire)
		fair := make(chan *Lock, 1)
		go func() {
			l, err := c.Acquire(t.Context(), k, patient(), WithFair(), WithWait())
			if err != nil {
				t.Error(err)
			}
			fair <- l
		}()
		g.Eventually(func() int {
			info, err := c.Inspect(t.Context(), k)
			if err != nil {
				t.Error(err)
			}
			return info.Waiting
		}).Should(Equal(1))
		g.Expect(refusalOf(t, s.TryAcquire).Ahead).To(Equal(1), "%s: no permit is granted past who waits for the whole", k)
		g.Expect(permit.Extend(t.Context(), time.Hour)).To(Succeed())
		g.Expect(permit.Release(t.Context())).To(Succeed())
		var l *Lock
		g.Eventually(fair).Should(Receive(&l))
		g.Expect(l.Release(t.Context())).To(Succeed())
	}
}
