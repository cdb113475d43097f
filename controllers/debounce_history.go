package controllers

import (
	"cmp"
	"context"
	"errors"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// dropOldJobs deletes the Jobs beyond the history limits when Redis has it that another
// run has ended. A Job that is deleted earlier would be made again, where whoever was to
// record its end dies.
func (r *DebounceReconciler) dropOldJobs(ctx context.Context, d *v1alpha1.Debounce, ended *redislock.EndedDebounce, m *debounceMemory) error {
	a := d.Spec.Action.Job
	if a == nil || ended == nil || ended.Generation == m.dropped {
		return nil
	}
	var list batchv1.JobList
	if err := r.Live.List(ctx, &list, client.InNamespace(d.Namespace), client.MatchingLabels{v1alpha1.DebounceLabel: d.Name}); err != nil {
		return err
	}
	byEnd := map[batchv1.JobConditionType][]*batchv1.Job{}
	for i := range list.Items {
		job := &list.Items[i]
		if c := endOf(job); c != nil && metav1.IsControlledBy(job, d) && generationOf(job) <= ended.Generation {
			byEnd[c.Type] = append(byEnd[c.Type], job)
		}
	}
	var errs []error
	for end, limit := range map[batchv1.JobConditionType]int32{
		batchv1.JobComplete: ptr.Deref(a.SuccessfulJobsHistoryLimit, v1alpha1.DefaultSuccessfulJobsHistoryLimit),
		batchv1.JobFailed:   ptr.Deref(a.FailedJobsHistoryLimit, v1alpha1.DefaultFailedJobsHistoryLimit),
	} {
		jobs := byEnd[end]
		slices.SortFunc(jobs, func(a, b *batchv1.Job) int { return -cmp.Compare(generationOf(a), generationOf(b)) })
		for _, job := range jobs[min(len(jobs), int(limit)):] {
			err := r.Live.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground), client.Preconditions{UID: &job.UID})
			errs = append(errs, client.IgnoreNotFound(err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	m.dropped = ended.Generation
	return nil
}
