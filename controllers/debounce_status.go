package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/debounce"
	"github.com/redislock-operator/redislock-operator/internal/stores"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// statusInterval is the least time between two writes of a Debounce's status that are
// about calls and runs alone: there may be many a second.
const statusInterval = time.Second

// debounceView is all that a Debounce's status is made from.
type debounceView struct {
	debounce *v1alpha1.Debounce
	key      string
	// problem is what somebody must change; nil where nothing is wrong.
	problem     *problem
	observation debounce.Observation
	store       *stores.State
	triggers    triggerState
	clusterName string
	now         time.Time
}

// status works out the whole status. The same view has the same status.
func (v debounceView) status() v1alpha1.DebounceStatus {
	before := v.debounce.Status
	status := v1alpha1.DebounceStatus{
		Conditions:         slices.Clone(before.Conditions),
		ObservedGeneration: v.triggers.generation,
		State:              v1alpha1.StateFree,
		Key:                v.key,
		Calls:              before.Calls,
		Runs:               before.Runs,
		LastCallAt:         before.LastCallAt,
		LastRun:            before.LastRun,
		Triggers:           v.triggers.list(),
		Call:               v.triggers.call,
	}
	if s := v.observation.State; v.observation.Known {
		if !s.Quiet() {
			status.State = v1alpha1.StateAcquired
		}
		status.Calls, status.Runs = &s.Calls, &s.Runs
		status.LastCallAt = seconds(s.LastCall)
		status.DueAt = seconds(s.Due)
		status.LastRun = lastRun(s, before.LastRun)
	}
	for _, verdict := range []verdict{v.ready(), v.callsLost()} {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: string(verdict.kind), Status: verdict.status, Reason: string(verdict.reason), Message: verdict.message,
			ObservedGeneration: v.debounce.Generation, LastTransitionTime: metav1.NewTime(v.now),
		})
	}
	return status
}

// lastRun is the run that goes on, or else the last. What Redis forgot is kept.
func lastRun(s redislock.DebounceState, before *v1alpha1.DebounceRun) *v1alpha1.DebounceRun {
	switch {
	case s.Running != nil:
		return &v1alpha1.DebounceRun{
			Generation: int64(s.Running.Generation), Cluster: clusterOf(s.Running.Claimant), StartedAt: seconds(s.Running.Claimed),
			Calls: new(int64(s.Running.Calls)), Attempt: int32(s.Running.Attempt),
		}
	case s.LastRun != nil:
		return &v1alpha1.DebounceRun{
			Generation: int64(s.LastRun.Generation), Cluster: clusterOf(s.LastRun.Claimant),
			StartedAt: seconds(s.LastRun.Started), FinishedAt: seconds(s.LastRun.Finished),
			Calls: new(int64(s.LastRun.Calls)), Attempt: int32(s.LastRun.Attempt),
			Outcome: v1alpha1.RunOutcome(s.LastRun.Outcome), Message: s.LastRun.Message,
		}
	case before != nil && before.Outcome == "":
		// Redis has forgotten a run that went on.
		lost := *before
		lost.Outcome, lost.Message = v1alpha1.RunLost, "Redis lost what it knew of this run"
		return &lost
	}
	return before
}

func (v debounceView) ready() verdict {
	is := func(status metav1.ConditionStatus, reason v1alpha1.ConditionReason, message string) verdict {
		return verdict{v1alpha1.ConditionReady, status, reason, message}
	}
	switch {
	case v.problem != nil:
		return is(metav1.ConditionFalse, v.problem.reason, v.problem.message)
	case v.store != nil && v.store.Unreachable != nil && redislock.Refused(v.store.Unreachable):
		// The words are always the same, so that the error's changes cost no writes.
		return is(metav1.ConditionFalse, v1alpha1.ReasonStoreRefused, "Redis refused the operator when it was last looked at")
	case v.store != nil && v.store.Unreachable != nil:
		return is(metav1.ConditionFalse, v1alpha1.ReasonStoreUnreachable, "Redis did not answer when it was last looked at")
	case v.observation.Err != nil:
		reason := v1alpha1.ReasonStoreUnreachable
		if redislock.Refused(v.observation.Err) {
			reason = v1alpha1.ReasonStoreRefused
		}
		return is(metav1.ConditionFalse, reason, v.observation.Err.Error())
	case v.debounce.Spec.Suspend != nil && *v.debounce.Spec.Suspend:
		return is(metav1.ConditionTrue, v1alpha1.ReasonSuspended, "calls are recorded, and this cluster runs nothing, for spec.suspend is set")
	}
	return is(metav1.ConditionTrue, v1alpha1.ReasonOperational, "the store answers and calls are run")
}

