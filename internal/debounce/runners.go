// Package debounce runs the debounces of a process: one runner for each Debounce.
package debounce

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Action carries out a run. Its error is the run's failure, unless ctx has ended.
type Action func(context.Context, redislock.DebounceRun) error

// Spec is what a runner runs. Two that compare equal need no other runner.
type Spec struct {
	Client   *redislock.Client
	Key      string
	Settings Settings
	// Revision is of whatever else the action is made from.
	Revision string
	// Idle: calls are recorded and the state is watched, and nothing is run.
	Idle bool
}

// Settings are those of redislock.Debounce that come from a Debounce.
type Settings struct {
	Wait, MaxWait, MinInterval time.Duration
	Edge                       redislock.Edge
	Payload                    redislock.PayloadChoice
	Claimant                   string
}

const (
	// lease of a claim until its action has begun.
	lease = 30 * time.Second
	// Retention is how long Redis remembers a debounce that nobody calls.
	Retention = 7 * 24 * time.Hour
	// watchInterval is how often the state of one that is not run here is asked for.
	watchInterval = time.Minute
	// firstPause and longestPause lie between two tries to run where trying again at once
	// does not help.
	firstPause, longestPause = time.Second, time.Minute
)

// Observation is what a runner knows.
type Observation struct {
	// Known: it has looked at Redis.
	Known bool
	State redislock.DebounceState
	// Lost is the generation whose calls Redis lost, and LostAt when that was noticed; 0
	// where it lost none.
	Lost   uint64
	LostAt time.Time
	// Err is why it cannot run; nil where it can.
	Err error
}

// Runners are those of a process.
type Runners struct {
	log logr.Logger

	mu       sync.Mutex
	runners  map[types.NamespacedName]*runner
	onChange func(types.NamespacedName)
	left     bool
}

// NewRunners returns none yet.
func NewRunners(log logr.Logger) *Runners {
	return &Runners{log: log, runners: map[types.NamespacedName]*runner{}, onChange: func(types.NamespacedName) {}}
}

// OnChange has f called when what a runner knows has changed. It must not block.
func (r *Runners) OnChange(f func(types.NamespacedName)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onChange = f
}

// Ensure has a runner for an object of this spec. One of another spec ends first: what
// it runs is gone on with by the new one, for the claimant is the same.
func (r *Runners) Ensure(object types.NamespacedName, uid types.UID, spec Spec, act Action) error {
	r.mu.Lock()
	old := r.runners[object]
	if old != nil && old.uid == uid && old.spec == spec || r.left {
		r.mu.Unlock()
		return nil
	}
	n := &runner{
		uid: uid, spec: spec, act: act, done: make(chan struct{}),
		log: r.log.WithValues("debounce", object.String(), "key", spec.Key),
	}
	n.changed = func() {
		r.mu.Lock()
		f := r.onChange
		r.mu.Unlock()
		f(object)
	}
	var err error
	if n.debouncer, err = spec.Client.Debouncer(spec.Key, redislock.Debounce{
		Wait: spec.Settings.Wait, MaxWait: spec.Settings.MaxWait, MinInterval: spec.Settings.MinInterval,
		Edge: spec.Settings.Edge, Payload: spec.Settings.Payload, Claimant: spec.Settings.Claimant,
		Lease: lease, Retention: max(Retention, 3*(spec.Settings.MaxWait+spec.Settings.MinInterval)), OnState: n.saw,
	}); err != nil {
		r.mu.Unlock()
		return err
	}
	if old != nil && old.uid == uid {
		n.observation = old.observe()
	}
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	r.runners[object] = n
	r.mu.Unlock()
	go n.run(ctx, old)
	return nil
}

// Get returns what the runner of an object knows.
func (r *Runners) Get(object types.NamespacedName, uid types.UID) Observation {
	r.mu.Lock()
	n := r.runners[object]
	r.mu.Unlock()
	if n == nil || n.uid != uid {
		return Observation{}
	}
	return n.observe()
}

// ErrNoRunner: an object has none, or no longer.
var ErrNoRunner = errors.New("nothing runs this Debounce here")

// Call records a call through the runner of an object.
func (r *Runners) Call(ctx context.Context, object types.NamespacedName, payload []byte) error {
	r.mu.Lock()
	n := r.runners[object]
	r.mu.Unlock()
	if n == nil {
		return ErrNoRunner
	}
	_, err := n.debouncer.Call(ctx, payload)
	return err
}

// Stop ends the runner of an object, if there is one. What it runs is claimed still, for
// the lease.
func (r *Runners) Stop(object types.NamespacedName) {
	r.mu.Lock()
	n := r.runners[object]
	delete(r.runners, object)
	r.mu.Unlock()
	if n != nil {
		n.cancel()
	}
}

// Leave ends all runners, and waits for them until ctx is done. What they run is left to
// the next process of this cluster.
func (r *Runners) Leave(ctx context.Context) error {
	r.mu.Lock()
	r.left = true
	runners := r.runners
	r.runners = map[types.NamespacedName]*runner{}
	r.mu.Unlock()
	for _, n := range runners {
		n.cancel()
	}
	for _, n := range runners {
		select {
		case <-n.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

type runner struct {
	uid       types.UID
	spec      Spec
	act       Action
	debouncer *redislock.Debouncer
	changed   func()
	cancel    context.CancelFunc
	done      chan struct{}
	log       logr.Logger

	mu          sync.Mutex
	observation Observation
}

func (n *runner) observe() Observation {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.observation
}

func (n *runner) saw(s redislock.DebounceState) {
	n.mu.Lock()
	o := &n.observation
	o.Known, o.State, o.Err = true, s, nil
	if s.Lost {
		o.Lost, o.LostAt = s.LostGeneration, s.At
	}
	n.mu.Unlock()
	n.changed()
}

func (n *runner) failed(err error) {
	n.mu.Lock()
	before := n.observation.Err
	n.observation.Err = err
	n.mu.Unlock()
	if before == nil || err == nil || before.Error() != err.Error() {
		n.changed()
	}
}

func (n *runner) run(ctx context.Context, before *runner) {
	defer close(n.done)
	if before != nil {
		before.cancel()
		<-before.done
	}
	pause := firstPause
	for ctx.Err() == nil {
		var err error
		if n.spec.Idle {
			err = n.watch(ctx)
		} else {
			err = n.debouncer.Run(ctx, n.act)
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, redislock.ErrClosed):
			return // the process ends
		}
		n.failed(err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

// watch asks for the state without running anything.
func (n *runner) watch(ctx context.Context) error {
	for {
		state, err := n.debouncer.State(ctx)
		if err != nil {
			return err
		}
		n.saw(state)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchInterval):
		}
	}
}
