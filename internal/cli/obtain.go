package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	defaultLease = 30 * time.Second
	defaultGrace = 10 * time.Second
	// graceMargin is what of the lock's delay is left when the grace is over, for the
	// kernel to end what got SIGKILL.
	graceMargin = time.Second
	// historyLength is how many grants are kept for redislock history.
	historyLength = 10
)

// lockFlags are the flags of commands that acquire.
type lockFlags struct {
	lease    time.Duration
	identity string
	wait     bool
	noWait   bool
	timeout  time.Duration
	grace    time.Duration
}

func (f *lockFlags) bindLease(fs *flag.FlagSet) {
	fs.DurationVar(&f.lease, "lease", defaultLease, "for how `long` the lock is valid unless it is renewed; others get it that long after this host died")
	fs.StringVar(&f.identity, "identity", "", "`name` of the holder for others to see; default the host's name")
}

func (f *lockFlags) bindWait(fs *flag.FlagSet) {
	fs.BoolVar(&f.wait, "wait", false, "wait until the lock is free; this is the default")
	fs.BoolVar(&f.noWait, "no-wait", false, "give up at once where somebody has it (exit code 75)")
	fs.DurationVar(&f.timeout, "timeout", 0, "give up after this `time` (exit code 75)")
}

func (f *lockFlags) bindGrace(fs *flag.FlagSet) {
	fs.DurationVar(&f.grace, "grace", defaultGrace, "how `long` the program may take to end after SIGTERM, when the lock is lost; then it gets SIGKILL. Others do not get the lock before")
}

func (f *lockFlags) check() error {
	switch {
	case f.noWait && f.wait:
		return errors.New("--wait and --no-wait exclude each other")
	case f.noWait && f.timeout != 0:
		return errors.New("--timeout and --no-wait exclude each other")
	case f.timeout < 0:
		return errors.New("--timeout: is negative")
	case f.grace < 0:
		return errors.New("--grace: is negative")
	}
	return nil
}

// delay is how long the key stays after the lease is over.
func (f *lockFlags) delay() time.Duration { return f.grace + graceMargin }

func (f *lockFlags) options() []redislock.LockOption {
	return []redislock.LockOption{redislock.WithLease(f.lease), redislock.WithHistory(historyLength)}
}

// underLock acquires the lock of a command line, with an option of the command's own, and
// calls do.
func (a *App) underLock(ctx context.Context, o *options, own redislock.LockOption, do func(*signals, *redislock.Lock) error) error {
	key, err := o.key()
	if err != nil {
		return err
	}
	s, err := a.connect(o)
	if err != nil {
		return err
	}
	defer s.close()
	interrupts, stop := a.interruptible(ctx)
	defer stop()
	lock, err := a.obtain(interrupts, s, key, &o.lock, append(o.lock.options(), own)...)
	if err != nil {
		return err
	}
	return do(interrupts, lock)
}

// obtain acquires a lock as the flags say. However short the timeout, it tries once.
func (a *App) obtain(interrupts *signals, s *store, key string, f *lockFlags, opts ...redislock.LockOption) (*redislock.Lock, error) {
	wait := context.Context(interrupts)
	if f.timeout > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(wait, f.timeout)
		defer cancel()
	}
	lock, last := s.TryAcquire(interrupts, key, opts...)
	switch {
	case last == nil:
		return lock, nil
	case interrupts.Err() != nil:
		return nil, context.Cause(interrupts)
	case f.noWait, redislock.Refused(last), errors.Is(last, redislock.ErrInvalid), errors.Is(last, redislock.ErrCorrupt):
		return nil, last
	}
	refused := a.complain()
	refused(last)
	lock, err := s.Acquire(wait, key, append(opts, redislock.WithWait(), redislock.OnRefusal(func(err error) {
		last = err
		refused(err)
	}))...)
	switch {
	case err == nil:
		return lock, nil
	case interrupts.Err() != nil:
		return nil, context.Cause(interrupts)
	case wait.Err() != nil:
		return nil, fmt.Errorf("gave up after %s: %w", f.timeout, last)
	}
	return nil, err
}

// complain says on stderr why a wait that nobody has to answer for goes on: that
// somebody has the lock is what is waited for, everything else is said once.
func (a *App) complain() func(error) {
	said := map[string]bool{}
	return func(err error) {
		if _, held := errors.AsType[*redislock.HeldError](err); held {
			return
		}
		text := message(err)
		if _, quarantined := errors.AsType[*redislock.QuarantineError](err); quarantined {
			text = "waiting: Redis lost its data, so somebody may still hold the lock whom it does not know"
		}
		if !said[text] {
			said[text] = true
			_, _ = fmt.Fprintf(a.Stderr, "redislock: %s\n", text)
		}
	}
}
