package redislock

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// ErrSteppedDown is the cause with which a term's context is cancelled by
// Elector.StepDown.
var ErrSteppedDown = errors.New("stepped down")

// electionHistory is how many terms an election remembers, unless WithHistory says
// otherwise. Since when its leader leads is one of them.
const electionHistory = 10

// An Elector elects one leader among all who campaign for the same key, in any number
// of processes and clusters, and tells who leads. It is safe for concurrent use.
type Elector struct {
	c    *Client
	key  string
	opts []LockOption

	mu      sync.Mutex
	current *Term
}

// Elector returns an elector for a key. It sends nothing yet, and whoever only watches
// need never campaign. The options are those of the lock that the leader holds:
// LockIdentity names the candidate, WithLease bounds how long a leader that died is
// in the way. An election always waits, and always renews.
func (c *Client) Elector(key string, opts ...LockOption) (*Elector, error) {
	opts = append([]LockOption{WithHistory(electionHistory)}, opts...)
	opts = append(opts, WithWait())
	cfg, err := c.configure(key, opts)
	switch {
	case err != nil:
		return nil, err
	case !cfg.renew:
		return nil, invalid("renewal", "off", "would end each term after one lease; leave WithoutRenewal out")
	case !cfg.fenced:
		return nil, invalid("fence", "off", "would make a term that cannot be told from another; leave WithoutFence out")
	}
	return &Elector{c: c, key: key, opts: opts}, nil
}

// A Term is the time from an election to its end, under one grant of the lock. Its
// fencing token is Lock.Fence.
type Term struct {
	*Lock
	ctx    context.Context
	cancel context.CancelCauseFunc
	rest   time.Duration // see StepDown; guarded by the elector's mu
}

// Context ends with the term: with a *LostError, which is ErrLost, as its cause when
// the lease is lost, whether or not Redis answers; with ErrSteppedDown after
// Elector.StepDown; and when the campaign's own context ends.
func (t *Term) Context() context.Context { return t.ctx }

// Terms campaigns until ctx ends, and yields each term that it wins.
//
//	for term, err := range elector.Terms(ctx) {
//		if err != nil {
//			return err
//		}
//		lead(term.Context(), term.Fence())
//	}
//
// The body of the loop is the term: it leads until term.Context ends, and returns.
// Whatever ended it, this candidate campaigns again only after that, so a body which
// does not heed its context keeps its own successor in this process from beginning,
// though not those elsewhere: see Lock.Fence. A body that ends early, by continue, break or
// panic, gives the leadership back.
//
// The error of Redis that did not answer is none here: it is waited for, and OnRefusal
// hears of it. An error is yielded only where trying again cannot help (wrong
// credentials, a corrupt counter, a closed Client), with no term and as the last.
func (e *Elector) Terms(ctx context.Context) iter.Seq2[*Term, error] {
	return func(yield func(*Term, error) bool) {
		for {
			lock, err := e.c.Acquire(ctx, e.key, e.opts...)
			switch {
			case ctx.Err() != nil:
				if err == nil {
					_ = lock.Release(ctx) // in the background where it fails
				}
				return
			case err != nil:
				yield(nil, err)
				return
			}
			again, rest := e.serve(ctx, lock, yield)
			if !again || !e.sleep(ctx, rest) {
				return
			}
		}
	}
}

// serve has the loop's body lead, and says whether it wants to go on, and after what
// rest.
func (e *Elector) serve(ctx context.Context, lock *Lock, yield func(*Term, error) bool) (again bool, rest time.Duration) {
	term := &Term{Lock: lock}
	term.ctx, term.cancel = context.WithCancelCause(ctx)
	held := lock.Context()
	stop := context.AfterFunc(held, func() { term.cancel(context.Cause(held)) })
	e.mu.Lock()
	e.current = term
	e.mu.Unlock()
	defer func() {
		stop()
		term.cancel(nil)
		e.mu.Lock()
		if e.current == term {
			e.current = nil
		}
		rest = term.rest
		e.mu.Unlock()
		// A lost one is left alone, and one that Redis did not hear of is tried again in
		// the background; the campaign goes on in either case.
		_ = lock.Release(ctx)
	}()
	e.announce()
	return yield(term, nil), 0
}

