package redislock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// DefaultRunRetention is the age beyond which Claim refuses a tick.
const DefaultRunRetention = 48 * time.Hour

// tryAgainPause is slept when a Cluster says that it is moving a lock's keys.
const tryAgainPause = 50 * time.Millisecond

// ClaimRequest asks for one run.
type ClaimRequest struct {
	Run
	// Claimant is who is to run it, such as "<cluster uid>/<job uid>". Who claims
	// again under the same grant gets the same fencing token. Everybody who can read
	// Redis sees it.
	Claimant string
	// Rerun: a tick that was claimed under an earlier grant and never finished may be
	// claimed again, for its runner was lost.
	Rerun bool
	// Shared: several runs may be active under this grant at once, because the lock is
	// leadership. Otherwise one.
	Shared bool
	// Cover keeps the lock's key taken for at least so long from now, as Lock.Cover
	// does. 0 leaves it.
	Cover time.Duration
	// Retention is the age beyond which a tick is refused, because nobody remembers
	// whether it ran. Default DefaultRunRetention. Whoever shares a lock must agree.
	Retention time.Duration
}

func (r ClaimRequest) validate() error {
	if err := r.Run.validate(); err != nil {
		return err
	}
	if err := validateName("claimant", r.Claimant); err != nil {
		return err
	}
	switch {
	case r.Cover < 0 || r.Cover > longestSpan:
		return invalid("cover", r.Cover.String(), fmt.Sprintf("is not between 0 and %s", longestSpan))
	case r.Retention < 0 || r.Retention > longestSpan:
		return invalid("retention", r.Retention.String(), fmt.Sprintf("is not between 0 and %s", longestSpan))
	}
	return nil
}

// ClaimKind says how a run was had.
type ClaimKind string

// The kinds of claims.
const (
	// ClaimNew: nobody has it, or whoever had it gave it up.
	ClaimNew ClaimKind = "new"
	// ClaimAgain: the same claimant has it under this grant already.
	ClaimAgain ClaimKind = "again"
	// ClaimSuperseding: another claim of it was never finished. Whoever made that must
	// not act any more; its fencing token is lower, and FinishRun refuses it.
	ClaimSuperseding ClaimKind = "superseding"
)

// Claim is the right to do one run.
type Claim struct {
	// Fence is a fencing token of the run's own, higher than that of the grant and of
	// every run before: the guarded resource tells a straggler of one run from the
	// next run under the same grant.
	Fence uint64
	Kind  ClaimKind
}

// Claim takes a run under the lock. A refusal is an ErrNotClaimed: a *ClaimError
// that says why. A lock that is gone is a *LostError, as when it is renewed.
//
// Where no answer came the call may be repeated: it then finds its own claim.
// Where the lease ended while the answer was under way the error is the loss, and
// the Claim that was recorded all the same comes with it, for ReopenRun.
//
// The records live as long as the lock's fence retention, the run retention and the
// cover, whichever is longest, from the last claim; a run that takes longer and that
// nobody claims again meanwhile is forgotten.
func (l *Lock) Claim(ctx context.Context, req ClaimRequest) (Claim, error) {
	if err := req.validate(); err != nil {
		return Claim{}, err
	}
	if err := l.whole("claim a run under"); err != nil {
		return Claim{}, err
	}
	if !l.cfg.fenced || l.token.fence == 0 {
		return Claim{}, invalid("lock", l.key, "has no fence, so nothing names its grant")
	}
	if req.Retention == 0 {
		req.Retention = DefaultRunRetention
	}
	claim, err := l.claim(ctx, req)
	if errors.Is(err, errLate) {
		// The reply told the server's time: see attempt.try.
		claim, err = l.claim(ctx, req)
	}
	return claim, err
}

