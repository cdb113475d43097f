package redislock

import (
	"context"
	"sync"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// stepTolerance is how far the server's clock and ours may drift apart between two
// replies before it counts as a step of the server's.
const stepTolerance = 500 * time.Millisecond

// serverTime estimates the server's clock from the times in its replies. It is
// used for notAfter, by which a request that was stuck on its way is void when it
// arrives, and to notice when that clock is stepped: Redis counts expiry by it.
type serverTime struct {
	mu    sync.Mutex
	known bool
	// The server's time minus our boot time lies between low and high.
	low, high time.Duration
	learnt    time.Duration // boot time of the last reply
	step      time.Duration // the last step noticed, signed
	steps     int
}

// learn takes the server's time, in µs since 1970, from a reply to a request.
func (s *serverTime) learn(sent, received instant, micros int64) {
	if micros <= 0 {
		return
	}
	server := time.Duration(micros) * time.Microsecond
	low, high := server-received.boot, server-sent.boot
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known {
		// Clocks that are kept by NTP run at rates up to 0.05 % apart.
		tolerance := stepTolerance + (received.boot-s.learnt)/1000
		switch {
		case low > s.high+tolerance:
			s.step, s.steps = low-s.high, s.steps+1
		case high < s.low-tolerance:
			s.step, s.steps = high-s.low, s.steps+1
		}
	}
	s.known, s.low, s.high, s.learnt = true, low, high, received.boot
}

// micros returns the server's time at an instant, or somewhat later, but never
// earlier; 0 where no reply has told it yet.
func (s *serverTime) micros(at instant) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		return 0
	}
	return (at.boot + s.high).Microseconds()
}

// uncertainty returns how much too late the answer of micros can be.
func (s *serverTime) uncertainty() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.high - s.low
}

// stepped returns how many steps of the server's clock were noticed, and the last.
func (s *serverTime) stepped() (int, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.steps, s.step
}

// fromMicros reads a time that a script tells, in µs since 1970; 0 is none.
func fromMicros(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// notAfter is the server's time after which a request that is sent now is void. It is
// asked for where no reply has told it yet; sent is now.
func (c *Client) notAfter(ctx context.Context, timeout time.Duration) (sent instant, micros int64, err error) {
	sent = c.clock.now()
	now := c.server.micros(sent)
	if now == 0 {
		if err := c.askTime(ctx, timeout); err != nil {
			return instant{}, 0, err
		}
		sent = c.clock.now()
		now = c.server.micros(sent)
	}
	return sent, now + timeout.Microseconds(), nil
}

// askTime learns the server's time where no reply has told it yet.
func (c *Client) askTime(ctx context.Context, timeout time.Duration) error {
	sent := c.clock.now()
	t, err := wire.Bounded(ctx, timeout, func(ctx context.Context) (time.Time, error) {
		return c.rdb.Time(ctx).Result()
	})
	if err != nil {
		return err
	}
	c.server.learn(sent, c.clock.now(), t.UnixMicro())
	return nil
}
