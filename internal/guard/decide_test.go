package guard

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// want is what a plan is to be; a step is compared by what is set in it here.
type want struct {
	steps   []Step
	compete bool
	// waits are the reasons of Jobs by name.
	waits           map[string]string
	unclaimed       []time.Time
	active, waiting int32
	next            time.Time
}

func (w want) check(t *testing.T, in Input) {
	t.Helper()
	g := NewWithT(t)
	plan := Decide(in)
	var steps []Step
	for _, s := range plan.Steps {
		// What a step is about, by name: it is easier to read and to compare.
		if s.Job != nil {
			s.Job = &Job{Job: &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: s.Job.Name}}}
		}
		if s.CronJob != nil {
			s.CronJob = &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: s.CronJob.Name}}
		}
		steps = append(steps, s)
	}
	g.Expect(steps).To(Equal(w.steps), "steps")
	g.Expect(plan.Compete).To(Equal(w.compete), "compete")
	waits := map[types.UID]string{}
	for name, why := range w.waits {
		waits[types.UID(name+"-uid")] = why
	}
	g.Expect(plan.Waits).To(Equal(waits), "waits")
	var unclaimed []time.Time
	for _, u := range plan.Unclaimed {
		unclaimed = append(unclaimed, u.Tick)
	}
	g.Expect(unclaimed).To(Equal(w.unclaimed), "unclaimed")
	g.Expect(plan.Active).To(Equal(w.active), "active")
	g.Expect(plan.Waiting).To(Equal(w.waiting), "waiting")
	g.Expect(plan.Next).To(BeTemporally("==", w.next), "next look: %s from now", plan.Next.Sub(now))
}

// about names the Job, or the CronJob, of a step.
func about(name string) *Job {
	return &Job{Job: &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}}}
}
func of(name string) *batchv1.CronJob {
	return &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

var (
	report = newCronJob("report")
	// name is that of the Job of the tick, and its claimant here.
	name   = JobName(report, tick)
	uid    = name + "-uid"
	byHere = here + "/" + uid
	idRun  = redislock.Run{ID: "ns/a/a-uid"}
	// late is when the tick counts as unclaimed.
	late = tick.Add(time.Minute)
	// upcoming: the tick has been claimed here, so nothing is due about it.
	claimedTick = record(tick, redislock.TickClaimed, 101, theGrant, byHere, "")
)

func TestWhatRunsIsSeenTo(t *testing.T) {
	t.Parallel()
	half := 150 * time.Second
	for title, test := range map[string]struct {
		in   Input
		want want
	}{
		"nothing to do gives a lock on demand back": {onDemand(), want{steps: []Step{{Kind: Yield}}}},
		"nothing to do keeps leadership":            {onDemand(always), want{}},
		"its deadline is far": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant), watched(300, "")))),
			want{active: 1, next: now.Add(240*time.Second - half)}},
		"its deadline is near": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant), watched(200, "")))),
			want{active: 1, steps: []Step{{Kind: Extend, Job: about("a"), Seconds: 360}}, next: now.Add(half)}},
		"it has not been counted yet": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant), watched(225, ""), func(j *batchv1.Job) { j.Status.StartTime = nil }))),
			want{active: 1, steps: []Step{{Kind: Extend, Job: about("a")}}, next: now.Add(5 * time.Minute / 8)}},
		"without a watchdog": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant))), func(in *Input) { in.Hold.Window = 0 }), want{active: 1}},
		"started by somebody else": {
			onDemand(jobs(newBatchJob("a", func(j *batchv1.Job) { j.Spec.Suspend = nil }))),
			want{active: 1, steps: []Step{{Kind: Stop, Job: about("a"), Reason: ReasonNoHold, Message: "it was started by somebody other than the operator, without the lock: suspended"}}}},
		"its lease is lost": {
			onDemand(notHeld, jobs(newBatchJob("a", running(101, theGrant)))),
			want{active: 1, steps: []Step{{Kind: Stop, Job: about("a"), Reason: ReasonNoHold, Message: `the lease under which it ran is lost: cluster "green" (RedisLock ns/lock) holds the lock`}}}},
		"its lease is lost and another one had": {
			onDemand(jobs(newBatchJob("a", running(90, 80)))),
			want{active: 1, steps: []Step{{Kind: Stop, Job: about("a"), Reason: ReasonNoHold, Message: "the lease under which it ran is lost: another grant is held now"}}}},
		"nothing is known of the hold": {onDemand(unknown, noRuns, jobs(newBatchJob("a", running(90, 80)), newBatchJob("b", func(j *batchv1.Job) { j.Spec.Suspend = nil }))), want{active: 2}},
		"it is being stopped": {
			onDemand(notHeld, jobs(newBatchJob("a", running(101, 80), func(j *batchv1.Job) { j.Spec.Suspend = new(true) }))), want{active: 1}},
	} {
		t.Run(title, func(t *testing.T) { t.Parallel(); test.want.check(t, test.in) })
	}
}

