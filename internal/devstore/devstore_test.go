package devstore

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/pkg/redislock/redislocktest"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const (
	key      = "lock:a"
	patience = 30 * time.Second
)

// dial returns a lock client as a process of its own has one.
func dial(t *testing.T, url string) *redislock.Client {
	t.Helper()
	client, err := redislock.New(redisserver.Connect(t, url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(context.WithoutCancel(t.Context())) })
	return client
}

func start(t *testing.T) string {
	t.Helper()
	url, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return url
}

func TestKeysAgeInRealTime(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	rdb := redisserver.Connect(t, start(t))
	const life = 300 * time.Millisecond
	set := time.Now()
	g.Expect(rdb.Set(t.Context(), "short", "x", life).Err()).To(Succeed())
	g.Expect(rdb.Set(t.Context(), "long", "x", time.Hour).Err()).To(Succeed())
	g.Eventually(func() int64 { return rdb.Exists(t.Context(), "short").Val() }).
		WithTimeout(patience).WithPolling(time.Millisecond).Should(BeZero())
	g.Expect(time.Since(set)).To(BeNumerically(">=", life))
	g.Expect(rdb.Exists(t.Context(), "long").Val()).To(BeEquivalentTo(1))
}

func TestALockIsKeptRenewedAndGivenBack(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	url := start(t)
	holder, other := dial(t, url), dial(t, url)
	lease := 2 * time.Second
	lock, err := holder.Acquire(t.Context(), key, redislock.WithLease(lease))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(lock.Fence()).NotTo(BeZero())

	_, err = other.TryAcquire(t.Context(), key)
	g.Expect(err).To(MatchError(redislock.ErrNotAcquired))
	g.Consistently(lock.IsHeld).WithTimeout(2 * lease).Should(BeTrue())
	g.Expect(lock.Status(t.Context())).To(Equal(redislock.Acquired))

	g.Expect(lock.Release(t.Context())).To(Succeed())
	next, err := other.TryAcquire(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(next.Fence()).To(BeNumerically(">", lock.Fence()))
}

func TestALeaseThatIsNotRenewedEnds(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	url := start(t)
	holder, other := dial(t, url), dial(t, url)
	lock, err := holder.TryAcquire(t.Context(), key, redislock.WithLease(300*time.Millisecond), redislock.WithoutRenewal())
	g.Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	next, err := other.Acquire(ctx, key, redislock.WithWait())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(lock.IsHeld()).To(BeFalse(), "two hold the lock")
	g.Expect(next.Fence()).To(BeNumerically(">", lock.Fence()))
}

func TestALeaseIsGoneOnWith(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	url := start(t)
	first, second := dial(t, url), dial(t, url)
	lock, err := first.TryAcquire(t.Context(), key, redislock.WithHistory(10))
	g.Expect(err).NotTo(HaveOccurred())
	token, err := lock.Detach(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	adopted, err := second.Adopt(t.Context(), key, token)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(adopted.Fence()).To(Equal(lock.Fence()))
	info, err := second.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Status).To(Equal(redislock.Acquired))
	g.Expect(info.History).To(HaveLen(1))
	g.Expect(info.History[0].Fence).To(Equal(lock.Fence()))
}

func TestItConforms(t *testing.T) {
	t.Parallel()
	url := start(t)
	redislocktest.Conformance(t, func(tb testing.TB) redis.UniversalClient { return redisserver.Connect(tb, url) })
}

func TestItIsGoneWithItsContext(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ctx, cancel := context.WithCancel(t.Context())
	url, err := Start(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	client := dial(t, url)
	_, err = client.TryAcquire(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	cancel()
	g.Eventually(func() error {
		_, err := client.Inspect(t.Context(), key)
		return err
	}).WithTimeout(patience).Should(HaveOccurred())
}
