package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Config says what is to be run. Seed 0 draws one.
type Config struct {
	Clusters, CronJobs int
	// Duration is how long things are broken for.
	Duration time.Duration
	Seed     uint64
	// Without names a safeguard to leave out: claims, watchdog or fence.
	Without string
	// Ticks is how many ticks of each CronJob must fall into that time, which is
	// lengthened where it is too short.
	Ticks int
	// Brief draws shorter faults, and has no run be long.
	Brief bool
	// Prelude is what comes before random faults, so that a proof does not wait for luck.
	Prelude Prelude
	// Settle is how long all may take afterwards to come in order.
	Settle time.Duration
	// Dir keeps the managers' logs; a temporary folder when empty.
	Dir string
	// Log gets what happens.
	Log io.Writer
}

// afterTick is what the last tick has of the time in which things are broken.
const afterTick = 5 * time.Second

// beforeTick is when the schedules go, before the tick that is not to come.
const beforeTick = 5 * time.Second

// A Prelude is what a plan begins with.
type Prelude string

const (
	// Takeovers make one cluster take over from another in the middle of runs, one after
	// the other.
	Takeovers Prelude = "takeovers"
	// Peace leaves all alone for two ticks, so that their runs have one grant.
	Peace Prelude = "peace"
)

// Report is what came of a run.
type Report struct {
	Config    Config
	Verdict   Verdict
	Writes    Writes
	Scheduled int
	Faults    map[string]int
	// Restarts is how often a manager ended by itself, as it does when it loses its
	// leadership, and was started again.
	Restarts int
	Took     time.Duration
	// Broken is what went wrong with the run itself.
	Broken []error
}

