package redislock

import (
	"context"
	"errors"
)

// WithRefusal has a refused call return an error with the text of err, such as
// "operation in progress, please try again later". It is err and remains what it
// was: errors.Is finds err and ErrNotAcquired, errors.As a *HeldError. A call that
// was refused until its context ended is one of these, and remains the context's
// error. Other errors are left as they are.
func WithRefusal(err error) LockOption {
	return func(c *lockConfig) { c.refusal = err }
}

// refusal is a refusal in the caller's words.
type refusal struct{ words, err error }

func (r *refusal) Error() string   { return r.words.Error() }
func (r *refusal) Unwrap() []error { return []error{r.words, r.err} }

// inWords puts a refusal in the caller's words, where there are any.
func (cfg *lockConfig) inWords(err error) error {
	if cfg.refusal == nil || !errors.Is(err, ErrNotAcquired) || errors.Is(err, ErrClosed) {
		return err
	}
	return &refusal{cfg.refusal, err}
}

// IfAcquired turns a refusal into a value, for whom "somebody else has it" is no
// error. It takes what any call that acquires returns:
//
//	lock, ok, err := redislock.IfAcquired(client.TryAcquire(ctx, key))
//
// ok says whether the lock was acquired. err is anything but a refusal: that Redis
// could not be asked, that the client is closed, or that ctx ended before the lock
// was free.
func IfAcquired[L *Lock | *Locks](lock L, err error) (L, bool, error) {
	if errors.Is(err, ErrNotAcquired) && !errors.Is(err, ErrClosed) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return nil, false, nil
	}
	return lock, err == nil, err
}
