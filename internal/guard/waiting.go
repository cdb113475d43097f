package guard

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

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
