package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	// jobLease is how long a claim outlives its process once there is a Job, which goes on
	// without it. A manager of the same cluster goes on with it at once; after this another
	// cluster makes the Job again.
	jobLease = 5 * time.Minute
	// rewatch is the pause before a Job is watched anew.
	rewatch = time.Second
)

// runJob creates the Job of a generation, unless it is there, and waits for its end. Its
// name is made of the generation, so that whoever tries again finds it.
func (r *DebounceReconciler) runJob(ctx context.Context, d *v1alpha1.Debounce, a *v1alpha1.JobAction, run redislock.DebounceRun) (string, error) {
	job, err := r.jobOf(d, a, run)
	if err != nil {
		return "", err
	}
	if err := patiently(ctx, func() error { return r.createJob(ctx, d, job.DeepCopy()) }); err != nil {
		return "", fmt.Errorf("creating Job %s: %w", job.Name, err)
	}
	fault.Point("debounce.created")
	if err := run.SetLease(ctx, jobLease); err != nil {
		// Each renewal tries again; should the claim be lost, the Job has its name.
		ctrl.LoggerFrom(ctx).Info("Keeping the claim of a Job for longer", "job", job.Name, "error", err.Error())
	}
	ended, err := r.awaitJob(ctx, client.ObjectKeyFromObject(job), d)
	if err != nil {
		return "", err
	}
	fault.Point("debounce.ended")
	if ended.Type == batchv1.JobFailed {
		return "", fmt.Errorf("job %s failed: %s: %s", job.Name, ended.Reason, ended.Message)
	}
	return fmt.Sprintf("Job %s is complete", job.Name), nil
}

// createJob creates a Job unless this Debounce has it. One of a Debounce of this name
// that was deleted goes away by itself.
func (r *DebounceReconciler) createJob(ctx context.Context, d *v1alpha1.Debounce, job *batchv1.Job) error {
	taken := r.Live.Create(ctx, job, client.FieldOwner(statusOwner))
	if !apierrors.IsAlreadyExists(taken) {
		return taken
	}
	there := &batchv1.Job{}
	switch err := r.Live.Get(ctx, client.ObjectKeyFromObject(job), there); {
	case err != nil:
		return errors.Join(taken, client.IgnoreNotFound(err)) // gone in this moment
	case !metav1.IsControlledBy(there, d):
		return fmt.Errorf("it belongs to something else, delete or rename it: %w", taken)
	}
	return nil
}

// jobOf is the Job of a generation.
func (r *DebounceReconciler) jobOf(d *v1alpha1.Debounce, a *v1alpha1.JobAction, run redislock.DebounceRun) (*batchv1.Job, error) {
	template := a.Template.DeepCopy()
	generation := strconv.FormatUint(run.Generation, 10)
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: jobName(d.Name, run.Generation),
			Labels: maps.Clone(template.Labels), Annotations: template.Annotations,
		},
		Spec: template.Spec,
	}
	metav1.SetMetaDataLabel(&job.ObjectMeta, v1alpha1.DebounceLabel, d.Name)
	metav1.SetMetaDataLabel(&job.ObjectMeta, v1alpha1.GenerationLabel, generation)
	if strings.ContainsRune(string(run.Payload), 0) {
		return nil, errors.New("the payload has a NUL byte, which no environment variable can have: call with text")
	}
	variables := []corev1.EnvVar{
		{Name: v1alpha1.DebounceGenerationEnv, Value: generation},
		{Name: v1alpha1.DebouncePayloadEnv, Value: strings.ToValidUTF8(string(run.Payload), "\uFFFD")},
		{Name: v1alpha1.DebounceCallsEnv, Value: strconv.Itoa(run.Calls)},
	}
	pod := &job.Spec.Template.Spec
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			containers[i].Env = withVariables(containers[i].Env, variables)
		}
	}
	return job, controllerutil.SetControllerReference(d, job, r.Scheme())
}

// withVariables puts variables before a container's own, which may refer to them, in
// place of those of the same name.
func withVariables(own, variables []corev1.EnvVar) []corev1.EnvVar {
	own = slices.DeleteFunc(slices.Clone(own), func(e corev1.EnvVar) bool {
		return slices.ContainsFunc(variables, func(v corev1.EnvVar) bool { return v.Name == e.Name })
	})
	escaped := slices.Clone(variables)
	for i := range escaped {
		escaped[i].Value = strings.ReplaceAll(escaped[i].Value, "$", "$$") // or $(NAME) in it would be expanded
	}
	return append(escaped, own...)
}

// jobName is the Debounce's name, cut to fit, and the generation.
func jobName(debounce string, generation uint64) string {
	suffix := "-" + strconv.FormatUint(generation, 36)
	return strings.TrimRight(debounce[:min(len(debounce), 63-len(suffix))], "-.") + suffix
}

// awaitJob returns how a Job ended. One that went with its Debounce has not: whoever has
// the Debounce runs it again.
func (r *DebounceReconciler) awaitJob(ctx context.Context, key client.ObjectKey, d *v1alpha1.Debounce) (batchv1.JobCondition, error) {
	for {
		job := &batchv1.Job{}
		err := r.Live.Get(ctx, key, job)
		switch {
		case err == nil && !metav1.IsControlledBy(job, d):
			err = apierrors.NewNotFound(batchv1.Resource("jobs"), job.Name)
		case err == nil:
			ended := endOf(job)
			if ended == nil {
				ended, err = r.watchJob(ctx, job)
			}
			if ended != nil {
				return *ended, nil
			}
		}
		if apierrors.IsNotFound(err) && r.stands(ctx, d) {
			return batchv1.JobCondition{Type: batchv1.JobFailed, Reason: "Deleted", Message: "it was deleted before it ended"}, nil
		}
		if err := sleep(ctx, rewatch); err != nil {
			return batchv1.JobCondition{}, err
		}
	}
}

// stands says that a Debounce is there for certain, and stays.
func (r *DebounceReconciler) stands(ctx context.Context, d *v1alpha1.Debounce) bool {
	there := &v1alpha1.Debounce{}
	err := r.Live.Get(ctx, client.ObjectKeyFromObject(d), there)
	return err == nil && there.UID == d.UID && there.DeletionTimestamp.IsZero()
}

// watchJob returns how a Job ended, or nil where the watch ended first.
func (r *DebounceReconciler) watchJob(ctx context.Context, job *batchv1.Job) (*batchv1.JobCondition, error) {
	w, err := r.Live.Watch(ctx, &batchv1.JobList{}, &client.ListOptions{
		Namespace: job.Namespace, FieldSelector: fields.OneTermEqualSelector("metadata.name", job.Name),
		Raw: &metav1.ListOptions{ResourceVersion: job.ResourceVersion},
	})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case event, ok := <-w.ResultChan():
			if !ok {
				return nil, nil
			}
			switch event.Type {
			case watch.Deleted:
				if c := endOf(event.Object.(*batchv1.Job)); c != nil {
					return c, nil
				}
				return nil, apierrors.NewNotFound(batchv1.Resource("jobs"), job.Name)
			case watch.Added, watch.Modified:
				if c := endOf(event.Object.(*batchv1.Job)); c != nil {
					return c, nil
				}
			case watch.Error:
				return nil, apierrors.FromObject(event.Object)
			case watch.Bookmark:
			}
		}
	}
}

// endOf is the condition with which a Job ended; nil where it has not.
func endOf(job *batchv1.Job) *batchv1.JobCondition {
	for i, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

func generationOf(job *batchv1.Job) uint64 {
	generation, _ := strconv.ParseUint(job.Labels[v1alpha1.GenerationLabel], 10, 64)
	return generation
}
