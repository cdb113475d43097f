package guard_test

import (
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Under a lock that lets several Jobs run, a tick that is run again, for its runner was
// lost, does not run beside the next one where the CronJob forbids that.
func TestTicksOfACronJobThatForbidsItRunOneAfterTheOther(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 30, 0, time.UTC)
	newest := now.Truncate(time.Minute)
	const grant, lostGrant = 100, 50

	for _, c := range []struct {
		policy batchv1.ConcurrencyPolicy
		runs   bool // the newest tick runs already
		want   int  // how many Jobs are let go
	}{
		{batchv1.AllowConcurrent, false, 2},
		{batchv1.AllowConcurrent, true, 1},
		{batchv1.ForbidConcurrent, false, 1},
		{batchv1.ForbidConcurrent, true, 0},
	} {
		t.Run(fmt.Sprintf("%s, runs: %t", c.policy, c.runs), func(t *testing.T) {
			cronJob := &batchv1.CronJob{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "report", UID: "cron"},
				Spec:       batchv1.CronJobSpec{Schedule: "* * * * *", TimeZone: new("UTC"), ConcurrencyPolicy: c.policy},
				Status:     batchv1.CronJobStatus{LastScheduleTime: new(metav1.NewTime(newest))},
			}
			job := func(at time.Time) *batchv1.Job {
				return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
					Namespace: "ns", Name: guard.JobName(cronJob, at), UID: types.UID(at.String()), CreationTimestamp: metav1.NewTime(at),
					Finalizers: []string{v1alpha1.OutcomeFinalizer}, Labels: map[string]string{v1alpha1.LockLabel: "lock"},
					Annotations:     map[string]string{batchv1.CronJobScheduledTimestampAnnotation: at.Format(time.RFC3339)},
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cronJob, batchv1.SchemeGroupVersion.WithKind("CronJob"))},
				}, Spec: batchv1.JobSpec{Suspend: new(true)}}
			}
			again, next := job(newest.Add(-time.Minute)), job(newest)
			runs := &redislock.Runs{Now: now, HighWater: map[string]time.Time{"ns/report": newest}, Ticks: []redislock.TickRecord{
				{Series: "ns/report", Tick: newest.Add(-time.Minute), State: redislock.TickClaimed, Fence: lostGrant + 1, Grant: lostGrant, Claimant: "green/x"},
				{Series: "ns/report", Tick: newest, State: redislock.TickClaimed, Fence: lostGrant + 2, Grant: lostGrant, Claimant: "green/y"},
			}}
			if c.runs {
				next.Spec.Suspend = new(false)
				next.Annotations[v1alpha1.RunAnnotation], next.Annotations[v1alpha1.GrantAnnotation] = fmt.Sprint(grant+1), fmt.Sprint(grant)
				runs.Ticks[1].Fence, runs.Ticks[1].Grant, runs.Ticks[1].Claimant = grant+1, grant, guard.Claimant("blue", next)
				runs.Active = []redislock.ActiveRun{{Run: redislock.Run{Series: "ns/report", Tick: newest}, Fence: grant + 1, Grant: grant, Claimant: guard.Claimant("blue", next)}}
			}
			in := guard.Input{
				Now: now, Cluster: "blue", Admit: true, CronJobs: []*batchv1.CronJob{cronJob}, Runs: runs,
				Terms: guard.Terms{Rerun: true, Watchdog: time.Minute, ClaimGrace: time.Minute},
				Hold:  guard.Hold{Known: true, Held: true, Fence: grant, Fresh: true, Window: time.Minute},
			}
			for _, j := range []*batchv1.Job{again, next} {
				in.Jobs = append(in.Jobs, guard.NewJob(j, in.CronJobs))
			}
			got := 0
			for _, step := range guard.Decide(in).Steps {
				if step.Kind == guard.LetGo {
					got++
				}
			}
			if got != c.want {
				t.Errorf("%d Jobs are let go, want %d", got, c.want)
			}
		})
	}
}
