package policies

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

func TestAGuardedJobIsPreparedWhenItIsCreated(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	namespace := s.newNamespace(t)
	her := s.as(t, alice)
	other := corev1.EnvVar{Name: "OTHER", Value: "kept"}
	for name, change := range map[string]func(*batchv1.Job){
		"plain":               func(*batchv1.Job) {},
		"said-to-run":         func(job *batchv1.Job) { job.Spec.Suspend = new(false) },
		"suspended":           func(job *batchv1.Job) { job.Spec.Suspend = new(true) },
		"prepared":            prepared,
		"with-template-label": func(job *batchv1.Job) { set(&job.Spec.Template.Labels, "app", "report") },
		"with-env":            func(job *batchv1.Job) { job.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{other} },
		"with-init": func(job *batchv1.Job) {
			job.Spec.Template.Spec.InitContainers = []corev1.Container{
				{Name: "first", Image: "none", Env: []corev1.EnvVar{other}},
				{Name: "second", Image: "none", Env: []corev1.EnvVar{other, tokenEnv()}},
				{Name: "third", Image: "none"},
				{Name: "sidecar", Image: "none", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)},
			}
		},
		"with-some": func(job *batchv1.Job) {
			job.Spec.Template.Spec.Containers = append(job.Spec.Template.Spec.Containers,
				corev1.Container{Name: "has-it", Image: "none", Env: []corev1.EnvVar{tokenEnv(), other}},
				corev1.Container{Name: "has-it-not", Image: "none"})
		},
		"with-many": func(job *batchv1.Job) {
			var env []corev1.EnvVar
			for i := range 60 {
				env = append(env, corev1.EnvVar{Name: fmt.Sprintf("VARIABLE_%d", i), Value: "x"})
			}
			for i := range 30 {
				job.Spec.Template.Spec.Containers = append(job.Spec.Template.Spec.Containers,
					corev1.Container{Name: fmt.Sprintf("c%d", i), Image: "none", Env: slices.Clone(env)})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			wrote := guardedJob(namespace, name, change)
			job := wrote.DeepCopy()
			g.Expect(her.Create(t.Context(), job)).To(Succeed())
			g.Expect(job.Spec.Suspend).To(HaveValue(BeTrue()))
			g.Expect(job.Spec.Template.Labels).To(HaveKeyWithValue(v1alpha1.LockLabel, "nightly"))
			for key, value := range wrote.Spec.Template.Labels {
				g.Expect(job.Spec.Template.Labels).To(HaveKeyWithValue(key, value))
			}
			g.Expect(job.Finalizers).To(BeEmpty())
			check := func(wrote, got []corev1.Container) {
				g.Expect(got).To(HaveLen(len(wrote)))
				for i := range wrote {
					want := wrote[i].Env
					if !slices.ContainsFunc(want, func(e corev1.EnvVar) bool { return e.Name == v1alpha1.FencingTokenEnv }) {
						want = append(slices.Clone(want), tokenEnv())
					}
					g.Expect(got[i].Env).To(Equal(want), wrote[i].Name)
				}
			}
			check(wrote.Spec.Template.Spec.Containers, job.Spec.Template.Spec.Containers)
			check(wrote.Spec.Template.Spec.InitContainers, job.Spec.Template.Spec.InitContainers)
		})
	}
}

func TestAJobWithoutALockIsLeftAlone(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	her := s.as(t, alice)
	job := newJob(s.newNamespace(t), "free")
	// Such names mean something on a guarded Job alone.
	set(&job.Annotations, v1alpha1.RunAnnotation, "1")
	set(&job.Labels, "kueue.x-k8s.io/queue-name", "queue")
	g.Expect(her.Create(t.Context(), job)).To(Succeed())
	g.Expect(job.Spec.Suspend).To(HaveValue(BeFalse()))
	g.Expect(job.Spec.Template.Labels).NotTo(HaveKey(v1alpha1.LockLabel))
	g.Expect(job.Spec.Template.Spec.Containers[0].Env).To(BeEmpty())
	g.Expect(patch(t.Context(), her, job, func(job *batchv1.Job) {
		job.Spec.Suspend = new(true)
		job.Spec.ActiveDeadlineSeconds = new(int64(5))
		delete(job.Annotations, v1alpha1.RunAnnotation)
	})).To(Succeed())
}

