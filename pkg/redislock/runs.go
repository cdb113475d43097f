package redislock

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxName bounds the names in the records of runs, in bytes, and an outcome.
const maxName = 512

// latestTick is far beyond any schedule, and a number that Lua still counts exactly.
const latestTick = 1 << 40

// Run is one piece of work under a lock: a tick of a schedule, or a run without a
// tick.
type Run struct {
	// Series groups the ticks of one schedule, such as "namespace/cronjob"; empty for
	// a run without a tick.
	Series string
	// Tick is the scheduled time, in whole seconds; zero for a run without a tick.
	Tick time.Time
	// ID names a run without a tick, uniquely and for ever; empty for a tick.
	ID string
}

// name returns how the run is named in Redis. It is no String method, for that would
// hide all else of what embeds a Run.
func (r Run) name() string {
	if r.Series == "" {
		return "id " + r.ID
	}
	return "tick " + r.Series + " " + strconv.FormatInt(r.Tick.Unix(), 10)
}

func (r Run) validate() error {
	if r.Series == "" {
		if !r.Tick.IsZero() {
			return invalid("run's tick", r.Tick.String(), "belongs to no series")
		}
		return validateName("run's ID", r.ID)
	}
	if err := validateName("run's series", r.Series); err != nil {
		return err
	}
	switch {
	case r.ID != "":
		return invalid("run's ID", r.ID, "stands beside a series; a run has one or the other")
	case r.Tick.Nanosecond() != 0:
		return invalid("run's tick", r.Tick.String(), "is no whole second")
	case r.Tick.Unix() <= 0 || r.Tick.Unix() > latestTick:
		return invalid("run's tick", r.Tick.String(), "is no time of a schedule")
	}
	return nil
}

// validateName keeps the separator of the records out of what stands in them.
func validateName(what, name string) error {
	switch {
	case name == "":
		return invalid(what, name, "is empty")
	case len(name) > maxName:
		return invalid(what, name[:32]+"…", fmt.Sprintf("is longer than %d bytes", maxName))
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return invalid(what, name, "has a space or a control character")
	}
	return nil
}

func parseRun(name string) (Run, bool) {
	kind, rest, _ := strings.Cut(name, " ")
	switch kind {
	case "id":
		r := Run{ID: rest}
		return r, r.validate() == nil
	case "tick":
		series, digits, _ := strings.Cut(rest, " ")
		seconds, err := strconv.ParseInt(digits, 10, 64)
		r := Run{Series: series, Tick: time.Unix(seconds, 0).UTC()}
		return r, err == nil && r.Series != "" && r.validate() == nil && r.name() == name
	}
	return Run{}, false
}

// TickState says how far a tick has come.
type TickState string

// The states of a tick that has been claimed at least once.
const (
	// TickClaimed: somebody runs it, or was lost while doing so.
	TickClaimed TickState = "claimed"
	// TickOpen: the claim was given up with ReopenRun.
	TickOpen TickState = "open"
	// TickDone: it ran, and never will again.
	TickDone TickState = "done"
)

// TickRecord is what Redis knows of a tick.
type TickRecord struct {
	Series string
	Tick   time.Time
	State  TickState
	// Fence is the fencing token of the claim, Grant that of the grant under which it
	// was made.
	Fence, Grant uint64
	Claimant     string
	// Outcome is what FinishRun said.
	Outcome string
	// At is the server's time of the claim; of a done tick, that of its end.
	At time.Time
}

// parseRecord reads "<state> <fence> <grant> <µs> <claimant> <outcome>".
func parseRecord(run Run, value string) (TickRecord, bool) {
	part := strings.SplitN(value, " ", 6)
	if len(part) != 6 {
		return TickRecord{}, false
	}
	t := TickRecord{Series: run.Series, Tick: run.Tick, State: TickState(part[0]), Claimant: part[4], Outcome: part[5]}
	switch t.State {
	case TickClaimed, TickOpen, TickDone:
	default:
		return TickRecord{}, false
	}
	var err [3]error
	t.Fence, err[0] = strconv.ParseUint(part[1], 10, 53)
	t.Grant, err[1] = strconv.ParseUint(part[2], 10, 53)
	t.At, err[2] = parseMicros(part[3])
	return t, err == [3]error{} && t.Claimant != ""
}

