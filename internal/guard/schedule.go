package guard

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// LatestTick returns the last scheduled time of a CronJob that is not after now; zero
// where there is none since it exists, and where it is not known here: without a time
// zone, that of the machine decides on which the controller manager runs.
func LatestTick(c *batchv1.CronJob, now time.Time) time.Time {
	if c.Spec.TimeZone == nil || strings.Contains(c.Spec.Schedule, "TZ") {
		return time.Time{}
	}
	schedule, err := cron.ParseStandard(fmt.Sprintf("TZ=%s %s", *c.Spec.TimeZone, c.Spec.Schedule))
	if _, fixed := schedule.(*cron.SpecSchedule); err != nil || !fixed {
		return time.Time{} // "@every" counts from when it is asked
	}
	// The schedule only knows what comes next, so the last of its times is searched for
	// by halves. A schedule of which no time came yet, or ever, needs one step.
	latest := schedule.Next(c.CreationTimestamp.Time)
	if latest.IsZero() || latest.After(now) {
		return time.Time{}
	}
	for before := now; before.Sub(latest) > time.Second; {
		middle := latest.Add(before.Sub(latest) / 2)
		if next := schedule.Next(middle); next.IsZero() || next.After(now) {
			before = middle
		} else {
			latest = next
		}
	}
	return latest
}

// JobName is what the CronJob controller calls the Job of a tick.
func JobName(c *batchv1.CronJob, tick time.Time) string {
	return fmt.Sprintf("%s-%d", c.Name, tick.Unix()/60)
}

// NewTickJob is the Job of a tick as the CronJob controller makes it.
func NewTickJob(c *batchv1.CronJob, tick time.Time) *batchv1.Job {
	template := c.Spec.JobTemplate.DeepCopy()
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Namespace: c.Namespace, Name: JobName(c, tick),
		Labels: template.Labels, Annotations: template.Annotations,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(c, batchv1.SchemeGroupVersion.WithKind("CronJob"))},
	}, Spec: template.Spec}
	if job.Annotations == nil {
		job.Annotations = map[string]string{}
	}
	zone, err := time.LoadLocation(ptr.Deref(c.Spec.TimeZone, ""))
	if err != nil {
		zone = time.UTC
	}
	job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = tick.In(zone).Format(time.RFC3339)
	job.Spec.Suspend = new(true)
	return job
}

// NewReplacement is a Job like one that ran before and whose template is frozen: the
// fencing token of its next run could not reach its pods.
func NewReplacement(old *batchv1.Job) *batchv1.Job {
	spec := old.Spec.DeepCopy()
	if kept, watched := old.Annotations[v1alpha1.DeadlineAnnotation]; watched {
		spec.ActiveDeadlineSeconds = nil
		if own := ownDeadline(old); kept != "" && own != nil {
			spec.ActiveDeadlineSeconds = own
		}
	}
	if !ptr.Deref(spec.ManualSelector, false) {
		spec.Selector = nil
		for _, label := range []string{"controller-uid", "job-name", batchv1.ControllerUidLabel, batchv1.JobNameLabel} {
			delete(spec.Template.Labels, label)
		}
	}
	delete(spec.Template.Annotations, v1alpha1.FencingTokenAnnotation)
	spec.Suspend = new(true)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Namespace: old.Namespace, Name: replacementName(old),
		Labels: map[string]string{}, Annotations: map[string]string{v1alpha1.ReplacesAnnotation: string(old.UID)},
		OwnerReferences: old.OwnerReferences,
	}, Spec: *spec}
	for key, value := range old.Labels {
		switch key {
		case "controller-uid", "job-name", batchv1.ControllerUidLabel, batchv1.JobNameLabel:
		default:
			job.Labels[key] = value
		}
	}
	for key, value := range old.Annotations {
		switch key {
		case v1alpha1.RunAnnotation, v1alpha1.GrantAnnotation, v1alpha1.DeadlineAnnotation, v1alpha1.ReplacesAnnotation:
		default:
			job.Annotations[key] = value
		}
	}
	return job
}

// replacementName differs from the old one and is the same whoever makes it.
func replacementName(old *batchv1.Job) string {
	suffix := "-" + string(old.UID)
	if len(old.UID) > 8 {
		suffix = "-" + string(old.UID)[:8]
	}
	return old.Name[:min(len(old.Name), 63-len(suffix))] + suffix
}
