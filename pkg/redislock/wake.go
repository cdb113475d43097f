package redislock

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// wakes wakes waiters when a lock is given back. All waiters of a client share one
// subscription; those of one key queue up, and only the first of them is woken or
// keeps a timer, so that a release costs each process one try however many wait.
//
// Waiters with a place in the lock's queue in Redis stand apart: each keeps a timer,
// for it must ask again to keep its place, and of them a release wakes the one that
// came first.
//
// A waiter joins before it tries again, and the confirmation of its subscription
// wakes it, so a release cannot fall between its try and its wait. The same holds
// after a reconnect, for go-redis then subscribes anew.
type wakes struct {
	c *Client

	mu     sync.Mutex
	queues map[string]*wakeQueue // by channel
	pubsub *redis.PubSub
	kick   chan struct{} // the wanted subscriptions have changed
	closed bool
}

type wakeQueue struct {
	waiters   []*waiter
	placed    []*waiter
	watchers  map[*watcher]struct{}
	confirmed bool
}

func (q *wakeQueue) empty() bool { return len(q.waiters)+len(q.placed)+len(q.watchers) == 0 }

func (q *wakeQueue) wakeWatchers() {
	for w := range q.watchers {
		notify(w.wake)
	}
}

// wakeForemost wakes the first of those who have a place. One whose ticket is not
// known yet may be that.
func (q *wakeQueue) wakeForemost() {
	var foremost *waiter
	for _, w := range q.placed {
		switch {
		case w.ticket == 0:
			notify(w.wake)
		case foremost == nil || w.ticket < foremost.ticket:
			foremost = w
		}
	}
	if foremost != nil {
		notify(foremost.wake)
	}
}

type waiter struct {
	hub     *wakes
	channel string
	// wake asks for a try; promoted says that this waiter is the first now.
	wake, promoted chan struct{}
	// shares: when this waiter gets in, there may be room for the next.
	shares bool
	// placed: it has a place in the lock's queue in Redis, of this ticket; 0 while that
	// is not known.
	placed bool
	ticket int64
}

func newWakes(c *Client) *wakes {
	return &wakes{c: c, queues: map[string]*wakeQueue{}, kick: make(chan struct{}, 1)}
}

func (h *wakes) join(key string) *waiter {
	w := h.newWaiter(key)
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queue(w.channel)
	q.waiters = append(q.waiters, w)
	return w
}

// joinPlaced is join for a waiter that has a place. It may have been its turn before
// it joined, so it looks at once, or when the subscription is confirmed.
func (h *wakes) joinPlaced(key string, ticket int64) *waiter {
	w := h.newWaiter(key)
	w.placed, w.ticket = true, ticket
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queue(w.channel)
	q.placed = append(q.placed, w)
	if q.confirmed {
		notify(w.wake)
	}
	return w
}

func (h *wakes) newWaiter(key string) *waiter {
	return &waiter{hub: h, channel: wakeChannel(key), wake: make(chan struct{}, 1), promoted: make(chan struct{}, 1)}
}

// queue returns that of a channel, and subscribes where it is new. The caller holds
// mu.
func (h *wakes) queue(channel string) *wakeQueue {
	q := h.queues[channel]
	if q == nil {
		q = &wakeQueue{}
		h.queues[channel] = q
		h.start()
		notify(h.kick)
	}
	return q
}

// dropIfEmpty ends the subscription of a queue in which nobody is left. The caller
// holds mu.
func (h *wakes) dropIfEmpty(channel string) {
	if h.queues[channel].empty() {
		delete(h.queues, channel)
		notify(h.kick)
	}
}

// leave takes a waiter out. If it was the first its place goes to the next, and so
// does a wake-up that it did not use to acquire the lock.
func (w *waiter) leave(acquired bool) {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queues[w.channel]
	first := len(q.waiters) > 0 && q.waiters[0] == w
	leaves := func(other *waiter) bool { return other == w }
	q.waiters = slices.DeleteFunc(q.waiters, leaves)
	q.placed = slices.DeleteFunc(q.placed, leaves)
	h.dropIfEmpty(w.channel)
	switch {
	case w.placed && !acquired:
		q.wakeForemost()
	case first && len(q.waiters) > 0:
		notify(q.waiters[0].promoted)
		if !acquired || w.shares {
			notify(q.waiters[0].wake)
		}
	}
}

