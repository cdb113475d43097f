package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// recordOutcome has Redis record how a run ended, or that it is to be done again, and
// then lets the Job go. It answers false while the Job's pods still end.
func (g *guarding) recordOutcome(ctx context.Context, step *guard.Step) (bool, error) {
	if g.lockClient == nil {
		return false, fmt.Errorf("the outcome of Job %s cannot be recorded: %s", step.Job.Name, g.problem.message)
	}
	if step.Job.Lost && step.Job.Phase == guard.Leaving {
		live, err := g.livePodsWith(ctx, step.Job.Namespace, client.MatchingLabels{batchv1.ControllerUidLabel: string(step.Job.UID)})
		if err != nil {
			return false, err
		}
		if live != "" {
			g.soon(time.Second)
			return false, nil
		}
	}
	if err := g.finish(ctx, step); err != nil {
		return false, err
	}
	fault.Point("recorded")
	g.memory.of(g.object()).ranUnder(step.Job.Grant)
	if step.Message != "" {
		g.tell(step.Job.Job, jobEvent(corev1.EventTypeWarning, step))
	}
	return true, g.dropFinalizer(ctx, step.Job.Job)
}

// finish ends a run in Redis. A crash behind it repeats it, which changes nothing.
func (g *guarding) finish(ctx context.Context, step *guard.Step) error {
	asking, done := g.untilLost(ctx)
	defer done()
	var first bool
	if step.Kind == guard.Reopen {
		result, err := g.lockClient.ReopenRun(asking, g.key, step.Run, step.Fence)
		if err != nil {
			return err
		}
		first = result == redislock.Reopened
	} else {
		result, err := g.lockClient.FinishRun(asking, g.key, step.Run, step.Fence, string(step.Outcome), step.Outcome == guard.Complete)
		if err != nil {
			return err
		}
		first = result == redislock.FinishDone
	}
	if first {
		measureRun(g.object(), step.Outcome, step.Run)
	}
	return nil
}

// dropFinalizer lets a Job go whose outcome is recorded.
func (r *RedisLockReconciler) dropFinalizer(ctx context.Context, job *batchv1.Job) error {
	after := job.DeepCopy()
	after.Finalizers = slices.DeleteFunc(after.Finalizers, func(f string) bool { return f == v1alpha1.OutcomeFinalizer })
	if len(after.Finalizers) == len(job.Finalizers) {
		return nil
	}
	if err := r.patchJob(ctx, job, after); err != nil {
		return client.IgnoreNotFound(err)
	}
	if job.DeletionTimestamp != nil && len(after.Finalizers) == 0 {
		r.written.gone(job)
	}
	return nil
}

// voidClaim gives up a claim whose Job is not to start. The Job's resourceVersion is
// moved first, so that a patch which lets it go and is still on its way conflicts.
func (g *guarding) voidClaim(ctx context.Context, step *guard.Step) error {
	after := step.Job.DeepCopy()
	mark := fmt.Sprint(step.Fence)
	if after.Annotations[v1alpha1.GrantAnnotation] == mark {
		mark = "0"
	}
	setAnnotation(&after.ObjectMeta, v1alpha1.GrantAnnotation, mark)
	if err := g.patchJob(ctx, step.Job.Job, after); err != nil {
		return err
	}
	fault.Point("voided")
	asking, done := g.untilLost(ctx)
	defer done()
	_, err := g.lockClient.ReopenRun(asking, g.key, step.Run, step.Fence)
	return err
}

// buryClaim records the end of a claim whose Job is gone, once its pods are too.
func (g *guarding) buryClaim(ctx context.Context, step *guard.Step) (bool, error) {
	var jobs batchv1.JobList
	if err := g.Live.List(ctx, &jobs, client.InNamespace(g.lock.Namespace), client.MatchingLabels{v1alpha1.LockLabel: g.lock.Name}); err != nil {
		return false, err
	}
	runs, err := g.lockClient.Runs(ctx, g.key)
	if err != nil {
		return false, err
	}
	claimed := slices.IndexFunc(runs.Active, func(a redislock.ActiveRun) bool { return a.Fence == step.Fence })
	if claimed < 0 || slices.ContainsFunc(jobs.Items, func(j batchv1.Job) bool {
		return guard.Claimant(g.ClusterUID, &j) == runs.Active[claimed].Claimant
	}) {
		return false, nil
	}
	if live, err := g.livePods(ctx, g.object()); err != nil || live != "" {
		return false, err
	}
	if err := g.finish(ctx, step); err != nil {
		return false, err
	}
	g.memory.of(g.object()).ranUnder(runs.Active[claimed].Grant)
	return true, nil
}

// forfeit records a tick as lost that is not to be run again.
func (g *guarding) forfeit(ctx context.Context, step *guard.Step) error {
	if err := g.finish(ctx, step); err != nil {
		return err
	}
	if step.CronJob != nil {
		g.tell(step.CronJob, jobEvent(corev1.EventTypeWarning, step))
	}
	return nil
}
