package guard

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Phase is how a guarded Job stands.
type Phase string

const (
	// Waiting: it is suspended and nothing of it runs.
	Waiting Phase = "Waiting"
	// Running: it was let go, and has not ended.
	Running Phase = "Running"
	// Stopping: it was suspended again, and may have pods.
	Stopping Phase = "Stopping"
	// Ended: it is Complete or Failed, and none of its pods is left running.
	Ended Phase = "Ended"
	// Leaving: it is being deleted without having ended.
	Leaving Phase = "Leaving"
)

// Job is a guarded Job and what it says of itself.
type Job struct {
	*batchv1.Job
	Phase Phase
	// Run is what it would run: a tick of its CronJob, or a run of its own.
	Run redislock.Run
	// CronJob is the one that owns it; nil for other Jobs.
	CronJob *batchv1.CronJob
	// Fence is the fencing token of the run for which it was let go last, and Grant
	// that of the grant; 0 while it never was.
	Fence, Grant uint64
	// Stopped is since when it is seen to wait after a run; zero where it did not run.
	Stopped time.Time
	// Lost: the operator deletes it because its lease was lost.
	Lost bool
}

// NewJob reads a Job. An owner counts only where cronJobs has it: anybody may write
// an owner reference.
func NewJob(job *batchv1.Job, cronJobs []*batchv1.CronJob) *Job {
	j := &Job{Job: job, Phase: phase(job), Fence: number(job, v1alpha1.RunAnnotation), Grant: number(job, v1alpha1.GrantAnnotation),
		Lost: job.Annotations[v1alpha1.GrantAnnotation] == v1alpha1.LostGrant}
	if owner := metav1.GetControllerOf(job); owner != nil && owner.Kind == "CronJob" {
		i := slices.IndexFunc(cronJobs, func(c *batchv1.CronJob) bool { return c.UID == owner.UID && c.Name == owner.Name })
		if i >= 0 {
			j.CronJob = cronJobs[i]
		}
	}
	j.Run = redislock.Run{ID: fmt.Sprintf("%s/%s/%s", job.Namespace, job.Name, job.UID)}
	if j.CronJob != nil {
		// The same instant is written differently where time zones differ.
		if at, err := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation]); err == nil {
			j.Run = redislock.Run{Series: Series(j.CronJob), Tick: at.UTC()}
		}
	}
	return j
}

// IsTick says whether the Job is for a tick.
func (j *Job) IsTick() bool { return j.Run.Series != "" }

// Claimant names a Job of a cluster in a claim.
func Claimant(cluster string, job *batchv1.Job) string { return cluster + "/" + string(job.UID) }

// Series is what the ticks of a CronJob go by, in every cluster.
func Series(c *batchv1.CronJob) string {
	if name := c.Annotations[v1alpha1.TickNameAnnotation]; name != "" {
		return name
	}
	return c.Namespace + "/" + c.Name
}

func phase(job *batchv1.Job) Phase {
	switch {
	case condition(job, batchv1.JobComplete) != nil || condition(job, batchv1.JobFailed) != nil:
		return Ended
	case job.DeletionTimestamp != nil:
		return Leaving
	case !ptr.Deref(job.Spec.Suspend, false):
		return Running
	case job.Status.Active > 0 || ptr.Deref(job.Status.Terminating, 0) > 0:
		return Stopping
	case (job.Annotations[v1alpha1.RunAnnotation] != "" || job.Status.StartTime != nil) && condition(job, batchv1.JobSuspended) == nil:
		// The Job controller has not taken in the suspension, so its numbers say nothing.
		return Stopping
	}
	return Waiting
}

// condition returns a condition that is true; nil where there is none.
func condition(job *batchv1.Job, kind batchv1.JobConditionType) *batchv1.JobCondition {
	i := slices.IndexFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == kind && c.Status == corev1.ConditionTrue
	})
	if i < 0 {
		return nil
	}
	return &job.Status.Conditions[i]
}

func number(job *batchv1.Job, annotation string) uint64 {
	n, err := strconv.ParseUint(job.Annotations[annotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func hasFinalizer(job *batchv1.Job) bool {
	return slices.Contains(job.Finalizers, v1alpha1.OutcomeFinalizer)
}

// byAge orders Jobs as they wait: the older first.
func byAge(a, b *Job) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), a.Run.Tick.Compare(b.Run.Tick), cmp.Compare(a.Name, b.Name))
}