func TestWhatAGuardedJobMayNotBe(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	namespace := s.newNamespace(t)
	her := s.as(t, alice)
	annotated := func(key string) func(*batchv1.Job) {
		return func(job *batchv1.Job) { set(&job.Annotations, key, "") }
	}
	for _, tc := range []struct {
		name   string
		change func(*batchv1.Job)
		words  []string
		// operator: the operator may.
		operator bool
	}{
		{
			name: "the label on the pod template alone",
			change: func(job *batchv1.Job) {
				job.Spec.Template.Labels, job.Labels = job.Labels, map[string]string{"team": "reports"}
			},
			words: []string{"would run without the lock", "metadata.labels"},
		},
		{
			name:   "a name that no RedisLock has",
			change: func(job *batchv1.Job) { job.Labels[v1alpha1.LockLabel] = "Nightly_Report" },
			words:  []string{`"Nightly_Report" cannot be`},
		},
		{
			name:   "an empty name",
			change: func(job *batchv1.Job) { job.Labels[v1alpha1.LockLabel] = "" },
			words:  []string{`"" cannot be`},
		},
		{
			name:   "another lock on the pod template",
			change: func(job *batchv1.Job) { set(&job.Spec.Template.Labels, v1alpha1.LockLabel, "daily") },
			words:  []string{`"daily"`, `"nightly"`, "write the same in both"},
		},
		{
			name: "the variable with a value",
			change: func(job *batchv1.Job) {
				job.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: v1alpha1.FencingTokenEnv, Value: "1"}}
			},
			words: []string{"container main", "take it out", v1alpha1.FencingTokenFieldPath},
		},
		{
			name: "the variable from another field, in an init container",
			change: func(job *batchv1.Job) {
				job.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "none", Env: []corev1.EnvVar{
					{Name: v1alpha1.FencingTokenEnv, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
				}}}
			},
			words: []string{"container first", "take it out"},
		},
		{
			name: "the variable twice",
			change: func(job *batchv1.Job) {
				job.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{tokenEnv(), {Name: v1alpha1.FencingTokenEnv, Value: "1"}}
			},
			words: []string{"container main", "take it out"},
		},
		{
			name:   "Kueue's label",
			change: func(job *batchv1.Job) { set(&job.Labels, "kueue.x-k8s.io/queue-name", "queue") },
			words:  []string{"kueue.x-k8s.io/queue-name", "Take one of the labels out"},
		},
		{
			name:   "another controller's",
			change: func(job *batchv1.Job) { job.Spec.ManagedBy = new("kueue.x-k8s.io/multikueue") },
			words:  []string{"take spec.managedBy out"},
		},
		{name: "a run", change: annotated(v1alpha1.RunAnnotation), words: []string{"written by the operator alone"}, operator: true},
		{name: "a grant", change: annotated(v1alpha1.GrantAnnotation), words: []string{"written by the operator alone"}, operator: true},
		{name: "a deadline", change: annotated(v1alpha1.DeadlineAnnotation), words: []string{"written by the operator alone"}, operator: true},
		{name: "a replacement", change: annotated(v1alpha1.ReplacesAnnotation), words: []string{"written by the operator alone"}, operator: true},
		{
			name:   "a fencing token",
			change: func(job *batchv1.Job) { set(&job.Spec.Template.Annotations, v1alpha1.FencingTokenAnnotation, "9") },
			words:  []string{"written by the operator alone"}, operator: true,
		},
		{
			name:   "the finalizer",
			change: func(job *batchv1.Job) { job.Finalizers = []string{v1alpha1.OutcomeFinalizer} },
			words:  []string{"finalizer redislock.io/outcome"}, operator: true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			message := denied(g, her.Create(t.Context(), guardedJob(namespace, "refused", tc.change), client.DryRunAll))
			for _, words := range tc.words {
				g.Expect(message).To(ContainSubstring(words))
			}
			for who, c := range map[string]client.Client{"the operator": s.operator, "the cluster's administrator": s.root} {
				err := c.Create(t.Context(), guardedJob(namespace, "refused", tc.change), client.DryRunAll)
				if tc.operator {
					g.Expect(err).NotTo(HaveOccurred(), who)
				} else {
					g.Expect(denied(g, err)).To(Equal(message), who)
				}
			}
		})
	}
}

