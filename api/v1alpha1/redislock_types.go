package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Defaults of a RedisLock's spec. The schema sets them; they are here for code
// that meets an object before an API server did.
const (
	DefaultStore = "default"
	DefaultHold  = HoldAlways
	DefaultLease = 30 * time.Second

	DefaultWatchdog      = 5 * time.Minute
	DefaultLostTicks     = LostTicksRerun
	DefaultMissedTicks   = MissedTicksSkip
	DefaultOnLost        = OnLostSuspend
	DefaultFailbackAfter = 10 * time.Minute
)

// HoldPolicy says when a cluster competes for a lock.
//
// +kubebuilder:validation:Enum=Always;OnDemand
type HoldPolicy string

const (
	// HoldAlways: this cluster competes for the lock all the time, and lets all
	// guarded Jobs run while it holds it.
	HoldAlways HoldPolicy = "Always"

	// HoldOnDemand: the lock is taken for one guarded Job, and given back after it.
	HoldOnDemand HoldPolicy = "OnDemand"
)

// LostTicksPolicy says what becomes of a tick whose runner was lost.
//
// +kubebuilder:validation:Enum=Rerun;Skip
type LostTicksPolicy string

const (
	// LostTicksRerun: it is run again.
	LostTicksRerun LostTicksPolicy = "Rerun"

	// LostTicksSkip: it is not.
	LostTicksSkip LostTicksPolicy = "Skip"
)

// MissedTicksPolicy says what becomes of a tick that nobody ran.
//
// +kubebuilder:validation:Enum=Skip;RunLatest
type MissedTicksPolicy string

const (
	// MissedTicksSkip: nothing.
	MissedTicksSkip MissedTicksPolicy = "Skip"

	// MissedTicksRunLatest: the latest one is made up for.
	MissedTicksRunLatest MissedTicksPolicy = "RunLatest"
)

// OnLostPolicy says what is done to a Job whose lease is lost.
//
// +kubebuilder:validation:Enum=Suspend;Delete
type OnLostPolicy string

const (
	// OnLostSuspend: it is suspended.
	OnLostSuspend OnLostPolicy = "Suspend"

	// OnLostDelete: it is deleted.
	OnLostDelete OnLostPolicy = "Delete"
)

// LockState is whether this cluster holds a lock; of a Debounce, whether anything is under
// way.
//
// +kubebuilder:validation:Enum=ACQUIRED;FREE
type LockState string

const (
	// StateAcquired: this cluster holds the lease. Of a Debounce: calls wait for their
	// run, or a run goes on.
	StateAcquired LockState = "ACQUIRED"

	// StateFree: this cluster does not hold the lease. Another may. Of a Debounce: all is
	// quiet.
	StateFree LockState = "FREE"
)