func TestWhatEndedIsRecorded(t *testing.T) {
	t.Parallel()
	overdue := ended(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded)
	tickRun := runOf(tick)
	for title, test := range map[string]struct {
		in   Input
		want want
	}{
		"complete": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant), ended(batchv1.JobComplete, "")))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Complete}}}},
		"failed": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant), ended(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded)))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Failed}}}},
		"though the lease is lost": {
			onDemand(notHeld, jobs(newBatchJob("a", running(101, theGrant), ended(batchv1.JobComplete, "")))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Complete}}}},
		"though nothing is known": {
			onDemand(unknown, noRuns, jobs(newBatchJob("a", running(101, theGrant), ended(batchv1.JobComplete, "")))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Complete}}}},
		"though it was deleted meanwhile": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant), ended(batchv1.JobComplete, ""), leaving))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Complete}}}},
		"never let go": {
			onDemand(jobs(newBatchJob("a", ended(batchv1.JobFailed, "")))),
			want{steps: []Step{{Kind: Drop, Job: about("a")}}}},
		"recorded before": {onDemand(jobs(newBatchJob("a", running(101, theGrant), ended(batchv1.JobComplete, ""), recorded))), want{steps: []Step{{Kind: Yield}}}},
		"by its watchdog, a run of its own": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant), watched(300, ""), overdue))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Lost, Reason: ReasonLost,
				Message: "Job a was ended by its watchdog, for no operator moved its deadline ahead; it is not run again"}}}},
		"by its watchdog, a tick": {
			onDemand(cronJobs(report), jobs(tickJob(report, tick, running(101, theGrant), watched(300, "3600"), overdue)), claimedTick),
			want{compete: true, steps: []Step{{Kind: Reopen, Job: about(name), Run: tickRun, Fence: 101, Outcome: Lost, Reason: ReasonLost,
				Message: "Job " + name + " was ended by its watchdog, for no operator moved its deadline ahead: its tick is run again"}}}},
		"by its watchdog, a tick that is not to run again": {
			onDemand(skipLost, cronJobs(report), jobs(tickJob(report, tick, running(101, theGrant), watched(300, ""), overdue)), claimedTick),
			want{compete: true, steps: []Step{{Kind: Record, Job: about(name), Run: tickRun, Fence: 101, Outcome: Lost, Reason: ReasonLost,
				Message: "Job " + name + " was ended by its watchdog, for no operator moved its deadline ahead; it is not run again"}}}},
		"by its own deadline": {
			onDemand(cronJobs(report), jobs(tickJob(report, tick, running(101, theGrant), watched(60, "60"), overdue)), claimedTick),
			want{compete: true, steps: []Step{{Kind: Record, Job: about(name), Run: tickRun, Fence: 101, Outcome: Failed}}}},
		"by its own deadline without a watchdog": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant), overdue, func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(60)) }))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Failed}}}},
		"deleted": {
			onDemand(jobs(newBatchJob("a", running(101, theGrant), leaving))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Deleted}}}},
		"deleted before it was let go": {
			onDemand(jobs(newBatchJob("a", leaving))), want{steps: []Step{{Kind: Drop, Job: about("a")}}}},
		"deleted, its lease lost": {
			onDemand(notHeld, jobs(newBatchJob("a", running(101, theGrant), leaving))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Deleted}}}},
		"deleted because its lease was lost": {
			onDemand(notHeld, jobs(newBatchJob("a", running(101, theGrant), lostGrant, leaving))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Lost, Reason: ReasonLost,
				Message: "Job a was deleted because its lease was lost; it is not run again"}}}},
		"the Job of a tick, deleted because its lease was lost by a process whose successor has it": {
			onDemand(cronJobs(report), jobs(tickJob(report, tick, running(101, theGrant), lostGrant, leaving)), claimedTick),
			want{compete: true, steps: []Step{{Kind: Reopen, Job: about(name), Run: tickRun, Fence: 101, Outcome: Lost, Reason: ReasonLost,
				Message: "Job " + name + " was deleted because its lease was lost: its tick is run again"}}}},
		"the Job of a tick that is not to run again, deleted because its lease was lost": {
			onDemand(skipLost, notHeld, cronJobs(report), jobs(tickJob(report, tick, running(101, theGrant), lostGrant, leaving)), claimedTick),
			want{compete: true, steps: []Step{{Kind: Record, Job: about(name), Run: tickRun, Fence: 101, Outcome: Lost, Reason: ReasonLost,
				Message: "Job " + name + " was deleted because its lease was lost; it is not run again"}}}},
		"to be deleted because its lease was lost, and not yet": {
			onDemand(func(in *Input) { in.Terms.DeleteOnLost = true }, jobs(newBatchJob("a", running(101, theGrant), lostGrant))),
			want{active: 1, steps: []Step{{Kind: Stop, Job: about("a"), Reason: ReasonNoHold, Message: "the lease under which it ran is lost: another grant is held now"}}}},
		"deleted by a person, its lease held": {
			onDemand(func(in *Input) { in.Terms.DeleteOnLost = true }, jobs(newBatchJob("a", running(101, theGrant), leaving))),
			want{steps: []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Deleted}}}},
		"deleted by force": {
			onDemand(active(idRun, 101, theGrant, here+"/a-uid")),
			want{steps: []Step{{Kind: Bury, Run: idRun, Fence: 101, Outcome: Deleted}}}},
		"deleted by force, its lease lost": {
			onDemand(notHeld, active(idRun, 101, theGrant, here+"/a-uid")), want{}},
		"deleted by force under an earlier grant": {
			onDemand(active(idRun, 90, 80, here+"/a-uid")), want{steps: []Step{{Kind: Yield}}}},
	} {
		t.Run(title, func(t *testing.T) { t.Parallel(); test.want.check(t, test.in) })
	}
}

