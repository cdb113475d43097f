package v1alpha1

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Defaults of a Debounce's spec. The schema sets them, but for maxWait; they are here
// for code that meets an object before an API server did.
const (
	DefaultScope   = ScopeGlobal
	DefaultEdge    = EdgeTrailing
	DefaultPayload = PayloadLast
	DefaultWait    = time.Second

	// DefaultMaxWaitFactor times wait is maxWait where it is left out, and MaxDebounceWait
	// where that is less.
	DefaultMaxWaitFactor = 10
	// MaxDebounceWait is the longest wait and maxWait.
	MaxDebounceWait = 24 * time.Hour

	DefaultSuccessfulJobsHistoryLimit = 3
	DefaultFailedJobsHistoryLimit     = 1

	DefaultHTTPAttempts = 5
	DefaultHTTPTimeout  = 10 * time.Second
)

// DebounceScope says among whom calls are debounced.
//
// +kubebuilder:validation:Enum=Global;Cluster
type DebounceScope string

const (
	// ScopeGlobal: all clusters together. One of them runs the action.
	ScopeGlobal DebounceScope = "Global"

	// ScopeCluster: each cluster for itself.
	ScopeCluster DebounceScope = "Cluster"
)

// DebounceEdge says at which edge of a burst of calls the action runs.
//
// +kubebuilder:validation:Enum=Trailing;Leading;Both
type DebounceEdge string

const (
	// EdgeTrailing: when the calls have stopped.
	EdgeTrailing DebounceEdge = "Trailing"

	// EdgeLeading: at the first call.
	EdgeLeading DebounceEdge = "Leading"

	// EdgeBoth: at the first call, and when the calls have stopped where there were more.
	EdgeBoth DebounceEdge = "Both"
)

// DebouncePayload says which call's payload a run gets.
//
// +kubebuilder:validation:Enum=Last;First
type DebouncePayload string

const (
	// PayloadLast: that of the last call.
	PayloadLast DebouncePayload = "Last"

	// PayloadFirst: that of the first call.
	PayloadFirst DebouncePayload = "First"
)

// WorkloadKind is a kind of workload that can be restarted.
//
// +kubebuilder:validation:Enum=Deployment;StatefulSet;DaemonSet
type WorkloadKind string

const (
	WorkloadDeployment  WorkloadKind = "Deployment"
	WorkloadStatefulSet WorkloadKind = "StatefulSet"
	WorkloadDaemonSet   WorkloadKind = "DaemonSet"
)

// RunOutcome is how a run ended.
//
// +kubebuilder:validation:Enum=Succeeded;Failed;Lost
type RunOutcome string

const (
	// RunSucceeded: the action was carried out.
	RunSucceeded RunOutcome = "Succeeded"

	// RunFailed: the action was tried and failed.
	RunFailed RunOutcome = "Failed"

	// RunLost: what became of it is not known, because the runner lost its claim.
	RunLost RunOutcome = "Lost"
)

