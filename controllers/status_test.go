package controllers

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/stores"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var (
	now     = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	granted = now.Add(-time.Hour)
	object  = types.NamespacedName{Namespace: "ns", Name: "name"}
	blue    = campaign.Identity{ClusterUID: "blue-uid", ClusterName: "blue", Object: object, Fingerprint: "f00d"}
	green   = campaign.Identity{ClusterUID: "green-uid", ClusterName: "green", Object: object, Fingerprint: "f00d"}
)

// viewOf is the view of an object whose status was last written from other views.
func viewOf(o campaign.Observation, before ...view) view {
	v := view{
		lock: &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "name", Generation: 3}},
		key:  "lock:ns:name", observation: o, store: safeStore(), fingerprint: "f00d", now: now,
	}
	for _, b := range before {
		b.lock = v.lock.DeepCopy()
		v.lock.Status = b.status()
	}
	return v
}

func safeStore() *stores.State {
	return &stores.State{Looked: true, Report: redislock.StoreReport{Findings: []redislock.Finding{{Check: "Version", Verdict: redislock.Safe}}}}
}

func heldHere() campaign.Observation {
	return campaign.Observation{
		Known: true, Held: true, Reason: v1alpha1.ReasonHeldHere, Message: "this cluster holds the lock", Fence: 7, AcquiredAt: granted,
		Holder:  &campaign.Holder{Identity: &blue, TokenHash: "0123", Fence: 7, Since: granted, Ours: true},
		History: []redislock.Grant{{Holder: blue.String(), Fence: 7, At: granted}, {Holder: green.String(), Fence: 5, At: granted.Add(-time.Hour)}},
	}
}

// heldBefore is a grant that was given back since.
func heldBefore() campaign.Observation {
	o := heldHere()
	o.Fence = 5
	return o
}

func heldThere(fingerprint string) campaign.Observation {
	identity := green
	identity.Fingerprint = fingerprint
	return campaign.Observation{
		Known: true, Reason: v1alpha1.ReasonHeldElsewhere, Message: "cluster green holds the lock", Fence: 9,
		Holder: &campaign.Holder{Identity: &identity, TokenHash: "4567", Fence: 9, Since: granted},
	}
}

func free(reason v1alpha1.ConditionReason) campaign.Observation {
	return campaign.Observation{Known: true, Reason: reason, Message: "because of " + string(reason), Fence: 7}
}

func at(t time.Time) *metav1.Time { return new(metav1.NewTime(t.Truncate(time.Second).Local())) }

func condition(status v1alpha1.RedisLockStatus, kind v1alpha1.ConditionType) metav1.Condition {
	c := meta.FindStatusCondition(status.Conditions, string(kind))
	if c == nil {
		return metav1.Condition{}
	}
	return *c
}

func TestStatusOfALockHeldHere(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	status := viewOf(heldHere()).status()
	g.Expect(status.State).To(Equal(v1alpha1.StateAcquired))
	g.Expect(status.Key).To(Equal("lock:ns:name"))
	g.Expect(status.ObservedGeneration).To(BeEquivalentTo(3))
	g.Expect(status.FencingToken).To(BeEquivalentTo(7))
	g.Expect(status.AcquiredAt).To(Equal(at(granted)))
	g.Expect(status.Holder).To(Equal(&v1alpha1.LockHolder{Cluster: "blue", Since: at(granted)}), "no hash of its own token")
	g.Expect(status.Transitions).To(HaveValue(BeEquivalentTo(1)))
	g.Expect(status.History).To(Equal([]v1alpha1.LockGrant{
		{FencingToken: 7, Cluster: "blue", AcquiredAt: at(granted)},
		{FencingToken: 5, Cluster: "green", AcquiredAt: at(granted.Add(-time.Hour))},
	}))
	g.Expect(status.Conditions).To(HaveLen(4))
	for _, c := range status.Conditions {
		g.Expect(c.ObservedGeneration).To(BeEquivalentTo(3))
		g.Expect(c.LastTransitionTime.Time).To(Equal(now))
		g.Expect(c.Message).NotTo(BeEmpty())
	}
}

