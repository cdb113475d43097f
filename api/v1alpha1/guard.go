package v1alpha1

// What the guard of Jobs writes and reads on Jobs, CronJobs and pod templates. The
// policies in config/policies have these names in CEL.
const (
	// LockLabel names the RedisLock, in the Job's namespace, under which a Job may
	// run. People write it into a Job's metadata.labels, or into a CronJob's
	// spec.jobTemplate.metadata.labels. The Job's pod template carries it too.
	LockLabel = "redislock.io/lock"

	// RunAnnotation is the fencing token of the run that a Job is. The operator
	// alone writes it, on the Job.
	RunAnnotation = "redislock.io/run"

	// GrantAnnotation is the fencing token of the grant under which the Job runs. The
	// operator alone writes it, on the Job.
	GrantAnnotation = "redislock.io/grant"

	// LostGrant is what GrantAnnotation says instead of a Job that the operator deletes
	// because its lease was lost: by it that is told from a deletion by a person.
	LostGrant = "lost"

	// DeadlineAnnotation keeps the activeDeadlineSeconds that the user gave the Job,
	// while the operator moves the field as its watchdog; "" where he gave none. The
	// operator alone writes it, on the Job.
	DeadlineAnnotation = "redislock.io/active-deadline"

	// ReplacesAnnotation is the UID of the Job which this one replaces, because that
	// one's template could not change any more. The operator alone writes it, on the
	// Job.
	ReplacesAnnotation = "redislock.io/replaces"

	// FencingTokenAnnotation is the fencing token that the containers see. The operator
	// alone writes it, on the Job's pod template.
	FencingTokenAnnotation = "redislock.io/fencing-token"

	// FencingTokenEnv is the variable in every container of a guarded Job that holds
	// the fencing token, by a fieldRef to FencingTokenFieldPath.
	FencingTokenEnv = "REDISLOCK_FENCING_TOKEN"

	// FencingTokenFieldPath is the fieldPath of FencingTokenEnv.
	FencingTokenFieldPath = "metadata.annotations['" + FencingTokenAnnotation + "']"

	// OutcomeFinalizer keeps a Job until its outcome is recorded. The operator adds it
	// when it lets the Job go, and takes it away.
	OutcomeFinalizer = "redislock.io/outcome"

	// TickNameAnnotation, on a CronJob, is what its ticks are known by in every
	// cluster, where its namespace and name differ among them. People write it.
	TickNameAnnotation = "redislock.io/tick-name"
)

// GuardVerb is the verb on the resource redislocks of this group that makes a user a
// guard: who has it in a namespace may do to the guarded Jobs there what only the
// operator may. It is no verb of the API server's, so that of Kubernetes' own roles
// cluster-admin alone has it.
const GuardVerb = "guard"