// changes are what only the operator may do to a Job that exists.
var changes = []struct {
	name   string
	change func(*batchv1.Job)
	words  string
	// suspended and running say in which state of the Job it is a change, and one that
	// Kubernetes allows.
	suspended, running bool
}{
	{name: "start", suspended: true, words: "started and stopped by the operator alone", change: func(job *batchv1.Job) { job.Spec.Suspend = new(false) }},
	{name: "start, by leaving suspend out", suspended: true, words: "started and stopped by the operator alone", change: func(job *batchv1.Job) { job.Spec.Suspend = nil }},
	{name: "stop", running: true, words: "to stop it, delete it", change: func(job *batchv1.Job) { job.Spec.Suspend = new(true) }},
	{name: "change the deadline", suspended: true, running: true, words: "activeDeadlineSeconds", change: func(job *batchv1.Job) { job.Spec.ActiveDeadlineSeconds = new(int64(9999)) }},
	{name: "take the deadline away", running: true, words: "activeDeadlineSeconds", change: func(job *batchv1.Job) { job.Spec.ActiveDeadlineSeconds = nil }},
	{name: "take the label off", suspended: true, running: true, words: "not added to a Job that exists", change: func(job *batchv1.Job) { delete(job.Labels, v1alpha1.LockLabel) }},
	{name: "change the label", suspended: true, running: true, words: "not added to a Job that exists", change: func(job *batchv1.Job) { job.Labels[v1alpha1.LockLabel] = "daily" }},
	{name: "take the template's label off", suspended: true, words: "on the pod template of a guarded Job cannot be changed", change: func(job *batchv1.Job) { delete(job.Spec.Template.Labels, v1alpha1.LockLabel) }},
	{name: "set the run", suspended: true, running: true, words: "written by the operator alone", change: func(job *batchv1.Job) { set(&job.Annotations, v1alpha1.RunAnnotation, "99") }},
	{name: "take the run away", running: true, words: "written by the operator alone", change: func(job *batchv1.Job) { delete(job.Annotations, v1alpha1.RunAnnotation) }},
	{name: "set the grant", suspended: true, running: true, words: "written by the operator alone", change: func(job *batchv1.Job) { set(&job.Annotations, v1alpha1.GrantAnnotation, "99") }},
	{name: "set the user's deadline", suspended: true, running: true, words: "written by the operator alone", change: func(job *batchv1.Job) { set(&job.Annotations, v1alpha1.DeadlineAnnotation, "99") }},
	{name: "say what it replaces", suspended: true, running: true, words: "written by the operator alone", change: func(job *batchv1.Job) { set(&job.Annotations, v1alpha1.ReplacesAnnotation, "99") }},
	{name: "set the fencing token", suspended: true, words: "written by the operator alone", change: func(job *batchv1.Job) { set(&job.Spec.Template.Annotations, v1alpha1.FencingTokenAnnotation, "99") }},
	{name: "add the finalizer", suspended: true, words: "finalizer redislock.io/outcome", change: func(job *batchv1.Job) { job.Finalizers = append(job.Finalizers, v1alpha1.OutcomeFinalizer) }},
	{name: "take the finalizer away", running: true, words: "finalizer redislock.io/outcome", change: func(job *batchv1.Job) { job.Finalizers = nil }},
}

func TestWhatOnlyTheOperatorDoesToAGuardedJob(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	namespace := s.newNamespace(t)
	her := s.as(t, alice)
	g := NewWithT(t)
	withAnotherLabel := func(job *batchv1.Job) { job.Labels["team"] = "reports" }
	suspended, running := guardedJob(namespace, "suspended", withAnotherLabel), guardedJob(namespace, "running", withAnotherLabel)
	for _, job := range []*batchv1.Job{suspended, running} {
		g.Expect(her.Create(t.Context(), job)).To(Succeed())
	}
	g.Expect(patch(t.Context(), s.operator, running, letGo)).To(Succeed())
	for _, state := range []*batchv1.Job{suspended, running} {
		for _, tc := range changes {
			if state == suspended && !tc.suspended || state == running && !tc.running {
				continue
			}
			t.Run(tc.name+" of a "+state.Name+" Job", func(t *testing.T) {
				t.Parallel()
				g := NewWithT(t)
				// Its status changes meanwhile, which is nobody's conflict here.
				job := &batchv1.Job{}
				g.Expect(her.Get(t.Context(), client.ObjectKeyFromObject(state), job)).To(Succeed())
				changed := job.DeepCopy()
				tc.change(changed)
				g.Expect(denied(g, patch(t.Context(), her, job, tc.change))).To(ContainSubstring(tc.words))
				changed.ResourceVersion = ""
				g.Expect(denied(g, her.Update(t.Context(), changed))).To(ContainSubstring(tc.words))
				// Taking away what another manager wrote is not for an apply to do.
				if !strings.Contains(tc.name, "take") && !strings.Contains(tc.name, "leaving") {
					g.Expect(denied(g, apply(t.Context(), her, job, tc.change))).To(ContainSubstring(tc.words))
				}
				for who, c := range map[string]client.Client{"the operator": s.operator, "the cluster's administrator": s.root} {
					g.Expect(patch(t.Context(), c, job, tc.change, client.DryRunAll)).To(Succeed(), who)
				}
			})
		}
	}
}

// apply applies what a change changes, and no more, by force.
func apply(ctx context.Context, c client.Client, job *batchv1.Job, change func(*batchv1.Job)) error {
	changed := job.DeepCopy()
	change(changed)
	data, err := client.MergeFrom(job).Data(changed)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(data, &u.Object); err != nil {
		return err
	}
	u.SetGroupVersionKind(batchv1.SchemeGroupVersion.WithKind("Job"))
	u.SetNamespace(job.Namespace)
	u.SetName(job.Name)
	return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("alice"), client.ForceOwnership)
}

