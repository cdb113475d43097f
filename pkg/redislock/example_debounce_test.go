package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Many calls, in any process, are one run in one of them.
func ExampleDebouncer_Run() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	// The same in each process that runs; who only calls needs no settings.
	reindex, err := client.Debouncer("debounce:reindex", redislock.Debounce{Wait: 100 * time.Millisecond})
	if err != nil {
		log.Panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, document := range []string{"a", "b", "c"} { // from anywhere
		if _, err := reindex.Call(ctx, []byte(document)); err != nil {
			log.Panic(err)
		}
	}
	err = reindex.Run(ctx, func(ctx context.Context, run redislock.DebounceRun) error {
		// A runner that dies is replaced, so this may happen more than once for one
		// run.Generation: use it as the key under which the work is done once.
		fmt.Printf("reindex up to %s, after %d calls\n", run.Payload, run.Calls)
		cancel() // a service goes on, and runs again after the next calls
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		log.Print(err)
	}
	// Output: reindex up to c, after 3 calls
}

// A call that is repeated, because its answer was lost or its caller was restarted, counts
// once where the caller can name it.
func ExampleWithSequence() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	orders, err := client.Debouncer("debounce:orders", redislock.Debounce{})
	if err != nil {
		log.Panic(err)
	}
	ctx := context.Background()
	for _, offset := range []uint64{41, 42, 42} { // a message is delivered twice
		call, err := orders.Call(ctx, nil, redislock.WithSequence("topic-7", offset))
		if err != nil {
			log.Panic(err)
		}
		fmt.Println(offset, "again:", call.Again)
	}
	state, err := orders.State(ctx)
	if err != nil {
		log.Panic(err)
	}
	fmt.Println(state.Waiting, "calls wait")
	// Output:
	// 41 again: false
	// 42 again: false
	// 42 again: true
	// 2 calls wait
}

// A program without a process that always runs: whoever calls waits, and one of the
// callers runs.
func ExampleDebouncer_CallAndWait() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	report, err := client.Debouncer("debounce:report", redislock.Debounce{Wait: 100 * time.Millisecond})
	if err != nil {
		log.Panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ran, err := report.CallAndWait(ctx, []byte("october"), func(_ context.Context, run redislock.DebounceRun) error {
		fmt.Printf("report of %s\n", run.Payload)
		return errors.New("no printer")
	})
	fmt.Println(ran, err)
	// Output:
	// report of october
	// true no printer
}

// Configuration that changes often is applied at once, and not more often than every
// ten seconds after that.
func ExampleDebounce() {
	settings := redislock.Debounce{
		Edge:        redislock.Both,
		Wait:        2 * time.Second,
		MaxWait:     10 * time.Second,
		MinInterval: 10 * time.Second,
		Payload:     redislock.LastPayload,
	}
	fmt.Println(settings.Edge, settings.MinInterval)
	// Output: Both 10s
}
