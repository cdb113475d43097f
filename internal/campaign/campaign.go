// Package campaign competes for one lock on behalf of a RedisLock and holds it,
// beside the controller that shows the outcome in the object's status.
//
// A campaign outlives reconciles and knows nothing of the API server: Redis alone
// decides who holds, and a lease is kept though the API server is slow or away.
package campaign

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	// HistoryLength is how many grants are kept with a lock.
	HistoryLength = 10
	// fenceRetention is how long Redis remembers a lock's fencing counter after its
	// last grant. Renewal does not touch the counter, and a lock may be held for
	// months; a forgotten counter would look like lost data.
	fenceRetention = 366 * 24 * time.Hour
	// retryPause follows an attempt that cannot succeed before something else has
	// changed.
	retryPause = 2 * time.Second
	// watchPause is between two looks at a lock for which a cluster does not compete.
	watchPause = 10 * time.Second
)

// Spec is what a campaign competes for, and how.
type Spec struct {
	Client    *redislock.Client
	Key       string
	Identity  Identity
	Lease     time.Duration
	Renew     time.Duration
	LockDelay time.Duration
	// Paused: give the lock back and stay out, but go on watching who has it.
	Paused bool
}

func (s Spec) options(seen uint64) []redislock.LockOption {
	return []redislock.LockOption{
		redislock.LockIdentity(s.Identity.String()),
		redislock.WithLease(s.Lease),
		redislock.WithRenewEvery(s.Renew),
		redislock.WithLockDelay(s.LockDelay),
		redislock.WithSeen(seen),
		redislock.WithHistory(HistoryLength),
		redislock.WithFenceRetention(fenceRetention),
		redislock.WithWait(),
	}
}

// expiry is how long the key outlives the last renewal.
func (s Spec) expiry() time.Duration { return s.Lease + s.LockDelay }

// Campaign competes for one lock until it is stopped.
type Campaign struct {
	log logr.Logger
	// leader asks the API server, live, whether this process is still the manager's
	// leader there.
	leader func(context.Context) (bool, error)
	notify func()

	mu      sync.Mutex
	spec    Spec
	changed chan struct{} // closed and replaced when the spec changes
	seen    Observation
	lock    *redislock.Lock

	stop  context.CancelFunc
	ended chan struct{}

	// What follows belongs to run alone.

	// looked: the lock has been looked at, and inherited is the token of this cluster
	// that stood there then, if there was one.
	looked    bool
	inherited string
	// left: the last grant was given up by this process itself, so what stands there
	// under its nonce is its own.
	left bool
}

func start(spec Spec, fence uint64, leader func(context.Context) (bool, error), notify func(), log logr.Logger) *Campaign {
	ctx, stop := context.WithCancel(context.Background())
	c := &Campaign{
		log: log, leader: leader, notify: notify, spec: spec,
		changed: make(chan struct{}), stop: stop, ended: make(chan struct{}),
		seen: Observation{Fence: fence},
	}
	go c.run(ctx)
	return c
}

// Observe returns what the campaign knows at the moment.
func (c *Campaign) Observe() Observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// update has the campaign go on with another spec; one that holds the lock keeps
// it, with the new lease.
func (c *Campaign) update(spec Spec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if spec == c.spec {
		return
	}
	c.spec = spec
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Campaign) current() (Spec, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spec, c.changed
}

// observe changes what is known and tells of it.
func (c *Campaign) observe(change func(*Observation)) {
	c.mu.Lock()
	before := c.seen
	change(&c.seen)
	c.seen.Known = true
	after := c.seen
	c.mu.Unlock()
	if !before.Known || before.Reason != after.Reason {
		c.log.Info("Lock", "reason", after.Reason, "held", after.Held, "fence", after.Fence, "message", after.Message)
	}
	c.notify()
}

// release ends the campaign and gives the lock back.
func (c *Campaign) release(ctx context.Context) error {
	c.stop()
	<-c.ended
	if c.lock == nil {
		return nil
	}
	if err := c.lock.Release(ctx); err != nil && !errors.Is(err, redislock.ErrLost) {
		return err
	}
	return nil
}

// leave ends the campaign and marks the lease as left behind, for the next process
// of this cluster to go on with at once.
func (c *Campaign) leave(ctx context.Context) error {
	c.stop()
	<-c.ended
	if c.lock == nil {
		return nil
	}
	if _, err := c.lock.Detach(ctx); err != nil && !errors.Is(err, redislock.ErrLost) {
		return err
	}
	return nil
}

// run competes, holds, and begins again. When it ends c.lock is what it then held.
func (c *Campaign) run(ctx context.Context) {
	defer close(c.ended)
	for ctx.Err() == nil {
		spec, changed := c.current()
		if spec.Paused {
			c.watch(ctx, spec, changed)
			continue
		}
		lock, err := c.obtain(ctx, spec, changed)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, errSpecChanged) {
				pause(ctx, changed, retryPause)
			}
			continue
		}
		c.looked, c.inherited = true, ""
		c.left = c.hold(ctx, spec, changed, lock)
	}
}

// inherits says whether a lease is ours to go on with: one that stood there when
// this process began, or that it left behind itself. One of our identity that turns
// up later is a twin's.
func (c *Campaign) inherits(info redislock.Info, spec Spec) bool {
	holder := newHolder(info.Value, spec.Identity)
	switch {
	case info.Status == redislock.Free || !holder.Ours:
		return false
	case !c.looked || info.Value == c.inherited:
		return true
	}
	return c.left && holder.nonce == spec.Client.Nonce()
}

