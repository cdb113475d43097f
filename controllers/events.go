package controllers

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// Event is something that happened to a lock, for the person at kubectl describe.
type Event struct {
	Type    string // corev1.EventTypeNormal or -Warning
	Reason  EventReason
	Action  EventAction
	Message string
}

// EventReason is the reason of an event: why it happened.
type EventReason string

// EventAction is the action of an event: what the operator was doing.
type EventAction string

// Reasons of events. Where a condition changed, the event bears the reason of the
// condition; these are those that have no condition of that name.
const (
	EventAcquired EventReason = "Acquired"
	EventLost     EventReason = "Lost"
	EventReleased EventReason = "Released"
)

// Actions of events.
const (
	ActionCompete   EventAction = "Compete"
	ActionLookStore EventAction = "LookAtStore"
	ActionCompare   EventAction = "CompareSpecs"
)

// quiet are the reasons of conditions that are the usual course of things and not
// worth an event of their own.
var quiet = map[v1alpha1.ConditionReason]bool{
	v1alpha1.ReasonOperational: true,
	v1alpha1.ReasonSpecsAgree:  true,
	v1alpha1.ReasonStoreSafe:   true,
	v1alpha1.ReasonCompeting:   true,
	v1alpha1.ReasonIdle:        true,
	v1alpha1.ReasonReleased:    true,
}

// givenUp are the reasons of a lock that this cluster gave back itself.
var givenUp = map[v1alpha1.ConditionReason]bool{
	v1alpha1.ReasonPaused:    true,
	v1alpha1.ReasonDeleting:  true,
	v1alpha1.ReasonIdle:      true,
	v1alpha1.ReasonReleased:  true,
	v1alpha1.ReasonDeferring: true,
}

// inTurn are the reasons of events that a lock held on demand has with each Job, of
// which the Jobs' own events tell.
var inTurn = map[EventReason]bool{
	EventAcquired: true, EventReleased: true, EventReason(v1alpha1.ReasonHeldElsewhere): true,
}

// eventsOf is what there is to tell of a change from one status to the next. gaveBack
// is the fencing token of the last grant that this process gave back: another cluster
// may have had the lock since.
func eventsOf(before, after v1alpha1.RedisLockStatus, hold v1alpha1.HoldPolicy, gaveBack uint64) []Event {
	var list []Event
	acquired := meta.FindStatusCondition(after.Conditions, string(v1alpha1.ConditionAcquired))
	switch {
	case before.State != v1alpha1.StateAcquired && after.State == v1alpha1.StateAcquired, regained(before, after):
		list = append(list, Event{corev1.EventTypeNormal, EventAcquired, ActionCompete, acquired.Message})
	case before.State == v1alpha1.StateAcquired && after.State == v1alpha1.StateFree:
		event := Event{corev1.EventTypeWarning, EventLost, ActionCompete, acquired.Message}
		if givenUp[v1alpha1.ConditionReason(acquired.Reason)] || gaveBack != 0 && gaveBack == uint64(before.FencingToken) {
			event.Type, event.Reason = corev1.EventTypeNormal, EventReleased
		}
		list = append(list, event)
	case changed(before, after, v1alpha1.ConditionAcquired) && after.State == v1alpha1.StateFree:
		list = append(list, of(acquired, ActionCompete)...)
	}
	for kind, action := range map[v1alpha1.ConditionType]EventAction{
		v1alpha1.ConditionStoreSafe:   ActionLookStore,
		v1alpha1.ConditionSpecDiffers: ActionCompare,
	} {
		if changed(before, after, kind) {
			list = append(list, of(meta.FindStatusCondition(after.Conditions, string(kind)), action)...)
		}
	}
	if hold == v1alpha1.HoldOnDemand {
		list = slices.DeleteFunc(list, func(e Event) bool { return inTurn[e.Reason] })
	}
	return list
}

// of is the event that a condition is worth, if it is.
func of(c *metav1.Condition, action EventAction) []Event {
	if quiet[v1alpha1.ConditionReason(c.Reason)] || c.Status == metav1.ConditionUnknown && c.Type == string(v1alpha1.ConditionStoreSafe) {
		return nil
	}
	kind := corev1.EventTypeWarning
	switch v1alpha1.ConditionReason(c.Reason) {
	case v1alpha1.ReasonHeldElsewhere, v1alpha1.ReasonPaused, v1alpha1.ReasonDeferring:
		kind = corev1.EventTypeNormal
	}
	return []Event{{kind, EventReason(c.Reason), action, c.Message}}
}

func changed(before, after v1alpha1.RedisLockStatus, kind v1alpha1.ConditionType) bool {
	was := meta.FindStatusCondition(before.Conditions, string(kind))
	is := meta.FindStatusCondition(after.Conditions, string(kind))
	if is == nil {
		return false
	}
	return was == nil || was.Reason != is.Reason || was.Status != is.Status || was.Message != is.Message && is.Reason == string(v1alpha1.ReasonHeldElsewhere)
}
