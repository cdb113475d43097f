package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// bill stands for work that must not be done twice at once.
func bill(ctx context.Context, customer string, fence uint64) error { return nil }

// Work under a lock that is renewed while it goes on.
func Example() {
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	client, err := redislock.New(rdb, redislock.WithIdentity("billing-eu"))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close(context.Background()) }()

	err = client.WithLock(context.Background(), redislock.Key("invoices", "acme"), func(ctx context.Context, lock *redislock.Lock) error {
		// ctx ends when the lease is lost.
		return bill(ctx, "acme", lock.Fence())
	})
	if errors.Is(err, redislock.ErrLost) {
		log.Print("somebody else may have begun: ", err)
	}
}

// Try once, and say who is in the way.
func ExampleClient_TryAcquire() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	lock, err := client.TryAcquire(context.Background(), redislock.Key("report"))
	var held *redislock.HeldError
	switch {
	case errors.As(err, &held):
		log.Printf("%s is at it, for %s at least", held.Holder, held.TTL)
		return
	case errors.Is(err, redislock.ErrNotAcquired):
		return // another time
	case err != nil:
		log.Fatal(err) // Redis could not be asked
	}
	defer func() { _ = lock.Release(context.Background()) }()
}

// "Somebody else has it" as a value: err is only what went wrong.
func ExampleIfAcquired() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	lock, ok, err := redislock.IfAcquired(client.TryAcquire(context.Background(), redislock.Key("report")))
	if err != nil {
		log.Fatal(err) // Redis could not be asked
	}
	if !ok {
		return // another time
	}
	defer func() { _ = lock.Release(context.Background()) }()
}

// An error for the person who has to wait.
func ExampleWithRefusal() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
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
	http.HandleFunc("/withdraw", withdraw)
}

// Try ten times: after about 50 ms, 100 ms, 200 ms and so on, but at most 2 s.
func ExampleWithBackoff() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	lock, err := client.Acquire(context.Background(), redislock.Key("report"),
		redislock.WithRetry(10, 50*time.Millisecond), redislock.WithBackoff(2*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = lock.Release(context.Background()) }()
}

// Say what the lock is held for, and read what others say.
func ExampleWithMetadata() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	lock, err := client.TryAcquire(context.Background(), redislock.Key("deploy", "web"), redislock.WithMetadata("release 42"))
	if held, ok := errors.AsType[*redislock.HeldError](err); ok {
		log.Printf("%s is at it: %s", held.Holder, held.Metadata)
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = lock.Release(context.Background()) }()
}

// Move money between two accounts, each of which has a lock. The hash tag keeps
// their keys together in a Redis Cluster.
func ExampleClient_AcquireAll() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	from, to := redislock.Key("{accounts}", "acme"), redislock.Key("{accounts}", "globex")
	locks, err := client.AcquireAll(context.Background(), []string{from, to})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = locks.Release(context.Background()) }()
	ctx := locks.Context() // ends when one of them is lost
	if err := bill(ctx, "acme", locks.Fence(from)); err != nil {
		log.Print(err)
	}
	if err := bill(ctx, "globex", locks.Fence(to)); err != nil {
		log.Print(err)
	}
}

// A counter stands for a prometheus.Counter, a sum for a prometheus.Histogram.
type (
	counter struct{ n atomic.Int64 }
	sum     struct{ seconds, n atomic.Int64 }
)

func (c *counter) Inc()              { c.n.Add(1) }
func (s *sum) Observe(value float64) { s.seconds.Add(int64(value)); s.n.Add(1) }

// Count what becomes of locks. Keys are no labels: there may be too many.
func ExampleWithObserver() {
	var acquired, refused, failed, lost counter
	var waited, held sum
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}),
		redislock.WithObserver(redislock.Observer{
			Acquired: func(_ context.Context, _ string, took time.Duration, err error) {
				switch {
				case err == nil:
					acquired.Inc()
				case errors.Is(err, redislock.ErrNotAcquired):
					refused.Inc()
				default:
					failed.Inc()
				}
				waited.Observe(took.Seconds())
			},
			Released: func(_ context.Context, _ string, d time.Duration, _ error) { held.Observe(d.Seconds()) },
			Lost:     func(context.Context, string, time.Duration, error) { lost.Inc() },
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close(context.Background()) }()
}

// Wait until the lock is free, for a minute at most. A release wakes the waiter.
func ExampleWithWait() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lock, err := client.Acquire(ctx, redislock.Key("migration"), redislock.WithWait())
	if errors.Is(err, context.DeadlineExceeded) {
		log.Fatal("still held after a minute: ", err)
	}
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = lock.Release(context.Background()) }()
}

// At most three at a time, over all processes.
func ExampleClient_Semaphore() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	exports, err := client.Semaphore(redislock.Key("exports"), 3, redislock.WithWait())
	if err != nil {
		log.Fatal(err) // an argument is wrong; nothing was sent
	}
	permit, err := exports.Acquire(context.Background())
	if limit, ok := errors.AsType[*redislock.LimitError](err); ok {
		log.Fatalf("another release of this program allows %d at a time", limit.Limit)
	}
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = permit.Release(context.Background()) }()
	_ = bill(permit.Context(), "acme", permit.Fence()) // its context ends when the permit is lost
}

// Many read at a time, or one writes.
func ExampleClient_RWLock() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	catalogue, err := client.RWLock(redislock.Key("catalogue"), redislock.WithWait())
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()

	reader, err := catalogue.RLock(ctx)
	if err != nil {
		log.Fatal(err)
	}
	// Readers give back before they write: a writer waits for all readers.
	if err := reader.Release(ctx); err != nil {
		log.Print(err)
	}

	writer, err := catalogue.Lock(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = writer.Release(ctx) }()
	_ = bill(writer.Context(), "acme", writer.Fence())
}

// Whoever came first gets the lock first, over all processes.
func ExampleWithFair() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	lock, err := client.Acquire(context.Background(), redislock.Key("checkout", "last-ticket"),
		redislock.WithFair(), redislock.WithWait(),
		redislock.OnRefusal(func(err error) {
			if held, ok := errors.AsType[*redislock.HeldError](err); ok {
				log.Printf("%d are ahead", held.Ahead)
			}
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = lock.Release(context.Background()) }()
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
	var balance table
	paused, next := uint64(1795310214767428), uint64(1795310224901337) // two Lock.Fence()
	balance.write(paused, "10, by the first holder")
	balance.write(next, "20, by the second")
	balance.write(paused, "11, by the first, which was paused")
	// Output:
	// written: 10, by the first holder
	// written: 20, by the second
	// refused: 11, by the first, which was paused
}

func ExampleKey() {
	fmt.Println(redislock.Key("order", 7, "pay"))
	// Output: lock:order:7:pay
}
