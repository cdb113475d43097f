package redislock

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

const (
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
// not prolonged: one goroutine for all of them, which never itself waits for Redis, so
// that a lease ends on time though Redis hangs. It has a queue of the ends and one of
// what is to be renewed, so that renewals for which there is no room yet are not looked
// at over and over.
type renewer struct {
	c    *Client
	kick chan struct{}
	done chan struct{}

	mu       sync.Mutex
	ends     lockQueue // all locks, by the end of their leases
	renewals lockQueue // those that are to be renewed and not under way
	inFlight int
	wakeAt   time.Time // when the goroutine looks next; zero: only when kicked
	running  bool
	closed   bool
}

func newRenewer(c *Client) *renewer {
	return &renewer{
		c: c, kick: make(chan struct{}, 1), done: make(chan struct{}),
		ends: lockQueue{seat: endSeat}, renewals: lockQueue{seat: renewalSeat},
	}
}

// add begins to look after a lock, now. It answers false after close.
func (r *renewer) add(l *Lock, now instant) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	if !r.running {
		r.running = true
		go r.loop(now)
	}
	r.plan(l, now)
	if r.wakeAt.IsZero() || r.next().Before(r.wakeAt) {
		notify(r.kick)
	}
	return true
}

// plan puts a lock where it belongs in both queues. The caller holds mu.
func (r *renewer) plan(l *Lock, now instant) {
	l.mu.Lock()
	end, renewal := now.t.Add(l.valid.remaining(now)), l.renewAt
	l.mu.Unlock()
	r.ends.put(l, end)
	if renewal.IsZero() {
		r.renewals.drop(l)
	} else {
		r.renewals.put(l, renewal)
	}
}

func (r *renewer) remove(l *Lock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends.drop(l)
	r.renewals.drop(l)
}

func (r *renewer) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	close(r.done)
	for _, e := range r.ends.entries {
		e.lock.mu.Lock()
		e.lock.finish(ErrClosed)
		e.lock.mu.Unlock()
	}
	r.ends.entries, r.renewals.entries = nil, nil
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
			n := min(len(due), pipelineLength)
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
	if next := r.next(); !next.IsZero() && (at.IsZero() || next.Before(at)) {
		notify(r.kick)
	}
}

// next is when there is something to do; zero where nothing is held. The caller holds
// mu.
func (r *renewer) next() time.Time {
	next := r.ends.first()
	if r.inFlight < renewsInFlight && r.renewals.Len() > 0 && r.renewals.first().Before(next) {
		next = r.renewals.first()
	}
	return next
}

// collect ends the leases that are over and takes out those to be renewed now. It
// returns how long there is nothing more to do; 0 where nothing is held.
func (r *renewer) collect(now, last instant) (due []*Lock, sleep time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.since(last)-now.t.Sub(last.t) > clockJump {
		r.ends.allAt(now.t)
	}
	for r.ends.Len() > 0 && !r.ends.first().After(now.t) {
		l := r.ends.entries[0].lock
		l.mu.Lock()
		over := l.expire(now)
		end := now.t.Add(l.valid.remaining(now))
		l.mu.Unlock()
		if over {
			r.ends.drop(l)
			r.renewals.drop(l)
		} else {
			r.ends.put(l, end)
		}
	}
	room := (renewsInFlight - r.inFlight) * pipelineLength
	for len(due) < room && r.renewals.Len() > 0 && !r.renewals.first().After(now.t) {
		l := r.renewals.entries[0].lock
		l.mu.Lock()
		at := l.renewAt
		l.mu.Unlock()
		if at.After(now.t) { // it was renewed by an answer that came late
			r.renewals.put(l, at)
			continue
		}
		r.renewals.drop(l)
		if !at.IsZero() {
			due = append(due, l)
		}
	}
	r.inFlight += (len(due) + pipelineLength - 1) / pipelineLength
	next := r.next()
	if next.IsZero() {
		return due, 0
	}
	return due, min(next.Sub(now.t), watchInterval)
}

// A renewal is one lock's share of a pipeline.
type renewal struct {
	lock *Lock
	span time.Duration
	cmd  *redis.Cmd
	told atomic.Bool // the observer knows how it went
}

func (b *renewal) command(ctx context.Context, name any, what *string) *redis.Cmd {
	expiry := wire.Milliseconds(b.span + b.lock.cfg.lockDelay)
	cmd := redis.NewCmd(ctx, name, what, 1, b.lock.key, &b.lock.value, expiry)
	cmd.SetFirstKeyPos(3)
	return cmd
}

