package redislock

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
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

// inQueue returns the script that acquires with regard to the lock's queue, its keys,
// and the arguments it takes beside those of acquire.
func (a *attempt) inQueue() (*redis.Script, []string, []any) {
	key := a.key
	if s := a.cfg.share; s != nil {
		return enterScript, []string{key, fenceKey(key), queueKey(key), placesKey(key)},
			[]any{s.mark, s.limit, wakeChannel(key)}
	}
	return queuedScript, []string{key, fenceKey(key), historyKey(key), queueKey(key), placesKey(key)},
		[]any{milliseconds(a.place), wakeChannel(key)}
}

// standing adds to a refusal who comes before the caller.
func (a *attempt) standing(r reply, held *HeldError) error {
	if a.cfg.fair || a.cfg.share != nil {
		held.Ahead, held.Kind = int(r.number(4)), kindOf(r.text(6))
	}
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

func (a *attempt) join() *waiter {
	if a.place > 0 {
		return a.c.wakes.joinPlaced(a.key, a.ticket)
	}
	w := a.c.wakes.join(a.key)
	w.shares = a.cfg.share != nil
	return w
}

// pauseInQueue shortens a pause so that the attempt keeps its place. Who is not first
// in the queue has no business with the expiry of the lock.
func (a *attempt) pauseInQueue(refusal error, pause time.Duration) time.Duration {
	if a.place == 0 {
		return pause
	}
	keep := a.place/2 - rand.N(a.place/20)
	if held, ok := errors.AsType[*HeldError](refusal); ok && held.Ahead > 0 && held.Kind != KindNone {
		return keep
	}
	return min(pause, keep)
}

// leaveQueue gives the attempt's place to the next, in the background.
func (a *attempt) leaveQueue() {
	until := validity{a.c.clock.now(), a.place}
	a.c.goBackground(func() { a.c.giveBack(a.cfg, a.key, a.prefix, "attempt", 0, until) })
}
