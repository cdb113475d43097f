package guard

import (
	"slices"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// This file has what once went wrong, or nearly.

// kinds are those of a plan's steps, in their order.
func kinds(p Plan) []Kind {
	list := []Kind{}
	for _, step := range p.Steps {
		list = append(list, step.Kind)
	}
	return list
}

func TestAJobWaitsForTheLockThoughRedisDoesNotAnswer(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	plan := Decide(onDemand(notHeld, noRuns, jobs(newBatchJob("a"))))
	g.Expect(plan.Compete).To(BeTrue(), "or the status would say that nothing waits, and hide that Redis is away")
	g.Expect(plan.Steps).To(BeEmpty())
}

func TestAClaimedJobWaitsForAnotherThatRunsAllTheSame(t *testing.T) {
	t.Parallel()
	// The patch that let the other one go was given up for lost, and arrived late.
	late := newBatchJob("late", running(90, 80), aged(time.Minute))
	claimed := newBatchJob("claimed")
	run := redislock.Run{ID: "ns/claimed/claimed-uid"}
	for name, other := range map[string]struct {
		job  *batchv1.Job
		want []Kind
	}{
		"that runs":                   {late, []Kind{Stop}},
		"that is being stopped":       {newBatchJob("late", running(90, 80), func(j *batchv1.Job) { j.Spec.Suspend = new(true) }), []Kind{}},
		"whose end is to be recorded": {newBatchJob("late", running(90, 80), ended(batchv1.JobComplete, "")), []Kind{Record}},
		"whose deletion is":           {newBatchJob("late", running(90, 80), leaving), []Kind{Record}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			plan := Decide(onDemand(jobs(other.job, claimed), active(run, 101, theGrant, Claimant(here, claimed))))
			g.Expect(kinds(plan)).To(Equal(other.want))
		})
	}
	t.Run("or of which nothing is left but a claim", func(t *testing.T) {
		t.Parallel()
		g := NewWithT(t)
		plan := Decide(onDemand(jobs(claimed), active(run, 101, theGrant, Claimant(here, claimed)), active(redislock.Run{ID: "x"}, 102, theGrant, here+"/x")))
		g.Expect(kinds(plan)).To(Equal([]Kind{Bury}))
	})
	t.Run("but not for one that waits as well", func(t *testing.T) {
		t.Parallel()
		g := NewWithT(t)
		other := newBatchJob("other", aged(time.Minute))
		plan := Decide(onDemand(jobs(claimed, other), active(run, 101, theGrant, Claimant(here, claimed)),
			active(redislock.Run{ID: "ns/other/other-uid"}, 102, theGrant, Claimant(here, other))))
		g.Expect(kinds(plan)).To(Equal([]Kind{LetGo}), "both were claimed when several could be")
		g.Expect(plan.Steps[0].Job.Name).To(Equal("other"))
	})
}

func TestNothingStartsBesideAClaimOfAnother(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	plan := Decide(onDemand(jobs(newBatchJob("a")), active(redislock.Run{ID: "x"}, 101, theGrant, there+"/x")))
	g.Expect(plan.Steps).To(BeEmpty(), "neither let go, nor buried, nor given back")
	g.Expect(plan.Waits).To(HaveLen(1))
}

func TestAnEndedJobWithoutItsFinalizerIsRecorded(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	job := newBatchJob("a", running(101, theGrant), ended(batchv1.JobComplete, ""), recorded)
	run := redislock.Run{ID: "ns/a/a-uid"}
	plan := Decide(onDemand(jobs(job), active(run, 101, theGrant, Claimant(here, job))))
	g.Expect(plan.Steps).To(HaveLen(1), "its claim would keep the lock from everybody until the Job is deleted")
	g.Expect(plan.Steps[0]).To(And(HaveField("Kind", Record), HaveField("Outcome", Complete), HaveField("Fence", uint64(101))))

	byHand := newBatchJob("a", ended(batchv1.JobComplete, ""))
	plan = Decide(onDemand(jobs(byHand), active(run, 101, theGrant, Claimant(here, byHand))))
	g.Expect(plan.Steps).To(HaveLen(1), "claimed, then started by somebody else")
	g.Expect(plan.Steps[0]).To(And(HaveField("Kind", Record), HaveField("Outcome", Complete), HaveField("Fence", uint64(101))))
}

func TestATickStillToComeSupersedesNone(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newCronJob("report")
	plan := Decide(onDemand(cronJobs(c), jobs(tickJob(c, tick), tickJob(c, tick.Add(time.Hour)))))
	g.Expect(kinds(plan)).To(Equal([]Kind{LetGo}), "a time in an annotation is easily written")
	g.Expect(plan.Steps[0].Job.Run.Tick).To(Equal(tick))
	g.Expect(plan.Next).To(BeTemporally("<=", tick.Add(time.Hour)))
}

func TestARunIsNotForfeitedWhoseJobTellsHowItEnded(t *testing.T) {
	t.Parallel()
	c := newCronJob("report")
	for name, test := range map[string]struct {
		job  *batchv1.Job
		want []Kind
	}{
		"complete":        {tickJob(c, tick, running(90, 80), ended(batchv1.JobComplete, "")), []Kind{Record}},
		"deleted":         {tickJob(c, tick, running(90, 80), leaving), []Kind{Record}},
		"running":         {tickJob(c, tick, running(90, 80)), []Kind{Stop}},
		"being stopped":   {tickJob(c, tick, running(90, 80), func(j *batchv1.Job) { j.Spec.Suspend = new(true) }), []Kind{}},
		"stopped":         {tickJob(c, tick, ran(90, 80)), []Kind{Forfeit}},
		"another run's":   {tickJob(c, tick, running(85, 80), ended(batchv1.JobComplete, "")), []Kind{Record, Forfeit}},
		"recorded before": {tickJob(c, tick, running(90, 80), ended(batchv1.JobComplete, ""), recorded), []Kind{Forfeit}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			plan := Decide(onDemand(skipLost, cronJobs(c), jobs(test.job), record(tick, redislock.TickClaimed, 90, 80, Claimant(here, test.job), "")))
			g.Expect(kinds(plan)).To(Equal(test.want))
		})
	}
}

