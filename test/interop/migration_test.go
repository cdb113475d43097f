package interop

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
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

// A lock of rueidislock is a majority of several plain strings.
func TestRueidislockIsExcludedByItsKeys(t *testing.T) {
	t.Parallel()
	server := redisserver.Start(t, redisserver.Options{})
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = rdb.Close() }()
	client, err := redislock.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close(context.Background()) }()
	locker, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{server.Addr()}},
		KeyValidity:  lease,
		TryNextAfter: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer locker.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	keys := []string{"rueidislock:0:report", "rueidislock:1:report", "rueidislock:2:report"}

	_, release, err := locker.TryWithContext(ctx, "report")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.AcquireAll(ctx, keys, redislock.WithRetry(1, 0)); !errors.Is(err, redislock.ErrNotAcquired) {
		t.Errorf("ours, while theirs has it: %v", err)
	}
	release()
	ours, err := client.AcquireAll(ctx, keys, redislock.WithLease(lease), redislock.WithWait())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := locker.TryWithContext(ctx, "report"); !errors.Is(err, rueidislock.ErrNotLocked) {
		t.Errorf("theirs, while ours has it: %v", err)
	}
	if err := ours.Release(ctx); err != nil {
		t.Error(err)
	}
	_, release, err = locker.WithContext(ctx, "report")
	if err != nil {
		t.Fatalf("theirs, after ours gave it back: %v", err)
	}
	release()
}

// The Go code of the guide is that of this file.
func TestTheGuideShowsCodeThatCompiles(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/migration.md")
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.ReadFile("migration_test.go")
	if err != nil {
		t.Fatal(err)
	}
	indent := regexp.MustCompile(`(?m)^\t+`)
	compiled := indent.ReplaceAllString(string(here), "")
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(guide), -1)
	if len(blocks) == 0 {
		t.Fatal("the guide has no code")
	}
	for _, block := range blocks {
		if !strings.Contains(compiled, indent.ReplaceAllString(block[1], "")) {
			t.Errorf("the guide shows what is not in migration_test.go:\n%s", block[1])
		}
	}
}

// report stands for the work.
func report(ctx context.Context, _ ...uint64) error { return ctx.Err() }

// What follows is compiled, and shown in the guide.
var (
	_ = connected
	_ = []func(context.Context, *redis.Client) error{fromRedsync, fromBSM}
	_ = []func(context.Context, *redislock.Client) error{toRedsync, toBSM, amidRueidislock, toRueidislock, toUpstash, toUpstashDebounce, toDreamer, toRedisPy}
	_ = fromRueidislock
)

func connected() (*redislock.Client, error) {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true}))
	return client, err
}

func fromRedsync(ctx context.Context, rdb *redis.Client) error {
	mutex := redsync.New(goredis.NewPool(rdb)).NewMutex("lock:report", redsync.WithExpiry(30*time.Second))
	if err := mutex.LockContext(ctx); err != nil {
		return err
	}
	defer func() { _, _ = mutex.UnlockContext(ctx) }()
	return report(ctx) // which is over in 30 s, or extends the mutex
}

func toRedsync(ctx context.Context, client *redislock.Client) error {
	return client.WithLock(ctx, "lock:report", func(ctx context.Context, lock *redislock.Lock) error {
		return report(ctx, lock.Fence()) // ctx ends when the lease is lost
	}, redislock.WithLease(30*time.Second), redislock.WithRetry(32, 150*time.Millisecond))
}

func fromBSM(ctx context.Context, rdb *redis.Client) error {
	lock, err := bsm.New(rdb).Obtain(ctx, "lock:report", 30*time.Second, &bsm.Options{
		RetryStrategy: bsm.LimitRetry(bsm.LinearBackoff(100*time.Millisecond), 3),
		Metadata:      "release 42",
	})
	if errors.Is(err, bsm.ErrNotObtained) {
		return nil // another time
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Release(ctx) }()
	return report(ctx)
}

func toBSM(ctx context.Context, client *redislock.Client) error {
	err := client.WithLock(ctx, "lock:report", func(ctx context.Context, lock *redislock.Lock) error {
		return report(ctx, lock.Fence())
	}, redislock.WithLease(30*time.Second), redislock.WithRetry(4, 100*time.Millisecond), redislock.WithMetadata("release 42"))
	if errors.Is(err, redislock.ErrNotAcquired) {
		return nil // another time
	}
	return err
}

func fromRueidislock(ctx context.Context, locker rueidislock.Locker) error {
	ctx, cancel, err := locker.WithContext(ctx, "report")
	if err != nil {
		return err
	}
	defer cancel()
	return report(ctx)
}

func amidRueidislock(ctx context.Context, client *redislock.Client) error {
	locks, err := client.AcquireAll(ctx, []string{
		"rueidislock:0:report", "rueidislock:1:report", "rueidislock:2:report",
	}, redislock.WithWait())
	if err != nil {
		return err
	}
	defer func() { _ = locks.Release(ctx) }()
	return report(locks.Context(), locks.Fence("rueidislock:0:report"))
}

func toRueidislock(ctx context.Context, client *redislock.Client) error {
	return client.WithLock(ctx, "rueidislock:0:report", func(ctx context.Context, lock *redislock.Lock) error {
		return report(ctx, lock.Fence())
	}, redislock.WithWait())
}

func toUpstash(ctx context.Context, client *redislock.Client) error {
	err := client.WithLock(ctx, "report", func(ctx context.Context, lock *redislock.Lock) error {
		return report(ctx, lock.Fence())
	}, redislock.WithLease(30*time.Second))
	if errors.Is(err, redislock.ErrNotAcquired) {
		return nil
	}
	return err
}

func toUpstashDebounce(ctx context.Context, client *redislock.Client) error {
	reports, err := client.Debouncer("debounce:report", redislock.Debounce{Wait: time.Second})
	if err != nil {
		return err
	}
	_, err = reports.CallAndWait(ctx, []byte("october"), func(ctx context.Context, run redislock.DebounceRun) error {
		return report(ctx, run.Generation) // which may see a generation twice
	})
	return err
}

func toDreamer(ctx context.Context, client *redislock.Client) error {
	errBusy := errors.New("withdrawal in progress, please try again later")
	return client.WithLock(ctx, redislock.Key("withdraw", "user123"), func(ctx context.Context, lock *redislock.Lock) error {
		return report(ctx, lock.Fence())
	}, redislock.WithRetry(1, 0), redislock.WithRefusal(errBusy))
}

func toRedisPy(ctx context.Context, client *redislock.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // also for the work
	defer cancel()
	return client.WithLock(ctx, "report", func(ctx context.Context, lock *redislock.Lock) error {
		return report(ctx, lock.Fence())
	}, redislock.WithLease(30*time.Second), redislock.WithWait())
}
