package redislock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// Pauses of a waiter that is not woken: a lock of another library is not announced
// when it is released, and neither is any while the subscription is down.
const (
	longestWait     = 10 * time.Second
	longestBlind    = time.Second
	firstBackoff    = 50 * time.Millisecond
	longestBackoff  = 2 * time.Second
	reclaimInterval = 100 * time.Millisecond
)

// TryAcquire tries once. A lock that somebody has is a *HeldError.
func (c *Client) TryAcquire(ctx context.Context, key string, opts ...LockOption) (*Lock, error) {
	a, err := c.newAttempt(key, opts)
	if err != nil {
		return nil, err
	}
	l, err := a.try(ctx)
	return l, a.end(ctx, err)
}

// Acquire tries several times (WithRetry), or waits until the lock is free or ctx
// is done (WithWait). The lock's lease is then renewed until it is released or
// lost; Lock.Context tells of the loss.
//
// Every refusal is an ErrNotAcquired and says why. If ctx ends first the error is
// the context's.
func (c *Client) Acquire(ctx context.Context, key string, opts ...LockOption) (*Lock, error) {
	a, err := c.newAttempt(key, opts)
	if err != nil {
		return nil, err
	}
	l, err := a.persist(ctx)
	return l, a.end(ctx, err)
}

// WithLock runs fn under the lock and releases it, whether fn returns or panics.
// The context it gets ends when ctx does or when the lease is lost; in the latter
// case the *LostError is part of what WithLock returns, even if fn returned nil.
func (c *Client) WithLock(ctx context.Context, key string, fn func(context.Context, *Lock) error, opts ...LockOption) (err error) {
	l, err := c.Acquire(ctx, key, opts...)
	if err != nil {
		return err
	}
	defer func() {
		if release := l.Release(ctx); release != nil {
			err = errors.Join(err, release)
		}
	}()
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	held := l.Context()
	defer context.AfterFunc(held, func() { cancel(context.Cause(held)) })()
	return fn(inner, l)
}

// An attempt is one call that acquires, with all its tries: they share a token, so
// that a try whose answer was lost is recognised by the next as its own.
type attempt struct {
	c      *Client
	key    string
	cfg    *lockConfig
	token  token
	prefix string // of the token
	plain  string // what the token is without a fence
	expiry int64  // ms
	joint  *Locks // what the lock will be a part of; nil where it stands alone

	began time.Time // where there is an observer

	// place is for how long each refused try keeps its place in the lock's queue; 0 where
	// it takes none. ticket is that of the place; 0 while there is none, or none known.
	place  time.Duration
	ticket int64

	// stray is until when a try that was sent, but of which we did not hear, may still
	// be granted; its span is 0 where there is none.
	stray validity
}

func (c *Client) newAttempt(key string, opts []LockOption) (*attempt, error) {
	cfg, err := c.configure(key, opts)
	if err != nil {
		return nil, err
	}
	if c.isClosed() {
		return nil, ErrClosed
	}
	t := c.nextToken(cfg.identity)
	plain := t.String()
	a := &attempt{c: c, key: key, cfg: cfg, token: t, prefix: withoutFence(plain), plain: plain}
	if c.observer.Acquired != nil {
		a.began = c.clock.now().t
	}
	return a, nil
}

// value is what stands at the key once the attempt is granted.
func (a *attempt) value(fence uint64) string {
	if fence == 0 {
		return a.plain
	}
	return a.prefix + strconv.FormatUint(fence, 10)
}

// end cleans up after an attempt that comes back without a lock, and returns what
// its caller is told.
func (a *attempt) end(ctx context.Context, err error) error {
	switch {
	case err == nil:
	case a.stray.span > 0:
		a.c.reclaim(a.key, a.prefix, a.stray, a.cfg)
	case a.ticket > 0:
		a.leaveQueue()
	}
	err = a.cfg.inWords(err)
	if acquired := a.c.observer.Acquired; acquired != nil {
		acquired(ctx, a.key, a.c.clock.now().t.Sub(a.began), err)
	}
	return err
}

func (a *attempt) persist(ctx context.Context) (*Lock, error) {
	if a.cfg.fair && a.cfg.wait {
		a.place = a.cfg.placeSpan()
	}
	return persist(ctx, a.c, a.cfg, a.key, a)
}

// A trier is an attempt at a Lock or at Locks.
type trier[T any] interface {
	try(context.Context) (T, error)
	// join has it stand among those who wait for a key.
	join(key string) *waiter
	// pause is how long it sleeps after a try that failed, if nobody wakes it, instead of
	// the usual.
	pause(w *waiter, failure error, usual time.Duration) time.Duration
}

