package redislock

import "time"

// pause is how long a call sleeps after its nth try. jitter draws a time below its
// argument.
func (cfg *lockConfig) pause(n int, jitter func(time.Duration) time.Duration) time.Duration {
	if !cfg.backoff {
		return cfg.delay
	}
	d := cfg.delay
	for ; n > 1 && d < cfg.longestDelay; n-- {
		d *= 2 // both are far from overflowing
	}
	d = min(d, cfg.longestDelay)
	return d - jitter(d/2+1)
}
