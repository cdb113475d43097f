package e2e

import (
	"context"
	"strconv"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/cluster"
)

// debouncer calls a Debounce from a program of its own.
func (st *stand) debouncer(d *v1alpha1.Debounce) *redislock.Debouncer {
	GinkgoHelper()
	debouncer, err := st.locks().Debouncer("debounce:"+d.Namespace+":"+d.Name, redislock.Debounce{})
	Expect(err).NotTo(HaveOccurred())
	return debouncer
}

// call records a call and returns its generation.
func (st *stand) call(ctx context.Context, d *v1alpha1.Debounce, payload string) uint64 {
	GinkgoHelper()
	call, err := st.debouncer(d).Call(ctx, []byte(payload))
	Expect(err).NotTo(HaveOccurred())
	return call.Generation
}

// eventuallyRan waits until a generation has ended, and returns what Redis knows of it.
func (st *stand) eventuallyRan(ctx context.Context, d *v1alpha1.Debounce, generation uint64) redislock.EndedDebounce {
	GinkgoHelper()
	var ended redislock.EndedDebounce
	debouncer := st.debouncer(d)
	Eventually(func(g Gomega) {
		state, err := debouncer.State(ctx)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(state.LastRun).To(HaveField("Generation", generation))
		ended = *state.LastRun
	}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
	return ended
}

// jobOfRun is the one Job of a generation, in whichever cluster.
func jobOfRun(ctx context.Context, g Gomega, d *v1alpha1.Debounce, generation uint64) batchv1.Job {
	var found []batchv1.Job
	for _, job := range jobsOf(ctx, g, d, blue, green) {
		if job.Labels[v1alpha1.GenerationLabel] == strconv.FormatUint(generation, 10) {
			found = append(found, job)
		}
	}
	g.Expect(found).To(HaveLen(1), "Jobs of generation %d", generation)
	return found[0]
}

// aJobOf is an action that creates a Job whose pod runs for a time.
func aJobOf(d time.Duration) v1alpha1.DebounceAction {
	action := aJob()
	action.Job.Template.Spec.Template.Annotations = map[string]string{cluster.RunForAnnotation: d.String()}
	return action
}

func payloadOf(job batchv1.Job) string {
	for _, e := range job.Spec.Template.Spec.Containers[0].Env {
		if e.Name == v1alpha1.DebouncePayloadEnv {
			return e.Value
		}
	}
	return ""
}

// change changes a Debounce's spec in a cluster.
func (s *site) respecify(ctx context.Context, d *v1alpha1.Debounce, change func(*v1alpha1.DebounceSpec)) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		got := &v1alpha1.Debounce{}
		g.Expect(s.Get(ctx, client.ObjectKeyFromObject(d), got)).To(Succeed())
		change(&got.Spec)
		g.Expect(s.Update(ctx, got)).To(Succeed())
	}).WithContext(ctx).Should(Succeed())
}

func withEdge(edge v1alpha1.DebounceEdge) func(*v1alpha1.DebounceSpec) {
	return func(spec *v1alpha1.DebounceSpec) { spec.Edge = edge }
}

