package controllers

import (
	"fmt"
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/stores"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// view is all that a RedisLock's status is made from.
type view struct {
	lock *v1alpha1.RedisLock
	key  string
	// problem is why no campaign runs; nil when one does.
	problem     *problem
	observation campaign.Observation
	store       *stores.State
	fingerprint string
	// active and waiting count guarded Jobs.
	active, waiting int32
	now             time.Time
}

// problem is something in the spec or the configuration that somebody must change.
type problem struct {
	reason  v1alpha1.ConditionReason
	message string
}

// verdict is a condition without its bookkeeping.
type verdict struct {
	kind    v1alpha1.ConditionType
	status  metav1.ConditionStatus
	reason  v1alpha1.ConditionReason
	message string
}

// status works out the whole status. It is a pure function: the same view has the
// same status, so that nothing is written while nothing changes.
func (v view) status() v1alpha1.RedisLockStatus {
	before := v.lock.Status
	status := v1alpha1.RedisLockStatus{
		Conditions:         slices.Clone(before.Conditions),
		ObservedGeneration: v.lock.Generation,
		State:              v1alpha1.StateFree,
		Key:                v.key,
		FencingToken:       max(before.FencingToken, int64(v.observation.Fence)),
		History:            history(v.observation.History, before.History),
	}
	if v.observation.Held {
		status.State = v1alpha1.StateAcquired
		status.AcquiredAt = seconds(v.observation.AcquiredAt)
	}
	if h := v.observation.Holder; h != nil {
		status.Holder = &v1alpha1.LockHolder{Since: seconds(h.Since)}
		if h.Identity != nil {
			status.Holder.Cluster = h.Identity.ClusterName
		}
		if !v.observation.Held {
			status.Holder.TokenHash = h.TokenHash
		}
	}
	transitions := ptr.Deref(before.Transitions, 0)
	was, is := before.State == v1alpha1.StateAcquired, status.State == v1alpha1.StateAcquired
	switch {
	case was != is:
		transitions++
	case regained(before, status) && v.lock.Spec.Hold != v1alpha1.HoldOnDemand:
		// Another grant: it was lost and acquired anew between two looks. One that is
		// taken on demand is given back between two Jobs, which counts as keeping it.
		transitions += 2
	}
	status.Transitions = &transitions
	status.ActiveJobs, status.WaitingJobs = &v.active, &v.waiting
	for _, verdict := range []verdict{v.ready(), v.acquired(), v.specDiffers(), v.storeSafe()} {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: string(verdict.kind), Status: verdict.status, Reason: string(verdict.reason), Message: verdict.message,
			ObservedGeneration: v.lock.Generation, LastTransitionTime: metav1.NewTime(v.now),
		})
	}
	return status
}

// regained says that the lock was lost or given back, and had again, between two
// looks at it.
func regained(before, after v1alpha1.RedisLockStatus) bool {
	return before.State == v1alpha1.StateAcquired && after.State == v1alpha1.StateAcquired && before.FencingToken != after.FencingToken
}

// onlyCounts says that two statuses differ in the numbers of Jobs and in nothing else.
func onlyCounts(before, after v1alpha1.RedisLockStatus) bool {
	if equality.Semantic.DeepEqual(before, after) {
		return false
	}
	after.ActiveJobs, after.WaitingJobs = before.ActiveJobs, before.WaitingJobs
	return equality.Semantic.DeepEqual(before, after)
}

// blocking are the reasons for which a campaign cannot get on before something is
// mended outside of it.
var blocking = []v1alpha1.ConditionReason{
	v1alpha1.ReasonStoreUnreachable, v1alpha1.ReasonStoreRefused, v1alpha1.ReasonCorruptFence, v1alpha1.ReasonDuplicateIdentity,
}

func (v view) ready() verdict {
	no := func(reason v1alpha1.ConditionReason, message string) verdict {
		return verdict{v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message}
	}
	switch {
	case v.problem != nil:
		return no(v.problem.reason, v.problem.message)
	case slices.Contains(blocking, v.observation.Reason):
		return no(v.observation.Reason, v.observation.Message)
	case v.observation.Reason == v1alpha1.ReasonPaused && v.store != nil && v.store.Unreachable != nil:
		// Nothing is competed for that would notice. The words are always the same, so
		// that the error's changes cost no writes.
		if redislock.Refused(v.store.Unreachable) {
			return no(v1alpha1.ReasonStoreRefused, "Redis refused the operator when it was last looked at")
		}
		return no(v1alpha1.ReasonStoreUnreachable, "Redis did not answer when it was last looked at")
	}
	return verdict{v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonOperational, "the store answers and the lock can be worked with"}
}

func (v view) acquired() verdict {
	switch {
	case v.problem != nil:
		return verdict{v1alpha1.ConditionAcquired, metav1.ConditionFalse, v.problem.reason, v.problem.message}
	case v.observation.Held:
		return verdict{v1alpha1.ConditionAcquired, metav1.ConditionTrue, v.observation.Reason, v.observation.Message}
	}
	return verdict{v1alpha1.ConditionAcquired, metav1.ConditionFalse, v.observation.Reason, v.observation.Message}
}

func (v view) specDiffers() verdict {
	h := v.observation.Holder
	if h != nil && h.Identity != nil && !h.Ours && h.Identity.Fingerprint != v.fingerprint {
		return verdict{v1alpha1.ConditionSpecDiffers, metav1.ConditionTrue, v1alpha1.ReasonSpecsDiffer, fmt.Sprintf(
			"%s holds this key with another hold, lease or lockDelay than this object has: give it the same spec in all clusters", h)}
	}
	return verdict{v1alpha1.ConditionSpecDiffers, metav1.ConditionFalse, v1alpha1.ReasonSpecsAgree, "no cluster is seen to use this key with other settings"}
}

func (v view) storeSafe() verdict {
	if v.store == nil || !v.store.Looked || v.store.Report.Findings == nil {
		return verdict{v1alpha1.ConditionStoreSafe, metav1.ConditionUnknown, v1alpha1.ReasonStoreUnverified, "the store has not been looked at yet"}
	}
	switch report := v.store.Report; report.Verdict() {
	case redislock.Dangerous:
		return verdict{v1alpha1.ConditionStoreSafe, metav1.ConditionFalse, v1alpha1.ReasonStoreDangerous, report.Message(redislock.Dangerous)}
	case redislock.Unverified:
		return verdict{v1alpha1.ConditionStoreSafe, metav1.ConditionUnknown, v1alpha1.ReasonStoreUnverified, report.Message(redislock.Unverified)}
	}
	return verdict{v1alpha1.ConditionStoreSafe, metav1.ConditionTrue, v1alpha1.ReasonStoreSafe, "nothing was found that endangers locks"}
}

func history(grants []redislock.Grant, before []v1alpha1.LockGrant) []v1alpha1.LockGrant {
	if grants == nil {
		return before
	}
	var list []v1alpha1.LockGrant
	for _, grant := range grants[:min(len(grants), campaign.HistoryLength)] {
		if grant.Fence == 0 || grant.Fence > math.MaxInt64 {
			continue // not of ours: the API server would refuse the whole status
		}
		item := v1alpha1.LockGrant{FencingToken: int64(grant.Fence), AcquiredAt: seconds(grant.At)}
		if identity, ok := campaign.ParseIdentity(grant.Holder); ok {
			item.Cluster = identity.ClusterName
		}
		list = append(list, item)
	}
	return list
}

// seconds cuts a time to what the API keeps, so that what is read back compares
// equal.
func seconds(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return new(metav1.NewTime(t.Truncate(time.Second).Local()))
}