// RedisLockSpec says which lock is meant and how its lease is kept. The same
// spec goes into every cluster that shares the lock.
//
// +kubebuilder:validation:XValidation:rule="has(self.key) == has(oldSelf.key) && (!has(self.key) || self.key == oldSelf.key)",message="key cannot be changed, added or removed, for the lease is held under it: delete this RedisLock and create one with the other key",fieldPath=".key",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="has(self.store) == has(oldSelf.store) && (!has(self.store) || self.store == oldSelf.store)",message="store cannot be changed, for the lease is held in it: delete this RedisLock and create one with the other store",fieldPath=".store",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="!has(self.renewEvery) || !has(self.lease) || !self.renewEvery.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') || !self.lease.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') || size(self.renewEvery) == 0 || size(self.lease) == 0 || duration(self.renewEvery) + duration(self.renewEvery) <= duration(self.lease)",message="renewEvery must be at most half of lease, so that one failed renewal can be repeated in time: shorten renewEvery, lengthen lease, or leave renewEvery out to get a third of lease",fieldPath=".renewEvery"
// +kubebuilder:validation:XValidation:rule="!has(self.preferredClusters) || !has(self.hold) || self.hold == 'Always'",message="preferredClusters is for hold Always; with OnDemand the lock goes to whoever waits: take preferredClusters out or set hold to Always",fieldPath=".preferredClusters"
// +kubebuilder:validation:XValidation:rule="!has(self.maxHold) || !has(self.lease) || !self.maxHold.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') || !self.lease.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') || size(self.maxHold) == 0 || size(self.lease) == 0 || duration(self.maxHold) >= duration(self.lease)",message="maxHold must be at least lease: lengthen maxHold or shorten lease",fieldPath=".maxHold"
// +kubebuilder:validation:XValidation:rule="!has(self.maxHold) || !has(self.minHold) || !self.maxHold.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') || !self.minHold.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') || size(self.maxHold) == 0 || size(self.minHold) == 0 || duration(self.maxHold) >= duration(self.minHold)",message="maxHold must be at least minHold: lengthen maxHold or shorten minHold",fieldPath=".maxHold"
type RedisLockSpec struct {
	// key is the key in Redis under which the lock lives. Everyone who uses
	// the same key in the same store competes for the same lock, also programs
	// that use a lock library.
	// When it is left out the operator uses `lock:<namespace>:<name>`. A key
	// that does not begin with `lock:<namespace>:` needs to be allowed in the
	// operator's key policy.
	// It has no spaces. Braces mark a Redis Cluster hash tag: a key may have
	// one pair with something in it, as in `lock:billing:{nightly}`.
	// It cannot be changed.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\pZ\\\\pC]*$')",message="key must have no spaces, line breaks or other invisible characters: take them out, or write ':' or '-' in their place"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[{][^{}]*[}]:')",message="key must not begin with a hash tag and ':', as the keys do that the operator keeps beside a lock: begin it with something else, as in lock:{nightly}:report"
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^{}]*([{][^{}]+[}][^{}]*)?$')",message="key may have braces only as one Redis hash tag, one '{' and after it one '}' with at least one character between them, or the keys beside it would land on another node: take the other braces out"
	Key string `json:"key,omitempty"`

	// store is the name of the Redis that keeps the lock, from the list in the
	// operator's configuration. It must mean the same Redis in every cluster.
	// It cannot be changed.
	// +optional
	// +default="default"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="store must be the name of a store in the operator's configuration, not an address: lower-case letters, digits and '-', with a letter or digit at both ends"
	Store string `json:"store,omitempty"`

	// hold says when this cluster competes for the lock. `Always`: all the
	// time, so exactly one of the clusters holds it, as a leader, and runs all
	// Jobs that the lock guards. `OnDemand`: only when a guarded Job waits; the
	// lock is taken for that Job and given back after it, so that one Job at a
	// time runs under it in all clusters.
	// +optional
	// +default="Always"
	Hold HoldPolicy `json:"hold,omitempty"`

	// lease is the time for which a grant is valid unless it is renewed, and
	// so about the time until another cluster takes over from one that died.
	// From 1s to 24h, for instance 30s or 1m30s. A short lease costs more
	// renewals and bears shorter outages of Redis. The operator itself may
	// take half a minute to fail over within a cluster: with a lease below
	// 30s that can move the lock to another cluster.
	// +optional
	// +default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="lease must be a duration from 1s to 24h, written with the units h, m, s and ms in this order: for instance 30s or 1m30s"
	Lease *metav1.Duration `json:"lease,omitempty"`

	// renewEvery is the time between two renewals of the lease: at least 100ms
	// and at most half of lease. When it is left out the operator renews after
	// a third of lease.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) >= duration('100ms')",message="renewEvery must be a duration of at least 100ms, written with the units h, m, s and ms in this order: for instance 10s or 500ms"
	RenewEvery *metav1.Duration `json:"renewEvery,omitempty"`

	// lockDelay is how long the lock stays taken in Redis after a lease that
	// ended without a release, before another cluster can get it: time for
	// work in progress to stop. Choose it above the replication lag of a Redis
	// with replicas. A clean release does not wait for it. From 0s to 24h.
	// +optional
	// +default="0s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) <= duration('24h')",message="lockDelay must be a duration from 0s to 24h, written with the units h, m, s and ms in this order: for instance 0s or 15s"
	LockDelay *metav1.Duration `json:"lockDelay,omitempty"`

	// minHold keeps the lock taken for at least this long after it was
	// acquired, even if it is given back sooner: a Job that takes milliseconds
	// is then not run again by a cluster whose clock is a little behind. From
	// 0s to 24h.
	// +optional
	// +default="0s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) <= duration('24h')",message="minHold must be a duration from 0s to 24h, written with the units h, m, s and ms in this order: for instance 0s or 10s"
	MinHold *metav1.Duration `json:"minHold,omitempty"`

	// maxHold bounds how long one grant can be renewed, so that a holder which
	// hangs loses the lock then; Jobs that run under it are ended in time. At
	// least lease, and for guarded Jobs more than their termination grace.
	// When it is left out a grant has no bound.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) >= duration('1s') && duration(self) <= duration('8784h')",message="maxHold must be a duration from 1s to 8784h, written with the units h, m, s and ms in this order: for instance 1h"
	MaxHold *metav1.Duration `json:"maxHold,omitempty"`

	// watchdog is how long a running guarded Job may outlive its operator. The
	// operator moves the Job's activeDeadlineSeconds ahead while it lives; when
	// it dies, Kubernetes ends the Job at the end of this window, and no other
	// cluster starts before that. From 3s to 24h. `0s` switches it off: then a
	// Job whose operator died goes on, and another cluster starts the next one
	// beside it once the lease is over.
	// +optional
	// +default="5m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && (duration(self) == duration('0s') || duration(self) >= duration('3s')) && duration(self) <= duration('24h')",message="watchdog must be 0s, or a duration from 3s to 24h, written with the units h, m, s and ms in this order: for instance 5m or 30s"
	Watchdog *metav1.Duration `json:"watchdog,omitempty"`

	// maxWait is how long a guarded Job may wait for the lock. One that waited
	// longer is removed, with an event. When it is left out Jobs wait for as
	// long as it takes.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) >= duration('1s') && duration(self) <= duration('8784h')",message="maxWait must be a duration from 1s to 8784h, written with the units h, m, s and ms in this order: for instance 30m"
	MaxWait *metav1.Duration `json:"maxWait,omitempty"`

	// lostTicks says what becomes of a tick whose runner was lost before it
	// ended, with its cluster, its operator or its lease. `Rerun`: it is run
	// again, so each tick is run at least once. `Skip`: it is not, so each tick
	// is run at most once.
	// +optional
	// +default="Rerun"
	LostTicks LostTicksPolicy `json:"lostTicks,omitempty"`

	// missedTicks says what becomes of a tick for which no cluster started a
	// Job. `Skip`: nothing, but an event and a metric tell of it. `RunLatest`:
	// the latest one is made up for.
	// +optional
	// +default="Skip"
	MissedTicks MissedTicksPolicy `json:"missedTicks,omitempty"`

	// onLost says what is done to a running guarded Job when the lease under
	// which it runs is lost: `Suspend` stops its pods and lets it go again when
	// this cluster gets the lock back; `Delete` deletes it.
	// +optional
	// +default="Suspend"
	OnLost OnLostPolicy `json:"onLost,omitempty"`

	// preferredClusters lists clusters by name in order of preference, for hold
	// `Always`: while a cluster of this list is there, those that come later in
	// it, and those that it does not name, leave the lock to it. Names are as
	// their operators' configurations have them. When it is left out no cluster
	// is preferred.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="preferredClusters must list names of clusters as their operators' configurations have them: lower-case letters, digits and '-', with a letter or digit at both ends"
	PreferredClusters []string `json:"preferredClusters,omitempty"`

	// failbackAfter is how long a preferred cluster has to be back without a
	// break before a less preferred one gives the lock up to it; never while a
	// guarded Job runs. From 0s to 24h.
	// +optional
	// +default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) <= duration('24h')",message="failbackAfter must be a duration from 0s to 24h, written with the units h, m, s and ms in this order: for instance 10m"
	FailbackAfter *metav1.Duration `json:"failbackAfter,omitempty"`

	// paused lists the names of the clusters that are drained: a cluster named
	// here gives the lock back and stays out until its name is taken away
	// again. At most 64 names, each as the operator of that cluster has it in
	// its configuration.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="paused must list names of clusters as their operators' configurations have them: lower-case letters, digits and '-', with a letter or digit at both ends"
	Paused []string `json:"paused,omitempty"`
}

