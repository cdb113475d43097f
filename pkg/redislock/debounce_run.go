package redislock

import (
	"context"
	"fmt"
	"math/rand/v2"
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
	// Attempt counts those who had it, from 1. Resumed: this runner had it before, and
	// came back.
	Attempt int
	Resumed bool

	claim *debounceClaim
}

// SetLease keeps the claim for at least that long from now, and from each renewal on,
// for work that goes on though this process dies: nobody takes it over sooner.
func (r DebounceRun) SetLease(ctx context.Context, lease time.Duration) error {
	if lease < minLease || lease > longestSpan {
		return invalid("debounce lease", lease.String(), fmt.Sprintf("is not between %s and %s", minLease, longestSpan))
	}
	return r.claim.extend(ctx, lease)
}

// DebounceLostError says that a runner's claim was lost: its lease ended without a
// renewal, another runner has it, or Redis lost it. It is the cause of the run's context.
type DebounceLostError struct {
	Key        string
	Generation uint64
	// Err is why Redis could not be asked; nil where it answered.
	Err error
}

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
// When ctx ends while fn runs, and fn returns an error, the run is not over: another
// runner takes it over at once, or, where Debounce.Claimant is set, after the lease, so
// that a successor of that name can go on with it.
//
// Run returns nil when ctx ends, and an error only where trying again cannot help: wrong
// credentials, a key that holds something else, a closed Client. A Redis that does not
// answer is waited for.
func (d *Debouncer) Run(ctx context.Context, fn func(context.Context, DebounceRun) error) error {
	return d.serve(ctx, fn, func(DebounceState) bool { return false })
}

// CallAndWait records a call and waits until it was run, by this process or another. It
// runs what is due as Run does, and says whether it was this caller that ran its call; if
// so err is fn's. This is for programs that have no process which always runs: if all that
// wait die, the call waits for the next that comes.
func (d *Debouncer) CallAndWait(ctx context.Context, payload []byte, fn func(context.Context, DebounceRun) error) (ran bool, err error) {
	call, err := d.Call(ctx, payload)
	if err != nil {
		return false, err
	}
	var result error
	err = d.serve(ctx, func(ctx context.Context, run DebounceRun) error {
		failure := fn(ctx, run)
		if run.Generation >= call.Generation {
			ran, result = true, failure
		}
		return failure
	}, func(s DebounceState) bool { return s.LastRun != nil && s.LastRun.Generation >= call.Generation })
	switch {
	case err != nil:
		return ran, err
	case ran:
		return true, result
	}
	return false, ctx.Err()
}

