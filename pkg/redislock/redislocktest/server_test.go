package redislocktest_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/pkg/redislock/redislocktest"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const key = "lock:a"

func acquire(t *testing.T, c *redislock.Client, opts ...redislock.LockOption) *redislock.Lock {
	t.Helper()
	l, err := c.Acquire(t.Context(), key, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func isHeld(t *testing.T, c *redislock.Client, opts ...redislock.LockOption) redislock.HeldError {
	t.Helper()
	_, err := c.TryAcquire(t.Context(), key, opts...)
	var held *redislock.HeldError
	if !errors.As(err, &held) {
		t.Fatalf("got %v, want that it is held", err)
	}
	return *held
}

func TestAnHourOfRenewalsKeepsALock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		var renewals atomic.Int64
		holder := server.Client(redislock.WithObserver(redislock.Observer{Renewed: func(_ string, _ time.Duration, err error) {
			if err != nil {
				t.Error(err)
			}
			renewals.Add(1)
		}}))
		started := time.Now()
		l := acquire(t, holder)
		time.Sleep(time.Hour)
		synctest.Wait()
		if err := l.Err(); err != nil {
			t.Fatal(err)
		}
		// Every 3.3 s, give or take 10 %.
		if n := renewals.Load(); n < 900 || n > 1300 {
			t.Errorf("%d renewals in an hour", n)
		}
		if passed := time.Since(started); passed != time.Hour {
			t.Errorf("%s passed", passed)
		}
		isHeld(t, server.Client())
	})
}

func TestALeaseWithoutNetworkEndsToTheMillisecond(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]func(*redislocktest.Server){
		"down": (*redislocktest.Server).Down,
		"hung": (*redislocktest.Server).Hang,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := redislocktest.New(t)
				l := acquire(t, server.Client())
				started := time.Now()
				ctx := l.Context()
				breaks(server)
				time.Sleep(9897 * time.Millisecond)
				synctest.Wait()
				if err := ctx.Err(); err != nil {
					t.Fatalf("lost after %s: %v", time.Since(started), context.Cause(ctx))
				}
				time.Sleep(time.Millisecond) // 10 s less 1 % and 2 ms
				synctest.Wait()
				var lost *redislock.LostError
				if !errors.As(context.Cause(ctx), &lost) || lost.Err == nil {
					t.Fatalf("got %v, want a loss that says why", context.Cause(ctx))
				}
				if l.IsHeld() {
					t.Error("it is held")
				}
			})
		})
	}
}

func TestWhatComesBackInTimeLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		l := acquire(t, server.Client())
		for range 20 {
			server.Down()
			time.Sleep(5 * time.Second)
			server.Up()
			time.Sleep(5 * time.Second)
			server.Hang()
			time.Sleep(3 * time.Second)
			server.Resume()
			time.Sleep(5 * time.Second)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestKeysExpireWhenTheirTimeIsUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		l := acquire(t, server.Client(), redislock.WithoutRenewal(), redislock.WithLockDelay(5*time.Second))
		other := server.Client()
		server.Down() // what is stored ages all the same
		time.Sleep(14 * time.Second)
		server.Up()
		if held := isHeld(t, other); held.TTL != time.Second {
			t.Errorf("TTL %s, want 1s", held.TTL)
		}
		if l.IsHeld() {
			t.Error("the lease outlives its end")
		}
		time.Sleep(time.Second)
		if next := acquire(t, other); next.Fence() <= l.Fence() {
			t.Errorf("fence %d after %d", next.Fence(), l.Fence())
		}
	})
}

func TestAReleaseWakesAWaiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		l := acquire(t, server.Client())
		waiter := server.Client()
		got := make(chan time.Time)
		go func() {
			next, err := waiter.Acquire(t.Context(), key, redislock.WithWait())
			if err != nil {
				t.Error(err)
			} else if err := next.Release(t.Context()); err != nil {
				t.Error(err)
			}
			got <- time.Now()
		}()
		time.Sleep(time.Hour)
		released := time.Now()
		if err := l.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := (<-got).Sub(released); waited != 0 {
			t.Errorf("woken %s after the release", waited)
		}
	})
}

