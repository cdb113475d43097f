package redislock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// MaxKeys bounds AcquireAll: its script holds up every other client of the node.
const MaxKeys = 16

// AcquireAll acquires several locks in one step, all or none: it takes one round
// trip, and since nobody ever has a part of them while he waits for the rest, no
// order of keys leads to a deadlock. Each is a lock like any other, with a fencing
// token of its own, and excludes whoever acquires its key alone.
//
// It tries or waits as Acquire does; WithRetry(1, 0) has it try once. A refusal
// names the first key that is in the way. Waiting for many keys is not fair: who
// wants one of them alone has it sooner.
//
// In a Redis Cluster the keys must have one hash tag, such as "lock:{order-7}:a"
// and "lock:{order-7}:b". WithoutFence and what is about one lock, WithSeen and
// WithFair, are refused.
func (c *Client) AcquireAll(ctx context.Context, keys []string, opts ...LockOption) (*Locks, error) {
	a, err := c.newJointAttempt(keys, opts)
	if err != nil {
		return nil, err
	}
	ls, err := persist(ctx, c, a.cfg, keys[0], a)
	var told error
	for _, part := range a.parts {
		told = part.end(ctx, err)
	}
	return ls, told
}

// Locks are several locks that were acquired in one step, and that are one: if one
// of them is lost, all are. They are safe for concurrent use.
type Locks struct {
	client *Client
	parts  []*Lock // in the order of the keys

	// giving serialises Release.
	giving sync.Mutex
	ctx    context.Context
	cancel context.CancelCauseFunc

	// mu may be taken while a part's is held, and not the other way round.
	mu    sync.Mutex
	cause error // why they are over; nil while they are not
}

// Keys returns the keys in the order in which they were asked for.
func (ls *Locks) Keys() []string {
	keys := make([]string, len(ls.parts))
	for i, l := range ls.parts {
		keys[i] = l.key
	}
	return keys
}

// Fence returns the fencing token of one key; see Lock.Fence. It is 0 for a key
// that is not among them.
func (ls *Locks) Fence(key string) uint64 {
	if l := ls.part(key); l != nil {
		return l.Fence()
	}
	return 0
}

// Token returns what stands at one key; see Lock.Token. It is empty for a key that
// is not among them.
func (ls *Locks) Token(key string) string {
	if l := ls.part(key); l != nil {
		return l.Token()
	}
	return ""
}

func (ls *Locks) part(key string) *Lock {
	for _, l := range ls.parts {
		if l.key == key {
			return l
		}
	}
	return nil
}

// Context is Lock.Context for all of them: it is cancelled with the *LostError of
// the first that is lost.
func (ls *Locks) Context() context.Context { return ls.ctx }

