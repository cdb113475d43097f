package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// At most two at a time, over all processes.
func ExampleClient_Semaphore() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	exports, err := client.Semaphore(redislock.Key("exports"), 2)
	if err != nil {
		log.Panic(err) // an argument is wrong; nothing was sent
	}
	ctx := context.Background()
	for customer := range 3 {
		permit, err := exports.TryAcquire(ctx)
		if limit, ok := errors.AsType[*redislock.LimitError](err); ok {
			log.Panicf("another release of this program allows %d at a time", limit.Limit)
		}
		if errors.Is(err, redislock.ErrNotAcquired) {
			fmt.Println("customer", customer, "has to wait")
			continue
		}
		if err != nil {
			log.Panic(err)
		}
		defer func() { _ = permit.Release(ctx) }()
		fmt.Println("customer", customer, "is exported:", permit.IsHeld())
	}
	// Output:
	// customer 0 is exported: true
	// customer 1 is exported: true
	// customer 2 has to wait
}

// Many read at a time, or one writes.
func ExampleClient_RWLock() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	catalogue, err := client.RWLock(redislock.Key("catalogue"))
	if err != nil {
		log.Panic(err)
	}
	ctx := context.Background()

	reader, err := catalogue.TryRLock(ctx)
	if err != nil {
		log.Panic(err)
	}
	_, err = catalogue.TryLock(ctx)
	fmt.Println("written while somebody reads:", !errors.Is(err, redislock.ErrNotAcquired))
	// Readers give back before they write: a writer waits for all readers.
	if err := reader.Release(ctx); err != nil {
		log.Panic(err)
	}

	writer, err := catalogue.Lock(ctx, redislock.WithWait())
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = writer.Release(ctx) }()
	fmt.Println("written when nobody does:", writer.IsHeld())
	// Output:
	// written while somebody reads: false
	// written when nobody does: true
}

// Whoever came first gets the lock first, over all processes.
func ExampleWithFair() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	key := redislock.Key("checkout", "last-ticket")
	first, err := client.TryAcquire(context.Background(), key)
	if err != nil {
		log.Panic(err)
	}
	lock, err := client.Acquire(context.Background(), key,
		redislock.WithFair(), redislock.WithWait(),
		redislock.OnRefusal(func(err error) {
			if held, ok := errors.AsType[*redislock.HeldError](err); ok {
				fmt.Println("taken;", held.Ahead, "more wait before us")
				_ = first.Release(context.Background())
			}
		}))
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = lock.Release(context.Background()) }()
	fmt.Println("ours:", lock.IsHeld())
	// Output:
	// taken; 0 more wait before us
	// ours: true
}
