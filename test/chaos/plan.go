package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
)

// What the guard promises depends on something being there, and what is done respects
// that; else the judge would find what the documentation concedes.
//
//   - A kube-controller-manager that is away when a watchdog ends, or when a Job is
//     suspended for a lease that was lost, ends nothing; so is an API server. Such
//     faults have epochs of their own, in which operators, their links and Redis are
//     left alone, and in which nobody needs them for longer than the cover's margin
//     bears (bears). One that lasted longer, on a busy machine, is noted as an Outage.
//   - For a blink (below) a controller manager may be away at any time: the cover of a
//     lock's key has a margin for it.
//   - Redis keeps what it acknowledged (appendfsync always).
//   - kwok, which plays the kubelets, is left alone: a kubelet that does not answer goes
//     on running its pods, whatever anybody does.
const (
	// bears is for how long a control plane may be away while its operator is well: the
	// operator goes on renewing for a watchdog's window.
	bears = 10 * time.Second
	// blink is within the margin of the cover, together with what the rest takes.
	blink = 1500 * time.Millisecond
	// calm is between two epochs: for managers to be elected, and for what they could
	// not do to be done.
	calm = 8 * time.Second
	// least is what an epoch is worth beginning for.
	least = 15 * time.Second
)

// awaited is the kind of what breaks nothing.
const awaited = "a tick awaited"

// A fault is something that is done to a part of the estate, and undone.
type fault struct {
	kind string
	// after is when it begins, from the beginning of its epoch, and lasts for how long.
	after, lasts time.Duration
	do           func(ctx context.Context, lasts time.Duration) error
}

// An epoch is a set of faults, those of one target one after the other.
type epoch struct {
	name    string
	targets map[string][]fault
}

// planner draws epochs.
type planner struct {
	estate *Estate
	rng    *rand.Rand
	// brief draws shorter faults, for a run of minutes.
	brief bool
	n     int
}

func (p *planner) between(from, to time.Duration) time.Duration {
	return from + time.Duration(p.rng.Int64N(int64(to-from)+1))
}

// next draws the next epoch. All that is random in it is drawn here, so that a seed
// gives the same plan whatever becomes of it.
func (p *planner) next() epoch {
	p.n++
	switch sites := p.estate.sites; {
	case p.estate.config.Prelude == Takeovers && p.n <= len(sites):
		return p.takeover(sites[p.n-1])
	case p.estate.config.Prelude == Peace && p.n <= 2:
		return epoch{"peace", map[string][]fault{"all": {awaitTick}}}
	case p.n%3 == 0:
		return p.controlPlanes()
	}
	return p.operators()
}

// takeover kills the operators of a cluster when its runs have begun, and for so long
// that another cluster takes over.
func (p *planner) takeover(s *site) epoch {
	f := fault{kind: "all managers killed", lasts: 24 * time.Second, do: s.endManagers(s.managers, (*operator.Manager).Kill)}
	return epoch{"takeover from " + s.name, map[string][]fault{s.name: {awaitTick, f}}}
}

// awaitTick waits until the runs of the next tick have begun.
var awaitTick = fault{kind: awaited, do: func(ctx context.Context, _ time.Duration) error {
	sleep(ctx, time.Until(time.Now().Truncate(time.Minute).Add(time.Minute+14*time.Second)))
	return nil
}}

func (p *planner) controlPlanes() epoch {
	ep := epoch{"control planes", map[string][]fault{}}
	for _, s := range p.estate.sites {
		if p.rng.IntN(10) < 2 {
			continue
		}
		var f fault
		switch p.rng.IntN(5) {
		case 0:
			f = fault{kind: "API server paused", lasts: p.between(time.Second, 5*time.Second), do: s.pauseProcess(s.APIServer)}
		case 1:
			f = fault{kind: "API server killed", do: s.endProcess(s.APIServer, (*cluster.Process).Kill)}
		case 2:
			f = fault{kind: "controller manager paused", lasts: p.between(time.Second, 8*time.Second), do: s.pauseProcess(s.ControllerManager)}
		case 3:
			f = fault{kind: "controller manager killed", lasts: p.between(0, 3*time.Second), do: s.endProcess(s.ControllerManager, (*cluster.Process).Kill)}
		case 4:
			f = fault{kind: "controller manager restarted", do: s.endProcess(s.ControllerManager, (*cluster.Process).Stop)}
		}
		f.after = p.between(0, 6*time.Second)
		f.do = p.estate.noting(s, f.kind, f.do)
		ep.targets[s.name] = []fault{f}
	}
	return ep
}