// Execute runs all and judges. An error means that it could not be done, not that
// something was found.
func Execute(ctx context.Context, cfg Config) (*Report, error) {
	for cfg.Seed == 0 {
		cfg.Seed = rand.Uint64N(1e9)
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if cfg.Clusters < 1 || cfg.Clusters > 5 {
		return nil, fmt.Errorf("%d clusters: there can be 1 to 5", cfg.Clusters)
	}
	begin := time.Now()
	var mu sync.Mutex
	log := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(cfg.Log, "%s %6.1fs  %s\n", time.Now().Format("15:04:05.000"), time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	log("CHAOS_SEED=%d CHAOS_CLUSTERS=%d CHAOS_DURATION=%s", cfg.Seed, cfg.Clusters, cfg.Duration)
	dir, temporary, err := makeDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	if temporary {
		defer func() { _ = os.RemoveAll(dir) }()
	}
	e, err := build(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	report, err := e.execute(ctx)
	if report != nil {
		report.Took = time.Since(begin)
	}
	return report, errors.Join(err, e.Close())
}

func (e *Estate) execute(ctx context.Context) (*Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rng := rand.New(rand.NewPCG(e.config.Seed, 0))
	if err := e.ready(ctx); err != nil {
		return nil, err
	}
	seen, books := newRecorder(namespace), newLedger()
	work := &workload{ctx: ctx, register: &Register{}, gone: map[string]chan struct{}{}}
	seen.begun, seen.ended = work.begun, work.ended
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	histories := make(chan error, len(e.sites))
	for _, s := range e.sites {
		watching.Go(func() {
			histories <- follow(ctx, s.EtcdSocket(), "/registry/jobs/", "/registry/pods0", func(event etcdEvent) { seen.take(s.name, event) })
		})
		for _, k := range s.managers {
			watching.Go(func() { k.keep(ctx) })
		}
	}
	watching.Go(func() { e.watchRedis(ctx, books) })

	from := time.Now()
	if err := e.populate(ctx, rng); err != nil {
		return nil, err
	}
	m := &monkey{planner: &planner{estate: e, rng: rng, brief: e.config.Brief}, log: e.log, counts: map[string]int{}}
	e.log("breaking things for %s", e.config.Duration)
	end := from.Add(e.config.Duration)
	if least := from.Truncate(time.Minute).Add(time.Duration(e.config.Ticks)*time.Minute + afterTick); least.After(end) {
		end = least
	}
	phase, done := context.WithDeadline(ctx, end)
	watching.Go(func() { e.tellEarly(phase, seen, books, work) })
	m.run(phase)
	done()
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	e.log("healing")
	if err := e.heal(ctx); err != nil {
		return nil, err
	}
	// The last tick comes in peace. A CronJob that forbids two runs at once skips a tick
	// while it makes up for one that was lost, and makes its Job when that has ended; had
	// its schedule gone by then, nobody would.
	last := time.Now().Truncate(time.Minute).Add(2*time.Minute - beforeTick)
	e.log("a minute of peace until %s", last.Format(time.TimeOnly))
	sleep(ctx, time.Until(last))
	for _, s := range e.sites {
		if err := s.patchAll(ctx, e, fmt.Sprintf(`{"spec":{"schedule":%q}}`, never), &batchv1.CronJobList{}); err != nil {
			return nil, err
		}
	}
	to := time.Now()
	left := e.settle(ctx, seen, books)
	for _, s := range e.sites {
		if err := s.mark(ctx); err != nil {
			return nil, err
		}
		if err := wait(ctx, 30*time.Second, "history of "+s.name, func() error {
			if !seen.saw(s.name) {
				return errors.New("its end has not come")
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	select {
	case err := <-histories:
		return nil, err
	default:
	}
	h := e.history(seen, books, work)
	h.Left = left
	report := &Report{Config: e.config, Verdict: Judge(h), Writes: h.Writes, Scheduled: minutes(from, to) * e.config.CronJobs, Faults: m.counts, Broken: m.errs}
	for _, s := range e.sites {
		for _, k := range s.managers {
			k.mu.Lock()
			report.Restarts += k.died
			k.mu.Unlock()
		}
	}
	return report, nil
}

func (e *Estate) history(seen *recorder, books *ledger, work *workload) *History {
	h := &History{Locks: e.locks, Forbid: map[string]bool{}, Newest: map[string]int64{}, Watchdog: watchdog + grace + lease, Writes: work.register.Stats()}
	for i := range e.config.CronJobs {
		h.Forbid[namespace+"/"+cronJobName(i)] = forbids(i)
	}
	books.fill(h)
	seen.fill(h)
	e.mu.Lock()
	defer e.mu.Unlock()
	h.Outages = slices.Clone(e.outages)
	return h
}

// tellEarly tells of what is found while the run is still on: whoever looks for the
// cause is nearer to it. What is not finished is judged at the end.
func (e *Estate) tellEarly(ctx context.Context, seen *recorder, books *ledger, work *workload) {
	told := map[string]bool{}
	for {
		sleep(ctx, 30*time.Second)
		if ctx.Err() != nil {
			return
		}
		v := Judge(e.history(seen, books, work))
		e.log("so far: %d ticks, %d runs", v.Ticks, v.Runs)
		for _, x := range v.Violations {
			switch x.Rule {
			case NeverCompleted, NeverRun, FalselyDone:
				continue
			}
			if !told[x.What] {
				told[x.What] = true
				e.log("VIOLATION: %s: %s", x.Rule, x.What)
			}
		}
	}
}

// minutes counts the full minutes between two instants.
func minutes(from, to time.Time) int { return int(to.Unix()/60 - from.Unix()/60) }

// mark makes a Job after which there is nothing to come.
func (s *site) mark(ctx context.Context) error {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: markName}}
	job.Spec.Suspend = new(true)
	job.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "none", Image: "none"}}}
	return s.Create(ctx, job)
}

// watchRedis reads the records again and again, for Redis drops old ones.
func (e *Estate) watchRedis(ctx context.Context, books *ledger) {
	for ctx.Err() == nil {
		sleep(ctx, time.Second)
		e.readRecords(ctx, books)
	}
}

func (e *Estate) readRecords(ctx context.Context, books *ledger) {
	for _, kind := range slices.Sorted(maps.Keys(e.locks)) {
		runs, err := e.lock.Runs(ctx, key(kind))
		if err != nil {
			return // Redis is away
		}
		books.take(runs)
	}
}

// settle waits until nothing is left to do, and says what is after a while.
func (e *Estate) settle(ctx context.Context, seen *recorder, books *ledger) []string {
	e.log("waiting until all is done")
	limit := time.Now().Add(e.config.Settle)
	var left []string
	for quiet := 0; ; {
		left = append(seen.pending(), books.open()...)
		if len(left) == 0 {
			// What the controller manager is about to make shows by then.
			if quiet++; quiet == 6 {
				return nil
			}
		} else {
			quiet = 0
		}
		if time.Now().After(limit) || ctx.Err() != nil {
			slices.Sort(left)
			return left
		}
		sleep(ctx, time.Second)
	}
}

// String is the report as a table.
func (r *Report) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	row := func(name string, value any) { _, _ = fmt.Fprintf(w, "%s\t%v\n", name, value) }
	v := r.Verdict
	_, _ = fmt.Fprintf(w, "\nCHAOS_SEED=%d CHAOS_CLUSTERS=%d CHAOS_DURATION=%s\t\n", r.Config.Seed, r.Config.Clusters, r.Config.Duration)
	if r.Config.Without != "" {
		row("left out", r.Config.Without)
	}
	row("took", r.Took.Round(time.Second))
	row("CronJobs", r.Config.CronJobs)
	row("ticks scheduled", r.Scheduled)
	row("ticks seen", v.Ticks)
	row("  run", v.Ran)
	row("  run again after a loss", v.Rerun)
	row("  superseded by a newer one", v.Superseded)
	row("  recorded as lost (to be skipped)", v.Lost)
	row("runs", v.Runs)
	row("  ended without success", v.Stopped)
	row("handovers between clusters", v.Handovers)
	row("two ticks of a Forbid CronJob at once", v.Concurrent)
	row("longest apparent overlap", fmt.Sprintf("%s (tolerance %s)", v.Overlap.Round(time.Millisecond), Tolerance))
	row("writes accepted", r.Writes.Accepted)
	row("writes rejected by token", r.Writes.Rejected)
	row("stale writes accepted", r.Writes.Stale)
	row("faults", r.faults())
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		row("  "+kind, r.Faults[kind])
	}
	row("managers that ended by themselves", r.Restarts)
	row("excused", len(v.Excused))
	row("violations", len(v.Violations))
	_ = w.Flush()
	for _, x := range v.Excused {
		_, _ = fmt.Fprintf(&b, "excused: %s: %s (%s)\n", x.Rule, x.What, x.Excuse)
	}
	const most = 40
	for i, x := range v.Violations {
		if i == most {
			_, _ = fmt.Fprintf(&b, "… and %d more\n", len(v.Violations)-most)
			break
		}
		_, _ = fmt.Fprintf(&b, "VIOLATION: %s: %s\n", x.Rule, x.What)
	}
	for _, err := range r.Broken {
		_, _ = fmt.Fprintf(&b, "the run itself: %v\n", err)
	}
	return b.String()
}

func (r *Report) faults() int {
	n := 0
	for _, count := range r.Faults {
		n += count
	}
	return n
}

// Err is nil where the guard kept its promises and that was tested.
func (r *Report) Err() error {
	var errs []error
	if n := len(r.Verdict.Violations); n > 0 {
		errs = append(errs, fmt.Errorf("%d violations", n))
	}
	if r.Writes.Rejected == 0 {
		errs = append(errs, errors.New("no write was rejected, so the fencing tokens were not tested"))
	}
	if r.Verdict.Runs == 0 || r.faults() == 0 {
		errs = append(errs, errors.New("nothing ran, or nothing was broken"))
	}
	return errors.Join(append(errs, r.Broken...)...)
}
