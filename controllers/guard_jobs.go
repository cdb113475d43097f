package controllers

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/internal/guard"
)

// lockIndex is the index of guarded Jobs and CronJobs by the name of their lock.
const lockIndex = "redislock"

func indexJob(o client.Object) []string {
	if name := o.GetLabels()[v1alpha1.LockLabel]; name != "" {
		return []string{name}
	}
	return nil
}

func indexCronJob(o client.Object) []string {
	if name := lockOf(o.(*batchv1.CronJob)); name != "" {
		return []string{name}
	}
	return nil
}

func lockOf(c *batchv1.CronJob) string { return c.Spec.JobTemplate.Labels[v1alpha1.LockLabel] }

func (r *RedisLockReconciler) listCronJobs(ctx context.Context, namespace, lock string) ([]*batchv1.CronJob, error) {
	var list batchv1.CronJobList
	if err := r.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{lockIndex: lock}); err != nil {
		return nil, err
	}
	var cronJobs []*batchv1.CronJob
	for i := range list.Items {
		cronJobs = append(cronJobs, &list.Items[i])
	}
	return cronJobs, nil
}

// listJobs returns the Jobs of a lock as the cache has them or, where that is newer,
// as this process wrote them.
func (r *RedisLockReconciler) listJobs(ctx context.Context, namespace, lock string) ([]*batchv1.Job, error) {
	var list batchv1.JobList
	if err := r.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{lockIndex: lock}); err != nil {
		return nil, err
	}
	return r.written.over(types.NamespacedName{Namespace: namespace, Name: lock}, list.Items), nil
}

// removeJob deletes a Job if it still is as it was seen.
func (g *guarding) removeJob(ctx context.Context, step *guard.Step) error {
	job := step.Job.Job
	err := g.Delete(ctx, job, client.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err != nil {
		return err
	}
	fault.Point("removed")
	if err := g.noteRemoval(ctx, job); err != nil {
		return err
	}
	measureRemoved(g.object(), step)
	if step.CronJob != nil {
		g.tell(step.CronJob, jobEvent(removedType(step.Reason), step))
	} else {
		g.tell(job, jobEvent(removedType(step.Reason), step))
	}
	return nil
}

// noteRemoval remembers that a Job was deleted. One with a finalizer is there for a
// while: to the cache it is as before, so it would be let go once more, and the claim
// of that would be taken for one of a Job that somebody deleted.
func (g *guarding) noteRemoval(ctx context.Context, job *batchv1.Job) error {
	leaving := &batchv1.Job{}
	if len(job.Finalizers) > 0 {
		if err := g.Live.Get(ctx, client.ObjectKeyFromObject(job), leaving); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	if leaving.UID == job.UID {
		g.written.put(leaving)
	} else {
		g.written.gone(job)
	}
	return nil
}

func removedType(reason guard.Reason) string {
	switch reason {
	case guard.ReasonRanElsewhere, guard.ReasonReplaced, guard.ReasonRerun:
		return corev1.EventTypeNormal
	}
	return corev1.EventTypeWarning
}

// stopJob suspends a Job that runs without a hold behind it.
func (g *guarding) stopJob(ctx context.Context, step *guard.Step) error {
	g.unguarded(step.Job)
	if g.terms.DeleteOnLost && step.Job.Fence != 0 {
		if err := g.deleteLost(ctx, step.Job.Job); err != nil {
			return err
		}
	} else if err := g.suspend(ctx, step.Job.Job); err != nil {
		return err
	}
	g.tell(step.Job.Job, jobEvent(corev1.EventTypeWarning, step))
	return nil
}

// deleteLost deletes a Job because its lease was lost. The Job says so first, and only
// as it was seen: a successor may have gone on with it.
func (g *guarding) deleteLost(ctx context.Context, job *batchv1.Job) error {
	lost := job.DeepCopy()
	if lost.Annotations[v1alpha1.GrantAnnotation] != v1alpha1.LostGrant {
		setAnnotation(&lost.ObjectMeta, v1alpha1.GrantAnnotation, v1alpha1.LostGrant)
		if err := g.patchJob(ctx, job, lost); err != nil {
			return err
		}
		fault.Point("marked")
	}
	// In the foreground: its pods go first, and while they end the tick is not open.
	if err := g.Delete(ctx, lost, client.Preconditions{UID: &lost.UID}, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		return err
	}
	return g.noteRemoval(ctx, lost)
}

// unguarded tells of a running Job that was never let go.
func (r *RedisLockReconciler) unguarded(job *guard.Job) {
	if job.Fence == 0 && r.Unguarded != nil {
		r.Unguarded()
	}
}

func (r *RedisLockReconciler) suspend(ctx context.Context, job *batchv1.Job) error {
	after := job.DeepCopy()
	after.Spec.Suspend = new(true)
	return r.patchJob(ctx, job, after)
}

// makeJob makes the Job of a tick that has none here.
func (g *guarding) makeJob(ctx context.Context, step *guard.Step) (bool, error) {
	job := guard.NewTickJob(step.CronJob, step.Run.Tick)
	if err := g.Create(ctx, job, client.FieldOwner(statusOwner)); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return false, nil
		}
		// A quota, say. The lock is given back before this is tried again, for another
		// cluster may be able to.
		if grant := g.running.Grant(); grant != nil {
			g.memory.of(g.object()).ranUnder(grant.Fence())
		}
		if g.memory.of(g.object()).first(step.CronJob.UID, EventNotMade, err.Error()) {
			g.tell(step.CronJob, Event{corev1.EventTypeWarning, EventNotMade, ActionGuard,
				fmt.Sprintf("%s; but its Job cannot be made: %v", step.Message, err)})
		}
		return false, err
	}
	fault.Point("made")
	g.tell(step.CronJob, jobEvent(corev1.EventTypeNormal, step))
	return false, nil // it is on its way to the cache
}

