package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	// guardRounds bounds how often one reconcile decides and acts, so that a lock whose
	// Jobs come without end does not keep the others from their turn.
	guardRounds = 10
	// pollWaiting is how often Redis is asked how the runs of other clusters stand
	// while Jobs stand by for them, and pollTicks how often while there are CronJobs.
	pollWaiting = 2 * time.Second
	pollTicks   = 15 * time.Second
	// runsTimeout bounds a look at the runs in Redis: a store that hangs must not hold
	// up the locks of others.
	runsTimeout = 2 * time.Second
	// requestTimeout bounds a patch that lets a Job go.
	requestTimeout = 10 * time.Second
	// leastWindow is the shortest time for which letting a Job go is worth it.
	leastWindow = 3 * time.Second
)

// A guarding is one reconcile's work on the Jobs of a lock.
type guarding struct {
	*RedisLockReconciler
	lock  *v1alpha1.RedisLock
	key   string
	terms guard.Terms
	// lockClient asks Redis; nil where the store cannot be used.
	lockClient *redislock.Client
	// problem is why there can be no hold; nil where there can.
	problem *problem
	// admit: new Jobs may start; else notAdmitted says why not.
	admit       bool
	notAdmitted string
	giveUp      bool

	running  *campaign.Campaign // nil until it was ensured
	cronJobs []*batchv1.CronJob
	jobs     []*guard.Job
	plan     guard.Plan
	// observation is what was known of the lock when the plan was made.
	observation campaign.Observation
	// overtaken: something changed between a look at a Job and a step that was taken on it.
	overtaken bool
	// kept is why the lock could not be given back; "" where nothing is in the way.
	kept string
}

// terms are what the spec says about guarded Jobs.
func terms(lock *v1alpha1.RedisLock) guard.Terms {
	spec := lock.Spec
	return guard.Terms{
		Exclusive:    spec.Hold == v1alpha1.HoldOnDemand,
		Watchdog:     duration(spec.Watchdog, v1alpha1.DefaultWatchdog),
		MaxWait:      duration(spec.MaxWait, 0),
		Rerun:        spec.LostTicks != v1alpha1.LostTicksSkip,
		RunLatest:    spec.MissedTicks == v1alpha1.MissedTicksRunLatest,
		DeleteOnLost: spec.OnLost == v1alpha1.OnLostDelete,
		ClaimGrace:   max(lease(lock)+lockDelay(lock), time.Minute),
	}
}

// see gathers what there is and decides.
func (g *guarding) see(ctx context.Context) error {
	if err := g.list(ctx); err != nil {
		return err
	}
	var runs *redislock.Runs
	if g.lockClient != nil && g.needsRuns() {
		bounded, cancel := context.WithTimeout(ctx, runsTimeout)
		defer cancel()
		asking, done := g.untilLost(bounded)
		if read, err := g.lockClient.Runs(asking, g.key); err == nil {
			runs = &read
			measureLastSuccess(g.object(), read.LastSuccess)
		} else {
			ctrl.LoggerFrom(ctx).V(1).Info("Reading the runs", "error", err.Error())
		}
		done()
	}
	g.decide(runs)
	return nil
}

// list reads the Jobs and CronJobs.
func (g *guarding) list(ctx context.Context) error {
	var err error
	if g.cronJobs, err = g.listCronJobs(ctx, g.lock.Namespace, g.lock.Name); err != nil {
		return err
	}
	jobs, err := g.listJobs(ctx, g.lock.Namespace, g.lock.Name)
	if err != nil {
		return err
	}
	g.jobs = g.jobs[:0]
	for _, job := range jobs {
		j := guard.NewJob(job, g.cronJobs)
		if j.Phase == guard.Waiting && j.Fence != 0 {
			j.Stopped = g.memory.of(g.object()).stopped(job.UID, j.Fence)
		}
		g.jobs = append(g.jobs, j)
	}
	return nil
}

