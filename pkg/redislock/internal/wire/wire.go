// Package wire is what package redislock and its adapters share for talking to Redis.
package wire

import (
	"context"
	"fmt"
	"time"
)

// Bounded returns when call does, or when ctx is done or the timeout over, whichever is
// first: go-redis heeds a context's deadline only where ContextTimeoutEnabled is set,
// and its cancellation not at all while it waits for an answer. A call that is given up
// on ends by itself, unheard.
func Bounded[T any](ctx context.Context, timeout time.Duration, call func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	if err := ctx.Err(); err != nil {
		var none T
		return none, err
	}
	inner, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan outcome, 1)
	go func() {
		value, err := call(inner)
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		if o.err != nil && inner.Err() != nil {
			break
		}
		return o.value, o.err
	case <-inner.Done():
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	return none, &TimeoutError{timeout}
}

// A TimeoutError is not the caller's context that ended, so it must not look like
// context.DeadlineExceeded.
type TimeoutError struct{ After time.Duration }

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("no answer from Redis within %s", e.After)
}

func (e *TimeoutError) Timeout() bool   { return true }
func (e *TimeoutError) Temporary() bool { return true }

// Milliseconds rounds up: an expiry must never be shorter than what was asked for.
func Milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// At is the i-th part of a script's reply, the zero value where there is none of the
// type.
func At[T any](reply []any, i int) T {
	var part T
	if i < len(reply) {
		part, _ = reply[i].(T)
	}
	return part
}
