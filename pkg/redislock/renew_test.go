package redislock

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

func TestManyLocksAreRenewedByFewGoroutines(t *testing.T) {
	// Not parallel: it counts goroutines.
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, server.URL()), withClock(clk))
	const lease = 10 * time.Minute
	mustAcquire(t, c, "lock:first", WithLease(lease))
	before := runtime.NumGoroutine()
	locks := make([]*Lock, 1000)
	for i := range locks {
		locks[i] = mustAcquire(t, c, fmt.Sprintf("lock:%d", i), WithLease(lease))
	}
	g.Eventually(runtime.NumGoroutine).Should(BeNumerically("<", before+20))

	shortened := func() (n int) {
		for _, l := range locks {
			if rdb.PTTL(t.Context(), l.Key()).Val() < lease-time.Minute {
				n++
			}
		}
		return n
	}
	pipe := rdb.Pipeline()
	for _, l := range locks {
		pipe.PExpire(t.Context(), l.Key(), lease/2)
	}
	_, err := pipe.Exec(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	clk.pass(lease / 2)
	g.Eventually(shortened).WithPolling(100 * time.Millisecond).Should(BeZero())
	for _, l := range locks {
		g.Expect(l.Err()).NotTo(HaveOccurred())
	}
}

func TestRenewalComesInPipelinesThatAreBounded(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	clk := &bentClock{}
	c := newClient(t, connect(t, p.URL()), withClock(clk))
	for i := range 3 * pipelineLength {
		mustAcquire(t, c, fmt.Sprintf("lock:%d", i), WithLease(10*time.Minute))
	}
	sent := len(p.Requests())
	clk.pass(5 * time.Minute)
	renewal := func(args []string) bool { return len(args) == 6 && proxy.Script()(args) }
	g.Eventually(func() int { return p.Count(renewal) }).Should(BeNumerically(">=", 3*pipelineLength))
	g.Expect(p.Connections()).To(BeNumerically("<=", 1+renewsInFlight))
	g.Expect(len(p.Requests())-sent).To(BeNumerically("<", 7*pipelineLength), "each once, or twice where the script was unknown")
}

func TestRenewalSurvivesAScriptFlush(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	p := proxy.Start(t, server.URL())
	c := dial(t, p.URL())
	var locks []*Lock
	for i := range 10 {
		locks = append(locks, renewOften(t, mustAcquire(t, c, fmt.Sprintf("lock:%d", i), patient())))
	}
	for range 3 {
		g.Expect(rdb.ScriptFlush(t.Context()).Err()).To(Succeed())
		for _, l := range locks {
			g.Expect(rdb.PExpire(t.Context(), l.Key(), 2*time.Minute).Val()).To(BeTrue())
		}
		for _, l := range locks {
			g.Eventually(func() time.Duration { return rdb.PTTL(t.Context(), l.Key()).Val() }).Should(BeNumerically(">", 4*time.Minute))
		}
	}
	for _, l := range locks {
		g.Expect(l.Err()).NotTo(HaveOccurred())
	}
}

func TestALockWithoutRenewalIsNotRenewed(t *testing.T) {
	t.Parallel()
	g := within(t)
	clk := &bentClock{}
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL()), withClock(clk))
	l := mustAcquire(t, c, key, lapsing(10*time.Minute))
	clk.pass(9 * time.Minute)
	g.Consistently(func() int { return p.Count(renewalOf(l)) }, "1500ms").Should(BeZero())
}

func TestAReleasedLockIsNotRenewed(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	l := renewOften(t, mustAcquire(t, dial(t, p.URL()), key, patient()))
	g.Eventually(func() int { return p.Count(renewalOf(l)) }).Should(BeNumerically(">", 1))
	g.Expect(l.Release(t.Context())).To(Succeed())
	sent := p.Count(renewalOf(l))
	g.Consistently(func() int { return p.Count(renewalOf(l)) }, "600ms").Should(BeNumerically("<=", sent+1), "but for one under way")
}

func TestCloseEndsLocksWithoutReleasingThem(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c := dial(t, server.URL())
	l := mustAcquire(t, c, key, patient())
	g.Expect(c.Close(t.Context())).To(Succeed())
	g.Expect(l.Context().Done()).To(BeClosed())
	g.Expect(l.Err()).To(MatchError(ErrClosed))
	g.Expect(l.IsHeld()).To(BeFalse())
	g.Expect(l.Release(t.Context())).To(MatchError(ErrClosed))
	g.Expect(value(t, connect(t, server.URL()), key)).To(Equal(l.Token()))
}

// No operation about a lock takes so long that the time in which a stuck request
// counts, or Close waits for clean-ups, grows with the lease.
func TestOperationsAreBoundedHoweverLongTheLease(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := dial(t, startRedis(t).URL())
	for _, opts := range [][]LockOption{{WithLease(24 * time.Hour), WithFenceRetention(48 * time.Hour)}, {lapsing(time.Hour)}} {
		cfg, err := c.configure(key, opts)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(cfg.operationTimeout()).To(BeNumerically("<=", operationTimeout))
	}
}

