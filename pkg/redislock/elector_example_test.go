package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Lead, lose the lead, and campaign again until the program ends.
func ExampleElector_Terms() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = client.Close(context.Background()) }()
	elector, err := client.Elector(redislock.Key("leader", "payments"),
		redislock.LockIdentity("payments-eu-1"), redislock.WithLease(time.Minute))
	if err != nil {
		log.Panic(err)
	}
	ctx, end := context.WithCancel(context.Background()) // ends when the program is to stop
	defer end()
	terms := 0
	for term, err := range elector.Terms(ctx) {
		if err != nil {
			log.Panic(err) // wrong credentials, say: trying again cannot help
		}
		terms++
		fmt.Println("leads:", elector.IsLeader())
		if terms == 1 {
			elector.StepDown(0) // a new configuration, say
		} else {
			end()
		}
		<-term.Context().Done() // the body of the loop leads until then
		switch cause := context.Cause(term.Context()); {
		case errors.Is(cause, redislock.ErrLost):
			log.Print("somebody else may lead by now")
		case errors.Is(cause, redislock.ErrSteppedDown):
			fmt.Println("stepped down, and campaigns again")
		}
	}
	fmt.Println("leads:", elector.IsLeader())
	// Output:
	// leads: true
	// stepped down, and campaigns again
	// leads: true
	// leads: false
}

// Watch who leads, without taking part.
func ExampleElector_Leaders() {
	rdb, stop := startRedis()
	defer stop()
	client, err := redislock.New(rdb)
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = client.Close(context.Background()) }()
	elector, err := client.Elector(redislock.Key("leader", "payments"))
	if err != nil {
		log.Panic(err)
	}
	for leader, err := range elector.Leaders(context.Background()) {
		switch {
		case errors.Is(err, redislock.ErrClosed):
			return
		case err != nil:
			log.Print("nobody knows who leads: ", err)
			continue
		case !leader.Held:
			fmt.Println("nobody leads")
			// Somebody comes, in another process.
			lock, err := client.Acquire(context.Background(), redislock.Key("leader", "payments"),
				redislock.LockIdentity("payments-eu-1"), redislock.WithHistory(1))
			if err != nil {
				log.Panic(err)
			}
			defer func() { _ = lock.Release(context.Background()) }()
			continue
		}
		fmt.Printf("%s leads; since when is known: %t\n", leader.Name, !leader.Since.IsZero())
		break
	}
	// Output:
	// nobody leads
	// payments-eu-1 leads; since when is known: true
}
