package redislocktest

import (
	"context"
	"errors"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// debouncer returns one as a process of its own has it.
func (s *stand) debouncer(settings redislock.Debounce) *redislock.Debouncer {
	s.Helper()
	d, err := s.client().Debouncer(s.key, settings)
	s.must(err, "make a debouncer")
	return d
}

func (s *stand) call(d *redislock.Debouncer, payload string, opts ...redislock.CallOption) redislock.Call {
	s.Helper()
	call, err := d.Call(s.Context(), []byte(payload), opts...)
	s.must(err, "call")
	return call
}

func (s *stand) state(d *redislock.Debouncer) redislock.DebounceState {
	s.Helper()
	state, err := d.State(s.Context())
	s.must(err, "ask for the state of a debounce")
	return state
}

// serve has a debouncer run until the function that is returned is called.
func (s *stand) serve(d *redislock.Debouncer, fn func(context.Context, redislock.DebounceRun) error) (stop func()) {
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, fn) }()
	return func() {
		s.Helper()
		cancel()
		s.must(<-ended, "run what is due")
	}
}

// hand gives a run to the check, which takes no more of them than it needs.
func hand(ctx context.Context, to chan<- redislock.DebounceRun, r redislock.DebounceRun) {
	select {
	case to <- r:
	case <-ctx.Done():
	}
}

// debounced: calls are counted once, and are one run with the last payload.
func debounced(s *stand) {
	settings := redislock.Debounce{Wait: shortly / 2, MaxWait: patience}
	runs := make(chan redislock.DebounceRun, 10)
	run := func(ctx context.Context, r redislock.DebounceRun) error {
		hand(ctx, runs, r)
		return errors.New("as told")
	}
	defer s.serve(s.debouncer(settings), run)()
	defer s.serve(s.debouncer(settings), run)()
	caller := s.debouncer(redislock.Debounce{})
	first := s.call(caller, "one", redislock.WithSequence("a", 1))
	equal(s, first.Opened, true, "that the first call opened a window")
	s.call(caller, "two")
	equal(s, s.call(caller, "one", redislock.WithSequence("a", 1)).Again, true, "that a call was repeated")
	last := s.call(caller, "three")
	equal(s, last.Generation, first.Generation, "the generation of a window")
	equal(s, s.state(caller).Waiting, 3, "the calls that wait")
	for _, key := range []string{s.key, s.companion("sources"), s.companion("heard")} {
		s.expires(key, 25*time.Hour)
	}

	var got redislock.DebounceRun
	select {
	case got = <-runs:
	case <-time.After(patience):
		s.Fatalf("calls were not run within %s", patience)
	}
	equal(s, string(got.Payload), "three", "the payload of a run")
	equal(s, got.Calls, 3, "the calls of a run")
	equal(s, got.Generation, first.Generation, "the generation of a run")
	if due := last.At.Add(settings.Wait); got.Claimed.Before(due) {
		s.Errorf("it was run at %s, before it was due at %s", got.Claimed, due)
	}
	s.eventually("the end of a run is recorded", func() bool { return s.state(caller).LastRun != nil })
	state := s.state(caller)
	equal(s, state.LastRun.Outcome, redislock.DebounceFailed, "the outcome of a run")
	equal(s, state.LastRun.Message, "as told", "the message of a run")
	equal(s, state.Runs, 1, "the runs")
	equal(s, state.Quiet(), true, "that all is quiet")
	if next := s.call(caller, "four"); next.Generation <= first.Generation {
		s.Errorf("generation %d after %d", next.Generation, first.Generation)
	}
}

// debouncedRuns: a run is one runner's while its lease lasts, and then another's.
func debouncedRuns(s *stand) {
	settings := redislock.Debounce{Wait: time.Millisecond, Lease: shortly, Claimant: "dies"}
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	begun := make(chan redislock.DebounceRun, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- s.debouncer(settings).Run(ctx, func(ctx context.Context, r redislock.DebounceRun) error {
			hand(ctx, begun, r)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	call := s.call(s.debouncer(redislock.Debounce{}), "one")
	var first redislock.DebounceRun
	select {
	case first = <-begun:
	case <-time.After(patience):
		s.Fatalf("a call was not run within %s", patience)
	}
	equal(s, first.Attempt, 1, "the attempt")
	cancel() // it is left to a successor, who does not come
	s.must(<-ended, "run what is due")
	taken := make(chan redislock.DebounceRun, 1)
	settings.Claimant = "lives"
	defer s.serve(s.debouncer(settings), func(ctx context.Context, r redislock.DebounceRun) error {
		hand(ctx, taken, r)
		return nil
	})()
	select {
	case second := <-taken:
		equal(s, second.Attempt, 2, "the attempt of who took over")
		equal(s, second.Generation, call.Generation, "the generation that was taken over")
		equal(s, string(second.Payload), "one", "the payload that was taken over")
		if second.Claimed.Sub(first.Claimed) < shortly {
			s.Errorf("it was taken over after %s, within a lease of %s", second.Claimed.Sub(first.Claimed), shortly)
		}
	case <-time.After(patience):
		s.Fatalf("a run was not taken over within %s", patience)
	}
}