func TestFaultsBefallTheNextCommandsAboutTheirKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		rdb := server.Redis(func(o *redis.Options) { o.MaxRetries = -1 })
		server.FailNext("a", 2, "LOADING not yet")
		server.LoseReplies("b", 1)
		for range 2 {
			if err := rdb.Set(t.Context(), "a", "x", 0).Err(); !redis.HasErrorPrefix(err, "LOADING") {
				t.Fatalf("got %v", err)
			}
		}
		if n := rdb.Exists(t.Context(), "a").Val(); n != 0 {
			t.Error("it was carried out")
		}
		if err := rdb.Set(t.Context(), "b", "x", 0).Err(); err == nil {
			t.Error("an answer came")
		}
		if n := rdb.Exists(t.Context(), "b").Val(); n != 1 {
			t.Error("it was not carried out")
		}
		server.FailNext("", 1, "ERR any")
		if err := server.Redis().Ping(t.Context()).Err(); err == nil || err.Error() != "ERR any" {
			t.Errorf("got %v", err)
		}
	})
}

// An acquire whose answers are lost is found out by its next try: there is one grant.
func TestALostReplyIsNoLostLock(t *testing.T) {
	t.Parallel()
	for _, lost := range []int{1, 2, 5} {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := redislocktest.New(t)
				server.LoseReplies(key, lost)
				l := acquire(t, server.Client())
				info, err := server.Client().Inspect(t.Context(), key)
				if err != nil {
					t.Fatal(err)
				}
				if info.Fence != l.Fence() || info.Value != l.Token() {
					t.Errorf("Redis knows %+v, the holder %s", info, l.Token())
				}
			})
		})
	}
}

func TestAFlushIsALossAndAQuarantine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		holder := server.Client()
		l := acquire(t, holder)
		server.FlushAll()
		<-l.Context().Done()
		if err := l.Err(); !errors.Is(err, redislock.ErrLost) {
			t.Errorf("got %v", err)
		}
		_, err := holder.TryAcquire(t.Context(), key)
		if _, ok := errors.AsType[*redislock.QuarantineError](err); !ok {
			t.Errorf("got %v, want a quarantine", err)
		}
		began := time.Now()
		next := acquire(t, holder, redislock.WithWait())
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("waited %s for a quarantine of 10s", waited)
		}
		if next.Fence() <= l.Fence() {
			t.Errorf("fence %d after %d", next.Fence(), l.Fence())
		}
	})
}

// The clocks by which the client judges the server's are all the bubble's.
func TestTheServersClockIsSeenToRunEvenly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		client := server.Client()
		for range 3 {
			if err := acquire(t, client).Release(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		report, err := client.CheckStore(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if report.Verdict() == redislock.Dangerous {
			t.Error(report.Message(redislock.Dangerous))
		}
	})
}

// More renewals go out in a pipeline than a connection holds at once.
func TestManyLocksAreRenewedTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := redislocktest.New(t)
		client := server.Client()
		locks := make([]*redislock.Lock, 150)
		for i := range locks {
			l, err := client.TryAcquire(t.Context(), fmt.Sprint("lock:", i))
			if err != nil {
				t.Fatal(err)
			}
			locks[i] = l
		}
		time.Sleep(time.Minute)
		for _, l := range locks {
			if err := l.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestOutsideABubbleTimeIsReal(t *testing.T) {
	t.Parallel()
	server := redislocktest.New(t)
	holder := server.Client()
	l := acquire(t, holder, redislock.WithLease(2*time.Second), redislock.WithoutRenewal())
	rdb := redisserver.Connect(t, server.URL())
	if v := rdb.Get(t.Context(), key).Val(); v != l.Token() {
		t.Errorf("by its URL there is %q at the key", v)
	}
	next := acquire(t, server.Client(), redislock.WithWait())
	if l.IsHeld() {
		t.Error("two hold the lock")
	}
	if next.Fence() <= l.Fence() {
		t.Errorf("fence %d after %d", next.Fence(), l.Fence())
	}
	server.Down()
	if err := rdb.Ping(t.Context()).Err(); err == nil {
		t.Error("it answers")
	}
	server.Up()
	if err := rdb.Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}
