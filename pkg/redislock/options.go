package redislock

import (
	"context"
	"fmt"
	"time"
)

// Defaults of a lock.
const (
	DefaultLease         = 10 * time.Second
	DefaultRetryAttempts = 3
	DefaultRetryDelay    = 100 * time.Millisecond
	// DefaultFenceRetention is how long Redis remembers the highest fencing token of
	// a lock that nobody acquires any more.
	DefaultFenceRetention = 24 * time.Hour
)

// minLease is the smallest lease: Redis counts expiry in milliseconds, and the
// drift that is kept back must leave something to hold.
const minLease = 5 * time.Millisecond

// longestSpan bounds every duration, far from where sums of them overflow.
const longestSpan = 366 * 24 * time.Hour

// maxHistory bounds what WithHistory keeps.
const maxHistory = 1000

// Option configures a Client.
type Option func(*Client)

// WithIdentity names this client in the tokens of its locks, for others to see
// who holds. Without it the identity is the host name.
func WithIdentity(identity string) Option {
	return func(c *Client) { c.identity = identity }
}

// Observer is told what this package does, for metrics and tracing. Its functions may
// be nil, and cost nothing then. They must be safe for concurrent use and not block:
// they are called from the goroutines that acquire, release and renew.
//
// The contexts are those of the calls. A span is made when it is over: it ends now,
// and began as long ago as it took. AcquireAll counts as one call for each key.
type Observer struct {
	// Acquired is told of each call that acquires, when it is over, unless its
	// arguments were invalid: how long it took with all its tries and waiting, and
	// what came of it, as the caller sees it: nil, a *HeldError, a *QuarantineError, or
	// why Redis was not heard. Errors that are ErrNotAcquired are refusals.
	Acquired func(ctx context.Context, key string, took time.Duration, err error)
	// Released is told of each Release that gave back a lock which was held until
	// then, how long it was held, and what came of it.
	Released func(ctx context.Context, key string, held time.Duration, err error)
	// Lost is told of each loss, how long the lock was held, and why it was lost: a
	// *LostError. It is called in a goroutine of its own, with the values of the
	// context with which the lock was acquired.
	Lost func(ctx context.Context, key string, held time.Duration, err error)
	// Renewed is told of each renewal by the client itself, how long it took and what
	// came of it: nil; a *LostError where another value stands at the key; ErrReleased
	// where the lock was given back meanwhile; or why Redis was not heard.
	Renewed func(key string, took time.Duration, err error)
}

// WithObserver has an observer told of what this client does.
func WithObserver(o Observer) Option {
	return func(c *Client) { c.observer = o }
}

// withClock replaces the clock; tests only.
func withClock(clk clock) Option {
	return func(c *Client) { c.clock = clk }
}

// withJitter replaces the randomness of WithBackoff; tests only.
func withJitter(jitter func(time.Duration) time.Duration) Option {
	return func(c *Client) { c.jitter = jitter }
}

// LockOption configures one call that acquires or adopts a lock.
type LockOption func(*lockConfig)

type lockConfig struct {
	identity       string
	lease          time.Duration
	lockDelay      time.Duration
	minHold        time.Duration
	maxHold        time.Duration
	renewEvery     time.Duration
	renew          bool
	fenced         bool
	seen           uint64
	fenceRetention time.Duration
	history        int
	quarantine     time.Duration
	attempts       int
	delay          time.Duration
	backoff        bool
	longestDelay   time.Duration // of a backoff
	wait           bool
	fair           bool
	share          *share // nil: the lock is the whole of its key
	onRefusal      func(error)
	metadata       string
	refusal        error
}

// WithLease sets for how long a grant is valid unless it is renewed. Default 10 s.
func WithLease(d time.Duration) LockOption {
	return func(c *lockConfig) { c.lease = d }
}

// WithRenewEvery sets the time between two renewals, at most half of the lease.
// Default a third of the lease. Each is moved by up to 10 % at random, so that
// many locks do not renew in step.
func WithRenewEvery(d time.Duration) LockOption {
	return func(c *lockConfig) { c.renewEvery = d; c.renew = true }
}

// WithoutRenewal leaves it to the caller to prolong the lease, with Lock.Extend.
func WithoutRenewal() LockOption {
	return func(c *lockConfig) { c.renew = false; c.renewEvery = 0 }
}

// WithLockDelay keeps the key taken for d longer than the lease is valid. It gives
// a holder that lost its lease that much time to notice and stop, and a replica
// that much time to catch up. A clean release does not wait for it.
func WithLockDelay(d time.Duration) LockOption {
	return func(c *lockConfig) { c.lockDelay = d }
}

