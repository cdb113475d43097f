//go:build !linux

package redislock

import "time"

// bootTime is the monotonic clock where no clock that counts sleep is at hand;
// the wall clock then tells of it.
func bootTime() time.Duration { return time.Since(processStart) }

var processStart = time.Now()