func TestWhatIsNotNeededIsRemoved(t *testing.T) {
	t.Parallel()
	unnoted := newCronJob("report", lastScheduled(tick.Add(-time.Minute)))
	hurried := newCronJob("report", startingDeadline(20))
	done := record(tick, redislock.TickDone, 90, 80, there+"/x", "Complete")
	older := tick.Add(-time.Minute)
	olderName := JobName(report, older)
	const ranThere = "tick 2026-03-01T12:00:00Z has been run (fencing token 90; complete), so Job "
	remove := func(job, cronJob string, reason Reason, message string) Step {
		s := Step{Kind: Remove, Job: about(job), Reason: reason, Message: message}
		if cronJob != "" {
			s.CronJob = of(cronJob)
		}
		return s
	}
	for title, test := range map[string]struct {
		in   Input
		want want
	}{
		"its tick ran elsewhere": {
			onDemand(notHeld, cronJobs(report), jobs(tickJob(report, tick)), done),
			want{waiting: 1, steps: []Step{remove(name, "report", ReasonRanElsewhere, ranThere+name+" is not needed")}}},
		"its tick ran in a cluster that the history names": {
			onDemand(notHeld, cronJobs(report), jobs(tickJob(report, tick)), done, func(in *Input) { in.Clusters = map[uint64]string{80: "green"} }),
			want{waiting: 1, steps: []Step{remove(name, "report", ReasonRanElsewhere,
				"tick 2026-03-01T12:00:00Z has been run (in cluster \"green\", with fencing token 90; complete), so Job "+name+" is not needed")}}},
		"its tick ran elsewhere, but is not noted": {
			onDemand(notHeld, cronJobs(unnoted), jobs(tickJob(unnoted, tick)), done),
			want{waiting: 1, waits: map[string]string{name: ranThere + name + " is not needed; it is removed when the CronJob's lastScheduleTime says that its tick was noted"}}},
		"no tick was ever noted": {
			onDemand(notHeld, cronJobs(newCronJob("report", lastScheduled(time.Time{}))), jobs(tickJob(report, tick)), done),
			want{waiting: 1, waits: map[string]string{name: ranThere + name + " is not needed; it is removed when the CronJob's lastScheduleTime says that its tick was noted"}}},
		"a newer tick was started": {
			onDemand(notHeld, cronJobs(report), jobs(tickJob(report, older)), highWater(tick)),
			want{waiting: 1, steps: []Step{remove(olderName, "report", ReasonSuperseded,
				"tick 2026-03-01T11:59:00Z is older than tick 2026-03-01T12:00:00Z, which has been started: Job "+olderName+" is not run")}}},
		"it was started and forgotten": {
			onDemand(notHeld, cronJobs(report), jobs(tickJob(report, tick)), highWater(tick)),
			want{waiting: 1, steps: []Step{remove(name, "report", ReasonSuperseded,
				"tick 2026-03-01T12:00:00Z is older than tick 2026-03-01T12:00:00Z, which has been started: Job "+name+" is not run")}}},
		"a newer one waits": {
			onDemand(cronJobs(report), jobs(tickJob(report, older), tickJob(report, tick))),
			want{waiting: 2, compete: true, next: late, steps: []Step{
				remove(olderName, "report", ReasonSuperseded, "tick 2026-03-01T11:59:00Z waited until tick 2026-03-01T12:00:00Z came, and only the newest is run: Job "+olderName+" is not"),
				{Kind: LetGo, Job: about(name), Run: runOf(tick)}}}},
		"it is older than the record": {
			onDemand(notHeld, cronJobs(report), jobs(tickJob(report, tick.Add(-49*time.Hour))), highWater(time.Time{}), func(in *Input) { in.Since = tick }),
			want{waiting: 1, next: late, steps: []Step{remove(JobName(report, tick.Add(-49*time.Hour)), "report", ReasonTooOld,
				"tick 2026-02-27T11:00:00Z is more than 48h0m0s old: Job "+JobName(report, tick.Add(-49*time.Hour))+" is not run")}}},
		"it is too late for its CronJob": {
			onDemand(cronJobs(hurried), jobs(tickJob(hurried, tick))),
			want{waiting: 1, next: late, steps: []Step{remove(name, "report", ReasonDeadline,
				"tick 2026-03-01T12:00:00Z could not be started within the CronJob's startingDeadlineSeconds of 20: Job "+name+" is not run"), {Kind: Yield}}}},
		"it was claimed, and is not too late therefore": {
			onDemand(notHeld, cronJobs(hurried), jobs(tickJob(hurried, tick)), record(tick, redislock.TickClaimed, 90, 80, there+"/x", "")),
			want{waiting: 1, compete: true, waits: map[string]string{name: `cluster "green" (RedisLock ns/lock) holds the lock`}}},
		"it has time left": {
			onDemand(notHeld, cronJobs(newCronJob("report", startingDeadline(40))), jobs(tickJob(report, tick))),
			want{waiting: 1, compete: true, next: tick.Add(40 * time.Second), waits: map[string]string{name: `cluster "green" (RedisLock ns/lock) holds the lock`}}},
		"it waited too long": {
			onDemand(notHeld, func(in *Input) { in.Terms.MaxWait = 10 * time.Second }, jobs(newBatchJob("a"))),
			want{waiting: 1, steps: []Step{remove("a", "", ReasonWaitedTooLong, "Job a waited for the lock for more than 10s")}}},
		"it may wait longer": {
			onDemand(notHeld, func(in *Input) { in.Terms.MaxWait = 30 * time.Second }, jobs(newBatchJob("a"))),
			want{waiting: 1, compete: true, next: now.Add(11 * time.Second), waits: map[string]string{"a": `cluster "green" (RedisLock ns/lock) holds the lock`}}},
		"it ran, and may go on however long it takes": {
			onDemand(notHeld, func(in *Input) { in.Terms.MaxWait = 10 * time.Second }, jobs(newBatchJob("a", ran(90, 80)))),
			want{waiting: 1, compete: true, waits: map[string]string{"a": `cluster "green" (RedisLock ns/lock) holds the lock`}}},
		"made by hand from a CronJob an hour ago": {
			onDemand(notHeld, func(in *Input) { in.Since = tick }, cronJobs(report), jobs(newBatchJob("a", ownedBy(report), aged(time.Hour+time.Second)))),
			want{waiting: 1, next: late, steps: []Step{remove("a", "report", ReasonWaitedTooLong, "Job a waited for the lock for more than 1h0m0s")}}},
		"another takes its place": {
			onDemand(notHeld, jobs(newBatchJob("a"), newBatchJob("b", func(j *batchv1.Job) { j.Annotations[v1alpha1.ReplacesAnnotation] = "a-uid" }))),
			want{waiting: 2, compete: true, waits: map[string]string{"b": `cluster "green" (RedisLock ns/lock) holds the lock`}, steps: []Step{
				remove("a", "", ReasonReplaced, "Job a ran before and its template cannot change any more, so another Job takes its place")}}},
		"whether it is needed cannot be read": {
			onDemand(notHeld, noRuns, cronJobs(report), jobs(tickJob(report, tick))),
			want{waiting: 1, compete: true, waits: map[string]string{name: `the runs recorded in Redis cannot be read: cluster "green" (RedisLock ns/lock) holds the lock`}}},
		"whether it is needed cannot be read, and why not is not known": {
			onDemand(noRuns, jobs(newBatchJob("a"))),
			want{waiting: 1, compete: true, waits: map[string]string{"a": "the runs recorded in Redis cannot be read: Redis does not answer"}}},
	} {
		t.Run(title, func(t *testing.T) { t.Parallel(); test.want.check(t, test.in) })
	}
}