// setTicket notes what place the waiter has. One that lost its place, and got another,
// may have been woken in the belief that it was the foremost.
func (w *waiter) setTicket(ticket int64) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	lost := w.ticket != 0 && w.ticket != ticket
	w.ticket = ticket
	if lost {
		w.hub.queues[w.channel].wakeForemost()
	}
}

// wait returns when it is time to try again: the waiter was woken, or it is one that
// keeps time and until has come. Its error is ctx's.
func (w *waiter) wait(ctx context.Context, until time.Time) error {
	for {
		var timer <-chan time.Time
		stop := func() {}
		if w.keepsTime() {
			timer, stop = w.hub.c.clock.timer(until.Sub(w.hub.c.clock.now().t))
		}
		select {
		case <-ctx.Done():
			stop()
			return ctx.Err()
		case <-w.hub.c.life.Done():
			stop()
			return ErrClosed
		case <-w.wake:
			stop()
			return nil
		case <-timer:
			return nil
		case <-w.promoted:
			stop()
		}
	}
}

func (w *waiter) keepsTime() bool {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	return w.placed || w.hub.queues[w.channel].waiters[0] == w
}

// pushed says whether releases are known to reach this waiter.
func (w *waiter) pushed() bool {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	return w.hub.queues[w.channel].confirmed
}

// start begins the subscription at the first waiter. The caller holds mu.
func (h *wakes) start() {
	if h.pubsub != nil || h.closed {
		return
	}
	h.pubsub = h.c.rdb.Subscribe(h.c.life)
	go h.subscribe()
}

// subscribe brings the subscriptions in line with the queues. It alone changes
// them, for a SUBSCRIBE can block on a dead network and must not do so under mu.
func (h *wakes) subscribe() {
	var have map[string]*wakeQueue
	listening := false
	for {
		select {
		case <-h.c.life.Done():
			return
		case <-h.kick:
		}
		h.mu.Lock()
		want := maps.Clone(h.queues)
		h.mu.Unlock()
		var add, drop []string
		for channel, q := range want {
			// A queue that took the place of another subscribes again: it may have
			// missed a message, and only a confirmation of its own tells it to look.
			if have[channel] != q {
				add = append(add, channel)
			}
		}
		for channel := range have {
			if want[channel] == nil {
				drop = append(drop, channel)
			}
		}
		have = want
		// An error of these is seen by listen, whose next Receive connects anew and
		// subscribes to all that was asked for.
		if len(drop) > 0 {
			_ = h.pubsub.Unsubscribe(h.c.life, drop...)
		}
		if len(add) > 0 {
			_ = h.pubsub.Subscribe(h.c.life, add...)
		}
		if !listening && len(add) > 0 {
			listening = true
			go h.listen()
		}
	}
}

func (h *wakes) listen() {
	const firstPause, lastPause = 50 * time.Millisecond, time.Second
	pause := firstPause
	for {
		message, err := h.pubsub.Receive(h.c.life)
		if h.c.life.Err() != nil {
			return
		}
		if err != nil {
			h.unconfirm()
			select {
			case <-h.c.life.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		switch m := message.(type) {
		case *redis.Subscription:
			if m.Kind == "subscribe" {
				h.wakeFirst(m.Channel, true)
			}
		case *redis.Message:
			h.wakeFirst(m.Channel, false)
		}
	}
}

func (h *wakes) wakeFirst(channel string, confirmed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queues[channel]
	if q == nil {
		return
	}
	q.confirmed = q.confirmed || confirmed
	if len(q.waiters) > 0 {
		notify(q.waiters[0].wake)
	}
	q.wakeWatchers()
	if !confirmed {
		q.wakeForemost()
		return
	}
	for _, w := range q.placed {
		notify(w.wake)
	}
}

func (h *wakes) unconfirm() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, q := range h.queues {
		q.confirmed = false
		q.wakeWatchers() // they look whether Redis is there
	}
}

func (h *wakes) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.pubsub != nil {
		_ = h.pubsub.Close()
	}
}

// notify leaves a signal for whoever reads c next.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
