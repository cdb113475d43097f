package guard

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// settling is for how long a Job that was stopped waits before it is let go again. If it
// was stopped soon after it was let go, its controller may have taken in neither: the
// status is that of before, and a pod is about to be made.
const settling = coverMargin

// mayStart says whether new runs may begin here at all.
func (p *planner) mayStart() bool {
	return p.Hold.Held && p.Admit && !p.Now.Before(p.Hold.QuietUntil)
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
		case p.Now.Before(job.Stopped.Add(settling)):
			p.Waits[job.UID] = "it was stopped a moment ago, and Kubernetes may not have taken that in"
			p.again(job.Stopped.Add(settling))
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
