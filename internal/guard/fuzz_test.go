package guard

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// dice turns what the fuzzer has found into choices; where that ends they are as good
// as random.
type dice struct {
	data []byte
	rng  *rand.Rand
}

func (d *dice) n(n int) int {
	if len(d.data) > 0 {
		b := d.data[0]
		d.data = d.data[1:]
		return int(b) % n
	}
	return d.rng.IntN(n)
}
func (d *dice) one(in int) bool { return d.n(in) == 0 }

func pick[T any](d *dice, list ...T) T { return list[d.n(len(list))] }

// anInput is any Input there might be, and some that there ought not to be.
func anInput(d *dice) Input {
	in := onDemand(func(in *Input) {
		in.Terms = Terms{
			Exclusive: !d.one(3), Watchdog: pick(d, 0, 5*time.Minute), MaxWait: pick(d, 0, 0, 15*time.Second), Rerun: !d.one(3),
			RunLatest: d.one(2), DeleteOnLost: d.one(3), ClaimGrace: pick(d, 10*time.Second, time.Minute),
		}
		in.Hold = Hold{
			Known: !d.one(5), Held: !d.one(4), Fence: theGrant, Fresh: !d.one(5), Window: pick(d, 0, 5*time.Minute, -time.Second),
			QuietUntil: pick(d, time.Time{}, time.Time{}, time.Time{}, now, now.Add(time.Second)),
		}
		in.Admit, in.NotAdmitted, in.GiveUp = !d.one(4), "paused", d.one(5)
		in.Served = pick(d, 0, 0, theGrant-1, theGrant)
		in.Since = pick(d, in.Since, now)
	})
	for _, name := range []string{"report", "clean"}[:d.n(3)] {
		in.CronJobs = append(in.CronJobs, newCronJob(name,
			lastScheduled(pick(d, tick, tick, tick.Add(-time.Minute), tick.Add(time.Minute), time.Time{})),
			func(c *batchv1.CronJob) {
				if d.one(6) {
					c.Spec.Suspend = new(true)
				}
				if d.one(4) {
					c.Spec.StartingDeadlineSeconds = pick(d, new(int64(10)), new(int64(100)))
				}
				if d.one(8) {
					c.DeletionTimestamp = new(metav1.NewTime(now))
				}
				c.Spec.Schedule = pick(d, "* * * * *", "0 * * * *", "0 0 1 1 *", "no schedule")
			}))
	}
	for i := range d.n(5) {
		in.Jobs = append(in.Jobs, NewJob(aJob(d, in.CronJobs, i), in.CronJobs))
	}
	if d.one(6) {
		in.Runs = nil
		return in
	}
	for _, s := range []string{"ns/report", "ns/clean", "ns/gone"} {
		for _, at := range ticks {
			if d.one(3) {
				in.Runs.Ticks = append(in.Runs.Ticks, redislock.TickRecord{
					Series: s, Tick: at, State: pick(d, redislock.TickClaimed, redislock.TickOpen, redislock.TickDone), Fence: fence(d), Grant: pick(d, 80, theGrant),
					Claimant: aClaimant(d, in.Jobs), Outcome: "Complete",
				})
			}
		}
		if d.one(3) {
			in.Runs.HighWater[s] = pick(d, ticks...)
		}
	}
	for range d.n(3) {
		run := redislock.Run{ID: "ns/x/x-uid"}
		if len(in.Jobs) > 0 {
			run = in.Jobs[d.n(len(in.Jobs))].Run
		}
		in.Runs.Active = append(in.Runs.Active, redislock.ActiveRun{Run: run, Fence: fence(d), Grant: pick(d, 80, theGrant), Claimant: aClaimant(d, in.Jobs)})
	}
	return in
}

var ticks = []time.Time{tick.Add(-49 * time.Hour), tick.Add(-time.Minute), tick, tick.Add(time.Minute), tick.Add(time.Hour)}

func fence(d *dice) uint64 { return uint64(pick(d, 90, 101, 102)) }

func aClaimant(d *dice, jobs []*Job) string {
	if len(jobs) > 0 && !d.one(4) {
		return Claimant(here, jobs[d.n(len(jobs))].Job)
	}
	return pick(d, here, there) + "/gone-uid"
}

