package e2e

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// deployment is a workload to restart.
func (st *stand) deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(0)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "work", Image: "work"}}},
			},
		},
	}
}

func aRestart(name string) v1alpha1.DebounceAction {
	return v1alpha1.DebounceAction{Restart: &v1alpha1.RestartAction{Kind: v1alpha1.WorkloadDeployment, Name: name}}
}

// ofConfigMaps has ConfigMaps call, of these names and those with the label app=shop,
// each cluster for itself.
func ofConfigMaps(names ...string) func(*v1alpha1.DebounceSpec) {
	return func(spec *v1alpha1.DebounceSpec) {
		spec.Scope = v1alpha1.ScopeCluster
		spec.Triggers = &v1alpha1.DebounceTriggers{ConfigMaps: []v1alpha1.ConfigMapTrigger{
			{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop"}}},
		}}
		for _, name := range names {
			spec.Triggers.ConfigMaps = append(spec.Triggers.ConfigMaps, v1alpha1.ConfigMapTrigger{Name: name})
		}
	}
}

func (st *stand) configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: name, Labels: labels},
		Data:       map[string]string{"value": "0"},
	}
}

// put writes a value into a ConfigMap, and touch an annotation alone.
func (s *site) put(ctx context.Context, m *corev1.ConfigMap, value string) {
	GinkgoHelper()
	Expect(s.Patch(ctx, m.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"data":{"value":"`+value+`"}}`)))).To(Succeed())
}

func (s *site) touch(ctx context.Context, m *corev1.ConfigMap, value string) {
	GinkgoHelper()
	Expect(s.Patch(ctx, m.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"touched":"`+value+`"},"labels":{"touched":"`+value+`"}}}`)))).To(Succeed())
}

// restarted waits until a workload was restarted so often, and as often as there were
// runs, and no call waits.
func (s *site) restarted(ctx context.Context, workload *appsv1.Deployment, d *v1alpha1.Debounce, times int, calls int64) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		status := s.debounceStatus(ctx, g, d)
		g.Expect(status.Runs).To(HaveValue(BeEquivalentTo(times)))
		g.Expect(status.Calls).To(HaveValue(BeEquivalentTo(calls)))
		g.Expect(status.State).To(Equal(v1alpha1.StateFree))
		got := &appsv1.Deployment{}
		g.Expect(s.Get(ctx, client.ObjectKeyFromObject(workload), got)).To(Succeed())
		g.Expect(got.Generation).To(BeEquivalentTo(1+times), "what changes the pods counts")
		if times > 0 {
			g.Expect(got.Spec.Template.Annotations).To(HaveKeyWithValue(v1alpha1.RestartAnnotation, fmt.Sprint(status.LastRun.Generation)))
			g.Expect(got.Spec.Template.Annotations).To(HaveKey(v1alpha1.RestartedAtAnnotation))
		}
	}).WithContext(ctx).Should(Succeed())
}

