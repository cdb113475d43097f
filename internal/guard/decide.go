package guard

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	// manualWait is for how long a Job made by "kubectl create job --from" waits where
	// the lock has no maxWait: whoever made it wants it now, not tomorrow.
	manualWait = time.Hour
	// Retention is how long after its time a tick may still be run.
	Retention = 48 * time.Hour
)

// Terms are what a RedisLock says about the Jobs under it.
type Terms struct {
	// Exclusive: one run at a time, with the lock taken for it and given back after it.
	Exclusive bool
	Watchdog  time.Duration
	MaxWait   time.Duration // 0: none
	// Rerun: a tick whose runner was lost is run again, else not.
	Rerun bool
	// RunLatest: the latest tick that nobody ran is made up for.
	RunLatest bool
	// DeleteOnLost: a Job whose lease is lost is deleted, else suspended.
	DeleteOnLost bool
	// ClaimGrace is how long after its time a tick counts as unclaimed.
	ClaimGrace time.Duration
}

// Hold is how this cluster's hold on the lock stands.
type Hold struct {
	// Known: else nothing can be said, least of all that the lock is not held.
	Known, Held bool
	// Fence is the grant's fencing token.
	Fence uint64
	// QuietUntil: nothing new may start before.
	QuietUntil time.Time
	// Fresh: enough is left of the lease to let a Job go under it.
	Fresh bool
	// Window is for how long a deadline may be set: the watchdog's, or less where the
	// grant has a maximum.
	Window time.Duration
	// Why is why it is not held, for people.
	Why string
}

// Input is all that was seen.
type Input struct {
	Now   time.Time
	Terms Terms
	Hold  Hold
	// Cluster is this cluster's part in a claimant.
	Cluster string
	// Admit: new Jobs may start here; else NotAdmitted says why not.
	Admit       bool
	NotAdmitted string
	// GiveUp: the lock is to be given back once nothing runs, though hold is Always.
	GiveUp bool
	// Served is the fence of the last grant under which a run has ended.
	Served   uint64
	Jobs     []*Job
	CronJobs []*batchv1.CronJob
	// Runs is what Redis has recorded; nil where it could not be asked.
	Runs *redislock.Runs
	// Clusters names those that had the last grants, by fencing token.
	Clusters map[uint64]string
	// Since is when this lock came to be: what was missed before is not missed.
	Since time.Time
}

// Kind is what a step does.
type Kind string

// Kinds of steps.
const (
	// Stop suspends a Job that runs without a hold behind it, or deletes it.
	Stop Kind = "Stop"
	// Record has Redis record the outcome of a run that ended, and lets its Job go.
	Record Kind = "Record"
	// Reopen has Redis forget a claim whose run is to be done again.
	Reopen Kind = "Reopen"
	// Drop takes the finalizer off a Job of which there is nothing to record.
	Drop Kind = "Drop"
	// Remove deletes a Job that is not needed.
	Remove Kind = "Remove"
	// Void gives a claim up whose Job is not to start now.
	Void Kind = "Void"
	// Bury records the end of a claim whose Job is gone.
	Bury Kind = "Bury"
	// Forfeit records a tick as lost, not to be run again.
	Forfeit Kind = "Forfeit"
	// Make makes the Job of a tick that has none here.
	Make Kind = "Make"
	// LetGo lets a Job start.
	LetGo Kind = "LetGo"
	// Extend moves a running Job's deadline ahead.
	Extend Kind = "Extend"
	// Yield gives the lock back.
	Yield Kind = "Yield"
)

// Outcome is how a run ended, as Redis records it.
type Outcome string

// Outcomes.
const (
	Complete Outcome = "Complete"
	Failed   Outcome = "Failed"
	// Deleted: somebody deleted the Job, which is to end the run everywhere.
	Deleted Outcome = "Deleted"
	// Lost: its operator, its cluster or its lease was lost before it ended.
	Lost Outcome = "Lost"
)