func TestStatusOfALockHeldElsewhere(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		holder *campaign.Holder
		want   *v1alpha1.LockHolder
	}{
		{"by another cluster", &campaign.Holder{Identity: &green, TokenHash: "4567", Since: granted}, &v1alpha1.LockHolder{Cluster: "green", TokenHash: "4567", Since: at(granted)}},
		{"by a program", &campaign.Holder{Name: "billing", TokenHash: "4567", Since: granted}, &v1alpha1.LockHolder{TokenHash: "4567", Since: at(granted)}},
		{"by somebody unknown, since unknown", &campaign.Holder{TokenHash: "4567"}, &v1alpha1.LockHolder{TokenHash: "4567"}},
		{"by nobody", nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			o := heldThere("f00d")
			o.Holder = tc.holder
			status := viewOf(o).status()
			g.Expect(status.State).To(Equal(v1alpha1.StateFree))
			g.Expect(status.AcquiredAt).To(BeNil())
			g.Expect(status.Holder).To(Equal(tc.want))
			g.Expect(status.Transitions).To(HaveValue(BeZero()))
			g.Expect(status.FencingToken).To(BeEquivalentTo(9))
		})
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	type is struct {
		status metav1.ConditionStatus
		reason v1alpha1.ConditionReason
	}
	operational := is{metav1.ConditionTrue, v1alpha1.ReasonOperational}
	not := func(reason v1alpha1.ConditionReason) is { return is{metav1.ConditionFalse, reason} }
	with := func(v view, change func(*view)) view { change(&v); return v }
	unreachable := func(err error) func(*view) {
		return func(v *view) { v.store = safeStore(); v.store.Unreachable = err }
	}
	for _, tc := range []struct {
		name            string
		view            view
		ready, acquired is
	}{
		{"held here", viewOf(heldHere()), operational, is{metav1.ConditionTrue, v1alpha1.ReasonHeldHere}},
		{"held elsewhere", viewOf(heldThere("f00d")), operational, not(v1alpha1.ReasonHeldElsewhere)},
		{"competing", viewOf(free(v1alpha1.ReasonCompeting)), operational, not(v1alpha1.ReasonCompeting)},
		{"quarantined", viewOf(free(v1alpha1.ReasonQuarantined)), operational, not(v1alpha1.ReasonQuarantined)},
		{"paused", viewOf(free(v1alpha1.ReasonPaused)), operational, not(v1alpha1.ReasonPaused)},
		{
			"paused, and the store is away", with(viewOf(free(v1alpha1.ReasonPaused)), unreachable(errors.New("refused"))),
			not(v1alpha1.ReasonStoreUnreachable), not(v1alpha1.ReasonPaused),
		},
		{"held, and the last look at the store failed", with(viewOf(heldHere()), unreachable(errors.New("slow"))), operational, is{metav1.ConditionTrue, v1alpha1.ReasonHeldHere}},
		{"store unreachable", viewOf(free(v1alpha1.ReasonStoreUnreachable)), not(v1alpha1.ReasonStoreUnreachable), not(v1alpha1.ReasonStoreUnreachable)},
		{"store refused", viewOf(free(v1alpha1.ReasonStoreRefused)), not(v1alpha1.ReasonStoreRefused), not(v1alpha1.ReasonStoreRefused)},
		{"corrupt fence", viewOf(free(v1alpha1.ReasonCorruptFence)), not(v1alpha1.ReasonCorruptFence), not(v1alpha1.ReasonCorruptFence)},
		{"duplicate identity", viewOf(free(v1alpha1.ReasonDuplicateIdentity)), not(v1alpha1.ReasonDuplicateIdentity), not(v1alpha1.ReasonDuplicateIdentity)},
		{
			"a problem of the spec", with(viewOf(campaign.Observation{}), func(v *view) { v.problem = &problem{v1alpha1.ReasonKeyNotAllowed, "no"} }),
			not(v1alpha1.ReasonKeyNotAllowed), not(v1alpha1.ReasonKeyNotAllowed),
		},
		{
			"a store that is not configured", with(viewOf(campaign.Observation{}), func(v *view) { v.store, v.problem = nil, &problem{v1alpha1.ReasonStoreUnknown, "no"} }),
			not(v1alpha1.ReasonStoreUnknown), not(v1alpha1.ReasonStoreUnknown),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			status := tc.view.status()
			for kind, want := range map[v1alpha1.ConditionType]is{v1alpha1.ConditionReady: tc.ready, v1alpha1.ConditionAcquired: tc.acquired} {
				c := condition(status, kind)
				g.Expect(is{c.Status, v1alpha1.ConditionReason(c.Reason)}).To(Equal(want), string(kind))
			}
		})
	}
}

