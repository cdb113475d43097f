package policies

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/policies"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
)

// bare is a cluster of the test's own with nothing installed and no controllers.
func bare(t *testing.T, name string, change ...func(*cluster.Options)) *site {
	t.Helper()
	opts := cluster.Options{Name: name, Bare: true}
	for _, f := range change {
		f(&opts)
	}
	c, err := cluster.Start(t.Context(), opts)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = c.Stop() })
	return newSite(t, c)
}

// install applies config/default with what an overlay adds to it.
func (s *site) install(t *testing.T, more string) {
	t.Helper()
	manifests, err := s.Kubectl(t.Context(), "kustomize", overlay(t, more))
	g := NewWithT(t)
	g.Expect(err).NotTo(HaveOccurred())
	_, err = s.KubectlInput(t.Context(), manifests, "apply", "--server-side", "-f", "-")
	g.Expect(err).NotTo(HaveOccurred())
}

// kubectl is kubectl as a user.
func (s *site) kubectl(t *testing.T, user, input string, args ...string) string {
	t.Helper()
	g := NewWithT(t)
	file, err := s.UserKubeconfig(user, "system:authenticated")
	g.Expect(err).NotTo(HaveOccurred())
	cmd, err := s.KubectlCommand(t.Context(), append([]string{"--kubeconfig", file}, args...)...)
	g.Expect(err).NotTo(HaveOccurred())
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &stderr
	out, err := cmd.Output()
	g.Expect(err).NotTo(HaveOccurred(), stderr.String())
	return string(out)
}

func TestGitOps(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	namespace := s.newNamespace(t)
	for name, args := range map[string][]string{
		"server-side": {"apply", "--server-side", "--field-manager=argocd-controller", "-f", "-"},
		"client-side": {"apply", "-f", "-"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			job := guardedJob(namespace, name)
			job.TypeMeta = metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}
			manifest, err := yaml.Marshal(job)
			g.Expect(err).NotTo(HaveOccurred())
			read := func() *batchv1.Job {
				t.Helper()
				got := &batchv1.Job{}
				g.Expect(s.root.Get(t.Context(), client.ObjectKeyFromObject(job), got)).To(Succeed())
				return got
			}
			applyIt := func() { t.Helper(); s.kubectl(t, alice, string(manifest), args...) }
			applyIt()
			g.Expect(read().Spec.Suspend).To(HaveValue(BeTrue()))
			applyIt()
			g.Expect(patch(t.Context(), s.operator, read(), letGo)).To(Succeed())
			for range 2 {
				applyIt()
				got := read()
				g.Expect(got.Spec.Suspend).To(HaveValue(BeFalse()))
				g.Expect(got.Spec.ActiveDeadlineSeconds).To(HaveValue(BeEquivalentTo(300)))
				g.Expect(got.Annotations).To(HaveKeyWithValue(v1alpha1.RunAnnotation, "12"))
				g.Expect(got.Finalizers).To(ConsistOf(v1alpha1.OutcomeFinalizer))
				g.Expect(got.Spec.Template.Spec.Containers[0].Env).To(ConsistOf(tokenEnv()))
			}
		})
	}
}

func TestGuardedJobsAreCleanedUp(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	her := s.as(t, alice)
	for _, propagation := range []metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan, metav1.DeletePropagationBackground} {
		t.Run(string(propagation), func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			namespace := s.newNamespace(t)
			job := guardedJob(namespace, "job")
			g.Expect(her.Create(t.Context(), job)).To(Succeed())
			g.Expect(patch(t.Context(), s.operator, job, letGo)).To(Succeed())
			g.Eventually(func(g Gomega) {
				var pods corev1.PodList
				g.Expect(her.List(t.Context(), &pods, client.InNamespace(namespace))).To(Succeed())
				g.Expect(pods.Items).To(HaveLen(1))
			}).Should(Succeed())
			g.Expect(her.Delete(t.Context(), job, client.PropagationPolicy(propagation))).To(Succeed())
			// Kubernetes' own finalizer goes, the operator's stays.
			g.Eventually(func(g Gomega) {
				g.Expect(her.Get(t.Context(), client.ObjectKeyFromObject(job), job)).To(Succeed())
				g.Expect(job.DeletionTimestamp).NotTo(BeNil())
				g.Expect(job.Finalizers).To(ConsistOf(v1alpha1.OutcomeFinalizer))
			}).Should(Succeed())
			withoutFinalizers := func(job *batchv1.Job) { job.Finalizers = nil }
			g.Expect(denied(g, patch(t.Context(), her, job, withoutFinalizers))).To(ContainSubstring("finalizer redislock.io/outcome"))
			g.Expect(patch(t.Context(), s.operator, job, withoutFinalizers)).To(Succeed())
			g.Expect(apierrors.IsNotFound(her.Get(t.Context(), client.ObjectKeyFromObject(job), job))).To(BeTrue())
		})
	}
}

