package controllers

import (
	"errors"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/debounce"
	"github.com/redislock-operator/redislock-operator/internal/stores"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const claimantBlue = "blue-uid/blue/ns/name"

// debounceViewOf is the view of an object whose status was last written from other states.
func debounceViewOf(s redislock.DebounceState, before ...redislock.DebounceState) debounceView {
	v := debounceView{
		debounce: &v1alpha1.Debounce{}, key: "debounce:ns:name", now: now, store: safeStore(),
		observation: debounce.Observation{Known: true, State: s}, triggers: triggerState{generation: 3},
	}
	v.debounce.Generation = 3
	for _, b := range before {
		w := v
		w.observation.State = b
		v.debounce.Status = w.status()
	}
	return v
}

func openState(calls int64) redislock.DebounceState {
	return redislock.DebounceState{At: now, Open: true, Since: now, Pending: 7, Waiting: int(calls), LastCall: now, Due: now.Add(time.Minute), Calls: calls}
}

func runningState() redislock.DebounceState {
	return redislock.DebounceState{At: now, Calls: 4, LastCall: now, Running: &redislock.RunningDebounce{
		Generation: 7, Claimant: claimantBlue, Claimed: now, Till: now.Add(time.Minute), Attempt: 2, Calls: 4, First: now, Last: now,
	}}
}

func doneState(outcome string) redislock.DebounceState {
	return redislock.DebounceState{At: now, Calls: 4, Runs: 1, LastCall: now, LastRun: &redislock.EndedDebounce{
		Generation: 7, Claimant: claimantBlue, Started: now, Finished: now.Add(time.Second), Calls: 4, Attempt: 1, Outcome: outcome, Message: "because",
	}}
}

func conditionOf(status v1alpha1.DebounceStatus, kind v1alpha1.ConditionType) metav1.Condition {
	if c := meta.FindStatusCondition(status.Conditions, string(kind)); c != nil {
		return *c
	}
	return metav1.Condition{}
}

func TestStatusOfADebounce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		view     func() debounceView
		state    v1alpha1.LockState
		reason   v1alpha1.ConditionReason
		callLost metav1.ConditionStatus
		check    func(Gomega, v1alpha1.DebounceStatus)
	}{
		"fresh": {
			view:  func() debounceView { return debounceViewOf(redislock.DebounceState{At: now}) },
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational,
			check: func(g Gomega, s v1alpha1.DebounceStatus) {
				g.Expect(s.Calls).To(HaveValue(BeZero()))
				g.Expect(s.LastRun).To(BeNil())
				g.Expect(s.DueAt).To(BeNil())
				g.Expect(s.Key).To(Equal("debounce:ns:name"))
				g.Expect(s.ObservedGeneration).To(BeEquivalentTo(3))
			},
		},
		"not looked at yet": {
			view: func() debounceView {
				v := debounceViewOf(redislock.DebounceState{}, doneState(redislock.DebounceSucceeded))
				v.observation = debounce.Observation{}
				return v
			},
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational,
			check: func(g Gomega, s v1alpha1.DebounceStatus) {
				g.Expect(s.Runs).To(HaveValue(BeEquivalentTo(1)))
				g.Expect(s.LastRun.Outcome).To(Equal(v1alpha1.RunSucceeded))
			},
		},
		"a window is open": {
			view:  func() debounceView { return debounceViewOf(openState(2)) },
			state: v1alpha1.StateAcquired, reason: v1alpha1.ReasonOperational,
			check: func(g Gomega, s v1alpha1.DebounceStatus) {
				g.Expect(s.DueAt).To(Equal(at(now.Add(time.Minute))))
				g.Expect(s.LastCallAt).To(Equal(at(now)))
				g.Expect(s.Calls).To(HaveValue(BeEquivalentTo(2)))
			},
		},
		"a run goes on": {
			view:  func() debounceView { return debounceViewOf(runningState(), openState(4)) },
			state: v1alpha1.StateAcquired, reason: v1alpha1.ReasonOperational,
			check: func(g Gomega, s v1alpha1.DebounceStatus) {
				g.Expect(s.DueAt).To(BeNil())
				g.Expect(s.LastRun).To(Equal(&v1alpha1.DebounceRun{Generation: 7, Cluster: "blue", StartedAt: at(now), Calls: new(int64(4)), Attempt: 2}))
			},
		},
		"a run has ended": {
			view:  func() debounceView { return debounceViewOf(doneState(redislock.DebounceFailed), runningState()) },
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational,
			check: func(g Gomega, s v1alpha1.DebounceStatus) {
				g.Expect(s.LastRun).To(Equal(&v1alpha1.DebounceRun{
					Generation: 7, Cluster: "blue", StartedAt: at(now), FinishedAt: at(now.Add(time.Second)), Calls: new(int64(4)), Attempt: 1,
					Outcome: v1alpha1.RunFailed, Message: "because",
				}))
			},
		},
		"the run is another program's": {
			view: func() debounceView {
				s := doneState(redislock.DebounceSucceeded)
				s.LastRun.Claimant = "host#nonce.1"
				return debounceViewOf(s)
			},
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational,
			check: func(g Gomega, s v1alpha1.DebounceStatus) { g.Expect(s.LastRun.Cluster).To(BeEmpty()) },
		},
		"a run was forgotten": {
			view:  func() debounceView { return debounceViewOf(redislock.DebounceState{At: now}, runningState()) },
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational, callLost: metav1.ConditionTrue,
			check: func(g Gomega, s v1alpha1.DebounceStatus) {
				g.Expect(s.LastRun.Outcome).To(Equal(v1alpha1.RunLost))
				g.Expect(s.LastRun.Message).NotTo(BeEmpty())
			},
		},
		"a run was done long ago": {
			view: func() debounceView {
				return debounceViewOf(redislock.DebounceState{At: now}, doneState(redislock.DebounceSucceeded))
			},
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational,
			check: func(g Gomega, s v1alpha1.DebounceStatus) {
				g.Expect(s.LastRun.Outcome).To(Equal(v1alpha1.RunSucceeded))
				g.Expect(s.Runs).To(HaveValue(BeZero()), "Redis counts")
			},
		},
		"calls are lost": {
			view: func() debounceView {
				v := debounceViewOf(redislock.DebounceState{At: now}, openState(2))
				v.observation.Lost, v.observation.LostAt = 7, now
				return v
			},
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational, callLost: metav1.ConditionTrue,
			check: func(g Gomega, s v1alpha1.DebounceStatus) {
				g.Expect(conditionOf(s, v1alpha1.ConditionCallsLost).Message).To(ContainSubstring("generation 7"))
				g.Expect(s.DueAt).To(BeNil())
			},
		},
		"calls are lost, as a later process notices": {
			view:  func() debounceView { return debounceViewOf(redislock.DebounceState{At: now}, openState(2)) },
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational, callLost: metav1.ConditionTrue,
		},
		"calls were lost, and no run came since": {
			view: func() debounceView {
				return debounceViewOf(redislock.DebounceState{At: now}, openState(2), redislock.DebounceState{At: now})
			},
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational, callLost: metav1.ConditionTrue,
		},
		"calls were lost, and a later one was run": {
			view: func() debounceView {
				s := doneState(redislock.DebounceSucceeded)
				s.LastRun.Started = now.Add(time.Minute)
				v := debounceViewOf(s, openState(2), redislock.DebounceState{At: now})
				v.observation.Lost, v.observation.LostAt = 7, now
				return v
			},
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonOperational,
		},
		"suspended": {
			view: func() debounceView {
				v := debounceViewOf(openState(1))
				v.debounce.Spec.Suspend = new(true)
				return v
			},
			state: v1alpha1.StateAcquired, reason: v1alpha1.ReasonSuspended,
		},
		"wrong": {
			view: func() debounceView {
				v := debounceViewOf(redislock.DebounceState{At: now})
				v.problem = &problem{v1alpha1.ReasonURLNotAllowed, "no"}
				return v
			},
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonURLNotAllowed,
		},
		"the store does not answer": {
			view: func() debounceView {
				v := debounceViewOf(openState(1))
				v.store = &stores.State{Unreachable: errors.New("connection refused")}
				return v
			},
			state: v1alpha1.StateAcquired, reason: v1alpha1.ReasonStoreUnreachable,
		},
		"the runner cannot run": {
			view: func() debounceView {
				v := debounceViewOf(redislock.DebounceState{At: now})
				v.observation.Err = errors.New("no")
				return v
			},
			state: v1alpha1.StateFree, reason: v1alpha1.ReasonStoreUnreachable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			v := tc.view()
			s := v.status()
			g.Expect(s.State).To(Equal(tc.state))
			g.Expect(conditionOf(s, v1alpha1.ConditionReady).Reason).To(Equal(string(tc.reason)))
			if tc.callLost == "" {
				tc.callLost = metav1.ConditionFalse
			}
			g.Expect(conditionOf(s, v1alpha1.ConditionCallsLost).Status).To(Equal(tc.callLost))
			if tc.check != nil {
				tc.check(g, s)
			}
			g.Expect(v.status()).To(Equal(s), "the same view has the same status")
			v.debounce.Status = s
			g.Expect(v.status()).To(Equal(s), "and nothing is written when nothing changed")
		})
	}
}

