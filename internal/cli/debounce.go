package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// debounceFlags are the flags of calls and of those who run.
type debounceFlags struct {
	payload, payloadFile string
	source               string
	sequence             *uint64

	wait, maxWait, minInterval, lease, grace time.Duration
	edge, choice                             string
	once                                     bool
}

// debouncer opens the debounce of a command line.
func (a *App) debouncer(o *options, settings redislock.Debounce) (*store, *redislock.Debouncer, error) {
	key, err := o.key()
	if err != nil {
		return nil, nil, err
	}
	s, err := a.connect(o)
	if err != nil {
		return nil, nil, err
	}
	d, err := s.Debouncer(key, settings)
	if err != nil {
		s.close()
		return nil, nil, err
	}
	return s, d, nil
}

var debounceCallCommand = command{
	name: "debounce call", arguments: "KEY", summary: "Record a call, which is run with others later",
	details: `It prints "GENERATION opened": the call is part of the run GENERATION, and opened a
window; "joined" where calls waited before, and "repeated" where it was recorded before.
The run is for those who run: redislock debounce run, an operator with a Debounce on
that key, a Go program.

JSON: {"key", "generation", "at", "opened", "repeated"}`,
	positional: [2]int{1, 1},
	bind: func(o *options, fs *flag.FlagSet) {
		f := &o.debounce
		fs.StringVar(&f.payload, "payload", "", "`text` for the run; it gets that of the last call")
		fs.StringVar(&f.payloadFile, "payload-file", "", "`file` with it, - for standard input")
		fs.StringVar(&f.source, "source", "", "`name` of who calls; with --sequence a call that is repeated within ten minutes counts once")
		fs.Func("sequence", "`number` of the call, higher than those of the source's calls before", func(text string) error {
			n, err := strconv.ParseUint(text, 10, 64)
			f.sequence = &n
			return err
		})
	},
	do: (*App).debounceCall,
}

type recorded struct {
	Key        string    `json:"key"`
	Generation uint64    `json:"generation"`
	At         time.Time `json:"at"`
	Opened     bool      `json:"opened"`
	Repeated   bool      `json:"repeated"`
}

func (r recorded) text() string {
	how := "joined"
	switch {
	case r.Repeated:
		how = "repeated"
	case r.Opened:
		how = "opened"
	}
	return fmt.Sprintf("%d %s\n", r.Generation, how)
}

func (a *App) debounceCall(ctx context.Context, o *options) error {
	f := &o.debounce
	var opts []redislock.CallOption
	switch {
	case (f.source == "") != (f.sequence == nil):
		return usage("debounce call: --source and --sequence go together")
	case f.payload != "" && f.payloadFile != "":
		return usage("debounce call: --payload and --payload-file exclude each other")
	case f.source != "":
		opts = append(opts, redislock.WithSequence(f.source, *f.sequence))
	}
	payload, err := a.payload(f)
	if err != nil {
		return usage("debounce call: --payload-file: %v", err)
	}
	s, d, err := a.debouncer(o, redislock.Debounce{})
	if err != nil {
		return err
	}
	defer s.close()
	call, err := d.Call(ctx, payload, opts...)
	if err != nil {
		return err
	}
	r := recorded{d.Key(), call.Generation, call.At.UTC(), call.Opened, call.Again}
	return a.print(o, r, r.text)
}

// payload reads no more than one byte too many: that is refused without reading all of it.
func (a *App) payload(f *debounceFlags) ([]byte, error) {
	switch f.payloadFile {
	case "":
		return []byte(f.payload), nil
	case "-":
		return io.ReadAll(io.LimitReader(a.Stdin, redislock.MaxPayload+1))
	}
	file, err := os.Open(f.payloadFile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, redislock.MaxPayload+1))
}

