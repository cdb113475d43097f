package redislock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

const (
	// idleLook is how often a runner looks at a key on which nothing is published, to
	// notice what it was not told.
	idleLook = time.Minute
	// blindLook is how often while it is not known to be told.
	blindLook = time.Second
)

// Outcomes of a run, in EndedDebounce.
const (
	DebounceSucceeded = "Succeeded"
	DebounceFailed    = "Failed"
)

// maxMessage bounds what is kept of a run's error, in bytes.
const maxMessage = 1024

// A DebounceRun is what a runner runs.
type DebounceRun struct {
	// Generation names the run. It is the same for whoever takes the run over, and
	// higher than that of every run before: an idempotency key.
	Generation uint64
	// Payload is that of the last call, or of the first; see Debounce.Payload.
	Payload []byte
	// Calls is how many it is for. The first came at First, the last at Last.
	Calls       int
	First, Last time.Time
	// Claimed is when this runner got it. Times are those of the server.
	Claimed time.Time
	// Attempt counts those who had it, from 1. Resumed: this claimant had it before, and
	// came back, or did not hear of its claim the first time.
	Attempt int
	Resumed bool

	claim *debounceClaim
}

// SetLease keeps the claim for at least that long from now, and from each renewal on,
// for work that goes on though this process dies: nobody takes it over sooner.
func (r DebounceRun) SetLease(ctx context.Context, lease time.Duration) error {
	if r.claim == nil {
		return fmt.Errorf("redislock: %w: this run was not claimed", ErrInvalid)
	}
	if lease < minLease || lease > longestSpan {
		return invalid("debounce lease", lease.String(), fmt.Sprintf("is not between %s and %s", minLease, longestSpan))
	}
	return r.claim.extend(ctx, operationTimeout, lease)
}

// DebounceLostError says that a runner's claim was lost: its lease ended without a
// renewal, another runner has it, or Redis lost it. It is the cause of the run's context.
type DebounceLostError struct {
	Key        string
	Generation uint64
	// Err is why Redis could not be asked; nil where it answered.
	Err error
}

// errUnheard is why a lease ended without a renewal, where nothing failed yet.
var errUnheard = errors.New("no answer from Redis yet")

// errCallLost: Redis does not know a generation in which it recorded a call.
var errCallLost = errors.New("redislock: the recorded call was lost")

func (e *DebounceLostError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("redislock: debounce %q: the claim of generation %d was lost: its lease ended without a renewal: %v", e.Key, e.Generation, e.Err)
	}
	return fmt.Sprintf("redislock: debounce %q: the claim of generation %d was lost: another runner has it, or Redis lost it", e.Key, e.Generation)
}

// Unwrap makes both ErrLost and the cause visible to errors.Is.
func (e *DebounceLostError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrLost}
	}
	return []error{ErrLost, e.Err}
}

// Run runs what is due, one run after the other, until ctx ends. Any number of processes
// may do so; each run is claimed by one. Calls that come during a run are run after it.
//
// What fn returns is kept as the run's outcome; a run that failed is not repeated. The
// context that fn gets ends with a *DebounceLostError as its cause when the claim is lost.
// If fn returns nil all the same, the run is over unless another has taken it already.
// When ctx ends while fn runs, and fn returns an error, the run is not over: another
// runner takes it over at once, or, where Debounce.Claimant is set, after the lease, so
// that a successor of that name can go on with it.
//
// One goroutine of a Debouncer runs at a time: Run and CallAndWait take turns.
//
// Run returns nil when ctx ends, and an error only where trying again cannot help: wrong
// credentials, a key that holds something else, a closed Client. A Redis that does not
// answer is waited for.
func (d *Debouncer) Run(ctx context.Context, fn func(context.Context, DebounceRun) error) error {
	return d.serve(ctx, fn, 0)
}

// CallAndWait records a call and waits until it was run, by this process or another. It
// runs what is due as Run does, and says whether it was this caller that ran its call; if
// so err is fn's. A call that Redis lost meanwhile is recorded again. This is for programs
// that have no process which always runs: if all that wait die, the call waits for the
// next that comes. A run that waits for a call of its own Debouncer waits in vain.
func (d *Debouncer) CallAndWait(ctx context.Context, payload []byte, fn func(context.Context, DebounceRun) error) (ran bool, err error) {
	var result error
	for {
		call, err := d.Call(ctx, payload)
		if err != nil {
			return ran, err
		}
		err = d.serve(ctx, func(ctx context.Context, run DebounceRun) error {
			failure := fn(ctx, run)
			if run.Generation >= call.Generation {
				ran, result = true, failure
			}
			return failure
		}, call.Generation)
		switch {
		case errors.Is(err, errCallLost):
			continue
		case err != nil:
			return ran, err
		case ran:
			return true, result
		}
		return false, ctx.Err()
	}
}

