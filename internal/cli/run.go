package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var runCommand = command{
	name: "run", arguments: "KEY -- PROGRAM…", summary: "Run a program while holding a lock",
	details: `It waits until the lock at KEY is free, runs the program, and gives the lock back when
nothing of it runs any more. The program gets REDISLOCK_KEY, REDISLOCK_TOKEN and
REDISLOCK_FENCING_TOKEN, a number that rises with every holder. Signals are passed on,
and so is its exit code.

When the lock is lost the program and all that it started get SIGTERM, and SIGKILL
--grace later. Nobody else gets the lock before that: it is kept for --grace longer than
--lease. Where the key was deleted by hand, or somebody else's token stands there, that
is no use, and they get SIGKILL at once. They also end when redislock is killed.`,
	positional: [2]int{1, 1}, runs: true,
	bind: func(o *options, fs *flag.FlagSet) {
		o.lock.bindLease(fs)
		o.lock.bindWait(fs)
		o.lock.bindGrace(fs)
	},
	do: (*App).run,
}

func (a *App) run(ctx context.Context, o *options) error {
	return a.underLock(ctx, o, redislock.WithLockDelay(o.lock.delay()), func(interrupts *signals, lock *redislock.Lock) error {
		e, err := a.supervise(interrupts, lock, lock.Context(), o)
		switch {
		case err != nil:
			a.giveBack(lock)
			return err
		case !a.giveBack(lock):
			return &exitError{code: exitLost}
		}
		return e.error()
	})
}

// ending is how a program ended.
type ending struct {
	code int
	// lost: it was ended because the lock was lost.
	lost bool
}

// error is the program's exit code as an error; nil for 0.
func (e ending) error() error {
	if e.code == exitOK {
		return nil
	}
	return &exitError{code: e.code}
}

// supervise runs the program until it ends, or until held does, with which the lock is
// lost. Nothing of the program runs any more when it returns.
func (a *App) supervise(interrupts *signals, lock *redislock.Lock, held context.Context, o *options) (ending, error) {
	environ := append(slices.Clip(a.Environ),
		"REDISLOCK_KEY="+lock.Key(), tokenVariable+"="+lock.Token(), "REDISLOCK_FENCING_TOKEN="+strconv.FormatUint(lock.Fence(), 10))
	c, err := interrupts.start(func() (*child, error) { return a.startChild(o.program, environ, o.lock.grace, nil) })
	if err != nil {
		return ending{}, err
	}
	defer interrupts.ended()
	cover := newCover(lock, &o.lock)
	look := time.NewTicker(max(o.lock.lease/6, time.Millisecond))
	defer look.Stop()
	for {
		select {
		case <-look.C:
			cover.look()
		case <-c.exited:
			c.end(o.lock.grace) // what it left behind
			return ending{code: c.code()}, nil
		case <-held.Done():
			_, _ = fmt.Fprintf(a.Stderr, "redislock: %s; ending the program\n", message(context.Cause(held)))
			c.end(cover.left(context.Cause(held)))
			return ending{c.code(), true}, nil
		}
	}
}

// giveBack releases a lock under which nothing runs any more, and says whether it had
// been held until then. Where one was lost but its key still stands that is freed, too.
func (a *App) giveBack(lock *redislock.Lock) (held bool) {
	err := lock.Release(context.Background())
	switch {
	case errors.Is(err, redislock.ErrLost):
		_ = lock.ReleaseStopped(context.Background()) // at worst it lapses
		return false
	case err != nil:
		_, _ = fmt.Fprintf(a.Stderr, "redislock: the lock could not be given back and lapses: %s\n", message(err))
	}
	return true
}

// A cover is for how long the key outlives the lease: the time in which a program whose
// lock is lost can end before somebody else begins.
type cover struct {
	lock         *redislock.Lock
	delay, grace time.Duration
	until        time.Time // the wall clock's, when the lease ends
}

func newCover(lock *redislock.Lock, f *lockFlags) *cover {
	c := &cover{lock: lock, delay: f.delay(), grace: f.grace}
	c.look()
	return c
}

// look notes until when the lease is valid, for after a loss that is not told. The wall
// clock goes on while a machine sleeps or this process is stopped.
func (c *cover) look() {
	if c.lock.Err() == nil {
		c.until = c.lock.ValidUntil().Round(0)
	}
}

// left is the grace that there is after a loss.
func (c *cover) left(cause error) time.Duration {
	if lost, ok := errors.AsType[*redislock.LostError](cause); ok && lost.Err == nil && !strings.HasPrefix(lost.Found, "~") {
		return 0 // Redis answered that the key is gone, or somebody else's; "~" keeps it taken
	}
	return max(0, min(c.grace, time.Until(c.until.Add(c.delay-graceMargin/2))))
}