var debounceStatusCommand = command{
	name: "debounce status", arguments: "KEY", summary: "Say what waits and what is run; the exit code says whether anything does",
	details: `JSON: {"key", "state", "calls", "runs", "waiting", "since", "lastCallAt", "running", "lastRun"}
  state    ACQUIRED while a window is open or a run goes on, else FREE
  calls    how many were ever recorded, runs: how many runs have ended
  waiting  calls of the open window that nobody runs yet
  since    when its first call came
  running  {"generation", "claimant", "claimedAt", "leaseEndsAt", "attempt", "calls"}
  lastRun  {"generation", "claimant", "startedAt", "finishedAt", "attempt", "calls", "outcome", "message"}`,
	positional: [2]int{1, 1},
	do:         (*App).debounceStatus,
}

type debounceState struct {
	Key        string           `json:"key"`
	State      redislock.Status `json:"state"`
	Calls      int64            `json:"calls"`
	Runs       int64            `json:"runs"`
	Waiting    int              `json:"waiting"`
	Since      time.Time        `json:"since,omitzero"`
	LastCallAt time.Time        `json:"lastCallAt,omitzero"`
	Running    *runningState    `json:"running,omitempty"`
	LastRun    *endedState      `json:"lastRun,omitempty"`
}

type runningState struct {
	Generation  uint64    `json:"generation"`
	Claimant    string    `json:"claimant"`
	ClaimedAt   time.Time `json:"claimedAt"`
	LeaseEndsAt time.Time `json:"leaseEndsAt"`
	Attempt     int       `json:"attempt"`
	Calls       int       `json:"calls"`
}

type endedState struct {
	Generation uint64    `json:"generation"`
	Claimant   string    `json:"claimant"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
	Attempt    int       `json:"attempt"`
	Calls      int       `json:"calls"`
	Outcome    string    `json:"outcome"`
	Message    string    `json:"message,omitempty"`
}

func debounceStateOf(key string, d redislock.DebounceState) debounceState {
	s := debounceState{
		Key: key, State: redislock.Acquired, Calls: d.Calls, Runs: d.Runs,
		Waiting: d.Waiting, Since: d.Since.UTC(), LastCallAt: d.LastCall.UTC(),
	}
	if d.Quiet() {
		s.State = redislock.Free
	}
	if r := d.Running; r != nil {
		s.Running = &runningState{r.Generation, r.Claimant, r.Claimed.UTC(), r.Till.UTC(), r.Attempt, r.Calls}
	}
	if r := d.LastRun; r != nil {
		s.LastRun = &endedState{r.Generation, r.Claimant, r.Started.UTC(), r.Finished.UTC(), r.Attempt, r.Calls, r.Outcome, r.Message}
	}
	return s
}

// text has a line for each thing that there is.
func (s debounceState) text() string {
	var b strings.Builder
	at := func(t time.Time) string { return t.Local().Format(time.RFC3339) }
	fmt.Fprintf(&b, "%s\n", s.State)
	if !s.Since.IsZero() {
		fmt.Fprintf(&b, "waiting: %s, window open since %s\n", calls(s.Waiting), at(s.Since))
	}
	if r := s.Running; r != nil {
		fmt.Fprintf(&b, "running: generation %d for %s by %s since %s, attempt %d, lease ends at %s\n",
			r.Generation, calls(r.Calls), r.Claimant, at(r.ClaimedAt), r.Attempt, at(r.LeaseEndsAt))
	}
	if r := s.LastRun; r != nil {
		fmt.Fprintf(&b, "last run: generation %d for %s by %s, %s at %s", r.Generation, calls(r.Calls), r.Claimant, r.Outcome, at(r.FinishedAt))
		if r.Message != "" {
			fmt.Fprintf(&b, ": %s", r.Message)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func calls(n int) string {
	if n == 1 {
		return "1 call"
	}
	return fmt.Sprintf("%d calls", n)
}

func (a *App) debounceStatus(ctx context.Context, o *options) error {
	s, d, err := a.debouncer(o, redislock.Debounce{})
	if err != nil {
		return err
	}
	defer s.close()
	found, err := d.State(ctx)
	if err != nil {
		return err
	}
	state := debounceStateOf(d.Key(), found)
	if err := a.print(o, state, state.text); err != nil {
		return err
	}
	if state.State == redislock.Free {
		return &exitError{code: exitFalse}
	}
	return nil
}
