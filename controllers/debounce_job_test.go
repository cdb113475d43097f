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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
)

// newDebounce stores one.
func newDebounce(t *testing.T, kube client.Client, namespace, name string, change ...func(*v1alpha1.DebounceSpec)) *v1alpha1.Debounce {
	t.Helper()
	d := &v1alpha1.Debounce{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	d.Spec.Action.Restart = &v1alpha1.RestartAction{Kind: v1alpha1.WorkloadDeployment, Name: "shop"}
	for _, f := range change {
		f(&d.Spec)
	}
	NewWithT(t).Expect(kube.Create(t.Context(), d)).To(Succeed())
	return d
}

// newActing is a reconciler, and a namespace for it. What comes to its calls is up to the
// interceptor.
func newActing(t *testing.T, calls interceptor.Funcs) (*DebounceReconciler, string) {
	t.Helper()
	kube := newKube(t)
	live := interceptor.NewClient(kube, calls)
	return &DebounceReconciler{Client: live, Live: live}, newNamespace(t, kube)
}

// end plays the Job controller.
func end(t *testing.T, kube client.Client, job *batchv1.Job, how batchv1.JobConditionType) {
	t.Helper()
	at := metav1.Now()
	before := map[batchv1.JobConditionType]batchv1.JobConditionType{
		batchv1.JobComplete: batchv1.JobSuccessCriteriaMet, batchv1.JobFailed: batchv1.JobFailureTarget,
	}
	job.Status.StartTime = &at
	if how == batchv1.JobComplete {
		job.Status.CompletionTime = &at
	}
	for _, kind := range []batchv1.JobConditionType{before[how], how} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
			Type: kind, Status: corev1.ConditionTrue, Reason: "Because", Message: "so it is", LastTransitionTime: at,
		})
	}
	NewWithT(t).Expect(kube.Status().Update(t.Context(), job)).To(Succeed())
}

func aTemplate() *v1alpha1.JobAction {
	return &v1alpha1.JobAction{Template: batchv1.JobTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "shop"}, Annotations: map[string]string{"a": "b"}},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy:  corev1.RestartPolicyNever,
			InitContainers: []corev1.Container{{Name: "init", Image: "none"}},
			Containers: []corev1.Container{{Name: "main", Image: "none", Env: []corev1.EnvVar{
				{Name: "OWN", Value: "$(REDISLOCK_DEBOUNCE_PAYLOAD)"}, {Name: v1alpha1.DebounceCallsEnv, Value: "mine"},
			}}, {Name: "side", Image: "none"}},
		}}},
	}}
}