// WithMinHold keeps the lock taken for at least d after it was acquired, even if
// it is released or its holder dies sooner: a job that takes milliseconds then
// runs once though the clocks of its callers differ.
func WithMinHold(d time.Duration) LockOption {
	return func(c *lockConfig) { c.minHold = d }
}

// WithMaxHold bounds how long one grant can be renewed: a holder that hangs, but
// whose process lives, loses the lock then.
func WithMaxHold(d time.Duration) LockOption {
	return func(c *lockConfig) { c.maxHold = d }
}

// WithoutFence takes the lock by a plain SET NX PX: faster, and Lock.Fence is 0.
// A resource behind it cannot tell a stale holder, and a loss of data in Redis
// goes unnoticed. It has no history and no metadata.
func WithoutFence() LockOption {
	return func(c *lockConfig) { c.fenced = false }
}

// WithSeen tells the highest fencing token that the caller knows of from a memory
// of its own, such as a status that outlives the process. The client remembers
// what it sees by itself while it lives.
func WithSeen(fence uint64) LockOption {
	return func(c *lockConfig) { c.seen = fence }
}

// WithFenceRetention sets for how long after the last grant Redis remembers the
// highest fencing token and the history. Tokens rise beyond it all the same, for
// the server's time is their floor; but a caller that remembers one for longer
// takes the forgotten counter for lost data, and waits one expiry before it
// acquires. Default 24 h.
func WithFenceRetention(d time.Duration) LockOption {
	return func(c *lockConfig) { c.fenceRetention = d }
}

// WithHistory keeps the last n grants of a fenced lock for Inspect to return.
// Default none.
func WithHistory(n int) LockOption {
	return func(c *lockConfig) { c.history = n }
}

// WithQuarantine makes the quarantine after Redis lost data (QuarantineError) last
// at least d. Without it, it lasts the expiry that the lock would get, which is too
// short where others hold it for longer: see Lock.Cover.
func WithQuarantine(d time.Duration) LockOption {
	return func(c *lockConfig) { c.quarantine = d }
}

// WithRetry sets how often Acquire tries and how long it sleeps between two tries.
// Default 3 and 100 ms. See WithBackoff for a delay that grows.
func WithRetry(attempts int, delay time.Duration) LockOption {
	return func(c *lockConfig) { c.attempts, c.delay, c.wait = attempts, delay, false }
}

// WithBackoff doubles the delay of WithRetry after each try until it is longest, and
// sleeps for a random time between half of it and all of it, so that callers who
// were refused together do not come back together ("equal jitter": Marc Brooker,
// "Exponential Backoff And Jitter", AWS, 2015). WithWait has no use for it and
// refuses it.
func WithBackoff(longest time.Duration) LockOption {
	return func(c *lockConfig) { c.longestDelay = longest; c.backoff = true }
}

// WithWait makes Acquire wait until the lock is free or the context is done. A
// release wakes the longest waiter of each process; a lock that is not released
// is tried again when it expires, and a store that does not answer with a delay.
func WithWait() LockOption {
	return func(c *lockConfig) { c.wait = true }
}

// WithFair has the lock acquired in order of arrival, by the server's clock, among all
// callers that use this option on its key. A call that waits (WithWait) takes a place
// in the queue "{key}:queue" when it is first refused, and asks again now and then to
// keep it: about every half of a lease, or of 10 s where the lease is longer, but not
// more often than every half second. The place of a caller that died lapses after
// twice that; nobody waits for the dead any longer. A call that does not wait takes no
// place, but is refused while others wait (HeldError.Ahead).
//
// Who does not use it, and a lock of another library, does not see the queue: it gets
// the lock if it asks in the moment between a release and the next in the queue, who
// then keeps his place.
func WithFair() LockOption {
	return func(c *lockConfig) { c.fair = true }
}

// OnRefusal has f told of every try that did not acquire, with a *HeldError, a
// *QuarantineError or the error that prevented asking. It is called from the
// goroutine that acquires and must not block.
func OnRefusal(f func(error)) LockOption {
	return func(c *lockConfig) { c.onRefusal = f }
}

// LockIdentity replaces the client's identity in the token of one lock.
func LockIdentity(identity string) LockOption {
	return func(c *lockConfig) { c.identity = identity }
}