// announce has those who watch look. Where an ACL denies the channel they see by
// themselves, somewhat later.
func (e *Elector) announce() {
	e.c.goBackground(func() {
		_, _ = wire.Bounded(e.c.life, operationTimeout, func(ctx context.Context) (int64, error) {
			return e.c.rdb.Publish(ctx, wakeChannel(e.key), "").Result()
		})
	})
}

func (e *Elector) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer, stop := e.c.clock.timer(d)
	defer stop()
	select {
	case <-timer:
		return true
	case <-e.c.life.Done():
		return true // Acquire says why not
	case <-ctx.Done():
		return false
	}
}

// StepDown ends the term of this elector, if it has one, and says whether it had: its
// context ends, and once the body of the loop has returned the leadership is given
// back. The elector campaigns again after rest, in which others can win.
func (e *Elector) StepDown(rest time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current == nil {
		return false
	}
	e.current.rest = rest
	e.current.cancel(ErrSteppedDown)
	return true
}

// IsLeader says whether this elector leads, by the local clock. It asks nobody.
func (e *Elector) IsLeader() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current != nil && e.current.IsHeld() && e.current.ctx.Err() == nil
}

// Leader is who leads.
type Leader struct {
	// Held: somebody does. Where it is false the rest is empty.
	Held bool
	// Name is the leader's identity; empty where a lock of another library is in the
	// way.
	Name string
	// Fence is the fencing token of its term.
	Fence uint64
	// Since is the server's time of its election; zero where that is not remembered.
	Since time.Time
}

// Leader asks who leads.
func (e *Elector) Leader(ctx context.Context) (Leader, error) {
	info, err := e.c.Inspect(ctx, e.key)
	if err != nil {
		return Leader{}, err
	}
	return leaderOf(info), nil
}

func leaderOf(info Info) Leader {
	l := Leader{Held: info.Status == Acquired, Name: info.Holder, Fence: info.Fence}
	for _, grant := range info.History {
		if l.Fence != 0 && grant.Fence == l.Fence {
			l.Since = grant.At
		}
	}
	return l
}

// Leaders watches until ctx ends: it yields who leads, and again whenever that has
// changed. An error says that Redis cannot be asked; it is yielded once, and the
// loop goes on with who leads when Redis answers again. That the client is closed is
// the last.
//
// A leader that an Elector or a manager of package leaderelection elected, and any that
// left, is told at once, through the subscription that the waiters of a client share. A
// leader that died is noticed when its key expires. So what a watcher sends while
// nothing changes is one request each time that the key would have expired, as seen by
// the one before, but at least one every ten seconds; and one a second while the
// subscription is down.
func (e *Elector) Leaders(ctx context.Context) iter.Seq2[Leader, error] {
	return func(yield func(Leader, error) bool) {
		w := e.c.wakes.watch(e.key)
		defer w.leave()
		var last Leader
		known, backoff := false, firstBackoff
		failing := false
		for {
			info, err := e.c.look(ctx, e.key)
			if err == nil && (!known || !last.same(leaderOf(info))) {
				// Since when is asked only of a leader that is new.
				info.History, err = e.c.history(ctx, e.key)
			}
			if ctx.Err() != nil {
				return
			}
			var pause time.Duration
			switch {
			case errors.Is(err, ErrClosed):
				yield(Leader{}, err)
				return
			case err != nil:
				if !failing && !yield(Leader{}, err) {
					return
				}
				failing, known = true, false
				pause, backoff = backoff, min(2*backoff, longestBackoff)
			default:
				if leader := leaderOf(info); !known || !last.same(leader) {
					if !yield(leader, nil) {
						return
					}
					last = leader
				}
				failing, known, backoff = false, true, firstBackoff
				pause = pauseOfWatcher(info, w.pushed())
			}
			if !w.wait(ctx, pause) {
				return
			}
		}
	}
}

// same says whether two looks saw one term; Since is not looked at each time.
func (l Leader) same(other Leader) bool {
	return l.Held == other.Held && l.Name == other.Name && l.Fence == other.Fence
}

// pauseOfWatcher is how long a watcher that nobody wakes waits for its next look.
func pauseOfWatcher(info Info, pushed bool) time.Duration {
	if info.Status == Acquired || info.Kept {
		return pauseAfter(&HeldError{Holder: info.Holder, TTL: info.TTL, Value: info.Value}, pushed)
	}
	if !pushed {
		return longestBlind
	}
	return longestWait - rand.N(longestWait/10)
}