func TestWhatMayStartIsLetGo(t *testing.T) {
	t.Parallel()
	first, second := newBatchJob("first", aged(time.Minute)), newBatchJob("second")
	firstRun, secondRun := redislock.Run{ID: "ns/first/first-uid"}, redislock.Run{ID: "ns/second/second-uid"}
	const (
		turn  = "another guarded Job of this cluster has the lock; Jobs go in the order of their creation"
		spent = "a run of it may have had its fencing token already, and it is to get a new one"
	)
	letGo := func(name string, run redislock.Run) Step { return Step{Kind: LetGo, Job: about(name), Run: run} }
	ahead := tick.Add(3 * time.Minute)
	for title, test := range map[string]struct {
		in   Input
		want want
	}{
		"one at a time, the older first": {
			onDemand(jobs(second, first)),
			want{waiting: 2, compete: true, steps: []Step{letGo("first", firstRun)}, waits: map[string]string{"second": turn}}},
		"all under leadership": {
			onDemand(always, jobs(second, first)),
			want{waiting: 2, compete: true, steps: []Step{letGo("first", firstRun), letGo("second", secondRun)}}},
		"beside one that runs under leadership": {
			onDemand(always, jobs(first, newBatchJob("a", running(101, theGrant), watched(300, "")))),
			want{active: 1, waiting: 1, compete: true, steps: []Step{letGo("first", firstRun)}, next: now.Add(90 * time.Second)}},
		"not beside one that runs": {
			onDemand(jobs(first, newBatchJob("a", running(101, theGrant), watched(300, "")))),
			want{active: 1, waiting: 1, compete: true, waits: map[string]string{"first": turn}, next: now.Add(90 * time.Second)}},
		"not while the lock is away": {
			onDemand(notHeld, jobs(first)),
			want{waiting: 1, compete: true, waits: map[string]string{"first": `cluster "green" (RedisLock ns/lock) holds the lock`}}},
		"not before it was asked for": {
			onDemand(jobs(first), func(in *Input) { in.Hold = Hold{} }),
			want{waiting: 1, compete: true, waits: map[string]string{"first": "the lock has not been asked for yet"}}},
		"not where new Jobs are not admitted": {
			onDemand(drained, jobs(first)),
			want{waiting: 1, compete: true, waits: map[string]string{"first": "paused"}, steps: []Step{{Kind: Yield}}}},
		"not while an earlier operator may live": {
			onDemand(quiet, jobs(first)),
			want{waiting: 1, compete: true, next: now.Add(time.Minute), waits: map[string]string{
				"first": "an earlier operator of this cluster may still be alive: nothing new starts before 2026-03-01T12:01:30Z"}}},
		"not under a grant that has served": {
			onDemand(jobs(first), func(in *Input) { in.Served = theGrant }),
			want{waiting: 1, compete: true, steps: []Step{{Kind: Yield}}, waits: map[string]string{"first": "the lock is given back after each run, and is to be taken again"}}},
		"under a grant that has served where it is leadership": {
			onDemand(always, jobs(first), func(in *Input) { in.Served = theGrant }),
			want{waiting: 1, compete: true, steps: []Step{letGo("first", firstRun)}}},
		"not with little left of the lease": {
			onDemand(jobs(first), func(in *Input) { in.Hold.Fresh = false }),
			want{waiting: 1, compete: true, next: now.Add(time.Second), waits: map[string]string{"first": "too little is left of the lease: Redis is slow to renew it"}}},
		"not before its tick": {
			onDemand(notHeld, cronJobs(report), jobs(tickJob(report, ahead)), highWater(tick)),
			want{waiting: 1, next: ahead, waits: map[string]string{JobName(report, ahead): "its tick, 2026-03-01T12:03:00Z, is still to come"}}},
		"the one that was claimed goes on, though it is younger": {
			onDemand(jobs(first, second), active(secondRun, 101, theGrant, here+"/second-uid")),
			want{waiting: 2, compete: true, steps: []Step{letGo("second", secondRun)}, waits: map[string]string{"first": turn}}},
		"the one that was claimed goes on, though the grant has served": {
			onDemand(jobs(first), active(firstRun, 101, theGrant, here+"/first-uid"), func(in *Input) { in.Served = theGrant }),
			want{waiting: 1, compete: true, steps: []Step{letGo("first", firstRun)}}},
		"what was claimed before this process went on with the grant is given up": {
			onDemand(quietFor(-time.Second), jobs(first), active(firstRun, 101, theGrant, here+"/first-uid"), claimedFor(2*time.Second)),
			want{waiting: 1, compete: true, waits: map[string]string{"first": spent}, steps: []Step{{Kind: Void, Job: about("first"), Run: firstRun, Fence: 101}}}},
		"what was claimed since this process went on with the grant goes on": {
			onDemand(quietFor(-time.Second), jobs(first), active(firstRun, 101, theGrant, here+"/first-uid"), claimedFor(time.Second/2)),
			want{waiting: 1, compete: true, steps: []Step{letGo("first", firstRun)}}},
		"what ran under its claim gets another": {
			onDemand(jobs(newBatchJob("first", ran(101, theGrant))), active(firstRun, 101, theGrant, here+"/first-uid")),
			want{waiting: 1, compete: true, waits: map[string]string{"first": spent},
				steps: []Step{{Kind: Void, Job: about("first"), Run: firstRun, Fence: 101}}}},
		"what ran under its claim is lost where it is not to run again": {
			onDemand(skipLost, drained, cronJobs(report), jobs(tickJob(report, tick, ran(101, theGrant))), claimedTick, active(runOf(tick), 101, theGrant, byHere)),
			want{waiting: 1, compete: true, waits: map[string]string{name: "paused"}, steps: []Step{
				{Kind: Forfeit, Run: runOf(tick), Fence: 101, Outcome: Lost, CronJob: of("report"), Reason: ReasonLost,
					Message: "tick 2026-03-01T12:00:00Z was stopped while it ran; with lostTicks Skip it is not run again"}}}},
		"what ran under an earlier claim goes on under the new one": {
			onDemand(jobs(newBatchJob("first", ran(90, 80))), active(firstRun, 101, theGrant, here+"/first-uid")),
			want{waiting: 1, compete: true, steps: []Step{letGo("first", firstRun)}}},
		"what was claimed is given up where nothing is admitted": {
			onDemand(drained, jobs(first), active(firstRun, 101, theGrant, here+"/first-uid")),
			want{waiting: 1, compete: true, waits: map[string]string{"first": "paused"}, steps: []Step{{Kind: Void, Job: about("first"), Run: firstRun, Fence: 101}}}},
		"what was claimed is given up where it is not needed any more": {
			onDemand(cronJobs(report), jobs(tickJob(report, tick)), record(tick, redislock.TickDone, 90, 80, there+"/x", "Complete"), active(runOf(tick), 101, theGrant, byHere)),
			want{waiting: 1, steps: []Step{
				{Kind: Remove, Job: about(name), CronJob: of("report"), Reason: ReasonRanElsewhere, Message: "tick 2026-03-01T12:00:00Z has been run (fencing token 90; complete), so Job " + name + " is not needed"},
				{Kind: Void, Job: about(name), Run: runOf(tick), Fence: 101}}}},
		"a tick whose runner elsewhere was lost": {
			onDemand(cronJobs(report), jobs(tickJob(report, tick)), record(tick, redislock.TickClaimed, 90, 80, there+"/x", "")),
			want{waiting: 1, compete: true, steps: []Step{letGo(name, runOf(tick))}}},
		"a tick whose run was given up": {
			onDemand(skipLost, cronJobs(report), jobs(tickJob(report, tick)), record(tick, redislock.TickOpen, 90, 80, there+"/x", "")),
			want{waiting: 1, compete: true, steps: []Step{letGo(name, runOf(tick))}}},
		"a tick that was lost and is not to run again": {
			onDemand(skipLost, cronJobs(report), jobs(tickJob(report, tick)), record(tick, redislock.TickClaimed, 90, 80, there+"/x", "")),
			want{waiting: 1, compete: true, waits: map[string]string{name: "the run of its tick that was lost is still to be recorded as such"}, steps: []Step{
				{Kind: Forfeit, Run: runOf(tick), Fence: 90, Outcome: Lost, CronJob: of("report"), Reason: ReasonLost,
					Message: "the runner of tick 2026-03-01T12:00:00Z was lost; with lostTicks Skip it is not run again"}}}},
	} {
		t.Run(title, func(t *testing.T) { t.Parallel(); test.want.check(t, test.in) })
	}
}

