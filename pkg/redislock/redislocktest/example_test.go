package redislocktest_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/pkg/redislock/redislocktest"
)

// A worker is what a program has and its tests are about: it works under a lock, and
// stops when it loses it.
type worker struct{ client *redislock.Client }

func (w worker) work(ctx context.Context, step func()) error {
	return w.client.WithLock(ctx, "lock:work", func(ctx context.Context, _ *redislock.Lock) error {
		for tick := time.Tick(time.Second); ; {
			select {
			case <-tick:
				step()
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
}

// This is the test of a program that must stop when its lock is lost. It takes no
// time, and no machine is too slow for it.
func TestTheWorkerStopsWhenItsLockIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		var steps atomic.Int64
		done := make(chan error)
		go func() {
			done <- worker{server.Client()}.work(t.Context(), func() { steps.Add(1) })
		}()
		time.Sleep(time.Hour + time.Millisecond) // it works, and its lease is renewed
		synctest.Wait()
		if n := steps.Load(); n != 3600 {
			t.Errorf("%d steps in an hour", n)
		}
		server.Down()
		time.Sleep(redislock.DefaultLease)
		synctest.Wait()
		if err := <-done; !errors.Is(err, redislock.ErrLost) {
			t.Errorf("it ended with %v", err)
		}
	})
}