// serve looks and runs until ctx ends, or the awaited generation or a later one has
// ended.
func (d *Debouncer) serve(ctx context.Context, fn func(context.Context, DebounceRun) error, awaited uint64) error {
	w := d.c.wakes.watch(d.key)
	defer w.leave()
	backoff := firstBackoff
	for {
		look, err := d.step(ctx, fn, awaited)
		var pause time.Duration
		switch {
		case err == nil && look.word == "over":
			return nil
		case ctx.Err() != nil:
			return nil
		case err != nil && !retryable(err):
			return err
		case err != nil:
			pause, backoff = backoff, min(2*backoff, longestBackoff)
		case look.claimed():
			backoff = firstBackoff
			continue
		case awaited != 0 && !look.state.knows(awaited):
			return errCallLost
		default:
			backoff = firstBackoff
			pause = longestSpan
			if look.word != "idle" {
				pause = d.until(look) + rand.N(2*time.Millisecond)
			}
			longest := idleLook - rand.N(idleLook/10)
			if !w.pushed() {
				longest = blindLook
			}
			pause = min(pause, longest)
		}
		if !w.wait(ctx, pause) {
			return nil
		}
	}
}

// step looks, and runs what it got.
func (d *Debouncer) step(ctx context.Context, fn func(context.Context, DebounceRun) error, awaited uint64) (debounceLook, error) {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return debounceLook{}, ctx.Err()
	case <-d.c.life.Done():
		return debounceLook{}, ErrClosed
	}
	defer func() { <-d.turn }()
	look, err := d.claim(ctx, awaited)
	if err != nil {
		return debounceLook{}, err
	}
	d.tell(look.state)
	if look.claimed() {
		d.perform(ctx, look, fn)
	}
	return look, nil
}

func (l debounceLook) claimed() bool {
	return l.word == "claimed" || l.word == "resumed" || l.word == "taken"
}

// until is how long it is until what a look says will be.
func (d *Debouncer) until(look debounceLook) time.Duration {
	return max(look.at.Sub(look.state.At), 0)
}

// claim asks for what is due.
func (d *Debouncer) claim(ctx context.Context, awaited uint64) (debounceLook, error) {
	if d.c.isClosed() {
		return debounceLook{}, ErrClosed
	}
	_, notAfter, err := d.c.notAfter(ctx, operationTimeout)
	if err != nil {
		return debounceLook{}, err
	}
	s := &d.cfg
	look, err := d.ask(ctx, operationTimeout, debounceClaimScript, s.Claimant, notAfter, s.Lease.Microseconds(),
		s.Wait.Microseconds(), s.MaxWait.Microseconds(), s.MinInterval.Microseconds(), string(s.Edge), string(s.Payload), wire.Milliseconds(s.Retention), awaited)
	if err != nil {
		return debounceLook{}, err
	}
	switch look.word {
	case "claimed", "resumed", "taken":
		if look.state.Running == nil {
			break
		}
		return look, nil
	case "waiting":
		look.state.Due = look.at
		return look, nil
	case "busy", "idle", "over":
		return look, nil
	case "late":
		return debounceLook{}, errLate
	}
	return debounceLook{}, look.reply.unexpected("claim", d.key)
}

// tell passes a state on, with whether calls were lost since the last. One that another
// goroutine has overtaken is old news.
func (d *Debouncer) tell(s DebounceState) {
	d.telling.Lock()
	defer d.telling.Unlock()
	if s.At.Before(d.told) && s.At.Add(stepTolerance).After(d.told) {
		return
	}
	d.told = s.At
	// Later generations may have come and gone since Redis lost one, but not as many calls.
	s.Lost = d.open != 0 && (!s.knows(d.open) || s.Calls < d.calls)
	if s.Lost {
		s.LostGeneration = d.open
	}
	d.open, d.calls = s.Pending, s.Calls
	if s.Running != nil {
		d.open = s.Running.Generation
	}
	if d.cfg.OnState != nil {
		d.cfg.OnState(s)
	}
}

// perform runs what was claimed, renews the claim meanwhile, and ends it.
func (d *Debouncer) perform(ctx context.Context, look debounceLook, fn func(context.Context, DebounceRun) error) {
	running := look.state.Running
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	claim := &debounceClaim{
		d: d, generation: running.Generation, attempt: running.Attempt, lease: d.cfg.Lease, cancel: cancel,
		valid: validity{look.sent, validitySpan(d.cfg.Lease)},
	}
	if ctx.Err() != nil && look.word != "resumed" {
		claim.finish(ctx, "", "") // it has not begun
		return
	}
	stop := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() { claim.renew(stop) })
	err := func() error {
		defer func() {
			close(stop)
			renewing.Wait()
		}()
		return fn(inner, DebounceRun{
			Generation: running.Generation, Payload: []byte(look.payload), Calls: running.Calls,
			First: running.First, Last: running.Last, Claimed: running.Claimed,
			Attempt: running.Attempt, Resumed: look.word == "resumed", claim: claim,
		})
	}()
	switch {
	case err == nil:
		// Also after a loss, for perhaps nobody has taken it over yet.
		claim.finish(ctx, DebounceSucceeded, "")
	case claim.isLost():
	case ctx.Err() != nil && d.named:
		// Left to a successor.
	case ctx.Err() != nil:
		claim.finish(ctx, "", "")
	default:
		claim.finish(ctx, DebounceFailed, err.Error())
	}
}

