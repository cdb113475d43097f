package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	bsm "github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const lease = 10 * time.Second

// A contender takes a free lock and gives it back.
type contender struct {
	name   string
	locker func(testing.TB, *redis.Client) func(ctx context.Context, key string) error
}

var contenders = []contender{
	{"floor", floor},
	{"ours-unfenced", ours(redislock.WithoutFence())},
	{"ours-fenced", ours()},
	{"bsm", peerBSM},
	{"redsync", peerRedsync},
	{"rueidislock", peerRueidis(1)},
	{"rueidislock-default", peerRueidis(2)},
}

// BenchmarkOneCaller is one caller after the other. The contenders take turns, lock by
// lock: the machine is faster at some moments than at others, and that is not to count
// for some of them only. What they allocate is counted after it.
func BenchmarkOneCaller(b *testing.B) {
	const turns = 5000
	rdb := start(b)
	once := make([]func() error, len(contenders))
	for i, c := range contenders {
		lockAndRelease, key := c.locker(b, rdb), "bench:"+c.name
		once[i] = func() error { return lockAndRelease(b.Context(), key) }
	}
	spent := make([]time.Duration, len(contenders))
	for range turns {
		for i, lockAndRelease := range once {
			began := time.Now()
			if err := lockAndRelease(); err != nil {
				b.Fatal(err)
			}
			spent[i] += time.Since(began)
		}
	}
	for i, c := range contenders {
		b.Run("lock="+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := once[i](); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(spent[i])/turns, "ns/op")
		})
	}
}

// Benchmark64Callers is 64 at once, each with a lock of its own.
func Benchmark64Callers(b *testing.B) {
	rdb := start(b)
	for _, c := range contenders {
		b.Run("lock="+c.name, func(b *testing.B) {
			lockAndRelease := c.locker(b, rdb)
			var callers atomic.Int64
			const atOnce = 64
			b.ReportAllocs()
			b.SetParallelism(max(1, atOnce/runtime.GOMAXPROCS(0)))
			b.RunParallel(func(pb *testing.PB) {
				key := fmt.Sprintf("bench:%s:%d", c.name, callers.Add(1))
				for pb.Next() {
					if err := lockAndRelease(b.Context(), key); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func start(b *testing.B) *redis.Client {
	b.Helper()
	server := redisserver.Start(b, redisserver.Options{})
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		b.Fatal(err)
	}
	options.PoolSize = 64
	options.ContextTimeoutEnabled = true
	rdb := redis.NewClient(options)
	b.Cleanup(func() { _ = rdb.Close() })
	// The first contender is not to pay for a processor that has to wake up.
	for began := time.Now(); time.Since(began) < time.Second; {
		if err := rdb.Ping(b.Context()).Err(); err != nil {
			b.Fatal(err)
		}
	}
	return rdb
}

// floor is the least that is safe: SET NX PX and compare-and-delete.
func floor(_ testing.TB, rdb *redis.Client) func(context.Context, string) error {
	release := redis.NewScript(`if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) end return 0`)
	return func(ctx context.Context, key string) error {
		var b [16]byte
		_, _ = rand.Read(b[:])
		value := hex.EncodeToString(b[:])
		if err := rdb.SetArgs(ctx, key, value, redis.SetArgs{Mode: "NX", TTL: lease}).Err(); err != nil {
			return err
		}
		return release.Run(ctx, rdb, []string{key}, value).Err()
	}
}

func ours(opts ...redislock.LockOption) func(testing.TB, *redis.Client) func(context.Context, string) error {
	opts = append(opts, redislock.WithLease(lease))
	return func(tb testing.TB, rdb *redis.Client) func(context.Context, string) error {
		client, err := redislock.New(rdb)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = client.Close(context.Background()) })
		return func(ctx context.Context, key string) error {
			lock, err := client.TryAcquire(ctx, key, opts...)
			if err != nil {
				return err
			}
			return lock.Release(ctx)
		}
	}
}

func peerBSM(_ testing.TB, rdb *redis.Client) func(context.Context, string) error {
	client := bsm.New(rdb)
	return func(ctx context.Context, key string) error {
		lock, err := client.Obtain(ctx, key, lease, nil)
		if err != nil {
			return err
		}
		return lock.Release(ctx)
	}
}

func peerRedsync(_ testing.TB, rdb *redis.Client) func(context.Context, string) error {
	client := redsync.New(goredis.NewPool(rdb))
	return func(ctx context.Context, key string) error {
		mutex := client.NewMutex(key, redsync.WithExpiry(lease), redsync.WithTries(1))
		if err := mutex.LockContext(ctx); err != nil {
			return err
		}
		_, err := mutex.UnlockContext(ctx)
		return err
	}
}

// peerRueidis takes that many keys, a majority of twice as many less one.
func peerRueidis(majority int32) func(testing.TB, *redis.Client) func(context.Context, string) error {
	return func(tb testing.TB, rdb *redis.Client) func(context.Context, string) error {
		locker := newRueidis(tb, rdb, majority)
		return func(ctx context.Context, key string) error {
			_, release, err := locker.TryWithContext(ctx, key)
			if err != nil {
				return err
			}
			release()
			return nil
		}
	}
}

func newRueidis(tb testing.TB, rdb *redis.Client, majority int32) rueidislock.Locker {
	tb.Helper()
	locker, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{rdb.Options().Addr}},
		KeyValidity:  lease, ExtendInterval: lease / 3,
		KeyMajority: majority, NoLoopTracking: true,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(locker.Close)
	return locker
}