// callsLost stays true until calls that came later were run.
func (v debounceView) callsLost() verdict {
	ran := v.observation.State.LastRun
	if lost := v.observation.Lost; lost != 0 && (ran == nil || ran.Started.Before(v.observation.LostAt)) {
		return verdict{v1alpha1.ConditionCallsLost, metav1.ConditionTrue, v1alpha1.ReasonCallsLost, fmt.Sprintf(
			"Redis lost writes that it had acknowledged, and with them the calls of generation %d that no run had finished: call again", lost)}
	}
	// A process that was not there, or only watches, has seen no generation: it knows it
	// by the calls, of which there are fewer than there were.
	if before := v.debounce.Status; v.observation.Known && before.State == v1alpha1.StateAcquired && v.observation.State.Calls < ptr.Deref(before.Calls, 0) {
		return verdict{v1alpha1.ConditionCallsLost, metav1.ConditionTrue, v1alpha1.ReasonCallsLost,
			"Redis lost writes that it had acknowledged, and with them calls that no run had finished: call again"}
	}
	// The process that noticed may be gone.
	was := meta.FindStatusCondition(v.debounce.Status.Conditions, string(v1alpha1.ConditionCallsLost))
	if was != nil && was.Status == metav1.ConditionTrue && (ran == nil || ran.Started.Before(was.LastTransitionTime.Time)) {
		return verdict{v1alpha1.ConditionCallsLost, metav1.ConditionTrue, v1alpha1.ReasonCallsLost, was.Message}
	}
	return verdict{v1alpha1.ConditionCallsLost, metav1.ConditionFalse, v1alpha1.ReasonCallsKept, "no recorded call is known to be lost"}
}

// write applies the status if it has changed, and then tells of what changed. It returns
// after what time to come back, where that is to be done later.
func (r *DebounceReconciler) write(ctx context.Context, v debounceView, m *debounceMemory) (time.Duration, error) {
	object := client.ObjectKeyFromObject(v.debounce)
	before, after := v.debounce.Status, v.status()
	measureDebounce(object, after.State)
	if v.problem == nil && !v.observation.Known && v.observation.Err == nil && (v.store == nil || v.store.Unreachable == nil) {
		return 0, nil // the runner will tell
	}
	if equality.Semantic.DeepEqual(before, after) || onlyCounters(before, after, v.now) {
		return 0, nil
	}
	if left := statusInterval - time.Since(m.written); left > 0 && onlyProgress(before, after, v.now) {
		return left, nil
	}
	version, err := applyStatus(ctx, r.Client, v.debounce, "Debounce", &after)
	if err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	m.status, m.version, m.written = after, version, time.Now()
	for _, kind := range []v1alpha1.ConditionType{v1alpha1.ConditionReady, v1alpha1.ConditionCallsLost} {
		r.tellCondition(v.debounce, kind, before.Conditions, after.Conditions)
	}
	return 0, nil
}

// tellCondition has an event made of a condition that has become bad, or good again.
func (r *DebounceReconciler) tellCondition(d *v1alpha1.Debounce, kind v1alpha1.ConditionType, before, after []metav1.Condition) {
	was, is := meta.FindStatusCondition(before, string(kind)), meta.FindStatusCondition(after, string(kind))
	if was != nil && was.Status == is.Status && was.Reason == is.Reason {
		return
	}
	bad := is.Status == metav1.ConditionFalse
	if kind == v1alpha1.ConditionCallsLost {
		bad = is.Status == metav1.ConditionTrue
	}
	switch {
	case bad:
		if kind == v1alpha1.ConditionCallsLost {
			debounceLostMetric.WithLabelValues(d.Namespace, d.Name).Inc()
		}
		r.Recorder.Eventf(d, nil, corev1.EventTypeWarning, is.Reason, string(ActionWatch), "%s", is.Message)
	case was != nil && kind == v1alpha1.ConditionReady:
		r.Recorder.Eventf(d, nil, corev1.EventTypeNormal, is.Reason, string(ActionWatch), "%s", is.Message)
	}
}

// onlyCounters says that two statuses differ only in what moves with every call: it is
// written when something else changes. So is when the run is due, unless the time that
// was written has passed.
func onlyCounters(before, after v1alpha1.DebounceStatus, now time.Time) bool {
	after.Calls, after.Runs, after.LastCallAt = before.Calls, before.Runs, before.LastCallAt
	if before.DueAt == nil || now.Before(before.DueAt.Time) {
		after.DueAt = before.DueAt
	}
	return equality.Semantic.DeepEqual(before, after)
}

// onlyProgress says that they differ in calls and runs alone.
func onlyProgress(before, after v1alpha1.DebounceStatus, now time.Time) bool {
	after.State, after.LastRun, after.DueAt = before.State, before.LastRun, before.DueAt
	return onlyCounters(before, after, now)
}
