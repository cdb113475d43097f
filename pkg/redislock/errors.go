package redislock

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	// ErrNotAcquired is what every refusal of a lock is: *HeldError and
	// *QuarantineError wrap it.
	ErrNotAcquired = errors.New("lock not acquired")

	// ErrLost is the cause with which a lock's context is cancelled when its lease
	// ended without being released. *LostError wraps it.
	ErrLost = errors.New("lock lost")

	// ErrReleased is the cause with which a lock's context is cancelled when it was
	// released, or left to another process.
	ErrReleased = errors.New("lock released")

	// ErrClosed is returned by a Client after Close.
	ErrClosed = errors.New("redislock: client is closed")

	// ErrCorrupt says that a companion key of the lock holds what this package
	// never writes: no number, or a fencing token more than a year ahead of the
	// server's clock. Handing out a higher one would poison every later holder.
	ErrCorrupt = errors.New("lock's companion key is corrupt")

	// ErrMismatch is returned where a key does not hold the value that the caller
	// named. *MismatchError wraps it.
	ErrMismatch = errors.New("lock's key holds another value")

	// ErrLimit is returned where a semaphore is in use with another number of permits.
	// *LimitError wraps it.
	ErrLimit = errors.New("semaphore has another number of permits")

	// ErrNotClaimed is what every refusal of a run is. *ClaimError wraps it.
	ErrNotClaimed = errors.New("run not claimed")

	// ErrInvalid is wrapped by every error about an argument; it is returned before
	// anything is sent.
	ErrInvalid = errors.New("invalid argument")

	// errLate: the request reached the server after the time at which its sender
	// stops waiting for it.
	errLate = errors.New("request reached the server too late to count")
)

func invalid(what, value, why string) error {
	return fmt.Errorf("redislock: %w: %s %q %s", ErrInvalid, what, value, why)
}

// HeldError says who has the lock.
type HeldError struct {
	Key string
	// Holder is the identity in the holder's token; empty for the lock of another
	// library and for a key that is kept taken though nobody holds it.
	Holder string
	// Fence is the holder's fencing token; 0 where there is none, or one that cannot
	// be true.
	Fence uint64
	// Metadata is what the holder attached to its grant; see WithMetadata.
	Metadata string
	// TTL is how long the key still exists unless it is renewed; negative where it
	// has no expiry. Where all permits of a semaphore are taken, it is that of the one
	// that lapses first.
	TTL time.Duration
	// Value is what stands at the key; empty where it is no string. Treat it as a
	// secret: it is the right to release.
	Value string
	// Kind is what stands at the key. Who tries to get a plain lock, and not WithFair, is
	// told of a KindLock only; otherwise it is empty.
	Kind Kind
	// Ahead is how many wait for the lock in order of arrival (see WithFair and RWLock)
	// and come before the caller. Where the key itself is free, TTL is how long the first
	// of them has to take it, unless he asks again.
	Ahead int
}

func (e *HeldError) Error() string {
	who := "by another library"
	switch {
	case e.Kind == KindNone && e.Ahead > 0:
		return fmt.Sprintf("redislock: %q is free, but %d who came earlier wait for it", e.Key, e.Ahead)
	case e.Kind == KindReaders && e.Ahead > 0:
		return fmt.Sprintf("redislock: %q is held by readers, and %d who came earlier wait for it", e.Key, e.Ahead)
	case e.Kind == KindReaders:
		who = "by readers"
	case e.Kind == KindSemaphore:
		who = "by as many as it has permits"
	case e.Holder != "":
		who = "by " + e.Holder
	case strings.HasPrefix(e.Value, tombstone):
		who = "by nobody until its minimum hold is over"
	case e.Value == "":
		who = "by something that is no plain lock"
	}
	if e.TTL < 0 {
		return fmt.Sprintf("redislock: %q is held %s, without an expiry", e.Key, who)
	}
	return fmt.Sprintf("redislock: %q is held %s for %s more", e.Key, who, e.TTL)
}

func (e *HeldError) Unwrap() error { return ErrNotAcquired }

// Free says that the lock itself is free and that its key is only kept taken: for
// what remains of a minimum hold, or of the expiry of a lock that was released by
// force.
func (e *HeldError) Free() bool { return strings.HasPrefix(e.Value, tombstone) }

// QuarantineError says that Redis has lost writes it had acknowledged (it was
// flushed, restarted without persistence, or replaced by a replica that lagged):
// the caller remembers a higher fencing token than Redis does. A grant that Redis
// no longer knows may still be alive, so nothing is acquired for one full expiry.
type QuarantineError struct {
	Key          string
	Seen, Stored uint64
	// Remaining is how long the quarantine still lasts.
	Remaining time.Duration
}

func (e *QuarantineError) Error() string {
	return fmt.Sprintf("redislock: %q is quarantined for %s more: Redis knows fencing token %d, but %d was granted: it lost acknowledged writes, so an unknown holder may still be alive",
		e.Key, e.Remaining.Round(time.Millisecond), e.Stored, e.Seen)
}

