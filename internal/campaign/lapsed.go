package campaign

import (
	"context"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// lapsed is a grant that ended because Redis could not be asked in time. Its key
// stands for as long as Jobs under it might have run on, which is long when their
// watchdog is.
type lapsed struct {
	lock  *redislock.Lock
	at    time.Time
	delay time.Duration
}

// Lapsed says whether a lapsed grant may still stand in Redis, and from when on it
// may be given back by Stopped: others than Jobs are promised the lock delay.
func (c *Campaign) Lapsed() (from time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lapsed == nil {
		return time.Time{}, false
	}
	return c.lapsed.at.Add(c.lapsed.delay), true
}

// Stopped gives back a lapsed grant, for a caller who has seen that nothing runs
// under it any more. Without it other clusters wait for its expiry.
func (c *Campaign) Stopped(ctx context.Context) error {
	c.mu.Lock()
	l := c.lapsed
	c.mu.Unlock()
	if l == nil {
		return nil
	}
	if err := l.lock.ReleaseStopped(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	if c.lapsed == l {
		c.lapsed = nil
	}
	c.mu.Unlock()
	return nil
}