func TestStoreSafe(t *testing.T) {
	t.Parallel()
	state := func(verdicts ...redislock.Verdict) *stores.State {
		s := &stores.State{Looked: true, Report: redislock.StoreReport{Findings: []redislock.Finding{}}}
		for _, v := range verdicts {
			s.Report.Findings = append(s.Report.Findings, redislock.Finding{Verdict: v, Message: "it is " + string(v)})
		}
		return s
	}
	for _, tc := range []struct {
		name    string
		store   *stores.State
		status  metav1.ConditionStatus
		reason  v1alpha1.ConditionReason
		message string
	}{
		{"no store", nil, metav1.ConditionUnknown, v1alpha1.ReasonStoreUnverified, "not been looked at"},
		{"not looked at", &stores.State{}, metav1.ConditionUnknown, v1alpha1.ReasonStoreUnverified, "not been looked at"},
		{"never answered", &stores.State{Looked: true, Unreachable: errors.New("away")}, metav1.ConditionUnknown, v1alpha1.ReasonStoreUnverified, "not been looked at"},
		{"safe", state(redislock.Safe, redislock.Safe), metav1.ConditionTrue, v1alpha1.ReasonStoreSafe, "nothing was found"},
		{"unverified", state(redislock.Safe, redislock.Unverified), metav1.ConditionUnknown, v1alpha1.ReasonStoreUnverified, "it is Unverified"},
		{"dangerous", state(redislock.Unverified, redislock.Dangerous, redislock.Safe), metav1.ConditionFalse, v1alpha1.ReasonStoreDangerous, "it is Dangerous"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			v := viewOf(heldHere())
			v.store = tc.store
			c := condition(v.status(), v1alpha1.ConditionStoreSafe)
			g.Expect(c.Status).To(Equal(tc.status))
			g.Expect(c.Reason).To(Equal(string(tc.reason)))
			g.Expect(c.Message).To(ContainSubstring(tc.message))
		})
	}
}

func TestSpecDiffers(t *testing.T) {
	t.Parallel()
	other := heldThere("beef")
	ours := heldHere()
	ours.Holder.Identity = &campaign.Identity{ClusterUID: "blue-uid", ClusterName: "blue", Object: object, Fingerprint: "beef"}
	program := heldThere("beef")
	program.Holder.Identity = nil
	for _, tc := range []struct {
		name        string
		observation campaign.Observation
		want        metav1.ConditionStatus
	}{
		{"another cluster with the same settings", heldThere("f00d"), metav1.ConditionFalse},
		{"another cluster with others", other, metav1.ConditionTrue},
		{"this cluster, with others a moment ago", ours, metav1.ConditionFalse},
		{"a program", program, metav1.ConditionFalse},
		{"nobody", free(v1alpha1.ReasonCompeting), metav1.ConditionFalse},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			c := condition(viewOf(tc.observation).status(), v1alpha1.ConditionSpecDiffers)
			g.Expect(c.Status).To(Equal(tc.want))
			if tc.want == metav1.ConditionTrue {
				g.Expect(c.Message).To(ContainSubstring("green"))
			}
		})
	}
}