// ActiveRun is a run that has been claimed and not finished under its grant. Where
// that grant is over the entry is stale; the next claim removes it.
type ActiveRun struct {
	Run
	// Fence is the fencing token of the claim, Grant that of the grant under which it
	// was made.
	Fence, Grant uint64
	Claimant     string
	At           time.Time
}

// parseActive reads "<grant> <µs> <claimant> <name of the run>".
func parseActive(digits, value string) (ActiveRun, bool) {
	part := strings.SplitN(value, " ", 4)
	if len(part) != 4 {
		return ActiveRun{}, false
	}
	a := ActiveRun{Claimant: part[2]}
	var err [3]error
	a.Fence, err[0] = strconv.ParseUint(digits, 10, 53)
	a.Grant, err[1] = strconv.ParseUint(part[0], 10, 53)
	a.At, err[2] = parseMicros(part[1])
	run, ok := parseRun(part[3])
	a.Run = run
	return a, ok && err == [3]error{} && a.Claimant != ""
}

func parseMicros(digits string) (time.Time, error) {
	micros, err := strconv.ParseUint(digits, 10, 53)
	return time.UnixMicro(int64(micros)).UTC(), err
}

// Runs is what Redis knows of the runs under a lock.
type Runs struct {
	// Now is the server's time.
	Now time.Time
	// Active is ordered by fencing token.
	Active []ActiveRun
	// Ticks is ordered by series and tick. The done ones among them are the newest 16
	// of each series.
	Ticks []TickRecord
	// HighWater is the newest tick of each series that was ever claimed.
	HighWater map[string]time.Time
	// LastSuccess is when a run of each series was last recorded as a success.
	LastSuccess map[string]time.Time
	// Unreadable counts the entries that this package did not write.
	Unreadable int
}

// Runs says what is recorded of the runs under a lock. It changes nothing.
func (c *Client) Runs(ctx context.Context, key string) (Runs, error) {
	if err := ValidateKey(key); err != nil {
		return Runs{}, err
	}
	if c.isClosed() {
		return Runs{}, ErrClosed
	}
	r, err := c.run(ctx, operationTimeout, runsScript, []string{runsKey(key)})
	switch {
	case err != nil:
		return Runs{}, fmt.Errorf("redislock: runs of %q: %w", key, err)
	case r.word() == "corrupt":
		return Runs{}, corruptRuns(key)
	case r.word() != "ok":
		return Runs{}, r.unexpected("runs of", key)
	}
	runs := parseRuns(r.list(2))
	runs.Now = time.UnixMicro(r.number(1)).UTC()
	return runs, nil
}

// parseRuns reads a hash of fields and values that take turns.
func parseRuns(hash reply) Runs {
	runs := Runs{HighWater: map[string]time.Time{}, LastSuccess: map[string]time.Time{}}
	for i := 0; i+1 < len(hash); i += 2 {
		if !runs.read(hash.text(i), hash.text(i+1)) {
			runs.Unreadable++
		}
	}
	slices.SortFunc(runs.Active, func(a, b ActiveRun) int { return cmp.Compare(a.Fence, b.Fence) })
	slices.SortFunc(runs.Ticks, func(a, b TickRecord) int {
		return cmp.Or(cmp.Compare(a.Series, b.Series), a.Tick.Compare(b.Tick))
	})
	return runs
}

func (r *Runs) read(field, value string) bool {
	kind, name, _ := strings.Cut(field, " ")
	switch kind {
	case "tick", "id":
		run, ok := parseRun(field)
		if !ok {
			return false
		}
		record, ok := parseRecord(run, value)
		if ok && kind == "tick" {
			r.Ticks = append(r.Ticks, record)
		}
		return ok
	case "active":
		active, ok := parseActive(name, value)
		if ok {
			r.Active = append(r.Active, active)
		}
		return ok
	case "newest":
		run, ok := parseRun("tick " + name + " " + value)
		if ok {
			r.HighWater[run.Series] = run.Tick
		}
		return ok
	case "success":
		at, err := parseMicros(value)
		if err != nil || validateName("series", name) != nil {
			return false
		}
		r.LastSuccess[name] = at
		return true
	}
	return field == "expiry"
}

