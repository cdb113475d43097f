package redislock

import (
	"context"
	"fmt"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// Adopt goes on with a lease of another process, by compare-and-swap of the exact
// token that the caller observed or was given. The fence stays: it is the same
// grant; its minimum and maximum hold count from the adoption. If anything else
// stands at the key by now that is a *MismatchError.
//
// Unless the token came from Detach the other process may be alive, and acts until
// its next renewal tells it.
func (c *Client) Adopt(ctx context.Context, key, observed string, opts ...LockOption) (*Lock, error) {
	old, ok := parseToken(observed)
	if !ok {
		return nil, fmt.Errorf("redislock: %w: token: is not one of this package's", ErrInvalid)
	}
	a, err := c.newAttempt(key, opts)
	if err != nil {
		return nil, err
	}
	a.token.fence = old.fence
	for n := 1; ; n++ {
		sent := c.clock.now()
		r, err := c.run(ctx, a.cfg.operationTimeout(), adoptScript, []string{key}, observed, a.token.String(), wire.Milliseconds(a.cfg.expiry()))
		switch {
		case err != nil && (n == a.cfg.attempts || ctx.Err() != nil || !retryable(err)):
			return nil, fmt.Errorf("redislock: adopt %q: %w", key, err)
		case err != nil:
			continue
		case r.word() == "mismatch":
			return nil, &MismatchError{Key: key, Found: r.text(1)}
		case r.word() != "ok":
			return nil, r.unexpected("adopt", key)
		}
		heard := c.clock.now()
		c.server.learn(sent, heard, r.number(2))
		return a.granted(ctx, sent, heard, a.cfg.lease, old.fence)
	}
}