func TestALossThatNobodySawCountsAsTwoTransitions(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	again := heldHere()
	again.Fence++
	for hold, want := range map[v1alpha1.HoldPolicy]int{v1alpha1.HoldAlways: 3, v1alpha1.HoldOnDemand: 1} {
		v := viewOf(heldHere())
		v.lock.Spec.Hold = hold
		v.lock.Status = v.status()
		v.observation = again
		g.Expect(v.status().Transitions).To(HaveValue(BeEquivalentTo(want)), string(hold))
		v.lock.Status = v.status()
		g.Expect(v.status().Transitions).To(HaveValue(BeEquivalentTo(want)), "counted once")
	}
}

func TestTransitionsAreCountedOnce(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	lock := &v1alpha1.RedisLock{}
	var counted []int64
	for _, o := range []campaign.Observation{
		free(v1alpha1.ReasonCompeting), heldHere(), heldHere(), free(v1alpha1.ReasonStoreUnreachable), free(v1alpha1.ReasonCompeting), heldThere("f00d"), heldHere(),
	} {
		v := viewOf(o)
		v.lock = lock
		lock.Status = v.status()
		counted = append(counted, *lock.Status.Transitions)
	}
	g.Expect(counted).To(Equal([]int64{0, 1, 1, 2, 2, 2, 3}))

	again := heldHere()
	again.Fence = 10
	v := viewOf(again)
	v.lock = lock
	before := lock.Status
	lock.Status = v.status()
	g.Expect(*lock.Status.Transitions).To(BeEquivalentTo(5), "it was lost and had again between two looks")
	g.Expect(eventsOf(before, lock.Status, v1alpha1.HoldAlways, 0)).To(ContainElement(HaveField("Reason", EventAcquired)))
	g.Expect(eventsOf(before, lock.Status, v1alpha1.HoldOnDemand, 0)).To(BeEmpty(), "the Jobs have events of their own")
}

func TestWhatWasSeenIsNotForgotten(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	after := viewOf(campaign.Observation{Known: true, Reason: v1alpha1.ReasonStoreUnreachable, Message: "away"}, viewOf(heldHere())).status()
	g.Expect(after.FencingToken).To(BeEquivalentTo(7))
	g.Expect(after.History).To(HaveLen(2))
}

func TestHistoryFitsTheStatus(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var grants []redislock.Grant
	for i := range 20 {
		grants = append(grants, redislock.Grant{Holder: fmt.Sprintf("uid/c%d/ns/name/f", i), Fence: uint64(100 - i), At: granted})
	}
	g.Expect(history(grants, nil)).To(HaveLen(campaign.HistoryLength))
	g.Expect(history(grants, nil)[0]).To(Equal(v1alpha1.LockGrant{FencingToken: 100, Cluster: "c0", AcquiredAt: at(granted)}))

	// Entries that no lock of ours wrote: the API server wants a fencing token of 1
	// and more.
	odd := []redislock.Grant{{}, {Holder: "billing", Fence: 3}, {Fence: math.MaxUint64}, {Holder: "a//b/c/d", Fence: 2}}
	g.Expect(history(odd, nil)).To(Equal([]v1alpha1.LockGrant{{FencingToken: 3}, {FencingToken: 2}}))
	before := []v1alpha1.LockGrant{{FencingToken: 1}}
	g.Expect(history(nil, before)).To(Equal(before), "unknown is not empty")
	g.Expect(history([]redislock.Grant{}, before)).To(BeEmpty())
}

func TestATransitionTimeMovesWithItsConditionOnly(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	later := viewOf(free(v1alpha1.ReasonStoreUnreachable), viewOf(heldHere()))
	later.now = now.Add(time.Hour)
	status := later.status()
	g.Expect(condition(status, v1alpha1.ConditionAcquired).LastTransitionTime.Time).To(Equal(later.now))
	g.Expect(condition(status, v1alpha1.ConditionStoreSafe).LastTransitionTime.Time).To(Equal(now))
}

