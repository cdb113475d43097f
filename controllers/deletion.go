package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/guard"
)

// orphans sees to Jobs whose lock is not there: they stay suspended. Where the lock's
// finalizer was taken away by force it is given back when nothing of them runs.
func (r *RedisLockReconciler) orphans(ctx context.Context, lock types.NamespacedName) (ctrl.Result, error) {
	jobs, err := r.listJobs(ctx, lock.Namespace, lock.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !r.Leads() { // asked when they are listed: see hold
		return ctrl.Result{RequeueAfter: unsurePause}, nil
	}
	var errs []error
	stopping := false
	for _, job := range jobs {
		switch j := guard.NewJob(job, nil); j.Phase {
		case guard.Stopping:
			stopping = true
		case guard.Running:
			stopping = true
			r.unguarded(j)
			errs = append(errs, client.IgnoreNotFound(r.suspend(ctx, job)))
			r.tell(job, missingLock(job, lock.Name))
		case guard.Waiting:
			if r.memory.of(lock).first(job.UID, EventLockMissing, "") {
				r.tell(job, missingLock(job, lock.Name))
			}
		case guard.Ended, guard.Leaving:
			errs = append(errs, r.dropFinalizer(ctx, job))
		}
	}
	live, err := r.livePods(ctx, lock)
	if err = errors.Join(append(errs, err)...); err != nil {
		return ctrl.Result{}, err
	}
	if stopping || live != "" {
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	if len(jobs) == 0 {
		r.forget(lock)
	}
	return ctrl.Result{}, r.Campaigns.Release(ctx, lock)
}

func (r *RedisLockReconciler) forget(object types.NamespacedName) {
	forgetLock(object)
	forgetJobs(object)
	r.memory.forget(object)
}

// finalize lets the object go when nothing runs under the lock any more and it has
// been given back. Redis may delay that by one expiry at most: by then the lease has
// lapsed. err is why the guard could not do all that it had to. It answers false while
// the object has to stay.
func (r *RedisLockReconciler) finalize(ctx context.Context, g *guarding, err error) (bool, error) {
	lock, object := g.lock, g.object()
	if g.plan.Active > 0 {
		g.problem = &problem{v1alpha1.ReasonDeleting, fmt.Sprintf("this object stays until the guarded Jobs that run have ended: %d", g.plan.Active)}
		return false, nil
	}
	lapses := lock.DeletionTimestamp.Add(lease(lock) + lockDelay(lock))
	left := time.Until(lapses)
	usable := g.problem == nil
	if usable {
		// While it is held something may run under it: the guard gives it back.
		if o := g.running.Observe(); o.Held || !o.Known && left > 0 {
			g.problem = &problem{v1alpha1.ReasonDeleting, cmp.Or(g.kept, "the lock is being given back")}
			g.soon(releaseRetry)
			return false, nil
		}
	}
	// However long that takes: of a Job that was deleted, pods live on for their grace.
	live, failed := r.livePods(ctx, object)
	if failed != nil {
		return false, failed
	}
	if live != "" {
		g.problem = &problem{v1alpha1.ReasonDeleting, fmt.Sprintf("this object stays until pod %s of a guarded Job has ended", live)}
		g.soon(releaseRetry)
		return false, nil
	}
	if usable && err == nil {
		spec, _ := r.spec(lock)
		if err = r.Campaigns.Release(ctx, object); err == nil {
			err = campaign.Clear(ctx, spec)
		}
	}
	if err != nil && left > 0 {
		g.problem = &problem{v1alpha1.ReasonDeleting, fmt.Sprintf("the lock could not be given back yet, so this object stays until it lapses, at %s at the latest: %v",
			lapses.UTC().Format(time.RFC3339), err)}
		g.soon(min(releaseRetry, left))
		return false, nil
	}
	before := lock.DeepCopy()
	controllerutil.RemoveFinalizer(lock, v1alpha1.ReleaseFinalizer)
	if err := r.Patch(ctx, lock, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(statusOwner)); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	r.forget(object)
	return true, nil
}
