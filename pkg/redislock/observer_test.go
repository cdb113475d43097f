package redislock

import (
	"context"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

type report struct {
	What, Key, Span string
	Took            time.Duration
	Err             error
}

type spanKey struct{}

// recording returns an observer that remembers what it was told.
func recording() (Option, func() []report) {
	var mu sync.Mutex
	var all []report
	note := func(what string) func(context.Context, string, time.Duration, error) {
		return func(ctx context.Context, key string, took time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			span, _ := ctx.Value(spanKey{}).(string)
			all = append(all, report{what, key, span, took, err})
		}
	}
	return WithObserver(Observer{Acquired: note("acquired"), Released: note("released"), Lost: note("lost")}), func() []report {
		mu.Lock()
		defer mu.Unlock()
		seen := all
		all = nil
		return seen
	}
}

func TestAnObserverIsToldOfAcquiresAndReleases(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	observer, seen := recording()
	clk := &bentClock{}
	c := newClient(t, connect(t, server.URL()), observer, withClock(clk))
	ctx := context.WithValue(t.Context(), spanKey{}, "span")

	l, err := c.Acquire(ctx, key, WithLease(time.Hour))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(seen()).To(HaveExactElements(And(
		HaveField("What", "acquired"), HaveField("Key", key), HaveField("Span", "span"), HaveField("Err", BeNil()),
		HaveField("Took", And(BeNumerically(">", 0), BeNumerically("<", time.Minute))))))

	// With all its tries.
	_, err = c.Acquire(ctx, key, patient(), WithRetry(2, 0), WithRefusal(errBusy), OnRefusal(func(error) { clk.pass(time.Minute) }))
	g.Expect(err).To(HaveOccurred())
	_, err = c.TryAcquire(ctx, key, patient())
	g.Expect(err).To(MatchError(ErrNotAcquired))
	g.Expect(seen()).To(HaveExactElements(
		And(HaveField("What", "acquired"), HaveField("Took", BeNumerically(">", 2*time.Minute)), HaveField("Err", MatchError(errBusy))),
		And(HaveField("What", "acquired"), HaveField("Took", BeNumerically("<", time.Minute)), HaveField("Err", MatchError(ErrNotAcquired)))))

	_, err = c.TryAcquire(ctx, "")
	g.Expect(err).To(MatchError(ErrInvalid))
	g.Expect(seen()).To(BeEmpty(), "nothing was asked")

	g.Expect(l.Release(ctx)).To(Succeed())
	g.Expect(seen()).To(HaveExactElements(And(
		HaveField("What", "released"), HaveField("Key", key), HaveField("Span", "span"), HaveField("Err", BeNil()),
		HaveField("Took", And(BeNumerically(">", 2*time.Minute), BeNumerically("<", time.Hour))))))
	g.Expect(l.Release(ctx)).To(Succeed())
	g.Expect(seen()).To(BeEmpty(), "once")

	g.Expect(c.WithLock(ctx, key, func(context.Context, *Lock) error { return nil }, patient())).To(Succeed())
	g.Expect(seen()).To(HaveExactElements(HaveField("What", "acquired"), HaveField("What", "released")))

	l = mustAcquire(t, c, key, patient())
	g.Expect(rdb.Set(t.Context(), key, "theirs", time.Hour).Err()).To(Succeed())
	g.Expect(l.Release(ctx)).To(MatchError(ErrLost))
	g.Expect(seen()).To(HaveExactElements(HaveField("What", "acquired"), And(HaveField("What", "released"), HaveField("Err", MatchError(ErrLost)))))

	ls, err := c.AcquireAll(ctx, threeKeys, patient())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ls.Release(ctx)).To(Succeed())
	g.Expect(seen()).To(HaveExactElements(
		And(HaveField("What", "acquired"), HaveField("Key", keyA), HaveField("Span", "span")), HaveField("Key", keyB), HaveField("Key", keyC),
		And(HaveField("What", "released"), HaveField("Key", keyA), HaveField("Span", "span")), HaveField("Key", keyB), HaveField("Key", keyC)))
}

