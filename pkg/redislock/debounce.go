package redislock

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Defaults of a Debounce.
const (
	DefaultDebounceWait      = time.Second
	DefaultDebounceLease     = 30 * time.Second
	DefaultDebounceRetention = 24 * time.Hour
	// DebounceMaxWaitFactor times Wait is the default of MaxWait.
	DebounceMaxWaitFactor = 10
)

// MaxPayload bounds the payload of a call, in bytes.
const MaxPayload = 64 << 10

// Edge says when in a window of calls a debounce runs.
type Edge string

// Edges of a window.
const (
	// Trailing: when it ends.
	Trailing Edge = "Trailing"
	// Leading: at its first call. Calls in the rest of the window are covered by that
	// run.
	Leading Edge = "Leading"
	// Both: at its first call, and, where more came, when it ends. A window that MaxWait
	// ended while calls went on is followed by one without a run at its first call.
	Both Edge = "Both"
)

// PayloadChoice says whose payload a run gets.
type PayloadChoice string

// Payloads of a run.
const (
	LastPayload  PayloadChoice = "Last"
	FirstPayload PayloadChoice = "First"
)

// Debounce is how a Debouncer runs what it is called for. Who only calls needs none of
// it: the zero value of each field is its default.
//
// The runners of one key must have the same Wait, MaxWait, MinInterval, Edge and Payload;
// where they differ, those of whoever looks first count.
type Debounce struct {
	// Wait is how long no call must come for a window to end. Default 1 s.
	Wait time.Duration
	// MaxWait is when it ends at the latest, after its first call, so that calls which
	// never cease do not put a run off for ever. Default ten times Wait.
	MaxWait time.Duration
	// MinInterval is the least time between the beginnings of two runs. It goes before
	// MaxWait. Default 0.
	MinInterval time.Duration
	// Edge is when in a window to run. Default Trailing.
	Edge Edge
	// Payload is which call's payload the run gets. Default LastPayload.
	Payload PayloadChoice

	// Lease is for how long a run is claimed unless that is renewed, and so about the
	// time until another runner takes over from one that died. Default 30 s.
	Lease time.Duration
	// Claimant names the runner. A runner that comes back under the same name, after a
	// restart, goes on with its run at once, and one that stops does not give its run to
	// others. No two may have the same at the same time. By default each Debouncer has a
	// name of its own.
	Claimant string
	// Retention is how long Redis keeps what it knows of a key on which nothing happens;
	// calls that nobody runs are forgotten then. It is at least twice what a window and a
	// lease can last. Default 24 h.
	Retention time.Duration

	// OnState is told what a runner saw whenever it has looked: when something was
	// published, when a window was due, with each renewal, and once a minute. It is called
	// once at a time, and must not block.
	OnState func(DebounceState)
}

// A Debouncer turns many calls into one run, over all processes and clusters that share
// its key: once calls have ceased for a while, or have gone on for too long, one of the
// processes that Run runs. It is safe for concurrent use.
//
// A call is recorded in Redis when Call returns, and is run whatever becomes of its
// caller: at least once. If a runner dies another takes over the same generation, with
// the same payload; make what it does idempotent by DebounceRun.Generation.
//
// A Redis that loses acknowledged writes loses calls with them; see DebounceState.Lost.
type Debouncer struct {
	c   *Client
	key string
	cfg Debounce

	// A caller that finds another's request under way joins the next: sequences of a
	// source rise in the order in which they arrive, and a storm of calls costs few
	// round trips.
	source   string
	mu       sync.Mutex
	sequence uint64
	sending  bool
	next     *callBatch

	named bool // its claimant's name was given to it
	// turn is had by the one goroutine that looks or runs: to Redis all of them are the
	// same claimant.
	turn chan struct{}

	telling sync.Mutex
	told    time.Time // of the last state that was passed on
	open    uint64    // the generation that was pending or running then; 0 for none
	calls   int64     // that were known then
}

