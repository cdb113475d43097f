package controllers

import (
	"context"
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

func newDebounce(name string) *v1alpha1.Debounce {
	return &v1alpha1.Debounce{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "debounce-uid"}}
}

// acting is a reconciler for which these objects are there.
func acting(t *testing.T, calls interceptor.Funcs, objects ...client.Object) *DebounceReconciler {
	t.Helper()
	scheme := runtime.NewScheme()
	NewWithT(t).Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	NewWithT(t).Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithInterceptorFuncs(calls).Build()
	return &DebounceReconciler{Client: c, Live: c}
}

func aTemplate() *v1alpha1.JobAction {
	return &v1alpha1.JobAction{Template: batchv1.JobTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "shop"}, Annotations: map[string]string{"a": "b"}},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "init"}},
			Containers: []corev1.Container{{Name: "main", Env: []corev1.EnvVar{
				{Name: "OWN", Value: "$(REDISLOCK_DEBOUNCE_PAYLOAD)"}, {Name: v1alpha1.DebounceCallsEnv, Value: "mine"},
			}}, {Name: "side"}},
		}}},
	}}
}

func TestTheJobOfARun(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	d, a := newDebounce("rebuild"), aTemplate()
	template := a.Template.DeepCopy()
	job, err := acting(t, interceptor.Funcs{}).jobOf(d, a, redislock.DebounceRun{Generation: 1_790_000_000_000_000, Payload: []byte("$(HOME) $$ \xff ü"), Calls: 4})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(&a.Template).To(Equal(template), "the template stays as it is")
	g.Expect(job.Namespace + "/" + job.Name).To(Equal("ns/rebuild-hmi2nbki68"))
	g.Expect(job.Labels).To(Equal(map[string]string{"app": "shop", v1alpha1.DebounceLabel: "rebuild", v1alpha1.GenerationLabel: "1790000000000000"}))
	g.Expect(job.Annotations).To(Equal(map[string]string{"a": "b"}))
	g.Expect(metav1.IsControlledBy(job, d)).To(BeTrue())
	g.Expect(generationOf(job)).To(BeEquivalentTo(1_790_000_000_000_000))
	want := []corev1.EnvVar{
		{Name: v1alpha1.DebounceGenerationEnv, Value: "1790000000000000"},
		{Name: v1alpha1.DebouncePayloadEnv, Value: "$$(HOME) $$$$ \uFFFD ü"},
		{Name: v1alpha1.DebounceCallsEnv, Value: "4"},
	}
	pod := job.Spec.Template.Spec
	g.Expect(pod.InitContainers[0].Env).To(Equal(want))
	g.Expect(pod.Containers[0].Env).To(Equal(append(want[:3:3], corev1.EnvVar{Name: "OWN", Value: "$(REDISLOCK_DEBOUNCE_PAYLOAD)"})))
	g.Expect(pod.Containers[1].Env).To(Equal(want))

	_, err = acting(t, interceptor.Funcs{}).jobOf(d, a, redislock.DebounceRun{Generation: 1, Payload: []byte("a\x00b")})
	g.Expect(err).To(MatchError(ContainSubstring("NUL")))
}

func TestNamesOfJobs(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(jobName("a", 35)).To(Equal("a-z"))
	long := jobName(strings.Repeat("a", 63), 1<<53-1)
	g.Expect(long).To(HaveLen(63))
	g.Expect(long).To(HaveSuffix("a-2gosa7pa2gv"))
	g.Expect(jobName(strings.Repeat("a", 50)+"-.-b", 1<<53-1)).To(Equal(strings.Repeat("a", 50) + "-2gosa7pa2gv"))
	g.Expect(jobName(strings.Repeat("a", 63), 7)).NotTo(Equal(jobName(strings.Repeat("a", 63), 8)))
}

