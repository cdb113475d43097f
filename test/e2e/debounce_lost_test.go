package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

var _ = Describe("A Debounce whose Redis fails", func() {
	var st *stand
	BeforeEach(func(ctx context.Context) { st = newStand(ctx) }, NodeTimeout(time.Minute))

	callsLost := func(ctx context.Context, d *v1alpha1.Debounce, want metav1.ConditionStatus, sites ...*site) {
		GinkgoHelper()
		for _, s := range sites {
			Eventually(func(g Gomega) {
				status := s.debounceStatus(ctx, g, d)
				g.Expect(meta.IsStatusConditionPresentAndEqual(status.Conditions, string(v1alpha1.ConditionCallsLost), want)).To(BeTrue(), "%v", status.Conditions)
			}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		}
	}
	open := func(ctx context.Context, d *v1alpha1.Debounce, sites ...*site) {
		GinkgoHelper()
		for _, s := range sites {
			Eventually(func(g Gomega) {
				status := s.debounceStatus(ctx, g, d)
				g.Expect(status.State).To(Equal(v1alpha1.StateAcquired))
				g.Expect(status.DueAt).NotTo(BeNil())
			}).WithContext(ctx).Should(Succeed())
		}
	}

	It("says that calls were lost, until later ones were run", func(ctx context.Context) {
		st.run(blue, green)
		d := st.debounce("lost", aJob(), withWait(5*time.Minute))
		createDebounce(ctx, d, blue, green)
		st.call(ctx, d, "lost")
		open(ctx, d, blue, green)
		Expect(st.redis.Kill()).To(Succeed())
		Expect(st.redis.Restart(redisserver.EmptyData)).To(Succeed())
		callsLost(ctx, d, metav1.ConditionTrue, blue, green)
		blue.eventuallyNote(ctx, d, "CallsLost: Redis lost writes that it had acknowledged")
		for _, s := range []*site{blue, green} {
			s.respecify(ctx, d, withWait(time.Second))
		}
		Eventually(func(g Gomega) {
			for _, s := range []*site{blue, green} {
				got := &v1alpha1.Debounce{}
				g.Expect(s.Get(ctx, client.ObjectKeyFromObject(d), got)).To(Succeed())
				g.Expect(got.Status.ObservedGeneration).To(Equal(got.Generation))
			}
		}).WithContext(ctx).Should(Succeed())
		generation := st.call(ctx, d, "again")
		Expect(st.eventuallyRan(ctx, d, generation).Outcome).To(Equal(redislock.DebounceSucceeded))
		callsLost(ctx, d, metav1.ConditionFalse, blue, green)
		Expect(jobsOf(ctx, Default, d, blue, green)).To(HaveLen(1))
	}, SpecTimeout(5*time.Minute))

	It("says so also where no manager was there when they were lost", func(ctx context.Context) {
		st.run(blue)
		d := st.debounce("lost", aJob(), withWait(5*time.Minute))
		createDebounce(ctx, d, blue)
		st.call(ctx, d, "lost")
		open(ctx, d, blue)
		Expect(st.managers[blue].Stop()).To(Succeed())
		Expect(st.redis.Kill()).To(Succeed())
		Expect(st.redis.Restart(redisserver.EmptyData)).To(Succeed())
		Expect(st.managers[blue].Start()).To(Succeed())
		callsLost(ctx, d, metav1.ConditionTrue, blue)
	}, SpecTimeout(4*time.Minute))

	It("keeps calls by annotation until it answers again", func(ctx context.Context) {
		st.run(blue)
		d := st.debounce("away", aJob(), withWait(time.Second))
		createDebounce(ctx, d, blue)
		Expect(st.redis.Kill()).To(Succeed())
		annotate(ctx, blue, d, "meanwhile")
		Eventually(func(g Gomega) {
			g.Expect(debounceReason(blue.debounceStatus(ctx, g, d), v1alpha1.ConditionReady)).To(Equal(v1alpha1.ReasonStoreUnreachable))
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		Expect(st.redis.Start()).To(Succeed())
		Eventually(func(g Gomega) {
			jobs := jobsOf(ctx, g, d, blue)
			g.Expect(jobs).To(HaveLen(1))
			g.Expect(payloadOf(jobs[0])).To(Equal("meanwhile"))
			status := blue.debounceStatus(ctx, g, d)
			g.Expect(debounceReason(status, v1alpha1.ConditionReady)).To(Equal(v1alpha1.ReasonOperational))
			g.Expect(status.LastRun).To(HaveField("Outcome", v1alpha1.RunSucceeded))
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
	}, SpecTimeout(5*time.Minute))
})

var _ = Describe("What a Debounce writes to the API server", func() {
	It("does not grow with its calls, and is nothing at rest", func(ctx context.Context) {
		st := newStand(ctx)
		blue.make(ctx, st.deployment("shop"))
		st.run(blue)
		d := st.debounce("stream", aRestart("shop"), withWait(10*time.Millisecond))
		createDebounce(ctx, d, blue)
		written := func(resource, subresource string) int {
			return len(auditOf(blue, func(e cluster.AuditEvent) bool {
				return e.User == operator.User && e.Namespace == st.namespace && e.Resource == resource && e.Subresource == subresource
			}))
		}
		before, events := written("debounces", "status"), written("events", "")
		debouncer := st.debouncer(d)
		var last redislock.Call
		calls := 0
		began := time.Now()
		for ; time.Since(began) < 30*time.Second; calls++ {
			var err error
			last, err = debouncer.Call(ctx, []byte(time.Now().String()))
			Expect(err).NotTo(HaveOccurred())
			time.Sleep(5 * time.Millisecond)
		}
		took := time.Since(began)
		st.eventuallyRan(ctx, d, last.Generation)
		Eventually(func(g Gomega) {
			status := blue.debounceStatus(ctx, g, d)
			g.Expect(status.State).To(Equal(v1alpha1.StateFree))
			g.Expect(status.LastRun.Generation).To(BeEquivalentTo(last.Generation))
			g.Expect(status.Calls).To(HaveValue(BeEquivalentTo(calls)))
		}).WithContext(ctx).Should(Succeed())
		n := written("debounces", "status") - before
		AddReportEntry("writes", map[string]int{"calls": calls, "status": n, "restarts": written("deployments", ""), "events": written("events", "") - events})
		Expect(n).To(BeNumerically("<=", took.Seconds()+5))
		Expect(n).To(BeNumerically(">", 2))

		Eventually(func(g Gomega) {
			quiet := writes(auditOf(blue, func(cluster.AuditEvent) bool { return true }))
			g.Consistently(func(g Gomega) {
				g.Expect(writes(auditOf(blue, func(cluster.AuditEvent) bool { return true }))).To(HaveLen(len(quiet)))
			}).WithTimeout(15 * time.Second).WithPolling(time.Second).Should(Succeed())
		}).WithContext(ctx).WithTimeout(time.Minute).Should(Succeed())
	}, SpecTimeout(4*time.Minute))
})