var _ = Describe("A Debounce of ConfigMaps", func() {
	var st *stand
	var workload *appsv1.Deployment
	var settings *corev1.ConfigMap
	BeforeEach(func(ctx context.Context) {
		st = newStand(ctx)
		workload, settings = st.deployment("shop"), st.configMap("settings", nil)
		for _, s := range []*site{blue, green} {
			s.make(ctx, workload.DeepCopy())
			s.make(ctx, settings.DeepCopy())
		}
	}, NodeTimeout(time.Minute))

	It("restarts a workload once for a burst of changes of content, in the cluster where they are", func(ctx context.Context) {
		st.run(blue, green)
		d := st.debounce("restart", aRestart("shop"), withWait(2*time.Second), ofConfigMaps("settings", "later"))
		createDebounce(ctx, d, blue, green)
		Eventually(func(g Gomega) {
			g.Expect(blue.debounceStatus(ctx, g, d).Triggers).To(ConsistOf(
				v1alpha1.ConfigMapContent{Name: "later", Hash: "absent"}, HaveField("Name", "settings")))
		}).WithContext(ctx).Should(Succeed())
		blue.restarted(ctx, workload, d, 0, 0)

		By("a change of metadata alone, and two of content")
		blue.touch(ctx, settings, "1")
		blue.put(ctx, settings, "1")
		Eventually(func(g Gomega) {
			g.Expect(blue.debounceStatus(ctx, g, d).State).To(Equal(v1alpha1.StateAcquired))
		}).WithContext(ctx).Should(Succeed())
		blue.put(ctx, settings, "2")
		blue.restarted(ctx, workload, d, 1, 2)

		By("a ConfigMap that is created, by its name")
		later := st.configMap("later", nil)
		blue.make(ctx, later)
		blue.restarted(ctx, workload, d, 2, 3)

		By("one that comes and goes, by its label")
		labelled := st.configMap("labelled", map[string]string{"app": "shop"})
		blue.make(ctx, labelled)
		blue.restarted(ctx, workload, d, 3, 4)
		Expect(blue.Delete(ctx, labelled)).To(Succeed())
		blue.restarted(ctx, workload, d, 4, 5)

		By("a changed spec, which is no change of a ConfigMap")
		blue.make(ctx, st.configMap("another", nil))
		Eventually(func(g Gomega) {
			got := &v1alpha1.Debounce{}
			g.Expect(blue.Get(ctx, client.ObjectKeyFromObject(d), got)).To(Succeed())
			ofConfigMaps("settings", "another")(&got.Spec)
			g.Expect(blue.Update(ctx, got)).To(Succeed())
		}).WithContext(ctx).Should(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(blue.debounceStatus(ctx, g, d).Triggers).To(ConsistOf(HaveField("Name", "another"), HaveField("Name", "settings")))
		}).WithContext(ctx).Should(Succeed())
		Expect(blue.Delete(ctx, later)).To(Succeed())
		blue.put(ctx, settings, "3")
		blue.restarted(ctx, workload, d, 5, 6)

		By("the other cluster, where nothing has changed until now")
		green.restarted(ctx, workload, d, 0, 0)
		green.put(ctx, settings, "1")
		green.restarted(ctx, workload, d, 1, 1)
		blue.restarted(ctx, workload, d, 5, 6)
	}, SpecTimeout(4*time.Minute))

	It("forgets no change that was made while no manager was there", func(ctx context.Context) {
		st.run(blue)
		d := st.debounce("restart", aRestart("shop"), withWait(time.Second), ofConfigMaps("settings", "later"))
		createDebounce(ctx, d, blue)
		blue.restarted(ctx, workload, d, 0, 0)
		m := st.managers[blue]
		Expect(m.Stop()).To(Succeed())
		blue.put(ctx, settings, "1")
		blue.make(ctx, st.configMap("later", nil))
		annotate(ctx, blue, d, "while it was away")
		Expect(m.Start()).To(Succeed())
		blue.restarted(ctx, workload, d, 1, 2)

		By("or that was killed at any time after it")
		for n := range 4 {
			before := &appsv1.Deployment{}
			Expect(blue.Get(ctx, client.ObjectKeyFromObject(workload), before)).To(Succeed())
			blue.put(ctx, settings, fmt.Sprintf("killed %d", n))
			time.Sleep(time.Duration(n) * 20 * time.Millisecond)
			Expect(m.Kill()).To(Succeed())
			blue.forgetLeader(ctx)
			Expect(m.Start()).To(Succeed())
			Eventually(func(g Gomega) {
				got := &appsv1.Deployment{}
				g.Expect(blue.Get(ctx, client.ObjectKeyFromObject(workload), got)).To(Succeed())
				g.Expect(got.Generation).To(BeNumerically(">", before.Generation))
				g.Expect(blue.debounceStatus(ctx, g, d).State).To(Equal(v1alpha1.StateFree))
			}).WithContext(ctx).Should(Succeed())
		}
	}, SpecTimeout(4*time.Minute))
})