func TestTheJobOfARun(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	r, namespace := newActing(t, interceptor.Funcs{})
	d, a := newDebounce(t, r, namespace, "rebuild"), aTemplate()
	template := a.Template.DeepCopy()
	job, err := r.jobOf(d, a, redislock.DebounceRun{Generation: 1_790_000_000_000_000, Payload: []byte("$(HOME) $$ \xff ü"), Calls: 4})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(&a.Template).To(Equal(template), "the template stays as it is")
	g.Expect(job.Namespace + "/" + job.Name).To(Equal(namespace + "/rebuild-hmi2nbki68"))
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

	g.Expect(r.Create(t.Context(), job)).To(Succeed(), "the API server takes it")

	_, err = r.jobOf(d, a, redislock.DebounceRun{Generation: 1, Payload: []byte("a\x00b")})
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
	r, namespace := newActing(t, interceptor.Funcs{})
	d, other := newDebounce(t, r, namespace, "rebuild"), newDebounce(t, r, namespace, "other")
	for generation, is := range map[uint64]struct {
		end   batchv1.JobConditionType
		owner *v1alpha1.Debounce
	}{
		10: {batchv1.JobComplete, d}, 9: {batchv1.JobComplete, d}, 8: {batchv1.JobComplete, d}, 7: {batchv1.JobFailed, d}, 6: {batchv1.JobFailed, d},
		3: {batchv1.JobComplete, nil}, 2: {batchv1.JobComplete, other}, 1: {"", d},
	} {
		job := wrappers.MakeJob(namespace, fmt.Sprintf("job-%d", generation)).
			Label(v1alpha1.DebounceLabel, d.Name).Label(v1alpha1.GenerationLabel, fmt.Sprint(generation)).Obj()
		if is.owner != nil {
			g.Expect(controllerutil.SetControllerReference(is.owner, job, r.Scheme())).To(Succeed())
		}
		g.Expect(r.Create(t.Context(), job)).To(Succeed())
		if is.end != "" {
			end(t, r, job, is.end)
		}
	}
	left := func() []string {
		var list batchv1.JobList
		g.Expect(r.List(t.Context(), &list, client.InNamespace(namespace))).To(Succeed())
		var names []string
		for _, job := range list.Items {
			names = append(names, strings.TrimPrefix(job.Name, "job-"))
		}
		return names
	}
	drop := func(ended uint64, m *debounceMemory, a v1alpha1.JobAction) {
		t.Helper()
		d := d.DeepCopy()
		d.Spec.Action.Job = &a
		g.Expect(r.dropOldJobs(t.Context(), d, &redislock.EndedDebounce{Generation: ended}, m)).To(Succeed())
	}
	none := v1alpha1.JobAction{SuccessfulJobsHistoryLimit: new(int32(0)), FailedJobsHistoryLimit: new(int32(0))}
	drop(10, &debounceMemory{}, v1alpha1.JobAction{SuccessfulJobsHistoryLimit: new(int32(2))})
	g.Expect(left()).To(ConsistOf("10", "9", "7", "1", "2", "3"))
	drop(10, &debounceMemory{dropped: 10}, none)
	g.Expect(left()).To(HaveLen(6), "that was done before")
	m := &debounceMemory{}
	drop(9, m, none)
	g.Expect(left()).To(ConsistOf("10", "1", "2", "3"), "that 10 has ended is not recorded yet")
	g.Expect(m.dropped).To(BeEquivalentTo(9))
	drop(10, m, none)
	g.Expect(left()).To(ConsistOf("1", "2", "3"))
}

func TestAJobOfTheSameNameIsTheRunsOnlyIfItIsTheDebounces(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	r, namespace := newActing(t, interceptor.Funcs{})
	d := newDebounce(t, r, namespace, "rebuild")
	run := redislock.DebounceRun{Generation: 7}
	job, err := r.jobOf(d, aTemplate(), run)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(r.createJob(t.Context(), d, job.DeepCopy())).To(Succeed())
	g.Expect(r.createJob(t.Context(), d, job.DeepCopy())).To(Succeed(), "it is there")

	g.Expect(r.Delete(t.Context(), d)).To(Succeed())
	anew := newDebounce(t, r, namespace, d.Name)
	theirs, err := r.jobOf(anew, aTemplate(), run)
	g.Expect(err).NotTo(HaveOccurred())
	err = r.createJob(t.Context(), anew, theirs.DeepCopy())
	g.Expect(err).To(MatchError(ContainSubstring("belongs to something else")))
	g.Expect(mayPass(err)).To(BeTrue(), "one of a deleted Debounce goes away")
	g.Expect(r.Delete(t.Context(), job, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
	g.Expect(r.createJob(t.Context(), anew, theirs.DeepCopy())).To(Succeed())
}

func TestARunEndsWithItsJob(t *testing.T) {
	t.Parallel()
	type play = func(*testing.T, client.Client, *batchv1.Job)
	ends := func(how batchv1.JobConditionType) play {
		return func(t *testing.T, kube client.Client, job *batchv1.Job) { end(t, kube, job, how) }
	}
	deleted := func(t *testing.T, kube client.Client, job *batchv1.Job) {
		NewWithT(t).Expect(kube.Delete(t.Context(), job, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
	}
	replaced := func(t *testing.T, kube client.Client, job *batchv1.Job) {
		deleted(t, kube, job)
		NewWithT(t).Expect(kube.Create(t.Context(), wrappers.MakeJob(job.Namespace, job.Name).Obj())).To(Succeed())
	}
	const gone = "job rebuild-7 failed: Deleted: it was deleted before it ended"
	for name, tc := range map[string]struct {
		play    play
		unseen  bool // the watch breaks before
		failure string
	}{
		"complete":                  {ends(batchv1.JobComplete), false, ""},
		"failed":                    {ends(batchv1.JobFailed), false, "job rebuild-7 failed: Because: so it is"},
		"deleted":                   {deleted, false, gone},
		"complete, watched by none": {ends(batchv1.JobComplete), true, ""},
		"deleted, watched by none":  {deleted, true, gone},
		"replaced, watched by none": {replaced, true, gone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			played := false
			var namespace string
			var r *DebounceReconciler
			r, namespace = newActing(t, interceptor.Funcs{Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
				w, err := c.Watch(ctx, list, opts...)
				g.Expect(err).NotTo(HaveOccurred())
				if !played {
					played = true
					if tc.unseen {
						w.Stop()
					}
					var jobs batchv1.JobList
					g.Expect(c.List(ctx, &jobs, client.InNamespace(namespace))).To(Succeed())
					g.Expect(jobs.Items).To(HaveLen(1))
					tc.play(t, c, &jobs.Items[0])
				}
				return w, nil
			}})
			d := newDebounce(t, r, namespace, "rebuild")
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			message, err := r.runJob(ctx, d, aTemplate(), redislock.DebounceRun{Generation: 7})
			if tc.failure != "" {
				g.Expect(err).To(MatchError(tc.failure))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(message).To(Equal("Job rebuild-7 is complete"))
		})
	}
}

// The garbage collector may be faster than this controller's cache.
func TestAJobThatGoesWithItsDebounceHasNotFailed(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"deleted": false, "made again": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			looks := make(chan struct{}, 100)
			r, namespace := newActing(t, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if _, ok := o.(*v1alpha1.Debounce); ok {
					looks <- struct{}{}
				}
				return c.Get(ctx, key, o, opts...)
			}})
			d := newDebounce(t, r, namespace, "rebuild")
			job, err := r.jobOf(d, aTemplate(), redislock.DebounceRun{Generation: 7})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(r.Delete(t.Context(), d)).To(Succeed())
			if again {
				newDebounce(t, r, namespace, d.Name)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			result := make(chan error, 1)
			go func() {
				_, err := r.awaitJob(ctx, client.ObjectKeyFromObject(job), d)
				result <- err
			}()
			for range 2 {
				g.Eventually(looks).WithTimeout(within).Should(Receive())
			}
			cancel()
			g.Eventually(result).WithTimeout(within).Should(Receive(MatchError(context.Canceled)))
		})
	}
}