// Step is one thing to do.
type Step struct {
	Kind    Kind
	Job     *Job             // all but Bury, Forfeit, Make and Yield
	CronJob *batchv1.CronJob // Make, and Remove where it has one
	Run     redislock.Run    // Record, Reopen, Void, Bury, Forfeit, Make
	Fence   uint64           // of the claim: Record, Reopen, Void, Bury, Forfeit
	Outcome Outcome          // Record, Bury, Forfeit
	Seconds int64            // Extend; 0: only the key's expiry is moved, not the deadline
	// Reason and Message are for people.
	Reason  Reason
	Message string
}

// Reason is why something was done, as events have it.
type Reason string

// Reasons.
const (
	ReasonNoHold        Reason = "NoHold"
	ReasonRanElsewhere  Reason = "RanElsewhere"
	ReasonSuperseded    Reason = "Superseded"
	ReasonTooOld        Reason = "TooOld"
	ReasonWaitedTooLong Reason = "WaitedTooLong"
	ReasonDeadline      Reason = "MissedStartingDeadline"
	ReasonReplaced      Reason = "Replaced"
	ReasonRerun         Reason = "Rerun"
	ReasonMissed        Reason = "MadeUp"
	ReasonLost          Reason = "TickLost"
	ReasonUnclaimed     Reason = "TickUnclaimed"
	ReasonWaiting       Reason = "Waiting"
)

// Plan is what is to be done, and what there is to tell.
type Plan struct {
	Steps []Step
	// Compete: this cluster wants the lock, where it is taken on demand.
	Compete bool
	// Waits says of each waiting Job why it does not run.
	Waits map[types.UID]string
	// Unclaimed are ticks that no cluster has claimed in time.
	Unclaimed []Unclaimed
	// Active and Waiting count Jobs.
	Active, Waiting int32
	// Next is when to decide again though nothing has happened; zero: then never.
	Next time.Time
}

// Unclaimed is a tick that no cluster has claimed in time.
type Unclaimed struct {
	CronJob *batchv1.CronJob
	Tick    time.Time
}

// planner works a plan out.
type planner struct {
	Input
	Plan

	busy bool // something of this grant runs, may run, or is not recorded
	// taken: so it is of another Job than one that waits, which even a Job that was
	// claimed already has to wait for.
	taken   bool
	waiting []*Job
	records map[tickKey]redislock.TickRecord
	claims  map[string]redislock.ActiveRun // by claimant, under this grant
}

type tickKey struct {
	series string
	tick   int64
}

func keyOf(series string, tick time.Time) tickKey { return tickKey{series, tick.Unix()} }

// Decide works out what is to be done. Steps are in the order in which to take them;
// where one fails those after it can wait for the next decision.
func Decide(in Input) Plan {
	p := &planner{Input: in, records: map[tickKey]redislock.TickRecord{}, claims: map[string]redislock.ActiveRun{}}
	p.Waits = map[types.UID]string{}
	p.Hold.Held = p.Hold.Held && p.Hold.Known
	p.Jobs = slices.SortedFunc(slices.Values(in.Jobs), byAge)
	if p.Runs != nil {
		for _, record := range p.Runs.Ticks {
			p.records[keyOf(record.Series, record.Tick)] = record
		}
		for _, active := range p.Runs.Active {
			if p.Hold.Held && active.Grant == p.Hold.Fence {
				p.claims[active.Claimant] = active
			}
		}
	}
	for _, job := range p.Jobs {
		p.look(job)
	}
	p.Waiting = int32(len(p.waiting))
	candidates := p.sift()
	if p.Runs != nil {
		p.bury()
		if p.mayStart() {
			p.revive()
		}
		p.missed()
		p.letGo(candidates)
	}
	p.yield()
	return p.Plan
}

func (p *planner) do(s Step) { p.Steps = append(p.Steps, s) }
func (p *planner) again(t time.Time) {
	if !t.IsZero() && (p.Next.IsZero() || t.Before(p.Next)) {
		p.Next = t
	}
}

