package controllers

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// letGo claims the run, which draws its fencing token and lengthens the key's expiry
// over the watchdog's window, and then lets the Job start by one patch. A crash in
// between leaves a claim, by which the next decision goes on.
func (g *guarding) letGo(ctx context.Context, job *guard.Job) (bool, error) {
	grant := g.running.Grant()
	if grant == nil {
		return false, nil
	}
	if live, err := g.mayLive(ctx, grant, job); err != nil {
		return false, err
	} else if live != "" {
		g.soon(time.Second)
		return false, nil
	}
	hold := g.hold()
	if !hold.Fresh {
		// Steps before this one took their time. With nothing left of the window, near the
		// grant's maxHold, the Job would start without a watchdog.
		g.soon(time.Second)
		return false, nil
	}
	claim, err := grant.Claim(ctx, fault.Claim(redislock.ClaimRequest{
		Run: job.Run, Claimant: guard.Claimant(g.ClusterUID, job.Job), Rerun: g.terms.Rerun, Shared: !g.terms.Exclusive,
		Cover: guard.Cover(job.Job, hold.Window), Retention: guard.Retention,
	}))
	switch {
	case errors.Is(err, redislock.ErrLost) && claim.Fence != 0:
		// The lease ended while the answer was under way. The Job was not let go for it.
		_, err := g.lockClient.ReopenRun(ctx, g.key, job.Run, claim.Fence)
		return false, err
	case errors.Is(err, redislock.ErrLost):
		return false, nil // the campaign tells
	case errors.Is(err, redislock.ErrNotClaimed):
		// The runs have changed since they were read. The next look sees how.
		ctrl.LoggerFrom(ctx).Info("A run was not claimed", "job", job.Name, "reason", err.Error())
		return false, nil
	case err != nil:
		return false, err
	}
	fault.Point("claimed")
	left := time.Until(grant.ValidUntil())
	if !grant.IsHeld() || left < lease(g.lock)/4 {
		return false, nil // claiming took long: the claim is gone on with when the lease is fresh
	}
	deadline := guard.FirstDeadline(job.Job, fault.Window(hold.Window))
	after := job.DeepCopy()
	setAnnotation(&after.ObjectMeta, v1alpha1.RunAnnotation, strconv.FormatUint(claim.Fence, 10))
	setAnnotation(&after.ObjectMeta, v1alpha1.GrantAnnotation, strconv.FormatUint(grant.Fence(), 10))
	delete(after.Annotations, v1alpha1.DeadlineAnnotation)
	if deadline.Own != nil {
		after.Annotations[v1alpha1.DeadlineAnnotation] = *deadline.Own
	}
	setAnnotation(&after.Spec.Template.ObjectMeta, v1alpha1.FencingTokenAnnotation, strconv.FormatUint(fault.Fence(claim.Fence, grant.Fence()), 10))
	if !slices.Contains(after.Finalizers, v1alpha1.OutcomeFinalizer) {
		after.Finalizers = append(after.Finalizers, v1alpha1.OutcomeFinalizer)
	}
	after.Spec.ActiveDeadlineSeconds = deadline.Seconds
	after.Spec.Suspend = new(false)

	bounded, cancel := context.WithTimeout(ctx, min(left/2, requestTimeout))
	defer cancel()
	err = g.patchJob(bounded, job.Job, after)
	fault.Point("let-go")
	switch {
	case err == nil:
		g.measureStart(job)
		g.tell(job.Job, eventLetGo(g.lock.Name, claim.Fence, claim.Kind == redislock.ClaimSuperseding))
		return true, nil
	case templateFrozen(err):
		return true, g.remake(ctx, job, claim.Fence)
	case apierrors.IsConflict(err), apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		return false, err
	}
	// Whether it was carried out is not known, and it may yet be. The claim stands, so
	// nothing else happens to the grant, and the next look finds the Job running or
	// lets it go again under the same claim.
	return false, err
}

// mayLive names a pod that still lives of an earlier run, where there may be one: the
// process before us may have recorded the end of a Job that somebody deleted, and of a
// Job that was stopped soon after it was let go the status may say nothing yet.
func (g *guarding) mayLive(ctx context.Context, grant *redislock.Lock, job *guard.Job) (string, error) {
	switch {
	case g.terms.Exclusive && (job.Fence != 0 || g.running.Observe().Adopted && g.memory.of(g.object()).served() != grant.Fence()):
		return g.livePods(ctx, g.object())
	case job.Fence != 0:
		return g.livePodsWith(ctx, job.Namespace, client.MatchingLabels{batchv1.ControllerUidLabel: string(job.UID)})
	}
	return "", nil
}

// templateFrozen: the Job ran before, and this API server does not let the template
// of such a Job change, so its pods could not learn the run's fencing token.
func templateFrozen(err error) bool {
	return apierrors.IsInvalid(err) && slices.ContainsFunc(causes(err), func(c metav1.StatusCause) bool {
		return strings.HasPrefix(c.Field, "spec.template")
	})
}

func causes(err error) []metav1.StatusCause {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	return status.Status().Details.Causes
}

// remake has another Job take the place of one whose template is frozen. The claim is
// given up first: a tick is then open, and its Job made anew like any that is missing.
func (g *guarding) remake(ctx context.Context, job *guard.Job, fence uint64) error {
	if _, err := g.lockClient.ReopenRun(ctx, g.key, job.Run, fence); err != nil {
		return err
	}
	fault.Point("reopened")
	if owner := metav1.GetControllerOf(job.Job); owner == nil || job.CronJob != nil && !job.IsTick() {
		err := g.Create(ctx, guard.NewReplacement(job.Job), client.FieldOwner(statusOwner))
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		fault.Point("replaced")
	}
	return g.removeJob(ctx, &guard.Step{Job: job, CronJob: job.CronJob, Reason: guard.ReasonReplaced,
		Message: "Job " + job.Name + " ran before and its template cannot change any more, so it is made again"})
}

// extend moves the key's expiry and then the Job's deadline ahead.
func (g *guarding) extend(ctx context.Context, step *guard.Step) error {
	grant := g.running.Grant()
	if grant == nil {
		return nil
	}
	hold := g.hold()
	if !hold.Held {
		return nil // the next look sees why
	}
	if err := grant.Cover(ctx, guard.Cover(step.Job.Job, hold.Window)); err != nil {
		if errors.Is(err, redislock.ErrLost) {
			return nil // the campaign tells
		}
		return err
	}
	fault.Point("covered")
	if step.Seconds == 0 {
		return nil
	}
	after := step.Job.DeepCopy()
	after.Spec.ActiveDeadlineSeconds = new(step.Seconds)
	bounded, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return g.patchJob(bounded, step.Job.Job, after)
}

// patchJob changes a Job if it still is as it was seen.
func (r *RedisLockReconciler) patchJob(ctx context.Context, before, after *batchv1.Job) error {
	err := r.Patch(ctx, after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(statusOwner))
	if err == nil {
		r.written.put(after)
	}
	return err
}

func setAnnotation(meta *metav1.ObjectMeta, key, value string) {
	if meta.Annotations == nil {
		meta.Annotations = map[string]string{}
	}
	meta.Annotations[key] = value
}
