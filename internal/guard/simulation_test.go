package guard

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// What follows plays the guard in a small world, second by second: some clusters that
// share a CronJob and a lock on demand, a Redis by its rules for grants and runs, a
// Kubernetes that is slow to do what it is told. Operators crash, also between two
// writes; clusters lose their Redis; people delete Jobs. Through all of it one pod runs
// at a time, a tick that is done is not run again, and when it is over none is stuck.

const (
	simLease  = 15 * time.Second
	simWindow = 40 * time.Second
	simGrace  = 6 // seconds that a pod takes to end, at most
)

type world struct {
	*rand.Rand
	t     *testing.T
	terms Terms
	now   time.Time
	calm  bool // nothing goes wrong any more
	rv    int
	log   strings.Builder

	// Redis.
	owner   string // cluster that has the key; "" none
	grant   uint64
	expires time.Time
	fence   uint64
	runs    redislock.Runs

	clusters []*simCluster
	// began has the fencing tokens with which a tick's pods began.
	began map[int64]map[string]bool
}

type simCluster struct {
	name string
	cron *batchv1.CronJob
	jobs map[string]*simJob

	// The operator's process.
	alive, linked bool
	back          time.Time // when it is alive, or linked, again
	held          uint64
	valid, quiet  time.Time
	served        uint64
	compete       bool
	fresh         bool // it has not looked at the key yet
	lapsed        bool
}

type simJob struct {
	*batchv1.Job
	work  int       // seconds that are left to do
	pod   bool      // a pod lives
	ends  time.Time // when a pod that is told to end does; zero: it is not
	fence string    // what its pod was told
}

func newWorld(t *testing.T, seed uint64, terms Terms) *world {
	w := &world{
		Rand: rand.New(rand.NewPCG(seed, 7)), t: t, terms: terms, now: tick, fence: 100, began: map[int64]map[string]bool{}, //nolint:gosec // a game
		runs: redislock.Runs{HighWater: map[string]time.Time{}, LastSuccess: map[string]time.Time{}},
	}
	for _, name := range []string{"blue", "green", "red"}[:2+w.IntN(2)] {
		policy := []batchv1.ConcurrencyPolicy{batchv1.ForbidConcurrent, batchv1.AllowConcurrent}[w.IntN(2)]
		w.clusters = append(w.clusters, &simCluster{
			name: name, alive: true, linked: true, fresh: true, jobs: map[string]*simJob{},
			cron: newCronJob("report", lastScheduled(tick), func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = policy }),
		})
	}
	return w
}

func (w *world) says(format string, args ...any) {
	fmt.Fprintf(&w.log, "%s "+format+"\n", append([]any{w.now.Format("15:04:05")}, args...)...)
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	lines := strings.Split(w.log.String(), "\n")
	w.t.Fatalf(format+"\n%s", append(args, strings.Join(lines[max(0, len(lines)-60):], "\n"))...)
}

func (w *world) chance(in int) bool { return !w.calm && w.IntN(in) == 0 }

// second is a second of the world's.
func (w *world) second(ticking bool) {
	w.now = w.now.Add(time.Second)
	w.runs.Now = w.now
	if w.owner != "" && !w.now.Before(w.expires) {
		w.says("redis: the key of %s lapses", w.owner)
		w.owner = ""
	}
	for _, i := range w.Perm(len(w.clusters)) {
		c := w.clusters[i]
		w.trouble(c)
		if c.alive {
			w.campaign(c)
			if w.calm || w.IntN(3) > 0 {
				w.operate(c)
			}
		}
		if ticking {
			w.cronController(c)
		}
		w.jobController(c)
	}
	w.check()
}

func (w *world) trouble(c *simCluster) {
	if w.calm || !w.now.Before(c.back) {
		if !c.alive {
			w.says("%s: an operator starts", c.name)
			c.alive, c.fresh, c.compete = true, true, false
		}
		c.linked = true
	}
	switch {
	case w.chance(200):
		w.crash(c)
	case w.chance(200):
		w.says("%s: Redis is away", c.name)
		c.linked, c.back = false, w.now.Add(time.Duration(w.IntN(60))*time.Second)
	case w.chance(400):
		for _, name := range slices.Sorted(maps.Keys(c.jobs)) {
			if job := c.jobs[name]; w.IntN(2) == 0 && job.DeletionTimestamp == nil {
				w.says("%s: somebody deletes %s", c.name, name)
				w.remove(c, job)
				break
			}
		}
	}
}