// look deals with a Job that does more than wait.
func (p *planner) look(job *Job) {
	switch job.Phase {
	case Ended:
		// Without its finalizer, which somebody took away, the claim still stands.
		if _, claimed := p.claims[Claimant(p.Cluster, job.Job)]; claimed || hasFinalizer(job.Job) {
			p.taken = true
			p.ended(job)
		}
	case Leaving:
		if hasFinalizer(job.Job) {
			p.taken = true
			p.leaving(job)
		}
	case Running:
		p.taken = true
		p.Active++
		p.running(job)
	case Stopping:
		p.taken = true
		p.Active++
	case Waiting:
		p.waiting = append(p.waiting, job)
	}
}

// ended has the outcome of a Job recorded. It needs no hold, only Redis.
func (p *planner) ended(job *Job) {
	fence := job.Fence
	if active, claimed := p.claims[Claimant(p.Cluster, job.Job)]; claimed {
		fence = active.Fence // of a later run than the Job says, if they differ
	}
	switch {
	case fence == 0:
		p.do(Step{Kind: Drop, Job: job})
	case endedByWatchdog(job.Job) && job.IsTick() && p.Terms.Rerun:
		p.do(Step{Kind: Reopen, Job: job, Run: job.Run, Fence: fence, Outcome: Lost, Reason: ReasonLost,
			Message: fmt.Sprintf("Job %s was ended by its watchdog, for no operator moved its deadline ahead: its tick is run again", job.Name)})
	case endedByWatchdog(job.Job):
		p.do(Step{Kind: Record, Job: job, Run: job.Run, Fence: fence, Outcome: Lost, Reason: ReasonLost,
			Message: fmt.Sprintf("Job %s was ended by its watchdog, for no operator moved its deadline ahead; it is not run again", job.Name)})
	case condition(job.Job, batchv1.JobComplete) != nil:
		p.do(Step{Kind: Record, Job: job, Run: job.Run, Fence: fence, Outcome: Complete})
	default:
		p.do(Step{Kind: Record, Job: job, Run: job.Run, Fence: fence, Outcome: Failed})
	}
}

// leaving lets a Job go that somebody deleted: its run counts as done, or a cancel
// here would be a run elsewhere. One that was deleted because its lease was lost is
// as lost as its lease.
func (p *planner) leaving(job *Job) {
	switch {
	case job.Fence == 0:
		p.do(Step{Kind: Drop, Job: job})
	case p.Terms.DeleteOnLost && !p.Hold.Known:
	case p.Terms.DeleteOnLost && !p.backed(job):
		p.do(Step{Kind: Drop, Job: job})
	default:
		p.do(Step{Kind: Record, Job: job, Run: job.Run, Fence: job.Fence, Outcome: Deleted})
	}
}

// backed says whether a Job's run is one of the grant that is held.
func (p *planner) backed(job *Job) bool {
	return p.Hold.Held && job.Fence != 0 && job.Grant == p.Hold.Fence
}

func (p *planner) running(job *Job) {
	switch {
	case !p.Hold.Known:
	case job.Fence == 0:
		p.do(Step{Kind: Stop, Job: job, Reason: ReasonNoHold, Message: "it was started by somebody other than the operator, without the lock: suspended"})
	case !p.backed(job):
		p.do(Step{Kind: Stop, Job: job, Reason: ReasonNoHold, Message: "the lease under which it ran is lost: " + cmp.Or(p.Hold.Why, "another grant is held now")})
	default:
		seconds, due, next := Prolong(job.Job, p.Hold.Window, p.Now)
		if due {
			p.do(Step{Kind: Extend, Job: job, Seconds: seconds})
		}
		p.again(next)
	}
}

