package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// bill stands for work that must not be done twice at once.
func bill(ctx context.Context, customer string, fence uint64) error {
	fmt.Println("billed", customer)
	return ctx.Err()
}

// Work under a lock that is renewed while it goes on.
func Example() {
	rdb, stop := startRedis() // redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
	defer stop()
	client, err := redislock.New(rdb, redislock.WithIdentity("billing-eu"))
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = client.Close(context.Background()) }()

	err = client.WithLock(context.Background(), redislock.Key("invoices", "acme"), func(ctx context.Context, lock *redislock.Lock) error {
		// ctx ends when the lease is lost.
		return bill(ctx, "acme", lock.Fence())
	})
	switch {
	case errors.Is(err, redislock.ErrLost):
		log.Print("somebody else may have begun: ", err)
	case errors.Is(err, redislock.ErrNotAcquired):
		log.Print("somebody else is at it: ", err)
	case err != nil:
		log.Print(err) // Redis did not answer, or bill failed
	}
	// Output: billed acme
}

// What the work returned, and whether it could be done at all.
func ExampleClient_WithLock() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	ctx, key := context.Background(), redislock.Key("invoices", "acme")
	errNoAddress := errors.New("no address")
	err = client.WithLock(ctx, key, func(ctx context.Context, _ *redislock.Lock) error {
		// A lock is not re-entrant: its holder is refused like anybody else.
		err := client.WithLock(ctx, key, func(context.Context, *redislock.Lock) error { return nil })
		fmt.Println(errors.Is(err, redislock.ErrNotAcquired))
		return errNoAddress
	})
	fmt.Println(err)
	// Output:
	// true
	// no address
}

// Try once, and say who is in the way.
func ExampleClient_TryAcquire() {
	rdb, stop := startRedis()
	defer stop()
	eu, err := redislock.New(rdb, redislock.WithIdentity("report-eu"))
	if err != nil {
		log.Panic(err)
	}
	us, err := redislock.New(rdb, redislock.WithIdentity("report-us"))
	if err != nil {
		log.Panic(err)
	}
	ctx, key := context.Background(), redislock.Key("report")
	lock, err := eu.TryAcquire(ctx, key, redislock.WithLease(time.Minute))
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = lock.Release(ctx) }()

	_, err = us.TryAcquire(ctx, key)
	var held *redislock.HeldError
	switch {
	case errors.As(err, &held):
		fmt.Printf("%s has it for %s, and renews it\n", held.Holder, held.TTL.Round(time.Minute))
	case errors.Is(err, redislock.ErrNotAcquired):
		log.Print(err) // another time: Redis lost data and is quarantined
	case err != nil:
		log.Print(err) // Redis could not be asked
	}
	// Output: report-eu has it for 1m0s, and renews it
}

// "Somebody else has it" as a value: err is only what went wrong.
func ExampleIfAcquired() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	ctx := context.Background()
	for range 2 {
		lock, ok, err := redislock.IfAcquired(client.TryAcquire(ctx, redislock.Key("report")))
		if err != nil {
			log.Panic(err) // Redis could not be asked
		}
		if !ok {
			fmt.Println("another time")
			continue
		}
		fmt.Println("ours")
		defer func() { _ = lock.Release(ctx) }()
	}
	// Output:
	// ours
	// another time
}

// An error for the person who has to wait.
func ExampleWithRefusal() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	errBusy := errors.New("withdrawal in progress, please try again later")
	withdraw := func(w http.ResponseWriter, r *http.Request) {
		err := client.WithLock(r.Context(), redislock.Key("withdraw", "user123"), func(ctx context.Context, lock *redislock.Lock) error {
			return bill(ctx, "user123", lock.Fence())
		}, redislock.WithRefusal(errBusy))
		switch {
		case errors.Is(err, errBusy):
			http.Error(w, err.Error(), http.StatusConflict)
		case err != nil:
			http.Error(w, "internal error", http.StatusInternalServerError)
		}
	}

	lock, err := client.Acquire(context.Background(), redislock.Key("withdraw", "user123")) // elsewhere
	if err != nil {
		log.Panic(err)
	}
	answer := httptest.NewRecorder()
	withdraw(answer, httptest.NewRequest(http.MethodPost, "/withdraw", nil))
	fmt.Print(answer.Code, " ", answer.Body)

	_ = lock.Release(context.Background())
	answer = httptest.NewRecorder()
	withdraw(answer, httptest.NewRequest(http.MethodPost, "/withdraw", nil))
	fmt.Println(answer.Code)
	// Output:
	// 409 withdrawal in progress, please try again later
	// billed user123
	// 200
}

// Try four times, with about 10 ms, 20 ms and 20 ms in between.
func ExampleWithBackoff() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	ctx, key := context.Background(), redislock.Key("report")
	lock, err := client.Acquire(ctx, key) // by somebody who keeps it
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = lock.Release(ctx) }()

	tries := 0
	_, err = client.Acquire(ctx, key,
		redislock.WithRetry(4, 10*time.Millisecond), redislock.WithBackoff(20*time.Millisecond),
		redislock.OnRefusal(func(error) { tries++ }))
	fmt.Println(errors.Is(err, redislock.ErrNotAcquired), "after", tries, "tries")
	// Output: true after 4 tries
}

