package redislock

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// operationTimeout bounds a command that belongs to no lease, and any other.
const operationTimeout = 5 * time.Second

// ForceOption configures a release by force.
type ForceOption func(*forceConfig)

type forceConfig struct{ mode string }

// Immediately frees the key at once. Without it the key stays taken for what
// remains of the holder's expiry, because the holder may act until then.
func Immediately() ForceOption {
	return func(c *forceConfig) { c.mode = "now" }
}

// ForceRelease takes the lock from the holder whose token ends in the fencing
// token ifFence, and says whether it did: false means that the lock was free. If
// anybody else holds it nothing is changed and the error is a *MismatchError.
func (c *Client) ForceRelease(ctx context.Context, key string, ifFence uint64, opts ...ForceOption) (bool, error) {
	if ifFence == 0 {
		return false, invalid("fence", "0", "names no grant; use ForceReleaseValue for a lock without a fence")
	}
	return c.force(ctx, key, "fence", strconv.FormatUint(ifFence, 10), opts)
}

// ForceReleaseValue is ForceRelease for a lock without a fence, such as another
// library's: it takes it if its key holds exactly this value.
func (c *Client) ForceReleaseValue(ctx context.Context, key, value string, opts ...ForceOption) (bool, error) {
	if value == "" {
		return false, invalid("value", value, "is empty")
	}
	return c.force(ctx, key, "value", value, opts)
}

func (c *Client) force(ctx context.Context, key, by, what string, opts []ForceOption) (bool, error) {
	cfg := forceConfig{mode: "wait"}
	for _, opt := range opts {
		opt(&cfg)
	}
	if err := ValidateKey(key); err != nil {
		return false, err
	}
	if c.isClosed() {
		return false, ErrClosed
	}
	r, err := c.run(ctx, operationTimeout, forceReleaseScript, []string{key}, by, what, cfg.mode, wakeChannel(key))
	if err != nil {
		return false, fmt.Errorf("redislock: force-release %q: %w", key, err)
	}
	switch r.word() {
	case "done":
		return true, nil
	case "free":
		return false, nil
	case "mismatch":
		return false, &MismatchError{Key: key, Found: r.text(1)}
	}
	return false, r.unexpected("force-release", key)
}
