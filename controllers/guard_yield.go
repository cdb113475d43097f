package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// yield gives the lock back if nothing runs under it: asked past the cache, for after
// a suspension or a deletion pods live on whose Job says nothing of them.
func (g *guarding) yield(ctx context.Context) (bool, error) {
	grant := g.running.Grant()
	if grant == nil {
		return false, nil
	}
	runs, err := g.lockClient.Runs(ctx, g.key)
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(runs.Active, func(a redislock.ActiveRun) bool { return a.Grant == grant.Fence() }) {
		return false, nil
	}
	live, err := g.livePods(ctx, g.object())
	if err != nil {
		return false, err
	}
	if live != "" {
		g.kept = fmt.Sprintf("the lock is given back when pod %s, which is labelled as guarded by it, has ended", live)
		g.soon(time.Second)
		return false, nil
	}
	fault.Point("idle")
	if err := g.running.Yield(ctx); err != nil {
		ctrl.LoggerFrom(ctx).Info("Giving the lock back; it goes on in the background", "error", err.Error())
	}
	g.memory.of(g.object()).gaveBack(grant.Fence())
	fault.Point("yielded")
	return true, nil
}

// turn is how long the status goes on saying ACQUIRED after a lock was given back
// that is taken again for the next Job of the queue.
const turn = 300 * time.Millisecond

// settle gives back a lease that lapsed while Redis was away, once what ran under it
// has stopped: its key would stand for the whole watchdog's window.
func (g *guarding) settle(ctx context.Context) error {
	if g.running == nil || g.plan.Active > 0 {
		return nil
	}
	from, lapsed := g.running.Lapsed()
	if !lapsed {
		return nil
	}
	if wait := time.Until(from); wait > 0 {
		g.soon(wait)
		return nil
	}
	live, err := g.livePods(ctx, g.object())
	if err != nil {
		return err
	}
	if live != "" {
		g.soon(time.Second)
		return nil
	}
	if err := g.running.Stopped(ctx); err != nil {
		g.soon(time.Second) // Redis is still away
	}
	return nil
}

// soon has the lock looked at again.
func (g *guarding) soon(d time.Duration) {
	if at := time.Now().Add(d); g.plan.Next.IsZero() || at.Before(g.plan.Next) {
		g.plan.Next = at
	}
}
