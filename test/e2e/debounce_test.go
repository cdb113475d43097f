package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// debounce builds a Debounce with this action.
func (st *stand) debounce(name string, action v1alpha1.DebounceAction, change ...func(*v1alpha1.DebounceSpec)) *v1alpha1.Debounce {
	d := &v1alpha1.Debounce{
		ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: name},
		Spec:       v1alpha1.DebounceSpec{Action: action},
	}
	for _, f := range change {
		f(&d.Spec)
	}
	return d
}

func withWait(d time.Duration) func(*v1alpha1.DebounceSpec) {
	return func(spec *v1alpha1.DebounceSpec) { spec.Wait = new(metav1.Duration{Duration: d}) }
}

// aJob is an action that creates a Job of a pod that ends at once.
func aJob() v1alpha1.DebounceAction {
	return v1alpha1.DebounceAction{Job: &v1alpha1.JobAction{Template: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "work", Image: "work"}},
		}},
	}}}}
}

// createDebounce makes the same Debounce in clusters and waits until each is ready.
func createDebounce(ctx context.Context, d *v1alpha1.Debounce, sites ...*site) {
	GinkgoHelper()
	for _, s := range sites {
		Expect(s.Create(ctx, d.DeepCopy())).To(Succeed())
	}
	for _, s := range sites {
		Eventually(func(g Gomega) {
			g.Expect(debounceReason(s.debounceStatus(ctx, g, d), v1alpha1.ConditionReady)).To(Equal(v1alpha1.ReasonOperational))
		}).WithContext(ctx).Should(Succeed())
	}
}

func (s *site) debounceStatus(ctx context.Context, g Gomega, d *v1alpha1.Debounce) v1alpha1.DebounceStatus {
	got := &v1alpha1.Debounce{}
	g.Expect(s.Get(ctx, client.ObjectKeyFromObject(d), got)).To(Succeed())
	return got.Status
}

func debounceReason(status v1alpha1.DebounceStatus, kind v1alpha1.ConditionType) v1alpha1.ConditionReason {
	for _, c := range status.Conditions {
		if c.Type == string(kind) {
			return v1alpha1.ConditionReason(c.Reason)
		}
	}
	return ""
}

// annotate calls a Debounce by its annotation.
func annotate(ctx context.Context, s *site, d *v1alpha1.Debounce, payload string) {
	GinkgoHelper()
	got := &v1alpha1.Debounce{ObjectMeta: d.ObjectMeta}
	patch := []byte(`{"metadata":{"annotations":{"` + v1alpha1.CallAnnotation + `":"` + payload + `"}}}`)
	Expect(s.Patch(ctx, got, client.RawPatch("application/merge-patch+json", patch))).To(Succeed())
}

// jobsOf are the Jobs of a Debounce in all clusters.
func jobsOf(ctx context.Context, g Gomega, d *v1alpha1.Debounce, sites ...*site) []batchv1.Job {
	var all []batchv1.Job
	for _, s := range sites {
		var list batchv1.JobList
		g.Expect(s.List(ctx, &list, client.InNamespace(d.Namespace), client.MatchingLabels{v1alpha1.DebounceLabel: d.Name})).To(Succeed())
		all = append(all, list.Items...)
	}
	return all
}

var _ = Describe("A Debounce", func() {
	var st *stand
	BeforeEach(func(ctx context.Context) { st = newStand(ctx) }, NodeTimeout(time.Minute))

	It("turns calls in two clusters into one Job", func(ctx context.Context) {
		st.run(blue, green)
		d := st.debounce("rebuild", aJob(), withWait(2*time.Second))
		createDebounce(ctx, d, blue, green)
		for _, payload := range []string{"one", "two", "three"} {
			annotate(ctx, blue, d, payload)
			Eventually(func(g Gomega) {
				g.Expect(blue.debounceStatus(ctx, g, d).Call).To(HaveValue(Equal(payload)))
			}).WithContext(ctx).Should(Succeed())
		}
		annotate(ctx, green, d, "last")
		for _, s := range []*site{blue, green} {
			Eventually(func(g Gomega) {
				status := s.debounceStatus(ctx, g, d)
				g.Expect(status.State).To(Equal(v1alpha1.StateFree))
				g.Expect(status.LastRun).To(HaveField("Outcome", v1alpha1.RunSucceeded))
				g.Expect(status.Runs).To(HaveValue(BeEquivalentTo(1)))
				g.Expect(status.Calls).To(HaveValue(BeEquivalentTo(4)))
			}).WithContext(ctx).Should(Succeed())
		}
		jobs := jobsOf(ctx, Default, d, blue, green)
		Expect(jobs).To(HaveLen(1))
		Expect(jobs[0].Spec.Template.Spec.Containers[0].Env).To(ContainElements(
			corev1.EnvVar{Name: v1alpha1.DebouncePayloadEnv, Value: "last"},
			corev1.EnvVar{Name: v1alpha1.DebounceCallsEnv, Value: "4"},
			HaveField("Name", v1alpha1.DebounceGenerationEnv),
		))
	}, SpecTimeout(3*time.Minute))
})
