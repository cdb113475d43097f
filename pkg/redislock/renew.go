package redislock

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// renewBatch bounds a pipeline, so that one reply is not kept waiting for
	// thousands of others.
	renewBatch = 100
	// renewsInFlight bounds the pipelines that are under way at once.
	renewsInFlight = 8
	// watchInterval is how often the clocks are compared while locks are held: a
	// timer does not fire while a machine sleeps, and does not know the wall clock.
	watchInterval = time.Second
	// clockJump is how far the clocks may part between two looks before all leases
	// are looked at.
	clockJump = time.Millisecond
)

// renewers has a renewer for each node of a Cluster, so that a node which is stuck
// delays the locks of no other: a pipeline takes as long as its slowest node. A
// lock stays with its renewer when its slot moves.
type renewers struct {
	c *Client

	mu     sync.Mutex
	byNode map[string]*renewer // by address; "" where there are no nodes to tell apart
	closed bool
}

func (rs *renewers) of(ctx context.Context, key string) *renewer {
	node := ""
	if cluster, ok := rs.c.rdb.(*redis.ClusterClient); ok {
		if primary, err := cluster.MasterForKey(ctx, key); err == nil {
			node = primary.Options().Addr
		}
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.byNode[node]
	if r == nil {
		r = newRenewer(rs.c)
		r.closed = rs.closed
		rs.byNode[node] = r
	}
	return r
}

func (rs *renewers) close() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.closed = true
	for _, r := range rs.byNode {
		r.close()
	}
}

// renewer prolongs the leases of all locks on a node and ends those that were
// not prolonged: one queue by due time and one goroutine for all of them, which
// never itself waits for Redis, so that a lease ends on time though Redis hangs.
type renewer struct {
	c    *Client
	kick chan struct{}
	done chan struct{}

	mu       sync.Mutex
	queue    lockQueue
	inFlight int
	wakeAt   time.Time // when the goroutine looks next; zero: only when kicked
	running  bool
	closed   bool
}

func newRenewer(c *Client) *renewer {
	return &renewer{c: c, kick: make(chan struct{}, 1), done: make(chan struct{})}
}

// add begins to look after a lock. It answers false after close.
func (r *renewer) add(l *Lock) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	now := r.c.clock.now()
	if !r.running {
		r.running = true
		go r.loop(now)
	}
	l.mu.Lock()
	l.next = l.dueAt(now)
	l.mu.Unlock()
	heap.Push(&r.queue, l)
	if r.wakeAt.IsZero() || l.next.Before(r.wakeAt) {
		notify(r.kick)
	}
	return true
}

func (r *renewer) remove(l *Lock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.position >= 0 && l.position < len(r.queue) && r.queue[l.position] == l {
		heap.Remove(&r.queue, l.position)
	}
}

func (r *renewer) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	close(r.done)
	for _, l := range r.queue {
		l.mu.Lock()
		l.finish(ErrClosed)
		l.mu.Unlock()
	}
	r.queue = nil
}

// loop runs from the first lock to the end of the client; last is when the clocks
// were looked at last.
func (r *renewer) loop(last instant) {
	idle := false
	for {
		now := r.c.clock.now()
		due, sleep := r.collect(now, last)
		last = now
		for len(due) > 0 {
			n := min(len(due), renewBatch)
			go r.send(due[:n:n])
			due = due[n:]
		}

		// With nothing to look after, one more turn is slept through before the
		// goroutine waits to be kicked: a program that takes and gives back one lock
		// after the other would kick it each time.
		var timer <-chan time.Time
		stop := func() {}
		if sleep > 0 || !idle {
			idle = sleep <= 0
			if idle {
				sleep = watchInterval
			}
			timer, stop = r.c.clock.timer(sleep)
			r.sleepUntil(now.t.Add(sleep))
		} else {
			r.sleepUntil(time.Time{})
		}
		select {
		case <-timer:
		case <-r.kick:
			stop()
		case <-r.done:
			stop()
			return
		}
	}
}

// sleepUntil says when the goroutine looks next, and kicks it if something came in
// that is due sooner.
func (r *renewer) sleepUntil(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakeAt = at
	if len(r.queue) > 0 && (at.IsZero() || r.queue[0].next.Before(at)) && r.inFlight < renewsInFlight {
		notify(r.kick)
	}
}

// collect ends the leases that are over and takes out those to be renewed now. It
// returns how long there is nothing more to do; 0 where nothing is held.
func (r *renewer) collect(now, last instant) (due []*Lock, sleep time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.since(last)-now.t.Sub(last.t) > clockJump {
		for _, l := range r.queue {
			l.next = now.t
		}
		heap.Init(&r.queue)
	}
	room := (renewsInFlight - r.inFlight) * renewBatch
	for len(r.queue) > 0 && !r.queue[0].next.After(now.t) {
		l := r.queue[0]
		l.mu.Lock()
		over := l.expire(now)
		if !over && l.wantsRenewal(now.t) {
			if len(due) == room {
				// Nothing may be sent before another pipeline has come back; until then
				// only the ends of leases matter.
				l.renewAt = now.t.Add(time.Millisecond)
			} else {
				l.sending = true
				due = append(due, l)
			}
		}
		l.next = l.dueAt(now)
		l.mu.Unlock()
		if over {
			heap.Pop(&r.queue)
			continue
		}
		heap.Fix(&r.queue, 0)
	}
	r.inFlight += (len(due) + renewBatch - 1) / renewBatch
	if len(r.queue) == 0 {
		return due, 0
	}
	return due, min(r.queue[0].next.Sub(now.t), watchInterval)
}