var _ = Describe("The runs of a Debounce", func() {
	var st *stand
	BeforeEach(func(ctx context.Context) { st = newStand(ctx) }, NodeTimeout(time.Minute))

	It("begin at the leading edge, with which all calls of the window are done", func(ctx context.Context) {
		st.run(blue, green)
		d := st.debounce("leading", aJob(), withWait(20*time.Second), withEdge(v1alpha1.EdgeLeading))
		createDebounce(ctx, d, blue, green)
		first := st.call(ctx, d, "one")
		Expect(st.eventuallyRan(ctx, d, first).Outcome).To(Equal(redislock.DebounceSucceeded))
		Expect(st.call(ctx, d, "two")).To(Equal(first))
		Expect(payloadOf(jobOfRun(ctx, Default, d, first))).To(Equal("one"))
	}, SpecTimeout(3*time.Minute))

	It("are at both edges, and keep their distance", func(ctx context.Context) {
		st.run(blue, green)
		const distance = 6 * time.Second
		d := st.debounce("both", aJob(), withWait(2*time.Second), withEdge(v1alpha1.EdgeBoth), func(spec *v1alpha1.DebounceSpec) {
			spec.MinInterval = &metav1.Duration{Duration: distance}
			spec.Payload = v1alpha1.PayloadFirst
		})
		createDebounce(ctx, d, blue, green)
		first := st.call(ctx, d, "one")
		one := st.eventuallyRan(ctx, d, first)
		second := st.call(ctx, d, "two")
		Expect(second).To(BeNumerically(">", first))
		Expect(st.call(ctx, d, "three")).To(Equal(second))
		two := st.eventuallyRan(ctx, d, second)
		Expect(two.Started.Sub(one.Started)).To(BeNumerically(">=", distance))
		Expect(two.Calls).To(Equal(2))
		Expect(payloadOf(jobOfRun(ctx, Default, d, second))).To(Equal("two"))
	}, SpecTimeout(3*time.Minute))

	It("wait while it is suspended, for the cluster that goes on first", func(ctx context.Context) {
		st.run(blue, green)
		d := st.debounce("suspended", aJob(), withWait(100*time.Millisecond), func(spec *v1alpha1.DebounceSpec) { spec.Suspend = new(true) })
		for _, s := range []*site{blue, green} {
			s.make(ctx, d.DeepCopy())
			Eventually(func(g Gomega) {
				g.Expect(debounceReason(s.debounceStatus(ctx, g, d), v1alpha1.ConditionReady)).To(Equal(v1alpha1.ReasonSuspended))
			}).WithContext(ctx).Should(Succeed())
		}
		generation := st.call(ctx, d, "one")
		annotate(ctx, blue, d, "two")
		Consistently(func(g Gomega) {
			g.Expect(jobsOf(ctx, g, d, blue, green)).To(BeEmpty())
		}).WithContext(ctx).WithTimeout(3 * time.Second).Should(Succeed())
		green.respecify(ctx, d, func(spec *v1alpha1.DebounceSpec) { spec.Suspend = nil })
		Expect(st.eventuallyRan(ctx, d, generation).Calls).To(Equal(2))
		Expect(jobsOf(ctx, Default, d, green)).To(ConsistOf(HaveField("Labels", HaveKeyWithValue(v1alpha1.GenerationLabel, strconv.FormatUint(generation, 10)))))
	}, SpecTimeout(3*time.Minute))

	It("come one after the other: calls during a run are one run after it", func(ctx context.Context) {
		st.run(blue, green)
		d := st.debounce("busy", aJobOf(6*time.Second), withWait(300*time.Millisecond))
		createDebounce(ctx, d, blue, green)
		first := st.call(ctx, d, "one")
		Eventually(func(g Gomega) { jobOfRun(ctx, g, d, first) }).WithContext(ctx).Should(Succeed())
		second := st.call(ctx, d, "two")
		Expect(second).To(BeNumerically(">", first))
		annotate(ctx, blue, d, "three")
		annotate(ctx, green, d, "four")
		Expect(st.eventuallyRan(ctx, d, second).Calls).To(Equal(3))
		Expect(jobsOf(ctx, Default, d, blue, green)).To(HaveLen(2))
		one, two := jobOfRun(ctx, Default, d, first), jobOfRun(ctx, Default, d, second)
		Expect(two.CreationTimestamp.Time).To(BeTemporally(">=", one.Status.CompletionTime.Time))
		Expect(payloadOf(two)).To(BeElementOf("two", "three", "four"))
	}, SpecTimeout(3*time.Minute))

	It("have ended when a person deletes the Job, or its template is wrong, and say why", func(ctx context.Context) {
		st.run(blue)
		d := st.debounce("fails", aJobOf(time.Hour), withWait(100*time.Millisecond))
		createDebounce(ctx, d, blue)
		first := st.call(ctx, d, "one")
		Eventually(func(g Gomega) {
			job := jobOfRun(ctx, g, d, first)
			g.Expect(job.Status.Active).To(BeNumerically(">", 0))
		}).WithContext(ctx).Should(Succeed())
		job := jobOfRun(ctx, Default, d, first)
		blue.remove(ctx, &job)
		ended := st.eventuallyRan(ctx, d, first)
		Expect(ended.Outcome).To(Equal(redislock.DebounceFailed))
		Expect(ended.Message).To(ContainSubstring("was deleted before it ended"))

		blue.respecify(ctx, d, func(spec *v1alpha1.DebounceSpec) {
			spec.Action.Job.Template.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways
		})
		second := st.call(ctx, d, "two")
		ended = st.eventuallyRan(ctx, d, second)
		Expect(ended.Message).To(ContainSubstring("restartPolicy"))
		blue.eventuallyNote(ctx, d, `restartPolicy: Required value`)
		Eventually(func(g Gomega) {
			status := blue.debounceStatus(ctx, g, d)
			g.Expect(status.LastRun.Outcome).To(Equal(v1alpha1.RunFailed))
			g.Expect(status.LastRun.Message).To(ContainSubstring("restartPolicy"))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(3*time.Minute))

	It("wait for room in a quota", func(ctx context.Context) {
		st.run(blue)
		d := st.debounce("quota", aJob(), withWait(100*time.Millisecond))
		createDebounce(ctx, d, blue)
		quota := &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: "quota"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
		}
		blue.make(ctx, quota)
		Eventually(func(g Gomega) {
			g.Expect(blue.Get(ctx, client.ObjectKeyFromObject(quota), quota)).To(Succeed())
			g.Expect(quota.Status.Hard).NotTo(BeEmpty())
		}).WithContext(ctx).Should(Succeed())
		generation := st.call(ctx, d, "one")
		Eventually(func() []cluster.AuditEvent {
			return auditOf(blue, func(e cluster.AuditEvent) bool {
				return e.Namespace == st.namespace && e.Resource == "jobs" && e.Verb == "create" && e.Code == 403
			})
		}).WithContext(ctx).Should(Not(BeEmpty()))
		Expect(blue.Delete(ctx, quota)).To(Succeed())
		Expect(st.eventuallyRan(ctx, d, generation).Outcome).To(Equal(redislock.DebounceSucceeded))
	}, SpecTimeout(3*time.Minute))

	It("begin anew where the Debounce was deleted with its Job, and made again", func(ctx context.Context) {
		st.run(blue)
		d := st.debounce("again", aJobOf(time.Hour), withWait(100*time.Millisecond))
		createDebounce(ctx, d, blue)
		generation := st.call(ctx, d, "one")
		Eventually(func(g Gomega) { jobOfRun(ctx, g, d, generation) }).WithContext(ctx).Should(Succeed())
		before := jobOfRun(ctx, Default, d, generation)
		Expect(blue.Delete(ctx, d.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
		d.Spec.Action = aJob()
		createDebounce(ctx, d, blue)
		Expect(st.eventuallyRan(ctx, d, generation).Outcome).To(Equal(redislock.DebounceSucceeded))
		after := jobOfRun(ctx, Default, d, generation)
		Expect(after.Name).To(Equal(before.Name))
		Expect(after.UID).NotTo(Equal(before.UID))

		By("and have ended for good where it stays away")
		Expect(blue.Delete(ctx, d.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
		blue.eventuallyNoJob(ctx, &after)
	}, SpecTimeout(3*time.Minute))
})