func (c *Client) configure(key string, opts []LockOption) (*lockConfig, error) {
	cfg := &lockConfig{
		identity:       c.identity,
		lease:          DefaultLease,
		renew:          true,
		fenced:         true,
		fenceRetention: DefaultFenceRetention,
		attempts:       DefaultRetryAttempts,
		delay:          DefaultRetryDelay,
	}
	for _, opt := range opts {
		opt(cfg)
	}
	if err := ValidateKey(key); err != nil {
		return nil, err
	}
	if cfg.renew && cfg.renewEvery == 0 {
		cfg.renewEvery = cfg.lease / 3
	}
	return cfg, cfg.validate()
}

func (cfg *lockConfig) validate() error {
	wrong := func(what string, value any, why string) error {
		return invalid(what, fmt.Sprint(value), why)
	}
	switch {
	case cfg.lease < minLease || cfg.lease > longestSpan:
		return wrong("lease", cfg.lease, fmt.Sprintf("is not between %s and %s", minLease, longestSpan))
	case cfg.renew && (cfg.renewEvery <= 0 || cfg.renewEvery > cfg.lease/2):
		return wrong("renewEvery", cfg.renewEvery, fmt.Sprintf("is not between 0 and half of the lease, %s", cfg.lease/2))
	case cfg.lockDelay < 0 || cfg.lockDelay > longestSpan:
		return wrong("lockDelay", cfg.lockDelay, fmt.Sprintf("is not between 0 and %s", longestSpan))
	case cfg.minHold < 0 || cfg.minHold > longestSpan:
		return wrong("minHold", cfg.minHold, fmt.Sprintf("is not between 0 and %s", longestSpan))
	case cfg.maxHold < 0:
		return wrong("maxHold", cfg.maxHold, "is negative")
	case cfg.maxHold > 0 && cfg.maxHold < max(cfg.lease, cfg.minHold):
		return wrong("maxHold", cfg.maxHold, "is shorter than the lease or the minimum hold")
	case cfg.fenceRetention < cfg.expiry():
		return wrong("fenceRetention", cfg.fenceRetention, fmt.Sprintf("is shorter than the lock's expiry, %s", cfg.expiry()))
	case cfg.history < 0 || cfg.history > maxHistory:
		return wrong("history", cfg.history, fmt.Sprintf("is not between 0 and %d", maxHistory))
	case cfg.history > 0 && !cfg.fenced:
		return wrong("history", cfg.history, "needs a fence")
	case cfg.fair && !cfg.fenced:
		return wrong("order of arrival", cfg.fair, "needs a fence")
	case len(cfg.metadata) > MaxMetadata:
		return invalid("metadata", cfg.metadata[:32]+"…", fmt.Sprintf("is %d bytes long; the limit is %d", len(cfg.metadata), MaxMetadata))
	case cfg.metadata != "" && !cfg.fenced:
		return wrong("metadata", cfg.metadata, "needs a fence")
	case cfg.quarantine < 0 || cfg.quarantine > longestSpan:
		return wrong("quarantine", cfg.quarantine, fmt.Sprintf("is not between 0 and %s", longestSpan))
	case cfg.attempts < 1:
		return wrong("retry attempts", cfg.attempts, "is less than 1")
	case cfg.delay < 0 || cfg.delay > longestSpan:
		return wrong("retry delay", cfg.delay, fmt.Sprintf("is not between 0 and %s", longestSpan))
	case cfg.backoff && cfg.wait:
		return wrong("backoff", cfg.longestDelay, "is for retries; leave it or WithWait out")
	case cfg.backoff && cfg.delay == 0:
		return wrong("retry delay", cfg.delay, "cannot grow")
	case cfg.backoff && (cfg.longestDelay < cfg.delay || cfg.longestDelay > longestSpan):
		return wrong("backoff", cfg.longestDelay, fmt.Sprintf("is not between the retry delay, %s, and %s", cfg.delay, longestSpan))
	}
	if err := cfg.share.validate(cfg); err != nil {
		return err
	}
	return validateIdentity(cfg.identity)
}

// expiry is what K gets when it is granted.
func (cfg *lockConfig) expiry() time.Duration {
	return max(cfg.lease+cfg.lockDelay, cfg.minHold)
}

// operationTimeout bounds one command about a lock, so that a node that is stuck
// is noticed while there is still validity to act in. For so long an acquire that
// is stuck counts, and Close waits for what cleans up after it.
func (cfg *lockConfig) operationTimeout() time.Duration {
	if cfg.renew {
		return min(cfg.renewEvery/2, operationTimeout)
	}
	return min(cfg.lease/4, operationTimeout)
}
