package v1alpha1

// ReleaseFinalizer keeps a RedisLock that is being deleted until this cluster
// has given its lease back, or has let it lapse.
const ReleaseFinalizer = "redislock.io/release"

// ConditionType is the type of a condition in a RedisLock's or a Debounce's status.
type ConditionType string

const (
	// ConditionReady says whether the operator can work with this lock or debounce: its
	// store is known and answers, its key is allowed, and a debounce's action is possible.
	ConditionReady ConditionType = "Ready"

	// ConditionAcquired says whether this cluster holds the lock, and where it
	// does not, why.
	ConditionAcquired ConditionType = "Acquired"

	// ConditionSpecDiffers is true while another cluster uses this key with
	// other settings: clusters that disagree can break exclusion silently.
	ConditionSpecDiffers ConditionType = "SpecDiffers"

	// ConditionStoreSafe says whether the Redis behind the lock is set up in a
	// way that keeps locks; Unknown where the operator may not look.
	ConditionStoreSafe ConditionType = "StoreSafe"

	// ConditionCallsLost, of a Debounce, is true where Redis lost calls that it had
	// recorded and that no run had taken yet.
	ConditionCallsLost ConditionType = "CallsLost"
)

// ConditionReason is the reason of a condition in a RedisLock's or a Debounce's status.
type ConditionReason string

// Reasons of Ready. Those from StoreUnreachable on say what stands in the way,
// and are reasons of a RedisLock's Acquired=False as well.
const (
	// ReasonOperational: the store answers and the lock or debounce can be worked with.
	ReasonOperational ConditionReason = "Operational"

	// ReasonStoreUnreachable: Redis does not answer.
	ReasonStoreUnreachable ConditionReason = "StoreUnreachable"

	// ReasonStoreUnknown: spec.store names a store that is not in the
	// configuration of this cluster's operator.
	ReasonStoreUnknown ConditionReason = "StoreUnknown"

	// ReasonStoreInvalid: the configuration of the store cannot be used, for
	// instance because its URL does not parse or a file it names is missing.
	ReasonStoreInvalid ConditionReason = "StoreInvalid"

	// ReasonStoreRefused: Redis answers and refuses, because of the user name,
	// the password or what they may do.
	ReasonStoreRefused ConditionReason = "StoreRefused"

	// ReasonKeyNotAllowed: the key lies outside the prefix of the object's
	// namespace, and the operator's key policy does not allow it.
	ReasonKeyNotAllowed ConditionReason = "KeyNotAllowed"

	// ReasonCorruptFence: the lock's fencing counter in Redis holds a value
	// that cannot be true, so no grant is made from it.
	ReasonCorruptFence ConditionReason = "CorruptFence"

	// ReasonDuplicateIdentity: another process acts with this cluster's
	// identity, so this one has stepped down.
	ReasonDuplicateIdentity ConditionReason = "DuplicateIdentity"

	// ReasonDeleting: the object is being deleted and the lease given back.
	ReasonDeleting ConditionReason = "Deleting"
)

// Reasons of a Debounce's Ready, beside those above.
const (
	// ReasonSuspended: spec.suspend is set, so calls are recorded and nothing is run here.
	ReasonSuspended ConditionReason = "Suspended"

	// ReasonTriggerInvalid: a selector in spec.triggers does not parse, or selects more
	// ConfigMaps than can be watched.
	ReasonTriggerInvalid ConditionReason = "TriggerInvalid"

	// ReasonActionInvalid: no runner can be made of the spec.
	ReasonActionInvalid ConditionReason = "ActionInvalid"

	// ReasonURLNotAllowed: spec.action.http.url lies under none of the targets that the
	// operator's configuration has for this namespace.
	ReasonURLNotAllowed ConditionReason = "URLNotAllowed"
)

// Reasons of CallsLost.
const (
	// ReasonCallsKept: as far as is known Redis lost no call.
	ReasonCallsKept ConditionReason = "CallsKept"

	// ReasonCallsLost: Redis knows nothing any more of calls that were recorded.
	ReasonCallsLost ConditionReason = "CallsLost"
)

// Reasons of Acquired.
const (
	// ReasonHeldHere: this cluster holds the lock.
	ReasonHeldHere ConditionReason = "HeldHere"

	// ReasonHeldElsewhere: another cluster or program holds the lock.
	ReasonHeldElsewhere ConditionReason = "HeldElsewhere"

	// ReasonCompeting: nobody is known to hold the lock, and this cluster is
	// trying to.
	ReasonCompeting ConditionReason = "Competing"

	// ReasonPaused: spec.paused names this cluster, or the whole cluster is drained,
	// so it stays out.
	ReasonPaused ConditionReason = "Paused"

	// ReasonIdle: with hold OnDemand, no guarded Job waits in this cluster.
	ReasonIdle ConditionReason = "Idle"

	// ReasonDeferring: this cluster leaves the lock to one that is preferred and
	// there.
	ReasonDeferring ConditionReason = "Deferring"

	// ReasonReleased: this cluster gave the lock back.
	ReasonReleased ConditionReason = "Released"

	// ReasonQuarantined: Redis lost acknowledged writes, so a grant that it no
	// longer knows may still be alive; this cluster waits one full expiry.
	ReasonQuarantined ConditionReason = "Quarantined"
)

// Reasons of SpecDiffers.
const (
	// ReasonSpecsAgree: the clusters that use this key do so with equal
	// settings, as far as is known here.
	ReasonSpecsAgree ConditionReason = "SpecsAgree"

	// ReasonSpecsDiffer: another cluster uses this key with other settings.
	ReasonSpecsDiffer ConditionReason = "SpecsDiffer"
)

// Reasons of StoreSafe.
const (
	// ReasonStoreSafe: nothing was found that endangers locks.
	ReasonStoreSafe ConditionReason = "StoreSafe"

	// ReasonStoreDangerous: a setting was found that can lose or double locks;
	// the message names it and its remedy.
	ReasonStoreDangerous ConditionReason = "StoreDangerous"

	// ReasonStoreUnverified: the operator could not read the settings.
	ReasonStoreUnverified ConditionReason = "StoreUnverified"
)
