package guard

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/types"

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
