package redislock_test

import (
	"log"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/redislocktest"
)

// startRedis starts a Redis inside the test. A program has, in its place,
//
//	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
func startRedis() (rdb *redis.Client, stop func()) {
	tb := &exampleTB{}
	rdb = redislocktest.New(tb).Redis(func(o *redis.Options) { o.ContextTimeoutEnabled = true })
	return rdb, tb.end
}

// exampleTB is what an Example has instead of a *testing.T.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (tb *exampleTB) Helper()                           {}
func (tb *exampleTB) Fatalf(format string, args ...any) { log.Panicf(format, args...) }
func (tb *exampleTB) Cleanup(f func())                  { tb.cleanups = append(tb.cleanups, f) }

func (tb *exampleTB) end() {
	for _, cleanup := range slices.Backward(tb.cleanups) {
		cleanup()
	}
}