// Debouncer returns a debouncer for a key, which must be no lock's. It sends nothing yet.
func (c *Client) Debouncer(key string, settings Debounce) (*Debouncer, error) {
	if err := ValidateKey(key); err != nil {
		return nil, err
	}
	d := &Debouncer{c: c, key: key, cfg: settings, source: c.newName(), named: settings.Claimant != "", turn: make(chan struct{}, 1)}
	if err := d.cfg.complete(c); err != nil {
		return nil, err
	}
	return d, nil
}

// newName returns one that nobody else has.
func (c *Client) newName() string {
	t := c.nextToken(c.identity)
	return t.identity + "#" + t.nonce + "." + t.sequence
}

// complete sets what was left out.
func (s *Debounce) complete(c *Client) error {
	s.Wait = orDefault(s.Wait, DefaultDebounceWait)
	s.MaxWait = orDefault(s.MaxWait, min(DebounceMaxWaitFactor*s.Wait, longestSpan))
	s.Edge = orDefault(s.Edge, Trailing)
	s.Payload = orDefault(s.Payload, LastPayload)
	s.Lease = orDefault(s.Lease, DefaultDebounceLease)
	s.Retention = orDefault(s.Retention, max(DefaultDebounceRetention, s.leastRetention()))
	s.Claimant = orDefault(s.Claimant, c.newName())
	for _, span := range []struct {
		what     string
		d, least time.Duration
		why      string
	}{
		{"debounce wait", s.Wait, time.Millisecond, "is below 1ms"},
		{"debounce maximum wait", s.MaxWait, s.Wait, fmt.Sprintf("is below the wait, %s", s.Wait)},
		{"debounce minimum interval", s.MinInterval, 0, "is negative"},
		{"debounce lease", s.Lease, minLease, fmt.Sprintf("is below %s", minLease)},
		{"debounce retention", s.Retention, s.leastRetention(), fmt.Sprintf("is below %s, twice what a window and a lease can last", s.leastRetention())},
	} {
		switch {
		case span.d < span.least:
			return invalid(span.what, span.d.String(), span.why)
		case span.d > longestSpan:
			return invalid(span.what, span.d.String(), fmt.Sprintf("is above %s", longestSpan))
		}
	}
	if s.Edge != Trailing && s.Edge != Leading && s.Edge != Both {
		return invalid("debounce edge", string(s.Edge), "is none of Trailing, Leading and Both")
	}
	if s.Payload != LastPayload && s.Payload != FirstPayload {
		return invalid("debounce payload", string(s.Payload), "is neither Last nor First")
	}
	return validateName("debounce claimant", s.Claimant)
}

func (s *Debounce) leastRetention() time.Duration {
	return 2 * (s.MaxWait + s.MinInterval + s.Lease)
}

func orDefault[T comparable](value, otherwise T) T {
	var none T
	if value == none {
		return otherwise
	}
	return value
}

// Key returns the key under which the calls are kept.
func (d *Debouncer) Key() string { return d.key }

// DebounceState is what Redis knows of a debounce. Times are those of the server; what
// does not apply is zero.
type DebounceState struct {
	// At is when this was so.
	At time.Time
	// Open: a window is open. Since is when its first call came.
	Open  bool
	Since time.Time
	// Pending is the generation of the calls that nobody has claimed yet, Waiting their
	// number.
	Pending uint64
	Waiting int
	// Due is when the window ends, unless more calls come, or when it is run: known to
	// those who run only, and zero while another generation is run.
	Due time.Time
	// Running is what is run now.
	Running *RunningDebounce
	// LastCall is when the last call was recorded.
	LastCall time.Time
	// LastRun is the run that ended last.
	LastRun *EndedDebounce
	// Calls and Runs are how many there were since Redis knows this key.
	Calls, Runs int64
	// Lost: calls of a generation that was pending or run at the last look are gone:
	// Redis lost writes that it had acknowledged. LostGeneration is which.
	Lost           bool
	LostGeneration uint64
}

// knows says whether a generation that was drawn waits, runs, or is over.
func (s DebounceState) knows(generation uint64) bool {
	return s.Pending == generation || s.Running != nil && s.Running.Generation == generation ||
		s.LastRun != nil && s.LastRun.Generation >= generation
}

