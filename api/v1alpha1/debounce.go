package v1alpha1

// What Debounces write and read on other objects. The policy in config/policies has
// some of these names in CEL.
const (
	// CallAnnotation, on a Debounce, is a call: whenever its value changes, the Debounce
	// is called with the value as payload. People and programs write it.
	CallAnnotation = "redislock.io/call"

	// DebounceLabel, on a Job, is the name of the Debounce whose run it is.
	DebounceLabel = "redislock.io/debounce"

	// GenerationLabel, on a Job, is the generation that it is the run of.
	GenerationLabel = "redislock.io/generation"

	// RestartAnnotation, on a workload's pod template, is the generation that last
	// restarted it.
	RestartAnnotation = "redislock.io/restarted-by-generation"

	// RestartedAtAnnotation, on a workload's pod template, is when it was last
	// restarted. kubectl rollout restart writes the same.
	RestartedAtAnnotation = "kubectl.kubernetes.io/restartedAt"

	// Variables in every container of a run's Job.

	// DebounceGenerationEnv is the run's generation.
	DebounceGenerationEnv = "REDISLOCK_DEBOUNCE_GENERATION"

	// DebouncePayloadEnv is the payload that the run is for.
	DebouncePayloadEnv = "REDISLOCK_DEBOUNCE_PAYLOAD"

	// DebounceCallsEnv is how many calls came to the run.
	DebounceCallsEnv = "REDISLOCK_DEBOUNCE_CALLS"

	// Headers of the request that an http action sends, beside Idempotency-Key.

	// DebounceHeader is the Debounce's namespace and name, with a slash between them.
	DebounceHeader = "Redislock-Debounce"

	// DebounceCallsHeader is how many calls came to the run.
	DebounceCallsHeader = "Redislock-Calls"
)

// Subresources of debounces that exist for RBAC alone. The verb is create.
const (
	// DebounceCallSubresource is the right to call a Debounce over HTTP.
	DebounceCallSubresource = "call"

	// DebounceHTTPSubresource is the right to write Debounces with an http action.
	DebounceHTTPSubresource = "http"
)