// A debounceClaim is the lease of a run.
type debounceClaim struct {
	d          *Debouncer
	generation uint64
	attempt    int
	cancel     context.CancelCauseFunc

	mu    sync.Mutex
	lease time.Duration
	valid validity
	lost  bool
	last  error // why the last renewal was not heard
}

// remaining is how long the claim is still valid.
func (c *debounceClaim) remaining() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.valid.remaining(c.d.c.clock.now())
}

// renew prolongs the claim until stop is closed, and ends the run when it is lost.
func (c *debounceClaim) renew(stop <-chan struct{}) {
	clock := c.d.c.clock
	ctx, cancel := context.WithCancel(c.d.c.life)
	defer cancel()
	for {
		c.mu.Lock()
		every, timeout := c.lease/3, min(c.lease/6, operationTimeout)
		if c.last != nil {
			every = min(every, reclaimInterval)
		}
		c.mu.Unlock()
		left := c.remaining()
		if left <= 0 {
			c.lapse()
			return
		}
		timer, drop := clock.timer(min(every-rand.N(every/10+1), left))
		select {
		case <-timer:
		case <-stop:
			drop()
			return
		case <-c.d.c.life.Done():
			drop()
			c.cancel(ErrClosed)
			return
		}
		// The answer is not waited for beyond the end of the lease, so that the run ends
		// then whether Redis hangs or not.
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.extend(ctx, timeout, 0)
		}()
		over, drop := clock.timer(c.remaining())
		select {
		case <-done:
		case <-stop:
		case <-over:
		}
		drop()
		if c.isLost() {
			return
		}
	}
}

// extend prolongs the claim, by a new lease unless that is 0.
func (c *debounceClaim) extend(ctx context.Context, timeout, lease time.Duration) error {
	c.mu.Lock()
	if lease == 0 {
		lease = c.lease
	}
	c.mu.Unlock()
	d := c.d
	look, err := d.ask(ctx, timeout, debounceExtendScript, d.cfg.Claimant, c.generation, c.attempt, lease.Microseconds(), wire.Milliseconds(max(d.cfg.Retention, 2*lease)))
	if err == nil && look.word != "ok" && look.word != "gone" {
		err = look.reply.unexpected("extend", d.key)
	}
	if err != nil {
		c.mu.Lock()
		c.last = err
		c.mu.Unlock()
		return err
	}
	if look.word == "gone" {
		lost := &DebounceLostError{Key: d.key, Generation: c.generation}
		c.lose(lost)
		return lost
	}
	c.mu.Lock()
	c.lease, c.last = lease, nil
	if renewed := (validity{look.sent, validitySpan(lease)}); renewed.remaining(look.sent) > c.valid.remaining(look.sent) {
		c.valid = renewed
	}
	c.mu.Unlock()
	d.tell(look.state)
	return nil
}

func (c *debounceClaim) isLost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// lapse is called when the lease has ended without a renewal.
func (c *debounceClaim) lapse() {
	c.mu.Lock()
	why := orDefault(c.last, errUnheard)
	c.mu.Unlock()
	c.lose(&DebounceLostError{Key: c.d.key, Generation: c.generation, Err: why})
}

func (c *debounceClaim) lose(err error) {
	c.mu.Lock()
	c.lost = true
	c.mu.Unlock()
	c.cancel(err)
}

// finish ends the run, and tries to until it is answered: by then another may have
// taken the run over, and the answer says so. When ctx has ended it goes on for a while,
// but not beyond the lease.
func (c *debounceClaim) finish(ctx context.Context, outcome, message string) {
	d := c.d
	message = strings.ToValidUTF8(message[:min(len(message), maxMessage)], "")
	backoff := reclaimInterval
	ended, giveUp := ctx.Done(), make(<-chan time.Time)
	for {
		look, err := d.ask(context.WithoutCancel(ctx), operationTimeout, debounceFinishScript, d.cfg.Claimant, c.generation, c.attempt,
			outcome, message, wire.Milliseconds(d.cfg.Retention), wakeChannel(d.key))
		if err == nil {
			if look.word == "done" || look.word == "again" || look.word == "gone" {
				d.tell(look.state)
			}
			return
		}
		if !retryable(err) || d.c.isClosed() {
			return
		}
		timer, drop := d.c.clock.timer(backoff)
		backoff = min(2*backoff, longestBackoff)
		select {
		case <-timer:
		case <-ended:
			over, stop := d.c.clock.timer(min(c.remaining(), operationTimeout))
			defer stop()
			ended, giveUp, backoff = nil, over, reclaimInterval
		case <-giveUp:
			drop()
			return
		case <-d.c.life.Done():
			drop()
			return
		}
		drop()
	}
}
