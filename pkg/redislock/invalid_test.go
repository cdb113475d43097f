package redislock

import (
	"context"
	"errors"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
)

// unreachable is a connection that fails the test when it is used.
func unreachable(t *testing.T) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{
		MaxRetries: -1,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			t.Error("something was sent")
			return nil, errors.New("unreachable")
		},
	})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func TestNewRefusesWhatIsNoConnection(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var single *redis.Client
	var cluster *redis.ClusterClient
	var ring *redis.Ring
	for name, rdb := range map[string]redis.UniversalClient{
		"nil": nil, "nil client": single, "nil cluster": cluster, "nil ring": ring,
		"ring": redis.NewRing(&redis.RingOptions{}),
	} {
		_, err := New(rdb)
		g.Expect(err).To(MatchError(ErrInvalid), name)
	}
	for name, identity := range map[string]string{
		"empty": "", "hash": "a#b", "space": "a b", "newline": "a\nb", "tombstone": "~a", "delete": "a\x7f", "overlong": strings.Repeat("x", 513),
	} {
		_, err := New(unreachable(t), WithIdentity(identity))
		g.Expect(err).To(MatchError(ErrInvalid), name)
		_, err = newClient(t, unreachable(t)).TryAcquire(t.Context(), key, LockIdentity(identity))
		g.Expect(err).To(MatchError(ErrInvalid), name)
	}
	_, err := New(unreachable(t))
	g.Expect(err).NotTo(HaveOccurred(), "the host's name is always fit")
	_, err = New(unreachable(t), WithIdentity(strings.Repeat("x", 512)))
	g.Expect(err).NotTo(HaveOccurred())
}

func TestBadKeysAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newClient(t, unreachable(t))
	ctx := t.Context()
	for name, bad := range map[string]string{
		"empty": "", "newline": "a\nb", "nul": "a\x00", "delete": "a\x7f", "overlong": strings.Repeat("k", maxKeyLength+1),
		"open": "a{", "close": "a}", "turned": "}a{", "empty tag": "a{}b", "two tags": "{a}{b}", "nested": "{{a}}", "companion": "{a}:fence",
	} {
		for operation, call := range map[string]func() error{
			"TryAcquire":        func() error { _, err := c.TryAcquire(ctx, bad); return err },
			"Acquire":           func() error { _, err := c.Acquire(ctx, bad); return err },
			"WithLock":          func() error { return c.WithLock(ctx, bad, func(context.Context, *Lock) error { return nil }) },
			"Adopt":             func() error { _, err := c.Adopt(ctx, bad, "host#n.1#5"); return err },
			"Inspect":           func() error { _, err := c.Inspect(ctx, bad); return err },
			"ForceRelease":      func() error { _, err := c.ForceRelease(ctx, bad, 1); return err },
			"ForceReleaseValue": func() error { _, err := c.ForceReleaseValue(ctx, bad, "x"); return err },
		} {
			g.Expect(call()).To(MatchError(ErrInvalid), "%s of a key that is %s", operation, name)
		}
	}
	_, err := c.ForceRelease(ctx, key, 0)
	g.Expect(err).To(MatchError(ErrInvalid))
	_, err = c.ForceReleaseValue(ctx, key, "")
	g.Expect(err).To(MatchError(ErrInvalid))
	g.Expect(ValidateKey(strings.Repeat("k", maxKeyLength))).To(Succeed())
	g.Expect(ValidateKey("ключ {замка}")).To(Succeed())
}

func TestBadOptionsAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newClient(t, unreachable(t))
	for name, opts := range map[string][]LockOption{
		"no lease":                     {WithLease(0)},
		"negative lease":               {WithLease(-time.Second)},
		"lease under the minimum":      {WithLease(minLease - 1)},
		"renewal too rare":             {WithLease(time.Second), WithRenewEvery(501 * time.Millisecond)},
		"negative renewal":             {WithRenewEvery(-1)},
		"negative delay":               {WithLockDelay(-1)},
		"negative minimum":             {WithMinHold(-1)},
		"negative maximum":             {WithMaxHold(-1)},
		"maximum below the lease":      {WithMaxHold(time.Second)},
		"maximum below the minimum":    {WithMaxHold(time.Minute), WithMinHold(time.Hour)},
		"negative retention":           {WithFenceRetention(-1)},
		"retention below the expiry":   {WithFenceRetention(time.Second)},
		"retention below minimum hold": {WithFenceRetention(time.Minute), WithMinHold(time.Hour)},
		"negative history":             {WithHistory(-1)},
		"endless history":              {WithHistory(maxHistory + 1)},
		"history without fence":        {WithHistory(1), WithoutFence()},
		"no try":                       {WithRetry(0, 0)},
		"negative tries":               {WithRetry(-1, 0)},
		"negative pause":               {WithRetry(1, -1)},
		"lease beyond all bounds":      {WithLease(math.MaxInt64)},
		"delay beyond all bounds":      {WithLockDelay(math.MaxInt64)},
	} {
		_, err := c.TryAcquire(t.Context(), key, opts...)
		g.Expect(err).To(MatchError(ErrInvalid), name)
		_, err = c.Adopt(t.Context(), key, "host#n.1#5", opts...)
		g.Expect(err).To(MatchError(ErrInvalid), name)
	}
}

func TestAClosedClientSendsNothing(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newClient(t, unreachable(t))
	g.Expect(c.Close(t.Context())).To(Succeed())
	ctx := t.Context()
	for operation, call := range map[string]func() error{
		"TryAcquire":   func() error { _, err := c.TryAcquire(ctx, key); return err },
		"Acquire":      func() error { _, err := c.Acquire(ctx, key, WithWait()); return err },
		"Adopt":        func() error { _, err := c.Adopt(ctx, key, "host#n.1#5"); return err },
		"Inspect":      func() error { _, err := c.Inspect(ctx, key); return err },
		"ForceRelease": func() error { _, err := c.ForceRelease(ctx, key, 1); return err },
	} {
		g.Expect(call()).To(MatchError(ErrClosed), operation)
	}
}

func TestAConnectionThatWasClosedIsAnError(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	rdb := redis.NewClient(&redis.Options{})
	c := newClient(t, rdb)
	g.Expect(rdb.Close()).To(Succeed())
	_, err := c.TryAcquire(t.Context(), key)
	g.Expect(err).To(MatchError(redis.ErrClosed))
	g.Expect(err).NotTo(MatchError(ErrNotAcquired))
}