func TestANamespaceWithGuardedJobsGoesAway(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	name := s.newNamespace(t)
	her := s.as(t, alice)
	waiting, running := guardedJob(name, "waiting"), guardedJob(name, "running")
	for _, object := range []client.Object{waiting, running, guardedCronJob(name, "cronjob")} {
		g.Expect(her.Create(t.Context(), object)).To(Succeed())
	}
	g.Expect(patch(t.Context(), s.operator, running, letGo)).To(Succeed())
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	g.Expect(s.root.Delete(t.Context(), namespace)).To(Succeed())
	g.Eventually(func() bool {
		return apierrors.IsNotFound(s.root.Get(t.Context(), client.ObjectKeyFromObject(waiting), waiting))
	}).Should(BeTrue())
	g.Eventually(func(g Gomega) {
		g.Expect(s.root.Get(t.Context(), client.ObjectKeyFromObject(running), running)).To(Succeed())
		g.Expect(running.DeletionTimestamp).NotTo(BeNil())
	}).Should(Succeed())
	g.Eventually(func() error {
		return patch(t.Context(), s.operator, running, func(job *batchv1.Job) { job.Finalizers = nil })
	}).Should(Succeed())
	g.Eventually(func() bool {
		return apierrors.IsNotFound(s.root.Get(t.Context(), client.ObjectKeyFromObject(namespace), namespace))
	}).Should(BeTrue())
}

// TestAnOlderCluster is about clusters before Kubernetes 1.36.
func TestAnOlderCluster(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := bare(t, "older", func(o *cluster.Options) {
		o.FeatureGates = map[string]bool{"MutatingAdmissionPolicy": false}
		o.APIServerArgs = []string{"--runtime-config=admissionregistration.k8s.io/v1/mutatingadmissionpolicies=false," +
			"admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings=false"}
	})
	s.install(t, "components: [${config}/policies/without-mutating]\n")

	checker := policies.New(s.operator, operator.Namespace, testr.New(t))
	go func() { _ = checker.Start(t.Context()) }()
	g.Eventually(checker.State).Should(Equal(policies.State{Checked: true, NoMutating: true}))
	g.Expect(checker.ReadyzCheck(nil)).To(Succeed())

	const namespace = "default"
	twoContainers := func(job *batchv1.Job) {
		job.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "none"}}
		job.Spec.Template.Spec.Containers = append(job.Spec.Template.Spec.Containers, corev1.Container{Name: "side", Image: "none"})
	}
	message := denied(g, s.root.Create(t.Context(), guardedJob(namespace, "job", twoContainers)))
	g.Expect(message).To(ContainSubstring("spec.suspend: true"))
	g.Expect(message).To(ContainSubstring("spec.template.metadata.labels: {redislock.io/lock: nightly}"))
	g.Expect(message).To(ContainSubstring("in env of container main, side, first: "))

	// What the message says to write is YAML that does what it says.
	_, variable, ok := strings.Cut(message, "in env of container main, side, first: ")
	g.Expect(ok).To(BeTrue())
	var env corev1.EnvVar
	g.Expect(yaml.UnmarshalStrict([]byte(variable), &env)).To(Succeed())
	steps := []struct {
		says string
		do   func(*batchv1.Job)
	}{
		{"spec.suspend: true; spec.template", func(job *batchv1.Job) { job.Spec.Suspend = new(true) }},
		{"must have spec.template.metadata.labels", func(job *batchv1.Job) { set(&job.Spec.Template.Labels, v1alpha1.LockLabel, "nightly") }},
		{"must have in env of container main, side, first:", func(job *batchv1.Job) { job.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{env} }},
		{"must have in env of container side, first:", func(job *batchv1.Job) { job.Spec.Template.Spec.Containers[1].Env = []corev1.EnvVar{env} }},
		{"must have in env of container first:", func(job *batchv1.Job) { job.Spec.Template.Spec.InitContainers[0].Env = []corev1.EnvVar{env} }},
	}
	job := guardedJob(namespace, "job", twoContainers)
	for _, step := range steps {
		g.Expect(denied(g, s.root.Create(t.Context(), job.DeepCopy()))).To(ContainSubstring(step.says))
		step.do(job)
	}
	g.Expect(s.root.Create(t.Context(), job)).To(Succeed())

	g.Expect(s.root.Create(t.Context(), guardedCronJob(namespace, "cronjob", func(c *batchv1.CronJob) {
		c.Spec.JobTemplate.Spec = *job.Spec.DeepCopy()
		c.Spec.JobTemplate.Spec.Selector = nil
		c.Spec.JobTemplate.Spec.Template.Labels = map[string]string{v1alpha1.LockLabel: "nightly"}
	}))).To(Succeed())
	_, err := s.Kubectl(t.Context(), "-n", namespace, "create", "job", "by-hand", "--from=cronjob/cronjob")
	g.Expect(err).NotTo(HaveOccurred())
}

