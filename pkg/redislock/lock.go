package redislock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// Status says whether a lock is held.
type Status string

// The two states of a lock.
const (
	Acquired Status = "ACQUIRED"
	Free     Status = "FREE"
)

// A Lock is one grant of a lock. It is safe for concurrent use.
type Lock struct {
	client   *Client
	key      string
	cfg      *lockConfig
	base     context.Context // of the call that acquired, for its values
	token    token
	value    string // token, as it stands in Redis
	acquired instant
	stray    validity // see attempt
	renewer  *renewer
	joint    *Locks // nil where it was acquired alone

	// giving serialises Release and Detach.
	giving sync.Mutex

	mu      sync.Mutex
	valid   validity
	renewAt time.Time // zero: not by the renewer
	failure error     // of the last renewal
	cause   error     // why the grant is over; nil while it is not
	ctx     context.Context
	cancel  context.CancelCauseFunc

	seats [seats]int // positions in the renewer's queues; its mu guards them
}

// Key returns the lock's key in Redis.
func (l *Lock) Key() string { return l.key }

// Fence returns the fencing token of this grant: higher than that of every grant
// before it. The guarded resource is to refuse anything that comes with a lower
// one than it has seen. 0 where the lock was taken WithoutFence. Where several hold
// at once, as those of a Semaphore do, it names the grant, but refusing lower ones
// would refuse those who hold rightly.
func (l *Lock) Fence() uint64 { return l.token.fence }

// Token returns what stands at the key. It is the right to release the lock and to
// Adopt it: treat it as a secret.
func (l *Lock) Token() string { return l.value }

// ValidUntil returns the time at which the lease ends unless it is renewed. After
// Release or a loss it lies in the past or present.
func (l *Lock) ValidUntil() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.client.clock.now()
	if l.cause != nil {
		return now.t
	}
	return now.t.Add(l.valid.remaining(now))
}

// IsHeld says whether the lease is valid by the local clock. It asks nobody.
func (l *Lock) IsHeld() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause == nil && l.valid.remaining(l.client.clock.now()) > 0
}

// Context returns a context that is cancelled when the grant is over: with a
// *LostError, which is ErrLost, as its cause when the lease ended, whether or not
// Redis answers; with ErrReleased after Release. It has the values of the context
// with which the lock was acquired, but does not end with it.
func (l *Lock) Context() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil {
		l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(l.base))
		if l.cause != nil {
			l.cancel(l.cause)
		}
	}
	return l.ctx
}

// Err returns why the grant is over: a *LostError, ErrReleased or ErrClosed; nil
// while it is not.
func (l *Lock) Err() error { return l.over(l.client.clock.now()) }

// Status asks Redis whether this grant still stands there.
func (l *Lock) Status(ctx context.Context) (Status, error) {
	if l.client.isClosed() {
		return Free, ErrClosed
	}
	if l.cfg.share != nil {
		return l.statusOfShare(ctx)
	}
	r, err := l.client.run(ctx, l.cfg.operationTimeout(), inspectScript, []string{l.key, fenceKey(l.key)})
	if err != nil {
		return Free, fmt.Errorf("redislock: status of %q: %w", l.key, err)
	}
	if !inspected(r) {
		return Free, r.unexpected("status of", l.key)
	}
	if r.text(1) == l.Token() {
		return Acquired, nil
	}
	return Free, nil
}

// Extend makes the lease valid for at least d from now. It never shortens it. A
// lock that is gone is not acquired again: that is a *LostError.
func (l *Lock) Extend(ctx context.Context, d time.Duration) error {
	if err := validateExtension(d); err != nil {
		return err
	}
	sent := l.client.clock.now()
	if err := l.over(sent); err != nil {
		return err
	}
	if err := l.withinMaximum("extension", d, sent); err != nil {
		return err
	}
	r, err := l.client.run(ctx, l.cfg.operationTimeout(), l.cfg.renewScript(), []string{l.key}, l.value, wire.Milliseconds(d+l.cfg.lockDelay))
	if err != nil {
		return fmt.Errorf("redislock: extend %q: %w", l.key, err)
	}
	return l.renewed(sent, l.client.clock.now(), d, r)
}

func validateExtension(d time.Duration) error {
	if d < minLease || d > longestSpan {
		return invalid("extension", d.String(), fmt.Sprintf("is not between %s and %s", minLease, longestSpan))
	}
	return nil
}