// persist has a try as often or for as long as cfg says. key is what it waits for
// where the refusal does not name another.
func persist[T any](ctx context.Context, c *Client, cfg *lockConfig, key string, a trier[T]) (T, error) {
	if cfg.wait {
		return await(ctx, c, cfg, key, a)
	}
	var none T
	for n := 1; ; n++ {
		l, err := a.try(ctx)
		if err == nil {
			return l, nil
		}
		cfg.refused(err)
		if n == cfg.attempts || !retryable(err) {
			return none, err
		}
		if ended := ctx.Err(); ended != nil {
			return none, gaveUp(key, ended, err)
		}
		timer, stop := c.clock.timer(cfg.pause(n, c.jitter))
		select {
		case <-timer:
		case <-ctx.Done():
			stop()
			return none, gaveUp(key, ctx.Err(), err)
		}
	}
}

func await[T any](ctx context.Context, c *Client, cfg *lockConfig, key string, a trier[T]) (l T, err error) {
	var none T
	backoff := firstBackoff
	var w *waiter
	defer func() {
		if w != nil {
			w.leave(err == nil)
		}
	}()
	for {
		l, err = a.try(ctx)
		if err == nil {
			return l, nil
		}
		if ended := ctx.Err(); ended != nil {
			return none, gaveUp(key, ended, err)
		}
		cfg.refused(err)
		if !retryable(err) {
			return none, err
		}
		// Of several keys another may be in the way than before.
		if held, ok := errors.AsType[*HeldError](err); ok && held.Key != key {
			key = held.Key
			if w != nil {
				w.leave(false)
				w = nil
			}
		}
		if w == nil {
			w = a.join(key)
		}
		pause := backoff
		if errors.Is(err, ErrNotAcquired) {
			pause, backoff = pauseAfter(err, w.pushed()), firstBackoff
		} else {
			backoff = min(2*backoff, longestBackoff)
		}
		if ended := w.wait(ctx, c.clock.now().t.Add(a.pause(w, err, pause))); ended != nil {
			return none, gaveUp(key, ended, err)
		}
	}
}

func (cfg *lockConfig) refused(err error) {
	if cfg.onRefusal != nil {
		cfg.onRefusal(err)
	}
}

// pauseAfter is how long a waiter that nobody wakes sleeps after a refusal: until
// the key expires, but not so long that a release it did not hear of costs much.
func pauseAfter(refusal error, pushed bool) time.Duration {
	if quarantine, ok := errors.AsType[*QuarantineError](refusal); ok {
		return quarantine.Remaining
	}
	held, ok := errors.AsType[*HeldError](refusal)
	if !ok {
		return longestBlind
	}
	longest := longestWait
	if !pushed || held.Holder == "" && !held.Free() && !held.announced() {
		longest = longestBlind
	}
	// Spread the waiters of many processes, for they all saw the same expiry.
	if held.TTL < 0 || held.TTL > longest {
		return longest - rand.N(longest/10)
	}
	return held.TTL + time.Millisecond + rand.N(4*time.Millisecond)
}

// retryable says whether the same call may succeed later without anybody changing
// its arguments, the client's rights or the data in Redis by hand.
func retryable(err error) bool {
	return !errors.Is(err, ErrClosed) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrLimit) && !Refused(err)
}

// gaveUp is the error of a call that ended while it was waiting: why it ended, and
// what it was waiting for.
func gaveUp(key string, ended, last error) error {
	if errors.Is(last, ended) {
		return last
	}
	return fmt.Errorf("redislock: gave up waiting for %q: %w (last try: %w)", key, ended, last)
}

