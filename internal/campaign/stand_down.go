package campaign

import (
	"context"
	"errors"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// watch looks on from outside until the spec changes.
func (c *Campaign) watch(ctx context.Context, spec Spec, changed <-chan struct{}) {
	for ctx.Err() == nil {
		info, err := spec.Client.Inspect(ctx, spec.Key)
		if ctx.Err() != nil {
			return
		}
		var holder *Holder
		if err == nil && info.Status == redislock.Acquired {
			holder = newHolder(info.Value, info.Fence, spec.Identity)
			if at, ok := grantedAt(info.History, holder.Fence); ok {
				holder.Since = at
			}
		}
		o := c.Observe()
		if !o.Known || o.Reason != spec.Aside.Reason || err == nil && tokenHash(o.Holder) != tokenHash(holder) {
			c.observe(func(o *Observation) {
				*o = Observation{
					Reason: spec.Aside.Reason, Message: spec.Aside.Message, Holder: holder,
					Fence: max(o.Fence, info.Fence), History: orBefore(info.History, o.History),
				}
			})
		}
		if !pause(ctx, changed, watchPause) {
			return
		}
	}
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
