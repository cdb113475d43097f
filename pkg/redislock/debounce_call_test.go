package redislock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

// callOf matches what records calls.
func callOf() proxy.Match { return proxy.Script(debounceKey, sourcesKey(debounceKey)) }

func TestACallIsCheckedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	d := debouncer(t, dial(t, p.URL()), Debounce{})
	for why, call := range map[string]func() (Call, error){
		"payload": func() (Call, error) { return d.Call(t.Context(), make([]byte, MaxPayload+1)) },
		"below 2^53": func() (Call, error) {
			return d.Call(t.Context(), nil, WithSequence("a", 1<<53))
		},
		"is empty": func() (Call, error) { return d.Call(t.Context(), nil, WithSequence("", 1)) },
		"a space": func() (Call, error) {
			return d.Call(t.Context(), nil, WithSequence("a b", 1))
		},
	} {
		_, err := call()
		g.Expect(err).To(MatchError(ErrInvalid))
		g.Expect(err).To(MatchError(ContainSubstring(why)))
	}
	_, err := d.Call(canceled(), nil)
	g.Expect(err).To(MatchError(context.Canceled))
	g.Expect(p.Requests()).To(BeEmpty())

	big := mustCall(t, d, strings.Repeat("x", MaxPayload), WithSequence("a", 1<<53-1))
	g.Expect(big).To(And(HaveField("Opened", true), HaveField("Again", false)))
	g.Expect(d.c.Close(t.Context())).To(Succeed())
	for _, opt := range [][]CallOption{nil, {WithSequence("b", 1)}} {
		_, err = d.Call(t.Context(), nil, opt...)
		g.Expect(err).To(MatchError(ErrClosed))
	}
	_, err = d.State(t.Context())
	g.Expect(err).To(MatchError(ErrClosed))
	g.Expect(d.Run(t.Context(), nil)).To(MatchError(ErrClosed))
}

func TestSettingsOfADebounceAreChecked(t *testing.T) {
	t.Parallel()
	g := within(t)
	c := newClient(t, redis.NewClient(&redis.Options{}))
	for why, s := range map[string]Debounce{
		"below 1ms":              {Wait: time.Microsecond},
		"is negative":            {MinInterval: -1},
		"below the wait":         {Wait: time.Minute, MaxWait: time.Second},
		"debounce lease":         {Lease: 1},
		"debounce retention":     {Retention: time.Minute},
		"debounce edge":          {Edge: "leading"},
		"debounce payload":       {Payload: "Middle"},
		"debounce claimant":      {Claimant: "a b"},
		"debounce wait":          {Wait: 2 * longestSpan},
		"debounce maximum wait":  {MaxWait: 2 * longestSpan},
		"a window and a lease c": {Wait: time.Hour, Retention: 2 * time.Hour},
	} {
		_, err := c.Debouncer(debounceKey, s)
		g.Expect(err).To(MatchError(ErrInvalid), why)
		g.Expect(err).To(MatchError(ContainSubstring(why)))
	}
	_, err := c.Debouncer("a{}b", Debounce{})
	g.Expect(err).To(MatchError(ErrInvalid))
	d := debouncer(t, c, Debounce{})
	other := debouncer(t, c, Debounce{})
	g.Expect(d.cfg).To(And(HaveField("Wait", time.Second), HaveField("MaxWait", 10*time.Second), HaveField("Lease", 30*time.Second),
		HaveField("Edge", Trailing), HaveField("Payload", LastPayload), HaveField("Retention", 24*time.Hour)))
	g.Expect(d.cfg.Claimant).NotTo(Equal(other.cfg.Claimant))
	g.Expect(d.Key()).To(Equal(debounceKey))
	long := debouncer(t, c, Debounce{Wait: 24 * time.Hour})
	g.Expect(long.cfg.Retention).To(BeNumerically(">=", 2*long.cfg.MaxWait))
}