// Interleaving 19 in a Cluster: what a stuck node delays is its own.
func TestInterleaving19AStuckNodeOfAClusterDelaysNoLockOfAnother(t *testing.T) {
	t.Parallel()
	g := within(t)
	nodes, cluster := startCluster(t, g, 2)
	clk := &bentClock{}
	c := newClient(t, cluster, withClock(clk))
	const lease = 10 * time.Minute
	onNode := func(n int) string { // a key whose slot lies in a node's half
		for i := 0; ; i++ {
			if k := fmt.Sprintf("lock:%d", i); int(slotOf(k))*2/16384 == n {
				return k
			}
		}
	}
	stuck := mustAcquire(t, c, onNode(1), WithLease(lease))
	healthy := mustAcquire(t, c, onNode(0), WithLease(lease))
	g.Expect(nodes[1].Pause()).To(Succeed())
	for range 4 {
		before := healthy.ValidUntil()
		clk.pass(lease * 45 / 100)
		g.Eventually(healthy.ValidUntil).Should(BeTemporally(">", before.Add(time.Minute)))
	}
	g.Expect(healthy.Err()).NotTo(HaveOccurred())
	g.Eventually(stuck.Context().Done()).Should(BeClosed())
	g.Expect(stuck.Err()).To(MatchError(ErrLost))
	g.Expect(nodes[1].Resume()).To(Succeed())
}

// startCluster starts a Cluster of n primaries that never fail over, with the
// slots spread evenly and in order.
func startCluster(t *testing.T, g *WithT, n int) ([]*redisserver.Server, *redis.ClusterClient) {
	t.Helper()
	nodes := make([]*redisserver.Server, n)
	for i := range nodes {
		nodes[i] = startReachableRedis(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "3600000", "--cluster-require-full-coverage", "no")
		rdb := connect(t, nodes[i].URL())
		g.Expect(rdb.ClusterAddSlotsRange(t.Context(), i*16384/n, (i+1)*16384/n-1).Err()).To(Succeed())
		g.Expect(rdb.Do(t.Context(), "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err()).To(Succeed())
	}
	slots := make([]redis.ClusterSlot, n)
	addrs := make([]string, n)
	for i, node := range nodes {
		addrs[i] = node.Addr()
		slots[i] = redis.ClusterSlot{Start: i * 16384 / n, End: (i+1)*16384/n - 1, Nodes: []redis.ClusterNode{{Addr: node.Addr()}}}
		rdb := connect(t, node.URL())
		g.Eventually(func() string { return rdb.ClusterInfo(t.Context()).Val() }).Should(ContainSubstring("cluster_state:ok"))
	}
	// The nodes need not know one another: the client is told who has what.
	cluster := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs:        addrs,
		ReadTimeout:  10 * time.Minute, // who waits for a stuck node waits for good
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) { return slots, nil },
	})
	t.Cleanup(func() { _ = cluster.Close() })
	return nodes, cluster
}

type observation struct {
	key  string
	took time.Duration
	err  error
}

func observed() (Option, <-chan observation) {
	seen := make(chan observation, 1000)
	return WithObserver(Observer{Renewed: func(key string, took time.Duration, err error) {
		seen <- observation{key, took, err}
	}}), seen
}

func TestAnObserverIsToldOfEachRenewal(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	observer, seen := observed()
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL(), singleShot), observer)
	l := mustAcquire(t, c, key, patient(), WithRenewEvery(2*time.Second))
	l.renewNow()
	var one observation
	g.Eventually(seen).Should(Receive(&one))
	g.Expect(one.key).To(Equal(key))
	g.Expect(one.took).To(BeNumerically(">", 0))
	g.Expect(one.err).NotTo(HaveOccurred())

	// One that is given up on is told of then, and not again when it is heard of.
	stuck := p.HoldReply(renewalOf(l))
	l.renewNow()
	<-stuck.Arrived
	g.Eventually(seen).Should(Receive(&one))
	for one.err == nil { // an earlier one
		g.Eventually(seen).Should(Receive(&one))
	}
	var timeout *wire.TimeoutError
	g.Expect(errors.As(one.err, &timeout)).To(BeTrue(), "%v", one.err)
	g.Expect(one.took).To(BeNumerically(">=", time.Second))
	_, err := stuck.Deliver()
	g.Expect(err).NotTo(HaveOccurred())

	l.renewNow()
	g.Eventually(seen).Should(Receive(&one))
	g.Expect(one.err).NotTo(HaveOccurred())
	g.Expect(rdb.Set(t.Context(), key, "theirs", time.Minute).Err()).To(Succeed())
	l.renewNow()
	for one.err == nil {
		g.Eventually(seen).Should(Receive(&one))
	}
	var lost *LostError
	g.Expect(errors.As(one.err, &lost)).To(BeTrue(), "%v", one.err)
	g.Expect(lost.Found).To(Equal("theirs"))
	g.Consistently(seen, "300ms").ShouldNot(Receive(), "each once")
}

func TestAnObserverMayBeEmpty(t *testing.T) {
	t.Parallel()
	g := within(t)
	clk := &bentClock{}
	c := newClient(t, connect(t, startRedis(t).URL()), withClock(clk), WithObserver(Observer{}))
	l := mustAcquire(t, c, key, WithLease(10*time.Minute))
	before := l.ValidUntil()
	clk.pass(5 * time.Minute)
	g.Eventually(l.ValidUntil).Should(BeTemporally(">", before.Add(time.Minute)))
}
