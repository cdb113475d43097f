package leaderelection

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// A register is a resource that checks fencing tokens, and by which it can be seen
// whether two lead at a time.
type register struct {
	mu      sync.Mutex
	highest uint64
	refused int
	writes  map[string]int // by name, since forget
}

func (r *register) write(name string, fence uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if fence < r.highest {
		r.refused++
		return
	}
	if fence > r.highest {
		r.highest, r.writes = fence, map[string]int{}
	}
	r.writes[name]++
}

// state returns who writes with the highest token, that token, and how many writes
// with a lower one were refused.
func (r *register) state() (writers []string, fence uint64, refused int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.writes {
		writers = append(writers, name)
	}
	return writers, r.highest, r.refused
}

// A replica is a manager of one cluster, whose leader writes to the register.
type replica struct {
	leave context.CancelFunc
	ended chan error
}

// manage runs a manager with the election's lock. Its API server does not exist: what
// elects is Redis alone.
func manage(t *testing.T, l *Lock, r *register, release bool) *replica {
	t.Helper()
	mgr, err := ctrl.NewManager(&rest.Config{Host: "https://" + l.Identity() + ".invalid"}, manager.Options{
		Logger:                              logr.Discard(),
		Metrics:                             metricsserver.Options{BindAddress: "0"},
		LeaderElection:                      true,
		LeaderElectionResourceLockInterface: l,
		LeaderElectionReleaseOnCancel:       release,
		LeaseDuration:                       new(l.cfg.leaseDuration),
		RenewDeadline:                       new(l.cfg.renewDeadline),
		RetryPeriod:                         new(l.cfg.retryPeriod),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		fence := l.Fence()
		for tick := time.Tick(2 * time.Millisecond); ctx.Err() == nil; <-tick {
			r.write(l.Identity(), fence)
		}
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m := &replica{leave: cancel, ended: make(chan error, 1)}
	go func() {
		m.ended <- mgr.Start(ctx)
		close(m.ended)
	}()
	t.Cleanup(func() {
		cancel()
		for range m.ended { // until it has
		}
	})
	return m
}

// Two clusters, one Redis: the managers have nothing else in common.
func TestManagersOfTwoClustersElectOneLeader(t *testing.T) {
	t.Parallel()
	g := within(t)
	url := startRedis(t).URL()
	r := &register{}
	writers := func() []string { w, _, _ := r.state(); return w }

	blue := manage(t, candidate(t, connect(t, url), "blue"), r, true)
	g.Eventually(writers).Should(ConsistOf("blue"))
	_, first, _ := r.state()
	green := manage(t, candidate(t, connect(t, url), "green"), r, false)

	blue.leave() // and releases
	g.Eventually(writers).Should(ConsistOf("green"))
	_, second, refused := r.state()
	g.Expect(second).To(BeNumerically(">", first))
	g.Expect(refused).To(BeZero(), "blue had stopped before green began")
	g.Eventually(blue.ended).Should(Receive(Succeed()))

	third := manage(t, candidate(t, connect(t, url), "blue-2"), r, true)
	green.leave() // and dies, as far as the others can see
	g.Eventually(green.ended).Should(Receive())
	g.Eventually(writers).Should(ConsistOf("blue-2"))
	_, highest, refused := r.state()
	g.Expect(highest).To(BeNumerically(">", second))
	g.Expect(refused).To(BeZero())
	third.leave()
}

func TestAManagerEndsWhenRedisIsAwayAndAnotherLeads(t *testing.T) {
	t.Parallel()
	g := within(t)
	p, slow, direct := proxied(t)
	unhurried := WithTimings(12*time.Second, deadline, retry) // blue stops long before its lease ends
	r := &register{}
	writers := func() []string { w, _, _ := r.state(); return w }
	blue := manage(t, candidate(t, slow, "blue", unhurried), r, true)
	g.Eventually(writers).Should(ConsistOf("blue"))
	manage(t, candidate(t, direct, "green", unhurried), r, true)

	p.Partition() // blue alone is cut off
	var err error
	g.Eventually(blue.ended).Should(Receive(&err))
	g.Expect(err).To(MatchError("leader election lost"))
	g.Eventually(writers).Should(ConsistOf("green"))
	_, _, refused := r.state()
	g.Expect(refused).To(BeZero(), "green led only after blue had stopped")
}