func TestARestartIsDoneOncePerGeneration(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"app": "shop"}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	pods := wrappers.MakeJob("", "").Obj().Spec.Template
	pods.Labels, pods.Spec.RestartPolicy = labels, corev1.RestartPolicyAlways
	shop := metav1.ObjectMeta{Name: "shop"}
	for _, workload := range []client.Object{
		&appsv1.Deployment{ObjectMeta: shop, Spec: appsv1.DeploymentSpec{Selector: selector, Template: pods}},
		&appsv1.StatefulSet{ObjectMeta: shop, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: pods}},
		&appsv1.DaemonSet{ObjectMeta: shop, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: pods}},
	} {
		kind := strings.TrimPrefix(fmt.Sprintf("%T", workload), "*v1.")
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			a := &v1alpha1.RestartAction{Kind: v1alpha1.WorkloadKind(kind), Name: "shop"}
			conflicts, patches := 0, 0
			r, namespace := newActing(t, interceptor.Funcs{Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
				if conflicts == 0 {
					// Somebody else writes between what is read and what is written.
					there, _ := workloadOf(a.Kind)
					there.SetNamespace(o.GetNamespace())
					there.SetName(o.GetName())
					g.Expect(c.Patch(ctx, there, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"by":"another"}}}`)))).To(Succeed())
				}
				err := c.Patch(ctx, o, p, opts...)
				switch {
				case err == nil:
					patches++
				case apierrors.IsConflict(err):
					conflicts++
				}
				return err
			}})
			d := newDebounce(t, r, namespace, "restart")
			workload.SetNamespace(namespace)
			g.Expect(r.Create(t.Context(), workload)).To(Succeed())
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
			g.Expect(conflicts).To(Equal(1))
			_, err := r.restart(t.Context(), d, &v1alpha1.RestartAction{Kind: a.Kind, Name: "none"}, redislock.DebounceRun{Generation: 9})
			g.Expect(apierrors.IsNotFound(err)).To(BeTrue())
		})
	}
}
