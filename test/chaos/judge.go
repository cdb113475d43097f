package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Tolerance is by how much two intervals may seem to overlap that do not: each end is
// the moment at which this process heard of it from etcd, on a machine that is busy.
// A completion's record and a claim carry the server's own clock and need none.
const Tolerance = 500 * time.Millisecond

// Lock is what the judge has to know of a lock.
type Lock struct {
	// Exclusive: one run at a time, else one cluster at a time.
	Exclusive bool
	// Rerun: a tick whose runner was lost is run again, else never.
	Rerun bool
}

// An Outage is a time for which a part of a cluster was away that the promises need.
type Outage struct {
	Cluster, What string
	From, To      time.Time
}

// History is all that is judged.
type History struct {
	Locks map[string]Lock
	// Forbid names the series whose CronJob has concurrencyPolicy Forbid.
	Forbid  map[string]bool
	Runs    []Run
	Jobs    []Job
	Records []Record
	// Newest is the newest tick of each series that was ever claimed.
	Newest map[string]int64
	Writes Writes
	// Outages are those that were longer than the guard says that it bears.
	Outages []Outage
	// Watchdog is how long after its cause a run may go on.
	Watchdog time.Duration
	// Left is what was not settled long after all was in order again.
	Left []string
	// Unreadable is what of the history could not be understood.
	Unreadable []string
}

// A Rule is one thing that must not be.
type Rule string

// The rules.
const (
	TickOverlap    Rule = "two runs of a tick at the same time"
	LockOverlap    Rule = "two runs under an exclusive lock at the same time"
	LeaderOverlap  Rule = "runs of two clusters under a lock at the same time"
	RunAfterDone   Rule = "a tick run after its completion was recorded"
	StartedTwice   Rule = "a tick started twice though lost ticks are to be skipped"
	NeverCompleted Rule = "a tick that was started and has no end"
	FalselyDone    Rule = "a tick recorded as complete of which no run succeeded"
	NeverRun       Rule = "a tick that was never run, and no newer one was"
	StaleWrite     Rule = "a stale write that was accepted"
	NotSettled     Rule = "something left undone when all was in order again"
	BadHistory     Rule = "a history that cannot be read"
)

// A Violation is something that must not be and was.
type Violation struct {
	Rule   Rule
	What   string
	Excuse string // an outage that the guard does not claim to bear
}

// A Verdict is what the judge makes of a history.
type Verdict struct {
	Violations []Violation
	Excused    []Violation
	// Ticks that some cluster had a Job or Redis a claim for, that ran, that ran more
	// than once, and that no cluster ran because a newer one came.
	Ticks, Ran, Rerun, Superseded int
	// Lost ticks are recorded as such, which is right where they are to be skipped.
	Lost int
	// Runs is how often something was started; Stopped how often that ended without
	// success.
	Runs, Stopped int
	// Handovers is how often a lock's next run was in another cluster.
	Handovers int
	// Concurrent counts runs of two ticks at the same time of a CronJob that forbids it.
	// The CronJob controller sees to that in its cluster, and the guard does not promise
	// it for ticks that are run again.
	Concurrent int
	// Overlap is the longest by which two runs seemed to overlap that must not.
	Overlap time.Duration
}

// Has says whether a rule was broken.
func (v Verdict) Has(rules ...Rule) bool {
	return slices.ContainsFunc(v.Violations, func(x Violation) bool { return slices.Contains(rules, x.Rule) })
}

type judge struct {
	*History
	verdict Verdict
	byTick  map[Tick][]*Run
	byLock  map[string][]*Run
	done    map[Tick]Record
	records map[Tick][]Record
}

// Judge looks for what must not be.
func Judge(h *History) Verdict {
	j := &judge{History: h, byTick: map[Tick][]*Run{}, byLock: map[string][]*Run{}, done: map[Tick]Record{}, records: map[Tick][]Record{}}
	slices.SortStableFunc(h.Runs, func(a, b Run) int { return a.Begin.Compare(b.Begin) })
	for i := range h.Runs {
		run := &h.Runs[i]
		j.byLock[run.Lock] = append(j.byLock[run.Lock], run)
		if run.Tick != (Tick{}) {
			j.byTick[run.Tick] = append(j.byTick[run.Tick], run)
		}
		j.verdict.Runs++
		if !run.Succeeded {
			j.verdict.Stopped++
		}
	}
	for _, r := range h.Records {
		j.records[r.Tick] = append(j.records[r.Tick], r)
		if r.State == redislock.TickDone {
			j.done[r.Tick] = r
		}
	}
	j.overlaps()
	j.afterCompletion()
	j.ticks()
	for _, what := range h.Writes.Examples {
		j.broken(StaleWrite, what)
	}
	if len(h.Left) > 0 {
		j.broken(NotSettled, strings.Join(h.Left, "; "))
	}
	for _, what := range h.Unreadable {
		j.broken(BadHistory, what)
	}
	slices.SortStableFunc(j.verdict.Violations, func(a, b Violation) int { return cmp.Compare(a.Rule, b.Rule) })
	return j.verdict
}

func (j *judge) broken(rule Rule, what string, by ...*Run) {
	v := Violation{Rule: rule, What: what}
	for _, o := range j.Outages {
		for _, run := range by {
			if run.Cluster == o.Cluster && o.From.Before(run.until()) && o.To.Add(j.Watchdog).After(run.Begin) {
				v.Excuse = fmt.Sprintf("%s of %s was away for %s", o.What, o.Cluster, o.To.Sub(o.From).Round(100*time.Millisecond))
			}
		}
	}
	if v.Excuse != "" {
		j.verdict.Excused = append(j.verdict.Excused, v)
		return
	}
	j.verdict.Violations = append(j.verdict.Violations, v)
}