var errSpecChanged = errors.New("the spec has changed")

// obtain gets the lock: by going on with a lease of this cluster, else by waiting
// for its turn.
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
	if lock == nil && err == nil {
		options := append(spec.options(c.Observe().Fence), redislock.OnRefusal(func(refusal error) { c.refused(ctx, spec, refusal) }))
		lock, err = spec.Client.Acquire(ctx, spec.Key, options...)
		if err == nil {
			c.acquired(ctx, spec, lock, time.Time{})
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
		c.acquired(ctx, spec, lock, quiet)
		return lock, nil
	}
}

// hold keeps the lock until it is lost, the spec changes or the campaign ends. It
// returns whether this process gave the grant up itself.
func (c *Campaign) hold(ctx context.Context, spec Spec, changed <-chan struct{}, lock *redislock.Lock) bool {
	select {
	case <-ctx.Done():
		c.lock = lock
		return false
	case <-lock.Context().Done():
		c.lost(ctx, spec, lock)
		return false
	case <-changed:
	}
	next, _ := c.current()
	if next.Paused {
		c.give(ctx, spec, lock)
		return true
	}
	// The lease goes on under the new spec: it is left behind and adopted at once,
	// by the same process. If that fails the next round finds and adopts it.
	if _, err := lock.Detach(ctx); err != nil {
		c.log.Error(err, "Leaving the lease for a new spec")
	}
	return true
}

func (c *Campaign) give(ctx context.Context, spec Spec, lock *redislock.Lock) {
	if err := lock.Release(ctx); err != nil && !errors.Is(err, redislock.ErrLost) {
		c.log.Error(err, "Releasing the lock; it goes on in the background, and lapses at the latest", "within", spec.expiry())
	}
}

// acquired takes in a grant: a new one, or one gone on with.
func (c *Campaign) acquired(ctx context.Context, spec Spec, lock *redislock.Lock, quiet time.Time) {
	// The history only tells the time of the grant and who held before; a Redis that
	// just granted and now hangs must not keep that from being shown.
	info, err := spec.Client.Inspect(ctx, spec.Key)
	if err != nil {
		c.log.V(1).Info("Reading the history", "error", err.Error())
	}
	c.observe(func(o *Observation) {
		at, ok := grantedAt(info.History, lock.Fence())
		if !ok {
			at = time.Now()
		}
		*o = Observation{
			Held: true, Reason: v1alpha1.ReasonHeldHere,
			Message:    fmt.Sprintf("this cluster holds the lock with fencing token %d", lock.Fence()),
			Fence:      max(o.Fence, lock.Fence()),
			AcquiredAt: at, QuietUntil: quiet, History: orBefore(info.History, o.History),
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
	if t, ok := redislock.ParseToken(loss.Found); ok && t.Nonce != spec.Client.Nonce() && newHolder(loss.Found, spec.Identity).Ours {
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
			o.Holder = newHolder(loss.Found, spec.Identity)
			o.Holder.Since = time.Now()
		}
	})
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
	return v1alpha1.ReasonHeldElsewhere, fmt.Sprintf("lost: the lock was taken away; %s stands at its key", newHolder(loss.Found, spec.Identity))
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
			quarantine.Stored, quarantine.Seen, spec.expiry()))
	case isHeld && held.Free():
		c.free(v1alpha1.ReasonCompeting, "the lock is free, but its key is kept taken for a while: it was released by force")
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
	holder := newHolder(held.Value, spec.Identity)
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
			holder = newHolder(info.Value, spec.Identity)
			if at, ok := grantedAt(info.History, holder.Fence); ok {
				holder.Since = at
			}
		}
		o := c.Observe()
		if !o.Known || o.Reason != v1alpha1.ReasonPaused || err == nil && tokenHash(o.Holder) != tokenHash(holder) {
			c.observe(func(o *Observation) {
				*o = Observation{
					Reason: v1alpha1.ReasonPaused, Message: message, Holder: holder,
					Fence: max(o.Fence, fenceOf(holder)), History: orBefore(info.History, o.History),
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
	if !info.Stopped && info.Nonce != spec.Client.Nonce() {
		return false
	}
	lock, err := spec.Client.Adopt(ctx, spec.Key, info.Value, spec.options(0)...)
	if errors.Is(err, redislock.ErrMismatch) {
		return true // it moved in between: look again
	}
	if err != nil {
		c.log.Error(err, "Giving back the lease that was left behind")
		return false
	}
	c.give(ctx, spec, lock)
	return true
}

func fenceOf(h *Holder) uint64 {
	if h == nil {
		return 0
	}
	return h.Fence
}

func tokenHash(h *Holder) string {
	if h == nil {
		return ""
	}
	return h.TokenHash
}

func orBefore(history, before []redislock.Grant) []redislock.Grant {
	if history == nil {
		return before
	}
	return history
}

// pause sleeps; it answers false if it was ended early.
func pause(ctx context.Context, changed <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changed:
		return false
	case <-timer.C:
		return true
	}
}

// Clear gives back what this cluster still holds of a lock for which no campaign
// runs, be it from an earlier process.
func Clear(ctx context.Context, spec Spec) error {
	for {
		info, err := spec.Client.Inspect(ctx, spec.Key)
		if err != nil {
			return err
		}
		if info.Status == redislock.Free || !newHolder(info.Value, spec.Identity).Ours {
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