// RedisLockStatus is what this cluster's operator knows about the lock. It is
// written when something changes, not on every renewal.
type RedisLockStatus struct {
	// conditions say in detail how the lock stands: Ready, Acquired,
	// SpecDiffers and StoreSafe. Programs should read these.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the object that this status is
	// about.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// state is ACQUIRED while this cluster holds the lease, and FREE while it
	// does not, also when another cluster does: see holder.
	// +optional
	State LockState `json:"state,omitempty"`

	// key is the key in Redis that is in use.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Key string `json:"key,omitempty"`

	// holder is who has the lock, as seen from this cluster: this cluster,
	// another one, or another program. Absent while nobody is known to.
	// +optional
	Holder *LockHolder `json:"holder,omitempty"`

	// fencingToken is the highest fencing token that this cluster has seen for
	// the lock: while state is ACQUIRED, that of its own grant. Each grant has
	// a higher one than all before. It is kept when the lock is lost, for it
	// shows whether Redis has forgotten a grant.
	// +optional
	// +kubebuilder:validation:Minimum=1
	FencingToken int64 `json:"fencingToken,omitempty"`

	// acquiredAt is when this cluster was granted the lock that it holds.
	// Absent while it holds none.
	// +optional
	AcquiredAt *metav1.Time `json:"acquiredAt,omitempty"`

	// transitions counts how often state has changed between ACQUIRED and FREE
	// in this cluster.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Transitions *int64 `json:"transitions,omitempty"`

	// activeJobs is how many guarded Jobs run in this cluster under the lock.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ActiveJobs *int32 `json:"activeJobs,omitempty"`

	// waitingJobs is how many guarded Jobs wait in this cluster, those that
	// stand by while another cluster runs their tick included.
	// +optional
	// +kubebuilder:validation:Minimum=0
	WaitingJobs *int32 `json:"waitingJobs,omitempty"`

	// history lists the last grants of the lock in all clusters, newest first.
	// At most 10.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	History []LockGrant `json:"history,omitempty"`
}