func TestOldJobsAreDeletedBeyondTheLimits(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	d := newDebounce("rebuild")
	aJob := func(generation uint64, end batchv1.JobConditionType, owner *v1alpha1.Debounce) client.Object {
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: fmt.Sprintf("job-%d", generation), UID: "uid",
			Labels: map[string]string{v1alpha1.DebounceLabel: "rebuild", v1alpha1.GenerationLabel: fmt.Sprint(generation)},
		}}
		if end != "" {
			job.Status.Conditions = []batchv1.JobCondition{{Type: end, Status: corev1.ConditionTrue}}
		}
		r := acting(t, interceptor.Funcs{})
		if owner != nil {
			g.Expect(controllerutil.SetControllerReference(owner, job, r.Scheme())).To(Succeed())
		}
		return job
	}
	other := newDebounce("rebuild")
	other.UID = "before"
	r := acting(t, interceptor.Funcs{},
		aJob(9, batchv1.JobComplete, d), aJob(10, batchv1.JobComplete, d), aJob(8, batchv1.JobComplete, d), aJob(7, batchv1.JobFailed, d),
		aJob(6, batchv1.JobFailed, d), aJob(1, "", d), aJob(2, batchv1.JobComplete, other), aJob(3, batchv1.JobComplete, nil))
	left := func() []string {
		var list batchv1.JobList
		g.Expect(r.List(t.Context(), &list)).To(Succeed())
		var names []string
		for _, job := range list.Items {
			names = append(names, strings.TrimPrefix(job.Name, "job-"))
		}
		return names
	}
	g.Expect(r.dropOldJobs(t.Context(), d, &v1alpha1.JobAction{SuccessfulJobsHistoryLimit: new(int32(2))})).To(Succeed())
	g.Expect(left()).To(ConsistOf("10", "9", "7", "1", "2", "3"))
	g.Expect(r.dropOldJobs(t.Context(), d, &v1alpha1.JobAction{SuccessfulJobsHistoryLimit: new(int32(0)), FailedJobsHistoryLimit: new(int32(0))})).To(Succeed())
	g.Expect(left()).To(ConsistOf("1", "2", "3"))
}

func TestAJobOfTheSameNameIsTheRunsOnlyIfItIsTheDebounces(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	d := newDebounce("rebuild")
	run := redislock.DebounceRun{Generation: 7}
	r := acting(t, interceptor.Funcs{})
	job, err := r.jobOf(d, aTemplate(), run)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(r.createJob(t.Context(), d, job.DeepCopy())).To(Succeed())
	g.Expect(r.createJob(t.Context(), d, job.DeepCopy())).To(Succeed(), "it is there")

	anew := newDebounce("rebuild")
	anew.UID = "other"
	theirs, err := r.jobOf(anew, aTemplate(), run)
	g.Expect(err).NotTo(HaveOccurred())
	err = r.createJob(t.Context(), anew, theirs.DeepCopy())
	g.Expect(err).To(MatchError(ContainSubstring("belongs to something else")))
	g.Expect(mayPass(err)).To(BeTrue(), "one of a deleted Debounce goes away")
	g.Expect(r.Live.Delete(t.Context(), job)).To(Succeed())
	g.Expect(r.createJob(t.Context(), anew, theirs.DeepCopy())).To(Succeed())
}

func TestARestartIsDoneOncePerGeneration(t *testing.T) {
	t.Parallel()
	for _, workload := range []client.Object{
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "shop"}},
		&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "shop"}},
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "shop"}},
	} {
		kind := strings.TrimPrefix(fmt.Sprintf("%T", workload), "*v1.")
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			d, a := newDebounce("restart"), &v1alpha1.RestartAction{Kind: v1alpha1.WorkloadKind(kind), Name: "shop"}
			// Somebody else writes between what is read and what is written.
			conflicts, patches := 1, 0
			r := acting(t, interceptor.Funcs{Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
				if conflicts--; conflicts >= 0 {
					return apierrors.NewConflict(appsv1.Resource("workloads"), "shop", nil)
				}
				patches++
				return c.Patch(ctx, o, p, opts...)
			}, Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				// As of an API server, what is read is put into what is there already.
				_, template := workloadOf(a.Kind)
				there := template(o).Annotations
				err := c.Get(ctx, key, o, opts...)
				for name, value := range there {
					metav1.SetMetaDataAnnotation(&template(o).ObjectMeta, name, value)
				}
				return err
			}}, workload.DeepCopyObject().(client.Object))
			restartedBy := func() string {
				o, template := workloadOf(a.Kind)
				g.Expect(r.Live.Get(t.Context(), client.ObjectKeyFromObject(workload), o)).To(Succeed())
				g.Expect(template(o).Annotations).To(HaveKey(v1alpha1.RestartedAtAnnotation))
				return template(o).Annotations[v1alpha1.RestartAnnotation]
			}
			for _, step := range []struct {
				generation uint64
				message    string
				patches    int
			}{
				{7, " was restarted", 1},
				{7, " was restarted before", 1},
				{9, " was restarted", 2},
				{8, " was restarted", 3}, // another Debounce's, whose last call may have come after
			} {
				message, err := r.restart(t.Context(), d, a, redislock.DebounceRun{Generation: step.generation})
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(message).To(Equal(kind + " shop" + step.message))
				g.Expect(patches).To(Equal(step.patches))
				g.Expect(restartedBy()).To(Equal(fmt.Sprint(step.generation)))
			}
			_, err := r.restart(t.Context(), d, &v1alpha1.RestartAction{Kind: a.Kind, Name: "none"}, redislock.DebounceRun{Generation: 9})
			g.Expect(apierrors.IsNotFound(err)).To(BeTrue())
		})
	}
}
