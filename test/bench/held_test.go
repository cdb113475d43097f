package bench

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const heldLocks = 100_000

// BenchmarkHeld is one process that holds a hundred thousand locks with a lease of
// 10 s, for three leases: is any renewed too late, and what do they cost.
func BenchmarkHeld(b *testing.B) {
	for b.Loop() {
		rdb := start(b)
		var renewed, failed atomic.Int64
		client := holder(b, rdb, redislock.Observer{Renewed: func(_ string, _ time.Duration, err error) {
			renewed.Add(1)
			if err != nil {
				failed.Add(1)
			}
		}})
		heap, goroutines := usage()
		locks := hold(b, client, redislock.WithLease(lease))
		heapHeld, goroutinesHeld := usage()

		renewed.Store(0)
		began, least, late := time.Now(), lease, 0
		for time.Since(began) < 3*lease {
			time.Sleep(lease / 10)
			for _, l := range locks {
				left := time.Until(l.ValidUntil())
				least = min(least, left)
				if l.Err() != nil {
					late++
				}
			}
			if late > 0 {
				break
			}
		}
		b.ReportMetric(float64(renewed.Load())/time.Since(began).Seconds(), "renewals/s")
		b.ReportMetric(float64(late), "late")
		b.ReportMetric(float64(failed.Load()), "failed")
		b.ReportMetric(least.Seconds(), "least-s-left")
		b.ReportMetric(float64(goroutinesHeld-goroutines), "goroutines")
		b.ReportMetric(float64(heapHeld-heap)/heldLocks, "B/lock")
		b.ReportMetric(0, "ns/op")
		_ = client.Close(context.Background())
	}
}

// BenchmarkRenewals is how many renewals a second one process gets through when more
// are due than can be done, beside the most that pipelines of a bare
// compare-and-expire reach.
func BenchmarkRenewals(b *testing.B) {
	const span = 5 * time.Second
	b.Run("lock=floor", func(b *testing.B) {
		rdb := start(b)
		renew := redis.NewScript(`if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("pexpire", KEYS[1], ARGV[2]) end return 0`)
		if err := renew.Load(b.Context(), rdb).Err(); err != nil {
			b.Fatal(err)
		}
		keys := make([]string, heldLocks)
		for i := range keys {
			keys[i] = fmt.Sprint("held:", i)
		}
		pipelined(b, rdb, keys, func(p redis.Pipeliner, key string) { p.Set(b.Context(), key, "token", time.Minute) })
		for b.Loop() {
			began, n := time.Now(), 0
			for time.Since(began) < span {
				pipelined(b, rdb, keys, func(p redis.Pipeliner, key string) {
					p.EvalSha(b.Context(), renew.Hash(), []string{key}, "token", 60_000)
				})
				n += len(keys)
			}
			b.ReportMetric(float64(n)/time.Since(began).Seconds(), "renewals/s")
			b.ReportMetric(0, "ns/op")
		}
	})
	b.Run("lock=ours", func(b *testing.B) {
		rdb := start(b)
		var renewed atomic.Int64
		client := holder(b, rdb, redislock.Observer{Renewed: func(string, time.Duration, error) { renewed.Add(1) }})
		hold(b, client, redislock.WithLease(time.Minute), redislock.WithRenewEvery(250*time.Millisecond), redislock.WithWait())
		for b.Loop() {
			renewed.Store(0)
			began := time.Now()
			time.Sleep(span)
			b.ReportMetric(float64(renewed.Load())/time.Since(began).Seconds(), "renewals/s")
			b.ReportMetric(0, "ns/op")
		}
	})
}

func holder(b *testing.B, rdb *redis.Client, observer redislock.Observer) *redislock.Client {
	b.Helper()
	client, err := redislock.New(rdb, redislock.WithObserver(observer))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close(context.Background()) })
	return client
}

// hold acquires all locks, 64 at a time.
func hold(b *testing.B, client *redislock.Client, opts ...redislock.LockOption) []*redislock.Lock {
	b.Helper()
	locks := make([]*redislock.Lock, heldLocks)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < heldLocks; i = next.Add(1) - 1 {
				l, err := client.Acquire(b.Context(), fmt.Sprint("held:", i), opts...)
				if err != nil {
					b.Error(err)
					return
				}
				locks[i] = l
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return locks
}

// pipelined sends a command for each key, in eight pipelines of 64 at a time.
func pipelined(b *testing.B, rdb *redis.Client, keys []string, add func(redis.Pipeliner, string)) {
	b.Helper()
	const length, atOnce = 64, 8
	var next atomic.Int64
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for from := next.Add(length) - length; from < int64(len(keys)); from = next.Add(length) - length {
				pipe := rdb.Pipeline()
				for _, key := range keys[from:min(from+length, int64(len(keys)))] {
					add(pipe, key)
				}
				if _, err := pipe.Exec(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func usage() (heap int64, goroutines int) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), runtime.NumGoroutine()
}
