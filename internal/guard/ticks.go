package guard

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

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