// LockHolder is who has a lock.
type LockHolder struct {
	// cluster is the name of the cluster whose operator holds the lock. Absent
	// when something else holds it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Cluster string `json:"cluster,omitempty"`

	// since is when the holder got the lock or, where that cannot be known,
	// when this cluster first saw it there.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// tokenHash tells holders apart that no operator speaks for, such as a
	// program with a lock library: a hash of the token, because the token
	// itself is the right to release the lock.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	TokenHash string `json:"tokenHash,omitempty"`
}

// LockGrant is one grant of a lock.
type LockGrant struct {
	// fencingToken is the grant's fencing token.
	// +required
	// +kubebuilder:validation:Minimum=1
	FencingToken int64 `json:"fencingToken,omitempty"`

	// cluster is the name of the cluster that was granted the lock.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Cluster string `json:"cluster,omitempty"`

	// acquiredAt is when the lock was granted.
	// +optional
	AcquiredAt *metav1.Time `json:"acquiredAt,omitempty"`
}

// RedisLock is a lock in Redis that several clusters share. Create the same
// RedisLock in each of them: one at a time holds it, and shows ACQUIRED.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rlock,categories=redislock-operator
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`,description="ACQUIRED while this cluster holds the lock"
// +kubebuilder:printcolumn:name="Holder",type=string,JSONPath=`.status.holder.cluster`,description="The cluster that holds the lock"
// +kubebuilder:printcolumn:name="Fence",type=integer,JSONPath=`.status.fencingToken`,description="The highest fencing token seen"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Active",type=integer,priority=1,JSONPath=`.status.activeJobs`,description="Guarded Jobs that run in this cluster"
// +kubebuilder:printcolumn:name="Waiting",type=integer,priority=1,JSONPath=`.status.waitingJobs`,description="Guarded Jobs that wait in this cluster"
// +kubebuilder:printcolumn:name="Key",type=string,priority=1,JSONPath=`.status.key`,description="The key in Redis"
// +kubebuilder:printcolumn:name="Store",type=string,priority=1,JSONPath=`.spec.store`,description="The store that keeps the lock"
// +kubebuilder:printcolumn:name="Ready",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why the lock can be worked with, or not"
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must be at most 63 characters, to fit a label value: choose a shorter name, and set spec.key where the key must be long"
type RedisLock struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard metadata of objects.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says which lock is meant and how its lease is kept.
	// +optional
	// +default={}
	Spec RedisLockSpec `json:"spec,omitzero"`

	// status is what this cluster's operator knows about the lock.
	// +optional
	Status RedisLockStatus `json:"status,omitzero"`
}

// RedisLockList is a list of RedisLocks.
//
// +kubebuilder:object:root=true
type RedisLockList struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard metadata of lists.
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`

	// items are the RedisLocks.
	// +required
	Items []RedisLock `json:"items"`
}