func (w *world) crash(c *simCluster) {
	w.says("%s: its operator crashes", c.name)
	c.alive, c.held, c.served, c.lapsed, c.back = false, 0, 0, false, w.now.Add(time.Duration(w.IntN(90))*time.Second)
}

// campaign is what package campaign does, in short.
func (w *world) campaign(c *simCluster) {
	if c.held != 0 && !w.now.Before(c.valid) {
		w.says("%s: its lease lapses", c.name)
		c.held, c.lapsed = 0, true
	}
	if !c.linked {
		return
	}
	mine := w.owner == c.name
	switch {
	case c.held != 0 && (!mine || w.grant != c.held):
		w.fail("%s holds grant %d, which %s has", c.name, c.held, w.owner)
	case c.held != 0:
		if c.valid.Sub(w.now) < simLease*2/3 {
			c.valid = w.now.Add(simLease - time.Second)
			w.keepKey(simLease)
		}
	case c.fresh && mine:
		w.says("%s: goes on with grant %d", c.name, w.grant)
		c.held, c.valid, c.quiet, c.lapsed = w.grant, w.now.Add(simLease-time.Second), w.now.Add(simLease), false
		w.keepKey(simLease)
	case c.compete && w.owner == "":
		w.fence++
		w.owner, w.grant, w.expires = c.name, w.fence, w.now.Add(simLease)
		c.held, c.valid, c.quiet, c.lapsed = w.fence, w.now.Add(simLease-time.Second), time.Time{}, false
		w.says("%s: acquires grant %d", c.name, c.held)
	}
	c.fresh = false
}

func (w *world) keepKey(d time.Duration) {
	if until := w.now.Add(d); until.After(w.expires) {
		w.expires = until
	}
}

func (c *simCluster) podLives() bool {
	for _, job := range c.jobs {
		if job.pod {
			return true
		}
	}
	return false
}

// operate is one look of a guard, and what it does then.
func (w *world) operate(c *simCluster) {
	in := Input{
		Now: w.now, Terms: w.terms, Cluster: c.name, Admit: true, Served: c.served, CronJobs: []*batchv1.CronJob{c.cron.DeepCopy()}, Since: tick.Add(-time.Hour),
		Hold: Hold{Known: !c.fresh, Held: c.held != 0, Fence: c.held, QuietUntil: c.quiet, Fresh: c.valid.Sub(w.now) > simLease/3, Window: w.terms.Watchdog},
	}
	for _, name := range slices.Sorted(maps.Keys(c.jobs)) {
		if job := c.jobs[name]; !gone(job) {
			in.Jobs = append(in.Jobs, NewJob(job.DeepCopy(), in.CronJobs))
		}
	}
	if c.linked {
		runs := w.runs
		runs.Ticks, runs.Active, runs.HighWater = slices.Clone(runs.Ticks), slices.Clone(runs.Active), maps.Clone(runs.HighWater)
		in.Runs = &runs
	}
	plan := Decide(in)
	for _, broken := range invariants(in, plan) {
		w.fail("%s: %s", c.name, broken)
	}
	c.compete = plan.Compete
	for _, step := range plan.Steps {
		if !c.alive {
			return
		}
		w.take(c, step)
	}
	if c.lapsed && c.linked && plan.Active == 0 && !c.podLives() {
		if w.owner == c.name && c.held == 0 {
			w.says("%s: gives back what lapsed", c.name)
			w.owner = ""
		}
		c.lapsed = false
	}
}

// gone: deleted and out of sight, though its pod may live.
func gone(job *simJob) bool { return job.DeletionTimestamp != nil && len(job.Finalizers) == 0 }

