package campaign

import (
	"context"
	"errors"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// watch looks on from outside until the spec changes.
func (c *Campaign) watch(ctx context.Context, spec Spec, changed <-chan struct{}) {
	for ctx.Err() == nil {
		info, err := spec.Client.Inspect(ctx, spec.Key)
		if ctx.Err() != nil {
			return
		}
		if err == nil && c.inherits(info, spec) {
			if c.yield(ctx, spec, info) {
				continue
			}
			c.inherited = info.Value
		}
		c.looked = c.looked || err == nil
		message := "paused: spec.paused names this cluster, so it stays out"
		var holder *Holder
		if err == nil && info.Status == redislock.Acquired {
			holder = newHolder(info.Value, info.Fence, spec.Identity)
			if at, ok := grantedAt(info.History, holder.Fence); ok {
				holder.Since = at
			}
		}
		o := c.Observe()
		if !o.Known || o.Reason != v1alpha1.ReasonPaused || err == nil && tokenHash(o.Holder) != tokenHash(holder) {
			c.observe(func(o *Observation) {
				*o = Observation{
					Reason: v1alpha1.ReasonPaused, Message: message, Holder: holder,
					Fence: max(o.Fence, info.Fence), History: orBefore(info.History, o.History),
				}
			})
		}
		if !pause(ctx, changed, watchPause) {
			return
		}
	}
}

// yield gives back a lease that was left behind, by this process or by one that
// stopped. One whose process may still be alive is left to lapse.
func (c *Campaign) yield(ctx context.Context, spec Spec, info redislock.Info) bool {
	if !leftBehind(info, spec) {
		return false
	}
	if err := Clear(ctx, spec); err != nil {
		c.log.Error(err, "Giving back the lease that was left behind")
		return false
	}
	return true
}

// leftBehind says that nobody acts under a lease: its process has stopped, or is
// this one. A process that crashed, or a twin's, may be alive.
func leftBehind(info redislock.Info, spec Spec) bool {
	return info.Stopped || info.Nonce == spec.Client.Nonce()
}

// Clear gives back what this cluster left behind of a lock for which no campaign
// runs. A lease whose process may still be alive is left to lapse.
func Clear(ctx context.Context, spec Spec) error {
	for {
		info, err := spec.Client.Inspect(ctx, spec.Key)
		if err != nil {
			return err
		}
		if info.Status == redislock.Free || !newHolder(info.Value, info.Fence, spec.Identity).Ours || !leftBehind(info, spec) {
			return nil
		}
		lock, err := spec.Client.Adopt(ctx, spec.Key, info.Value, spec.options(0)...)
		if errors.Is(err, redislock.ErrMismatch) {
			continue // it moved in between: look again
		}
		if err != nil {
			return err
		}
		return lock.Release(ctx)
	}
}