// FuzzStatusIsIdempotent: the status of an object that has it already is the same,
// or a lock at rest would cost the API server writes.
func FuzzStatusIsIdempotent(f *testing.F) {
	f.Add(uint64(7), true, true, "blue", "HeldHere", "message", int64(now.Unix()), uint8(2), uint8(0))
	f.Add(uint64(0), false, false, "", "Paused", "", int64(0), uint8(0), uint8(1))
	f.Add(uint64(9), false, true, "green", "StoreUnreachable", "x", int64(-1), uint8(12), uint8(2))
	f.Fuzz(func(t *testing.T, fence uint64, held, holder bool, cluster, reason, message string, seconds int64, grants, problems uint8) {
		o := campaign.Observation{Known: true, Held: held, Reason: v1alpha1.ConditionReason(reason), Message: message, Fence: fence >> 11, AcquiredAt: time.Unix(seconds%1e10, seconds%1e9)}
		if holder {
			o.Holder = &campaign.Holder{TokenHash: message, Fence: fence, Since: time.Unix(seconds%1e10, 0)}
			if cluster != "" {
				o.Holder.Identity = &campaign.Identity{ClusterName: cluster, Fingerprint: reason}
			}
		}
		for i := range grants {
			o.History = append(o.History, redislock.Grant{Holder: cluster, Fence: fence >> 11 * uint64(i), At: time.Unix(seconds%1e10, int64(i))})
		}
		v := viewOf(o)
		switch problems % 4 {
		case 1:
			v.problem = &problem{v1alpha1.ReasonStoreUnknown, message}
		case 2:
			v.store = nil
		case 3:
			v.store = &stores.State{Looked: true, Unreachable: errors.New(message)}
		}
		v.lock.Status = v.status()
		for range 2 {
			before := v.lock.Status.DeepCopy()
			v.now = v.now.Add(time.Minute)
			if after := v.status(); !equality.Semantic.DeepEqual(*before, after) {
				t.Fatalf("not the same:\n%+v\n%+v", *before, after)
			}
		}
		if again := eventsOf(v.lock.Status, v.status(), v1alpha1.HoldAlways, 0); len(again) != 0 {
			t.Fatalf("events of nothing: %+v", again)
		}
		for _, grant := range v.lock.Status.History {
			if grant.FencingToken < 1 {
				t.Fatalf("the API server refuses fencing token %d", grant.FencingToken)
			}
		}
	})
}