func (p *planner) operators() epoch {
	ep := epoch{"operators", map[string][]fault{}}
	for _, s := range p.estate.sites {
		n := 1 + p.rng.IntN(2)
		if p.rng.IntN(10) == 0 {
			n = 0
		}
		for range n {
			ep.targets[s.name] = append(ep.targets[s.name], p.operator(s))
		}
		if p.rng.IntN(4) == 0 {
			ep.targets[s.name+" controllers"] = []fault{{
				kind: "controller manager blinks", after: p.between(0, 20*time.Second), lasts: p.between(blink/3, blink), do: s.pauseProcess(s.ControllerManager),
			}}
		}
	}
	if p.rng.IntN(2) == 0 {
		r := p.estate.redis
		var f fault
		switch p.rng.IntN(3) {
		case 0:
			f = fault{kind: "Redis killed", lasts: p.between(0, 3*time.Second), do: func(ctx context.Context, lasts time.Duration) error {
				if err := r.Kill(); err != nil {
					return err
				}
				sleep(ctx, lasts)
				return r.StartContext(context.WithoutCancel(ctx))
			}}
		case 1:
			f = fault{kind: "Redis restarted", do: func(ctx context.Context, _ time.Duration) error {
				if err := r.Stop(); err != nil {
					return err
				}
				return r.StartContext(context.WithoutCancel(ctx))
			}}
		case 2:
			f = fault{kind: "Redis paused", lasts: p.between(time.Second, 2*lease), do: func(ctx context.Context, lasts time.Duration) error {
				if err := r.Pause(); err != nil {
					return err
				}
				sleep(ctx, lasts)
				return r.Resume()
			}}
		}
		f.after = p.between(0, 20*time.Second)
		ep.targets["redis"] = []fault{f}
	}
	return ep
}

