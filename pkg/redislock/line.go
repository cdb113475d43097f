package redislock

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// pipelineLength bounds a pipeline, so that one reply is not kept waiting for thousands
// of others.
const pipelineLength = 100

// lineStall is how long a caller queues before he sends by himself after all, so that
// a pipeline whose answer is lost holds up nobody else.
const lineStall = 50 * time.Millisecond

// A line carries the commands of all callers to Redis. Whoever finds it idle sends
// his command himself, for a goroutine and a timer of its own cost more than the
// command. Who finds it busy queues up, and what is queued goes out together in one
// pipeline: the more callers, the longer the pipelines.
//
// That needs a rdb that heeds the deadlines of contexts.
type line struct {
	rdb redis.UniversalClient
	// shared: commands of several callers may share a pipeline. In a Cluster that
	// takes as long as the slowest node in it.
	shared bool
	// deaf: rdb does not heed deadlines, so that each command needs a goroutine, to be
	// given up on.
	deaf  bool
	stall time.Duration

	mu       sync.Mutex
	busy     bool // a caller sends a command
	queue    []*command
	flushing bool // a goroutine sends what is queued
}

func newLine(rdb redis.UniversalClient) *line {
	switch r := rdb.(type) {
	case *redis.Client:
		heeds := r.Options().ContextTimeoutEnabled
		return &line{rdb: rdb, shared: heeds, deaf: !heeds, stall: lineStall}
	case *redis.ClusterClient:
		return &line{rdb: rdb, deaf: !r.Options().ContextTimeoutEnabled}
	}
	return &line{rdb: rdb, deaf: true}
}

// do sends a command and returns when it is answered, or given up on. The server may
// carry it out all the same, then or later.
//
// It is given up on at its deadline at the latest. That a caller's context was
// cancelled is noticed at once only by those who queue: go-redis does not leave a
// read for it.
func (l *line) do(m *command) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	if l.deaf {
		_, err := wire.Bounded(m.ctx, m.timeout, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, l.rdb.Process(ctx, m.cmd)
		})
		return err
	}
	if l.enter() {
		defer l.leave() // though a hook of the caller's may panic
		return m.outcome(l.rdb.Process(m, m.cmd))
	}
	return m.outcome(l.wait(m))
}

// enter says whether the caller may send by himself.
func (l *line) enter() bool {
	if !l.shared {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy || l.flushing {
		return false
	}
	l.busy = true
	return true
}

func (l *line) leave() {
	if l.shared {
		l.mu.Lock()
		l.busy = false
		l.mu.Unlock()
	}
}

// wait queues a command and waits for its answer.
func (l *line) wait(m *command) error {
	m.done = make(chan struct{})
	l.mu.Lock()
	l.queue = append(l.queue, m)
	if !l.flushing {
		l.flushing = true
		go l.flush()
	}
	l.mu.Unlock()

	timer := time.NewTimer(min(l.stall, m.timeout/2))
	defer timer.Stop()
	for {
		select {
		case <-m.done:
			return m.cmd.Err()
		case <-m.ctx.Done():
			l.withdraw(m)
			return m.ctx.Err()
		case <-timer.C:
			if l.withdraw(m) {
				return l.rdb.Process(m, m.cmd)
			}
			left := time.Until(m.deadline)
			if left <= 0 {
				return context.DeadlineExceeded
			}
			timer.Reset(left)
		}
	}
}

// withdraw takes back a command that queues, and says whether it was still there: it
// is never sent then.
func (l *line) withdraw(m *command) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.queue, m)
	if i < 0 {
		return false
	}
	l.queue = slices.Delete(l.queue, i, i+1)
	return true
}

// flush sends what is queued until nothing is.
func (l *line) flush() {
	for {
		l.mu.Lock()
		n := min(len(l.queue), pipelineLength)
		if n == 0 {
			l.flushing = false
			l.mu.Unlock()
			return
		}
		batch := slices.Clone(l.queue[:n])
		l.queue = slices.Delete(l.queue, 0, n)
		l.mu.Unlock()

		// Each of their callers gives up at his own time; the pipeline goes on until
		// the last of them has.
		ctx := &command{ctx: context.Background()}
		pipe := l.rdb.Pipeline()
		for _, m := range batch {
			if m.deadline.After(ctx.deadline) {
				ctx.deadline = m.deadline
			}
			_ = pipe.Process(ctx, m.cmd)
		}
		_, _ = pipe.Exec(ctx) // each command has its own error
		for _, m := range batch {
			close(m.done)
		}
	}
}

// A command is one command on its way, and the context with which it is sent: its
// caller's, with a deadline of its own that needs no timer. It tells go-redis how long
// dialing, writing and reading may take; waiting for a connection of the pool has a
// limit of its own, redis.Options.PoolTimeout.
type command struct {
	ctx      context.Context
	timeout  time.Duration
	deadline time.Time
	cmd      redis.Cmder
	done     chan struct{} // of one that queues
	args     [12]any       // as many as most commands have
}

var _ context.Context = (*command)(nil)

// newCommand makes a command that is given up on after timeout; its caller sets cmd,
// with arguments that have room in args.
func newCommand(ctx context.Context, timeout time.Duration) *command {
	m := &command{ctx: ctx, timeout: timeout, deadline: time.Now().Add(timeout)}
	if d, ok := ctx.Deadline(); ok && d.Before(m.deadline) {
		m.deadline = d
	}
	return m
}

// Deadline is part of context.Context, as are the following.
func (m *command) Deadline() (time.Time, bool) { return m.deadline, true }

func (m *command) Done() <-chan struct{} { return m.ctx.Done() }

func (m *command) Value(key any) any { return m.ctx.Value(key) }

func (m *command) Err() error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	if time.Now().Before(m.deadline) {
		return nil
	}
	return context.DeadlineExceeded
}

// outcome tells why there is no answer. What Redis itself says is one.
func (m *command) outcome(err error) error {
	if err == nil || m.Err() == nil {
		return err
	}
	if _, answered := errors.AsType[redis.Error](err); answered {
		return err
	}
	if ended := m.ctx.Err(); ended != nil {
		return ended
	}
	// The caller's own deadline may have come though its timer has not fired yet.
	if d, ok := m.ctx.Deadline(); ok && !d.After(m.deadline) {
		return context.DeadlineExceeded
	}
	return &wire.TimeoutError{After: m.timeout}
}