// decide makes the plan. How the lock is held is asked last, for reading the runs may
// have taken longer than what was left of the lease.
func (g *guarding) decide(runs *redislock.Runs) {
	if g.running != nil {
		g.observation = g.running.Observe()
	}
	g.plan = guard.Decide(guard.Input{
		Now: time.Now(), Terms: g.terms, Hold: g.hold(), Cluster: g.ClusterUID, Admit: g.admit, NotAdmitted: g.notAdmitted, GiveUp: g.giveUp,
		Served: g.memory.of(g.object()).served(), Jobs: g.jobs, CronJobs: g.cronJobs, Since: g.lock.CreationTimestamp.Time, Runs: runs,
		Clusters: g.observation.Clusters(),
	})
	if g.running != nil {
		if blind := g.blindFor(); blind > 0 {
			g.soon(blind)
		}
	}
	if !g.Leads() {
		g.soon(unsurePause)
	}
}

// stop stops the Jobs that run without a hold behind them, and asks Redis nothing: it
// may be why the lease was lost, and then answers nobody.
func (g *guarding) stop(ctx context.Context) error {
	if err := g.list(ctx); err != nil {
		return err
	}
	g.decide(nil)
	g.plan.Steps = slices.DeleteFunc(g.plan.Steps, func(s guard.Step) bool { return s.Kind != guard.Stop })
	_, err := g.act(ctx)
	return err
}

