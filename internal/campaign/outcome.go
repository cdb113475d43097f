package campaign

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// acquired takes in a grant: a new one, or one gone on with.
func (c *Campaign) acquired(ctx context.Context, spec Spec, lock *redislock.Lock, adopted bool, quiet time.Time) {
	// The history only tells the time of the grant and who held before; a Redis that
	// just granted and now hangs must not keep that from being shown.
	info, err := spec.Client.Inspect(ctx, spec.Key)
	if err != nil {
		c.log.V(1).Info("Reading the history", "error", err.Error())
	}
	c.mu.Lock()
	c.grant, c.lapsed = lock, nil
	c.mu.Unlock()
	c.observe(func(o *Observation) {
		at, ok := grantedAt(info.History, lock.Fence())
		if !ok {
			at = time.Now()
		}
		*o = Observation{
			Held: true, Reason: v1alpha1.ReasonHeldHere,
			Message:    fmt.Sprintf("this cluster holds the lock with fencing token %d", lock.Fence()),
			Fence:      max(o.Fence, lock.Fence()),
			AcquiredAt: at, Adopted: adopted, QuietUntil: quiet, History: orBefore(info.History, o.History),
			Holder: &Holder{Identity: &spec.Identity, TokenHash: redislock.HashToken(lock.Token()), Fence: lock.Fence(), Since: at, Ours: true},
		}
		if !quiet.IsZero() {
			o.Message += fmt.Sprintf(", gone on with after a process that did not stop cleanly: nothing new starts under it before %s", quiet.UTC().Format(time.RFC3339))
		}
	})
}

// lost takes in the end of a lease.
func (c *Campaign) lost(ctx context.Context, spec Spec, lock *redislock.Lock) {
	loss, ok := errors.AsType[*redislock.LostError](context.Cause(lock.Context()))
	if !ok {
		return // the client was closed
	}
	reason, message := explain(loss, spec)
	if t, ok := redislock.ParseToken(loss.Found); ok && t.Nonce != spec.Client.Nonce() && newHolder(loss.Found, 0, spec.Identity).Ours {
		if leads, err := c.stillLeads(ctx); err != nil {
			return
		} else if !leads {
			// Our successor has it, and the Jobs with it: touch nothing, write nothing.
			c.log.Info("Another process of this cluster went on with the lease, as the manager's new leader does")
			c.stop()
			return
		}
		reason, message = v1alpha1.ReasonDuplicateIdentity, duplicateMessage
	}
	c.observe(func(o *Observation) {
		*o = Observation{Reason: reason, Message: message, Fence: o.Fence, History: o.History}
		if loss.Found != "" {
			o.Holder = newHolder(loss.Found, 0, spec.Identity)
			o.Holder.Since = time.Now()
		}
	})
	if loss.Found == "" {
		c.mu.Lock()
		c.lapsed = &lapsed{lock: lock, at: time.Now(), delay: spec.LockDelay}
		c.mu.Unlock()
	}
}

func explain(loss *redislock.LostError, spec Spec) (v1alpha1.ConditionReason, string) {
	switch {
	case loss.Err != nil && redislock.Refused(loss.Err):
		return v1alpha1.ReasonStoreRefused, fmt.Sprintf("lost: Redis refused to renew the lease: %v", loss.Err)
	case loss.Err != nil:
		return v1alpha1.ReasonStoreUnreachable, fmt.Sprintf("lost: the lease ended because Redis could not be asked to renew it: %v", loss.Err)
	case loss.Found == "":
		return v1alpha1.ReasonCompeting, "lost: the lock's key is gone from Redis: somebody deleted or evicted it, or Redis lost its data"
	}
	return v1alpha1.ReasonHeldElsewhere, fmt.Sprintf("lost: the lock was taken away; %s stands at its key", newHolder(loss.Found, 0, spec.Identity))
}

