package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var debounceRunCommand = command{
	name: "debounce run", arguments: "KEY -- PROGRAM…", summary: "Run a program once for many calls, again and again",
	details: `It waits until calls of KEY have ceased for --wait, or have gone on for --max-wait, and
runs the program, once over all who do so. The program gets the payload in
REDISLOCK_DEBOUNCE_PAYLOAD and on standard input, REDISLOCK_DEBOUNCE_GENERATION, which
names the run and rises, and REDISLOCK_DEBOUNCE_CALLS. Its exit code is the outcome:
Succeeded for 0, else Failed, which is not repeated. Signals are passed on; one that ends
programs also ends redislock, when the program has ended.

All who run one KEY must have the same flags. If redislock dies another takes the run
over after --lease, with the same generation: at least once. Where Redis does not answer
for that long the claim is lost, another may begin, and the program and all that it
started get SIGKILL.`,
	positional: [2]int{1, 1}, runs: true,
	bind: func(o *options, fs *flag.FlagSet) {
		f := &o.debounce
		fs.DurationVar(&f.wait, "wait", redislock.DefaultDebounceWait, "for how `long` no call must come before the run")
		fs.DurationVar(&f.maxWait, "max-wait", 0, "how `long` after the first call it is at the latest; default ten times --wait")
		fs.DurationVar(&f.minInterval, "min-interval", 0, "least `time` from the beginning of a run to the next")
		fs.StringVar(&f.edge, "edge", "trailing", "`when` to run: trailing, when calls have ceased; leading, at the first; both")
		fs.StringVar(&f.choice, "payload-choice", "last", "`whose` payload the run gets: that of the last call, or of the first")
		fs.DurationVar(&f.lease, "lease", redislock.DefaultDebounceLease, "for how `long` a run is claimed unless that is renewed; another takes it over that long after this host died")
		fs.DurationVar(&f.grace, "grace", defaultGrace, "how `long` what the program left running may take to end after SIGTERM; then it gets SIGKILL")
		fs.StringVar(&o.lock.identity, "identity", "", "`name` of who runs for others to see; default the host's name")
		fs.BoolVar(&f.once, "once", false, "end after the first run, with the program's exit code")
	},
	do: (*App).debounceRun,
}

// settings are what the flags of a runner say.
func (f *debounceFlags) settings() (redislock.Debounce, error) {
	s := redislock.Debounce{Wait: f.wait, MaxWait: f.maxWait, MinInterval: f.minInterval, Lease: f.lease}
	edges := []redislock.Edge{redislock.Trailing, redislock.Leading, redislock.Both}
	choices := []redislock.PayloadChoice{redislock.LastPayload, redislock.FirstPayload}
	edge := slices.IndexFunc(edges, func(e redislock.Edge) bool { return strings.EqualFold(string(e), f.edge) })
	choice := slices.IndexFunc(choices, func(p redislock.PayloadChoice) bool { return strings.EqualFold(string(p), f.choice) })
	switch {
	// 0 is the package's word for its default.
	case f.wait == 0:
		return s, usage("debounce run: --wait: is 0; the least is 1ms")
	case f.lease == 0:
		return s, usage("debounce run: --lease: is 0")
	case f.grace < 0:
		return s, usage("debounce run: --grace: is negative")
	case edge < 0:
		return s, usage("debounce run: --edge %q: write trailing, leading or both", f.edge)
	case choice < 0:
		return s, usage("debounce run: --payload-choice %q: write last or first", f.choice)
	}
	s.Edge, s.Payload = edges[edge], choices[choice]
	return s, nil
}

// A debounceRunner runs the program of a command line.
type debounceRunner struct {
	a          *App
	o          *options
	interrupts *signals

	// The run whose program ended here last. Where that could not be recorded the same
	// run comes back, and must not begin again.
	generation atomic.Uint64
	ending     ending
}