func TestEventsOf(t *testing.T) {
	t.Parallel()
	dangerous := viewOf(heldHere())
	dangerous.store = &stores.State{Looked: true, Report: redislock.StoreReport{Findings: []redislock.Finding{{Verdict: redislock.Dangerous, Message: "evicts"}}}}
	unverified := viewOf(heldHere())
	unverified.store = nil
	problematic := viewOf(campaign.Observation{})
	problematic.problem = &problem{v1alpha1.ReasonKeyNotAllowed, "another key"}
	deleting := viewOf(campaign.Observation{})
	deleting.problem = &problem{v1alpha1.ReasonDeleting, "not yet"}
	successor := heldThere("f00d")
	successor.Message = "cluster red holds the lock"
	reworded := free(v1alpha1.ReasonStoreUnreachable)
	reworded.Message = "in other words"
	normal := func(reason EventReason, action EventAction, message string) Event {
		return Event{corev1.EventTypeNormal, reason, action, message}
	}
	warning := func(reason EventReason, action EventAction, message string) Event {
		return Event{corev1.EventTypeWarning, reason, action, message}
	}
	for _, tc := range []struct {
		name   string
		before *view
		after  view
		want   []Event
	}{
		{"acquired", nil, viewOf(heldHere()), []Event{normal(EventAcquired, ActionCompete, "this cluster holds the lock")}},
		{"acquired after a loss", new(viewOf(free(v1alpha1.ReasonStoreUnreachable))), viewOf(heldHere()), []Event{normal(EventAcquired, ActionCompete, "this cluster holds the lock")}},
		{"nothing new", new(viewOf(heldHere())), viewOf(heldHere()), nil},
		{"lost", new(viewOf(heldHere())), viewOf(free(v1alpha1.ReasonStoreUnreachable)), []Event{warning(EventLost, ActionCompete, "because of StoreUnreachable")}},
		{"lost to another", new(viewOf(heldHere())), viewOf(heldThere("f00d")), []Event{warning(EventLost, ActionCompete, "cluster green holds the lock")}},
		{"drained", new(viewOf(heldHere())), viewOf(free(v1alpha1.ReasonPaused)), []Event{normal(EventReleased, ActionCompete, "because of Paused")}},
		{"deleted", new(viewOf(heldHere())), deleting, []Event{normal(EventReleased, ActionCompete, "not yet")}},
		{"given back after a Job", new(viewOf(heldHere())), viewOf(free(v1alpha1.ReasonReleased)), []Event{normal(EventReleased, ActionCompete, "because of Released")}},
		{"no Job waits any more", new(viewOf(heldHere())), viewOf(free(v1alpha1.ReasonIdle)), []Event{normal(EventReleased, ActionCompete, "because of Idle")}},
		{"given up to a preferred cluster", new(viewOf(heldHere())), viewOf(free(v1alpha1.ReasonDeferring)), []Event{normal(EventReleased, ActionCompete, "because of Deferring")}},
		{"given back, and another has it already", new(viewOf(heldBefore())), viewOf(heldThere("f00d")), []Event{normal(EventReleased, ActionCompete, "cluster green holds the lock")}},
		{"idle is the usual course", new(viewOf(heldThere("f00d"))), viewOf(free(v1alpha1.ReasonIdle)), nil},
		{"so is a release in passing", new(viewOf(heldThere("f00d"))), viewOf(free(v1alpha1.ReasonReleased)), nil},
		{"a preferred cluster is there", new(viewOf(free(v1alpha1.ReasonCompeting))), viewOf(free(v1alpha1.ReasonDeferring)), []Event{normal("Deferring", ActionCompete, "because of Deferring")}},
		{"paused without holding", new(viewOf(free(v1alpha1.ReasonCompeting))), viewOf(free(v1alpha1.ReasonPaused)), []Event{normal("Paused", ActionCompete, "because of Paused")}},
		{"another holds it", new(viewOf(free(v1alpha1.ReasonCompeting))), viewOf(heldThere("f00d")), []Event{normal("HeldElsewhere", ActionCompete, "cluster green holds the lock")}},
		{"another follows", new(viewOf(heldThere("f00d"))), viewOf(successor), []Event{normal("HeldElsewhere", ActionCompete, "cluster red holds the lock")}},
		{"competing is the usual course", new(viewOf(heldThere("f00d"))), viewOf(free(v1alpha1.ReasonCompeting)), nil},
		{"the store is away", new(viewOf(free(v1alpha1.ReasonCompeting))), viewOf(free(v1alpha1.ReasonStoreUnreachable)), []Event{warning("StoreUnreachable", ActionCompete, "because of StoreUnreachable")}},
		{"still away, in other words", new(viewOf(free(v1alpha1.ReasonStoreUnreachable))), viewOf(reworded), nil},
		{"quarantined", new(viewOf(free(v1alpha1.ReasonStoreUnreachable))), viewOf(free(v1alpha1.ReasonQuarantined)), []Event{warning("Quarantined", ActionCompete, "because of Quarantined")}},
		{"a twin", new(viewOf(heldHere())), viewOf(free(v1alpha1.ReasonDuplicateIdentity)), []Event{warning(EventLost, ActionCompete, "because of DuplicateIdentity")}},
		{"a problem from the start", nil, problematic, []Event{warning("KeyNotAllowed", ActionCompete, "another key")}},
		{"specs differ", new(viewOf(heldThere("f00d"))), viewOf(heldThere("beef")), []Event{warning("SpecsDiffer", ActionCompare, condition(viewOf(heldThere("beef")).status(), v1alpha1.ConditionSpecDiffers).Message)}},
		{"specs agree again", new(viewOf(heldThere("beef"))), viewOf(heldThere("f00d")), nil},
		{"the store is dangerous", new(viewOf(heldHere())), dangerous, []Event{warning("StoreDangerous", ActionLookStore, "evicts")}},
		{"the store is safe again", new(dangerous), viewOf(heldHere()), nil},
		{"the store may not be read", new(viewOf(heldHere())), unverified, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			var before v1alpha1.RedisLockStatus
			if tc.before != nil {
				before = tc.before.status()
			}
			tc.after.lock = tc.after.lock.DeepCopy()
			tc.after.lock.Status = before
			g.Expect(eventsOf(before, tc.after.status(), v1alpha1.HoldAlways, 5)).To(ConsistOf(tc.want))
		})
	}
}