func TestTicksAreNotForgotten(t *testing.T) {
	t.Parallel()
	runLatest := func(in *Input) { in.Terms.RunLatest = true }
	overdue := func(in *Input) {
		in.Now = late
		if in.Runs != nil {
			in.Runs.Now = late
		}
	}
	behind := newCronJob("report", lastScheduled(tick.Add(-time.Minute)))
	gone := newCronJob("report", func(c *batchv1.CronJob) { c.DeletionTimestamp = new(metav1.NewTime(now)) })
	lost := record(tick, redislock.TickClaimed, 90, 80, there+"/x", "")
	rerun := Step{Kind: Make, CronJob: of("report"), Run: runOf(tick), Reason: ReasonRerun, Message: "tick 2026-03-01T12:00:00Z is run in this cluster: its runner was lost before it ended"}
	makeRoom := func(job string) Step {
		return Step{Kind: Remove, Job: about(job), CronJob: of("report"), Reason: ReasonRerun, Message: "Job " + job + " makes room: tick 2026-03-01T12:00:00Z is run again"}
	}
	for title, test := range map[string]struct {
		in   Input
		want want
	}{
		"a lost one without a Job here is made":   {onDemand(cronJobs(report), lost), want{compete: true, steps: []Step{rerun}}},
		"one that was given up is made":           {onDemand(skipLost, cronJobs(report), record(tick, redislock.TickOpen, 90, theGrant, byHere, "")), want{compete: true, steps: []Step{rerun}}},
		"not while the lock is away":              {onDemand(notHeld, cronJobs(report), lost), want{compete: true}},
		"not while an earlier operator may live":  {onDemand(quiet, cronJobs(report), lost), want{compete: true, next: now.Add(time.Minute)}},
		"not where nothing is admitted":           {onDemand(drained, cronJobs(report), lost), want{compete: true, steps: []Step{{Kind: Yield}}}},
		"not while its own claim stands":          {onDemand(cronJobs(report), claimedTick), want{compete: true}},
		"not for a CronJob that is suspended":     {onDemand(cronJobs(newCronJob("report", suspendedCronJob)), lost), want{steps: []Step{{Kind: Yield}}}},
		"not for a CronJob that is being deleted": {onDemand(cronJobs(gone), lost), want{steps: []Step{{Kind: Yield}}}},
		"not for a CronJob that is not here":      {onDemand(lost), want{steps: []Step{{Kind: Yield}}}},
		"a done one is not":                       {onDemand(cronJobs(report), record(tick, redislock.TickDone, 90, 80, there+"/x", "Failed")), want{steps: []Step{{Kind: Yield}}}},
		"an ended Job makes room first":           {onDemand(cronJobs(report), jobs(tickJob(report, tick, running(90, 80), ended(batchv1.JobFailed, ""), recorded)), lost), want{compete: true, steps: []Step{makeRoom(name)}}},
		"an ended Job is recorded before that": {
			onDemand(cronJobs(report), jobs(tickJob(report, tick, running(90, 80), ended(batchv1.JobFailed, ""))), lost),
			want{compete: true, steps: []Step{{Kind: Record, Job: about(name), Run: runOf(tick), Fence: 90, Outcome: Failed}}}},
		"an ended Job that is on its way out is let":  {onDemand(cronJobs(report), jobs(tickJob(report, tick, running(90, 80), ended(batchv1.JobFailed, ""), recorded, leaving)), lost), want{compete: true}},
		"a Job of another kind with its name as well": {onDemand(cronJobs(report), jobs(newBatchJob(name, ended(batchv1.JobComplete, ""), recorded)), lost), want{compete: true, steps: []Step{makeRoom(name)}}},
		"lost for good where no CronJob is here": {
			onDemand(skipLost, lost), want{steps: []Step{{Kind: Forfeit, Run: runOf(tick), Fence: 90, Outcome: Lost, Reason: ReasonLost,
				Message: "the runner of tick 2026-03-01T12:00:00Z was lost; with lostTicks Skip it is not run again"}, {Kind: Yield}}}},
		"one that is claimed late is waited for":              {onDemand(notHeld, cronJobs(report)), want{next: late}},
		"one that nobody claimed is told":                     {onDemand(notHeld, overdue, cronJobs(newCronJob("report", func(c *batchv1.CronJob) { c.Spec.Schedule = "0 * * * *" }))), want{unclaimed: []time.Time{tick}}},
		"one before the lock came to be is not":               {onDemand(notHeld, overdue, cronJobs(hourly(report)), func(in *Input) { in.Since = tick.Add(time.Second) }), want{}},
		"one that was claimed is not":                         {onDemand(notHeld, overdue, cronJobs(hourly(report)), highWater(tick)), want{}},
		"one of a suspended CronJob is not":                   {onDemand(notHeld, overdue, cronJobs(newCronJob("report", suspendedCronJob))), want{}},
		"it is made up for where that is wanted":              {onDemand(runLatest, overdue, cronJobs(hourly(behind))), want{compete: true, unclaimed: []time.Time{tick}, steps: []Step{{Kind: Make, CronJob: of("report"), Run: runOf(tick), Reason: ReasonMissed, Message: "tick 2026-03-01T12:00:00Z is run in this cluster: no cluster ran it in time"}}}},
		"then the lock is wanted":                             {onDemand(notHeld, runLatest, overdue, cronJobs(hourly(behind))), want{compete: true, unclaimed: []time.Time{tick}}},
		"not after its CronJob's starting deadline":           {onDemand(notHeld, runLatest, overdue, cronJobs(hourly(newCronJob("report", lastScheduled(time.Time{}), startingDeadline(59))))), want{unclaimed: []time.Time{tick}}},
		"not where its Job was there and was taken away":      {onDemand(notHeld, runLatest, overdue, cronJobs(hourly(report))), want{unclaimed: []time.Time{tick}}},
		"not where its Job waits":                             {onDemand(notHeld, runLatest, overdue, cronJobs(hourly(behind)), jobs(tickJob(behind, tick))), want{waiting: 1, compete: true, unclaimed: []time.Time{tick}, waits: map[string]string{name: `cluster "green" (RedisLock ns/lock) holds the lock`}}},
		"nothing is said of ticks while Redis cannot be read": {onDemand(notHeld, noRuns, overdue, cronJobs(report)), want{}},
	} {
		t.Run(title, func(t *testing.T) { t.Parallel(); test.want.check(t, test.in) })
	}
}