// dueAt is when a lock needs attention next, by the monotonic clock. The caller
// holds mu.
func (l *Lock) dueAt(now instant) time.Time {
	end := now.t.Add(l.valid.remaining(now))
	if l.sending || l.renewAt.IsZero() || l.renewAt.After(end) {
		return end
	}
	return l.renewAt
}

func (l *Lock) wantsRenewal(now time.Time) bool {
	return !l.sending && !l.renewAt.IsZero() && !l.renewAt.After(now)
}

// A renewal is one lock's share of a pipeline.
type renewal struct {
	lock *Lock
	span time.Duration
	cmd  *redis.Cmd
	told atomic.Bool // the observer knows how it went
}

// send renews a batch. A node that hangs is given up on after the shortest timeout
// in it; what it says later still counts, for validity runs from the sending.
func (r *renewer) send(locks []*Lock) {
	sent := r.c.clock.now()
	batch := make([]renewal, 0, len(locks))
	timeout := locks[0].cfg.operationTimeout()
	for _, l := range locks {
		batch = append(batch, renewal{lock: l, span: min(l.cfg.lease, l.maxRemaining(sent))})
		timeout = min(timeout, l.cfg.operationTimeout())
	}
	var once sync.Once
	ended := func(failure error) {
		once.Do(func() {
			if failure != nil {
				for i := range batch {
					r.observe(&batch[i], sent, failure)
				}
			}
			r.batchEnded(batch, failure)
		})
	}
	giveUp := time.AfterFunc(timeout, func() { ended(&timeoutError{timeout}) })
	defer giveUp.Stop()

	r.exec(batch)
	for i := range batch {
		b := &batch[i]
		answer, err := b.cmd.Slice()
		if err == nil {
			err = b.lock.renewed(sent, b.span, answer) // a loss is told by the lock's context, too
			b.lock.renewalSucceeded(sent, b.span)
		} else {
			b.lock.renewalFailed(r.c.clock.now(), err)
		}
		r.observe(b, sent, err)
	}
	ended(nil)
}

// observe tells the observer how a renewal went, once: one that was given up on and
// is heard of later has been told.
func (r *renewer) observe(b *renewal, sent instant, err error) {
	if renewed := r.c.observer.Renewed; renewed != nil && b.told.CompareAndSwap(false, true) {
		renewed(b.lock.key, r.c.clock.now().t.Sub(sent.t), err)
	}
}

// exec sends the renewals in one pipeline; those that met a server which does not
// know the script are sent again with its source.
func (r *renewer) exec(batch []renewal) {
	ctx := context.Background()
	pipe := r.c.rdb.Pipeline()
	for i := range batch {
		b := &batch[i]
		b.cmd = pipe.EvalSha(ctx, b.lock.cfg.renewScript().digest, []string{b.lock.key}, b.lock.value, milliseconds(b.span+b.lock.cfg.lockDelay))
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	again := r.c.rdb.Pipeline()
	for i := range batch {
		b := &batch[i]
		if redis.HasErrorPrefix(b.cmd.Err(), "NOSCRIPT") {
			b.cmd = again.Eval(ctx, b.lock.cfg.renewScript().source, []string{b.lock.key}, b.lock.value, milliseconds(b.span+b.lock.cfg.lockDelay))
		}
	}
	if again.Len() > 0 {
		_, _ = again.Exec(ctx)
	}
}

// batchEnded frees the place of a pipeline that came back, or was given up on.
func (r *renewer) batchEnded(batch []renewal, failure error) {
	now := r.c.clock.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inFlight--
	for i := range batch {
		l := batch[i].lock
		if failure != nil {
			l.renewalFailed(now, failure)
		}
		l.mu.Lock()
		l.sending = false
		l.next = l.dueAt(now)
		l.mu.Unlock()
		if l.position >= 0 && l.position < len(r.queue) && r.queue[l.position] == l {
			heap.Fix(&r.queue, l.position)
		}
	}
	if len(r.queue) > 0 && (r.wakeAt.IsZero() || r.queue[0].next.Before(r.wakeAt)) {
		notify(r.kick)
	}
}

func (l *Lock) renewalSucceeded(sent instant, span time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.planRenewal(sent, span)
}

// renewalFailed plans the next try: soon, for what is left of the lease is all
// there is.
func (l *Lock) renewalFailed(now instant, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
	l.renewAt = now.t.Add(min(l.cfg.renewEvery/4, time.Second))
}

// lockQueue is a heap by due time.
type lockQueue []*Lock

func (q lockQueue) Len() int           { return len(q) }
func (q lockQueue) Less(i, j int) bool { return q[i].next.Before(q[j].next) }
func (q lockQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].position, q[j].position = i, j
}

func (q *lockQueue) Push(x any) {
	l := x.(*Lock)
	l.position = len(*q)
	*q = append(*q, l)
}

func (q *lockQueue) Pop() any {
	old := *q
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	l.position = -1
	return l
}