func TestAnObserverIsToldOfEachLossOnce(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	observer, seen := recording()
	clk := &bentClock{}
	c := newClient(t, connect(t, server.URL()), observer, withClock(clk))
	ctx := context.WithValue(t.Context(), spanKey{}, "span")
	l, err := c.Acquire(ctx, key, patient())
	g.Expect(err).NotTo(HaveOccurred())
	seen()
	clk.pass(time.Minute)
	g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())
	g.Expect(l.Extend(ctx, time.Hour)).To(MatchError(ErrLost))
	g.Expect(l.Release(ctx)).To(MatchError(ErrLost))
	var losses []report
	all := func() []report { losses = append(losses, seen()...); return losses }
	g.Eventually(all).Should(HaveExactElements(And(
		HaveField("What", "lost"), HaveField("Key", key), HaveField("Span", "span"), HaveField("Err", Equal(l.Err())),
		HaveField("Took", BeNumerically(">", time.Minute)))))
	g.Consistently(all, "200ms").Should(HaveLen(1))

	losses = nil
	ls, err := c.AcquireAll(ctx, threeKeys, patient())
	g.Expect(err).NotTo(HaveOccurred())
	seen()
	clk.pass(time.Hour)
	g.Eventually(all).Should(ConsistOf(HaveField("Key", keyA), HaveField("Key", keyB), HaveField("Key", keyC)))
	g.Expect(losses).To(HaveEach(And(HaveField("What", "lost"), HaveField("Err", MatchError(ErrLost)))))
	g.Expect(ls.Err()).To(MatchError(ErrLost))

	// Neither a release nor a client that is closed is a loss.
	losses = nil
	mustAcquire(t, c, "lock:closed", patient())
	g.Expect(mustAcquire(t, c, "lock:released", patient()).Release(t.Context())).To(Succeed())
	g.Expect(c.Close(t.Context())).To(Succeed())
	g.Consistently(func() []report { return all() }, "200ms").ShouldNot(ContainElement(HaveField("What", "lost")))
}

func TestAnObserverIsToldOfPermitsAndReadLocks(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	observer, seen := recording()
	clk := &bentClock{}
	c := newClient(t, connect(t, server.URL()), observer, withClock(clk))
	ctx := context.WithValue(t.Context(), spanKey{}, "span")
	s := semaphore(t, c, 1, patient())
	rw, err := c.RWLock("lock:rw", patient())
	g.Expect(err).NotTo(HaveOccurred())
	for name, acquire := range map[string]func(context.Context, ...LockOption) (*Lock, error){
		key: s.Acquire, "lock:rw": rw.RLock,
	} {
		l, err := acquire(ctx)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(l.Release(ctx)).To(Succeed())
		g.Expect(seen()).To(HaveExactElements(
			And(HaveField("What", "acquired"), HaveField("Key", name), HaveField("Span", "span"), HaveField("Err", BeNil())),
			And(HaveField("What", "released"), HaveField("Key", name), HaveField("Span", "span"), HaveField("Err", BeNil()))))

		l, err = acquire(ctx)
		g.Expect(err).NotTo(HaveOccurred())
		seen()
		clk.pass(time.Hour)
		g.Expect(l.Err()).To(MatchError(ErrLost))
		g.Eventually(seen).Should(HaveExactElements(And(HaveField("What", "lost"), HaveField("Key", name), HaveField("Err", Equal(l.Err())))))
	}

	s = semaphore(t, c, 2, patient())
	_, err = s.TryAcquire(ctx, WithRefusal(errBusy))
	g.Expect(err).To(And(MatchError(errBusy), MatchError(ErrLimit)))
	g.Expect(seen()).To(HaveExactElements(And(HaveField("What", "acquired"), HaveField("Err", Equal(err)))))
}

func TestAnObserverThatIsNotThereCostsNothing(t *testing.T) {
	g := NewWithT(t)
	server := startRedis(t)
	quiet := dial(t, server.URL())
	l := mustAcquire(t, quiet, key, patient())
	g.Expect(testing.AllocsPerRun(100, func() { l.released(context.Background(), l.acquired, nil) })).To(BeZero())
	a, err := quiet.newAttempt(key, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(testing.AllocsPerRun(100, func() { err = a.end(context.Background(), nil) })).To(BeZero())
	g.Expect(err).NotTo(HaveOccurred())

	// And one that is there takes what it needs itself, no more.
	cycle := func(c *Client) float64 {
		return testing.AllocsPerRun(200, func() {
			l, err := c.TryAcquire(context.Background(), "lock:cycle", patient())
			if err == nil {
				err = l.Release(context.Background())
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	calls := 0
	count := func(context.Context, string, time.Duration, error) { calls++ }
	heard := dial(t, server.URL(), WithObserver(Observer{Acquired: count, Released: count, Lost: count}))
	g.Expect(cycle(heard)).To(BeNumerically("~", cycle(quiet), 2))
	g.Expect(calls).To(BeNumerically(">", 400))
}
