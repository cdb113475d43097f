package redislock

import (
	"context"
	"fmt"
	"slices"
	"strconv"
)

// MaxPermits bounds how many permits a Semaphore has: each grant reads them all.
const MaxPermits = 1000

// A Semaphore lets at most so many hold its key at once as it has permits. Each permit
// that is held is a *Lock: it has a token and a lease of its own, is renewed and lost
// like any lock, and lapses by itself when its holder dies. Lock.Claim, Cover and Detach
// are refused with a *KindError, and nothing adopts it.
//
// Each grant has a fence that is higher than that of every grant before it. But several
// hold at once, so a resource that refuses lower fences than it has seen would refuse
// those who hold rightly: such a register is for locks with one holder.
//
// The permits stand at the key itself, so a plain lock on it, also another library's,
// and the permits exclude each other. A plain lock that is acquired WithFair and waits
// is not overtaken: while it does, no permit is granted.
//
// The number of permits stands with those that are held. A caller with another number
// gets a *LimitError until all of them are given back.
type Semaphore struct {
	client  *Client
	key     string
	permits int
	opts    []LockOption
}

// Semaphore returns the semaphore of a key. It sends nothing. The options are those of
// each permit; WithoutFence, WithFair, WithMinHold, WithHistory and WithMetadata are
// refused.
func (c *Client) Semaphore(key string, permits int, opts ...LockOption) (*Semaphore, error) {
	if permits < 1 || permits > MaxPermits {
		return nil, invalid("permits", strconv.Itoa(permits), fmt.Sprintf("is not between 1 and %d", MaxPermits))
	}
	s := &Semaphore{client: c, key: key, permits: permits, opts: slices.Clone(opts)}
	_, err := c.configure(key, s.with(nil))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Key returns the semaphore's key in Redis.
func (s *Semaphore) Key() string { return s.key }

// Permits returns how many can be held at once.
func (s *Semaphore) Permits() int { return s.permits }

// TryAcquire tries once to get a permit. That none is free is a *HeldError, whose TTL
// is that of the permit that lapses first. Options given here come after those of the
// semaphore.
func (s *Semaphore) TryAcquire(ctx context.Context, opts ...LockOption) (*Lock, error) {
	return s.client.TryAcquire(ctx, s.key, s.with(opts)...)
}

// Acquire tries several times to get a permit, or waits for one: see Client.Acquire.
func (s *Semaphore) Acquire(ctx context.Context, opts ...LockOption) (*Lock, error) {
	return s.client.Acquire(ctx, s.key, s.with(opts)...)
}

// WithPermit runs fn while it holds a permit: see Client.WithLock.
func (s *Semaphore) WithPermit(ctx context.Context, fn func(context.Context, *Lock) error, opts ...LockOption) error {
	return s.client.WithLock(ctx, s.key, fn, s.with(opts)...)
}

func (s *Semaphore) with(opts []LockOption) []LockOption {
	permit := &share{kind: KindSemaphore, mark: fmt.Sprintf("~permits %d", s.permits), limit: s.permits}
	return append(slices.Concat(s.opts, opts), func(c *lockConfig) { c.share = permit })
}
