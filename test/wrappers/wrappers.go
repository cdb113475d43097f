// Package wrappers builds guarded Jobs and CronJobs for tests, in few words:
//
//	wrappers.MakeJob("billing", "close-the-month").Lock("nightly").RunFor(2 * time.Second).Obj()
//
// What a builder does not set has a value with which a Job on a node that kwok plays
// ends at once, and ends soon when it is stopped.
package wrappers

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/test/cluster"
)

// Job builds a Job.
type Job struct{ batchv1.Job }

// MakeJob builds a Job whose one pod completes at once.
func MakeJob(namespace, name string) *Job {
	j := &Job{}
	j.Namespace, j.Name = namespace, name
	j.Spec.Template = template()
	j.Spec.BackoffLimit = new(int32)
	return j
}

func template() corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyNever,
		TerminationGracePeriodSeconds: new(int64(1)),
		Containers:                    []corev1.Container{{Name: "main", Image: "none"}},
	}}
	t.Annotations = map[string]string{}
	return t
}

// Obj returns the Job.
func (j *Job) Obj() *batchv1.Job { return j.DeepCopy() }

// Lock has a RedisLock guard it.
func (j *Job) Lock(name string) *Job { return j.Label(v1alpha1.LockLabel, name) }

// Label adds a label.
func (j *Job) Label(key, value string) *Job {
	metav1.SetMetaDataLabel(&j.ObjectMeta, key, value)
	return j
}

// Annotation adds an annotation.
func (j *Job) Annotation(key, value string) *Job {
	metav1.SetMetaDataAnnotation(&j.ObjectMeta, key, value)
	return j
}

// Owner makes another object its controller.
func (j *Job) Owner(owner metav1.OwnerReference) *Job {
	j.OwnerReferences = append(j.OwnerReferences, owner)
	return j
}

// RunFor is how long its pods run.
func (j *Job) RunFor(d time.Duration) *Job {
	j.Spec.Template.Annotations[cluster.RunForAnnotation] = d.String()
	return j
}

// StopFor is how long its pods take to end when they are deleted.
func (j *Job) StopFor(d time.Duration) *Job {
	j.Spec.Template.Annotations[cluster.StopForAnnotation] = d.String()
	return j
}

// Fail has its pods fail.
func (j *Job) Fail() *Job {
	j.Spec.Template.Annotations[cluster.ExitCodeAnnotation] = "1"
	return j
}

// BackoffLimit is how many of its pods may fail; none may without.
func (j *Job) BackoffLimit(n int32) *Job {
	j.Spec.BackoffLimit = &n
	return j
}

// Indexed gives it as many pods, at once, each with an index.
func (j *Job) Indexed(n int32) *Job {
	j.Spec.CompletionMode = new(batchv1.IndexedCompletion)
	j.Spec.Completions, j.Spec.Parallelism = &n, &n
	return j
}

// Deadline is its own activeDeadlineSeconds.
func (j *Job) Deadline(d time.Duration) *Job {
	j.Spec.ActiveDeadlineSeconds = new(int64(d / time.Second))
	return j
}

// TTL is for how long it stays when it has ended.
func (j *Job) TTL(d time.Duration) *Job {
	j.Spec.TTLSecondsAfterFinished = new(int32(d / time.Second))
	return j
}

// CronJob builds a CronJob.
type CronJob struct{ batchv1.CronJob }

// MakeCronJob builds a CronJob that does not come to its time while a test runs.
// Its Jobs are like those of MakeJob.
func MakeCronJob(namespace, name string) *CronJob {
	c := &CronJob{}
	c.Namespace, c.Name = namespace, name
	c.Spec.Schedule, c.Spec.TimeZone = "0 0 29 2 *", new("Etc/UTC")
	c.Spec.JobTemplate.Spec = MakeJob("", "").Spec
	return c
}

// Obj returns the CronJob.
func (c *CronJob) Obj() *batchv1.CronJob { return c.DeepCopy() }

// Lock has a RedisLock guard its Jobs.
func (c *CronJob) Lock(name string) *CronJob {
	metav1.SetMetaDataLabel(&c.Spec.JobTemplate.ObjectMeta, v1alpha1.LockLabel, name)
	return c
}

// Annotation adds an annotation.
func (c *CronJob) Annotation(key, value string) *CronJob {
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, key, value)
	return c
}

// Jobs changes the template of its Jobs as if it were a Job.
func (c *CronJob) Jobs(change func(*Job)) *CronJob {
	j := &Job{}
	j.Labels, j.Annotations, j.Spec = c.Spec.JobTemplate.Labels, c.Spec.JobTemplate.Annotations, c.Spec.JobTemplate.Spec
	change(j)
	c.Spec.JobTemplate.Labels, c.Spec.JobTemplate.Annotations, c.Spec.JobTemplate.Spec = j.Labels, j.Annotations, j.Spec
	return c
}

// RunFor is how long the pods of its Jobs run.
func (c *CronJob) RunFor(d time.Duration) *CronJob {
	return c.Jobs(func(j *Job) { j.RunFor(d) })
}

// Schedule is when it comes to its time, by UTC.
func (c *CronJob) Schedule(schedule string) *CronJob {
	c.Spec.Schedule = schedule
	return c
}

// Concurrency is its concurrencyPolicy.
func (c *CronJob) Concurrency(policy batchv1.ConcurrencyPolicy) *CronJob {
	c.Spec.ConcurrencyPolicy = policy
	return c
}

// StartingDeadline is how long after its time a tick may be started.
func (c *CronJob) StartingDeadline(d time.Duration) *CronJob {
	c.Spec.StartingDeadlineSeconds = new(int64(d / time.Second))
	return c
}

// Suspend suspends it.
func (c *CronJob) Suspend() *CronJob {
	c.Spec.Suspend = new(true)
	return c
}

// HistoryLimits is how many of its Jobs stay when they have ended.
func (c *CronJob) HistoryLimits(n int32) *CronJob {
	c.Spec.SuccessfulJobsHistoryLimit, c.Spec.FailedJobsHistoryLimit = &n, &n
	return c
}

// TickJob builds the Job of a tick as the CronJob controller makes it. The CronJob is
// one that an API server has.
func TickJob(c *batchv1.CronJob, tick time.Time) *batchv1.Job {
	job := guard.NewTickJob(c, tick)
	job.Spec.Suspend = nil // which is for a policy to set
	return job
}

// ManualJob builds a Job as "kubectl create job --from" makes it.
func ManualJob(c *batchv1.CronJob, name string) *batchv1.Job {
	job := guard.NewTickJob(c, time.Unix(0, 0))
	job.Name, job.Spec.Suspend = name, nil
	delete(job.Annotations, batchv1.CronJobScheduledTimestampAnnotation)
	job.Annotations["cronjob.kubernetes.io/instantiate"] = "manual"
	return job
}

// Tick returns a time of a schedule: the start of the minute that was n minutes ago.
func Tick(n int) time.Time {
	return time.Now().UTC().Truncate(time.Minute).Add(time.Duration(-n) * time.Minute)
}

// TickName is what the CronJob controller calls the Job of a tick.
func TickName(cronJob string, tick time.Time) string {
	return fmt.Sprintf("%s-%d", cronJob, tick.Unix()/60)
}
