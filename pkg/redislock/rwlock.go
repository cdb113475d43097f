package redislock

import (
	"context"
	"slices"
)

// An RWLock is held by one writer, or by any number of readers. Each hold is a *Lock,
// with a token, a fence and a lease of its own, renewed and lost like any other.
//
// Writers are preferred, and served in the order in which they came: once a writer
// waits (WithWait), no reader is let in before it had its turn. It says that it waits
// by a place in the queue "{key}:queue", as WithFair does; if it dies, its place lapses
// after at most 10 s and the readers go on. A stream of writers that never breaks off
// keeps readers out. A caller that holds the read lock must give it back before it
// waits for the write lock: it would wait for itself.
//
// A write lock is a plain lock, acquired WithFair: it has all that a Lock has, and it
// and other plain locks on the key, also another library's, exclude each other. Readers
// stand at the key itself, so those exclude readers, too. A read lock cannot Claim,
// Cover or Detach: a *KindError.
//
// The fence rises with every grant, be it to a reader or a writer. What a resource
// checks are those of the writers; a reader's is lower than that of any later writer,
// but equal to none, and other readers have higher ones.
type RWLock struct {
	client *Client
	key    string
	opts   []LockOption
}

// RWLock returns the read-write lock of a key. It sends nothing. The options are those
// of each hold; WithoutFence, WithMinHold, WithHistory and WithMetadata are refused.
// A call to Lock may add those that readers cannot have.
func (c *Client) RWLock(key string, opts ...LockOption) (*RWLock, error) {
	rw := &RWLock{client: c, key: key, opts: slices.Clone(opts)}
	if _, err := c.configure(key, rw.reading(nil)); err != nil {
		return nil, err
	}
	return rw, nil
}

// Key returns the lock's key in Redis.
func (rw *RWLock) Key() string { return rw.key }

// TryLock tries once to get the write lock. A refusal is a *HeldError. It takes no
// place in the queue, but stands back for the writers that wait there. Options given
// here and below come after those of the RWLock.
func (rw *RWLock) TryLock(ctx context.Context, opts ...LockOption) (*Lock, error) {
	return rw.client.TryAcquire(ctx, rw.key, rw.writing(opts)...)
}

// Lock tries several times to get the write lock, or waits for it: see Client.Acquire.
// Only a call that waits keeps readers from overtaking it.
func (rw *RWLock) Lock(ctx context.Context, opts ...LockOption) (*Lock, error) {
	return rw.client.Acquire(ctx, rw.key, rw.writing(opts)...)
}

// TryRLock tries once to get a read lock.
func (rw *RWLock) TryRLock(ctx context.Context, opts ...LockOption) (*Lock, error) {
	return rw.client.TryAcquire(ctx, rw.key, rw.reading(opts)...)
}

// RLock tries several times to get a read lock, or waits for one: see Client.Acquire.
func (rw *RWLock) RLock(ctx context.Context, opts ...LockOption) (*Lock, error) {
	return rw.client.Acquire(ctx, rw.key, rw.reading(opts)...)
}

// WithLock runs fn under the write lock: see Client.WithLock.
func (rw *RWLock) WithLock(ctx context.Context, fn func(context.Context, *Lock) error, opts ...LockOption) error {
	return rw.client.WithLock(ctx, rw.key, fn, rw.writing(opts)...)
}

// WithRLock runs fn under a read lock: see Client.WithLock.
func (rw *RWLock) WithRLock(ctx context.Context, fn func(context.Context, *Lock) error, opts ...LockOption) error {
	return rw.client.WithLock(ctx, rw.key, fn, rw.reading(opts)...)
}

func (rw *RWLock) writing(opts []LockOption) []LockOption {
	return append(slices.Concat(rw.opts, opts), WithFair())
}

func (rw *RWLock) reading(opts []LockOption) []LockOption {
	reader := &share{kind: KindReaders, mark: "~readers"}
	return append(slices.Concat(rw.opts, opts), func(c *lockConfig) { c.share = reader })
}
