package bench

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	bsm "github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// A queuer waits for a lock however long that takes, and returns how to give it back.
// Those that poll do so every 100 ms, which is this package's retry delay and within
// redsync's default of 50 to 250 ms.
type queuer struct {
	name  string
	start func(testing.TB, *redis.Client) func(ctx context.Context, key string) (release func() error, err error)
}

const poll = 100 * time.Millisecond

var queuers = []queuer{
	{"ours", func(tb testing.TB, rdb *redis.Client) func(context.Context, string) (func() error, error) {
		client, err := redislock.New(rdb)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = client.Close(context.Background()) })
		return func(ctx context.Context, key string) (func() error, error) {
			lock, err := client.Acquire(ctx, key, redislock.WithLease(lease), redislock.WithWait())
			if err != nil {
				return nil, err
			}
			return func() error { return lock.Release(ctx) }, nil
		}
	}},
	{"rueidislock", func(tb testing.TB, rdb *redis.Client) func(context.Context, string) (func() error, error) {
		locker := newRueidis(tb, rdb, 1)
		return func(ctx context.Context, key string) (func() error, error) {
			_, release, err := locker.WithContext(ctx, key)
			return func() error { release(); return nil }, err
		}
	}},
	{"bsm", func(_ testing.TB, rdb *redis.Client) func(context.Context, string) (func() error, error) {
		client := bsm.New(rdb)
		return func(ctx context.Context, key string) (func() error, error) {
			// Without a deadline of its own it would wait for no longer than the lease.
			patient, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			lock, err := client.Obtain(patient, key, lease, &bsm.Options{RetryStrategy: bsm.LinearBackoff(poll)})
			return func() error { return lock.Release(ctx) }, err
		}
	}},
	{"redsync", func(_ testing.TB, rdb *redis.Client) func(context.Context, string) (func() error, error) {
		client := redsync.New(goredis.NewPool(rdb))
		return func(ctx context.Context, key string) (func() error, error) {
			mutex := client.NewMutex(key, redsync.WithExpiry(lease), redsync.WithTries(1<<30), redsync.WithRetryDelay(poll))
			err := mutex.LockContext(ctx)
			return func() error { _, err := mutex.UnlockContext(ctx); return err }, err
		}
	}},
}

// BenchmarkHandover is the time from when a holder begins to give a lock back until
// the one who waits for it has it.
func BenchmarkHandover(b *testing.B) {
	rdb := start(b)
	for _, q := range queuers {
		b.Run("lock="+q.name, func(b *testing.B) {
			acquire, key := q.start(b, rdb), "handover:"+q.name
			const turns = 300
			var took []time.Duration
			for b.Loop() {
				took = took[:0]
				release, err := acquire(b.Context(), key)
				if err != nil {
					b.Fatal(err)
				}
				for range turns {
					type grant struct {
						release func() error
						at      time.Time
						err     error
					}
					got := make(chan grant, 1)
					go func() {
						release, err := acquire(b.Context(), key)
						got <- grant{release, time.Now(), err}
					}()
					// The waiter settles down: what is measured is waking it.
					time.Sleep(5 * time.Millisecond)
					began := time.Now()
					if err := release(); err != nil {
						b.Fatal(err)
					}
					next := <-got
					if next.err != nil {
						b.Fatal(next.err)
					}
					took, release = append(took, next.at.Sub(began)), next.release
				}
				_ = release()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[turns/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[turns*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkThousandWaiters has a thousand wait for one lock: what that costs Redis
// while nothing happens, and how long it takes until all have had it once.
func BenchmarkThousandWaiters(b *testing.B) {
	const waiters, idle = 1000, 3 * time.Second
	rdb := start(b)
	for _, q := range queuers {
		b.Run("lock="+q.name, func(b *testing.B) {
			var perSecond, passed float64
			for b.Loop() {
				acquire, key := q.start(b, rdb), "waiters:"+q.name
				release, err := acquire(b.Context(), key)
				if err != nil {
					b.Fatal(err)
				}
				var wg sync.WaitGroup
				for range waiters {
					wg.Go(func() {
						release, err := acquire(b.Context(), key)
						if err != nil {
							b.Error(err)
							return
						}
						if err := release(); err != nil {
							b.Error(err)
						}
					})
				}
				time.Sleep(time.Second) // all have tried once
				before := commands(b, rdb)
				time.Sleep(idle)
				perSecond = float64(commands(b, rdb)-before) / idle.Seconds()
				began := time.Now()
				if err := release(); err != nil {
					b.Fatal(err)
				}
				wg.Wait()
				passed = time.Since(began).Seconds()
			}
			b.ReportMetric(perSecond, "idle-commands/s")
			b.ReportMetric(passed, "s-until-all-passed")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// commands counts what the server has carried out.
func commands(b *testing.B, rdb *redis.Client) int {
	b.Helper()
	info, err := rdb.Info(b.Context(), "stats").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(info) {
		if digits, ok := strings.CutPrefix(strings.TrimSpace(line), "total_commands_processed:"); ok {
			n, err := strconv.Atoi(digits)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal(fmt.Errorf("no total_commands_processed in %q", info))
	return 0
}
