package chaos

import (
	"slices"
	"testing"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var (
	start = time.Unix(1_800_000_000, 0)
	tick  = Tick{"ns/nightly", start.Unix()}
)

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

// run is one of tick under lock, claimed a moment before it began.
func run(cluster, lock string, from, to float64, change ...func(*Run)) Run {
	r := Run{
		Cluster: cluster, Job: "nightly-1", UID: cluster, Lock: lock, Tick: tick,
		Claim: uint64(at(from - 0.1).UnixMicro()), Begin: at(from), End: at(to), Succeeded: true,
	}
	r.Token = r.Claim
	for _, f := range change {
		f(&r)
	}
	return r
}

func lost(r *Run)        { r.Succeeded = false }
func endless(r *Run)     { r.End = time.Time{} }
func otherTick(r *Run)   { r.Tick = Tick{"ns/hourly", tick.At} }
func sameCluster(r *Run) { r.Cluster, r.UID = "blue", "other" }

func done(outcome string, claim uint64, seconds float64) Record {
	return Record{tick, redislock.TickDone, claim, outcome, at(seconds)}
}

// history has what all histories have in common.
func history(records []Record, runs ...Run) *History {
	h := &History{
		Locks: map[string]Lock{
			"demand": {Exclusive: true, Rerun: true}, "demand-skip": {Exclusive: true},
			"always": {Rerun: true},
		},
		Runs: runs, Records: records, Newest: map[string]int64{}, Watchdog: 30 * time.Second,
	}
	for _, r := range runs {
		h.Jobs = append(h.Jobs, Job{Cluster: r.Cluster, Name: r.Job, UID: r.UID, Lock: r.Lock, Tick: r.Tick, Claim: r.Claim})
		h.Newest[r.Tick.Series] = max(h.Newest[r.Tick.Series], r.Tick.At)
		if r.Tick != tick { // the cases are about one tick
			h.Records = append(h.Records, Record{r.Tick, redislock.TickDone, r.Claim, "Complete", r.End})
		}
	}
	return h
}

func TestJudge(t *testing.T) {
	once := run("blue", "demand", 1, 5)
	again := run("green", "demand", 20, 25)
	cases := map[string]struct {
		history *History
		change  func(*History)
		want    []Rule
	}{
		"a run": {history: history([]Record{done("Complete", once.Claim, 5.2)}, once)},
		"a run that was lost and one that came after it": {
			history: history([]Record{done("Complete", again.Claim, 25.2)}, run("blue", "demand", 1, 5, lost), again),
		},
		"runs of one leader at the same time": {
			history: history([]Record{done("Complete", run("blue", "always", 1, 5).Claim, 5.2)}, run("blue", "always", 1, 5), run("blue", "always", 2, 6, otherTick, sameCluster)),
		},
		"ends that meet within the tolerance": {
			history: history([]Record{done("Complete", again.Claim, 25.2)}, run("blue", "demand", 1, 20.3, lost), again),
		},
		"a failed run": {history: history([]Record{done("Failed", once.Claim, 5.2)}, run("blue", "demand", 1, 5, lost))},
		"a lost tick that is to be skipped": {
			history: history([]Record{done("Lost", once.Claim, 50)}, run("blue", "demand-skip", 1, 5, lost)),
		},
		"a tick that a newer one replaced": {
			history: history(nil),
			change: func(h *History) {
				h.Jobs = []Job{{Cluster: "blue", Lock: "demand", Tick: tick}}
				h.Newest[tick.Series] = tick.At + 60
			},
		},

		"two runs of a tick at the same time": {
			history: history([]Record{done("Complete", again.Claim, 25.2)}, run("blue", "demand", 1, 22, lost), again),
			want:    []Rule{TickOverlap},
		},
		"one that never ended beside the next": {
			history: history([]Record{done("Complete", again.Claim, 25.2)}, run("blue", "demand", 1, 22, lost, endless), again),
			want:    []Rule{TickOverlap},
		},
		"the same excused by an outage that the guard does not bear": {
			history: history([]Record{done("Complete", again.Claim, 25.2)}, run("blue", "demand", 1, 22, lost), again),
			change: func(h *History) {
				h.Outages = []Outage{{"blue", "kube-controller-manager", at(3), at(21)}}
			},
		},
		"an outage in a cluster that has no part in it": {
			history: history([]Record{done("Complete", again.Claim, 25.2)}, run("blue", "demand", 1, 22, lost), again),
			change: func(h *History) {
				h.Outages = []Outage{{"red", "kube-controller-manager", at(3), at(21)}}
			},
			want: []Rule{TickOverlap},
		},
		"two runs of one claim's Job under an exclusive lock": {
			history: history([]Record{done("Complete", once.Claim, 5.2)}, once, run("green", "demand", 3, 4, otherTick)),
			want:    []Rule{LockOverlap},
		},
		"two leaders": {
			history: history([]Record{done("Complete", run("blue", "always", 1, 5).Claim, 5.2)}, run("blue", "always", 1, 5), run("green", "always", 3, 6, otherTick)),
			want:    []Rule{LeaderOverlap},
		},
		"a tick claimed after it was recorded as done": {
			history: history([]Record{done("Complete", once.Claim, 5.2)}, once, again),
			want:    []Rule{RunAfterDone},
		},
		"a run that begins after its tick was recorded as done": {
			history: history([]Record{done("Deleted", once.Claim, 0.95), done("Complete", once.Claim, 0.95)}, once, run("blue", "demand", 20, 25, func(r *Run) { r.Claim = once.Claim })),
			want:    []Rule{RunAfterDone},
		},
		"a tick run in another cluster though its Job was complete and seen to, with no record": {
			history: history(nil, once, again),
			change:  func(h *History) { h.Jobs[0].Ended, h.Jobs[0].Recorded = "Complete", at(5.2) },
			want:    []Rule{NeverCompleted, RunAfterDone},
		},
		"a tick started twice that was to be skipped": {
			history: history([]Record{done("Complete", run("green", "demand-skip", 20, 25).Claim, 25.2)}, run("blue", "demand-skip", 1, 5, lost), run("green", "demand-skip", 20, 25)),
			want:    []Rule{StartedTwice},
		},
		"a tick that was claimed and nothing more": {
			history: history([]Record{{tick, redislock.TickClaimed, once.Claim, "", at(1)}}, run("blue", "demand", 1, 5, lost)),
			want:    []Rule{NeverCompleted},
		},
		"a lost tick that was to be run again": {
			history: history([]Record{done("Lost", once.Claim, 50)}, run("blue", "demand", 1, 5, lost)),
			want:    []Rule{NeverCompleted},
		},
		"a tick recorded as deleted that nobody deleted": {
			history: history([]Record{done("Deleted", once.Claim, 50)}, run("blue", "demand", 1, 5, lost)),
			want:    []Rule{NeverCompleted},
		},
		"a tick recorded as complete that did not succeed": {
			history: history([]Record{done("Complete", once.Claim, 5.2)}, run("blue", "demand", 1, 5, lost)),
			want:    []Rule{FalselyDone},
		},
		"a tick that nobody ran": {
			history: history(nil),
			change:  func(h *History) { h.Jobs = []Job{{Cluster: "blue", Lock: "demand", Tick: tick}} },
			want:    []Rule{NeverRun},
		},
		"two runs at the same time of a CronJob that forbids it, which is counted": {
			history: history([]Record{done("Complete", run("blue", "always", 1, 5).Claim, 5.2)}, run("blue", "always", 1, 5), run("blue", "always", 2, 6, sameCluster, func(r *Run) { r.Tick.At += 60 })),
			change:  func(h *History) { h.Forbid = map[string]bool{tick.Series: true} },
		},
		"something that never settled": {
			history: history([]Record{done("Complete", once.Claim, 5.2)}, once),
			change:  func(h *History) { h.Left = []string{"a Job"} },
			want:    []Rule{NotSettled},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.change != nil {
				c.change(c.history)
			}
			var got []Rule
			for _, v := range Judge(c.history).Violations {
				if !slices.Contains(got, v.Rule) {
					got = append(got, v.Rule)
				}
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestJudgeCounts(t *testing.T) {
	again := run("green", "demand", 20, 25)
	v := Judge(history([]Record{done("Complete", again.Claim, 25.2)}, run("blue", "demand", 1, 5, lost), again, run("green", "demand", 30, 31, otherTick)))
	if v.Ticks != 2 || v.Ran != 2 || v.Rerun != 1 || v.Runs != 3 || v.Stopped != 1 || v.Handovers != 1 || len(v.Violations) != 0 {
		t.Errorf("%+v", v)
	}
}

func TestRegister(t *testing.T) {
	first, second := run("blue", "demand", 1, 5), run("green", "demand", 20, 25)
	running := time.Time{}

	var r Register
	if !r.Write(first, running) || !r.Write(first, first.End) || !r.Write(second, running) || !r.Write(second, second.End) {
		t.Error("a write with a token that rises was refused")
	}
	if r.Write(first, first.End) {
		t.Error("a late write was accepted")
	}
	if s := r.Stats(); s.Accepted != 4 || s.Rejected != 1 || s.Stale != 0 {
		t.Errorf("%+v", s)
	}

	// With one token for both the late one cannot be told.
	var blind Register
	second.Token = first.Token
	blind.Write(first, running)
	blind.Write(second, running)
	blind.Write(first, first.End)
	if s := blind.Stats(); s.Stale != 1 {
		t.Errorf("%+v", s)
	}
}
