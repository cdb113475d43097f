package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// slack is what a takeover may take beyond the end of the lease.
const slack = 2 * time.Second

var _ = Describe("Two clusters and one Redis", func() {
	var st *stand
	BeforeEach(func(ctx context.Context) { st = newStand(ctx) }, NodeTimeout(time.Minute))

	It("has exactly one cluster hold a lock, and another take over when the holder's manager is killed", func(ctx context.Context) {
		lease, delay := 5*time.Second, time.Second
		lock := st.lock("leader", withLease(lease), withLockDelay(delay))
		create(ctx, lock, blue, green)
		st.run(blue, green)
		holder, before, _ := eventuallyOneHolds(ctx, lock, blue, green)
		Expect(before.Key).To(Equal("lock:" + st.namespace + ":leader"))
		Expect(before.Holder.Cluster).To(Equal(holder.name))
		Expect(before.AcquiredAt).NotTo(BeNil())
		Expect(*before.Transitions).To(BeEquivalentTo(1))
		Expect(reason(before, v1alpha1.ConditionReady)).To(Equal(v1alpha1.ReasonOperational))
		// A category of that name would make it mean several kinds.
		Expect(holder.Kubectl(ctx, "get", "redislock", lock.Name, "-n", lock.Namespace)).To(ContainSubstring("ACQUIRED"))

		By("killing the holder's manager")
		Expect(st.managers[holder].Kill()).To(Succeed())
		killed := time.Now()
		next := other(holder)
		Eventually(func(g Gomega) {
			after := next.status(ctx, g, lock)
			g.Expect(after.State).To(Equal(v1alpha1.StateAcquired))
			g.Expect(after.FencingToken).To(BeNumerically(">", before.FencingToken))
			g.Expect(after.History).To(HaveLen(2))
			g.Expect(after.History[0].Cluster).To(Equal(next.name))
			g.Expect(after.History[1].Cluster).To(Equal(holder.name))
		}).WithContext(ctx).WithTimeout(lease + delay + slack).Should(Succeed())
		AddReportEntry("takeover after", time.Since(killed).Round(time.Millisecond).String())

		By("bringing the first manager back")
		Expect(st.managers[holder].Start()).To(Succeed())
		again, _, _ := eventuallyOneHolds(ctx, lock, blue, green)
		Expect(again).To(Equal(next))
	}, SpecTimeout(3*time.Minute))

	DescribeTable("keeps the lock in its cluster when the manager is restarted",
		func(ctx context.Context, end func(*operator.Manager) error, quiet bool) {
			lock := st.lock("kept", withLease(30*time.Second))
			create(ctx, lock, blue, green)
			st.run(blue, green)
			holder, before, _ := eventuallyOneHolds(ctx, lock, blue, green)

			Expect(end(st.managers[holder])).To(Succeed())
			Expect(st.managers[holder].Start()).To(Succeed())
			Eventually(func(g Gomega) {
				metrics, err := st.managers[holder].Metrics(ctx)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(metrics).To(ContainSubstring(`redislock_held{name="kept",namespace="` + st.namespace + `"} 1`))
			}).WithContext(ctx).Should(Succeed())

			Consistently(func(g Gomega) {
				after := holder.status(ctx, g, lock)
				g.Expect(after.State).To(Equal(v1alpha1.StateAcquired))
				g.Expect(after.FencingToken).To(Equal(before.FencingToken))
				g.Expect(*after.Transitions).To(Equal(*before.Transitions))
				elsewhere := other(holder).status(ctx, g, lock)
				g.Expect(elsewhere.State).To(Equal(v1alpha1.StateFree))
				g.Expect(*elsewhere.Transitions).To(BeZero())
			}).WithContext(ctx).WithTimeout(5 * time.Second).Should(Succeed())

			// After a crash the process before may be alive, after a clean stop not.
			isQuiet := ContainSubstring("nothing new starts under it before")
			if !quiet {
				isQuiet = Not(isQuiet)
			}
			Expect(message(holder.status(ctx, Default, lock), v1alpha1.ConditionAcquired)).To(isQuiet)
		},
		Entry("by SIGTERM", (*operator.Manager).Stop, false, SpecTimeout(3*time.Minute)),
		Entry("by SIGKILL", (*operator.Manager).Kill, true, SpecTimeout(3*time.Minute)),
	)

	It("has a second manager of the cluster take over when the first is killed", func(ctx context.Context) {
		lock := st.lock("replicas", withLease(30*time.Second))
		create(ctx, lock, blue)
		st.run(blue)
		_, before, _ := eventuallyOneHolds(ctx, lock, blue)
		second := st.manager(blue, operator.Options{Name: "blue-2"})
		Expect(second.Start()).To(Succeed())
		Eventually(second.Ready).WithContext(ctx).Should(Succeed())

		Expect(st.managers[blue].Kill()).To(Succeed())
		Eventually(func(g Gomega) {
			metrics, err := second.Metrics(ctx)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(metrics).To(ContainSubstring(`redislock_held{name="replicas",namespace="` + st.namespace + `"} 1`))
		}).WithContext(ctx).WithTimeout(20 * time.Second).Should(Succeed())
		// What it has found out is in its metrics before it is in the status.
		Eventually(func(g Gomega) {
			after := blue.status(ctx, g, lock)
			g.Expect(message(after, v1alpha1.ConditionAcquired)).To(ContainSubstring("nothing new starts under it before"))
			g.Expect(after.FencingToken).To(Equal(before.FencingToken))
			g.Expect(*after.Transitions).To(Equal(*before.Transitions))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(3*time.Minute))

	It("has a manager that was stopped for longer than its lease do nothing when it goes on", func(ctx context.Context) {
		lease := 5 * time.Second
		lock := st.lock("frozen", withLease(lease))
		create(ctx, lock, blue, green)
		st.run(blue, green)
		holder, before, others := eventuallyOneHolds(ctx, lock, blue, green)
		supervise(ctx, st.managers[holder])

		Expect(st.managers[holder].Pause(ctx)).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(others[0].status(ctx, g, lock).State).To(Equal(v1alpha1.StateAcquired))
		}).WithContext(ctx).WithTimeout(lease + slack).Should(Succeed())
		Expect(st.managers[holder].Resume()).To(Succeed())

		again, after, _ := eventuallyOneHolds(ctx, lock, blue, green)
		Expect(again).To(Equal(others[0]))
		Expect(after.FencingToken).To(BeNumerically(">", before.FencingToken))
		Expect(*after.Transitions).To(BeEquivalentTo(1))
	}, SpecTimeout(2*time.Minute))

	It("shows FREE everywhere while Redis is away, and quarantines a Redis that comes back empty", func(ctx context.Context) {
		lease := 5 * time.Second
		lock := st.lock("amnesia", withLease(lease))
		create(ctx, lock, blue, green)
		st.run(blue, green)
		_, before, _ := eventuallyOneHolds(ctx, lock, blue, green)

		By("killing Redis")
		Expect(st.redis.Kill()).To(Succeed())
		Eventually(func(g Gomega) {
			for _, s := range []*site{blue, green} {
				status := s.status(ctx, g, lock)
				g.Expect(status.State).To(Equal(v1alpha1.StateFree))
				g.Expect(reason(status, v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonStoreUnreachable))
				g.Expect(reason(status, v1alpha1.ConditionReady)).To(Equal(v1alpha1.ReasonStoreUnreachable))
			}
		}).WithContext(ctx).WithTimeout(lease + 15*time.Second).Should(Succeed())

		By("starting it without its data")
		Expect(st.redis.Empty()).To(Succeed())
		Expect(st.redis.Start()).To(Succeed())
		Eventually(func(g Gomega) {
			for _, s := range []*site{blue, green} {
				g.Expect(reason(s.status(ctx, g, lock), v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonQuarantined))
			}
		}).WithContext(ctx).WithPolling(20 * time.Millisecond).Should(Succeed())
		_, after, _ := eventuallyOneHolds(ctx, lock, blue, green)
		Expect(after.FencingToken).To(BeNumerically(">", before.FencingToken))
	}, SpecTimeout(3*time.Minute))

	It("knows from its status that Redis forgot, though no process remembers", func(ctx context.Context) {
		lock := st.lock("remembered")
		create(ctx, lock, blue)
		st.run(blue)
		_, before, _ := eventuallyOneHolds(ctx, lock, blue)
		Expect(st.managers[blue].Kill()).To(Succeed())
		Expect(st.redis.Restart(redisserver.EmptyData)).To(Succeed())
		Expect(st.managers[blue].Start()).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(reason(blue.status(ctx, g, lock), v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonQuarantined))
		}).WithContext(ctx).WithPolling(20 * time.Millisecond).Should(Succeed())
		_, after, _ := eventuallyOneHolds(ctx, lock, blue)
		Expect(after.FencingToken).To(BeNumerically(">", before.FencingToken))
	}, SpecTimeout(2*time.Minute))

	It("puts right a status that does not fit, as after a write that the cache did not show yet", func(ctx context.Context) {
		lock := st.lock("meddled", withLease(30*time.Second))
		create(ctx, lock, blue)
		st.run(blue)
		_, before, _ := eventuallyOneHolds(ctx, lock, blue)
		wrong, err := blue.show(ctx, lock)
		Expect(err).NotTo(HaveOccurred())
		wrong.Status.State, wrong.Status.Holder = v1alpha1.StateFree, nil
		Expect(blue.Status().Update(ctx, wrong)).To(Succeed())
		_, after, _ := eventuallyOneHolds(ctx, lock, blue)
		Expect(after.FencingToken).To(Equal(before.FencingToken))
	}, SpecTimeout(time.Minute))

	It("gives a lock back where spec.paused names the cluster, and has another take it", func(ctx context.Context) {
		lock := st.lock("drained", withLease(time.Minute)) // longer than the spec waits: only a release helps
		create(ctx, lock, blue, green)
		st.run(blue, green)
		holder, before, others := eventuallyOneHolds(ctx, lock, blue, green)
		pause := func(l *v1alpha1.RedisLock) { l.Spec.Paused = []string{holder.name} }
		for _, s := range []*site{blue, green} {
			s.modify(ctx, lock, pause)
		}
		Eventually(func(g Gomega) {
			here, there := holder.status(ctx, g, lock), others[0].status(ctx, g, lock)
			g.Expect(here.State).To(Equal(v1alpha1.StateFree))
			g.Expect(reason(here, v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonPaused))
			g.Expect(there.State).To(Equal(v1alpha1.StateAcquired))
			g.Expect(there.FencingToken).To(BeNumerically(">", before.FencingToken))
		}).WithContext(ctx).WithTimeout(20 * time.Second).Should(Succeed())

		By("resuming: the lock stays where it is")
		for _, s := range []*site{blue, green} {
			s.modify(ctx, lock, func(l *v1alpha1.RedisLock) { l.Spec.Paused = nil })
		}
		again, _, _ := eventuallyOneHolds(ctx, lock, blue, green)
		Expect(again).To(Equal(others[0]))
	}, SpecTimeout(3*time.Minute))

	It("lets another cluster have the lock when the RedisLock is deleted", func(ctx context.Context) {
		lock := st.lock("deleted", withLease(time.Minute))
		create(ctx, lock, blue, green)
		st.run(blue, green)
		holder, _, others := eventuallyOneHolds(ctx, lock, blue, green)
		Expect(holder.Delete(ctx, lock.DeepCopy())).To(Succeed())
		Eventually(func() bool { return holder.gone(ctx, lock) }).WithContext(ctx).WithTimeout(10 * time.Second).Should(BeTrue())
		eventuallyOneHolds(ctx, lock, others...)
	}, SpecTimeout(2*time.Minute))

	It("deletes a RedisLock within one lease though Redis is down", func(ctx context.Context) {
		lease := 6 * time.Second
		lock := st.lock("stuck", withLease(lease))
		create(ctx, lock, blue)
		st.run(blue)
		eventuallyOneHolds(ctx, lock, blue)
		Expect(st.redis.Kill()).To(Succeed())
		Expect(blue.Delete(ctx, lock.DeepCopy())).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(reason(blue.status(ctx, g, lock), v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonDeleting))
		}).WithContext(ctx).WithTimeout(lease).Should(Succeed())
		Eventually(func() bool { return blue.gone(ctx, lock) }).WithContext(ctx).WithTimeout(lease + slack).Should(BeTrue())
	}, SpecTimeout(2*time.Minute))

	It("keeps the lock where it is while the holder's API server restarts", func(ctx context.Context) {
		lock := st.lock("control-plane", withLease(30*time.Second))
		create(ctx, lock, blue, green)
		st.run(blue, green)
		holder, before, others := eventuallyOneHolds(ctx, lock, blue, green)
		// A Deployment starts a manager anew that lost its leadership and ended.
		supervise(ctx, st.managers[holder])

		Expect(holder.APIServer.Kill(ctx)).To(Succeed())
		Expect(holder.APIServer.Start(ctx)).To(Succeed())
		Eventually(func(g Gomega) {
			after := holder.status(ctx, g, lock)
			g.Expect(after.FencingToken).To(Equal(before.FencingToken))
		}).WithContext(ctx).Should(Succeed())
		Consistently(func(g Gomega) {
			elsewhere := others[0].status(ctx, g, lock)
			g.Expect(elsewhere.State).To(Equal(v1alpha1.StateFree))
			g.Expect(elsewhere.FencingToken).To(Equal(before.FencingToken))
		}).WithContext(ctx).WithTimeout(35 * time.Second).Should(Succeed())
		after := holder.status(ctx, Default, lock)
		Expect(after.State).To(Equal(v1alpha1.StateAcquired))
		Expect(*after.Transitions).To(Equal(*before.Transitions))
	}, SpecTimeout(4*time.Minute))

	It("keeps a lock and its fencing token when its lease is changed", func(ctx context.Context) {
		lock := st.lock("changed", withLease(30*time.Second))
		create(ctx, lock, blue, green)
		st.run(blue, green)
		holder, before, others := eventuallyOneHolds(ctx, lock, blue, green)
		holder.modify(ctx, lock, func(l *v1alpha1.RedisLock) { withLease(20 * time.Second)(&l.Spec) })
		Eventually(func(g Gomega) {
			after := holder.status(ctx, g, lock)
			g.Expect(after.ObservedGeneration).To(BeNumerically(">", before.ObservedGeneration))
			g.Expect(after.State).To(Equal(v1alpha1.StateAcquired))
			g.Expect(after.FencingToken).To(Equal(before.FencingToken))
			g.Expect(*after.Transitions).To(Equal(*before.Transitions))
			// The other cluster still has the old lease, and says so.
			g.Expect(reason(others[0].status(ctx, g, lock), v1alpha1.ConditionSpecDiffers)).To(Equal(v1alpha1.ReasonSpecsDiffer))
		}).WithContext(ctx).Should(Succeed())
		others[0].modify(ctx, lock, func(l *v1alpha1.RedisLock) { withLease(20 * time.Second)(&l.Spec) })
		Eventually(func(g Gomega) {
			g.Expect(reason(others[0].status(ctx, g, lock), v1alpha1.ConditionSpecDiffers)).To(Equal(v1alpha1.ReasonSpecsAgree))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(2*time.Minute))

	It("has the older of two clones of a cluster step down at its next renewal", func(ctx context.Context) {
		lease := 30 * time.Second
		lock := st.lock("cloned", withLease(lease))
		create(ctx, lock, blue)
		st.run(blue)
		_, before, _ := eventuallyOneHolds(ctx, lock, blue)

		copied, err := blue.Clone(ctx, cluster.Options{Name: "blue-clone", Log: GinkgoWriter})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(copied.Stop)
		clone := newSite("blue", copied)
		var original, twin corev1.Namespace
		Expect(blue.Get(ctx, client.ObjectKey{Name: "kube-system"}, &original)).To(Succeed())
		Expect(clone.Get(ctx, client.ObjectKey{Name: "kube-system"}, &twin)).To(Succeed())
		Expect(twin.UID).To(Equal(original.UID))

		second := st.manager(clone, operator.Options{Name: "blue-clone"})
		Expect(second.Start()).To(Succeed())
		Eventually(func(g Gomega) {
			metrics, err := second.Metrics(ctx)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(metrics).To(ContainSubstring(`redislock_held{name="cloned",namespace="` + st.namespace + `"} 1`))
		}).WithContext(ctx).Should(Succeed())
		adopted := time.Now()
		Eventually(func(g Gomega) {
			status := blue.status(ctx, g, lock)
			g.Expect(status.State).To(Equal(v1alpha1.StateFree))
			g.Expect(reason(status, v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonDuplicateIdentity))
			g.Expect(reason(status, v1alpha1.ConditionReady)).To(Equal(v1alpha1.ReasonDuplicateIdentity))
		}).WithContext(ctx).WithTimeout(lease/3*11/10 + slack).Should(Succeed())
		AddReportEntry("both held for at most", time.Since(adopted).Round(time.Millisecond).String())

		// It does not swap back.
		Consistently(func(g Gomega) {
			g.Expect(clone.status(ctx, g, lock).State).To(Equal(v1alpha1.StateAcquired))
			g.Expect(clone.status(ctx, g, lock).FencingToken).To(Equal(before.FencingToken))
			g.Expect(blue.status(ctx, g, lock).State).To(Equal(v1alpha1.StateFree))
		}).WithContext(ctx).WithTimeout(15 * time.Second).Should(Succeed())
	}, SpecTimeout(4*time.Minute))

	It("leaves alone a key that another program holds, and never makes a deleted one anew by renewing", func(ctx context.Context) {
		lock := st.lock("foreign")
		rdb := st.client()
		Expect(rdb.Set(ctx, "lock:"+st.namespace+":foreign", "somebody-else", 0).Err()).To(Succeed())
		create(ctx, lock, blue)
		st.run(blue)
		Eventually(func(g Gomega) {
			status := blue.status(ctx, g, lock)
			g.Expect(reason(status, v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonHeldElsewhere))
			g.Expect(status.Holder).NotTo(BeNil())
			g.Expect(status.Holder.Cluster).To(BeEmpty())
			g.Expect(status.Holder.TokenHash).NotTo(BeEmpty())
			g.Expect(status.Holder.TokenHash).NotTo(ContainSubstring("somebody"))
		}).WithContext(ctx).Should(Succeed())
		Expect(rdb.Del(ctx, "lock:"+st.namespace+":foreign").Err()).To(Succeed())
		eventuallyOneHolds(ctx, lock, blue)

		By("deleting the key under the holder: noticed at the next renewal, and never made again by it")
		_, before, _ := eventuallyOneHolds(ctx, lock, blue)
		Expect(rdb.Del(ctx, "lock:"+st.namespace+":foreign").Err()).To(Succeed())
		Eventually(func(g Gomega) {
			after := blue.status(ctx, g, lock)
			g.Expect(after.State).To(Equal(v1alpha1.StateAcquired))
			g.Expect(after.FencingToken).To(BeNumerically(">", before.FencingToken))
			g.Expect(*after.Transitions).To(Equal(*before.Transitions + 2))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(2*time.Minute))

	It("works for a trial without any Redis", func(ctx context.Context) {
		lock := st.lock("trial")
		create(ctx, lock, blue)
		m := st.manager(blue, operator.Options{Config: "stores: []\n", Args: []string{"--dev"}})
		Expect(m.Start()).To(Succeed())
		eventuallyOneHolds(ctx, lock, blue)
		Expect(m.Tail()).To(ContainSubstring("FOR TRIAL ONLY"))
	}, SpecTimeout(time.Minute))
})

var _ = Describe("A hundred held locks at rest", func() {
	It("cost the API server nothing but the manager's own Lease", func(ctx context.Context) {
		st := newStand(ctx)
		for i := range 100 {
			create(ctx, st.lock("rest-"+string(rune('a'+i/26))+string(rune('a'+i%26))), blue)
		}
		st.run(blue)
		Eventually(func(g Gomega) {
			var locks v1alpha1.RedisLockList
			g.Expect(blue.List(ctx, &locks, client.InNamespace(st.namespace))).To(Succeed())
			g.Expect(locks.Items).To(HaveLen(100))
			for _, lock := range locks.Items {
				g.Expect(lock.Status.State).To(Equal(v1alpha1.StateAcquired))
				g.Expect(reason(lock.Status, v1alpha1.ConditionStoreSafe)).NotTo(Equal(v1alpha1.ReasonStoreUnverified))
			}
		}).WithContext(ctx).Should(Succeed())
		// Events are sent in the background; let the last of them go out.
		var quiet []cluster.AuditEvent
		Eventually(func(g Gomega) {
			before, err := blue.Audit()
			g.Expect(err).NotTo(HaveOccurred())
			quiet = writes(before)
			g.Consistently(func(g Gomega) {
				after, err := blue.Audit()
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(writes(after)).To(HaveLen(len(quiet)))
			}).WithTimeout(2 * time.Second).Should(Succeed())
		}).WithContext(ctx).Should(Succeed())

		renewals := renewalCommands(ctx, st)
		Consistently(func(g Gomega) {
			after, err := blue.Audit()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(writes(after)).To(HaveLen(len(quiet)))
		}).WithContext(ctx).WithTimeout(time.Minute).WithPolling(5 * time.Second).Should(Succeed())
		renewed := renewalCommands(ctx, st) - renewals
		AddReportEntry("renewals in that minute", renewed)
		Expect(renewed).To(BeNumerically(">", 100*60/5)) // the leases were really kept
	}, SpecTimeout(4*time.Minute))
})

// writes are the manager's, its own Lease excepted.
func writes(events []cluster.AuditEvent) []cluster.AuditEvent {
	var list []cluster.AuditEvent
	for _, e := range events {
		if e.User == operator.User && e.Resource != "leases" {
			list = append(list, e)
		}
	}
	return list
}

// supervise starts a manager again when it ends, as a Deployment does, until the
// spec is over.
func supervise(ctx context.Context, m *operator.Manager) {
	go func() {
		defer GinkgoRecover()
		for ctx.Err() == nil {
			if !m.Running() {
				_ = m.Start()
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
}