// DebounceSpec says which calls are put together and what is run for them.
//
// +kubebuilder:validation:XValidation:rule="has(self.key) == has(oldSelf.key) && (!has(self.key) || self.key == oldSelf.key)",message="key cannot be changed, added or removed, for calls are recorded under it: delete this Debounce and create one with the other key",fieldPath=".key",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="has(self.store) == has(oldSelf.store) && (!has(self.store) || self.store == oldSelf.store)",message="store cannot be changed, for calls are recorded in it: delete this Debounce and create one with the other store",fieldPath=".store",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="has(self.scope) == has(oldSelf.scope) && (!has(self.scope) || self.scope == oldSelf.scope)",message="scope cannot be changed, for it is part of the key under which calls are recorded: delete this Debounce and create one with the other scope",fieldPath=".scope",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="!has(self.maxWait) || !has(self.wait) || !self.maxWait.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') || !self.wait.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') || size(self.maxWait) == 0 || size(self.wait) == 0 || duration(self.maxWait) >= duration(self.wait)",message="maxWait must be at least wait: lengthen maxWait, shorten wait, or leave maxWait out to get 10 times wait",fieldPath=".maxWait"
type DebounceSpec struct {
	// action is what is run, once for all calls of a burst: exactly one of job,
	// restart and http. Whoever writes it must be allowed to do the same
	// himself: to create Jobs, to patch that workload, or to create debounces/http.
	// +required
	Action DebounceAction `json:"action,omitzero"` //nolint:kubeapilinter // its rule demands exactly one of its fields

	// triggers are changes in this cluster that call the debounce. It can always be
	// called by changing the annotation `redislock.io/call` of this object, by an HTTP
	// request to the operator, and by the Go package or the command line on the same
	// key.
	// +optional
	Triggers *DebounceTriggers `json:"triggers,omitempty"`

	// wait is how long calls have to have stopped before the action runs. From
	// 10ms to 24h.
	// +optional
	// +default="1s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) >= duration('10ms') && duration(self) <= duration('24h')",message="wait must be a duration from 10ms to 24h, written with the units h, m, s and ms in this order: for instance 1s or 500ms"
	Wait *metav1.Duration `json:"wait,omitempty"`

	// maxWait is how long after the first call the action runs even if calls go
	// on. At least wait, at most 24h. When it is left out it is 10 times wait, or
	// 24h where that is less.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) >= duration('10ms') && duration(self) <= duration('24h')",message="maxWait must be a duration from 10ms to 24h, written with the units h, m, s and ms in this order: for instance 10s"
	MaxWait *metav1.Duration `json:"maxWait,omitempty"`

	// minInterval is the least time between the starts of two runs; calls made
	// meanwhile are put together. From 0s to 24h.
	// +optional
	// +default="0s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) <= duration('24h')",message="minInterval must be a duration from 0s to 24h, written with the units h, m, s and ms in this order: for instance 0s or 5m"
	MinInterval *metav1.Duration `json:"minInterval,omitempty"`

	// edge says when the action runs. `Trailing`: when the calls have stopped.
	// `Leading`: at the first call, and not for those that follow within wait of one
	// another. `Both`: at the first call, and again when the calls have stopped
	// where there were more.
	// +optional
	// +default="Trailing"
	Edge DebounceEdge `json:"edge,omitempty"`

	// payload says which call's payload the action gets: that of the `Last` or of
	// the `First`.
	// +optional
	// +default="Last"
	Payload DebouncePayload `json:"payload,omitempty"`

	// scope says among whom calls are put together. `Global`: all clusters that have
	// this Debounce, so one run in one of them stands for the calls in all. `Cluster`:
	// each cluster by itself, which is what a restart on a change of configuration
	// wants; `:` and the UID of the cluster are added to the key. It cannot be
	// changed.
	// +optional
	// +default="Global"
	Scope DebounceScope `json:"scope,omitempty"`

	// key is the key in Redis under which calls are recorded. When it is left out the
	// operator uses `debounce:<namespace>:<name>`. A key that does not begin with
	// `debounce:<namespace>:` needs to be allowed in the operator's key policy.
	// It has no spaces. Braces mark a Redis Cluster hash tag: a key may have one
	// pair with something in it, as in `debounce:shop:{cache}`.
	// It cannot be changed.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\pZ\\\\pC]*$')",message="key must have no spaces, line breaks or other invisible characters: take them out, or write ':' or '-' in their place"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[{][^{}]*[}]:')",message="key must not begin with a hash tag and ':', as the keys do that the operator keeps beside a debounce: begin it with something else, as in debounce:{shop}:cache"
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^{}]*([{][^{}]+[}][^{}]*)?$')",message="key may have braces only as one Redis hash tag, one '{' and after it one '}' with at least one character between them, or the keys beside it would land on another node: take the other braces out"
	Key string `json:"key,omitempty"`

	// store is the name of the Redis that keeps the calls, from the list in the
	// operator's configuration. It must mean the same Redis in every cluster.
	// It cannot be changed.
	// +optional
	// +default="default"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="store must be the name of a store in the operator's configuration, not an address: lower-case letters, digits and '-', with a letter or digit at both ends"
	Store string `json:"store,omitempty"`

	// suspend has this cluster record calls and run nothing. A run that goes on is
	// not stopped. Other clusters that have the Debounce go by their own.
	// +optional
	// +default=false
	Suspend *bool `json:"suspend,omitempty"` //nolint:kubeapilinter // named and typed as in CronJobs and Jobs, where people know it from
}

