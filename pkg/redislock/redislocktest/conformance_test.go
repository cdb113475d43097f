package redislocktest_test

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/redislocktest"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// closing has a connection closed with its test.
func closing(tb testing.TB, rdb redis.UniversalClient) redis.UniversalClient {
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func TestRedisConforms(t *testing.T) {
	t.Parallel()
	server := redisserver.Start(t, redisserver.Options{})
	redislocktest.Conformance(t, func(tb testing.TB) redis.UniversalClient {
		return closing(tb, redis.NewClient(&redis.Options{Addr: server.Addr()}))
	})
}

func TestAClusterConforms(t *testing.T) {
	t.Parallel()
	var addrs []string
	for _, node := range redisserver.StartCluster(t, 3) {
		addrs = append(addrs, node.Addr())
	}
	redislocktest.Conformance(t, func(tb testing.TB) redis.UniversalClient {
		return closing(tb, redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs}))
	})
}

func TestAPrimaryUnderSentinelConforms(t *testing.T) {
	t.Parallel()
	primary := redisserver.Start(t, redisserver.Options{})
	sentinel := redisserver.StartSentinel(t, "locks", primary)
	redislocktest.Conformance(t, func(tb testing.TB) redis.UniversalClient {
		return closing(tb, redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "locks", SentinelAddrs: []string{sentinel.Addr()}}))
	})
}

func TestTheRedisInsideTheTestConforms(t *testing.T) {
	t.Parallel()
	server := redislocktest.New(t)
	redislocktest.Conformance(t, func(testing.TB) redis.UniversalClient { return server.Redis() })
}