func TestTheCheckerSeesWhatIsNotInForce(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := bare(t, "checked")
	checker := policies.New(s.operator, operator.Namespace, testr.New(t))
	changes := make(chan policies.State, 100)
	checker.OnChange(func(state policies.State) { changes <- state })
	g.Expect(checker.State()).To(Equal(policies.State{}))
	g.Expect(checker.ReadyzCheck(&http.Request{})).To(MatchError(ContainSubstring("not been looked at")))
	go func() { _ = checker.Start(t.Context()) }()
	// Nothing is installed: neither its namespace nor its rights.
	g.Eventually(func() error { return checker.ReadyzCheck(nil) }).Should(MatchError(ContainSubstring("is not known")))
	g.Expect(checker.State().Checked).To(BeFalse())
	g.Expect(changes).To(BeEmpty())

	s.install(t, "")
	g.Eventually(checker.State).Should(Equal(policies.State{Checked: true}))
	g.Expect(checker.ReadyzCheck(nil)).To(Succeed())

	rename := func(object client.Object, name string) func() {
		return func() {
			t.Helper()
			g.Expect(s.root.Get(t.Context(), client.ObjectKeyFromObject(object), object)).To(Succeed())
			data := fmt.Sprintf(`{"spec":{"policyName":%q}}`, name)
			g.Expect(s.root.Patch(t.Context(), object, client.RawPatch("application/merge-patch+json", []byte(data)))).To(Succeed())
		}
	}
	removeAndRestore := func(object client.Object) (remove, restore func()) {
		g.Expect(s.root.Get(t.Context(), client.ObjectKeyFromObject(object), object)).To(Succeed())
		kept := object.DeepCopyObject().(client.Object)
		kept.SetResourceVersion("")
		kept.SetUID("")
		return func() { g.Expect(s.root.Delete(t.Context(), object)).To(Succeed()) },
			func() { g.Expect(s.root.Create(t.Context(), kept.DeepCopyObject().(client.Object))).To(Succeed()) }
	}
	binding := func(name string) *admissionregistrationv1.ValidatingAdmissionPolicyBinding {
		return &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	mutatingBinding := &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "redislock-guarded-jobs"}}
	jobsOut, jobsBack := removeAndRestore(binding("redislock-guarded-jobs"))
	cronJobsOut, cronJobsBack := removeAndRestore(binding("redislock-guarded-cronjobs"))
	debouncesOut, debouncesBack := removeAndRestore(binding("redislock-debounces"))
	mutatingOut, mutatingBack := removeAndRestore(mutatingBinding.DeepCopy())
	policyOut, policyBack := removeAndRestore(&admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "redislock-guarded-jobs"}})
	for _, tc := range []struct {
		name      string
		out, back func()
		says      string
	}{
		{"no binding for Jobs", jobsOut, jobsBack, "ValidatingAdmissionPolicy guarded-jobs"},
		{"no binding for CronJobs", cronJobsOut, cronJobsBack, "ValidatingAdmissionPolicy guarded-cronjobs"},
		{"no binding for Debounces", debouncesOut, debouncesBack, "ValidatingAdmissionPolicy debounces"},
		{"no binding of the mutating policy", mutatingOut, mutatingBack, "MutatingAdmissionPolicy guarded-jobs"},
		{"no policy for Jobs", policyOut, policyBack, "ValidatingAdmissionPolicy guarded-jobs"},
		{
			"a binding to a name without the prefix", rename(binding("redislock-guarded-cronjobs"), "guarded-cronjobs"),
			rename(binding("redislock-guarded-cronjobs"), "redislock-guarded-cronjobs"), "ValidatingAdmissionPolicy guarded-cronjobs",
		},
		{
			"a mutating binding to a name without the prefix", rename(mutatingBinding, "guarded-jobs"),
			rename(mutatingBinding, "redislock-guarded-jobs"), "MutatingAdmissionPolicy guarded-jobs",
		},
	} {
		tc.out()
		g.Eventually(func(g Gomega) {
			checker.Recheck()
			g.Expect(checker.ReadyzCheck(nil)).To(MatchError(ContainSubstring(tc.says)), tc.name)
			g.Expect(checker.State().Missing).To(HaveLen(1), tc.name)
		}).WithTimeout(10 * time.Second).Should(Succeed())
		g.Expect(checker.State().Missing[0]).To(ContainSubstring("apply config/policies"))
		tc.back()
		// Nobody has to tell it.
		g.Eventually(func() error { return checker.ReadyzCheck(nil) }).WithTimeout(10*time.Second).Should(Succeed(), tc.name)
		g.Expect(checker.State()).To(Equal(policies.State{Checked: true}))
	}
	var last policies.State
	for len(changes) > 0 {
		next := <-changes
		g.Expect(next).NotTo(Equal(last), "told twice")
		last = next
	}
	g.Expect(last).To(Equal(policies.State{Checked: true}))

	// An API server that is away says nothing about policies.
	g.Expect(s.APIServer.Stop(t.Context())).To(Succeed())
	checker.Recheck()
	g.Consistently(func() error { return checker.ReadyzCheck(nil) }).WithTimeout(3 * time.Second).Should(Succeed())
}

