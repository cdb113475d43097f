package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A Register is what the guarded workloads write to: one value for each series, which
// takes no write with a lower fencing token than it has seen.
type Register struct {
	mu    sync.Mutex
	cells map[string]*cell
	stats Writes
}

type cell struct {
	highest uint64
	// begun is when the latest of the runs began whose writes were accepted.
	begun time.Time
}

// Writes counts what the register made of writes.
type Writes struct {
	Accepted, Rejected int
	// Stale are those of a run that had ended and that were accepted though one that
	// began after that had written: what a fencing token is there to prevent. Of runs
	// at the same time, which an Always lock allows, none is stale.
	Stale    int
	Examples []string
}

// Write writes for a run, and says whether that was accepted. ended is when the pod
// ended that writes; zero while it runs.
func (r *Register) Write(run Run, ended time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cells == nil {
		r.cells = map[string]*cell{}
	}
	c := r.cells[run.Tick.Series]
	if c == nil {
		c = &cell{}
		r.cells[run.Tick.Series] = c
	}
	if run.Token < c.highest {
		r.stats.Rejected++
		return false
	}
	r.stats.Accepted++
	c.highest = run.Token
	if !ended.IsZero() && c.begun.After(ended) {
		r.stats.Stale++
		if len(r.stats.Examples) < 5 {
			r.stats.Examples = append(r.stats.Examples, fmt.Sprintf("%s in %s (token %d), which had ended at %s, wrote after a run that began at %s",
				run.Job, run.Cluster, run.Token, ended.Format("15:04:05.000"), c.begun.Format("15:04:05.000")))
		}
	}
	if run.Begin.After(c.begun) {
		c.begun = run.Begin
	}
	return true
}

// Stats returns the counts so far.
func (r *Register) Stats() Writes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

const (
	writeEvery = 200 * time.Millisecond
	// A writer whose pod is gone does not know it, as a process on a node that lost
	// its network. It goes on until it has been refused a few times, or for long enough
	// to meet the next tick's run.
	lateEvery = time.Second
	lateFor   = 150 * time.Second
	refusals  = 3
)

// workload plays the processes in the pods: what kwok runs does nothing.
type workload struct {
	ctx      context.Context
	register *Register

	wg sync.WaitGroup

	mu   sync.Mutex
	gone map[string]chan struct{} // by pod
}

// begun is called when a pod runs.
func (w *workload) begun(pod string, run *Run) {
	gone := make(chan struct{})
	w.mu.Lock()
	w.gone[pod] = gone
	w.mu.Unlock()
	r := *run // as it is now
	w.wg.Go(func() { w.write(r, gone) })
}

// ended is called when a pod does not run any more.
func (w *workload) ended(pod string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if gone := w.gone[pod]; gone != nil {
		close(gone)
		delete(w.gone, pod)
	}
}

func (w *workload) write(run Run, gone <-chan struct{}) {
	every := time.NewTicker(writeEvery)
	defer every.Stop()
	var late time.Time
	refused := 0
	for {
		if !w.register.Write(run, late) && !late.IsZero() {
			if refused++; refused == refusals {
				return
			}
		}
		select {
		case <-w.ctx.Done():
			return
		case <-gone:
			gone = nil
			late = time.Now()
			every.Reset(lateEvery)
		case <-every.C:
		}
		if !late.IsZero() && time.Since(late) > lateFor {
			return
		}
	}
}