// operator draws a fault of a cluster's operators, or of their way to Redis.
func (p *planner) operator(s *site) fault {
	long := 26 * time.Second
	if p.brief {
		long = 20 * time.Second
	}
	some := s.managers
	if n := p.rng.IntN(3); n < 2 {
		some = s.managers[n : n+1]
	}
	after := p.between(0, 8*time.Second)
	switch p.rng.IntN(10) {
	case 0, 1:
		// Longer than the watchdog and its cover: another cluster takes over.
		return fault{"all managers killed", after, p.between(16*time.Second, long), s.endManagers(s.managers, (*operator.Manager).Kill)}
	case 2:
		return fault{"managers killed", after, p.between(0, 8*time.Second), s.endManagers(some, (*operator.Manager).Kill)}
	case 3:
		return fault{"all managers paused", after, p.between(lease, long), s.pauseManagers(s.managers)}
	case 4:
		return fault{"managers paused", after, p.between(time.Second, 14*time.Second), s.pauseManagers(some)}
	case 5:
		return fault{"managers restarted", after, 0, s.endManagers(some, (*operator.Manager).Stop)}
	case 6:
		return fault{"links cut", after, p.between(time.Second, 4*time.Second), s.cutLinks}
	case 7:
		return fault{"links partitioned", after, p.between(time.Second, 14*time.Second), s.partitionLinks}
	case 8:
		delay := p.between(100*time.Millisecond, 900*time.Millisecond)
		return fault{"links slow", after, p.between(4*time.Second, 14*time.Second), func(ctx context.Context, lasts time.Duration) error {
			return s.slowLinks(ctx, delay, lasts)
		}}
	default:
		return fault{"drained", after, p.between(3*time.Second, 15*time.Second), func(ctx context.Context, lasts time.Duration) error {
			if err := s.drain(ctx, p.estate, true); err != nil {
				return err
			}
			sleep(ctx, lasts)
			return s.drain(context.WithoutCancel(ctx), p.estate, false)
		}}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (s *site) endManagers(some []*keeper, how func(*operator.Manager) error) func(context.Context, time.Duration) error {
	return func(ctx context.Context, lasts time.Duration) error {
		for _, k := range some {
			if err := k.end(how); err != nil {
				return err
			}
		}
		sleep(ctx, lasts)
		for _, k := range some {
			if err := k.begin(); err != nil {
				return err
			}
		}
		return nil
	}
}

func (s *site) pauseManagers(some []*keeper) func(context.Context, time.Duration) error {
	return func(ctx context.Context, lasts time.Duration) error {
		for _, k := range some {
			_ = k.Pause(ctx) // it may just have ended by itself
		}
		sleep(ctx, lasts)
		for _, k := range some {
			_ = k.Resume()
		}
		return nil
	}
}

// cutLinks breaks connections again and again.
func (s *site) cutLinks(ctx context.Context, lasts time.Duration) error {
	for end := time.Now().Add(lasts); time.Now().Before(end) && ctx.Err() == nil; sleep(ctx, 300*time.Millisecond) {
		for _, k := range s.managers {
			k.link.Cut()
		}
	}
	return nil
}

func (s *site) partitionLinks(ctx context.Context, lasts time.Duration) error {
	for _, k := range s.managers {
		k.link.Partition()
	}
	sleep(ctx, lasts)
	for _, k := range s.managers {
		k.link.Heal()
	}
	return nil
}

func (s *site) slowLinks(ctx context.Context, delay, lasts time.Duration) error {
	for _, k := range s.managers {
		k.link.Slow(delay)
	}
	sleep(ctx, lasts)
	for _, k := range s.managers {
		k.link.Slow(0)
	}
	return nil
}

func (s *site) pauseProcess(p *cluster.Process) func(context.Context, time.Duration) error {
	return func(ctx context.Context, lasts time.Duration) error {
		if err := p.Pause(ctx); err != nil {
			return err
		}
		sleep(ctx, lasts)
		return p.Resume()
	}
}

func (s *site) endProcess(p *cluster.Process, how func(*cluster.Process, context.Context) error) func(context.Context, time.Duration) error {
	return func(ctx context.Context, lasts time.Duration) error {
		if err := how(p, context.WithoutCancel(ctx)); err != nil {
			return err
		}
		sleep(ctx, lasts)
		return p.Start(context.WithoutCancel(ctx))
	}
}

// monkey carries a plan out and keeps count.
type monkey struct {
	planner *planner
	log     func(string, ...any)

	mu     sync.Mutex
	counts map[string]int
	errs   []error
}

// noting notes an outage that was longer than the guard bears.
func (e *Estate) noting(s *site, what string, do func(context.Context, time.Duration) error) func(context.Context, time.Duration) error {
	return func(ctx context.Context, lasts time.Duration) error {
		from := time.Now()
		err := do(ctx, lasts)
		if to := time.Now(); to.Sub(from) > bears {
			e.log("%s: %s for %s, which is longer than the guard bears", s.name, what, to.Sub(from).Round(100*time.Millisecond))
			e.mu.Lock()
			e.outages = append(e.outages, Outage{s.name, what, from, to})
			e.mu.Unlock()
		}
		return err
	}
}

// run carries epochs out until the context ends.
func (m *monkey) run(ctx context.Context) {
	for ctx.Err() == nil {
		if end, ok := ctx.Deadline(); ok && m.planner.n > 0 && time.Until(end) < least {
			sleep(ctx, least) // too little is left for another
			return
		}
		ep := m.planner.next()
		m.log("epoch %d: %s", m.planner.n, ep.name)
		var wg sync.WaitGroup
		for target, faults := range ep.targets {
			wg.Go(func() { m.target(ctx, target, faults) })
		}
		wg.Wait()
		sleep(ctx, calm)
	}
}

func (m *monkey) target(ctx context.Context, target string, faults []fault) {
	for _, f := range faults {
		sleep(ctx, f.after)
		if ctx.Err() != nil {
			return
		}
		m.log("%s: %s, %s", target, f.kind, f.lasts.Round(100*time.Millisecond))
		err := f.do(ctx, f.lasts)
		m.mu.Lock()
		if f.kind != awaited {
			m.counts[f.kind]++
		}
		if err != nil && ctx.Err() == nil {
			m.errs = append(m.errs, fmt.Errorf("%s: %s: %w", target, f.kind, err))
			m.log("%s: %s: %v", target, f.kind, err)
		}
		m.mu.Unlock()
	}
}