// try asks once.
func (a *attempt) try(ctx context.Context) (*Lock, error) {
	if a.c.isClosed() {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !a.cfg.fenced {
		return a.tryPlain(ctx)
	}
	l, err := a.tryFenced(ctx)
	if errors.Is(err, errLate) {
		// The request was slow, or the server's clock was set ahead. The reply told
		// its time, so once more is enough to find out.
		l, err = a.tryFenced(ctx)
	}
	return l, err
}

func (a *attempt) tryFenced(ctx context.Context) (*Lock, error) {
	c, cfg := a.c, a.cfg
	timeout := cfg.operationTimeout()
	sent, notAfter, err := c.notAfter(ctx, timeout)
	if err != nil {
		return nil, a.wrap(err)
	}
	known, left := c.memory.quarantineRemaining(a.key, sent)
	if left > 0 {
		return nil, &QuarantineError{Key: a.key, Seen: known.quarantined, Stored: known.found, Remaining: left}
	}
	seen := max(known.seen, cfg.seen)
	fence, metadata := grantCompanions(a.key)
	// Of the most that is appended, so that they stay on the stack.
	keys := append(make([]string, 0, 6), a.key, fence, metadata)
	args := append(make([]any, 0, 11),
		a.prefix, wire.Milliseconds(cfg.expiry()), notAfter,
		seen, known.forgiven, wire.Milliseconds(cfg.fenceRetention))
	script := acquireScript
	switch {
	case cfg.fair || cfg.share != nil:
		script, keys, args = a.inQueue(keys, append(args, cfg.history, cfg.metadata))
	case cfg.history > 0 || cfg.metadata != "":
		keys, args = append(keys, historyKey(a.key)), append(args, cfg.history, cfg.metadata)
	}
	r, err := c.runPatiently(ctx, sent, timeout, script, keys, args...)
	if err != nil {
		return nil, a.unheard(sent, timeout+c.server.uncertainty(), err)
	}
	heard := c.clock.now()
	c.server.learn(sent, heard, r.number(3))
	a.noteTicket(r)
	word := r.word()
	if (word == "granted" || word == "again") && r.number(1) <= 0 {
		word = "" // a grant without a fence is none
	}
	switch word {
	case "granted":
		return a.granted(ctx, sent, heard, cfg.lease, uint64(r.number(1)))
	case "again":
		// Granted to an earlier try whose answer was lost: what is left of the expiry
		// counts, the delay excepted.
		return a.granted(ctx, sent, heard, min(cfg.lease, r.duration(2)-cfg.lockDelay), uint64(r.number(1)))
	case "held":
		return nil, a.inTheWay(r)
	case "limit":
		if cfg.share != nil {
			return nil, &LimitError{Key: a.key, Limit: int(r.number(1)), Asked: cfg.share.limit}
		}
	case "late":
		return nil, a.wrap(errLate)
	case "corrupt":
		return nil, a.corrupt(r.text(1), seen)
	case "amnesia":
		stored := uint64(r.number(1))
		span := max(cfg.expiry(), cfg.quarantine)
		c.memory.beginQuarantine(a.key, seen, stored, heard, span)
		return nil, &QuarantineError{Key: a.key, Seen: seen, Stored: stored, Remaining: span}
	}
	return nil, r.unexpected("acquire", a.key)
}

// tryPlain takes the lock without a fence, by one SET NX PX. Where that finds the
// key taken a second command asks by whom; it may be by this very attempt, whose
// first answer was lost on its way.
func (a *attempt) tryPlain(ctx context.Context) (*Lock, error) {
	c, cfg := a.c, a.cfg
	timeout := cfg.operationTimeout()
	sent := c.clock.now()
	a.expiry = wire.Milliseconds(cfg.expiry())
	set := newCommand(ctx, timeout)
	set.cmd = redis.NewStatusCmd(set, append(set.args[:0], "set", &a.key, &a.plain, "nx", "px", &a.expiry)...)
	switch err := c.line.do(set); {
	case err == nil:
		return a.granted(ctx, sent, c.clock.now(), cfg.lease, 0)
	case !errors.Is(err, redis.Nil):
		return nil, a.unheard(sent, timeout, err)
	}
	asked := c.clock.now()
	r, err := c.run(ctx, timeout, inspectScript, []string{a.key, fenceKey(a.key), metadataKey(a.key)})
	if err != nil {
		return nil, a.unheard(sent, timeout, err)
	}
	if r.text(1) == a.plain {
		return a.granted(ctx, asked, c.clock.now(), min(cfg.lease, r.duration(2)-cfg.lockDelay), 0)
	}
	if r.word() == "none" {
		return nil, &HeldError{Key: a.key} // it was, a moment ago
	}
	return nil, a.held(r.text(1), r.duration(2), r.number(4), r.text(5))
}

// unheard notes that a try was sent which may be granted all the same, until the
// server holds it void. The answer to a later try says nothing about it: it may
// still be on its way.
func (a *attempt) unheard(sent instant, void time.Duration, err error) error {
	if !Refused(err) && !redis.IsOOMError(err) {
		a.stray = validity{sent, void}
	}
	return a.wrap(err)
}

// granted makes the lock, unless the answer took so long that nothing is left.
func (a *attempt) granted(ctx context.Context, sent, heard instant, span time.Duration, fence uint64) (*Lock, error) {
	t := a.token
	t.fence = fence
	value := a.value(fence)
	if plausible(fence, a.c.server.micros(sent)) {
		a.c.memory.saw(a.key, fence)
	}
	l := &Lock{
		client: a.c, key: a.key, cfg: a.cfg, base: ctx, token: t, value: value,
		acquired: sent, valid: validity{sent, validitySpan(span)}, stray: a.stray,
		renewer: a.c.renewers.of(ctx, a.key), joint: a.joint,
	}
	if l.valid.remaining(heard) <= 0 {
		return nil, a.unheard(sent, a.cfg.operationTimeout(), errLate)
	}
	l.planRenewal(sent, span)
	if !l.renewer.add(l, heard) {
		return nil, a.unheard(sent, a.cfg.operationTimeout(), ErrClosed)
	}
	return l, nil
}

func (a *attempt) held(value string, ttl time.Duration, serverMicros int64, metadata string) *HeldError {
	err := &HeldError{Key: a.key, TTL: ttl, Value: value}
	if ttl < 0 {
		err.TTL = -1
	}
	if value != "" {
		err.Kind = KindLock
	}
	fence := a.c.witness(a.key, value, serverMicros)
	if t, ok := parseToken(value); ok {
		err.Holder, err.Fence, err.Metadata = t.identity, fence, metadataOf(metadata, fence)
	}
	return err
}

// witness remembers the fence of a token, or of what is left of one, that was seen
// at a key, and returns it: 0 for none, and for one that cannot be true.
func (c *Client) witness(key, value string, serverMicros int64) uint64 {
	t, ok := parseToken(trimTombstone(value))
	if !ok || !plausible(t.fence, serverMicros) {
		return 0
	}
	c.memory.saw(key, t.fence)
	return t.fence
}

// plausible keeps a forged or corrupt fence in somebody else's token out of our
// memory, as the acquire script would.
func plausible(fence uint64, serverMicros int64) bool {
	const year = 366 * 24 * time.Hour
	return int64(fence) <= serverMicros+year.Microseconds()
}

func (a *attempt) corrupt(which string, seen uint64) error {
	switch which {
	case "seen":
		return fmt.Errorf("redislock: %q: %w: this caller remembers fencing token %d, more than a year ahead of Redis' clock", a.key, ErrCorrupt, seen)
	case "queue":
		return fmt.Errorf("redislock: %q: %w: %q or %q is no sorted set; delete it", a.key, ErrCorrupt, queueKey(a.key), placesKey(a.key))
	case "history":
		return fmt.Errorf("redislock: %q: %w: %q is no stream; delete it", a.key, ErrCorrupt, historyKey(a.key))
	}
	return corruptFence(a.key)
}

func corruptFence(key string) error {
	return fmt.Errorf("redislock: %q: %w: %q holds no number, or one more than a year ahead of Redis' clock; delete it", key, ErrCorrupt, fenceKey(key))
}

func (a *attempt) wrap(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("redislock: acquire %q: %w", a.key, err)
}

// reclaim gives back in the background what a try may have been granted unheard:
// at once, and again when a request that is still under way is void.
func (c *Client) reclaim(key, prefix string, stray validity, cfg *lockConfig) {
	c.goBackground(func() {
		over := validity{stray.from, stray.span + cfg.expiry()}
		c.giveBack(cfg, key, prefix, "attempt", 0, over)
		timer, stop := c.clock.timer(stray.remaining(c.clock.now()))
		select {
		case <-timer:
		case <-c.life.Done():
			stop()
			return
		}
		c.giveBack(cfg, key, prefix, "attempt", 0, over)
	})
}

// giveBack releases until Redis has answered or the key has expired by itself.
func (c *Client) giveBack(cfg *lockConfig, key, value, mode string, rest time.Duration, until validity) {
	for until.remaining(c.clock.now()) > 0 && c.life.Err() == nil {
		if _, err := c.sendRelease(c.life, reclaimInterval*10, cfg, key, &value, mode, rest); err == nil || Refused(err) {
			return
		}
		timer, stop := c.clock.timer(reclaimInterval)
		select {
		case <-timer:
		case <-c.life.Done():
			stop()
		}
	}
}

func (c *Client) sendRelease(ctx context.Context, timeout time.Duration, cfg *lockConfig, key string, value *string, mode any, rest time.Duration) (reply, error) {
	if cfg.fair && mode == "attempt" {
		return c.run(ctx, timeout, abandonScript, []string{key, queueKey(key), placesKey(key)}, value, wakeChannel(key))
	}
	return c.run(ctx, timeout, cfg.releaseScript(), []string{key}, value, wire.Milliseconds(rest), wakeChannel(key), mode)
}