func TestAJobThatExistsGetsNoLock(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	namespace := s.newNamespace(t)
	her := s.as(t, alice)
	free := newJob(namespace, "free")
	free.Spec.Suspend = new(true)
	g.Expect(her.Create(t.Context(), free)).To(Succeed())
	addLabel := func(job *batchv1.Job) { set(&job.Labels, v1alpha1.LockLabel, "nightly") }
	g.Expect(denied(g, patch(t.Context(), her, free, addLabel))).To(ContainSubstring("not added to a Job that exists"))
	g.Expect(patch(t.Context(), s.operator, free, addLabel, client.DryRunAll)).To(Succeed())
	g.Expect(denied(g, patch(t.Context(), her, free, func(job *batchv1.Job) {
		set(&job.Spec.Template.Labels, v1alpha1.LockLabel, "nightly")
	}))).To(ContainSubstring("would run without the lock"))

	guarded := guardedJob(namespace, "guarded")
	g.Expect(her.Create(t.Context(), guarded)).To(Succeed())
	g.Expect(denied(g, patch(t.Context(), her, guarded, func(job *batchv1.Job) {
		set(&job.Labels, "kueue.x-k8s.io/queue-name", "queue")
	}))).To(ContainSubstring("Take one of the labels out"))
}

// A Job without labels of its own gets those of its pod template: so Kubernetes does,
// before any policy looks.
func TestAJobWithoutLabelsHasThoseOfItsTemplate(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	her := s.as(t, alice)
	job := newJob(s.newNamespace(t), "job")
	set(&job.Spec.Template.Labels, v1alpha1.LockLabel, "nightly")
	g.Expect(her.Create(t.Context(), job)).To(Succeed())
	g.Expect(job.Labels).To(HaveKeyWithValue(v1alpha1.LockLabel, "nightly"))
	g.Expect(job.Spec.Suspend).To(HaveValue(BeTrue()))
	g.Expect(job.Spec.Template.Spec.Containers[0].Env).To(ConsistOf(tokenEnv()))
	changed := job.DeepCopy()
	g.Expect(her.Patch(t.Context(), changed, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":null}}`)))).To(Succeed())
	g.Expect(changed.Labels).To(HaveKeyWithValue(v1alpha1.LockLabel, "nightly"))
}

func TestWhatANamespacesAdministratorMayDoToAGuardedJob(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	namespace := s.newNamespace(t)
	her := s.as(t, alice)
	job := guardedJob(namespace, "job")
	g.Expect(her.Create(t.Context(), job)).To(Succeed())
	change := func(job *batchv1.Job) {
		set(&job.Labels, "team", "reports")
		set(&job.Annotations, "note", "hers")
		job.Spec.Parallelism = new(int32(2))
		job.Spec.TTLSecondsAfterFinished = new(int32(60))
	}
	g.Expect(patch(t.Context(), her, job, change)).To(Succeed())
	g.Expect(her.Delete(t.Context(), job)).To(Succeed())

	job = guardedJob(namespace, "job-that-runs")
	g.Expect(her.Create(t.Context(), job)).To(Succeed())
	g.Expect(patch(t.Context(), s.operator, job, letGo)).To(Succeed())
	g.Expect(patch(t.Context(), her, job, change)).To(Succeed())
	g.Expect(her.Delete(t.Context(), job, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
}

func TestTheOperatorsWorkOnAJob(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	her := s.as(t, alice)
	job := guardedJob(s.newNamespace(t), "job")
	g.Expect(her.Create(t.Context(), job)).To(Succeed())
	do := func(change func(*batchv1.Job)) {
		t.Helper()
		g.Expect(s.operator.Get(t.Context(), client.ObjectKeyFromObject(job), job)).To(Succeed())
		g.Expect(patch(t.Context(), s.operator, job, change)).To(Succeed())
	}
	do(letGo)
	g.Eventually(func(g Gomega) {
		g.Expect(s.root.Get(t.Context(), client.ObjectKeyFromObject(job), job)).To(Succeed())
		g.Expect(job.Status.Active).To(BeEquivalentTo(1))
	}).Should(Succeed())
	var pods corev1.PodList
	g.Expect(s.root.List(t.Context(), &pods, client.InNamespace(job.Namespace), client.HasLabels{v1alpha1.LockLabel})).To(Succeed())
	g.Expect(pods.Items).To(HaveLen(1))
	g.Expect(pods.Items[0].Annotations).To(HaveKeyWithValue(v1alpha1.FencingTokenAnnotation, "12"))
	do(func(job *batchv1.Job) { job.Spec.ActiveDeadlineSeconds = new(int64(600)) })
	do(func(job *batchv1.Job) { job.Spec.Suspend = new(true) })
	do(func(job *batchv1.Job) { job.Finalizers = nil })
}