func (a *App) debounceRun(ctx context.Context, o *options) error {
	settings, err := o.debounce.settings()
	if err != nil {
		return err
	}
	// Who cannot run must not claim.
	if _, err := exec.LookPath(o.program[0]); err != nil {
		return startError(err)
	}
	interrupts, stop := a.interruptible(ctx)
	defer stop()
	r := &debounceRunner{a: a, o: o, interrupts: interrupts}
	if o.debounce.once {
		settings.OnState = r.endAfterFirst
	}
	s, d, err := a.debouncer(o, settings)
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := d.State(interrupts); err != nil {
		switch {
		case interrupts.Err() != nil:
			return context.Cause(interrupts)
		case redislock.Refused(err), errors.Is(err, redislock.ErrCorrupt):
			return err // waiting cannot help
		}
		_, _ = fmt.Fprintf(a.Stderr, "redislock: %s\n", message(err))
	}
	if err := d.Run(interrupts, r.run); err != nil {
		return err
	}
	if o.debounce.once && r.generation.Load() != 0 {
		return r.ending.error()
	}
	return context.Cause(interrupts)
}

var errEnded = errors.New("the program has run")

// endAfterFirst ends the runner once the outcome of its run is recorded.
func (r *debounceRunner) endAfterFirst(s redislock.DebounceState) {
	ours := r.generation.Load()
	if ours != 0 && s.LastRun != nil && s.LastRun.Generation >= ours {
		r.interrupts.cancel(errEnded)
	}
}

// run runs the program. An error while the runner ends leaves the run to another.
func (r *debounceRunner) run(ctx context.Context, run redislock.DebounceRun) error {
	if run.Generation == r.generation.Load() {
		return r.ending.error()
	}
	e, err := r.supervise(ctx, run)
	r.interrupts.endIfAsked()
	switch {
	case err != nil:
		r.interrupts.cancel(err)
		return err
	case e.lost && r.o.debounce.once:
		r.interrupts.cancel(context.Cause(ctx))
		return context.Cause(ctx)
	case e.lost:
		_, _ = fmt.Fprintf(r.a.Stderr, "redislock: %s; the program was ended\n", message(context.Cause(ctx)))
		return context.Cause(ctx)
	}
	r.ending = e
	r.generation.Store(run.Generation)
	if e.code != exitOK {
		_, _ = fmt.Fprintf(r.a.Stderr, "redislock: debounce %q: the run of generation %d failed: %s\n", r.o.arguments[0], run.Generation, e.error())
	}
	return e.error()
}

// supervise runs the program until it ends, or the claim is lost. Nothing of the program
// runs any more when it returns.
func (r *debounceRunner) supervise(ctx context.Context, run redislock.DebounceRun) (ending, error) {
	input, output, err := os.Pipe()
	if err != nil {
		return ending{}, &exitError{exitCannotRun, err}
	}
	defer func() { _ = output.Close() }()
	// No variable can have a NUL in it.
	text := string(run.Payload)
	if bytes.IndexByte(run.Payload, 0) >= 0 {
		text = ""
	}
	environ := append(slices.Clip(r.a.Environ),
		"REDISLOCK_DEBOUNCE_GENERATION="+strconv.FormatUint(run.Generation, 10),
		"REDISLOCK_DEBOUNCE_PAYLOAD="+text, "REDISLOCK_DEBOUNCE_CALLS="+strconv.Itoa(run.Calls))
	grace := r.o.debounce.grace
	c, err := r.interrupts.start(func() (*child, error) {
		// When redislock is killed the claim lasts for another half of the lease.
		return r.a.startChild(r.o.program, environ, min(grace, r.o.debounce.lease/2), input)
	})
	_ = input.Close()
	if err != nil {
		return ending{}, err
	}
	defer r.interrupts.ended()
	go func() {
		_, _ = output.Write(run.Payload) // a program need not read it
		_ = output.Close()
	}()
	select {
	case <-c.exited:
		c.end(grace) // what it left behind
		return ending{c.code(), ctx.Err() != nil}, nil
	case <-ctx.Done():
		c.end(0) // another may have begun
		return ending{lost: true}, nil
	}
}