func (w *world) take(c *simCluster, s Step) {
	var job *simJob
	if s.Job != nil {
		if job = c.jobs[s.Job.Name]; job == nil || job.UID != s.Job.UID || job.ResourceVersion != s.Job.ResourceVersion {
			return // overtaken
		}
		w.says("%s: %s %s", c.name, s.Kind, s.Job.Name)
	} else {
		w.says("%s: %s %v", c.name, s.Kind, s.Run.Tick)
	}
	crashes := func() bool {
		if w.chance(30) {
			w.crash(c)
		}
		return !c.alive
	}
	switch s.Kind {
	case Stop:
		if w.terms.DeleteOnLost && s.Job.Fence != 0 {
			job.Annotations[v1alpha1.GrantAnnotation] = v1alpha1.LostGrant
			w.touch(job)
			if !crashes() {
				w.remove(c, job)
			}
			return
		}
		job.Spec.Suspend = new(true)
		w.touch(job)
	case Record, Reopen:
		if !c.linked || !w.settle(s) || crashes() {
			return
		}
		c.served = max(c.served, s.Job.Grant)
		job.Finalizers = nil
		w.touch(job)
	case Drop:
		job.Finalizers = nil
		w.touch(job)
	case Remove:
		w.remove(c, job)
	case Void:
		job.Annotations[v1alpha1.GrantAnnotation] = "0"
		w.touch(job)
		if c.linked && !crashes() {
			s.Kind = Reopen
			w.settle(s)
		}
	case Bury:
		if c.linked && !c.podLives() {
			w.settle(s)
			c.served = max(c.served, c.held)
		}
	case Forfeit:
		if c.linked {
			w.settle(s)
		}
	case Make:
		if made := NewTickJob(c.cron, s.Run.Tick); c.jobs[made.Name] == nil {
			w.create(c, made)
		}
	case LetGo:
		w.letGo(c, job, s, crashes)
	case Extend:
		if c.linked && c.held != 0 {
			w.keepKey(Cover(job.Job, simWindow))
			if s.Seconds > 0 && !crashes() {
				job.Spec.ActiveDeadlineSeconds = new(s.Seconds)
				w.touch(job)
			}
		}
	case Yield:
		if c.linked && !c.podLives() && !slices.ContainsFunc(w.runs.Active, func(a redislock.ActiveRun) bool { return a.Grant == c.held }) {
			w.owner, c.held = "", 0
		}
	}
}

func (w *world) letGo(c *simCluster, job *simJob, s Step, crashes func() bool) {
	if !c.linked {
		return
	}
	run, claimed := w.claim(c, job, s)
	if !claimed || crashes() {
		return
	}
	deadline := FirstDeadline(job.Job, w.terms.Watchdog)
	job.Annotations[v1alpha1.RunAnnotation], job.Annotations[v1alpha1.GrantAnnotation] = strconv.FormatUint(run, 10), strconv.FormatUint(c.held, 10)
	if deadline.Own != nil {
		job.Annotations[v1alpha1.DeadlineAnnotation] = *deadline.Own
	}
	job.Spec.ActiveDeadlineSeconds, job.Spec.Suspend = deadline.Seconds, new(false)
	job.Finalizers = []string{v1alpha1.OutcomeFinalizer}
	w.touch(job)
}

// claim is the script of that name, in short.
func (w *world) claim(c *simCluster, job *simJob, s Step) (uint64, bool) {
	w.runs.Active = slices.DeleteFunc(w.runs.Active, func(a redislock.ActiveRun) bool { return a.Grant != c.held })
	claimant := Claimant(c.name, job.Job)
	i := slices.IndexFunc(w.runs.Ticks, func(r redislock.TickRecord) bool { return r.Tick.Equal(s.Run.Tick) })
	if i < 0 {
		if !w.runs.HighWater[series].Before(s.Run.Tick) {
			return 0, false
		}
		w.runs.Ticks = append(w.runs.Ticks, redislock.TickRecord{Series: series, Tick: s.Run.Tick})
		i = len(w.runs.Ticks) - 1
	}
	record := &w.runs.Ticks[i]
	switch {
	case record.State == redislock.TickDone:
		return 0, false
	case record.State == redislock.TickClaimed && record.Grant == c.held && record.Claimant == claimant:
		w.keepKey(Cover(job.Job, simWindow))
		return record.Fence, true
	case record.State == redislock.TickClaimed && record.Grant != c.held && !w.terms.Rerun:
		return 0, false
	}
	if len(w.runs.Active) > 0 {
		return 0, false
	}
	w.fence++
	*record = redislock.TickRecord{Series: series, Tick: s.Run.Tick, State: redislock.TickClaimed, Fence: w.fence, Grant: c.held, Claimant: claimant}
	w.runs.Active = append(w.runs.Active, redislock.ActiveRun{Run: s.Run, Fence: w.fence, Grant: c.held, Claimant: claimant})
	if w.runs.HighWater[series].Before(s.Run.Tick) {
		w.runs.HighWater[series] = s.Run.Tick
	}
	w.keepKey(Cover(job.Job, simWindow))
	return w.fence, true
}

