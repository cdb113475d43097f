package redislock

import (
	"fmt"
	"slices"
	"sort"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// A madeCall is a call that was recorded, and a madeRun what a runner was given.
type madeCall struct {
	Payload    string
	Generation uint64
	At         int64 // server's µs
}

type madeRun struct {
	Generation           uint64
	Payload              string
	Calls                int
	First, Last, Claimed int64
	Attempt              int
	Resumed              bool
}

// A debounceModel replays calls and claims in the order of the server's time, and says
// by the rules of package redislock alone what is wrong with them.
type debounceModel struct {
	rules        Debounce
	pending      []madeCall
	open         bool
	first, last  int64
	previous     int64 // the last call before the window
	led          uint64
	highest      uint64
	lastStart    int64
	ran          map[uint64]bool
	wrong        []string
	longestDelay time.Duration // of a claim, after it was due
	calls        int
}

func (m *debounceModel) failf(format string, args ...any) {
	m.wrong = append(m.wrong, fmt.Sprintf(format, args...))
}

func (m *debounceModel) end() int64 {
	return min(m.last+m.rules.Wait.Microseconds(), m.first+m.rules.MaxWait.Microseconds())
}

func (m *debounceModel) call(c madeCall) {
	m.calls++
	if m.open && m.led != 0 && len(m.pending) == 0 && c.At >= m.end() {
		m.open, m.led = false, 0
	}
	if !m.open {
		m.open, m.first, m.previous, m.led = true, c.At, m.last, 0
	}
	m.last = c.At
	switch {
	case m.led != 0 && m.rules.Edge == Leading:
		if c.Generation != m.led {
			m.failf("call %v is not of generation %d, which covers it", c, m.led)
		}
		return
	case len(m.pending) == 0:
		if c.Generation <= m.highest {
			m.failf("call %v begins generation %d after %d", c, c.Generation, m.highest)
		}
		m.highest = c.Generation
	case c.Generation != m.pending[0].Generation:
		m.failf("call %v is of generation %d, and the window's is %d", c, c.Generation, m.pending[0].Generation)
	}
	m.pending = append(m.pending, c)
}

func (m *debounceModel) run(r madeRun) {
	switch {
	case m.ran[r.Generation]:
		m.failf("run %v is repeated", r)
		return
	case len(m.pending) == 0:
		m.failf("run %v has no calls", r)
		return
	}
	m.ran[r.Generation] = true
	due, leads := m.end(), false
	if m.led == 0 {
		leads = m.rules.Edge == Leading ||
			m.rules.Edge == Both && (m.previous == 0 || m.first-m.previous >= m.rules.Wait.Microseconds())
		if leads {
			due = m.first
		}
	}
	if m.lastStart != 0 {
		due = max(due, m.lastStart+m.rules.MinInterval.Microseconds())
	}
	if r.Claimed < due {
		m.failf("run %v is %d µs early", r, due-r.Claimed)
	}
	m.longestDelay = max(m.longestDelay, time.Duration(r.Claimed-due)*time.Microsecond)
	first, last := m.pending[0].At, m.pending[len(m.pending)-1].At
	if r.Generation != m.pending[0].Generation || r.Calls != len(m.pending) || r.First != first || r.Last != last {
		m.failf("run %v is of %d calls from %d to %d of generation %d", r, len(m.pending), first, last, m.pending[0].Generation)
	}
	// Calls that share a request share its time.
	at := last
	if m.rules.Payload == FirstPayload {
		at = first
	}
	if !slices.ContainsFunc(m.pending, func(c madeCall) bool { return c.At == at && c.Payload == r.Payload }) {
		m.failf("run %v has not the %s payload", r, m.rules.Payload)
	}
	m.pending, m.lastStart = nil, r.Claimed
	if leads {
		m.led = r.Generation
	} else {
		m.open, m.led = false, 0
	}
}

// judgeDebounce returns the model after all calls and runs.
func judgeDebounce(rules Debounce, calls []madeCall, runs []madeRun) *debounceModel {
	m := &debounceModel{rules: rules, ran: map[uint64]bool{}}
	calls, runs = slices.Clone(calls), slices.Clone(runs)
	sort.SliceStable(calls, func(i, j int) bool { return calls[i].At < calls[j].At })
	sort.SliceStable(runs, func(i, j int) bool { return runs[i].Claimed < runs[j].Claimed })
	for _, r := range runs {
		// Of what is as old as a run, by the clock, the run has what it has.
		for len(calls) > 0 && (calls[0].At < r.Claimed || calls[0].At == r.Claimed && calls[0].Generation <= r.Generation) {
			m.call(calls[0])
			calls = calls[1:]
		}
		m.run(r)
	}
	for _, c := range calls {
		m.call(c)
	}
	if len(m.pending) > 0 {
		m.failf("%d calls were never run", len(m.pending))
	}
	return m
}

func TestTheModelOfADebounceFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	g := within(t)
	rules := Debounce{Wait: 10 * time.Microsecond, MaxWait: 25 * time.Microsecond, Edge: Trailing, Payload: LastPayload}
	calls := []madeCall{{"a", 100, 100}, {"b", 100, 105}, {"c", 130, 130}}
	runs := []madeRun{
		{Generation: 100, Payload: "b", Calls: 2, First: 100, Last: 105, Claimed: 115},
		{Generation: 130, Payload: "c", Calls: 1, First: 130, Last: 130, Claimed: 140},
	}
	g.Expect(judgeDebounce(rules, calls, runs).wrong).To(BeEmpty())
	for name, spoil := range map[string]func(calls []madeCall, runs []madeRun) ([]madeCall, []madeRun){
		"early":           func(c []madeCall, r []madeRun) ([]madeCall, []madeRun) { r[0].Claimed = 114; return c, r },
		"payload":         func(c []madeCall, r []madeRun) ([]madeCall, []madeRun) { r[0].Payload = "a"; return c, r },
		"count":           func(c []madeCall, r []madeRun) ([]madeCall, []madeRun) { r[0].Calls = 1; return c, r },
		"lost":            func(c []madeCall, r []madeRun) ([]madeCall, []madeRun) { return c, r[:1] },
		"twice":           func(c []madeCall, r []madeRun) ([]madeCall, []madeRun) { return c, append(r, r[1]) },
		"wrong window":    func(c []madeCall, r []madeRun) ([]madeCall, []madeRun) { c[1].Generation = 105; return c, r },
		"not rising":      func(c []madeCall, r []madeRun) ([]madeCall, []madeRun) { c[2].Generation = 99; return c, r },
		"call of nothing": func(c []madeCall, r []madeRun) ([]madeCall, []madeRun) { return c[:2], r },
	} {
		c, r := spoil(slices.Clone(calls), slices.Clone(runs))
		g.Expect(judgeDebounce(rules, c, r).wrong).NotTo(BeEmpty(), name)
	}
	rules.MinInterval = 26 * time.Microsecond
	g.Expect(judgeDebounce(rules, calls, runs).wrong).NotTo(BeEmpty())

	rules.MinInterval, rules.Edge = 0, Leading
	calls[2] = madeCall{"c", 100, 112}
	runs = []madeRun{{Generation: 100, Payload: "b", Calls: 2, First: 100, Last: 105, Claimed: 110}}
	g.Expect(judgeDebounce(rules, calls, runs).wrong).To(BeEmpty(), "covered")
	calls[2].At = 117
	g.Expect(judgeDebounce(rules, calls, runs).wrong).NotTo(BeEmpty(), "not covered")
}
