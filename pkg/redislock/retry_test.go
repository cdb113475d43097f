package redislock

import (
	"context"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// hastyClock notes for how long a retrying call would have slept, and does not
// sleep. What the renewer sleeps is left to the system's clock.
type hastyClock struct {
	systemClock
	mu    sync.Mutex
	slept []time.Duration
}

func (c *hastyClock) timer(d time.Duration) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slept = append(c.slept, d)
	fired := make(chan time.Time, 1)
	fired <- time.Now()
	return fired, func() {}
}

func TestRetriesSleepBetweenTriesAndNotAfterTheLast(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	full := func(time.Duration) time.Duration { return 0 }
	half := func(below time.Duration) time.Duration { return below - 1 }
	for name, test := range map[string]struct {
		opts   []LockOption
		jitter func(time.Duration) time.Duration
		slept  []time.Duration
	}{
		"default":           {nil, full, []time.Duration{100 * ms, 100 * ms}},
		"once":              {[]LockOption{WithRetry(1, time.Hour)}, full, nil},
		"constant":          {[]LockOption{WithRetry(4, time.Hour)}, half, []time.Duration{time.Hour, time.Hour, time.Hour}},
		"backoff":           {[]LockOption{WithRetry(6, 100*ms), WithBackoff(700 * ms)}, full, []time.Duration{100 * ms, 200 * ms, 400 * ms, 700 * ms, 700 * ms}},
		"backoff, jittered": {[]LockOption{WithBackoff(700 * ms), WithRetry(6, 100*ms)}, half, []time.Duration{50 * ms, 100 * ms, 200 * ms, 350 * ms, 350 * ms}},
		"backoff at once":   {[]LockOption{WithRetry(3, 100*ms), WithBackoff(100 * ms)}, full, []time.Duration{100 * ms, 100 * ms}},
		"backoff of 1 ns":   {[]LockOption{WithRetry(4, 1), WithBackoff(3)}, half, []time.Duration{1, 1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			mustAcquire(t, dial(t, server.URL()), key, patient())
			clk := &hastyClock{}
			c := newClient(t, connect(t, server.URL()), withClock(clk), withJitter(test.jitter))
			refusals := 0
			_, err := c.Acquire(t.Context(), key, append(test.opts, patient(), OnRefusal(func(error) { refusals++ }))...)
			g.Expect(err).To(MatchError(ErrNotAcquired))
			g.Expect(clk.slept).To(Equal(test.slept))
			g.Expect(refusals).To(Equal(len(test.slept)+1), "one try before each, one after the last")

			clk.slept = nil
			_, err = c.AcquireAll(t.Context(), []string{"lock:b", key}, append(test.opts, patient())...)
			g.Expect(err).To(MatchError(ErrNotAcquired))
			g.Expect(clk.slept).To(Equal(test.slept))
		})
	}
}

func TestABackoffEndsWithItsContext(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	mustAcquire(t, dial(t, server.URL()), key, patient())
	ctx, cancel := context.WithCancel(t.Context())
	_, err := dial(t, server.URL()).Acquire(ctx, key, patient(), WithRetry(2, time.Hour), WithBackoff(time.Hour),
		OnRefusal(func(error) { cancel() }))
	g.Expect(err).To(MatchError(context.Canceled))
	g.Expect(err).To(MatchError(ErrNotAcquired), "and says what it waited for")
}

func TestTheJitterOfABackoffIsRandomAndBounded(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newClient(t, unreachable(t))
	cfg, err := c.configure(key, []LockOption{WithRetry(1<<40, time.Second), WithBackoff(time.Minute)})
	g.Expect(err).NotTo(HaveOccurred())
	drawn := map[time.Duration]bool{}
	for range 1000 {
		d := cfg.pause(1<<40, c.jitter)
		g.Expect(d).To(And(BeNumerically(">=", 30*time.Second), BeNumerically("<=", time.Minute)))
		drawn[d] = true
	}
	g.Expect(len(drawn)).To(BeNumerically(">", 900))
}
