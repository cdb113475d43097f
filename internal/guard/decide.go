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

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

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
// here would be a run elsewhere. One that the operator deleted because its lease was
// lost is lost, whoever has the lock by now: a process of this cluster that was paused
// may have deleted what its successor went on with.
func (p *planner) leaving(job *Job) {
	switch {
	case job.Fence == 0:
		p.do(Step{Kind: Drop, Job: job})
	case job.Lost && job.IsTick() && p.Terms.Rerun:
		p.do(Step{Kind: Reopen, Job: job, Run: job.Run, Fence: job.Fence, Outcome: Lost, Reason: ReasonLost,
			Message: fmt.Sprintf("Job %s was deleted because its lease was lost: its tick is run again", job.Name)})
	case job.Lost:
		p.do(Step{Kind: Record, Job: job, Run: job.Run, Fence: job.Fence, Outcome: Lost, Reason: ReasonLost,
			Message: fmt.Sprintf("Job %s was deleted because its lease was lost; it is not run again", job.Name)})
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