func (b *renewal) answer() (reply, error) {
	answer, err := b.cmd.Result()
	if err != nil {
		return nil, err
	}
	return parseReply(answer)
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
				took := r.c.clock.now().t.Sub(sent.t)
				for i := range batch {
					r.observe(&batch[i], took, failure)
				}
			}
			r.batchEnded(batch, failure)
		})
	}
	giveUp := time.AfterFunc(timeout, func() { ended(&wire.TimeoutError{After: timeout}) })
	defer giveUp.Stop()

	r.exec(batch)
	heard := r.c.clock.now()
	for i := range batch {
		b := &batch[i]
		answer, err := b.answer()
		if err == nil {
			err = b.lock.renewed(sent, heard, b.span, answer) // a loss is told by the lock's context, too
			b.lock.renewalSucceeded(sent, b.span)
		} else {
			b.lock.renewalFailed(heard, err)
		}
		r.observe(b, heard.t.Sub(sent.t), err)
	}
	ended(nil)
}

// observe tells the observer how a renewal went, once: one that was given up on and
// is heard of later has been told.
func (r *renewer) observe(b *renewal, took time.Duration, err error) {
	if renewed := r.c.observer.Renewed; renewed != nil && b.told.CompareAndSwap(false, true) {
		renewed(b.lock.key, took, err)
	}
}

// exec sends the renewals in one pipeline; those that met a server which does not
// know the script are sent again with its source.
func (r *renewer) exec(batch []renewal) {
	ctx := context.Background()
	pipe := r.c.rdb.Pipeline()
	for i := range batch {
		b := &batch[i]
		b.cmd = b.command(ctx, evalshaName, &b.lock.cfg.renewScript().digest)
		_ = pipe.Process(ctx, b.cmd)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	again := r.c.rdb.Pipeline()
	for i := range batch {
		b := &batch[i]
		if err := b.cmd.Err(); err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
			b.cmd = b.command(ctx, evalName, &b.lock.cfg.renewScript().source)
			_ = again.Process(ctx, b.cmd)
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
		if r.ends.has(l) {
			r.plan(l, now)
		}
	}
	if next := r.next(); !next.IsZero() && (r.wakeAt.IsZero() || next.Before(r.wakeAt)) {
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

// The seats that a lock has in the renewer's queues.
const (
	endSeat = iota
	renewalSeat
	seats
)

// lockQueue is a heap by time. Put and drop are what others use; the rest is for
// container/heap. The times stand in the heap itself, for with many locks it is not
// calculating that takes long but looking at each of them.
type lockQueue struct {
	seat    int
	entries []entry
}

type entry struct {
	at   time.Time
	lock *Lock
}

func (q *lockQueue) has(l *Lock) bool {
	i := l.seats[q.seat]
	return i < len(q.entries) && q.entries[i].lock == l
}

// put adds a lock, or moves it.
func (q *lockQueue) put(l *Lock, at time.Time) {
	if q.has(l) {
		q.entries[l.seats[q.seat]].at = at
	} else {
		l.seats[q.seat] = len(q.entries)
		q.entries = append(q.entries, entry{at, l})
	}
	heap.Fix(q, l.seats[q.seat])
}

func (q *lockQueue) drop(l *Lock) {
	if q.has(l) {
		heap.Remove(q, l.seats[q.seat])
	}
}

// first is the time of the first; zero where there is none.
func (q *lockQueue) first() time.Time {
	if len(q.entries) == 0 {
		return time.Time{}
	}
	return q.entries[0].at
}

// allAt moves all to one time.
func (q *lockQueue) allAt(at time.Time) {
	for i := range q.entries {
		q.entries[i].at = at
	}
}

func (q *lockQueue) Len() int { return len(q.entries) }

func (q *lockQueue) Less(i, j int) bool { return q.entries[i].at.Before(q.entries[j].at) }

func (q *lockQueue) Swap(i, j int) {
	q.entries[i], q.entries[j] = q.entries[j], q.entries[i]
	q.entries[i].lock.seats[q.seat], q.entries[j].lock.seats[q.seat] = i, j
}

// Push is part of heap.Interface, which would have each entry copied to the heap of the
// program: put does without.
func (q *lockQueue) Push(any) { panic("unused") }

// Pop is part of heap.Interface; drop knows already what is taken out.
func (q *lockQueue) Pop() any {
	last := len(q.entries) - 1
	q.entries[last] = entry{}
	q.entries = q.entries[:last]
	return nil
}