// overlaps finds runs at the same time that must be one after the other.
func (j *judge) overlaps() {
	for name, runs := range j.byLock {
		for i, a := range runs {
			if i > 0 && a.Cluster != runs[i-1].Cluster {
				j.verdict.Handovers++
			}
			for _, b := range runs[i+1:] {
				by := a.until().Sub(b.Begin)
				if b.until().Before(a.until()) {
					by = b.until().Sub(b.Begin)
				}
				if by <= 0 {
					continue
				}
				if a.Tick != b.Tick && a.Tick.Series == b.Tick.Series && j.Forbid[a.Tick.Series] && by > Tolerance {
					j.verdict.Concurrent++
				}
				var rule Rule
				switch {
				case a.Tick == b.Tick && a.Tick != (Tick{}):
					rule = TickOverlap
				case j.Locks[name].Exclusive:
					rule = LockOverlap
				case a.Cluster != b.Cluster:
					rule = LeaderOverlap
				default:
					continue
				}
				j.verdict.Overlap = max(j.verdict.Overlap, by)
				if by > Tolerance {
					j.broken(rule, fmt.Sprintf("lock %s, for %s: %s and %s", name, by.Round(time.Millisecond), a, b), a, b)
				}
			}
		}
	}
}

// afterCompletion finds runs of ticks that were over.
func (j *judge) afterCompletion() {
	for tick, runs := range j.byTick {
		if done, ok := j.done[tick]; ok {
			for _, run := range runs {
				switch {
				case claimedAt(run).After(done.At):
					j.broken(RunAfterDone, fmt.Sprintf("tick of %s was done (%s) at %s and claimed again: %s", tick, done.Outcome, done.At.Format("15:04:05.000"), run), run)
				case run.Begin.After(done.At.Add(Tolerance)):
					j.broken(RunAfterDone, fmt.Sprintf("tick of %s was done (%s) at %s and began all the same: %s", tick, done.Outcome, done.At.Format("15:04:05.000"), run), run)
				}
			}
			continue
		}
		// Redis says nothing of it. But where an operator took its finalizer off a Job
		// that had ended by itself, it takes the outcome for recorded.
		for i := range j.Jobs {
			job := &j.Jobs[i]
			if job.Tick != tick || job.Recorded.IsZero() || job.Claim == 0 || job.Reason == "DeadlineExceeded" && j.Locks[job.Lock].Rerun {
				continue
			}
			if slices.ContainsFunc(j.records[tick], func(r Record) bool { return r.Claim > job.Claim }) {
				continue // it was superseded, so it ended in vain
			}
			for _, run := range runs {
				if run.UID != job.UID && claimedAt(run).After(job.Recorded.Add(Tolerance)) {
					j.broken(RunAfterDone, fmt.Sprintf("tick of %s: Job %s in %s was %s and seen to at %s, and the tick claimed after that: %s",
						tick, job.Name, job.Cluster, job.Ended, job.Recorded.Format("15:04:05.000"), run), run)
				}
			}
		}
	}
}

// claimedAt is when a run was claimed: its fencing token is at least the server's time
// in microseconds, and greater only by some where tokens are drawn faster than that.
func claimedAt(run *Run) time.Time { return time.UnixMicro(int64(run.Claim)) }

// ticks sees to each tick that any cluster or Redis knew of.
func (j *judge) ticks() {
	locks := map[Tick]string{}
	for _, job := range j.Jobs {
		if job.Tick != (Tick{}) {
			locks[job.Tick] = job.Lock
		}
	}
	for tick := range j.records {
		if _, ok := locks[tick]; !ok {
			locks[tick] = ""
		}
	}
	for tick, name := range locks {
		lock, runs := j.Locks[name], j.byTick[tick]
		done, isDone := j.done[tick]
		j.verdict.Ticks++
		if len(runs) > 0 {
			j.verdict.Ran++
		}
		if len(runs) > 1 {
			j.verdict.Rerun++
			if !lock.Rerun {
				j.broken(StartedTwice, fmt.Sprintf("tick of %s: %s and %s", tick, runs[0], runs[1]), runs...)
			}
		}
		if isDone && done.Outcome == "Lost" {
			j.verdict.Lost++
		}
		switch {
		case isDone && done.Outcome == "Complete":
			if !slices.ContainsFunc(runs, func(r *Run) bool { return r.Succeeded }) {
				j.broken(FalselyDone, "tick of "+tick.String())
			}
		case isDone && done.Outcome == "Failed", isDone && done.Outcome == "Lost" && !lock.Rerun:
		case isDone:
			// Nobody deletes Jobs here, and with Rerun no tick may be lost.
			j.broken(NeverCompleted, fmt.Sprintf("tick of %s was recorded as %s", tick, done.Outcome))
		case len(runs) > 0 || len(j.records[tick]) > 0:
			j.broken(NeverCompleted, fmt.Sprintf("tick of %s, with %d runs", tick, len(runs)))
		case j.Newest[tick.Series] > tick.At:
			j.verdict.Superseded++
		default:
			j.broken(NeverRun, "tick of "+tick.String())
		}
	}
}
