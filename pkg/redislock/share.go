package redislock

import (
	"context"
	"fmt"
	"time"
)

// Kind says what stands at a lock's key.
type Kind string

// The kinds. A Redis key of any other kind is in the way of all of them.
const (
	KindNone Kind = ""
	// KindLock is a string: a plain lock, the write lock of an RWLock, which is one, or
	// a lock of another library.
	KindLock      Kind = "lock"
	KindReaders   Kind = "readers"
	KindSemaphore Kind = "permits"
	KindOther     Kind = "other"
)

// kindOf reads what the scripts say of a key.
func kindOf(word string) Kind {
	if word == "none" {
		return KindNone
	}
	return Kind(word)
}

// A share is what a grant is where several hold one key at once.
type share struct {
	kind  Kind
	mark  string // stands with the grants, see enter.lua
	limit int    // of grants at once; 0 = any number
}

// validate refuses the options that have no meaning for one of several holders.
func (s *share) validate(cfg *lockConfig) error {
	const why = "is for locks that have one holder"
	switch {
	case s == nil:
		return nil
	case !cfg.fenced:
		return invalid("option", "WithoutFence", why)
	case cfg.fair:
		return invalid("option", "WithFair", why)
	case cfg.minHold > 0:
		return invalid("option", "WithMinHold", why)
	case cfg.history > 0:
		return invalid("option", "WithHistory", why)
	case cfg.metadata != "":
		return invalid("option", "WithMetadata", why)
	}
	return nil
}

func (cfg *lockConfig) renewScript() *script {
	if cfg.share != nil {
		return prolongScript
	}
	return renewScript
}

func (cfg *lockConfig) releaseScript() *script {
	if cfg.share != nil {
		return leaveScript
	}
	return releaseScript
}

// whole refuses an operation that is for locks which are the whole of their key.
func (l *Lock) whole(operation string) error {
	if l.cfg.share == nil {
		return nil
	}
	return &KindError{Operation: operation, Key: l.key, Kind: l.cfg.share.kind}
}

// Holder is one of several who hold a key at once.
type Holder struct {
	// Identity and Nonce name the holder and its process.
	Identity, Nonce string
	Fence           uint64
	// TTL is how long the grant still stands unless it is renewed.
	TTL time.Duration
}

func (c *Client) occupants(ctx context.Context, timeout time.Duration, key string) (reply, error) {
	r, err := c.run(ctx, timeout, occupancyScript, []string{key, placesKey(key)})
	if err != nil {
		return nil, err
	}
	switch r.word() {
	case "none", string(KindLock), string(KindReaders), string(KindSemaphore), string(KindOther):
		return r, nil
	}
	return nil, r.unexpected("occupants of", key)
}

// occupancy adds to info who shares the key and how many wait. It is a command of its
// own: a server that refuses sorted sets to this client still tells who holds the lock.
func (c *Client) occupancy(ctx context.Context, info *Info) error {
	r, err := c.occupants(ctx, operationTimeout, info.Key)
	if Refused(err) {
		r, err = reply{string(KindOther)}, nil
	}
	if err != nil {
		return fmt.Errorf("redislock: inspect %q: %w", info.Key, err)
	}
	info.Waiting = int(r.number(3))
	switch {
	case info.Value != "":
		info.Kind = KindLock
	case info.Status == Acquired:
		info.Kind, info.Permits = kindOf(r.word()), int(r.number(1))
	}
	if info.Kind != KindReaders && info.Kind != KindSemaphore {
		return nil
	}
	grants := r.list(4)
	for i := 0; i+1 < len(grants); i += 2 {
		h := Holder{TTL: time.Duration(grants.number(i+1)) * time.Millisecond}
		if t, ok := parseToken(grants.text(i)); ok {
			h.Identity, h.Nonce = t.identity, t.nonce
			h.Fence = c.witness(info.Key, grants.text(i), r.number(2))
		}
		info.Holders = append(info.Holders, h)
	}
	if len(info.Holders) == 0 { // the last is lapsing at this moment
		info.Status, info.Kind, info.TTL = Free, KindNone, 0
	}
	return nil
}

// statusOfShare is Status where several hold the key.
func (l *Lock) statusOfShare(ctx context.Context) (Status, error) {
	r, err := l.client.occupants(ctx, l.cfg.operationTimeout(), l.key)
	if err != nil {
		return Free, fmt.Errorf("redislock: status of %q: %w", l.key, err)
	}
	grants := r.list(4)
	for i := 0; i < len(grants); i += 2 {
		if grants.text(i) == l.value {
			return Acquired, nil
		}
	}
	return Free, nil
}
