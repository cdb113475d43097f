package redislock

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// Info is what stands at a lock's key.
type Info struct {
	Key string
	// Status is Free also where the key is only kept taken: see Kept.
	Status Status
	// Holder is the identity of whoever holds it; empty for the lock of another
	// library.
	Holder string
	// Value is what stands at the key, and so the right to release it: treat it as a
	// secret. Empty where the key is no string.
	Value string
	// Fence is the holder's fencing token; 0 where it has none, or one that cannot be
	// true.
	Fence uint64
	// Metadata is what the holder attached to its grant; see WithMetadata.
	Metadata string
	// TTL is how long the key still exists unless it is renewed; negative where it
	// has no expiry. 0 where there is no key.
	TTL time.Duration
	// Kept: nobody holds the lock, but its key is kept taken for TTL, for what
	// remains of a minimum hold or of the expiry of a lock released by force.
	Kept bool
	// Stopped: the process that held it has left it for another to Adopt.
	Stopped bool
	// Nonce names the process in the holder's token.
	Nonce string
	// Kind is what stands at the key.
	Kind Kind
	// Permits is how many a semaphore has; 0 for anything else.
	Permits int
	// Holders are those who share the key: who has a semaphore's permits, or a read
	// lock; the first to lapse first.
	Holders []Holder
	// Waiting is how many wait in order of arrival, WithFair or for the write lock of an
	// RWLock.
	Waiting int
	// HighestFence is the highest fencing token stored for the lock.
	HighestFence uint64
	// History is the last grants, newest first; see WithHistory.
	History []Grant
}

// Grant is one entry of a lock's history.
type Grant struct {
	Holder string
	Fence  uint64
	// At is the server's time of the grant.
	At time.Time
}

// Inspect says who holds a lock and who did before. It changes nothing.
func (c *Client) Inspect(ctx context.Context, key string) (Info, error) {
	info, err := c.look(ctx, key)
	if err != nil {
		return Info{}, err
	}
	if err := c.occupancy(ctx, &info); err != nil {
		return info, err
	}
	info.History, err = c.history(ctx, key)
	return info, err
}

// look is Inspect without the history and those who share or wait, in one round trip.
func (c *Client) look(ctx context.Context, key string) (Info, error) {
	if err := ValidateKey(key); err != nil {
		return Info{}, err
	}
	if c.isClosed() {
		return Info{}, ErrClosed
	}
	sent := c.clock.now()
	r, err := c.run(ctx, operationTimeout, inspectScript, []string{key, fenceKey(key), metadataKey(key)})
	if err != nil {
		return Info{}, fmt.Errorf("redislock: inspect %q: %w", key, err)
	}
	if !inspected(r) {
		return Info{}, r.unexpected("inspect", key)
	}
	c.server.learn(sent, c.clock.now(), r.number(4))
	return describe(key, r, c.witness(key, r.text(1), r.number(4))), nil
}

// inspected says whether a reply is one of the inspect script.
func inspected(r reply) bool {
	switch r.word() {
	case "none", "string", "other":
		return true
	}
	return false
}

func describe(key string, r reply, fence uint64) Info {
	info := Info{Key: key, Status: Free, Value: r.text(1)}
	if highest, err := strconv.ParseUint(r.text(3), 10, 64); err == nil {
		info.HighestFence = highest
	}
	switch r.word() {
	case "none":
		return info
	case "string":
		if strings.HasPrefix(info.Value, tombstone) {
			info.Kept, info.TTL = true, r.duration(2)
			return info
		}
	}
	info.Status, info.TTL = Acquired, r.duration(2)
	if info.TTL < 0 {
		info.TTL = -1
	}
	if t, ok := parseToken(info.Value); ok {
		info.Holder, info.Fence, info.Stopped, info.Nonce = t.identity, fence, t.stopped, t.nonce
		info.Metadata = metadataOf(r.text(5), fence)
	}
	return info
}

// history is a command of its own: a server that refuses streams to this client
// still tells who holds the lock.
func (c *Client) history(ctx context.Context, key string) ([]Grant, error) {
	entries, err := wire.Bounded(ctx, operationTimeout, func(ctx context.Context) ([]redis.XMessage, error) {
		return c.rdb.XRevRangeN(ctx, historyKey(key), "+", "-", maxHistory).Result()
	})
	if err != nil {
		return nil, fmt.Errorf("redislock: history of %q: %w", key, err)
	}
	grants := make([]Grant, 0, len(entries))
	for _, entry := range entries {
		g := Grant{}
		g.Holder, _ = entry.Values["holder"].(string)
		digits, _ := entry.Values["fence"].(string)
		g.Fence, _ = strconv.ParseUint(digits, 10, 64)
		if ms, err := strconv.ParseInt(strings.SplitN(entry.ID, "-", 2)[0], 10, 64); err == nil {
			g.At = time.UnixMilli(ms)
		}
		grants = append(grants, g)
	}
	return grants, nil
}

// trimTombstone returns the token of which a tombstone is left.
func trimTombstone(value string) string { return strings.TrimPrefix(value, tombstone) }