// sift takes out the waiting Jobs that are not needed any more, and returns those that
// may be let go, in the order in which they wait.
func (p *planner) sift() []*Job {
	newest := map[string]time.Time{}
	replaced := map[string]bool{}
	for _, job := range p.waiting {
		if job.IsTick() && !p.toCome(job) && job.Run.Tick.After(newest[job.Run.Series]) {
			newest[job.Run.Series] = job.Run.Tick
		}
	}
	for _, job := range p.Jobs {
		if uid := job.Annotations[v1alpha1.ReplacesAnnotation]; uid != "" {
			replaced[uid] = true
		}
	}
	var candidates []*Job
	for _, job := range p.waiting {
		if replaced[string(job.UID)] {
			p.remove(job, ReasonReplaced, fmt.Sprintf("Job %s ran before and its template cannot change any more, so another Job takes its place", job.Name))
			continue
		}
		if p.Runs == nil {
			p.Waits[job.UID] = "the runs recorded in Redis cannot be read: " + cmp.Or(p.Hold.Why, "Redis does not answer")
			p.Compete = true // it waits for the lock, whatever becomes of it
			continue
		}
		if reason, message := p.obsolete(job, newest[job.Run.Series]); reason != "" {
			p.remove(job, reason, message)
			continue
		}
		candidates = append(candidates, job)
	}
	return candidates
}

// toCome says that a Job's tick is further ahead than clocks differ.
func (p *planner) toCome(job *Job) bool { return job.Run.Tick.After(p.Now.Add(time.Minute)) }

// obsolete says why a waiting Job is not needed any more.
func (p *planner) obsolete(job *Job, newest time.Time) (Reason, string) {
	record, recorded := p.records[keyOf(job.Run.Series, job.Run.Tick)]
	waited := p.Now.Sub(job.CreationTimestamp.Time)
	if job.IsTick() {
		tick := job.Run.Tick.Format(time.RFC3339)
		highWater := p.Runs.HighWater[job.Run.Series]
		switch {
		case recorded && record.State == redislock.TickDone:
			return ReasonRanElsewhere, fmt.Sprintf("tick %s has been run (%s; %s), so Job %s is not needed", tick, p.where(record), strings.ToLower(record.Outcome), job.Name)
		case recorded:
			return "", "" // somebody runs it or did: this Job stands by, or goes on
		case !highWater.Before(job.Run.Tick):
			return ReasonSuperseded, fmt.Sprintf("tick %s is older than tick %s, which has been started: Job %s is not run", tick, highWater.Format(time.RFC3339), job.Name)
		case newest.After(job.Run.Tick):
			return ReasonSuperseded, fmt.Sprintf("tick %s waited until tick %s came, and only the newest is run: Job %s is not", tick, newest.Format(time.RFC3339), job.Name)
		case p.Runs.Now.Sub(job.Run.Tick) > Retention:
			return ReasonTooOld, fmt.Sprintf("tick %s is more than %s old: Job %s is not run", tick, Retention, job.Name)
		}
		if s := job.CronJob.Spec.StartingDeadlineSeconds; s != nil {
			deadline := job.Run.Tick.Add(time.Duration(*s) * time.Second)
			if p.Now.After(deadline) {
				return ReasonDeadline, fmt.Sprintf("tick %s could not be started within the CronJob's startingDeadlineSeconds of %d: Job %s is not run", tick, *s, job.Name)
			}
			p.again(deadline)
		}
	}
	if job.Fence != 0 {
		return "", "" // it ran, and is to go on
	}
	longest := p.Terms.MaxWait
	if longest == 0 && job.CronJob != nil && !job.IsTick() {
		longest = manualWait
	}
	if longest > 0 {
		if waited > longest {
			return ReasonWaitedTooLong, fmt.Sprintf("Job %s waited for the lock for more than %s", job.Name, longest)
		}
		p.again(job.CreationTimestamp.Add(longest + time.Second))
	}
	return "", ""
}

// where says where a tick was run, as far as the lock's history goes back.
func (p *planner) where(record redislock.TickRecord) string {
	if cluster := p.Clusters[record.Grant]; cluster != "" {
		return fmt.Sprintf("in cluster %q, with fencing token %d", cluster, record.Fence)
	}
	return fmt.Sprintf("fencing token %d", record.Fence)
}