func (e *QuarantineError) Unwrap() error { return ErrNotAcquired }

// LostError says how a lock was lost. It is the cause of its context.
type LostError struct {
	Key   string
	Token string
	// Found is what stood at the key instead of the token; empty where there was
	// nothing, or where Redis could not be asked.
	Found string
	// Err is why Redis could not be asked before the lease ended; nil where it
	// answered that the token is gone.
	Err error
}

func (e *LostError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("redislock: %q was lost: its lease ended without a renewal: %v", e.Key, e.Err)
	case e.Found != "":
		return fmt.Sprintf("redislock: %q was lost: another token stands at its key", e.Key)
	}
	return fmt.Sprintf("redislock: %q was lost: its key is gone", e.Key)
}

// Unwrap makes both ErrLost and the cause visible to errors.Is.
func (e *LostError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrLost}
	}
	return []error{ErrLost, e.Err}
}

// ClaimRefusal says why a run may not be had.
type ClaimRefusal string

// Why Lock.Claim refuses.
const (
	// RunDone: it ran; ClaimError.Record says where and how that ended.
	RunDone ClaimRefusal = "done"
	// RunClaimed: the tick was claimed under an earlier grant and neither finished nor
	// given up; see ClaimError.Record and ClaimRequest.Rerun.
	RunClaimed ClaimRefusal = "claimed"
	// RunTooOld: the tick is older than what is kept of ticks, so nobody knows whether
	// it ran.
	RunTooOld ClaimRefusal = "too old"
	// RunSuperseded: a newer tick of the series was claimed, ClaimError.Newest.
	RunSuperseded ClaimRefusal = "superseded by a newer tick"
	// RunInFuture: the tick is more than a minute ahead of the server's clock.
	RunInFuture ClaimRefusal = "in the future"
	// RunActive: another run is active under this grant, ClaimError.Active.
	RunActive ClaimRefusal = "another run is active"
)

// ClaimError says why a run may not be had under a lock.
type ClaimError struct {
	Key    string
	Run    Run
	Reason ClaimRefusal
	// Record is that of a done or claimed run.
	Record TickRecord
	// Active is the run in the way.
	Active ActiveRun
	// Newest is the tick that superseded this one.
	Newest time.Time
}

func (e *ClaimError) Error() string {
	more := ""
	switch e.Reason {
	case RunDone:
		more = fmt.Sprintf(" by %s (%s) at %s", e.Record.Claimant, e.Record.Outcome, e.Record.At.Format(time.RFC3339))
	case RunClaimed:
		more = fmt.Sprintf(" by %s since %s", e.Record.Claimant, e.Record.At.Format(time.RFC3339))
	case RunSuperseded:
		more = ", " + e.Newest.Format(time.RFC3339)
	case RunActive:
		more = fmt.Sprintf(": %q by %s", e.Active.Run.name(), e.Active.Claimant)
	}
	return fmt.Sprintf("redislock: run %q under %q is refused: %s%s", e.Run.name(), e.Key, e.Reason, more)
}

func (e *ClaimError) Unwrap() error { return ErrNotClaimed }

// MismatchError carries the value found where the caller named another.
type MismatchError struct {
	Key string
	// Found is empty where there was nothing, or no string.
	Found string
}

func (e *MismatchError) Error() string {
	if e.Found == "" {
		return fmt.Sprintf("redislock: nothing stands at %q", e.Key)
	}
	return fmt.Sprintf("redislock: another value stands at %q", e.Key)
}

func (e *MismatchError) Unwrap() error { return ErrMismatch }

// Refused says whether an error is Redis' definite refusal to serve this client:
// wrong or missing credentials, a command or key that its ACL denies. Trying
// again does not help until somebody changes something.
func Refused(err error) bool {
	return redis.IsAuthError(err) || redis.IsPermissionError(err) ||
		redis.HasErrorPrefix(err, "The user executing the script can't") // Redis before 7.2 has no code for it
}

// LimitError says that a semaphore is in use with another number of permits than the
// caller's. It counts once nobody holds one.
type LimitError struct {
	Key string
	// Limit is the number of permits of those who hold one now, Asked the caller's.
	Limit, Asked int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("redislock: semaphore %q is in use with %d permits, not %d", e.Key, e.Limit, e.Asked)
}

// Unwrap makes it both a refusal and an ErrLimit to errors.Is.
func (e *LimitError) Unwrap() []error { return []error{ErrLimit, ErrNotAcquired} }

// KindError says that an operation is for locks that are the whole of their key, and
// not for a permit or a read lock. It is an ErrInvalid.
type KindError struct {
	Operation string
	Key       string
	Kind      Kind
}

func (e *KindError) Error() string {
	return fmt.Sprintf("redislock: cannot %s %q: this is one of several holders (%s)", e.Operation, e.Key, e.Kind)
}

func (e *KindError) Unwrap() error { return ErrInvalid }