func (l *Lock) claim(ctx context.Context, req ClaimRequest) (Claim, error) {
	c, timeout := l.client, l.cfg.operationTimeout()
	sent := c.clock.now()
	if err := l.over(sent); err != nil {
		return Claim{}, err
	}
	if err := l.withinMaximum("cover", req.Cover-l.cfg.lockDelay, sent); req.Cover > 0 && err != nil {
		return Claim{}, err
	}
	notAfter := c.server.micros(sent)
	if notAfter > 0 {
		notAfter += timeout.Microseconds()
	}
	// A record must outlive the time in which its tick may be claimed, which begins a
	// minute ahead of it.
	expiry := max(l.cfg.fenceRetention, req.Retention+2*time.Minute, req.Cover)
	r, err := c.runPatiently(ctx, sent, timeout, claimScript, []string{l.key, fenceKey(l.key), runsKey(l.key)},
		l.value, req.Run.name(), req.Claimant, wordIf(req.Rerun, "rerun"), wordIf(req.Shared, "shared"),
		wire.Milliseconds(req.Cover), req.Retention.Microseconds(), wire.Milliseconds(expiry),
		wire.Milliseconds(l.cfg.fenceRetention), notAfter, c.memory.recall(l.key).seen)
	if err != nil {
		return Claim{}, fmt.Errorf("redislock: claim %q under %q: %w", req.Run.name(), l.key, err)
	}
	c.server.learn(sent, c.clock.now(), r.number(3))
	switch kind := ClaimKind(r.word()); kind {
	case ClaimNew, ClaimAgain, ClaimSuperseding:
		if r.number(1) <= 0 {
			return Claim{}, r.unexpected("claim", l.key) // a claim without a fence is none
		}
		claim := Claim{Fence: uint64(r.number(1)), Kind: kind}
		c.memory.saw(l.key, claim.Fence)
		return claim, l.over(c.clock.now())
	}
	return Claim{}, l.notClaimed(req.Run, r)
}

func (l *Lock) notClaimed(run Run, r reply) error {
	refusal := &ClaimError{Key: l.key, Run: run}
	switch r.word() {
	case "lost":
		return l.mismatched(r.text(1))
	case "late":
		return fmt.Errorf("redislock: claim %q under %q: %w", run.name(), l.key, errLate)
	case "corrupt":
		switch r.text(1) {
		case "runs":
			return corruptRuns(l.key)
		case "seen":
			return fmt.Errorf("redislock: %q: %w: its grant, or a claim under it, has a fencing token more than a year ahead of Redis' clock", l.key, ErrCorrupt)
		}
		return corruptFence(l.key)
	case "done":
		refusal.Reason = RunDone
		refusal.Record, _ = parseRecord(run, r.text(1))
	case "claimed":
		refusal.Reason = RunClaimed
		refusal.Record, _ = parseRecord(run, r.text(1))
	case "tooold":
		refusal.Reason = RunTooOld
	case "superseded":
		refusal.Reason, refusal.Newest = RunSuperseded, time.Unix(r.number(2), 0).UTC()
	case "future":
		refusal.Reason = RunInFuture
	case "active":
		refusal.Reason = RunActive
		refusal.Active, _ = parseActive(fmt.Sprint(r.number(2)), r.text(1))
	default:
		return r.unexpected("claim", l.key)
	}
	return refusal
}

// isMoving: a Cluster moves the slot. Where keys stand on two nodes for a moment it says
// TRYAGAIN; and the client follows only so many redirections at a time.
func isMoving(err error) bool {
	return redis.HasErrorPrefix(err, "TRYAGAIN") || redis.HasErrorPrefix(err, "MOVED") || redis.HasErrorPrefix(err, "ASK")
}

// runPatiently is run for a script of several keys, which waits for a slot that moves. sent
// is the moment of the call, from which timeout counts.
func (c *Client) runPatiently(ctx context.Context, sent instant, timeout time.Duration, s *script, keys []string, args ...any) (reply, error) {
	left := timeout
	var moving error
	for {
		r, err := c.run(ctx, left, s, keys, args...)
		switch {
		case err == nil:
			return r, nil
		case isMoving(err):
			moving = err
		case moving != nil:
			return nil, fmt.Errorf("%w (before: %w)", err, moving)
		default:
			return nil, err
		}
		timer, stop := c.clock.timer(tryAgainPause)
		select {
		case <-timer:
		case <-ctx.Done():
			stop()
			return nil, ctx.Err()
		}
		if left = timeout - c.clock.now().since(sent); left < tryAgainPause {
			return nil, moving
		}
	}
}