// livePods names a pod of the Jobs of a lock that has not ended, past the cache; ""
// where there is none.
func (r *RedisLockReconciler) livePods(ctx context.Context, lock types.NamespacedName) (string, error) {
	return r.livePodsWith(ctx, lock.Namespace, client.MatchingLabels{v1alpha1.LockLabel: lock.Name})
}

func (r *RedisLockReconciler) livePodsWith(ctx context.Context, namespace string, labels client.MatchingLabels) (string, error) {
	var pods corev1.PodList
	if err := r.Live.List(ctx, &pods, client.InNamespace(namespace), labels); err != nil {
		return "", err
	}
	for i := range pods.Items {
		if phase := pods.Items[i].Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
			return pods.Items[i].Name, nil
		}
	}
	return "", nil
}

// written has the Jobs as this process wrote them last, until the cache is as far:
// what was decided on an older one would only conflict.
type written struct {
	mu     sync.Mutex
	byLock map[types.NamespacedName]map[types.UID]*batchv1.Job // nil: deleted
}

func lockOfJob(job *batchv1.Job) types.NamespacedName {
	return types.NamespacedName{Namespace: job.Namespace, Name: job.Labels[v1alpha1.LockLabel]}
}

func (w *written) put(job *batchv1.Job)  { w.set(job, job) }
func (w *written) gone(job *batchv1.Job) { w.set(job, nil) }

func (w *written) set(job, as *batchv1.Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lock := lockOfJob(job)
	if w.byLock == nil {
		w.byLock = map[types.NamespacedName]map[types.UID]*batchv1.Job{}
	}
	if w.byLock[lock] == nil {
		w.byLock[lock] = map[types.UID]*batchv1.Job{}
	}
	w.byLock[lock][job.UID] = as
}

// over lays what was written over what the cache has, and forgets what it has caught
// up with.
func (w *written) over(lock types.NamespacedName, cached []batchv1.Job) []*batchv1.Job {
	w.mu.Lock()
	defer w.mu.Unlock()
	known := w.byLock[lock]
	delete(w.byLock, lock)
	var jobs []*batchv1.Job
	for i := range cached {
		job := &cached[i]
		own, ok := known[job.UID]
		if ok && (own == nil || newer(own.ResourceVersion, job.ResourceVersion)) {
			w.keep(lock, job.UID, own)
			job = own
		}
		if job != nil {
			jobs = append(jobs, job)
		}
	}
	return jobs
}

func (w *written) keep(lock types.NamespacedName, uid types.UID, job *batchv1.Job) {
	if w.byLock[lock] == nil {
		w.byLock[lock] = map[types.UID]*batchv1.Job{}
	}
	w.byLock[lock][uid] = job
}

// newer compares resource versions, which are numbers that rise on every API server
// that is conformant.
func newer(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && errY == nil && x > y
}
