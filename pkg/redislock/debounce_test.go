package redislock

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

const debounceKey = "debounce:a"

// debouncer returns one for a test's key.
func debouncer(t *testing.T, c *Client, settings Debounce) *Debouncer {
	t.Helper()
	d, err := c.Debouncer(debounceKey, settings)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// running has a debouncer run until the test ends.
func running(t *testing.T, d *Debouncer, fn func(context.Context, DebounceRun) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() {
		if err := d.Run(ctx, fn); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		runs.Wait()
	})
}

func mustCall(t *testing.T, d *Debouncer, payload string, opts ...CallOption) Call {
	t.Helper()
	call, err := d.Call(t.Context(), []byte(payload), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return call
}

func TestManyCallsAreOneRun(t *testing.T) {
	t.Parallel()
	g := within(t)
	url := startRedis(t).URL()
	runs := make(chan DebounceRun, 100)
	for range 3 {
		running(t, debouncer(t, dial(t, url), Debounce{Wait: 300 * time.Millisecond, MaxWait: patience}), func(_ context.Context, r DebounceRun) error {
			runs <- r
			return nil
		})
	}
	caller := debouncer(t, dial(t, url), Debounce{})
	var last Call
	for i := range 50 {
		last = mustCall(t, caller, fmt.Sprint(i))
	}
	var run DebounceRun
	g.Eventually(runs).Should(Receive(&run))
	g.Expect(string(run.Payload)).To(Equal("49"))
	g.Expect(run.Calls).To(Equal(50))
	g.Expect(run.Generation).To(Equal(last.Generation))
	g.Expect(run.Last).To(Equal(last.At))
	g.Expect(run.Claimed).To(BeTemporally(">=", last.At.Add(300*time.Millisecond)))
	g.Eventually(func() (DebounceState, error) { return caller.State(t.Context()) }).Should(And(
		HaveField("Quiet()", true), HaveField("Runs", int64(1)), HaveField("Calls", int64(50)),
		HaveField("LastRun.Outcome", DebounceSucceeded)))
	g.Expect(runs).To(BeEmpty())
}

func TestCallsAtTheSameTimeShareARoundTrip(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	d := debouncer(t, dial(t, server.URL()), Debounce{})
	var calls sync.WaitGroup
	var opened atomic.Int32
	for i := range 500 {
		calls.Go(func() {
			if call, err := d.Call(t.Context(), fmt.Append(nil, i)); err != nil {
				t.Error(err)
			} else if call.Opened {
				opened.Add(1)
			}
		})
	}
	calls.Wait()
	state, err := d.State(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(state.Calls).To(Equal(int64(500)))
	g.Expect(state.Waiting).To(Equal(500))
	g.Expect(state.Open).To(BeTrue())
}

func TestCallAndWaitSaysWhoRan(t *testing.T) {
	t.Parallel()
	g := within(t)
	url := startRedis(t).URL()
	var ran, runs atomic.Int32
	var calls sync.WaitGroup
	for range 5 {
		d := debouncer(t, dial(t, url), Debounce{Wait: 200 * time.Millisecond})
		calls.Go(func() {
			did, err := d.CallAndWait(t.Context(), nil, func(context.Context, DebounceRun) error {
				runs.Add(1)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if did {
				ran.Add(1)
			}
		})
	}
	calls.Wait()
	g.Expect(runs.Load()).To(BeNumerically(">=", 1))
	g.Expect(ran.Load()).To(Equal(runs.Load()))
}