func TestACallWithASequenceCountsOnceThoughItsCallerRestarted(t *testing.T) {
	t.Parallel()
	g := within(t)
	url := startRedis(t).URL()
	first := mustCall(t, debouncer(t, dial(t, url), Debounce{}), "one", WithSequence("webhook", 7))
	restarted := debouncer(t, dial(t, url), Debounce{})
	again := mustCall(t, restarted, "one", WithSequence("webhook", 7))
	g.Expect(again).To(And(HaveField("Again", true), HaveField("Generation", first.Generation), HaveField("Opened", false)))
	g.Expect(mustCall(t, restarted, "two", WithSequence("webhook", 8)).Again).To(BeFalse())
	g.Expect(mustCall(t, restarted, "three", WithSequence("other", 1)).Again).To(BeFalse())
	g.Expect(restarted.State(t.Context())).To(And(HaveField("Waiting", 3), HaveField("Calls", int64(3))))
}

// callersBehind has so many call at once, one after the other, while the first is under way.
func callersBehind(t *testing.T, d *Debouncer, stuck *proxy.Held, n int) (deliver func() (string, error), results chan error) {
	t.Helper()
	results = make(chan error, n+1)
	send := func(i int) {
		_, err := d.Call(t.Context(), fmt.Append(nil, i))
		results <- err
	}
	go send(0)
	<-stuck.Arrived
	for i := 1; i <= n; i++ {
		go send(i)
		for queued(d) < i {
			time.Sleep(time.Millisecond)
		}
	}
	return stuck.Deliver, results
}

// queued is how many calls wait for the next request.
func queued(d *Debouncer) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next == nil {
		return 0
	}
	return d.next.count
}

func TestCallsBehindOneThatIsUnderWayAreOneRequest(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	d := debouncer(t, dial(t, p.URL()), Debounce{})
	mustCall(t, d, "before")
	before := p.Count(callOf())
	deliver, results := callersBehind(t, d, p.Hold(callOf()), 20)
	g.Expect(deliver()).NotTo(BeEmpty())
	for range 21 {
		g.Eventually(results).Should(Receive(BeNil()))
	}
	g.Expect(p.Count(callOf()) - before).To(Equal(2))
	rdb := d.c.rdb
	g.Expect(rdb.HMGet(t.Context(), debounceKey, "firstPayload", "lastPayload", "count").Val()).To(HaveExactElements("before", "20", "22"))
}

func TestOneOfTheCallsOfARequestHasOpenedTheWindow(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	d := debouncer(t, dial(t, p.URL()), Debounce{})
	mustCall(t, d, "warm")
	stuck, behind := p.Hold(callOf()), p.Hold(callOf())
	var opened atomic.Int32
	var calls sync.WaitGroup
	call := func() {
		if c, err := d.Call(t.Context(), nil); err != nil {
			t.Error(err)
		} else if c.Opened {
			opened.Add(1)
		}
	}
	calls.Go(call)
	<-stuck.Arrived
	for range 10 {
		calls.Go(call)
	}
	g.Eventually(func() int { return queued(d) }).Should(Equal(10))
	g.Expect(stuck.Deliver()).To(ContainSubstring("recorded"))
	<-behind.Arrived
	g.Expect(connect(t, server.URL()).Del(t.Context(), debounceKey).Err()).To(Succeed())
	g.Expect(behind.Deliver()).To(ContainSubstring("recorded"))
	calls.Wait()
	g.Expect(opened.Load()).To(BeEquivalentTo(1))
}

func TestWhoGivesUpBehindOthersMayUseItsPayloadAgain(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	d := debouncer(t, dial(t, p.URL()), Debounce{})
	mustCall(t, d, "before")
	stuck := p.Hold(callOf())
	deliver, results := callersBehind(t, d, stuck, 1)
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	payload := []byte("mine")
	go func() {
		_, err := d.Call(ctx, payload)
		gaveUp <- err
	}()
	g.Eventually(func() int { return queued(d) }).Should(Equal(2))
	cancel()
	g.Eventually(gaveUp).Should(Receive(MatchError(context.Canceled)))
	copy(payload, "else")
	g.Expect(deliver()).NotTo(BeEmpty())
	for range 2 {
		g.Eventually(results).Should(Receive(BeNil()))
	}
	g.Expect(d.c.rdb.HGet(t.Context(), debounceKey, "lastPayload").Val()).To(Equal("mine"), "it may be recorded all the same")
}

