package redislock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// A ledger is what is known for certain of runs: who was told what, and when. Every
// check compares an answer with what had been answered before it was asked for.
type ledger struct {
	t *testing.T

	mu      sync.Mutex
	highest uint64
	claims  map[string][]told          // by run, in the order of the answers
	done    map[string]uint64          // the fence with which a run was recorded done
	active  map[uint64]map[string]bool // by grant, and run
	settled map[uint64]bool            // claims that somebody began to end
	counts  map[string]int

	runs []Run
	now  int
}

// pick is a run near the one whose time has come.
func (l *ledger) pick(random *rand.Rand) Run {
	l.mu.Lock()
	defer l.mu.Unlock()
	if random.IntN(6) == 0 {
		l.now++
	}
	return l.runs[min(l.now+random.IntN(8), len(l.runs)-1)]
}

type told struct {
	fence, grant uint64
	claimant     string
}

func (l *ledger) count(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what]++
}

// missing is what has to happen for the test to have tested anything, and has not yet.
func (l *ledger) missing() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc([]string{"new", "again", "superseding", "finish: done", "finish: superseded", "reopen: reopened", "refused: done", "refused: claimed"},
		func(what string) bool { return l.counts[what] > 0 })
}

// claim has a run claimed and checks the answer.
func (l *ledger) claim(ctx context.Context, lock *Lock, req ClaimRequest) {
	name := req.name()
	l.mu.Lock()
	before := l.highest
	doneBefore := l.done[name] != 0
	l.mu.Unlock()
	claim, err := lock.Claim(ctx, req)
	l.mu.Lock()
	defer l.mu.Unlock()
	var refusal *ClaimError
	switch {
	case errors.As(err, &refusal):
		l.counts["refused: "+string(refusal.Reason)]++
		return
	case claim.Fence == 0:
		if !errors.Is(err, ErrLost) && !errors.Is(err, ErrReleased) {
			l.t.Errorf("claim %q: %v", name, err)
		}
		l.counts["lost"]++
		return
	}
	l.counts[string(claim.Kind)]++
	if doneBefore {
		l.t.Errorf("%q was handed out after it was done", name)
	}
	answer := told{claim.Fence, lock.Fence(), req.Claimant}
	for _, other := range l.claims[name] {
		if other.fence == answer.fence && other != answer {
			l.t.Errorf("%q: %+v and %+v have one fence", name, other, answer)
		}
	}
	if claim.Kind != ClaimAgain && (claim.Fence <= before || claim.Fence <= lock.Fence()) {
		l.t.Errorf("%q: fence %d after %d under %d", name, claim.Fence, before, lock.Fence())
	}
	l.highest = max(l.highest, claim.Fence)
	l.claims[name] = append(l.claims[name], answer)
	superseded := slices.ContainsFunc(l.claims[name], func(c told) bool { return c.fence > claim.Fence })
	if l.settled[claim.Fence] || superseded {
		// We heard this answer after what followed from it: another worker was told of the
		// same claim, ended it, and may have begun something else since.
		return
	}
	if !req.Shared && claim.Kind != ClaimAgain {
		for other := range l.active[lock.Fence()] {
			if other != name {
				l.t.Errorf("%q is active beside %q under %d", name, other, lock.Fence())
			}
		}
	}
	if l.active[lock.Fence()] == nil {
		l.active[lock.Fence()] = map[string]bool{}
	}
	l.active[lock.Fence()][name] = true
}