// Cover keeps the key taken for at least d from now, though the lease may end
// before: for work under the lock that goes on for a while when its holder is lost.
// It never shortens the expiry, and changes nothing about how long the lease is
// valid. A lock that is gone is not acquired again: that is a *LostError.
func (l *Lock) Cover(ctx context.Context, d time.Duration) error {
	if d <= 0 || d > longestSpan {
		return invalid("cover", d.String(), fmt.Sprintf("is not between 0 and %s", longestSpan))
	}
	if err := l.whole("cover"); err != nil {
		return err
	}
	sent := l.client.clock.now()
	if err := l.over(sent); err != nil {
		return err
	}
	if err := l.withinMaximum("cover", d-l.cfg.lockDelay, sent); err != nil {
		return err
	}
	r, err := l.client.run(ctx, l.cfg.operationTimeout(), renewScript, []string{l.key}, l.value, wire.Milliseconds(d))
	if err != nil {
		return fmt.Errorf("redislock: cover %q: %w", l.key, err)
	}
	switch r.word() {
	case "ok":
		return l.over(l.client.clock.now())
	case "mismatch":
		return l.mismatched(r.text(1))
	}
	return r.unexpected("cover", l.key)
}

// withinMaximum refuses a span that goes past the grant's maximum hold.
func (l *Lock) withinMaximum(what string, d time.Duration, now instant) error {
	if left := l.maxRemaining(now); d > left {
		return invalid(what, d.String(), fmt.Sprintf("goes past the grant's maximum, in %s", left.Round(time.Millisecond)))
	}
	return nil
}

// Release gives the lock back. It is idempotent, and goes ahead though ctx is
// cancelled. Where Redis does not answer in time it returns the error and goes on
// trying in the background; at worst the lease lapses.
//
// A lock that was lost is left alone, for what remains of its expiry is other
// people's safety margin: Release then returns the *LostError.
func (l *Lock) Release(ctx context.Context) error {
	l.giving.Lock()
	defer l.giving.Unlock()
	sent := l.client.clock.now()
	l.mu.Lock()
	l.expire(sent)
	cause := l.cause
	l.finish(ErrReleased)
	l.mu.Unlock()
	switch {
	case errors.Is(cause, ErrReleased):
		return nil
	case cause != nil:
		return cause
	}
	l.renewer.remove(l)

	rest := l.restOfMinHold(sent)
	r, err := l.sendBack(ctx, sent, rest)
	if err != nil {
		l.client.goBackground(func() {
			l.client.giveBack(l.cfg, l.key, l.value, "token", rest, validity{sent, l.cfg.expiry()})
		})
		err = fmt.Errorf("redislock: release %q: %w", l.key, err)
	} else {
		err = l.returned(r)
	}
	l.released(ctx, sent, err)
	return err
}

// returned takes in the reply to a release.
func (l *Lock) returned(r reply) error {
	switch r.word() {
	case "done", "gone":
		return nil
	case "mismatch":
		return &LostError{Key: l.key, Token: l.value, Found: r.text(1)}
	}
	return r.unexpected("release", l.key)
}

// released tells the observer of a release.
func (l *Lock) released(ctx context.Context, sent instant, err error) {
	if released := l.client.observer.Released; released != nil {
		released(ctx, l.key, sent.t.Sub(l.acquired.t), err)
	}
}

// ReleaseStopped gives back a lock that was lost here but whose token may still
// stand at its key, for a caller who can prove that nothing acts under it any more.
// Without such proof what remains of the expiry is other people's safety margin, and
// Release leaves it alone. A key that is gone, or that somebody else has, is left as
// it is, without an error; so is one that was released or detached. Where Redis does
// not answer the call may be repeated.
//
// A lock that is not over is released.
func (l *Lock) ReleaseStopped(ctx context.Context) error {
	if l.Err() == nil {
		if err := l.Release(ctx); !errors.Is(err, ErrLost) {
			return err
		}
	}
	l.giving.Lock()
	defer l.giving.Unlock()
	sent := l.client.clock.now()
	if cause := l.over(sent); errors.Is(cause, ErrReleased) {
		return nil
	}
	if l.client.isClosed() {
		return ErrClosed
	}
	r, err := l.sendBack(ctx, sent, l.restOfMinHold(sent))
	switch {
	case err != nil:
		return fmt.Errorf("redislock: release %q: %w", l.key, err)
	case r.word() == "done", r.word() == "gone", r.word() == "mismatch":
		return nil
	}
	return r.unexpected("release", l.key)
}

func (l *Lock) restOfMinHold(now instant) time.Duration {
	return max(0, l.cfg.minHold-now.t.Sub(l.acquired.t))
}

// sendBack releases the grant, and a try of the same attempt that may still be
// granted unheard.
func (l *Lock) sendBack(ctx context.Context, sent instant, rest time.Duration) (reply, error) {
	r, err := l.client.sendRelease(context.WithoutCancel(ctx), l.cfg.operationTimeout(), l.cfg, l.key, &l.value, "token", rest)
	if l.stray.remaining(sent) > 0 {
		l.client.reclaim(l.key, l.token.attempt(), l.stray, l.cfg)
	}
	return r, err
}