func TestAllCallsOfARequestAreToldThatItFailed(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	d := debouncer(t, newClient(t, connect(t, p.URL(), singleShot)), Debounce{})
	mustCall(t, d, "before")
	stuck := p.Hold(callOf())
	_, results := callersBehind(t, d, stuck, 5)
	p.Refuse()
	p.Cut()
	for range 6 {
		var err error
		g.Eventually(results).Should(Receive(&err))
		g.Expect(err).To(HaveOccurred())
		g.Expect(err).To(MatchError(ContainSubstring(debounceKey)))
	}
	g.Eventually(p.Accept).Should(Succeed())
	mustCall(t, d, "after")
}

func TestCallsOfARequestEndWithTheClient(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	c := newClient(t, connect(t, p.URL(), deaf))
	d := debouncer(t, c, Debounce{})
	mustCall(t, d, "before")
	stuck := p.Hold(callOf())
	_, results := callersBehind(t, d, stuck, 3)
	behind := p.Hold(callOf())
	g.Expect(stuck.Deliver()).NotTo(BeEmpty())
	g.Eventually(results).Should(Receive(BeNil()))
	<-behind.Arrived
	g.Expect(c.Close(t.Context())).To(Succeed())
	for range 3 {
		g.Eventually(results).Should(Receive(MatchError(ErrClosed)))
	}
	g.Expect(behind.Cut()).To(Succeed())
}

// hookOfCalls is a hook that does something before each call is sent.
type hookOfCalls struct{ before atomic.Value }

func (h *hookOfCalls) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *hookOfCalls) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *hookOfCalls) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if f, ok := h.before.Load().(func()); ok && len(cmd.Args()) > 4 && cmd.Args()[4] == sourcesKey(debounceKey) {
			f()
		}
		return next(ctx, cmd)
	}
}

func TestAHookThatPanicsDoesNotStopCalls(t *testing.T) {
	t.Parallel()
	g := within(t)
	rdb := connect(t, startRedis(t).URL())
	hook := &hookOfCalls{}
	rdb.AddHook(hook)
	d := debouncer(t, newClient(t, rdb), Debounce{})
	mustCall(t, d, "before")

	arrived, release := make(chan struct{}), make(chan struct{})
	hook.before.Store(func() {
		hook.before.Store(func() { panic("the second") })
		close(arrived)
		<-release
		panic("the first")
	})
	first := make(chan any, 1)
	go func() {
		defer func() { first <- recover() }()
		_, _ = d.Call(t.Context(), nil)
	}()
	<-arrived
	results := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := d.Call(t.Context(), nil)
			results <- err
		}()
	}
	g.Eventually(func() int { return queued(d) }).Should(Equal(3))
	close(release)
	g.Eventually(first).Should(Receive(Equal("the first")))
	for range 3 {
		g.Eventually(results).Should(Receive(And(MatchError(errHook), MatchError(ContainSubstring("the second")))))
	}
	hook.before.Store(func() {})
	mustCall(t, d, "after")
}

func TestACallIsTriedAgainAndCountsOnce(t *testing.T) {
	t.Parallel()
	g := within(t)
	p := proxy.Start(t, startRedis(t).URL())
	d := debouncer(t, newClient(t, connect(t, p.URL(), singleShot)), Debounce{})
	mustCall(t, d, "before")
	dropped := p.DropReply(callOf())
	call := mustCall(t, d, "one")
	g.Expect(dropped.Done).To(BeClosed())
	g.Expect(call.Again).To(BeTrue(), "as the second try was told")
	g.Expect(d.State(t.Context())).To(HaveField("Waiting", 2))
}

func TestACallSaysWhyItWasNotRecorded(t *testing.T) {
	t.Parallel()
	g := within(t)
	a := &anything{}
	rdb := redis.NewClient(&redis.Options{})
	rdb.AddHook(a)
	d := debouncer(t, newClient(t, rdb), Debounce{})
	a.set(errors.New("boom"))
	_, err := d.Call(t.Context(), nil)
	g.Expect(err).To(MatchError(ContainSubstring("boom")))
	a.set([]any{"late", int64(0), time.Now().UnixMicro()})
	_, err = d.Call(t.Context(), nil)
	g.Expect(err).To(MatchError(errLate))
}
