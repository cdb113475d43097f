package redislock

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// Bounds of how long a place in a lock's queue counts: long enough that whoever is
// slow to ask again keeps it, short enough that nobody waits long for the dead.
const (
	shortestPlace = time.Second
	longestPlace  = 10 * time.Second
)

func (cfg *lockConfig) placeSpan() time.Duration {
	return min(max(cfg.lease, shortestPlace), longestPlace)
}

// inQueue returns the script that acquires with regard to the lock's queue, and adds
// what it takes beside the keys and arguments that all such scripts take.
func (a *attempt) inQueue(keys []string, args []any) (*script, []string, []any) {
	if s := a.cfg.share; s != nil {
		return enterScript, append(keys, queueKey(a.key), placesKey(a.key)),
			append(args, s.mark, s.limit, wakeChannel(a.key))
	}
	return queuedScript, append(keys, historyKey(a.key), queueKey(a.key), placesKey(a.key)),
		append(args, wire.Milliseconds(a.place), wakeChannel(a.key))
}

// inTheWay reads who is, and with regard to the queue who comes before the caller.
func (a *attempt) inTheWay(r reply) *HeldError {
	if !a.cfg.fair && a.cfg.share == nil {
		return a.held(r.text(1), r.duration(2), r.number(3), r.text(4))
	}
	held := a.held(r.text(1), r.duration(2), r.number(3), r.text(7))
	held.Ahead, held.Kind = int(r.number(4)), kindOf(r.text(6))
	return held
}

// noteTicket notes the attempt's place, where the reply tells of it.
func (a *attempt) noteTicket(r reply) {
	if len(r) > 5 {
		a.ticket = r.number(5)
	}
}

// announced says that whoever is in the way is known to publish when he goes.
func (e *HeldError) announced() bool {
	return e.Kind == KindSemaphore || e.Kind == KindReaders || e.Kind == KindNone && e.Ahead > 0
}

func (a *attempt) join(key string) *waiter {
	if a.place > 0 {
		return a.c.wakes.joinPlaced(key, a.ticket)
	}
	w := a.c.wakes.join(key)
	w.shares = a.cfg.share != nil
	return w
}

// pause tells those who wait where the attempt stands, and shortens its pause so that
// it keeps its place. Who is not first in the queue has no business with the expiry of
// the lock.
func (a *attempt) pause(w *waiter, failure error, usual time.Duration) time.Duration {
	if a.place == 0 {
		return usual
	}
	w.setTicket(a.ticket)
	if !errors.Is(failure, ErrNotAcquired) {
		return usual
	}
	keep := a.place/2 - rand.N(a.place/20)
	if held, ok := errors.AsType[*HeldError](failure); ok && held.Ahead > 0 && held.Kind != KindNone {
		return keep
	}
	return min(usual, keep)
}

// leaveQueue gives the attempt's place to the next, in the background.
func (a *attempt) leaveQueue() {
	until := validity{a.c.clock.now(), a.place}
	a.c.goBackground(func() { a.c.giveBack(a.cfg, a.key, a.prefix, "attempt", 0, until) })
}
