package redislock

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// A migration moves a slot of a Cluster from one of its two nodes to the other.
type migration struct {
	t        *testing.T
	g        *WithT
	cluster  *redis.ClusterClient
	slot     uint16
	from, to *redis.Client
}

// startMigration starts a Cluster in which the slot of key is about to be moved.
func startMigration(t *testing.T, key string) *migration {
	t.Helper()
	nodes := redisserver.StartCluster(t, 2)
	m := &migration{
		t: t, g: within(t), slot: slotOf(key),
		cluster: redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Addr(), nodes[1].Addr()}, ContextTimeoutEnabled: true}),
		from:    connect(t, nodes[0].URL()), to: connect(t, nodes[1].URL()),
	}
	t.Cleanup(func() { _ = m.cluster.Close() })
	primary, err := m.cluster.MasterForKey(t.Context(), key)
	m.g.Expect(err).NotTo(HaveOccurred())
	if primary.Options().Addr != m.from.Options().Addr {
		m.from, m.to = m.to, m.from
	}
	return m
}

func (m *migration) setSlot(node *redis.Client, args ...any) {
	m.t.Helper()
	m.g.Expect(node.Do(m.t.Context(), append([]any{"CLUSTER", "SETSLOT", m.slot}, args...)...).Err()).To(Succeed())
}

func (m *migration) id(node *redis.Client) string {
	return node.Do(m.t.Context(), "CLUSTER", "MYID").Val().(string)
}

func (m *migration) begin() {
	m.t.Helper()
	m.setSlot(m.to, "IMPORTING", m.id(m.from))
	m.setSlot(m.from, "MIGRATING", m.id(m.to))
}

func (m *migration) move(key string) {
	m.t.Helper()
	host, port, err := net.SplitHostPort(m.to.Options().Addr)
	m.g.Expect(err).NotTo(HaveOccurred())
	m.g.Expect(m.from.Migrate(m.t.Context(), host, port, key, 0, 10*time.Second).Val()).To(Equal("OK"))
}

func (m *migration) end() {
	m.t.Helper()
	for _, node := range []*redis.Client{m.to, m.from} {
		m.setSlot(node, "NODE", m.id(m.to))
	}
}

// refusals counts the requests that were told to come back, for their keys stood on both
// nodes.
func (m *migration) refusals() (n int) {
	for _, node := range []*redis.Client{m.from, m.to} {
		var count int
		_, stat, _ := strings.Cut(node.Info(m.t.Context(), "errorstats").Val(), "errorstat_TRYAGAIN:count=")
		_, _ = fmt.Sscan(stat, &count)
		n += count
	}
	return n
}
