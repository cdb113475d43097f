package cli

import (
	"context"
	"errors"
	"flag"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var electCommand = command{
	name: "elect", arguments: "NAME -- PROGRAM…", summary: "Run a program while elected leader, again and again",
	details: `It campaigns in the election NAME, whose lock is the key lock:leader:NAME, and runs
the program while it leads. When the leadership is lost the program ends, as with run,
and redislock campaigns again. When the program ends by itself redislock does, too, with
its exit code, and the leadership is given back.`,
	positional: [2]int{1, 1}, runs: true,
	bind: func(o *options, fs *flag.FlagSet) {
		o.lock.bindLease(fs)
		o.lock.bindGrace(fs)
	},
	do: (*App).elect,
}

func (a *App) elect(ctx context.Context, o *options) error {
	s, err := a.connect(o)
	if err != nil {
		return err
	}
	defer s.close()
	elector, err := s.Elector(redislock.Key("leader", o.arguments[0]),
		append(o.lock.options(), redislock.WithLockDelay(o.lock.delay()), redislock.OnRefusal(a.complain()))...)
	if err != nil {
		return err
	}
	interrupts, stop := a.interruptible(ctx)
	defer stop()
	for term, err := range elector.Terms(interrupts) {
		if err != nil {
			return err
		}
		e, err := a.supervise(interrupts, term.Lock, term.Context(), o)
		a.giveBack(term.Lock)
		if err != nil || !e.lost {
			return errors.Join(err, e.error())
		}
	}
	return context.Cause(interrupts)
}
