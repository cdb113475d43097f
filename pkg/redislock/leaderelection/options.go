package leaderelection

import (
	"fmt"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Defaults are those of controller-runtime.
const (
	DefaultLeaseDuration = 15 * time.Second
	DefaultRenewDeadline = 10 * time.Second
	DefaultRetryPeriod   = 2 * time.Second
)

// shortestLease is where client-go's whole seconds begin to mean something: of a
// lease of 900 ms the record says 0, and three leaders at once were seen.
const shortestLease = 2 * time.Second

// longestLease keeps what stands beside the key there for longer than the key.
const longestLease = retention / 2

// jitter is client-go's leaderelection.JitterFactor.
const jitter = 1.2

// Option configures a Lock.
type Option func(*config)

type config struct {
	identity                                  string
	leaseDuration, renewDeadline, retryPeriod time.Duration
	onLost                                    func(error)
}

// WithIdentity names this candidate; each process needs a name of its own. Default
// is the host's name with a random suffix.
func WithIdentity(identity string) Option {
	return func(c *config) { c.identity = identity }
}

// WithTimings tells the timings that the elector or manager runs with; they have to
// be the same. leaseDuration is a whole number of seconds, for client-go's record has
// no fractions, and at least two. Default are those of controller-runtime: 15, 10
// and 2 s.
func WithTimings(leaseDuration, renewDeadline, retryPeriod time.Duration) Option {
	return func(c *config) {
		c.leaseDuration, c.renewDeadline, c.retryPeriod = leaseDuration, renewDeadline, retryPeriod
	}
}

// OnLost has f told, once for each term, that Redis said the term is over: with an
// error that is redislock.ErrLost. client-go itself stops leading only RenewDeadline
// later; to stop at once, cancel the elector's or manager's context here. It must not
// block.
func OnLost(f func(error)) Option {
	return func(c *config) { c.onLost = f }
}

func (c *config) validate() error {
	switch {
	case c.leaseDuration < shortestLease || c.leaseDuration > longestLease:
		return invalid("LeaseDuration", c.leaseDuration, fmt.Sprintf(
			"is not between %s and %s; redislock.Elector can go below", shortestLease, longestLease))
	case c.leaseDuration%time.Second != 0:
		return invalid("LeaseDuration", c.leaseDuration, "is no whole number of seconds, which is what client-go's record holds")
	case c.renewDeadline >= c.leaseDuration:
		return invalid("RenewDeadline", c.renewDeadline, fmt.Sprintf("is not shorter than LeaseDuration, %s", c.leaseDuration))
	case c.retryPeriod <= 0:
		return invalid("RetryPeriod", c.retryPeriod, "is not positive")
	case c.renewDeadline <= time.Duration(jitter*float64(c.retryPeriod)):
		return invalid("RenewDeadline", c.renewDeadline, fmt.Sprintf("is not longer than %.1f times RetryPeriod, %s", jitter, c.retryPeriod))
	}
	return nil
}

// operationTimeout bounds one request, so that one which hangs leaves time for others
// within RenewDeadline, and counts little in expiry.
func (c *config) operationTimeout() time.Duration {
	return min(max(c.retryPeriod, c.renewDeadline/4), 5*time.Second)
}

// expiry is how long the key stands after a renewal was sent. client-go counts from
// when it heard of that: it sleeps for a RetryPeriod and then tries for RenewDeadline.
func (c *config) expiry() time.Duration {
	longest := max(c.leaseDuration, c.operationTimeout()+c.retryPeriod+c.renewDeadline)
	return longest + longest/100 // clocks run at different speeds
}

func invalid(what string, value any, why string) error {
	return fmt.Errorf("leaderelection: %w: %s %q %s", redislock.ErrInvalid, what, fmt.Sprint(value), why)
}