// serve looks and runs until ctx ends or enough says so.
func (d *Debouncer) serve(ctx context.Context, fn func(context.Context, DebounceRun) error, enough func(DebounceState) bool) error {
	w := d.c.wakes.watch(d.key)
	defer w.leave()
	backoff := firstBackoff
	for {
		look, err := d.claim(ctx)
		var pause time.Duration
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !retryable(err):
			return err
		case err != nil:
			pause, backoff = backoff, min(2*backoff, longestBackoff)
		default:
			backoff = firstBackoff
			d.tell(look.state)
			if enough(look.state) {
				return nil
			}
			switch look.word {
			case "claimed", "resumed", "taken":
				d.perform(ctx, look, fn)
				continue
			case "waiting", "busy":
				pause = d.until(look) + rand.N(2*time.Millisecond)
			case "idle":
				pause = longestSpan
			default:
				return look.reply.unexpected("claim", d.key)
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

// until is how long it is until what a look says will be.
func (d *Debouncer) until(look debounceLook) time.Duration {
	return max(look.at.Sub(look.state.At), 0)
}

// claim asks for what is due.
func (d *Debouncer) claim(ctx context.Context) (debounceLook, error) {
	if d.c.isClosed() {
		return debounceLook{}, ErrClosed
	}
	notAfter, err := d.c.notAfter(ctx, operationTimeout)
	if err != nil {
		return debounceLook{}, err
	}
	s := &d.cfg
	look, err := d.ask(ctx, debounceClaimScript, s.Claimant, notAfter, s.Lease.Microseconds(),
		s.Wait.Microseconds(), s.MaxWait.Microseconds(), s.MinInterval.Microseconds(), string(s.Edge), string(s.Payload), wire.Milliseconds(s.Retention))
	switch {
	case err != nil:
		return debounceLook{}, err
	case look.word == "late":
		return debounceLook{}, errLate
	case look.word == "waiting":
		look.state.Due = look.at
	}
	return look, nil
}

// tell passes a state on, with whether calls were lost since the last. One that another
// goroutine has overtaken is old news.
func (d *Debouncer) tell(s DebounceState) {
	known := func(generation uint64) bool {
		return s.Pending == generation || s.Running != nil && s.Running.Generation == generation ||
			s.LastRun != nil && s.LastRun.Generation >= generation
	}
	d.telling.Lock()
	defer d.telling.Unlock()
	if s.At.Before(d.told) && s.At.Add(stepTolerance).After(d.told) {
		return
	}
	d.told = s.At
	s.Lost = d.open != 0 && !known(d.open)
	if s.Lost {
		s.LostGeneration = d.open
	}
	d.open = s.Pending
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
	if running == nil {
		return // no script of ours claims nothing
	}
	inner, cancel := context.WithCancelCause(ctx)
	claim := &debounceClaim{
		d: d, generation: running.Generation, lease: d.cfg.Lease, cancel: cancel,
		valid: validity{look.sent, validitySpan(d.cfg.Lease)},
	}
	stop := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() { claim.renew(stop) })
	err := func() error {
		defer func() {
			close(stop)
			renewing.Wait()
			cancel(nil)
		}()
		return fn(inner, DebounceRun{
			Generation: running.Generation, Payload: []byte(look.payload), Calls: running.Calls,
			First: running.First, Last: running.Last, Claimed: running.Claimed,
			Attempt: running.Attempt, Resumed: look.word == "resumed", claim: claim,
		})
	}()
	switch {
	case claim.isLost():
	case err != nil && ctx.Err() != nil && d.named:
		// Left to a successor.
	case err != nil && ctx.Err() != nil:
		claim.finish(context.WithoutCancel(ctx), "", "")
	case err != nil:
		claim.finish(context.WithoutCancel(ctx), DebounceFailed, err.Error())
	default:
		claim.finish(context.WithoutCancel(ctx), DebounceSucceeded, "")
	}
}

// A debounceClaim is the lease of a run.
type debounceClaim struct {
	d          *Debouncer
	generation uint64
	cancel     context.CancelCauseFunc

	mu    sync.Mutex
	lease time.Duration
	valid validity
	lost  bool
	last  error // why the last renewal was not heard
}

// renew prolongs the claim until stop is closed, and ends the run when it is lost.
func (c *debounceClaim) renew(stop <-chan struct{}) {
	clock := c.d.c.clock
	ctx, cancel := context.WithCancel(c.d.c.life)
	defer cancel()
	for {
		c.mu.Lock()
		every, left := c.lease/3, c.valid.remaining(clock.now())
		c.mu.Unlock()
		if left <= 0 {
			c.lose()
			return
		}
		timer, drop := clock.timer(min(every-rand.N(every/10+1), left))
		select {
		case <-stop:
			drop()
			return
		case <-c.d.c.life.Done():
			drop()
			return
		case <-timer:
		}
		// The answer is not waited for beyond the end of the lease, so that the run ends
		// then whether Redis hangs or not.
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.extend(ctx, 0)
		}()
		c.mu.Lock()
		left = c.valid.remaining(clock.now())
		c.mu.Unlock()
		over, drop := clock.timer(left)
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
func (c *debounceClaim) extend(ctx context.Context, lease time.Duration) error {
	c.mu.Lock()
	if lease == 0 {
		lease = c.lease
	}
	c.mu.Unlock()
	d := c.d
	look, err := d.ask(ctx, debounceExtendScript, d.cfg.Claimant, c.generation, lease.Microseconds(), wire.Milliseconds(max(d.cfg.Retention, 2*lease)))
	if err != nil {
		c.mu.Lock()
		c.last = err
		c.mu.Unlock()
		return err
	}
	if look.word != "ok" {
		c.lose()
		return &DebounceLostError{Key: d.key, Generation: c.generation}
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

func (c *debounceClaim) lose() {
	c.mu.Lock()
	lost := &DebounceLostError{Key: c.d.key, Generation: c.generation, Err: c.last}
	c.lost = true
	c.mu.Unlock()
	c.cancel(lost)
}

// finish ends the run, and tries to for as long as nobody else can have taken it over.
func (c *debounceClaim) finish(ctx context.Context, outcome, message string) {
	d := c.d
	for {
		look, err := d.ask(ctx, debounceFinishScript, d.cfg.Claimant, c.generation, outcome, message[:min(len(message), maxMessage)],
			wire.Milliseconds(d.cfg.Retention), wakeChannel(d.key))
		if err == nil {
			d.tell(look.state)
			return
		}
		c.mu.Lock()
		left := c.valid.remaining(d.c.clock.now())
		c.mu.Unlock()
		if left <= 0 || !retryable(err) || d.c.isClosed() {
			return
		}
		timer, drop := d.c.clock.timer(min(reclaimInterval, left))
		select {
		case <-timer:
		case <-d.c.life.Done():
			drop()
			return
		}
	}
}

// notAfter is the server's time after which a request that is sent now is void; it is
// asked for where no reply has told it yet.
func (c *Client) notAfter(ctx context.Context, timeout time.Duration) (int64, error) {
	now := c.server.micros(c.clock.now())
	if now == 0 {
		if err := c.askTime(ctx, timeout); err != nil {
			return 0, err
		}
		now = c.server.micros(c.clock.now())
	}
	return now + timeout.Microseconds(), nil
}
