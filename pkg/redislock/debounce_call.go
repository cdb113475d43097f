package redislock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

const (
	// callTimeout bounds one try to record calls, callTries how often it is tried.
	callTimeout = 2 * time.Second
	callTries   = 3
	// sourceMemory is how long a source is remembered after it was heard: a request of
	// its that comes later is void, and a repeated one would count again.
	sourceMemory = 10 * time.Minute
)

// maxSequence bounds a sequence: Redis' scripts count in float64.
const maxSequence = 1<<53 - 1

// A Call is a call that was recorded.
type Call struct {
	// Generation is that of the run which has the call in it; where it was recorded
	// before, that of the newest call of its source.
	Generation uint64
	// At is the server's time at which it was recorded.
	At time.Time
	// Opened: it opened a window.
	Opened bool
	// Again: it was recorded before; see WithSequence.
	Again bool
}

// CallOption is an option of Debouncer.Call.
type CallOption func(*callIdentity)

type callIdentity struct {
	source   string
	sequence uint64
	set      bool
}

// WithSequence names a call: repeated within ten minutes, after an error or a restart of
// its caller, it counts once. The sequence numbers of a source rise: a call with one that
// is not higher than the highest so far counts as repeated.
func WithSequence(source string, sequence uint64) CallOption {
	return func(i *callIdentity) { *i = callIdentity{source, sequence, true} }
}

// Call records a call, and returns when that is done, in one round trip; its run comes
// later, and may be anybody's. It may be repeated after an error, for at worst one run
// more; with WithSequence it counts once.
//
// Calls of one Debouncer at the same time share a round trip, in the order in which they
// came. If ctx ends first the call may be recorded all the same.
func (d *Debouncer) Call(ctx context.Context, payload []byte, opts ...CallOption) (Call, error) {
	var id callIdentity
	for _, opt := range opts {
		opt(&id)
	}
	switch {
	case len(payload) > MaxPayload:
		return Call{}, invalid("payload", string(payload[:32])+"…", fmt.Sprintf("is %d bytes long; the limit is %d", len(payload), MaxPayload))
	case id.sequence > maxSequence:
		return Call{}, invalid("sequence", strconv.FormatUint(id.sequence, 10), "is not below 2^53")
	case d.c.isClosed():
		return Call{}, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return Call{}, err
	}
	payload = bytes.Clone(payload) // which may be sent after this has returned
	if id.set {
		if err := validateName("source", id.source); err != nil {
			return Call{}, err
		}
		// The prefixes keep what callers name apart from debouncers.
		return d.record(ctx, "s:"+id.source, id.sequence, &callBatch{last: payload, count: 1})
	}
	return d.join(ctx, payload)
}

// A callBatch is calls that are recorded by one request. It has a first payload where
// they may be several.
type callBatch struct {
	first, last []byte
	count       int
	done        chan struct{}
	call        Call
	err         error
}

var errHook = errors.New("redislock: a hook of the connection to Redis did not return")

// join records a call, at once where no request is under way, else with the next.
func (d *Debouncer) join(ctx context.Context, payload []byte) (Call, error) {
	d.mu.Lock()
	if !d.sending {
		d.sending = true
		sequence := d.nextSequence()
		d.mu.Unlock()
		defer d.sendNext()
		return d.record(ctx, "p:"+d.source, sequence, &callBatch{last: payload, count: 1})
	}
	if d.next == nil {
		d.next = &callBatch{first: payload, done: make(chan struct{})}
	}
	b := d.next
	foremost := b.count == 0
	b.last = payload
	b.count++
	d.mu.Unlock()
	select {
	case <-b.done:
		call := b.call
		call.Opened = call.Opened && foremost
		return call, b.err
	case <-ctx.Done():
		return Call{}, ctx.Err()
	}
}

// nextSequence is called with mu held.
func (d *Debouncer) nextSequence() uint64 {
	d.sequence++
	return d.sequence
}

// sendNext sends what has gathered behind a request that is over, and is called after
// each.
func (d *Debouncer) sendNext() {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.next
	d.next = nil
	if b == nil {
		d.sending = false
		return
	}
	sequence := d.nextSequence()
	go func() {
		defer d.sendNext()
		defer close(b.done)
		// A hook of the connection may end this goroutine, and must not end the program:
		// none of the callers could keep it from that.
		b.err = errHook
		defer func() {
			if cause := recover(); cause != nil {
				b.err = fmt.Errorf("%w: %v", errHook, cause)
			}
		}()
		b.call, b.err = d.record(d.c.life, "p:"+d.source, sequence, b)
	}()
}

// record sends a request until it is answered. Each try has the same sequence, so that
// the calls in it count once.
func (d *Debouncer) record(ctx context.Context, source string, sequence uint64, b *callBatch) (Call, error) {
	var err error
	for range callTries {
		var call Call
		if call, err = d.tryRecord(ctx, source, sequence, b); err == nil {
			return call, nil
		}
		if ctx.Err() != nil || Refused(err) || errors.Is(err, ErrCorrupt) {
			break
		}
	}
	switch {
	case d.c.isClosed():
		return Call{}, ErrClosed
	case ctx.Err() != nil:
		return Call{}, ctx.Err()
	}
	return Call{}, fmt.Errorf("redislock: call %q: %w", d.key, err)
}

func (d *Debouncer) tryRecord(ctx context.Context, source string, sequence uint64, b *callBatch) (Call, error) {
	c := d.c
	sent, notAfter, err := c.notAfter(ctx, callTimeout)
	if err != nil {
		return Call{}, err
	}
	args := []any{source, sequence, notAfter, b.count, b.last, "", wire.Milliseconds(d.cfg.Retention), wire.Milliseconds(sourceMemory), wakeChannel(d.key)}
	if b.count > 1 {
		args[5] = b.first
	}
	r, err := c.runPatiently(ctx, sent, callTimeout, debounceCallScript, []string{d.key, sourcesKey(d.key), heardKey(d.key)}, args...)
	if err != nil {
		return Call{}, err
	}
	c.server.learn(sent, c.clock.now(), r.number(2))
	switch r.word() {
	case "recorded", "again":
		if r.number(1) <= 0 {
			break
		}
		return Call{
			Generation: uint64(r.number(1)), At: fromMicros(r.number(2)),
			Opened: r.number(3) == 1, Again: r.word() == "again",
		}, nil
	case "late":
		return Call{}, errLate
	case "corrupt":
		return Call{}, d.corrupt(r.text(1))
	}
	return Call{}, r.unexpected("call", d.key)
}