// settle is the scripts finish and reopen, in short.
func (w *world) settle(s Step) bool {
	for i := range w.runs.Ticks {
		if r := &w.runs.Ticks[i]; r.Tick.Equal(s.Run.Tick) && r.Fence == s.Fence && r.State != redislock.TickDone {
			r.State, r.Outcome = redislock.TickDone, string(s.Outcome)
			if s.Kind == Reopen {
				r.State = redislock.TickOpen
			}
		}
	}
	w.runs.Active = slices.DeleteFunc(w.runs.Active, func(a redislock.ActiveRun) bool { return a.Fence == s.Fence })
	return true
}

func (w *world) create(c *simCluster, job *batchv1.Job) {
	job.UID, job.CreationTimestamp = types.UID(fmt.Sprintf("%s-%d", c.name, w.rv)), metav1.NewTime(w.now)
	job.Finalizers = []string{v1alpha1.OutcomeFinalizer}
	job.Spec.Suspend = new(true)
	job.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(simGrace))
	if w.IntN(4) == 0 {
		job.Spec.ActiveDeadlineSeconds = new(int64(w.IntN(100) + 20))
	}
	sim := &simJob{Job: job, work: 1 + w.IntN(90)}
	w.touch(sim)
	c.jobs[job.Name] = sim
	w.says("%s: %s is made", c.name, job.Name)
}

func (w *world) remove(c *simCluster, job *simJob) {
	job.DeletionTimestamp = new(metav1.NewTime(w.now))
	w.touch(job)
	_ = c
}

func (w *world) touch(job *simJob) {
	w.rv++
	job.ResourceVersion = strconv.Itoa(w.rv)
}

// cronController makes the Job of the latest tick, as concurrencyPolicy has it; now
// and then late.
func (w *world) cronController(c *simCluster) {
	at := w.now.Truncate(time.Minute)
	if w.chance(3) || !c.cron.Status.LastScheduleTime.Time.Before(at) {
		return
	}
	if c.cron.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent {
		for _, job := range c.jobs {
			if phase(job.Job) != Ended && !gone(job) {
				return
			}
		}
	}
	if job := NewTickJob(c.cron, at); c.jobs[job.Name] == nil {
		w.create(c, job)
		if w.chance(4) {
			return // it crashes before it notes the tick
		}
	}
	c.cron.Status.LastScheduleTime = new(metav1.NewTime(at))
}

// jobController runs pods, and ends them; now and then late.
func (w *world) jobController(c *simCluster) {
	for _, name := range slices.Sorted(maps.Keys(c.jobs)) {
		job := c.jobs[name]
		if job.pod {
			job.work--
			if !job.ends.IsZero() && !w.now.Before(job.ends) || job.work <= 0 {
				job.pod, job.ends = false, time.Time{}
			}
		}
		if gone(job) {
			if w.end(job); !job.pod {
				delete(c.jobs, name)
			}
			continue
		}
		if w.chance(3) || phase(job.Job) == Ended {
			if phase(job.Job) == Ended && w.now.Sub(job.CreationTimestamp.Time) > 5*time.Minute && job.DeletionTimestamp == nil {
				w.remove(c, job) // history
			}
			continue
		}
		w.reconcile(job)
	}
}

func (w *world) end(job *simJob) {
	if job.pod && job.ends.IsZero() {
		job.ends = w.now.Add(time.Duration(w.IntN(simGrace)+1) * time.Second)
	}
}

