package redislock_test

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// serve stands for what only the leader may do. It returns when ctx ends.
func serve(ctx context.Context, fence uint64) { <-ctx.Done() }

// Lead, lose the lead, and campaign again until the program ends.
func ExampleElector_Terms() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	elector, err := client.Elector(redislock.Key("leader", "payments"),
		redislock.LockIdentity("payments-eu-1"), redislock.WithLease(time.Second))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background() // ends when the program is to stop
	for term, err := range elector.Terms(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		serve(term.Context(), term.Fence())
		if errors.Is(context.Cause(term.Context()), redislock.ErrLost) {
			log.Print("somebody else may lead by now")
		}
	}
}

// Watch who leads, without taking part.
func ExampleElector_Leaders() {
	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
	if err != nil {
		log.Fatal(err)
	}
	elector, err := client.Elector(redislock.Key("leader", "payments"))
	if err != nil {
		log.Fatal(err)
	}
	for leader, err := range elector.Leaders(context.Background()) {
		switch {
		case errors.Is(err, redislock.ErrClosed):
			return
		case err != nil:
			log.Print("nobody knows who leads: ", err)
		case leader.Held:
			log.Printf("%s leads since %s, with fencing token %d", leader.Name, leader.Since, leader.Fence)
		default:
			log.Print("nobody leads")
		}
	}
}