// Say what the lock is held for, and read what others say.
func ExampleWithMetadata() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb, redislock.WithIdentity("deployer-1"))
	if err != nil {
		log.Panic(err)
	}
	ctx, key := context.Background(), redislock.Key("deploy", "web")
	for _, release := range []string{"release 42", "release 43"} {
		lock, err := client.TryAcquire(ctx, key, redislock.WithMetadata(release))
		if held, ok := errors.AsType[*redislock.HeldError](err); ok {
			fmt.Printf("%s has to wait: %s is at it with %s\n", release, held.Holder, held.Metadata)
			continue
		}
		if err != nil {
			log.Panic(err)
		}
		defer func() { _ = lock.Release(ctx) }()
	}
	// Output: release 43 has to wait: deployer-1 is at it with release 42
}

// Move money between two accounts, each of which has a lock. The hash tag keeps
// their keys together in a Redis Cluster.
func ExampleClient_AcquireAll() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	from, to := redislock.Key("{accounts}", "acme"), redislock.Key("{accounts}", "globex")
	locks, err := client.AcquireAll(context.Background(), []string{from, to})
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = locks.Release(context.Background()) }()
	ctx := locks.Context() // ends when one of them is lost
	if err := bill(ctx, "acme", locks.Fence(from)); err != nil {
		log.Print(err)
	}
	if err := bill(ctx, "globex", locks.Fence(to)); err != nil {
		log.Print(err)
	}
	// Each of them is a lock like any other.
	_, err = client.TryAcquire(context.Background(), to)
	fmt.Println("globex alone:", errors.Is(err, redislock.ErrNotAcquired))
	// Output:
	// billed acme
	// billed globex
	// globex alone: true
}

// Count what becomes of locks. Keys are no labels: there may be too many. The counters
// stand for those of a metrics library, and so does the sum for a histogram.
func ExampleWithObserver() {
	rdb, stop := startRedis()
	defer stop()
	var acquired, refused, failed, lost atomic.Int64
	var held atomic.Int64
	client, err := redislock.New(rdb, redislock.WithObserver(redislock.Observer{
		Acquired: func(_ context.Context, _ string, _ time.Duration, err error) {
			switch {
			case err == nil:
				acquired.Add(1)
			case errors.Is(err, redislock.ErrNotAcquired):
				refused.Add(1)
			default:
				failed.Add(1)
			}
		},
		Released: func(_ context.Context, _ string, d time.Duration, _ error) { held.Add(int64(d)) },
		Lost:     func(context.Context, string, time.Duration, error) { lost.Add(1) },
	}))
	if err != nil {
		log.Panic(err)
	}
	ctx := context.Background()
	lock, err := client.TryAcquire(ctx, redislock.Key("report"))
	if err != nil {
		log.Panic(err)
	}
	_, _ = client.TryAcquire(ctx, redislock.Key("report"))
	_ = lock.Release(ctx)
	fmt.Println("acquired", acquired.Load(), "refused", refused.Load(), "failed", failed.Load(), "lost", lost.Load())
	fmt.Println("time was counted:", held.Load() > 0)
	// Output:
	// acquired 1 refused 1 failed 0 lost 0
	// time was counted: true
}

// Wait until the lock is free, for a minute at most. A release wakes the waiter.
func ExampleWithWait() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = client.Close(context.Background()) }()
	first, err := client.TryAcquire(context.Background(), redislock.Key("migration"))
	if err != nil {
		log.Panic(err)
	}
	time.AfterFunc(10*time.Millisecond, func() { _ = first.Release(context.Background()) })

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lock, err := client.Acquire(ctx, redislock.Key("migration"), redislock.WithWait())
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		log.Panic("still held after a minute: ", err)
	case err != nil:
		log.Panic(err)
	}
	defer func() { _ = lock.Release(context.Background()) }()
	fmt.Println("ours, and the first has let go:", errors.Is(first.Err(), redislock.ErrReleased))
	// Output: ours, and the first has let go: true
}

// A table is a resource that checks fencing tokens: it remembers the highest it
// has seen and refuses any lower one. In SQL that is
//
//	UPDATE balance SET amount = $1, fence = $2 WHERE id = $3 AND fence <= $2
type table struct{ fence uint64 }

func (t *table) write(fence uint64, what string) {
	if fence < t.fence {
		fmt.Printf("refused: %s\n", what)
		return
	}
	t.fence = fence
	fmt.Printf("written: %s\n", what)
}

// The fencing token is what makes a lock correct: a holder that was paused, and
// whose lease went to somebody else meanwhile, writes with too low a token.
func ExampleLock_Fence() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	ctx, key := context.Background(), redislock.Key("balance", "acme")
	var balance table

	first, err := client.Acquire(ctx, key)
	if err != nil {
		log.Panic(err)
	}
	balance.write(first.Fence(), "10, by the first holder")
	// It is paused for long enough to lose its lease; here the lock is taken away.
	if _, err := client.ForceRelease(ctx, key, first.Fence(), redislock.Immediately()); err != nil {
		log.Panic(err)
	}
	second, err := client.Acquire(ctx, key)
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = second.Release(ctx) }()
	balance.write(second.Fence(), "20, by the second")
	balance.write(first.Fence(), "11, by the first, which was paused")
	// Output:
	// written: 10, by the first holder
	// written: 20, by the second
	// refused: 11, by the first, which was paused
}

func ExampleKey() {
	fmt.Println(redislock.Key("order", 7, "pay"))
	// Output: lock:order:7:pay
}
