package redislock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
	"github.com/redislock-operator/redislock-operator/test/proxy"
)

// pipelines is a hook that counts pipelines and what is in them.
type pipelines struct {
	mu      sync.Mutex
	lengths []int
}

func (p *pipelines) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (p *pipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (p *pipelines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		p.mu.Lock()
		p.lengths = append(p.lengths, len(cmds))
		p.mu.Unlock()
		return next(ctx, cmds)
	}
}

// jam has a caller's own command wait for its answer, and the pipeline of the next
// caller too, so that whoever comes after them queues. The function that it returns
// lets both go on.
func jam(t *testing.T, p *proxy.Proxy, c *Client) func() {
	t.Helper()
	acquaint(t, c)
	if _, err := c.Inspect(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	var held []*proxy.Held
	var wg sync.WaitGroup
	for _, key := range []string{"lock:jam:1", "lock:jam:2"} {
		stuck := p.Hold(proxy.Script(key, fenceKey(key)))
		wg.Go(func() { _, _ = c.Inspect(t.Context(), key) })
		<-stuck.Arrived
		held = append(held, stuck)
	}
	return func() {
		for _, stuck := range held {
			_, _ = stuck.Deliver()
		}
		wg.Wait()
	}
}

func timedOut(err error) bool {
	_, ok := errors.AsType[*wire.TimeoutError](err)
	return ok
}

func (l *line) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

func TestCallersWhoMeetShareAPipeline(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	rdb := connect(t, p.URL())
	seen := &pipelines{}
	rdb.AddHook(seen)
	c := newClient(t, rdb)

	c.line.stall = time.Hour
	release := jam(t, p, c)
	// A script that the server has forgotten heals in a pipeline, too.
	g.Expect(connect(t, p.URL()).ScriptFlush(t.Context()).Err()).To(Succeed())
	const callers = 20
	var wg sync.WaitGroup
	for n := range callers {
		wg.Go(func() {
			l, err := c.TryAcquire(t.Context(), fmt.Sprint("lock:", n), patient())
			if err != nil {
				t.Error(err)
				return
			}
			if other, err := c.TryAcquire(t.Context(), l.Key(), patient()); err == nil {
				t.Errorf("two hold %q: %s", l.Key(), other.Token())
			}
		})
	}
	g.Eventually(c.line.queued).Should(Equal(callers))
	release()
	wg.Wait()
	seen.mu.Lock()
	defer seen.mu.Unlock()
	g.Expect(seen.lengths).To(ContainElement(BeNumerically(">=", callers)))
}

func TestWhoGivesUpWhileItQueuesWasNeverSent(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	c := dial(t, p.URL())
	c.line.stall = time.Hour
	release := jam(t, p, c)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := c.TryAcquire(ctx, key, patient())
		done <- err
	}()
	g.Eventually(c.line.queued).Should(Equal(1))
	cancel()
	g.Expect(<-done).To(MatchError(context.Canceled))
	release()
	g.Expect(p.Count(acquireOf(key))).To(BeZero())
}

func TestAPipelineThatIsStuckHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	p := proxy.Start(t, startRedis(t).URL())
	c := dial(t, p.URL())
	release := jam(t, p, c)
	var wg sync.WaitGroup
	for n := range 10 {
		wg.Go(func() {
			if _, err := c.TryAcquire(t.Context(), fmt.Sprint("lock:", n), patient()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	release()
}

func TestACommandThatIsNotAnsweredEndsAtItsTime(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c := newClient(t, connect(t, server.URL(), func(o *redis.Options) { o.ReadTimeout = 10 * time.Minute }))
	acquaint(t, c)
	g.Expect(server.Pause()).To(Succeed())

	_, err := c.TryAcquire(t.Context(), key, WithLease(3*time.Second))
	g.Expect(timedOut(err)).To(BeTrue(), "%v", err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = c.TryAcquire(ctx, key, patient())
	g.Expect(err).To(MatchError(context.DeadlineExceeded), "the caller's own time")
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = c.TryAcquire(ctx, key, patient())
	g.Expect(err).To(MatchError(context.Canceled))
	g.Expect(server.Resume()).To(Succeed())
	mustAcquire(t, c, key, patient(), WithWait())
}

func TestAHookThatPanicsDoesNotKeepTheLine(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	rdb.AddHook(answers(func(cmd redis.Cmder) error {
		if len(cmd.Args()) > 3 && cmd.Args()[3] == "lock:panic" {
			panic("a hook's")
		}
		return nil
	}))
	c := newClient(t, rdb)
	g.Expect(func() { _, _ = c.Inspect(t.Context(), "lock:panic") }).To(PanicWith("a hook's"))
	g.Expect(c.line.enter()).To(BeTrue(), "the next caller sends by himself")
}

func TestALockWithoutAFenceCostsFewAllocations(t *testing.T) {
	// Not parallel: the allocations of others would count.
	c := dial(t, startRedis(t).URL())
	acquaint(t, c)
	opts := []LockOption{patient(), WithoutFence()}
	n := testing.AllocsPerRun(200, func() {
		l, err := c.TryAcquire(t.Context(), key, opts...)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if n > 20 {
		t.Errorf("acquire and release: %v allocations", n)
	}
}
