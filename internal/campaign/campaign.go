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
