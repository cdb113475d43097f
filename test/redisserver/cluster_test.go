package redisserver_test

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

func TestAClusterSharesTheSlots(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	nodes := redisserver.StartCluster(t, 3)
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Addr()}})
	t.Cleanup(func() { _ = rdb.Close() })
	for i := range 50 {
		g.Expect(rdb.Set(t.Context(), fmt.Sprint("key", i), "x", time.Minute).Err()).To(Succeed())
	}
	for _, node := range nodes {
		one := redis.NewClient(&redis.Options{Addr: node.Addr()})
		t.Cleanup(func() { _ = one.Close() })
		g.Expect(one.DBSize(t.Context()).Val()).To(BeNumerically(">", 0), "%s has none of the keys", node.Addr())
	}
}

func TestASentinelKnowsItsPrimary(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	primary := redisserver.Start(t, redisserver.Options{})
	sentinel := redisserver.StartSentinel(t, "main", primary)
	rdb := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{sentinel.Addr()}})
	t.Cleanup(func() { _ = rdb.Close() })
	g.Expect(rdb.Set(t.Context(), "key", "x", time.Minute).Err()).To(Succeed())
	direct := redis.NewClient(&redis.Options{Addr: primary.Addr()})
	t.Cleanup(func() { _ = direct.Close() })
	g.Expect(direct.Get(t.Context(), "key").Val()).To(Equal("x"))
}