// untilLost is ctx for a question to Redis: it ends with the grant that is held, for
// what waits for an answer then keeps Jobs from being stopped.
func (g *guarding) untilLost(ctx context.Context) (context.Context, func()) {
	if g.running == nil {
		return ctx, func() {}
	}
	grant := g.running.Grant()
	if grant == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(grant.Context(), cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

func (g *guarding) object() types.NamespacedName {
	return types.NamespacedName{Namespace: g.lock.Namespace, Name: g.lock.Name}
}

// needsRuns: a lock that guards nothing costs Redis nothing but its lease.
func (g *guarding) needsRuns() bool {
	return len(g.jobs) > 0 || len(g.cronJobs) > 0 || g.terms.Exclusive || !g.admit || g.giveUp
}

// hold is how the lock is held at the moment. Whether this manager leads is asked here,
// for the Jobs have been listed by now: what a successor let go was so after it had
// taken over, and that this manager does not hold the lock says nothing about that.
func (g *guarding) hold() guard.Hold {
	switch {
	case !g.Leads():
		return guard.Hold{Why: "this manager has to see whether it still leads those of its cluster"}
	case g.problem != nil:
		return guard.Hold{Known: true, Why: g.problem.message}
	case g.running == nil:
		return guard.Hold{}
	}
	o := g.running.Observe()
	if !o.Held {
		return guard.Hold{Known: o.Known && g.blindFor() <= 0, Why: o.Message}
	}
	grant := g.running.Grant()
	if grant == nil {
		// It has just ended, and the campaign is about to tell why; or it was gone on
		// with by our successor, whose Jobs these are now.
		return guard.Hold{}
	}
	window := g.terms.Watchdog
	if maxHold := g.lock.Spec.MaxHold; maxHold != nil && window > 0 {
		// A second less, for AcquiredAt is of Redis' clock.
		window = min(window, time.Until(o.AcquiredAt.Add(maxHold.Duration))-g.longestGrace()-time.Second)
	}
	return guard.Hold{
		Known: true, Held: true, Fence: grant.Fence(), QuietUntil: o.QuietUntil, Window: window,
		Fresh: time.Until(grant.ValidUntil()) > lease(g.lock)/3 && (g.terms.Watchdog == 0 || window >= leastWindow),
	}
}

// blindFor is for how long it may still be that the process before this one left a
// valid lease behind, of which nothing is known because Redis has not answered yet.
// Until then its Jobs go on: they cannot outlive what it had the key cover, for their
// watchdogs are not moved ahead meanwhile. Without a watchdog nothing bounds them, and
// they are stopped at once.
func (g *guarding) blindFor() time.Duration {
	since, blind := g.running.Blind()
	if !blind || g.terms.Watchdog == 0 {
		return 0
	}
	return time.Until(since.Add(lease(g.lock)))
}

// longestGrace is the longest time that a Job of this lock may need beyond its deadline.
func (g *guarding) longestGrace() time.Duration {
	var longest time.Duration
	for _, job := range g.jobs {
		longest = max(longest, guard.Cover(job.Job, time.Nanosecond))
	}
	for _, c := range g.cronJobs {
		longest = max(longest, guard.Cover(&batchv1.Job{Spec: c.Spec.JobTemplate.Spec}, time.Nanosecond))
	}
	return longest
}

// quarantine is how long a Job may run on of which a Redis that lost its data knows
// nothing any more: its operator loses the lease, and its pods take their grace; or
// its operator is dead, and its watchdog ends it.
func (g *guarding) quarantine() time.Duration {
	if grace := g.longestGrace(); grace > 0 {
		return lease(g.lock) + g.terms.Watchdog + grace
	}
	if g.terms.Exclusive {
		return lease(g.lock) + guard.Cover(&batchv1.Job{}, g.terms.Watchdog)
	}
	return 0
}

// there are the objects that this lock guards.
func (g *guarding) there() map[types.UID]bool {
	there := map[types.UID]bool{}
	for _, job := range g.jobs {
		there[job.UID] = true
	}
	for _, c := range g.cronJobs {
		there[c.UID] = true
	}
	return there
}

// act carries out the plan. It returns whether anything was changed, so that another
// look is worth it.
func (g *guarding) act(ctx context.Context) (bool, error) {
	var errs []error
	changed := false
	g.overtaken = false
	for i := range g.plan.Steps {
		step := &g.plan.Steps[i]
		done, err := g.take(ctx, step)
		changed = changed || done
		switch {
		case err == nil:
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
			// Overtaken: what overtook it is on its way to the cache.
			g.overtaken = true
			ctrl.LoggerFrom(ctx).V(1).Info("Overtaken", "step", step.Kind, "error", err.Error())
		default:
			errs = append(errs, err)
		}
	}
	return changed, errors.Join(errs...)
}

func (g *guarding) take(ctx context.Context, step *guard.Step) (changed bool, err error) {
	switch step.Kind {
	case guard.Stop:
		return true, g.stopJob(ctx, step)
	case guard.Record, guard.Reopen:
		return g.recordOutcome(ctx, step)
	case guard.Drop:
		return true, g.dropFinalizer(ctx, step.Job.Job)
	case guard.Remove:
		return true, g.removeJob(ctx, step)
	case guard.Void:
		return true, g.voidClaim(ctx, step)
	case guard.Bury:
		return g.buryClaim(ctx, step)
	case guard.Forfeit:
		return true, g.forfeit(ctx, step)
	case guard.Make:
		return g.makeJob(ctx, step)
	case guard.LetGo:
		return g.letGo(ctx, step.Job)
	case guard.Extend:
		return false, g.extend(ctx, step)
	case guard.Yield:
		return g.yield(ctx)
	}
	return false, fmt.Errorf("no such step: %s", step.Kind)
}

// next is when to look again though nothing has happened.
func (g *guarding) next() time.Duration {
	var wait time.Duration
	sooner := func(d time.Duration) {
		if wait == 0 || d < wait {
			wait = max(d, 10*time.Millisecond)
		}
	}
	if !g.plan.Next.IsZero() {
		sooner(time.Until(g.plan.Next))
	}
	if len(g.cronJobs) > 0 {
		sooner(pollTicks)
	}
	if g.plan.Waiting > 0 {
		sooner(pollWaiting)
	}
	return wait
}
