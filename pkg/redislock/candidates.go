package redislock

import (
	"context"
	"fmt"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// Announce notes for ttl that name would take the lock, and returns everybody who
// would, each with the time since when without a lapse, by the server's clock. An
// empty name only reads.
//
// It grants nothing: it is how those who compete for a lock see each other, and how
// one of them can stand back for another.
func (c *Client) Announce(ctx context.Context, key, name string, ttl time.Duration) (map[string]time.Time, error) {
	if err := ValidateKey(key); err != nil {
		return nil, err
	}
	if name != "" {
		if err := validateName("candidate", name); err != nil {
			return nil, err
		}
		if ttl < minLease || ttl > longestSpan {
			return nil, invalid("announcement", ttl.String(), fmt.Sprintf("is not between %s and %s", minLease, longestSpan))
		}
	}
	if c.isClosed() {
		return nil, ErrClosed
	}
	r, err := c.run(ctx, operationTimeout, announceScript, []string{candidatesKey(key)}, name, ttl.Microseconds())
	switch {
	case err != nil:
		return nil, fmt.Errorf("redislock: announce %q for %q: %w", name, key, err)
	case r.word() == "corrupt":
		return nil, fmt.Errorf("redislock: %q: %w: %q is no hash; delete it", key, ErrCorrupt, candidatesKey(key))
	case r.word() != "ok":
		return nil, r.unexpected("announce", key)
	}
	list := r.list(2)
	present := make(map[string]time.Time, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		present[list.text(i)] = time.UnixMicro(list.number(i + 1)).UTC()
	}
	return present, nil
}

// Withdraw takes an announcement back. An Announce that is still under way may
// arrive after it, and counts for its ttl.
func (c *Client) Withdraw(ctx context.Context, key, name string) error {
	if err := ValidateKey(key); err != nil {
		return err
	}
	if err := validateName("candidate", name); err != nil {
		return err
	}
	if c.isClosed() {
		return ErrClosed
	}
	_, err := wire.Bounded(ctx, operationTimeout, func(ctx context.Context) (int64, error) {
		return c.rdb.HDel(ctx, candidatesKey(key), name).Result()
	})
	if err != nil {
		return fmt.Errorf("redislock: withdraw %q from %q: %w", name, key, err)
	}
	return nil
}
