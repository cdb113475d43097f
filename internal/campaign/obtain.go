package campaign

import (
	"context"
	"errors"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var errSpecChanged = errors.New("the spec has changed")

// obtain gets the lock: by going on with a lease of this cluster, else by waiting
// for its turn. No lock and no error means that this cluster stands aside.
func (c *Campaign) obtain(ctx context.Context, spec Spec, changed <-chan struct{}) (*redislock.Lock, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-changed:
			cancel(errSpecChanged)
		case <-ctx.Done():
		}
	}()
	lock, err := c.adopt(ctx, spec)
	if lock == nil && err == nil && spec.Aside == (Aside{}) {
		options := append(spec.options(c.Observe().Fence), redislock.OnRefusal(func(refusal error) { c.refused(ctx, spec, refusal) }))
		lock, err = spec.Client.Acquire(ctx, spec.Key, options...)
		if err == nil {
			c.acquired(ctx, spec, lock, false, time.Time{})
		}
	}
	if err != nil && errors.Is(context.Cause(ctx), errSpecChanged) {
		return nil, errSpecChanged
	}
	return lock, err
}

// adopt goes on with the lease that another process of this cluster left behind.
// No lock and no error means that there is none.
func (c *Campaign) adopt(ctx context.Context, spec Spec) (*redislock.Lock, error) {
	if c.looked && c.inherited == "" && !c.left {
		return nil, nil
	}
	for {
		info, err := spec.Client.Inspect(ctx, spec.Key)
		if err != nil {
			c.refused(ctx, spec, err)
			return nil, err
		}
		if !c.inherits(info, spec) {
			c.hear()
			c.looked, c.inherited, c.left = true, "", false
			return nil, nil
		}
		lock, err := spec.Client.Adopt(ctx, spec.Key, info.Value, spec.options(0)...)
		if errors.Is(err, redislock.ErrMismatch) {
			continue // it moved in between: look again
		}
		if err != nil {
			c.refused(ctx, spec, err)
			return nil, err
		}
		var quiet time.Time
		if !info.Stopped && info.Nonce != spec.Client.Nonce() {
			quiet = time.Now().Add(spec.Lease)
		}
		c.acquired(ctx, spec, lock, true, quiet)
		c.hear()
		return lock, nil
	}
}

// inherits says whether a lease is ours to go on with: one that stood there when
// this process began, or that it left behind itself. One of our identity that turns
// up later is a twin's.
func (c *Campaign) inherits(info redislock.Info, spec Spec) bool {
	holder := newHolder(info.Value, info.Fence, spec.Identity)
	switch {
	case info.Status == redislock.Free || !holder.Ours:
		return false
	case !c.looked || info.Value == c.inherited:
		return true
	}
	return c.left && holder.nonce == spec.Client.Nonce()
}

// hear notes that Redis has said how the lock stood when the campaign began.
func (c *Campaign) hear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = true
}