func aJob(d *dice, cronJobs []*batchv1.CronJob, i int) *batchv1.Job {
	job := newBatchJob(fmt.Sprintf("job-%d", i), aged(time.Duration(d.n(4))*10*time.Second))
	if len(cronJobs) > 0 && !d.one(3) {
		c := cronJobs[d.n(len(cronJobs))]
		ownedBy(c)(job)
		if !d.one(5) {
			at := pick(d, ticks...)
			scheduledAt(at)(job)
			if d.one(2) {
				job.Name = JobName(c, at)
			}
		}
	}
	switch d.n(8) {
	case 0, 1:
	case 2:
		ran(fence(d), pick(d, 80, theGrant))(job)
	case 3, 4:
		running(fence(d), pick(d, 80, theGrant))(job)
	case 5:
		job.Spec.Suspend = nil
	case 6:
		running(fence(d), pick(d, 80, theGrant))(job)
		ended(pick(d, batchv1.JobComplete, batchv1.JobFailed), pick(d, "", batchv1.JobReasonDeadlineExceeded))(job)
	case 7:
		running(fence(d), pick(d, 80, theGrant))(job)
		job.Spec.Suspend = new(true)
	}
	if d.one(3) {
		watched(int64(d.n(400)+1), pick(d, "", "60", "3600", "x"))(job)
	}
	if d.one(6) {
		leaving(job)
	}
	if d.one(6) {
		job.Finalizers = nil
	}
	if d.one(10) {
		job.Annotations[v1alpha1.ReplacesAnnotation] = fmt.Sprintf("job-%d-uid", d.n(5))
	}
	if d.one(8) {
		job.Status.StartTime = nil
	}
	return job
}

// FuzzDecide: what must hold of any plan.
func FuzzDecide(f *testing.F) {
	for seed := range uint64(200) {
		f.Add([]byte{}, seed)
	}
	f.Add([]byte{0}, uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		roll := func() Input { return anInput(&dice{data, rand.New(rand.NewPCG(seed, seed))}) } //nolint:gosec // nobody is to be kept from guessing
		in, untouched := roll(), roll()
		plan := Decide(in)
		if !reflect.DeepEqual(in, untouched) {
			t.Fatal("Decide changed its input")
		}
		if again := Decide(in); !reflect.DeepEqual(plan, again) {
			t.Fatalf("Decide is not of one mind:\n%v\n%v", plan, again)
		}
		for _, broken := range invariants(in, plan) {
			t.Errorf("%s\nsteps: %v\nhold: %+v\nterms: %+v\nruns: %+v", broken, describe(plan), in.Hold, in.Terms, in.Runs)
			for _, job := range in.Jobs {
				t.Logf("%s %s fence %d grant %d run %+v %v", job.UID, job.Phase, job.Fence, job.Grant, job.Run, job.Finalizers)
			}
		}
	})
}

func describe(p Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, " %s", s.Kind)
		if s.Job != nil {
			fmt.Fprintf(&b, "(%s)", s.Job.UID)
		}
	}
	return b.String()
}