// remove deletes a Job once the CronJob controller has noted its tick: one that is
// gone earlier is made again.
func (p *planner) remove(job *Job, reason Reason, message string) {
	if job.IsTick() {
		last := job.CronJob.Status.LastScheduleTime
		if last == nil || last.Time.Before(job.Run.Tick) {
			p.Waits[job.UID] = message + "; it is removed when the CronJob's lastScheduleTime says that its tick was noted"
			return
		}
	}
	p.do(Step{Kind: Remove, Job: job, CronJob: job.CronJob, Reason: reason, Message: message})
}

// bury records the end of claims of this grant whose Job is gone: it was deleted by
// force, or before it started.
func (p *planner) bury() {
	phases := map[string]Phase{}
	for _, job := range p.Jobs {
		phases[Claimant(p.Cluster, job.Job)] = job.Phase
	}
	for _, claimant := range slices.Sorted(maps.Keys(p.claims)) {
		active := p.claims[claimant]
		phase, here := phases[claimant]
		if phase == Waiting {
			continue // see letGo
		}
		p.taken = true
		if here || !strings.HasPrefix(claimant, p.Cluster+"/") {
			continue
		}
		p.do(Step{Kind: Bury, Run: active.Run, Fence: active.Fence, Outcome: Deleted})
	}
}

// mayStart says whether new runs may begin here at all.
func (p *planner) mayStart() bool {
	return p.Hold.Held && p.Admit && !p.Now.Before(p.Hold.QuietUntil)
}

// revive sees to ticks that were claimed under an earlier grant and never finished.
// This cluster has the lock, so their runners are no more.
func (p *planner) revive() {
	for _, record := range p.Runs.Ticks {
		if record.State == redislock.TickDone || record.State == redislock.TickClaimed && record.Grant == p.Hold.Fence {
			continue
		}
		run := redislock.Run{Series: record.Series, Tick: record.Tick}
		if record.State == redislock.TickClaimed && !p.Terms.Rerun {
			if p.undecided(record) {
				continue
			}
			p.do(Step{Kind: Forfeit, Run: run, Fence: record.Fence, Outcome: Lost, CronJob: p.cronJob(record.Series), Reason: ReasonLost,
				Message: fmt.Sprintf("the runner of tick %s was lost; with lostTicks Skip it is not run again", record.Tick.Format(time.RFC3339))})
			continue
		}
		p.makeUp(record.Series, record.Tick, ReasonRerun, "its runner was lost before it ended")
	}
}

// undecided says that the Job which had a claim is here and does not wait: how it
// ended, or will, is still to be recorded, and says more than that it was lost.
func (p *planner) undecided(record redislock.TickRecord) bool {
	return slices.ContainsFunc(p.Jobs, func(j *Job) bool {
		return j.Fence == record.Fence && j.Phase != Waiting && (hasFinalizer(j.Job) || j.Phase != Ended)
	})
}

func (p *planner) cronJob(series string) *batchv1.CronJob {
	i := slices.IndexFunc(p.CronJobs, func(c *batchv1.CronJob) bool { return Series(c) == series })
	if i < 0 {
		return nil
	}
	return p.CronJobs[i]
}

// makeUp has a Job made for a tick that has none here. An ended one that is in its
// place, with its outcome recorded, makes room first.
func (p *planner) makeUp(series string, tick time.Time, reason Reason, why string) bool {
	cronJob := p.cronJob(series)
	if cronJob == nil || ptr.Deref(cronJob.Spec.Suspend, false) || cronJob.DeletionTimestamp != nil {
		return false
	}
	for _, job := range p.Jobs {
		if job.Name != JobName(cronJob, tick) && (job.Run.Series != series || !job.Run.Tick.Equal(tick)) {
			continue
		}
		_, claimed := p.claims[Claimant(p.Cluster, job.Job)] // so its end is recorded first
		if job.Phase == Ended && !hasFinalizer(job.Job) && !claimed && job.DeletionTimestamp == nil {
			p.do(Step{Kind: Remove, Job: job, CronJob: cronJob, Reason: reason, Message: fmt.Sprintf("Job %s makes room: tick %s is run again", job.Name, tick.Format(time.RFC3339))})
		}
		return true
	}
	p.do(Step{Kind: Make, CronJob: cronJob, Run: redislock.Run{Series: series, Tick: tick}, Reason: reason,
		Message: fmt.Sprintf("tick %s is run in this cluster: %s", tick.Format(time.RFC3339), why)})
	return true
}

