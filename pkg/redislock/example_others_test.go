package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Every cluster's scheduler fires the same tick; it runs once.
func ExampleLock_Claim() {
	rdb, stop := startRedis()
	defer stop()
	tick := time.Now().Truncate(time.Hour)
	for _, cluster := range []string{"eu", "us"} {
		client, err := redislock.New(rdb, redislock.WithIdentity(cluster))
		if err != nil {
			log.Panic(err)
		}
		defer func() { _ = client.Close(context.Background()) }()
		run := redislock.Run{Series: "billing/nightly", Tick: tick}
		key := redislock.Key("billing", "nightly")
		err = client.WithLock(context.Background(), key, func(ctx context.Context, lock *redislock.Lock) error {
			claim, err := lock.Claim(ctx, redislock.ClaimRequest{Run: run, Claimant: cluster, Rerun: true})
			if err != nil {
				return err
			}
			// A run has a fencing token of its own: hand that on, and not the lock's.
			if err := bill(ctx, "everybody", claim.Fence); err != nil {
				_, reopen := client.ReopenRun(ctx, key, run, claim.Fence) // nothing was done: anybody may
				return errors.Join(err, reopen)
			}
			_, err = client.FinishRun(ctx, key, run, claim.Fence, "ok", true)
			return err
		}, redislock.WithWait())
		if refused, ok := errors.AsType[*redislock.ClaimError](err); ok {
			fmt.Printf("not in %s: %s by %s\n", cluster, refused.Reason, refused.Record.Claimant)
			continue
		}
		if err != nil {
			log.Panic(err)
		}
	}
	// Output:
	// billed everybody
	// not in us: done by eu
}

// A program that is replaced hands its lock to its successor, which goes on with the
// same grant: nobody comes in between, and the fencing token stays.
func ExampleClient_Adopt() {
	rdb, stop := startRedis()
	defer stop()
	ctx, key := context.Background(), redislock.Key("import")

	old, err := redislock.New(rdb, redislock.WithIdentity("import-1"))
	if err != nil {
		log.Panic(err)
	}
	lock, err := old.Acquire(ctx, key)
	if err != nil {
		log.Panic(err)
	}
	token, err := lock.Detach(ctx) // it has stopped its work; the token is a secret
	if err != nil {
		log.Panic(err)
	}

	successor, err := redislock.New(rdb, redislock.WithIdentity("import-2"))
	if err != nil {
		log.Panic(err)
	}
	adopted, err := successor.Adopt(ctx, key, token)
	switch {
	case errors.Is(err, redislock.ErrMismatch):
		log.Panic("somebody else was faster, or the lease has ended: ", err)
	case err != nil:
		log.Panic(err)
	}
	defer func() { _ = adopted.Release(ctx) }()
	fmt.Println("same fencing token:", adopted.Fence() == lock.Fence())
	fmt.Println("the old one holds:", lock.IsHeld())
	// Output:
	// same fencing token: true
	// the old one holds: false
}

// Who has a lock, what for, and who had it before.
func ExampleClient_Inspect() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	ctx, key := context.Background(), redislock.Key("deploy", "web")
	for _, who := range []string{"alice", "bob"} {
		lock, err := client.Acquire(ctx, key, redislock.LockIdentity(who),
			redislock.WithHistory(10), redislock.WithMetadata("release of "+who))
		if err != nil {
			log.Panic(err)
		}
		if who == "bob" {
			defer func() { _ = lock.Release(ctx) }()
			break
		}
		_ = lock.Release(ctx)
	}

	info, err := client.Inspect(ctx, key)
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("%s by %s: %s\n", info.Status, info.Holder, info.Metadata)
	for _, grant := range info.History { // newest first
		fmt.Println("-", grant.Holder)
	}
	// Output:
	// ACQUIRED by bob: release of bob
	// - bob
	// - alice
}

// Take a lock from a holder that hangs: from that one only, and not before it must have
// noticed.
func ExampleClient_ForceRelease() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	ctx, key := context.Background(), redislock.Key("import")
	hung, err := client.Acquire(ctx, key)
	if err != nil {
		log.Panic(err)
	}

	info, err := client.Inspect(ctx, key)
	if err != nil {
		log.Panic(err)
	}
	done, err := client.ForceRelease(ctx, key, info.Fence)
	if errors.Is(err, redislock.ErrMismatch) {
		log.Panic("somebody else holds it by now: ", err)
	}
	if err != nil {
		log.Panic(err)
	}
	fmt.Println("taken away:", done)

	// What remains of the expiry is waited out. Immediately() does not wait, for when the
	// holder is known to be dead.
	_, err = client.TryAcquire(ctx, key)
	if held, ok := errors.AsType[*redislock.HeldError](err); ok {
		fmt.Println("nobody holds it, and it is kept taken:", held.Free())
	}
	// The holder learns of it when it next asks Redis, at its next renewal at the latest.
	err = hung.Extend(ctx, time.Second)
	fmt.Println("lost:", errors.Is(err, redislock.ErrLost), errors.Is(context.Cause(hung.Context()), redislock.ErrLost))
	// Output:
	// taken away: true
	// nobody holds it, and it is kept taken: true
	// lost: true true
}

// Many hosts want to do one thing a minute, by clocks that differ by some seconds, and
// it takes milliseconds: whoever comes late finds the lock still taken.
func ExampleWithMinHold() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	for range 2 { // two hosts
		err := client.WithLock(context.Background(), redislock.Key("newsletter"), func(ctx context.Context, lock *redislock.Lock) error {
			return bill(ctx, "acme", lock.Fence())
		}, redislock.WithMinHold(30*time.Second), redislock.WithRetry(1, 0))
		if held, ok := errors.AsType[*redislock.HeldError](err); ok && held.Free() {
			fmt.Println("done already")
		}
	}
	// Output:
	// billed acme
	// done already
}

// Let the lease be as long as the work makes progress.
func ExampleWithoutRenewal() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	ctx := context.Background()
	lock, err := client.Acquire(ctx, redislock.Key("import"), redislock.WithLease(10*time.Second), redislock.WithoutRenewal())
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = lock.Release(ctx) }()
	for _, file := range []string{"a.csv", "b.csv"} {
		if err := lock.Extend(ctx, 20*time.Second); err != nil {
			log.Panic(err) // lost, or Redis did not answer: do not go on
		}
		fmt.Println(file)
	}
	// Output:
	// a.csv
	// b.csv
}