// invariants are those that a plan breaks.
func invariants(in Input, plan Plan) []string {
	var broken []string
	must := func(ok bool, format string, args ...any) {
		if !ok {
			broken = append(broken, fmt.Sprintf(format, args...))
		}
	}
	held := in.Hold.Known && in.Hold.Held
	quiet := in.Now.Before(in.Hold.QuietUntil)
	backed := func(j *Job) bool { return held && j.Fence != 0 && j.Grant == in.Hold.Fence }

	// What is in the way of anything else under a lock for one run at a time.
	busy := slices.ContainsFunc(in.Jobs, func(j *Job) bool {
		return j.Phase == Running || j.Phase == Stopping || (j.Phase == Ended || j.Phase == Leaving) && hasFinalizer(j.Job)
	})
	claims := map[string]redislock.ActiveRun{}
	if in.Runs != nil && held {
		for _, active := range in.Runs.Active {
			if active.Grant == in.Hold.Fence {
				claims[active.Claimant] = active
			}
		}
	}
	foreign, unresolved := false, false
	for claimant := range claims {
		waits := slices.ContainsFunc(in.Jobs, func(j *Job) bool { return j.Phase == Waiting && Claimant(in.Cluster, j.Job) == claimant })
		foreign, unresolved = foreign || !waits, unresolved || waits
	}

	letGo, waiting, active := 0, int32(0), int32(0)
	about := map[string][]Kind{}
	for i, s := range plan.Steps {
		if s.Job != nil {
			about[string(s.Job.UID)] = append(about[string(s.Job.UID)], s.Kind)
			must(slices.Contains(in.Jobs, s.Job), "%s of a Job that is not there", s.Kind)
		}
		switch s.Kind {
		case LetGo:
			letGo++
			must(held && in.Admit && !quiet && in.Hold.Fresh && in.Runs != nil, "let go without leave")
			must(s.Job.Phase == Waiting, "let go of a Job that is %s", s.Job.Phase)
			must(s.Run == s.Job.Run, "let go for another run")
			must(!s.Job.Run.Tick.After(in.Now.Add(time.Minute)), "let go before its tick")
			if in.Terms.Exclusive {
				must(letGo == 1, "two let go under a lock for one")
				must(!busy, "let go beside another")
				must(!foreign, "let go beside a claim of a Job that does not wait")
				_, mine := claims[Claimant(in.Cluster, s.Job.Job)]
				must(mine || !unresolved && in.Served != in.Hold.Fence, "let go under a grant that is another's or has served")
			}
			for _, record := range in.Runs.Ticks {
				if keyOf(record.Series, record.Tick) == keyOf(s.Run.Series, s.Run.Tick) {
					must(record.State != redislock.TickDone, "a done tick is let go")
					must(record.State != redislock.TickClaimed || record.Grant == in.Hold.Fence || in.Terms.Rerun, "a lost tick is let go under Skip")
				}
			}
		case Yield:
			must(held && !busy && !quiet && !foreign && !unresolved, "given back while something is busy, or quiet")
			must(i == len(plan.Steps)-1 && letGo == 0, "given back before other steps")
			must(!in.Admit || in.GiveUp || in.Terms.Exclusive, "leadership is given back")
		case Remove:
			switch s.Job.Phase {
			case Ended:
				must(!hasFinalizer(s.Job.Job) && held && in.Admit && !quiet, "an ended Job is removed without need")
			case Waiting:
				last := (*metav1.Time)(nil)
				if s.Job.CronJob != nil {
					last = s.Job.CronJob.Status.LastScheduleTime
				}
				must(!s.Job.IsTick() || last != nil && !last.Time.Before(s.Job.Run.Tick), "removed before its tick was noted")
			default:
				must(false, "removed while %s", s.Job.Phase)
			}
			must(s.Reason != "" && s.Message != "", "removed without a word")
		case Stop:
			must(in.Hold.Known, "stopped though nothing is known")
			must(s.Job.Phase == Running && !backed(s.Job), "stopped though its lease is held")
		case Extend:
			must(backed(s.Job) && s.Job.Phase == Running && in.Hold.Window > 0, "extended without a lease")
		case Record, Reopen, Drop:
			must(s.Job.Phase == Ended || s.Job.Phase == Leaving, "recorded while %s", s.Job.Phase)
			must(s.Kind == Drop || s.Fence != 0, "recorded without a claim")
			must(s.Kind != Reopen || in.Terms.Rerun && s.Job.IsTick(), "reopened against the terms")
			must(s.Kind == Reopen || s.Kind == Drop || s.Outcome != "", "recorded without an outcome")
		case Make:
			must(held && in.Admit && !quiet && in.Runs != nil, "made without leave")
			must(!ptrTrue(s.CronJob.Spec.Suspend) && s.CronJob.DeletionTimestamp == nil, "made for a CronJob that makes none")
			must(!slices.ContainsFunc(in.Jobs, func(j *Job) bool { return j.Run == s.Run || j.Name == JobName(s.CronJob, s.Run.Tick) }), "made though it is there")
			must(in.Now.Sub(s.Run.Tick) <= Retention || s.Reason == ReasonRerun, "made though it is too old")
		case Void, Bury:
			must(held && s.Fence != 0, "a claim is given up without the lock")
		case Forfeit:
			// What began under the grant that is held is forfeited also where nothing new may
			// start, or the lock could not be given back.
			ours := slices.ContainsFunc(in.Jobs, func(j *Job) bool { return claims[Claimant(in.Cluster, j.Job)].Fence == s.Fence })
			must(held && (in.Admit || ours) && !quiet && !in.Terms.Rerun, "forfeited without leave")
		default:
			must(false, "no such step: %q", s.Kind)
		}
	}
	for uid, list := range about {
		must(len(list) == 1 || slices.Equal(list, []Kind{Remove, Void}) || len(list) == 2 && list[0] == Remove && list[1] == Remove, "a Job has the steps %v: %s", list, uid)
	}
	for _, j := range in.Jobs {
		switch j.Phase {
		case Running, Stopping:
			active++
		case Waiting:
			waiting++
			// Whoever waits has something done about him, or is told why not.
			must(plan.Waits[j.UID] != "" || len(about[string(j.UID)]) > 0, "a Job waits without a word: %s", j.UID)
		}
	}
	must(active == plan.Active && waiting == plan.Waiting, "%d active and %d waiting are counted as %d and %d", active, waiting, plan.Active, plan.Waiting)
	return broken
}

func ptrTrue(b *bool) bool { return b != nil && *b }