// Detach ends this grant here without giving the lock back, and returns the token
// with which another process can Adopt it. The token says that this process has
// stopped, so whoever adopts it need not fear that two act at once. The lease is
// renewed once more to leave time for that.
func (l *Lock) Detach(ctx context.Context) (string, error) {
	if err := l.whole("detach"); err != nil {
		return "", err
	}
	l.giving.Lock()
	defer l.giving.Unlock()
	sent := l.client.clock.now()
	l.mu.Lock()
	l.expire(sent)
	cause := l.cause
	l.finish(ErrReleased)
	l.mu.Unlock()
	if cause != nil {
		return "", cause
	}
	l.renewer.remove(l)

	stopped := l.token
	stopped.stopped = true
	r, err := l.client.run(context.WithoutCancel(ctx), l.cfg.operationTimeout(), adoptScript,
		[]string{l.key}, l.value, stopped.String(), wire.Milliseconds(min(l.cfg.lease, l.maxRemaining(sent))+l.cfg.lockDelay))
	if err != nil {
		return l.value, fmt.Errorf("redislock: detach %q: %w", l.key, err)
	}
	if r.word() != "ok" {
		return "", &LostError{Key: l.key, Token: l.value, Found: r.text(1)}
	}
	return stopped.String(), nil
}

// maxRemaining is what the grant's maximum leaves.
func (l *Lock) maxRemaining(now instant) time.Duration {
	if l.cfg.maxHold == 0 {
		return 1<<63 - 1
	}
	return l.cfg.maxHold - now.since(l.acquired)
}

// planRenewal sets when the next renewal is due after one that was sent at sent
// and left span. The caller holds mu, or the lock is not shared yet.
func (l *Lock) planRenewal(sent instant, span time.Duration) {
	l.renewAt = time.Time{}
	if !l.cfg.renew || l.maxRemaining(sent) <= span {
		return
	}
	every := min(l.cfg.renewEvery, span/2)
	l.renewAt = sent.t.Add(every - every/10 + rand.N(every/5+1))
}

// renewed takes in the reply to a renewal for span, which was sent at sent and is
// heard now.
func (l *Lock) renewed(sent, now instant, span time.Duration, r reply) error {
	l.mu.Lock()
	if l.cause != nil {
		defer l.mu.Unlock()
		return l.cause
	}
	switch r.word() {
	case "ok":
		defer l.mu.Unlock()
		next := validity{sent, validitySpan(span)}
		if next.remaining(now) > l.valid.remaining(now) {
			l.valid = next
		}
		l.failure = nil
		return nil
	case "mismatch":
		l.mu.Unlock()
		return l.mismatched(r.text(1))
	}
	l.mu.Unlock()
	return r.unexpected("renew", l.key)
}

// mismatched ends the grant because Redis said that something else stands at the
// key, and returns why it is over.
func (l *Lock) mismatched(found string) error {
	l.mu.Lock()
	l.finish(&LostError{Key: l.key, Token: l.value, Found: found})
	cause := l.cause
	l.mu.Unlock()
	l.renewer.remove(l)
	return cause
}

// over returns why the grant is over; nil while it is not.
func (l *Lock) over(now instant) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	return l.cause
}

// expire ends the grant if its validity is over, and says whether it has ended.
// The caller holds mu.
func (l *Lock) expire(now instant) bool {
	if l.cause == nil && l.valid.remaining(now) <= 0 {
		l.finish(&LostError{Key: l.key, Token: l.value, Err: l.lapseReason()})
	}
	return l.cause != nil
}

// Why a lease ended of which no renewal failed: nobody asked for one, or this
// process did not run, or its maximum was reached.
var (
	errNotRenewed = errors.New("it was not renewed in time")
	errMaxHold    = errors.New("it reached its maximum hold")
)

func (l *Lock) lapseReason() error {
	switch {
	case l.failure != nil:
		return l.failure
	case l.cfg.renew && l.renewAt.IsZero():
		return errMaxHold
	}
	return errNotRenewed
}

// finish ends the grant for a cause, once. The caller holds mu.
func (l *Lock) finish(cause error) {
	if l.cause != nil {
		return
	}
	l.cause = cause
	if l.cancel != nil {
		l.cancel(cause)
	}
	if lost := l.client.observer.Lost; lost != nil && errors.Is(cause, ErrLost) {
		go lost(context.WithoutCancel(l.base), l.key, l.client.clock.now().t.Sub(l.acquired.t), cause)
	}
	if l.joint != nil {
		l.joint.partEnded(cause)
	}
}
