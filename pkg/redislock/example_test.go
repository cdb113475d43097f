package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
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