// missed finds ticks that no cluster has claimed in time, and has the latest of a
// CronJob made up for where that is wanted.
func (p *planner) missed() {
	for _, c := range p.CronJobs {
		if ptr.Deref(c.Spec.Suspend, false) || c.DeletionTimestamp != nil {
			continue
		}
		series := Series(c)
		tick := LatestTick(c, p.Now)
		if tick.IsZero() || tick.Before(p.Since) || !p.Runs.HighWater[series].Before(tick) {
			continue
		}
		if late := tick.Add(p.Terms.ClaimGrace); p.Now.Before(late) {
			p.again(late)
			continue
		}
		p.Unclaimed = append(p.Unclaimed, Unclaimed{c, tick})
		if !p.Terms.RunLatest || p.here(series, tick) || p.Runs.Now.Sub(tick) > Retention {
			continue
		}
		if last := c.Status.LastScheduleTime; last != nil && !last.Time.Before(tick) {
			continue // there was a Job, and somebody took it away
		}
		if s := c.Spec.StartingDeadlineSeconds; s != nil && p.Now.After(tick.Add(time.Duration(*s)*time.Second)) {
			continue
		}
		p.Compete = true
		if p.mayStart() {
			p.makeUp(series, tick, ReasonMissed, "no cluster ran it in time")
		}
	}
}

func (p *planner) here(series string, tick time.Time) bool {
	return slices.ContainsFunc(p.Jobs, func(j *Job) bool { return j.Run.Series == series && j.Run.Tick.Equal(tick) })
}

// letGo chooses the Jobs that start now.
func (p *planner) letGo(candidates []*Job) {
	for _, record := range p.Runs.Ticks {
		if c := p.cronJob(record.Series); record.State != redislock.TickDone && c != nil && !ptr.Deref(c.Spec.Suspend, false) && c.DeletionTimestamp == nil {
			p.Compete = true // it may be ours to run if its runner is lost
		}
	}
	// A claim whose Job did not start yet: the process that made it died, or the
	// answer of the API server was lost. Nothing else may happen to the grant before
	// that Job has started, or can no more.
	unresolved := func(job *Job) (redislock.ActiveRun, bool) {
		active, ok := p.claims[Claimant(p.Cluster, job.Job)]
		return active, ok
	}
	p.busy = p.taken
	for _, job := range p.waiting {
		if active, ok := unresolved(job); ok {
			p.busy = true
			switch {
			case hasRun(job, active) && job.IsTick() && !p.Terms.Rerun:
				// It began under this claim, and its lease was lost: never again.
				if !p.Now.Before(p.Hold.QuietUntil) {
					p.do(Step{Kind: Forfeit, Run: active.Run, Fence: active.Fence, Outcome: Lost, CronJob: job.CronJob, Reason: ReasonLost,
						Message: fmt.Sprintf("tick %s was stopped while it ran; with lostTicks Skip it is not run again", job.Run.Tick.Format(time.RFC3339))})
				}
			case !p.Admit || !slices.Contains(candidates, job) || p.spent(job, active):
				p.do(Step{Kind: Void, Job: job, Run: active.Run, Fence: active.Fence})
			}
		}
	}
	started := false
	for _, job := range candidates {
		if p.toCome(job) {
			p.Waits[job.UID] = fmt.Sprintf("its tick, %s, is still to come", job.Run.Tick.Format(time.RFC3339))
			p.again(job.Run.Tick)
			continue
		}
		p.Compete = true
		active, mine := unresolved(job)
		switch {
		case !p.Admit:
			p.Waits[job.UID] = p.NotAdmitted
		case !p.Hold.Held:
			p.Waits[job.UID] = cmp.Or(p.Hold.Why, "the lock has not been asked for yet")
		case p.Now.Before(p.Hold.QuietUntil):
			p.Waits[job.UID] = fmt.Sprintf("an earlier operator of this cluster may still be alive: nothing new starts before %s", p.Hold.QuietUntil.UTC().Format(time.RFC3339))
			p.again(p.Hold.QuietUntil)
		case p.Terms.Exclusive && (started || p.taken || p.busy && !mine):
			p.Waits[job.UID] = "another guarded Job of this cluster has the lock; Jobs go in the order of their creation"
		case p.forbidden(job):
			p.Waits[job.UID] = "another tick of its CronJob runs, whose concurrencyPolicy is Forbid"
		case p.Terms.Exclusive && p.Served == p.Hold.Fence && !mine:
			p.Waits[job.UID] = "the lock is given back after each run, and is to be taken again"
		case p.blocked(job):
			p.Waits[job.UID] = "the run of its tick that was lost is still to be recorded as such"
		case mine && p.spent(job, active):
			p.Waits[job.UID] = "a run of it may have had its fencing token already, and it is to get a new one"
		case !p.Hold.Fresh:
			p.Waits[job.UID] = "too little is left of the lease: Redis is slow to renew it"
			p.again(p.Now.Add(time.Second))
		default:
			started = true
			p.busy = true
			p.do(Step{Kind: LetGo, Job: job, Run: job.Run})
		}
	}
}