// Err returns why they are over: the *LostError of the first that was lost,
// ErrReleased or ErrClosed; nil while they are not.
func (ls *Locks) Err() error {
	now := ls.client.clock.now()
	for _, l := range ls.parts {
		_ = l.over(now) // ends ls too
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.cause
}

// IsHeld says whether all the leases are valid by the local clock. It asks nobody.
func (ls *Locks) IsHeld() bool { return ls.Err() == nil }

// ValidUntil returns the time at which the first of the leases ends unless it is
// renewed. After Release or a loss it lies in the past or present.
func (ls *Locks) ValidUntil() time.Time {
	if ls.Err() != nil {
		return ls.client.clock.now().t
	}
	until := ls.parts[0].ValidUntil()
	for _, l := range ls.parts[1:] {
		if t := l.ValidUntil(); t.Before(until) {
			until = t
		}
	}
	return until
}

// Extend is Lock.Extend for all of them, in one round trip. If one is gone all are
// lost.
func (ls *Locks) Extend(ctx context.Context, d time.Duration) error {
	if err := validateExtension(d); err != nil {
		return err
	}
	if err := ls.Err(); err != nil {
		return err
	}
	first, sent := ls.parts[0], ls.client.clock.now()
	if err := first.withinMaximum("extension", d, sent); err != nil {
		return err
	}
	answers, err := wire.Bounded(ctx, first.cfg.operationTimeout(), func(ctx context.Context) ([]renewal, error) {
		batch := make([]renewal, len(ls.parts))
		for i, l := range ls.parts {
			batch[i].lock, batch[i].span = l, d
		}
		first.renewer.exec(batch)
		return batch, nil
	})
	if err != nil {
		return fmt.Errorf("redislock: extend %s: %w", ls, err)
	}
	heard := ls.client.clock.now()
	for i := range answers {
		answer, err := answers[i].answer()
		if err != nil {
			return fmt.Errorf("redislock: extend %q: %w", ls.parts[i].key, err)
		}
		if err := ls.parts[i].renewed(sent, heard, d, answer); err != nil {
			return err
		}
	}
	return nil
}

// Release gives all of them back in one round trip. Otherwise it is Lock.Release;
// if something else stands at one of the keys the others are given back, and the
// error is the *LostError of that one.
func (ls *Locks) Release(ctx context.Context) error {
	ls.giving.Lock()
	defer ls.giving.Unlock()
	sent := ls.client.clock.now()
	for _, l := range ls.parts {
		_ = l.over(sent) // ends ls too
	}
	cause := ls.end(ErrReleased)
	switch {
	case errors.Is(cause, ErrReleased):
		return nil
	case cause != nil:
		return cause
	}
	ls.endParts(ErrReleased)

	first := ls.parts[0]
	rest := first.restOfMinHold(sent)
	args := make([]any, 0, 1+2*len(ls.parts))
	args = append(args, wire.Milliseconds(rest))
	for _, l := range ls.parts {
		args = append(args, l.value, wakeChannel(l.key))
	}
	r, err := ls.client.runPatiently(context.WithoutCancel(ctx), sent, first.cfg.operationTimeout(), releaseAllScript, ls.Keys(), args...)
	for _, l := range ls.parts {
		if l.stray.remaining(sent) > 0 {
			l.client.reclaim(l.key, l.token.attempt(), l.stray, l.cfg)
		}
		if err != nil {
			l.client.goBackground(func() {
				l.client.giveBack(l.cfg, l.key, l.value, "token", rest, validity{sent, l.cfg.expiry()})
			})
		}
	}
	switch i := int(r.number(2)) - 1; {
	case err != nil:
		err = fmt.Errorf("redislock: release %s: %w", ls, err)
	case r.word() == "mismatch" && i >= 0 && i < len(ls.parts):
		err = &LostError{Key: ls.parts[i].key, Token: ls.parts[i].value, Found: r.text(1)}
	case r.word() != "done":
		err = r.unexpected("release", ls.String())
	}
	for _, l := range ls.parts {
		l.released(ctx, sent, err)
	}
	return err
}

// String names the keys.
func (ls *Locks) String() string { return fmt.Sprintf("%q", ls.Keys()) }

// end notes a cause, cancels the context with it, and returns the cause that was
// there before.
func (ls *Locks) end(cause error) error {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	before := ls.cause
	if before == nil {
		ls.cause = cause
		ls.cancel(cause)
	}
	return before
}

// endParts ends every part for a cause. The caller holds the mu of none.
func (ls *Locks) endParts(cause error) {
	ls.mu.Lock()
	parts := ls.parts
	ls.mu.Unlock()
	for _, l := range parts {
		l.mu.Lock()
		l.finish(cause)
		l.mu.Unlock()
		l.renewer.remove(l)
	}
}

// partEnded is told by a part, which holds its mu, why it is over.
func (ls *Locks) partEnded(cause error) {
	if ls.end(cause) == nil {
		go ls.endParts(cause)
	}
}

// A jointAttempt is an attempt at several locks, whose tokens differ in their fence
// alone.
type jointAttempt struct {
	c     *Client
	cfg   *lockConfig
	parts []*attempt
	keys  []string // as the script takes them
}

func (c *Client) newJointAttempt(keys []string, opts []LockOption) (*jointAttempt, error) {
	if len(keys) == 0 || len(keys) > MaxKeys {
		return nil, invalid("keys", fmt.Sprint(len(keys)), fmt.Sprintf("is not between 1 and %d", MaxKeys))
	}
	first, err := c.newAttempt(keys[0], opts)
	if err != nil {
		return nil, err
	}
	switch {
	case !first.cfg.fenced:
		return nil, invalid("keys", fmt.Sprint(len(keys)), "need a fence each; leave WithoutFence out")
	case first.cfg.seen != 0:
		return nil, invalid("seen", fmt.Sprint(first.cfg.seen), "is about one lock, and there are several keys")
	case first.cfg.fair:
		return nil, invalid("order of arrival", "true", "is that of one lock's queue, and there are several keys")
	}
	_, clustered := c.rdb.(*redis.ClusterClient)
	a := &jointAttempt{c: c, cfg: first.cfg, parts: make([]*attempt, 0, len(keys)), keys: make([]string, 0, 4*len(keys))}
	asked := make(map[string]bool, len(keys))
	for _, key := range keys {
		if err := ValidateKey(key); err != nil {
			return nil, err
		}
		if asked[key] {
			return nil, invalid("key", key, "is asked for twice")
		}
		asked[key] = true
		if clustered && hashTag(key) != hashTag(keys[0]) {
			return nil, invalid("key", key, fmt.Sprintf("is not in the hash slot of %q; give the keys one {tag}", keys[0]))
		}
		part := *first
		part.key = key
		a.parts = append(a.parts, &part)
		fence, metadata := grantCompanions(key)
		a.keys = append(a.keys, key, fence, metadata, historyKey(key))
	}
	return a, nil
}

func (a *jointAttempt) join(key string) *waiter { return a.c.wakes.join(key) }

func (a *jointAttempt) pause(_ *waiter, _ error, usual time.Duration) time.Duration { return usual }

// hashTag returns what of a valid key decides its slot in a Cluster.
func hashTag(key string) string {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		tag, _, _ := strings.Cut(rest, "}")
		return tag
	}
	return key
}

