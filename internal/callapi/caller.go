package callapi

import (
	"context"
	"errors"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// MaxPayload bounds the body of a call, in bytes.
const MaxPayload = redislock.MaxPayload

// Errors of a Caller; whatever else it returns is answered as an internal error, with the
// text in the log only.
var (
	// ErrNotFound: there is no such Debounce.
	ErrNotFound = errors.New("no such Debounce")
	// ErrInvalid: the call, or the Debounce as it is written, cannot be worked with. The
	// whole error is told to the caller.
	ErrInvalid = errors.New("invalid")
	// ErrUnreachable: the store did not answer; the call may have been recorded or not.
	ErrUnreachable = errors.New("the store cannot be reached")
)

// A Call is one of a Debounce, by a user who may.
type Call struct {
	Namespace, Name string
	Payload         []byte
	// Source and Sequence are the caller's own identity of the call, empty and 0 where
	// it gave none. Source begins with the user's name, so that nobody can use up the
	// sequences of others; it has at most 512 bytes.
	Source   string
	Sequence uint64
}

// Result is what became of a call.
type Result struct {
	// Generation is that of the run which this call will be part of.
	Generation uint64
	// Opened: the call opened a window.
	Opened bool
	// Repeated: the call was recorded before, and does not count again.
	Repeated bool
}

// A Caller records calls. It returns when the context ends.
type Caller interface {
	Call(ctx context.Context, call Call) (Result, error)
}
