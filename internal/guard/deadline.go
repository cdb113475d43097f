package guard

import (
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// coverMargin is what Kubernetes may need beyond a Job's deadline and its pods'
// termination grace: to notice the deadline, to delete the pods, to tell the kubelet.
const coverMargin = 5 * time.Second

// defaultGrace is Kubernetes' default of terminationGracePeriodSeconds.
const defaultGrace = 30 * time.Second

// Grace is how long the pods of a Job may take to end.
func Grace(job *batchv1.Job) time.Duration {
	if s := job.Spec.Template.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(max(*s, 1)) * time.Second
	}
	return defaultGrace
}

// Cover is for how long the key must stand from a moment at which a Job's deadline
// is at most a watchdog's window away, so that nobody else starts before its last pod
// has ended though nobody renews. 0 where there is no watchdog.
func Cover(job *batchv1.Job, watchdog time.Duration) time.Duration {
	if watchdog == 0 {
		return 0
	}
	return watchdog + Grace(job) + coverMargin
}

// A Deadline is the activeDeadlineSeconds for a Job that is let go or runs.
type Deadline struct {
	Seconds *int64 // nil: none
	// Own is the Job's own, for DeadlineAnnotation; nil where there is no watchdog.
	Own *string
}

// FirstDeadline is for a Job that is let go. Kubernetes counts it from a start that
// comes later, so a quarter of the window is kept back for that.
func FirstDeadline(job *batchv1.Job, window time.Duration) Deadline {
	own := ownDeadline(job)
	d := Deadline{Seconds: own}
	if window > 0 {
		seconds := max(1, int64(window*3/4/time.Second))
		d.Seconds, d.Own = new(shorter(seconds, own)), new("")
		if own != nil {
			d.Own = new(strconv.FormatInt(*own, 10))
		}
	}
	return d
}

// Prolong says whether the deadline of a running Job is to be moved ahead now, to
// which, and when to look again. Kubernetes ends the Job at its start plus the
// deadline.
func Prolong(job *batchv1.Job, window time.Duration, now time.Time) (seconds int64, due bool, next time.Time) {
	if window <= 0 || job.Spec.ActiveDeadlineSeconds == nil {
		return 0, false, time.Time{}
	}
	if job.Status.StartTime == nil || condition(job, batchv1.JobSuspended) != nil {
		// Nothing is counted yet, or the start is that of an earlier run and will be set
		// anew. The key must stand all the same for when it is.
		return 0, true, now.Add(window / 8)
	}
	start, current := job.Status.StartTime.Time, *job.Spec.ActiveDeadlineSeconds
	own := ownDeadline(job)
	if own != nil && current >= *own {
		return 0, false, time.Time{} // it has come to its own
	}
	ends := start.Add(time.Duration(current) * time.Second)
	if left := ends.Sub(now); left > window/2 {
		return 0, false, now.Add(left - window/2)
	}
	seconds = shorter(int64(now.Add(window).Sub(start)/time.Second), own)
	if seconds <= current {
		return 0, false, now.Add(window / 8)
	}
	return seconds, true, now.Add(window / 2)
}

// endedByWatchdog says that a Job failed because its deadline was not moved ahead any
// more, and not by a deadline of its own.
func endedByWatchdog(job *batchv1.Job) bool {
	failed := condition(job, batchv1.JobFailed)
	if failed == nil || failed.Reason != batchv1.JobReasonDeadlineExceeded || job.Spec.ActiveDeadlineSeconds == nil {
		return false
	}
	if _, watched := job.Annotations[v1alpha1.DeadlineAnnotation]; !watched {
		return false
	}
	own := ownDeadline(job)
	return own == nil || *job.Spec.ActiveDeadlineSeconds < *own
}

// ownDeadline is the one with which the Job was made.
func ownDeadline(job *batchv1.Job) *int64 {
	kept, watched := job.Annotations[v1alpha1.DeadlineAnnotation]
	if !watched {
		return job.Spec.ActiveDeadlineSeconds
	}
	if n, err := strconv.ParseInt(kept, 10, 64); err == nil {
		return &n
	}
	return nil
}

func shorter(seconds int64, own *int64) int64 {
	if own != nil {
		return min(seconds, *own)
	}
	return seconds
}
