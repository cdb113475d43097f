// Package campaign competes for one lock on behalf of a RedisLock and holds it,
// beside the controller that shows the outcome in the object's status.
//
// A campaign outlives reconciles and knows nothing of the API server: Redis alone
// decides who holds, and a lease is kept though the API server is slow or away.
package campaign

import (
	"context"
	"errors"
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
	Client   *redislock.Client
	Key      string
	Identity Identity
	Terms
	// Aside is why this cluster does not compete, but only watches who has the lock.
	// A grant that it has, or inherits, it keeps until Yield.
	Aside Aside
}

// Terms are those of a grant.
type Terms struct {
	Lease     time.Duration
	Renew     time.Duration
	LockDelay time.Duration
	MinHold   time.Duration
	MaxHold   time.Duration
	// Quarantine is the least time to wait after Redis has lost its data: as long as
	// what ran under a grant that it forgot may live.
	Quarantine time.Duration
}

// grant says whether a grant that was made on other terms is as these want it.
func (t Terms) grant(other Terms) bool {
	t.Quarantine = other.Quarantine // counts for the next one
	return t == other
}

// Aside is a reason not to compete. Its zero value is none.
type Aside struct {
	Reason  v1alpha1.ConditionReason
	Message string
}

func (s Spec) options(seen uint64) []redislock.LockOption {
	return []redislock.LockOption{
		redislock.LockIdentity(s.Identity.String()),
		redislock.WithLease(s.Lease),
		redislock.WithRenewEvery(s.Renew),
		redislock.WithLockDelay(s.LockDelay),
		redislock.WithMinHold(s.MinHold),
		redislock.WithMaxHold(s.MaxHold),
		redislock.WithQuarantine(s.Quarantine),
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
	grant   *redislock.Lock // held at the moment, as far as is known
	lapsed  *lapsed
	began   time.Time
	heard   bool // of Redis, since it began

	// giving is held while a grant is given back: its context ends before Redis has
	// heard of it, and what still stands there then must not be gone on with.
	giving sync.Mutex

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
		changed: make(chan struct{}), stop: stop, ended: make(chan struct{}), began: time.Now(),
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

// Blind says that Redis has not answered since the campaign began, and when that was:
// a lease that the process before left behind may still stand, to be gone on with.
func (c *Campaign) Blind() (since time.Time, blind bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.began, !c.heard
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

// Grant returns the grant that is held; nil where none is.
func (c *Campaign) Grant() *redislock.Lock {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.grant == nil || !c.grant.IsHeld() {
		return nil
	}
	return c.grant
}

// Yield gives back the grant that is held, if one is. The caller knows that nothing
// runs under it. The campaign goes on: it competes again unless it stands aside. An
// error means that Redis did not confirm; it is told in the background, and the grant
// lapses at the latest.
func (c *Campaign) Yield(ctx context.Context) error {
	c.giving.Lock()
	defer c.giving.Unlock()
	c.mu.Lock()
	grant, aside := c.grant, c.spec.Aside
	c.grant = nil
	c.mu.Unlock()
	if grant == nil {
		return nil
	}
	err := grant.Release(ctx)
	if errors.Is(err, redislock.ErrLost) {
		return nil // run has seen it, or does
	}
	if aside == (Aside{}) {
		aside = Aside{v1alpha1.ReasonReleased, "this cluster gave the lock back, and waits for its next turn"}
	}
	c.observe(func(o *Observation) {
		if o.Held && o.Fence >= grant.Fence() {
			*o = Observation{Reason: aside.Reason, Message: aside.Message, Fence: o.Fence, History: o.History}
		}
	})
	return err
}

// release ends the campaign and gives the lock back.
func (c *Campaign) release(ctx context.Context) error {
	c.stop()
	<-c.ended
	return c.Yield(ctx)
}

// leave ends the campaign and marks the lease as left behind, for the next process
// of this cluster to go on with at once.
func (c *Campaign) leave(ctx context.Context) error {
	c.stop()
	<-c.ended
	grant := c.Grant()
	if grant == nil {
		return nil
	}
	if _, err := grant.Detach(ctx); err != nil && !errors.Is(err, redislock.ErrLost) {
		return err
	}
	return nil
}

// run competes, holds, and begins again.
func (c *Campaign) run(ctx context.Context) {
	defer close(c.ended)
	for ctx.Err() == nil {
		spec, changed := c.current()
		lock, err := c.obtain(ctx, spec, changed)
		switch {
		case err != nil:
			if ctx.Err() == nil && !errors.Is(err, errSpecChanged) {
				pause(ctx, changed, retryPause)
			}
		case lock == nil:
			c.watch(ctx, spec, changed)
		default:
			c.looked, c.inherited = true, ""
			c.left = c.hold(ctx, spec, lock)
		}
	}
}

// hold keeps the lock until it is lost or given back, its terms change or the
// campaign ends. It returns whether this process gave the grant up itself.
func (c *Campaign) hold(ctx context.Context, spec Spec, lock *redislock.Lock) bool {
	for {
		next, changed := c.current()
		if !next.Terms.grant(spec.Terms) || next.Identity != spec.Identity || next.Client != spec.Client {
			// The lease goes on under the new terms: it is left behind and adopted at once,
			// by the same process. If that fails the next round finds and adopts it.
			c.let(nil)
			if _, err := lock.Detach(ctx); err != nil {
				c.log.Error(err, "Leaving the lease for new terms")
			}
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-lock.Context().Done():
			if errors.Is(context.Cause(lock.Context()), redislock.ErrReleased) {
				c.giving.Lock()
				defer c.giving.Unlock()
				return true
			}
			c.let(nil)
			c.lost(ctx, spec, lock)
			return false
		case <-changed:
		}
	}
}

// let notes which grant is held.
func (c *Campaign) let(grant *redislock.Lock) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grant = grant
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
