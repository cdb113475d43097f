package redisserver

import (
	"testing"

	"github.com/redis/go-redis/v9"
)

// Connect returns a connection to the Redis at a URL, or to what stands before it, that
// ends with the test.
func Connect(tb testing.TB, url string, change ...func(*redis.Options)) *redis.Client {
	tb.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range change {
		f(options)
	}
	rdb := redis.NewClient(options)
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}