// DebounceTriggers are changes in a cluster that call a debounce.
type DebounceTriggers struct {
	// configMaps lists ConfigMaps of this namespace, at most 16 entries. A change of
	// the content of one of them is a call, and so is its creation and its deletion; a
	// change of labels or annotations is none.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	ConfigMaps []ConfigMapTrigger `json:"configMaps,omitempty"` //nolint:kubeapilinter // each has exactly one of its fields, by their rule
}

// ConfigMapTrigger says which ConfigMaps call a debounce.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) != has(self.selector)",message="each of configMaps must have either name or selector: write one of them, and take the other out"
type ConfigMapTrigger struct {
	// name is the name of a ConfigMap. It need not exist yet.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="name must be the name of a ConfigMap in this namespace: lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
	Name string `json:"name,omitempty"`

	// selector selects ConfigMaps by their labels. It must not be empty, which would
	// select all.
	// +optional
	// +kubebuilder:validation:XValidation:rule="(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",message="selector must not be empty, for that selects every ConfigMap in the namespace, those that Kubernetes and its components write all the time included: write matchLabels or matchExpressions, or use name"
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// DebounceAction is what a debounce runs.
//
// +kubebuilder:validation:XValidation:rule="(has(self.job) ? 1 : 0) + (has(self.restart) ? 1 : 0) + (has(self.http) ? 1 : 0) == 1",message="action must have exactly one of job, restart and http: write one of them and take the others out; for a second action create a second Debounce"
type DebounceAction struct {
	// job creates a Job. The run ends when the Job is Complete or Failed.
	// +optional
	Job *JobAction `json:"job,omitempty"`

	// restart restarts the pods of a workload, as kubectl rollout restart does.
	// +optional
	Restart *RestartAction `json:"restart,omitempty"` //nolint:kubeapilinter // a pointer as its siblings are: nil says that it is another action

	// http sends a POST request. Where it may go the administrator of the operator
	// says.
	// +optional
	HTTP *HTTPAction `json:"http,omitempty"` //nolint:kubeapilinter // a pointer as its siblings are: nil says that it is another action
}

// JobAction creates a Job for each run.
type JobAction struct {
	// template is the Job, as in a CronJob. Of its metadata the labels and annotations
	// are used. The Job's name is made of the Debounce's and of the generation, and
	// each container gets the variables REDISLOCK_DEBOUNCE_GENERATION,
	// REDISLOCK_DEBOUNCE_PAYLOAD and REDISLOCK_DEBOUNCE_CALLS. What makes no valid
	// Job fails the run, and shows in the message of lastRun and in an event.
	// +required
	// +kubebuilder:validation:XValidation:rule="!has(self.metadata) || (!has(self.metadata.name) && !has(self.metadata.namespace) && !has(self.metadata.finalizers))",message="of a Job template's metadata the labels and annotations are used alone, and the operator names the Job: take name, namespace and finalizers out"
	Template batchv1.JobTemplateSpec `json:"template,omitzero"` //nolint:kubeapilinter // what a Job template must have is in its own schema

	// successfulJobsHistoryLimit is how many Jobs that succeeded are kept.
	// +optional
	// +default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	SuccessfulJobsHistoryLimit *int32 `json:"successfulJobsHistoryLimit,omitempty"`

	// failedJobsHistoryLimit is how many Jobs that failed are kept.
	// +optional
	// +default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	FailedJobsHistoryLimit *int32 `json:"failedJobsHistoryLimit,omitempty"`
}

// RestartAction restarts a workload in the Debounce's namespace, once for each
// generation: it sets annotations on the workload's pod template.
type RestartAction struct {
	// kind is the kind of the workload: Deployment, StatefulSet or DaemonSet.
	// +required
	Kind WorkloadKind `json:"kind,omitempty"`

	// name is the name of the workload.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="name must be the name of a workload in this namespace: lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
	Name string `json:"name,omitempty"`
}

// HTTPAction sends a POST request with the payload as its body, and with the headers
// Idempotency-Key (the generation), Redislock-Debounce and Redislock-Calls. An answer of
// 2xx is success. 408, 425, 429, 5xx and requests without an answer are tried again, any
// other answer is a failure.
type HTTPAction struct {
	// url is where the request goes: http or https, with a host, and without a user, a
	// fragment or `..`. It must lie under one of the targets in the operator's
	// configuration, which also has the headers that must stay secret; where none
	// matches nothing is sent, and the condition Ready says so.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://([A-Za-z0-9_.-]+|[[][0-9A-Fa-f:.]+[]])(:[0-9]{1,5})?([/?][!-~]*)?$') && !self.contains('#') && isURL(self)",message="url must be http:// or https:// with a host, without user and password, fragment (#), spaces or characters that are not ASCII: for instance https://cache.example.com/purge; secrets belong into headerFiles of the operator's configuration"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^https?://[^/?]+[^?]*(//|/[.][.]?([/?]|$)|;|%2[5eEfF]|%3[bB]|%5[cC]|%[01]|%7[fF])') && !self.contains('\\\\')",message="url must have no part of its path that is empty, '.' or '..', and in its path no ';', no backslash, and neither these nor '/', '%' or control characters as an escape: write the path that is meant"
	URL string `json:"url,omitempty"`

	// attempts is how often the request is tried in one run, with growing pauses
	// in between.
	// +optional
	// +default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=20
	Attempts int32 `json:"attempts,omitempty"`

	// timeout is how long one attempt may take. From 1s to 60s.
	// +optional
	// +default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0 && self.matches('^([0-9]{1,6}([.][0-9]{1,9})?h)?([0-9]{1,6}([.][0-9]{1,9})?m)?([0-9]{1,6}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,9})?ms)?$') && duration(self) >= duration('1s') && duration(self) <= duration('60s')",message="timeout must be a duration from 1s to 60s, written with the units h, m, s and ms in this order: for instance 10s"
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// DebounceStatus is what this cluster's operator knows about the debounce.
type DebounceStatus struct {
	// conditions say in detail how the debounce stands: Ready and CallsLost.
	// Programs should read these.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the object that this status is
	// about. It has nothing to do with the generations of runs.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// state is ACQUIRED while calls wait for their run or a run goes on, in whichever
	// cluster, and FREE while all is quiet.
	// +optional
	State LockState `json:"state,omitempty"`

	// key is the key in Redis that is in use.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Key string `json:"key,omitempty"`

	// calls is how many calls there have been in all, as Redis counts them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Calls *int64 `json:"calls,omitempty"`

	// runs is how many runs there have been in all, as Redis counts them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Runs *int64 `json:"runs,omitempty"`

	// lastCallAt is when the last call was made.
	// +optional
	LastCallAt *metav1.Time `json:"lastCallAt,omitempty"`

	// dueAt is when the calls that wait will be run, if no other comes. Absent while
	// none waits.
	// +optional
	DueAt *metav1.Time `json:"dueAt,omitempty"`

	// lastRun is the last run, or the one that goes on.
	// +optional
	LastRun *DebounceRun `json:"lastRun,omitempty"` //nolint:kubeapilinter // a pointer: nil says that there was none

	// triggers lists the ConfigMaps that are watched, and the content of each that was
	// last seen. At most 512.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=512
	Triggers []ConfigMapContent `json:"triggers,omitempty"`

	// call is the last value of the annotation redislock.io/call that was seen; where
	// it is longer than 256 bytes, `sha256:` and its hash. Absent where there was
	// none.
	// +optional
	// +kubebuilder:validation:MinLength=0
	// +kubebuilder:validation:MaxLength=256
	Call *string `json:"call,omitempty"`
}

// DebounceRun is one run of a debounce.
type DebounceRun struct {
	// generation is the run's number. Each run of a debounce has a higher one than all
	// before; one that was lost and is tried again keeps it.
	// +required
	// +kubebuilder:validation:Minimum=1
	Generation int64 `json:"generation,omitempty"`

	// cluster is the name of the cluster that runs it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Cluster string `json:"cluster,omitempty"`

	// startedAt is when the run began.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// finishedAt is when the run ended. Absent while it goes on.
	// +optional
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`

	// calls is how many calls were put together in this run.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Calls *int64 `json:"calls,omitempty"`

	// attempt is 1, and one more each time that a runner was lost and another took the
	// run over.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Attempt int32 `json:"attempt,omitempty"`

	// outcome is how the run ended: Succeeded, Failed, or Lost where that is not known.
	// Absent while it goes on.
	// +optional
	Outcome RunOutcome `json:"outcome,omitempty"`

	// message says more about the outcome.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// ConfigMapContent is the content of a ConfigMap that was last seen.
type ConfigMapContent struct {
	// name is the ConfigMap's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// hash is a hash of its content.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Hash string `json:"hash,omitempty"`
}

// Debounce runs an action once for many calls: when calls have stopped for a while, or
// the first has waited long enough. Create the same Debounce in each of several
// clusters: one of them runs the action for the calls made in all.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=redislock-operator
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`,description="ACQUIRED while calls wait or a run goes on"
// +kubebuilder:printcolumn:name="Runs",type=integer,JSONPath=`.status.runs`,description="Runs in all"
// +kubebuilder:printcolumn:name="Last-Run",type=date,JSONPath=`.status.lastRun.startedAt`,description="How long ago the last run began"
// +kubebuilder:printcolumn:name="Due",type=string,JSONPath=`.status.dueAt`,description="When the calls that wait will be run"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Outcome",type=string,priority=1,JSONPath=`.status.lastRun.outcome`,description="How the last run ended"
// +kubebuilder:printcolumn:name="Cluster",type=string,priority=1,JSONPath=`.status.lastRun.cluster`,description="The cluster of the last run"
// +kubebuilder:printcolumn:name="Calls",type=integer,priority=1,JSONPath=`.status.calls`,description="Calls in all"
// +kubebuilder:printcolumn:name="Key",type=string,priority=1,JSONPath=`.status.key`,description="The key in Redis"
// +kubebuilder:printcolumn:name="Store",type=string,priority=1,JSONPath=`.spec.store`,description="The store that keeps the calls"
// +kubebuilder:printcolumn:name="Ready",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why the debounce can be worked with, or not"
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must be at most 63 characters, to fit a label value: choose a shorter name, and set spec.key where the key must be long"
type Debounce struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard metadata of objects.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says which calls are put together and what is run for them.
	// +required
	Spec DebounceSpec `json:"spec,omitzero"`

	// status is what this cluster's operator knows about the debounce.
	// +optional
	Status DebounceStatus `json:"status,omitzero"`
}

// DebounceList is a list of Debounces.
//
// +kubebuilder:object:root=true
type DebounceList struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard metadata of lists.
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`

	// items are the Debounces.
	// +required
	Items []Debounce `json:"items"`
}
