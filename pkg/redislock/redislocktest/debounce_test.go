package redislocktest_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/pkg/redislock/redislocktest"
)

// scripts counts those that a connection runs.
type scripts struct{ n atomic.Int64 }

func (s *scripts) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (s *scripts) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (s *scripts) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" {
			s.n.Add(1)
		}
		return next(ctx, cmd)
	}
}

func runner(t *testing.T, server *redislocktest.Server, settings redislock.Debounce) (runs chan redislock.DebounceRun, count *scripts) {
	t.Helper()
	rdb := server.Redis()
	count = &scripts{}
	rdb.AddHook(count)
	client, err := redislock.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	d, err := client.Debouncer("debounce:a", settings)
	if err != nil {
		t.Fatal(err)
	}
	runs = make(chan redislock.DebounceRun, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- d.Run(ctx, func(_ context.Context, r redislock.DebounceRun) error {
			runs <- r
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = client.Close(context.Background())
	})
	return runs, count
}

func TestAnIdleRunnerLooksAboutOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, count := runner(t, redislocktest.New(t), redislock.Debounce{})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before := count.n.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := count.n.Load() - before; n < 55 || n > 70 {
			t.Errorf("%d looks in an hour", n)
		}
	})
}

// By the time of the bubble, to the millisecond: when calls cease, when they do not, and
// when a call is made that nobody was told of.
func TestWhenADebounceRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		runs, _ := runner(t, server, redislock.Debounce{Wait: 10 * time.Second, MaxWait: 35 * time.Second})
		caller, err := server.Client().Debouncer("debounce:a", redislock.Debounce{})
		if err != nil {
			t.Fatal(err)
		}
		call := func() redislock.Call {
			t.Helper()
			c, err := caller.Call(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		claimed := func(calls int, at time.Time) {
			t.Helper()
			r := <-runs
			if late := r.Claimed.Sub(at); late < 0 || late > 100*time.Millisecond || r.Calls != calls {
				t.Errorf("%d calls were run %s after they were due, want %d", r.Calls, late, calls)
			}
		}
		time.Sleep(time.Minute)
		first := call()
		claimed(1, first.At.Add(10*time.Second))

		first = call()
		for range 3 {
			time.Sleep(9 * time.Second)
			call()
		}
		claimed(4, first.At.Add(35*time.Second))
	})
}