// TestNames: whatever kustomize does to names, a binding follows its policy.
func TestNames(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	for name, tc := range map[string]struct {
		more, want string
	}{
		"as it is":            {"", "redislock-guarded-jobs"},
		"an overlay's prefix": {"namePrefix: team-\nnameSuffix: -v2\n", "team-redislock-guarded-jobs-v2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			out, err := s.Kubectl(t.Context(), "kustomize", overlay(t, tc.more))
			g.Expect(err).NotTo(HaveOccurred())
			names := map[string]string{}
			followed := 0
			for _, doc := range documents(g, out) {
				names[doc.GetKind()+"/"+doc.GetName()] = doc.GetName()
			}
			g.Expect(names).To(HaveKey("MutatingAdmissionPolicy/" + tc.want))
			g.Expect(names).To(HaveKey("ValidatingAdmissionPolicy/" + tc.want))
			for _, doc := range documents(g, out) {
				if policy, ok := strings.CutSuffix(doc.GetKind(), "Binding"); ok && strings.HasSuffix(policy, "AdmissionPolicy") {
					bound, _, err := unstructured.NestedString(doc.Object, "spec", "policyName")
					g.Expect(err).NotTo(HaveOccurred())
					g.Expect(names).To(HaveKey(policy + "/" + bound))
					followed++
				}
			}
			g.Expect(followed).To(Equal(6))
		})
	}
}

func documents(g Gomega, manifests string) []unstructured.Unstructured {
	var list []unstructured.Unstructured
	for doc := range strings.SplitSeq(manifests, "\n---\n") {
		var u unstructured.Unstructured
		g.Expect(yaml.Unmarshal([]byte(doc), &u.Object)).To(Succeed())
		if len(u.Object) > 0 {
			list = append(list, u)
		}
	}
	return list
}

// TestTheAPIServerUnderstandsThePolicies: it checks the types in them, and warns in
// their status.
func TestTheAPIServerUnderstandsThePolicies(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	g.Eventually(func(g Gomega) {
		var list admissionregistrationv1.ValidatingAdmissionPolicyList
		g.Expect(s.root.List(t.Context(), &list)).To(Succeed())
		g.Expect(list.Items).To(HaveLen(5))
		for _, policy := range list.Items {
			g.Expect(policy.Status.TypeChecking).NotTo(BeNil(), policy.Name)
			g.Expect(policy.Status.TypeChecking.ExpressionWarnings).To(BeEmpty(), policy.Name)
		}
	}).Should(Succeed())
}
