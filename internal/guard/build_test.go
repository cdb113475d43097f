package guard

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	here     = "blue-uid"
	there    = "green-uid"
	theGrant = uint64(100)
	series   = "ns/report"
)

var (
	now = time.Date(2026, 3, 1, 12, 0, 30, 0, time.UTC)
	// tick is the latest of the CronJob that newCronJob builds.
	tick = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// newCronJob is one that runs each minute, and whose controller has noted the tick.
func newCronJob(name string, change ...func(*batchv1.CronJob)) *batchv1.CronJob {
	c := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name + "-uid"), CreationTimestamp: metav1.NewTime(now.Add(-30 * 24 * time.Hour))},
		Spec: batchv1.CronJobSpec{Schedule: "* * * * *", TimeZone: new("Etc/UTC"), JobTemplate: batchv1.JobTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LockLabel: "lock"}},
		}},
		Status: batchv1.CronJobStatus{LastScheduleTime: new(metav1.NewTime(tick))},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func lastScheduled(t time.Time) func(*batchv1.CronJob) {
	return func(c *batchv1.CronJob) {
		c.Status.LastScheduleTime = nil
		if !t.IsZero() {
			c.Status.LastScheduleTime = new(metav1.NewTime(t))
		}
	}
}

func startingDeadline(seconds int64) func(*batchv1.CronJob) {
	return func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = &seconds }
}

func suspendedCronJob(c *batchv1.CronJob) { c.Spec.Suspend = new(true) }

// newBatchJob is a Job that waits and never ran.
func newBatchJob(name string, change ...func(*batchv1.Job)) *batchv1.Job {
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID(name + "-uid"), ResourceVersion: "1", CreationTimestamp: metav1.NewTime(now.Add(-20 * time.Second)),
			Labels: map[string]string{v1alpha1.LockLabel: "lock"}, Annotations: map[string]string{}, Finalizers: []string{v1alpha1.OutcomeFinalizer},
		},
		Spec: batchv1.JobSpec{Suspend: new(true)},
	}
	for _, f := range change {
		f(job)
	}
	return job
}

func ownedBy(c *batchv1.CronJob) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.OwnerReferences = append(job.OwnerReferences, *metav1.NewControllerRef(c, batchv1.SchemeGroupVersion.WithKind("CronJob")))
	}
}

func scheduledAt(t time.Time) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = t.Format(time.RFC3339)
	}
}

func aged(d time.Duration) func(*batchv1.Job) {
	return func(job *batchv1.Job) { job.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
}

// ran marks a Job as let go under a run and a grant, and suspended again since.
func ran(run, grant uint64) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Annotations[v1alpha1.RunAnnotation], job.Annotations[v1alpha1.GrantAnnotation] = fmt.Sprint(run), fmt.Sprint(grant)
		with(batchv1.JobSuspended, "")(job)
	}
}

// running is a Job that was let go under a run and a grant a minute ago.
func running(run, grant uint64) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		ran(run, grant)(job)
		job.Spec.Suspend, job.Status.Conditions = new(false), nil
		job.Status.StartTime, job.Status.Active = new(metav1.NewTime(now.Add(-time.Minute))), 1
	}
}

func with(kind batchv1.JobConditionType, reason string) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason})
	}
}

func ended(kind batchv1.JobConditionType, reason string) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Status.Active = 0
		with(kind, reason)(job)
	}
}

func recorded(job *batchv1.Job)  { job.Finalizers = nil }
func lostGrant(job *batchv1.Job) { job.Annotations[v1alpha1.GrantAnnotation] = v1alpha1.LostGrant }
func leaving(job *batchv1.Job)   { job.DeletionTimestamp = new(metav1.NewTime(now)) }

// watched has a Job bear a deadline of the watchdog's beside its own, "" for none.
func watched(seconds int64, own string) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Spec.ActiveDeadlineSeconds = &seconds
		job.Annotations[v1alpha1.DeadlineAnnotation] = own
	}
}

// tickJob is the Job of a tick of a CronJob.
func tickJob(c *batchv1.CronJob, t time.Time, change ...func(*batchv1.Job)) *batchv1.Job {
	return newBatchJob(JobName(c, t), append([]func(*batchv1.Job){ownedBy(c), scheduledAt(t), aged(now.Sub(t))}, change...)...)
}

// onDemand is the Input of a cluster that holds a lock for one run at a time, and
// Redis remembers no run. It is changed for each test.
func onDemand(change ...func(*Input)) Input {
	in := Input{
		Now: now, Cluster: here, Admit: true, Since: now.Add(-30 * 24 * time.Hour),
		Terms: Terms{Exclusive: true, Watchdog: 5 * time.Minute, Rerun: true, ClaimGrace: time.Minute},
		Hold:  Hold{Known: true, Held: true, Fresh: true, Fence: theGrant, Window: 5 * time.Minute},
		Runs: &redislock.Runs{
			Now: now, HighWater: map[string]time.Time{}, LastSuccess: map[string]time.Time{},
		},
	}
	for _, f := range change {
		f(&in)
	}
	return in
}

func always(in *Input)   { in.Terms.Exclusive = false }
func skipLost(in *Input) { in.Terms.Rerun = false }
func notHeld(in *Input) {
	in.Hold = Hold{Known: true, Why: "cluster \"green\" (RedisLock ns/lock) holds the lock"}
}
func unknown(in *Input) { in.Hold = Hold{} }
func noRuns(in *Input)  { in.Runs = nil }
func quiet(in *Input)   { in.Hold.QuietUntil = now.Add(time.Minute) }
func drained(in *Input) { in.Admit, in.NotAdmitted = false, "paused" }

func cronJobs(list ...*batchv1.CronJob) func(*Input) {
	return func(in *Input) { in.CronJobs = append(in.CronJobs, list...) }
}

// jobs come after cronJobs, which they are looked up in.
func jobs(list ...*batchv1.Job) func(*Input) {
	return func(in *Input) {
		for _, job := range list {
			in.Jobs = append(in.Jobs, NewJob(job, in.CronJobs))
		}
	}
}

func highWater(t time.Time) func(*Input) {
	return func(in *Input) { in.Runs.HighWater[series] = t }
}

// record is what Redis has of a tick: a claim of the Job that would be this one.
func record(t time.Time, state redislock.TickState, fence, grant uint64, claimant, outcome string) func(*Input) {
	return func(in *Input) {
		in.Runs.Ticks = append(in.Runs.Ticks, redislock.TickRecord{Series: series, Tick: t, State: state, Fence: fence, Grant: grant, Claimant: claimant, Outcome: outcome})
		if in.Runs.HighWater[series].Before(t) {
			in.Runs.HighWater[series] = t
		}
	}
}

// active is a claim that is not finished.
func active(run redislock.Run, fence, grant uint64, claimant string) func(*Input) {
	return func(in *Input) {
		in.Runs.Active = append(in.Runs.Active, redislock.ActiveRun{Run: run, Fence: fence, Grant: grant, Claimant: claimant})
	}
}

// claimedFor has the claims be that old by Redis' clock, which is far from this one.
func claimedFor(age time.Duration) func(*Input) {
	return func(in *Input) {
		in.Runs.Now = now.Add(time.Hour)
		for i := range in.Runs.Active {
			in.Runs.Active[i].At = in.Runs.Now.Add(-age)
		}
	}
}

// quietFor has the hold be one that was gone on with, and quiet for that long still.
func quietFor(d time.Duration) func(*Input) {
	return func(in *Input) { in.Hold.QuietUntil = now.Add(d) }
}

func runOf(t time.Time) redislock.Run { return redislock.Run{Series: series, Tick: t} }