func TestDefaultsOfASpec(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	bare := &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "name"}}
	g.Expect(lockKey(bare)).To(Equal("lock:ns:name"))
	g.Expect(storeName(bare)).To(Equal("default"))
	g.Expect(lease(bare)).To(Equal(30 * time.Second))
	g.Expect(renewEvery(bare)).To(Equal(10 * time.Second))
	g.Expect(lockDelay(bare)).To(BeZero())

	full := bare.DeepCopy()
	full.Spec = v1alpha1.RedisLockSpec{
		Key: "lock:ns:other", Store: "payments", Lease: &metav1.Duration{Duration: time.Minute},
		RenewEvery: &metav1.Duration{Duration: time.Second}, LockDelay: &metav1.Duration{Duration: 5 * time.Second},
	}
	g.Expect(lockKey(full)).To(Equal("lock:ns:other"))
	g.Expect(storeName(full)).To(Equal("payments"))
	g.Expect(lease(full)).To(Equal(time.Minute))
	g.Expect(renewEvery(full)).To(Equal(time.Second))
	g.Expect(lockDelay(full)).To(Equal(5 * time.Second))

	g.Expect(fingerprint(bare)).NotTo(Equal(fingerprint(full)))
	renewed := bare.DeepCopy()
	renewed.Spec.RenewEvery = full.Spec.RenewEvery
	g.Expect(fingerprint(renewed)).To(Equal(fingerprint(bare)), "clusters may renew as they like")
}

func TestNothingButCountsHasChanged(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	before := viewOf(heldHere()).status()
	v := viewOf(heldHere(), viewOf(heldHere()))
	g.Expect(onlyCounts(before, v.status())).To(BeFalse(), "nothing has")
	v.active, v.waiting = 1, 2
	g.Expect(onlyCounts(before, v.status())).To(BeTrue())
	other := viewOf(free(v1alpha1.ReasonCompeting), viewOf(heldHere()))
	other.active = 1
	g.Expect(onlyCounts(before, other.status())).To(BeFalse(), "more has")
}

func TestAStatusThatWasWrittenIsSeenBeforeTheCacheHasIt(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var all memories
	m := all.of(object)
	cached := &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{UID: "a", ResourceVersion: "10"}, Status: v1alpha1.RedisLockStatus{State: v1alpha1.StateFree}}
	_, known := m.shown(cached)
	g.Expect(known).To(BeFalse())
	m.show("a", "11", v1alpha1.RedisLockStatus{State: v1alpha1.StateAcquired})
	status, known := m.shown(cached)
	g.Expect(known).To(BeTrue())
	g.Expect(status.State).To(Equal(v1alpha1.StateAcquired))
	cached.ResourceVersion = "12"
	status, known = m.shown(cached)
	g.Expect(known).To(BeTrue())
	g.Expect(status.State).To(Equal(v1alpha1.StateFree), "somebody has written since")
	cached.UID = "b"
	_, known = m.shown(cached)
	g.Expect(known).To(BeFalse(), "it was made anew")
}

func TestCountsSettleBeforeTheyAreWritten(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	m := &memory{}
	g.Expect(m.settling(true)).To(And(BeNumerically(">", 0), BeNumerically("<=", turn)))
	g.Eventually(func() time.Duration { return m.settling(true) }).Should(BeNumerically("<=", 0))
	g.Expect(m.settling(false)).To(BeZero())
	g.Expect(m.settling(true)).To(BeNumerically(">", 0), "another change")
}
