package redislock

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime goes on while the machine sleeps, unlike Go's monotonic clock.
func bootTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return time.Since(processStart)
	}
	return time.Duration(ts.Nano())
}

var processStart = time.Now()