// settle finishes or reopens a claim of those that were ever told of, however old.
func (l *ledger) settle(ctx context.Context, c *Client, run Run, c1 told, reopen bool) {
	name := run.name()
	l.mu.Lock()
	// What ends it may be carried out before we hear of it, so it is not counted on
	// from here.
	delete(l.active[c1.grant], name)
	l.settled[c1.fence] = true
	newer := slices.ContainsFunc(l.claims[name], func(c told) bool { return c.fence > c1.fence })
	doneBy := l.done[name]
	l.mu.Unlock()
	if reopen {
		r, err := c.ReopenRun(ctx, key, run, c1.fence)
		if err != nil {
			l.t.Error(err)
		}
		if r == Reopened && (newer || doneBy != 0) {
			l.t.Errorf("%q: claim %d was given up though it is over", name, c1.fence)
		}
		l.count("reopen: " + string(r))
		return
	}
	r, err := c.FinishRun(ctx, key, run, c1.fence, fmt.Sprint(c1.fence), true)
	if err != nil {
		l.t.Error(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts["finish: "+string(r)]++
	if r != FinishDone {
		return
	}
	if newer || l.done[name] != 0 {
		l.t.Errorf("%q: finished with %d; newer: %v, done: %d", name, c1.fence, newer, l.done[name])
	}
	l.done[name] = c1.fence
}

func TestRandomHistoriesRunNothingTwice(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared %v", shared), func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			server := startRedis(t)
			l := &ledger{t: t, runs: schedule(), claims: map[string][]told{}, done: map[string]uint64{}, active: map[uint64]map[string]bool{}, settled: map[uint64]bool{}, counts: map[string]int{}}
			ctx := lasting(t, 2*time.Second, func() bool { return len(l.missing()) == 0 })
			var wg sync.WaitGroup
			for cluster := range 2 {
				c := dial(t, server.URL())
				random := rand.New(rand.NewPCG(seed, uint64(cluster)))
				wg.Go(func() {
					for ctx.Err() == nil {
						reign(ctx, t, c, l, random, fmt.Sprint(cluster), shared)
					}
				})
			}
			wg.Wait()

			// What Redis recorded is what was told.
			recorded, err := dial(t, server.URL()).Runs(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			for _, tick := range recorded.Ticks {
				name := Run{Series: tick.Series, Tick: tick.Tick}.name()
				if done := l.done[name]; done != 0 && (tick.State != TickDone || tick.Fence != done || tick.Outcome != fmt.Sprint(done)) {
					t.Errorf("%q was done by %d: %+v", name, done, tick)
				}
			}
			t.Logf("%v", l.counts)
			if missing := l.missing(); len(missing) > 0 {
				t.Errorf("%q never happened", missing)
			}
		})
	}
}

// schedule is three series whose ticks alternate, and runs without a tick.
func schedule() []Run {
	runs := make([]Run, 20_000)
	first := aSecondAgo().Add(-time.Duration(len(runs)) * time.Second)
	for i := range runs {
		runs[i] = Run{Series: fmt.Sprint("ns/", i%3), Tick: first.Add(time.Duration(i) * time.Second)}
		if i%10 == 9 {
			runs[i] = Run{ID: fmt.Sprint("manual-", i)}
		}
	}
	return runs
}

// reign is one grant of a cluster: two workers claim and settle, and at its end the
// lock is given back or lost, with runs of it left unfinished.
func reign(ctx context.Context, t *testing.T, c *Client, l *ledger, random *rand.Rand, cluster string, shared bool) {
	lock, err := c.Acquire(ctx, key, patient(), WithWait())
	if err != nil {
		if ctx.Err() == nil {
			t.Error(err)
		}
		return
	}
	seeds := [2]uint64{random.Uint64(), random.Uint64()}
	var wg sync.WaitGroup
	for _, seed := range seeds {
		random := rand.New(rand.NewPCG(seed, 0))
		wg.Go(func() {
			for range 5 + random.IntN(20) {
				run := l.pick(random)
				if random.IntN(3) > 0 {
					l.claim(context.WithoutCancel(ctx), lock, ClaimRequest{
						Run: run, Claimant: fmt.Sprint(cluster, "/", random.IntN(2)), Rerun: random.IntN(4) == 0, Shared: shared,
					})
					continue
				}
				l.mu.Lock()
				claims := slices.Clone(l.claims[run.name()])
				l.mu.Unlock()
				if len(claims) > 0 {
					// Mostly the newest; the others are late.
					pick := claims[len(claims)-1]
					if random.IntN(3) == 0 {
						pick = claims[random.IntN(len(claims))]
					}
					l.settle(context.WithoutCancel(ctx), c, run, pick, random.IntN(3) == 0)
				}
			}
		})
	}
	wg.Wait()
	if random.IntN(2) == 0 {
		if err := c.rdb.Del(context.WithoutCancel(ctx), key).Err(); err != nil {
			t.Error(err)
		}
		l.claim(context.WithoutCancel(ctx), lock, ClaimRequest{Run: l.pick(random), Claimant: cluster, Shared: shared})
		return
	}
	if err := lock.Release(context.WithoutCancel(ctx)); err != nil {
		t.Error(err)
	}
}
