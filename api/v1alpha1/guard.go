package v1alpha1

// What the guard reads and writes on Jobs and CronJobs.
const (
	// LockLabel names, on a Job or in a CronJob's spec.jobTemplate.metadata, the
	// RedisLock of the same namespace under which the Job may run. Its pods carry it
	// too.
	LockLabel = "redislock.io/lock"

	// TickNameAnnotation on a CronJob replaces namespace/name in the identity of its
	// ticks, for CronJobs that are called otherwise in another cluster.
	TickNameAnnotation = "redislock.io/tick-name"

	// RunAnnotation is the fencing token of the run for which the operator let a Job
	// go.
	RunAnnotation = "redislock.io/run"

	// GrantAnnotation is the fencing token of the grant under which it did.
	GrantAnnotation = "redislock.io/grant"

	// DeadlineAnnotation keeps a Job's own activeDeadlineSeconds, which the operator
	// replaces while the Job runs; empty where it had none.
	DeadlineAnnotation = "redislock.io/active-deadline"

	// ReplacesAnnotation is the UID of the Job that this one was made in place of.
	ReplacesAnnotation = "redislock.io/replaces"

	// FencingTokenAnnotation of a pod is the fencing token of its run.
	FencingTokenAnnotation = "redislock.io/fencing-token"

	// FencingTokenEnv is the variable by which containers get it.
	FencingTokenEnv = "REDISLOCK_FENCING_TOKEN"

	// OutcomeFinalizer keeps a Job that was let go until its outcome is recorded.
	OutcomeFinalizer = "redislock.io/outcome"

	// GuardVerb on redislocks is the right to do to guarded Jobs what only the
	// operator may.
	GuardVerb = "guard"
)
