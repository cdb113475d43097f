package redislock

import (
	"context"
	"time"
)

// A watcher is woken by whatever is published about a lock, and takes no place among
// those who wait for it: each is woken, and no wake-up is lost to a waiter.
type watcher struct {
	hub     *wakes
	channel string
	wake    chan struct{}
}

// watch begins before the first look, and the confirmation of its subscription wakes
// it, so nothing falls between a look and the wait after it.
func (h *wakes) watch(key string) *watcher {
	w := &watcher{hub: h, channel: wakeChannel(key), wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queue(w.channel)
	if q.watchers == nil {
		q.watchers = map[*watcher]struct{}{}
	}
	q.watchers[w] = struct{}{}
	return w
}

func (w *watcher) leave() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	delete(w.hub.queues[w.channel].watchers, w)
	w.hub.dropIfEmpty(w.channel)
}

// pushed says whether what is published is known to reach this watcher.
func (w *watcher) pushed() bool {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	return w.hub.queues[w.channel].confirmed
}

// wait returns when something was published or the pause is over, and says whether to
// look again: not once ctx is done.
func (w *watcher) wait(ctx context.Context, pause time.Duration) bool {
	timer, stop := w.hub.c.clock.timer(pause)
	defer stop()
	select {
	case <-ctx.Done():
		return false
	case <-w.hub.c.life.Done(): // the next look says so
	case <-w.wake:
	case <-timer:
	}
	return true
}