// Quiet says that no window is open and nothing is run.
func (s DebounceState) Quiet() bool { return !s.Open && s.Running == nil }

// RunningDebounce is a run that goes on.
type RunningDebounce struct {
	Generation uint64
	// Claimant is empty where the last one has given the run back.
	Claimant string
	// Claimed is when the claimant got it, Till when another may take it over.
	Claimed, Till time.Time
	// Attempt counts the claimants, from 1.
	Attempt int
	// Calls is how many it runs for; the first came at First, the last at Last.
	Calls       int
	First, Last time.Time
}

// EndedDebounce is a run that has ended.
type EndedDebounce struct {
	Generation        uint64
	Claimant          string
	Started, Finished time.Time
	Calls, Attempt    int
	Outcome, Message  string
}

// State asks for the state. Its Due is always zero.
func (d *Debouncer) State(ctx context.Context) (DebounceState, error) {
	if d.c.isClosed() {
		return DebounceState{}, ErrClosed
	}
	look, err := d.ask(ctx, operationTimeout, debounceStateScript)
	if err != nil {
		return DebounceState{}, err
	}
	if look.word != "state" {
		return DebounceState{}, look.reply.unexpected("look at", d.key)
	}
	return look.state, nil
}

// A debounceLook is an answer of the scripts of runners.
type debounceLook struct {
	word    string
	at      time.Time
	state   DebounceState
	payload string
	reply   reply
	sent    instant
}

func (d *Debouncer) ask(ctx context.Context, timeout time.Duration, s *script, args ...any) (debounceLook, error) {
	sent := d.c.clock.now()
	r, err := d.c.run(ctx, timeout, s, []string{d.key}, args...)
	if err != nil {
		return debounceLook{}, fmt.Errorf("redislock: debounce %q: %w", d.key, err)
	}
	if r.word() == "corrupt" {
		return debounceLook{}, d.corrupt(r.text(4))
	}
	d.c.server.learn(sent, d.c.clock.now(), r.number(1))
	return debounceLook{
		word: r.word(), at: fromMicros(r.number(2)), state: debounceState(r.number(1), r.list(3)),
		payload: r.text(4), reply: r, sent: sent,
	}, nil
}

func (d *Debouncer) corrupt(which string) error {
	if which == "sources" {
		return fmt.Errorf("redislock: debounce %q: %w: %q is no hash or %q no sorted set; delete it", d.key, ErrCorrupt, sourcesKey(d.key), heardKey(d.key))
	}
	return fmt.Errorf("redislock: debounce %q: %w: the key holds what is no debounce, a lock perhaps; use another key, or delete it", d.key, ErrCorrupt)
}

// debounceState reads what stateOf in debounce.lua tells.
func debounceState(now int64, fields reply) DebounceState {
	i := -1
	text := func() string { i++; return fields.text(i) }
	number := func() int64 {
		n, _ := strconv.ParseInt(text(), 10, 64) // a missing field is ''
		return n
	}
	moment := func() time.Time { return fromMicros(number()) }
	generation := func() uint64 { return uint64(max(number(), 0)) }
	count := func() int { return int(max(number(), 0)) }

	generation() // the highest drawn
	s := DebounceState{At: fromMicros(now), Calls: number(), Runs: number(), LastCall: moment()}
	s.Since = moment()
	s.Open = !s.Since.IsZero()
	s.Pending = generation()
	moment() // of its first call
	s.Waiting = count()
	generation() // of the run that the window began with
	running := RunningDebounce{
		Generation: generation(), Claimant: text(), Claimed: moment(), Till: moment(), Attempt: count(),
		First: moment(), Last: moment(), Calls: count(),
	}
	if running.Generation != 0 {
		s.Running = &running
	}
	last := EndedDebounce{
		Generation: generation(), Claimant: text(), Started: moment(), Finished: moment(),
		Calls: count(), Attempt: count(), Outcome: text(), Message: text(),
	}
	if last.Generation != 0 {
		s.LastRun = &last
	}
	return s
}
