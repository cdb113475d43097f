package redisserver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/ports"
)

// slotCount is the number of hash slots of any Redis Cluster.
const slotCount = 16384

// StartCluster starts a Redis Cluster of n primaries that ends with the test. They
// know one another, have the slots in order in shares of one size, and never fail
// over. It returns when each of them serves.
func StartCluster(tb testing.TB, n int) []*Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	must := func(err error, what string) {
		tb.Helper()
		if err != nil {
			tb.Fatalf("start a Redis Cluster: %s: %v", what, err)
		}
	}
	nodes, buses, clients := make([]*Server, n), make([]*ports.Port, n), make([]*redis.Client, n)
	for i := range nodes {
		bus, err := ports.Reserve()
		must(err, "reserve a port")
		tb.Cleanup(bus.Release)
		buses[i] = bus
		nodes[i] = Start(tb, Options{Args: []string{
			"--cluster-enabled", "yes", "--cluster-port", bus.String(),
			"--cluster-node-timeout", "3600000",
		}})
		clients[i] = redis.NewClient(&redis.Options{Addr: nodes[i].Addr()})
		defer func() { _ = clients[i].Close() }()
		must(clients[i].ClusterAddSlotsRange(ctx, i*slotCount/n, (i+1)*slotCount/n-1).Err(), "share the slots")
		must(clients[i].Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(), "tell the nodes apart")
	}
	for i, node := range nodes[1:] {
		must(clients[0].Do(ctx, "CLUSTER", "MEET", "127.0.0.1", node.portNumber(), buses[i+1].Number()).Err(), "introduce the nodes")
	}
	for i := range clients {
		for {
			info, err := clients[i].ClusterInfo(ctx).Result()
			must(err, "ask a node")
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_slots_ok:%d", slotCount)) &&
				strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n)) {
				break
			}
			select {
			case <-ctx.Done():
				tb.Fatalf("start a Redis Cluster: %v; %s says:\n%s", ctx.Err(), nodes[i].Addr(), info)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nodes
}