// try asks once for all.
func (a *jointAttempt) try(ctx context.Context) (*Locks, error) {
	if a.c.isClosed() {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ls, err := a.ask(ctx)
	if errors.Is(err, errLate) {
		ls, err = a.ask(ctx) // see attempt.try
	}
	return ls, err
}

func (a *jointAttempt) ask(ctx context.Context) (*Locks, error) {
	c, cfg := a.c, a.cfg
	timeout := cfg.operationTimeout()
	sent, notAfter, err := c.notAfter(ctx, timeout)
	if err != nil {
		return nil, a.parts[0].wrap(err)
	}
	args := []any{a.parts[0].prefix, wire.Milliseconds(cfg.expiry()), notAfter,
		wire.Milliseconds(cfg.fenceRetention), cfg.history, cfg.metadata}
	seen := make([]uint64, len(a.parts))
	var quarantine *QuarantineError
	for i, part := range a.parts {
		known, left := c.memory.quarantineRemaining(part.key, sent)
		if left > 0 && (quarantine == nil || left > quarantine.Remaining) {
			quarantine = &QuarantineError{Key: part.key, Seen: known.quarantined, Stored: known.found, Remaining: left}
		}
		seen[i] = known.seen
		args = append(args, known.seen, known.forgiven)
	}
	if quarantine != nil {
		return nil, quarantine
	}
	r, err := c.runPatiently(ctx, sent, timeout, acquireAllScript, a.keys, args...)
	if err != nil {
		return nil, a.unheard(sent, timeout+c.server.uncertainty(), err)
	}
	heard := c.clock.now()
	c.server.learn(sent, heard, r.number(3))
	part, which := a.parts[0], 0
	if i := int(r.number(4)) - 1; i >= 0 && i < len(a.parts) {
		part, which = a.parts[i], i
	}
	switch r.word() {
	case "granted":
		return a.granted(ctx, sent, heard, cfg.lease, r.list(1))
	case "again":
		return a.granted(ctx, sent, heard, min(cfg.lease, r.duration(2)-cfg.lockDelay), r.list(1))
	case "held":
		return nil, part.held(r.text(1), r.duration(2), r.number(3), r.text(5))
	case "late":
		return nil, part.wrap(errLate)
	case "corrupt":
		return nil, part.corrupt(r.text(1), seen[which])
	case "amnesia":
		return nil, a.forgotten(r.list(1), seen)
	}
	return nil, r.unexpected("acquire", part.key)
}

// forgotten begins the quarantine of every lock that Redis forgot, at once: one
// after the other would make each wait for those before it.
func (a *jointAttempt) forgotten(list reply, seen []uint64) error {
	var first *QuarantineError
	span := max(a.cfg.expiry(), a.cfg.quarantine)
	for i := 0; i+1 < len(list); i += 2 {
		which, stored := int(list.number(i))-1, uint64(list.number(i+1))
		if which < 0 || which >= len(a.parts) {
			continue
		}
		key := a.parts[which].key
		a.c.memory.beginQuarantine(key, seen[which], stored, a.c.clock.now(), span)
		if first == nil {
			first = &QuarantineError{Key: key, Seen: seen[which], Stored: stored, Remaining: span}
		}
	}
	if first == nil {
		return list.unexpected("acquire", a.parts[0].key)
	}
	return first
}

func (a *jointAttempt) granted(ctx context.Context, sent, heard instant, span time.Duration, fences reply) (*Locks, error) {
	if len(fences) != len(a.parts) {
		return nil, a.unheard(sent, a.cfg.operationTimeout(), fences.unexpected("acquire", a.parts[0].key))
	}
	ls := &Locks{client: a.c}
	ls.ctx, ls.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	for i, part := range a.parts {
		part.joint = ls
		l, err := part.granted(ctx, sent, heard, span, uint64(fences.number(i)))
		if err != nil {
			_ = ls.end(err)
			ls.endParts(err)
			_ = a.unheard(sent, a.cfg.operationTimeout(), err)
			return nil, err
		}
		ls.mu.Lock()
		ls.parts = append(ls.parts, l)
		ls.mu.Unlock()
	}
	// A part that ended meanwhile did not know those that came after it.
	if err := ls.Err(); err != nil {
		ls.endParts(err)
	}
	return ls, nil
}

// unheard is attempt.unheard for all.
func (a *jointAttempt) unheard(sent instant, void time.Duration, err error) error {
	for _, part := range a.parts {
		_ = part.unheard(sent, void, err)
	}
	return a.parts[0].wrap(err)
}