// stillLeads asks until the API server has answered: somebody goes on with our
// lease, and whether it is our successor or a twin decides what to do. Its error is
// that the campaign has ended.
func (c *Campaign) stillLeads(ctx context.Context) (bool, error) {
	for {
		leads, err := c.leader(ctx)
		if err == nil {
			return leads, nil
		}
		c.log.Info("Asking whether this process still leads", "error", err.Error())
		if !pause(ctx, nil, retryPause) {
			return false, ctx.Err()
		}
	}
}

const duplicateMessage = "duplicate identity: a process outside this cluster's control uses its identity and went on with its lease. " +
	"Was this cluster cloned or restored from a backup while the original runs? Stop the operator in one of them"

// refused takes in why an attempt did not get the lock.
func (c *Campaign) refused(ctx context.Context, spec Spec, refusal error) {
	held, isHeld := errors.AsType[*redislock.HeldError](refusal)
	quarantine, isQuarantined := errors.AsType[*redislock.QuarantineError](refusal)
	switch {
	case ctx.Err() != nil || errors.Is(refusal, redislock.ErrClosed):
	case isQuarantined:
		c.free(v1alpha1.ReasonQuarantined, fmt.Sprintf(
			"Redis has lost acknowledged writes: it knows fencing token %d, but %d was granted. A holder that it forgot may still be alive, so nothing is acquired for one full expiry, %s",
			quarantine.Stored, quarantine.Seen, max(spec.expiry(), spec.Quarantine)))
	case isHeld && held.Free():
		c.free(v1alpha1.ReasonCompeting, "the lock is free, but its key is kept taken for a while, for what remains of its minHold or because it was released by force")
	case isHeld:
		c.heldBy(ctx, spec, held)
	case errors.Is(refusal, redislock.ErrCorrupt):
		c.free(v1alpha1.ReasonCorruptFence, refusal.Error())
	case redislock.Refused(refusal):
		c.free(v1alpha1.ReasonStoreRefused, refusal.Error())
	default:
		c.free(v1alpha1.ReasonStoreUnreachable, refusal.Error())
	}
}

// free notes that the lock is not held here, by nobody we know. Nothing is told if
// nothing has changed but the words.
func (c *Campaign) free(reason v1alpha1.ConditionReason, message string) {
	if o := c.Observe(); o.Known && !o.Held && o.Reason == reason {
		return
	}
	c.observe(func(o *Observation) {
		*o = Observation{Reason: reason, Message: message, Fence: o.Fence, History: o.History}
	})
}

func (c *Campaign) heldBy(ctx context.Context, spec Spec, held *redislock.HeldError) {
	holder := newHolder(held.Value, held.Fence, spec.Identity)
	reason, message := v1alpha1.ReasonHeldElsewhere, fmt.Sprintf("%s holds the lock", holder)
	switch {
	case holder.Ours && holder.nonce == spec.Client.Nonce():
		reason, message = v1alpha1.ReasonCompeting, "the lease that this cluster lost is still in Redis; it waits for its end like everybody"
	case holder.Ours:
		reason, message = v1alpha1.ReasonDuplicateIdentity, duplicateMessage
	}
	o := c.Observe()
	if o.Known && !o.Held && o.Reason == reason && o.Holder != nil && o.Holder.TokenHash == holder.TokenHash {
		return
	}
	info, err := spec.Client.Inspect(ctx, spec.Key)
	if err != nil {
		c.log.V(1).Info("Reading the history", "error", err.Error())
	}
	var known bool
	if holder.Since, known = grantedAt(info.History, holder.Fence); !known {
		holder.Since = time.Now()
		if o.Holder != nil && o.Holder.TokenHash == holder.TokenHash {
			holder.Since = o.Holder.Since
		}
	}
	c.observe(func(o *Observation) {
		*o = Observation{Reason: reason, Message: message, Holder: holder, Fence: max(o.Fence, holder.Fence), History: orBefore(info.History, o.History)}
	})
}