// hasRun says that a Job which waits has run under a claim already: it was stopped
// since, and may not go on with the same token.
func hasRun(job *Job, claim redislock.ActiveRun) bool { return job.Fence == claim.Fence }

// spent says that a run may have seen the fencing token of a claim already: that of
// this Job, or that of its twin in a clone of this cluster, whose claims look like ours
// and under whose grant this process goes on.
func (p *planner) spent(job *Job, claim redislock.ActiveRun) bool {
	// This process claims nothing before the quiet is over. Ages compare, clocks do not.
	inherited := !p.Hold.QuietUntil.IsZero() && p.Runs.Now.Sub(claim.At) > p.Now.Sub(p.Hold.QuietUntil)
	return inherited || hasRun(job, claim)
}

// blocked says that a Job's tick was lost and is not to be run again.
func (p *planner) blocked(job *Job) bool {
	record, ok := p.records[keyOf(job.Run.Series, job.Run.Tick)]
	return ok && record.State == redislock.TickClaimed && record.Grant != p.Hold.Fence && !p.Terms.Rerun
}

// yield gives the lock back when it has served its purpose.
func (p *planner) yield() {
	if !p.Hold.Held || p.taken || p.busy {
		return
	}
	if p.Now.Before(p.Hold.QuietUntil) {
		p.again(p.Hold.QuietUntil)
		return
	}
	made := slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == Make || s.Kind == Remove && s.Reason == ReasonRerun })
	switch {
	case !p.Admit, p.GiveUp:
	case p.Terms.Exclusive && p.Served == p.Hold.Fence:
	case p.Terms.Exclusive && p.Runs != nil && !p.Compete && !made:
	default:
		return
	}
	p.do(Step{Kind: Yield})
}

// forbidden says that another tick of a Job's CronJob runs here, or is about to, which
// its concurrencyPolicy forbids. The CronJob controller makes no Job beside one that is
// active; but several may wait in a cluster that takes a lock over: those that its
// controller made, and those that were made here for ticks whose runner was lost.
func (p *planner) forbidden(job *Job) bool {
	if !job.IsTick() || job.CronJob.Spec.ConcurrencyPolicy != batchv1.ForbidConcurrent {
		return false
	}
	another := func(j *Job) bool { return j.UID != job.UID && j.Run.Series == job.Run.Series && j.IsTick() }
	return slices.ContainsFunc(p.Jobs, func(j *Job) bool {
		return another(j) && (j.Phase == Running || j.Phase == Stopping || j.Phase == Leaving && hasFinalizer(j.Job))
	}) || slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == LetGo && another(s.Job) })
}
