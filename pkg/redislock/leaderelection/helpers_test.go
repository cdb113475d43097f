package leaderelection

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
	clientgo "k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const key = "lock:leader:payments"

// patience bounds what happens by itself. A test that passes does not wait for it.
const patience = 60 * time.Second

// Timings that leave a loaded machine time to renew in.
const (
	lease    = 4 * time.Second
	deadline = 3 * time.Second
	retry    = 200 * time.Millisecond
)

func within(t *testing.T) *WithT {
	t.Helper()
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(patience)
	g.SetDefaultEventuallyPollingInterval(5 * time.Millisecond)
	return g
}

func startRedis(t testing.TB, args ...string) *redisserver.Server {
	t.Helper()
	return redisserver.Start(t, redisserver.Options{UnixSocket: true, Args: args})
}

func connect(t testing.TB, url string, change ...func(*redis.Options)) *redis.Client {
	t.Helper()
	singleShot := func(o *redis.Options) { o.MaxRetries = -1 } // what is sent is what we sent
	return redisserver.Connect(t, url, append([]func(*redis.Options){singleShot}, change...)...)
}

func candidate(t testing.TB, rdb redis.UniversalClient, name string, opts ...Option) *Lock {
	t.Helper()
	l, err := New(rdb, key, append([]Option{WithIdentity(name), WithTimings(lease, deadline, retry)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// core is a client of the lock core beside the election.
func core(t testing.TB, rdb redis.UniversalClient) *redislock.Client {
	t.Helper()
	c, err := redislock.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// leads is the record that client-go writes for a candidate.
func leads(l *Lock) resourcelock.LeaderElectionRecord {
	return resourcelock.LeaderElectionRecord{HolderIdentity: l.Identity(), LeaseDurationSeconds: int(l.cfg.leaseDuration / time.Second)}
}

// released is the record with which client-go gives up.
func released() resourcelock.LeaderElectionRecord {
	return resourcelock.LeaderElectionRecord{LeaseDurationSeconds: 1}
}

// A campaign is one run of client-go's elector.
type campaign struct {
	*Lock
	// leave cancels its context; began gets the fencing token of its term; ended is
	// closed when it has stopped leading.
	leave context.CancelFunc
	began chan uint64
	ended chan struct{}
}

func campaigning(t *testing.T, l *Lock, release bool) *campaign {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &campaign{Lock: l, leave: cancel, began: make(chan uint64, 1), ended: make(chan struct{})}
	elector, err := clientgo.NewLeaderElector(clientgo.LeaderElectionConfig{
		Lock:            l,
		LeaseDuration:   l.cfg.leaseDuration,
		RenewDeadline:   l.cfg.renewDeadline,
		RetryPeriod:     l.cfg.retryPeriod,
		ReleaseOnCancel: release,
		Callbacks: clientgo.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { c.began <- l.Fence() },
			OnStoppedLeading: func() { close(c.ended) },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	go elector.Run(ctx)
	t.Cleanup(func() {
		cancel()
		<-c.ended
	})
	return c
}
