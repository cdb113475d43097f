package fault

// Environment variables of a manager built with the tag.
const (
	// At names the point at which the process kills itself.
	At = "REDISLOCK_FAULT_AT"
	// StopAt lists points, separated by commas, at which what comes there waits for a
	// SIGCONT. Whoever sees the file of Once may stop the process as a whole until then.
	StopAt = "REDISLOCK_FAULT_STOP_AT"
	// Once is a file that is made when it dies; where it exists nothing happens any
	// more. Where it waits the file has a dot and the point's name at its end.
	Once = "REDISLOCK_FAULT_ONCE"
	// Without lists safeguards that are left out, separated by commas: claims, watchdog
	// or fence.
	Without = "REDISLOCK_FAULT_WITHOUT"
)