// hourly is a CronJob whose latest tick is the one, a minute later too.
func hourly(c *batchv1.CronJob) *batchv1.CronJob {
	c = c.DeepCopy()
	c.Spec.Schedule = "0 * * * *"
	return c
}

func TestWhenTheLockIsGivenBack(t *testing.T) {
	t.Parallel()
	giveUp := func(in *Input) { in.GiveUp = true }
	yield := []Step{{Kind: Yield}}
	for title, test := range map[string]struct {
		in   Input
		want []Step
	}{
		"on demand, nothing wanted":                    {onDemand(), yield},
		"on demand, what is wanted cannot be read":     {onDemand(noRuns), nil},
		"on demand, served":                            {onDemand(noRuns, func(in *Input) { in.Served = theGrant }), yield},
		"on demand, an earlier grant served":           {onDemand(noRuns, func(in *Input) { in.Served = theGrant - 1 }), nil},
		"leadership":                                   {onDemand(always), nil},
		"leadership that is to be given up":            {onDemand(always, giveUp), yield},
		"leadership of a cluster that is drained":      {onDemand(always, drained), yield},
		"drained, and Redis cannot be read":            {onDemand(always, drained, noRuns), yield},
		"drained, while an earlier operator may live":  {onDemand(always, drained, quiet), nil},
		"drained, and not held":                        {onDemand(drained, notHeld), nil},
		"drained, while a Job runs":                    {onDemand(always, drained, jobs(newBatchJob("a", running(101, theGrant), watched(300, "")))), nil},
		"drained, while an ended Job is not recorded":  {onDemand(always, drained, jobs(newBatchJob("a", running(101, theGrant), ended(batchv1.JobComplete, "")))), []Step{{Kind: Record, Job: about("a"), Run: idRun, Fence: 101, Outcome: Complete}}},
		"drained, while a stopped Job's pods may live": {onDemand(always, drained, jobs(newBatchJob("a", running(101, 80), func(j *batchv1.Job) { j.Spec.Suspend = new(true) }))), nil},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			w := want{steps: test.want}
			plan := Decide(test.in)
			w.active, w.next, w.compete = plan.Active, plan.Next, plan.Compete
			w.check(t, test.in)
		})
	}
}