func TestWhatIsWorthAWrite(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	statusOf := func(s redislock.DebounceState) v1alpha1.DebounceStatus { return debounceViewOf(s).status() }
	before := statusOf(openState(1))

	more := openState(5)
	more.LastCall, more.Due = now.Add(30*time.Second), now.Add(90*time.Second)
	g.Expect(onlyCounters(before, statusOf(more), now)).To(BeTrue(), "more calls")
	g.Expect(onlyCounters(before, statusOf(more), now.Add(61*time.Second))).To(BeFalse(), "the run is due later than what was written, which has passed")
	g.Expect(onlyProgress(before, statusOf(more), now.Add(61*time.Second))).To(BeTrue())

	g.Expect(onlyCounters(before, statusOf(runningState()), now)).To(BeFalse(), "a run began")
	g.Expect(onlyProgress(before, statusOf(runningState()), now)).To(BeTrue(), "which need not be told at once")

	v := debounceViewOf(openState(1))
	v.problem = &problem{v1alpha1.ReasonURLNotAllowed, "no"}
	g.Expect(onlyProgress(before, v.status(), now)).To(BeFalse(), "what is wrong is told at once")
	v = debounceViewOf(openState(1))
	v.triggers.call = new("one")
	g.Expect(onlyProgress(before, v.status(), now)).To(BeFalse(), "and what was called for, or it would be called for again")
}