func (w *world) reconcile(job *simJob) {
	before := job.DeepCopy()
	suspended := job.Spec.Suspend != nil && *job.Spec.Suspend
	overdue := job.Spec.ActiveDeadlineSeconds != nil && job.Status.StartTime != nil && !suspended &&
		w.now.Sub(job.Status.StartTime.Time) >= time.Duration(*job.Spec.ActiveDeadlineSeconds)*time.Second
	switch {
	case job.work <= 0 && !job.pod:
		with(batchv1.JobComplete, "")(job.Job)
	case overdue:
		if w.end(job); !job.pod {
			with(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded)(job.Job)
		}
	case suspended:
		if w.end(job); condition(job.Job, batchv1.JobSuspended) == nil {
			job.Status.Conditions, job.Status.StartTime = nil, nil
			with(batchv1.JobSuspended, "")(job.Job)
		}
	case job.DeletionTimestamp == nil:
		job.Status.Conditions = nil
		if job.Status.StartTime == nil {
			job.Status.StartTime = new(metav1.NewTime(w.now))
		}
		if !job.pod {
			w.begin(job)
		}
	}
	job.Status.Active, job.Status.Terminating = 0, new(int32(0))
	if job.pod && job.ends.IsZero() {
		job.Status.Active = 1
	} else if job.pod {
		job.Status.Terminating = new(int32(1))
	}
	if fmt.Sprint(before.Status) != fmt.Sprint(job.Status) {
		w.touch(job)
	}
}

// begin starts a pod.
func (w *world) begin(job *simJob) {
	job.pod, job.ends, job.fence = true, time.Time{}, job.Annotations[v1alpha1.RunAnnotation]
	at, _ := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	w.says("a pod of %s begins with fence %s", job.UID, job.fence)
	if w.began[at.Unix()] == nil {
		w.began[at.Unix()] = map[string]bool{}
	}
	w.began[at.Unix()][job.fence] = true
	for _, r := range w.runs.Ticks {
		if r.Tick.Equal(at) && r.State == redislock.TickDone && strconv.FormatUint(r.Fence, 10) != job.fence {
			w.fail("tick %s is run again with fence %s: it was done with %d", at, job.fence, r.Fence)
		}
	}
	if !w.terms.Rerun && len(w.began[at.Unix()]) > 1 {
		w.fail("tick %s is run again under Skip: %v", at, w.began[at.Unix()])
	}
}

func (w *world) check() {
	var live []string
	for _, c := range w.clusters {
		for _, job := range c.jobs {
			if job.pod {
				live = append(live, c.name+"/"+job.Name)
			}
		}
	}
	if len(live) > 1 {
		w.fail("pods run at once: %v", live)
	}
}

// settled is what is left when all is over, which nothing should be.
func (w *world) settled() {
	for _, r := range w.runs.Ticks {
		if r.State != redislock.TickDone {
			w.fail("tick %s is stuck: %+v", r.Tick, r)
		}
	}
	if len(w.runs.Active) > 0 && w.owner != "" || w.owner != "" {
		w.fail("the lock is still held by %s; active: %v", w.owner, w.runs.Active)
	}
	for _, c := range w.clusters {
		for _, job := range c.jobs {
			switch p := phase(job.Job); {
			case p == Ended && !hasFinalizer(job.Job):
			case p == Waiting && c.cron.Status.LastScheduleTime.Format(time.RFC3339) < job.Annotations[batchv1.CronJobScheduledTimestampAnnotation]:
				// Its tick was never noted, so it waits for its removal.
			default:
				w.fail("%s: Job %s is left, %s", c.name, job.Name, p)
			}
		}
	}
}

func TestTheGuardInASmallWorld(t *testing.T) {
	t.Parallel()
	seeds := uint64(12)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			play(t, seed)
		})
	}
}

func play(t *testing.T, seed uint64) {
	w := newWorld(t, seed, Terms{
		Exclusive: true, Watchdog: simWindow, Rerun: seed%3 != 0, DeleteOnLost: seed%5 == 0, RunLatest: seed%2 == 0, ClaimGrace: simLease,
	})
	for range 20 * 60 {
		w.second(true)
	}
	w.calm, w.terms.RunLatest = true, false
	for range 15 * 60 {
		w.second(false)
	}
	w.settled()
	if len(w.began) < 3 {
		w.fail("only %d ticks were run", len(w.began))
	}
}

// FuzzWorld plays on.
func FuzzWorld(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { play(t, seed) })
}