func TestATickTooOldToBeClaimedIsNotMadeUpFor(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	weekly := newCronJob("report", lastScheduled(time.Time{}), func(c *batchv1.CronJob) { c.Spec.Schedule = "0 0 * * 4" })
	plan := Decide(onDemand(cronJobs(weekly), func(in *Input) { in.Terms.RunLatest = true }))
	g.Expect(plan.Unclaimed).To(HaveLen(1), "it is told all the same")
	g.Expect(now.Sub(plan.Unclaimed[0].Tick)).To(BeNumerically(">", Retention))
	g.Expect(kinds(plan)).To(Equal([]Kind{Yield}), "its Job would be refused, and wait for its removal")
}

func TestAReplacedJobOfATickWaitsLikeOthersForItsRemoval(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newCronJob("report", lastScheduled(tick.Add(-time.Minute)))
	old := tickJob(c, tick)
	by := newBatchJob("by", func(j *batchv1.Job) { j.Annotations[v1alpha1.ReplacesAnnotation] = string(old.UID) })
	plan := Decide(onDemand(cronJobs(c), jobs(old, by)))
	g.Expect(kinds(plan)).To(Equal([]Kind{LetGo}))
	g.Expect(plan.Waits[old.UID]).To(ContainSubstring("lastScheduleTime"))
}

func TestDecideLeavesItsInputAlone(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	in := onDemand(jobs(newBatchJob("young"), newBatchJob("old", aged(time.Hour))))
	before := slices.Clone(in.Jobs)
	Decide(in)
	g.Expect(in.Jobs).To(Equal(before))
}

func TestAHoldOfWhichNothingIsKnownIsNone(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	plan := Decide(onDemand(jobs(newBatchJob("a")), func(in *Input) { in.Hold.Known = false }))
	g.Expect(plan.Steps).To(BeEmpty())
}

func TestAResumedJobsOldStartTimeIsNotCounted(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	// Resumed, and the Job controller has not taken it in: it will set the start anew.
	job := newBatchJob("a", running(101, theGrant), watched(225, ""), with(batchv1.JobSuspended, ""), func(j *batchv1.Job) {
		j.Status.StartTime = new(metav1.NewTime(now.Add(-time.Hour)))
	})
	seconds, due, next := Prolong(job, 5*time.Minute, now)
	g.Expect(due).To(BeTrue(), "the key must stand for when it is")
	g.Expect(seconds).To(BeZero(), "an hour and five minutes from its new start would be far beyond what the key covers")
	g.Expect(next).To(Equal(now.Add(5 * time.Minute / 8)))
}

func TestAJobThatWasStartedByHandIsStoppingUntilItsControllerSaysSo(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	job := newBatchJob("a", func(j *batchv1.Job) { j.Status.StartTime = new(metav1.NewTime(now.Add(-time.Second))) })
	g.Expect(NewJob(job, nil).Phase).To(Equal(Stopping), "its pods may not be counted yet")
	with(batchv1.JobSuspended, "")(job)
	g.Expect(NewJob(job, nil).Phase).To(Equal(Waiting))
}

func TestAYearlyTickIsFoundUntilTheNext(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newCronJob("report", func(c *batchv1.CronJob) {
		c.Spec.Schedule, c.CreationTimestamp = "0 0 1 1 *", metav1.NewTime(now.Add(-10*366*24*time.Hour))
	})
	g.Expect(LatestTick(c, time.Date(2024, 12, 31, 23, 59, 59, 0, time.UTC))).To(BeTemporally("==", time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)))
}

func TestAnIntervalHasNoTicks(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newCronJob("report", func(c *batchv1.CronJob) { c.Spec.Schedule = "@every 5m" })
	g.Expect(LatestTick(c, now)).To(BeZero(), "it counts from when it is asked, so each look would find another")
}

func TestAJobThatWasStoppedSettlesBeforeItIsLetGoAgain(t *testing.T) {
	t.Parallel()
	c := newCronJob("report")
	job := tickJob(c, tick, ran(90, 80))
	for name, test := range map[string]struct {
		stopped time.Duration // ago
		want    []Kind
		next    time.Time
	}{
		"just now":          {0, []Kind{}, now.Add(settling)},
		"not long ago":      {settling - time.Second, []Kind{}, now.Add(time.Second)},
		"long enough ago":   {settling, []Kind{LetGo}, time.Time{}},
		"nobody knows when": {-1, []Kind{LetGo}, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			in := onDemand(cronJobs(c), jobs(job), record(tick, redislock.TickOpen, 90, 80, Claimant(here, job), ""))
			if test.stopped >= 0 {
				in.Jobs[0].Stopped = now.Add(-test.stopped)
			}
			plan := Decide(in)
			g.Expect(kinds(plan)).To(Equal(test.want))
			g.Expect(plan.Next).To(BeTemporally("==", test.next), "next look")
			g.Expect(plan.Compete).To(BeTrue(), "it wants the lock meanwhile")
		})
	}
}