// FinishResult says what became of a record.
type FinishResult string

// The answers to FinishRun.
const (
	// FinishDone: it is recorded now.
	FinishDone FinishResult = "done"
	// FinishAlready: it was recorded before by the same claim; or it is a run without a
	// tick of which nothing is known any more.
	FinishAlready FinishResult = "already"
	// FinishSuperseded: the run was claimed again or finished by another, or it is a
	// tick of which nothing is known. What is recorded stays.
	FinishSuperseded FinishResult = "superseded"
)

// FinishRun records that a run is over and is not to run again, with an outcome of
// at most 512 bytes for people to read. success counts for Runs.LastSuccess.
//
// It needs the fencing token of the claim and not the lock: a run that ends just
// after its lease is recorded all the same. It may be repeated, and may arrive late.
func (c *Client) FinishRun(ctx context.Context, key string, run Run, fence uint64, outcome string, success bool) (FinishResult, error) {
	if len(outcome) > maxName {
		return "", invalid("outcome", outcome[:32]+"…", fmt.Sprintf("is longer than %d bytes", maxName))
	}
	if strings.ContainsFunc(outcome, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", invalid("outcome", outcome, "has a control character")
	}
	word, err := c.settle(ctx, "finish", finishScript, key, run, fence, outcome, wordIf(success, "success"))
	return FinishResult(word), err
}

// ReopenResult says what became of a claim that was given up.
type ReopenResult string

// The answers to ReopenRun.
const (
	// Reopened: anybody may claim the run now, as new.
	Reopened ReopenResult = "reopened"
	// ReopenedAlready: it was given up before by the same claim; or it is a run without
	// a tick of which nothing is known any more.
	ReopenedAlready ReopenResult = "already"
	// ReopenFinished: the run is recorded as done under this claim, and stays so.
	ReopenFinished ReopenResult = "finished"
	// ReopenSuperseded: the run was claimed again or finished by another, or it is a
	// tick of which nothing is known. What is recorded stays.
	ReopenSuperseded ReopenResult = "superseded"
)

// ReopenRun gives up a claim whose run has not been done, and will not be: anybody
// may then claim it as new, also without ClaimRequest.Rerun and though newer ticks
// were claimed since. Like FinishRun it needs the claim, not the lock.
func (c *Client) ReopenRun(ctx context.Context, key string, run Run, fence uint64) (ReopenResult, error) {
	word, err := c.settle(ctx, "reopen", reopenScript, key, run, fence)
	return ReopenResult(word), err
}

// settle ends a claim, one way or the other.
func (c *Client) settle(ctx context.Context, operation string, s *script, key string, run Run, fence uint64, args ...any) (string, error) {
	if err := ValidateKey(key); err != nil {
		return "", err
	}
	if err := run.validate(); err != nil {
		return "", err
	}
	if fence == 0 {
		return "", invalid("fence", "0", "names no claim")
	}
	if c.isClosed() {
		return "", ErrClosed
	}
	r, err := c.run(ctx, operationTimeout, s, []string{runsKey(key)},
		append([]any{run.name(), strconv.FormatUint(fence, 10)}, args...)...)
	if err != nil {
		return "", fmt.Errorf("redislock: %s %q of %q: %w", operation, run.name(), key, err)
	}
	switch r.word() {
	case "done", "already", "superseded", "reopened", "finished":
		return r.word(), nil
	case "corrupt":
		return "", corruptRuns(key)
	}
	return "", r.unexpected(operation, key)
}

func corruptRuns(key string) error {
	return fmt.Errorf("redislock: %q: %w: %q holds what is no record of runs; mend or delete it", key, ErrCorrupt, runsKey(key))
}

// wordIf is how a script is told of what is so: by a word, or by none.
func wordIf(set bool, word string) string {
	if set {
		return word
	}
	return ""
}
