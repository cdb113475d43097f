package redislock

import (
	"context"
	"errors"
	"math"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
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
			"AcquireAll":        func() error { _, err := c.AcquireAll(ctx, []string{"lock:b", bad}); return err },
			"Adopt":             func() error { _, err := c.Adopt(ctx, bad, "host#n.1#5"); return err },
			"Inspect":           func() error { _, err := c.Inspect(ctx, bad); return err },
			"ForceRelease":      func() error { _, err := c.ForceRelease(ctx, bad, 1); return err },
			"ForceReleaseValue": func() error { _, err := c.ForceReleaseValue(ctx, bad, "x"); return err },
			"FinishRun":         func() error { _, err := c.FinishRun(ctx, bad, Run{ID: "m"}, 1, "", true); return err },
			"ReopenRun":         func() error { _, err := c.ReopenRun(ctx, bad, Run{ID: "m"}, 1); return err },
			"Runs":              func() error { _, err := c.Runs(ctx, bad); return err },
			"Announce":          func() error { _, err := c.Announce(ctx, bad, "a", time.Minute); return err },
			"Withdraw":          func() error { return c.Withdraw(ctx, bad, "a") },
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
		"pause beyond all bounds":      {WithRetry(1, math.MaxInt64)},
		"backoff below the pause":      {WithRetry(3, time.Second), WithBackoff(time.Second - 1)},
		"no backoff":                   {WithBackoff(0)},
		"negative backoff":             {WithBackoff(-1)},
		"backoff beyond all bounds":    {WithBackoff(math.MaxInt64)},
		"backoff of no pause":          {WithRetry(3, 0), WithBackoff(time.Second)},
		"backoff of a waiter":          {WithWait(), WithBackoff(time.Second)},
		"lease beyond all bounds":      {WithLease(math.MaxInt64)},
		"delay beyond all bounds":      {WithLockDelay(math.MaxInt64)},
		"overlong metadata":            {WithMetadata(strings.Repeat("m", MaxMetadata+1))},
		"metadata without fence":       {WithMetadata("m"), WithoutFence()},
		"negative quarantine":          {WithQuarantine(-1)},
		"quarantine beyond all bounds": {WithQuarantine(math.MaxInt64)},
	} {
		_, err := c.TryAcquire(t.Context(), key, opts...)
		g.Expect(err).To(MatchError(ErrInvalid), name)
		_, err = c.Adopt(t.Context(), key, "host#n.1#5", opts...)
		g.Expect(err).To(MatchError(ErrInvalid), name)
	}
}

func TestBadRunsAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	held := mustAcquire(t, dial(t, p.URL()), key, patient())
	unfenced := mustAcquire(t, dial(t, p.URL()), "lock:b", patient(), WithoutFence())
	c := newClient(t, unreachable(t))
	ctx := t.Context()
	sent := len(p.Requests())
	tick := time.Unix(1_700_000_000, 0)
	for name, run := range map[string]Run{
		"nothing":           {},
		"tick of no series": {Tick: tick},
		"ID with a tick":    {ID: "m", Tick: tick},
		"ID with a series":  {Series: "x", Tick: tick, ID: "m"},
		"no tick":           {Series: "x"},
		"half a second":     {Series: "x", Tick: tick.Add(time.Second / 2)},
		"nanosecond":        {Series: "x", Tick: tick.Add(1)},
		"epoch":             {Series: "x", Tick: time.Unix(0, 0)},
		"before the epoch":  {Series: "x", Tick: time.Unix(-5, 0)},
		"end of time":       {Series: "x", Tick: time.Unix(1<<60, 0)},
		"space in series":   {Series: "x y", Tick: tick},
		"tab in series":     {Series: "x\ty", Tick: tick},
		"nul in series":     {Series: "x\x00", Tick: tick},
		"overlong series":   {Series: strings.Repeat("x", maxName+1), Tick: tick},
		"space in ID":       {ID: "m n"},
		"newline in ID":     {ID: "m\n"},
		"delete in ID":      {ID: "m\x7f"},
		"overlong ID":       {ID: strings.Repeat("x", maxName+1)},
	} {
		_, err := held.Claim(ctx, ClaimRequest{Run: run, Claimant: "c"})
		g.Expect(err).To(MatchError(ErrInvalid), "claim: %s", name)
		_, err = c.FinishRun(ctx, key, run, 1, "", true)
		g.Expect(err).To(MatchError(ErrInvalid), "finish: %s", name)
		_, err = c.ReopenRun(ctx, key, run, 1)
		g.Expect(err).To(MatchError(ErrInvalid), "reopen: %s", name)
	}
	fit := Run{ID: "m"}
	for name, req := range map[string]ClaimRequest{
		"no claimant":                 {Run: fit},
		"space in claimant":           {Run: fit, Claimant: "a b"},
		"newline in claimant":         {Run: fit, Claimant: "a\n"},
		"overlong claimant":           {Run: fit, Claimant: strings.Repeat("x", maxName+1)},
		"negative cover":              {Run: fit, Claimant: "c", Cover: -1},
		"cover beyond all bounds":     {Run: fit, Claimant: "c", Cover: math.MaxInt64},
		"negative retention":          {Run: fit, Claimant: "c", Retention: -1},
		"retention beyond all bounds": {Run: fit, Claimant: "c", Retention: math.MaxInt64},
	} {
		_, err := held.Claim(ctx, req)
		g.Expect(err).To(MatchError(ErrInvalid), name)
	}
	_, err := unfenced.Claim(ctx, ClaimRequest{Run: fit, Claimant: "c"})
	g.Expect(err).To(MatchError(ErrInvalid), "nothing names the grant of a lock without a fence")
	for _, d := range []time.Duration{0, -1, math.MaxInt64} {
		g.Expect(held.Cover(ctx, d)).To(MatchError(ErrInvalid))
	}
	for name, outcome := range map[string]string{"newline": "a\nb", "nul": "\x00", "overlong": strings.Repeat("x", maxName+1)} {
		_, err := c.FinishRun(ctx, key, fit, 1, outcome, true)
		g.Expect(err).To(MatchError(ErrInvalid), name)
	}
	_, err = c.FinishRun(ctx, key, fit, 0, "", true)
	g.Expect(err).To(MatchError(ErrInvalid))
	_, err = c.ReopenRun(ctx, key, fit, 0)
	g.Expect(err).To(MatchError(ErrInvalid))
	for name, candidate := range map[string]string{"space": "a b", "newline": "a\n", "overlong": strings.Repeat("x", maxName+1)} {
		_, err := c.Announce(ctx, key, candidate, time.Minute)
		g.Expect(err).To(MatchError(ErrInvalid), name)
		g.Expect(c.Withdraw(ctx, key, candidate)).To(MatchError(ErrInvalid), name)
	}
	g.Expect(c.Withdraw(ctx, key, "")).To(MatchError(ErrInvalid))
	for _, ttl := range []time.Duration{0, -1, math.MaxInt64} {
		_, err := c.Announce(ctx, key, "a", ttl)
		g.Expect(err).To(MatchError(ErrInvalid))
	}
	g.Expect(p.Requests()).To(HaveLen(sent))

	// The longest that is fit, with all that may stand in a name.
	long := Run{Series: strings.Repeat("é|~#:\"", maxName/8), Tick: tick}
	g.Expect(long.validate()).To(Succeed())
	parsed, ok := parseRun(long.name())
	g.Expect(ok).To(BeTrue())
	g.Expect(parsed.Series).To(Equal(long.Series))
	g.Expect(parsed.Tick.Equal(tick)).To(BeTrue())
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
		"AcquireAll":   func() error { _, err := c.AcquireAll(ctx, []string{key}); return err },
		"WithLock":     func() error { return c.WithLock(ctx, key, func(context.Context, *Lock) error { return nil }) },
		"CheckStore":   func() error { _, err := c.CheckStore(ctx); return err },
		"Adopt":        func() error { _, err := c.Adopt(ctx, key, "host#n.1#5"); return err },
		"Inspect":      func() error { _, err := c.Inspect(ctx, key); return err },
		"ForceRelease": func() error { _, err := c.ForceRelease(ctx, key, 1); return err },
		"FinishRun":    func() error { _, err := c.FinishRun(ctx, key, Run{ID: "m"}, 1, "", true); return err },
		"ReopenRun":    func() error { _, err := c.ReopenRun(ctx, key, Run{ID: "m"}, 1); return err },
		"Runs":         func() error { _, err := c.Runs(ctx, key); return err },
		"Announce":     func() error { _, err := c.Announce(ctx, key, "a", time.Minute); return err },
		"Withdraw":     func() error { return c.Withdraw(ctx, key, "a") },
	} {
		g.Expect(call()).To(MatchError(ErrClosed), operation)
	}
}

// The server itself counts: what is invalid, and what comes after Close, costs no
// round trip.
func TestWhatIsRefusedHereNeverReachesTheServer(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	control := connect(t, server.URL())
	commands := func() string {
		t.Helper()
		info, err := control.InfoMap(t.Context(), "stats").Result()
		g.Expect(err).NotTo(HaveOccurred())
		return info["Stats"]["total_commands_processed"]
	}
	rdb := connect(t, server.URL())
	c := newClient(t, rdb)
	lock := mustAcquire(t, c, key, lapsing(time.Hour))
	locks := mustAcquireAll(t, c, threeKeys, lapsing(time.Hour))
	ctx := t.Context()

	before := commands()
	for name, call := range map[string]func() error{
		"empty key":             func() error { _, err := c.TryAcquire(ctx, ""); return err },
		"broken braces":         func() error { _, err := c.Acquire(ctx, "foo}bar"); return err },
		"lease of 500 µs":       func() error { _, err := c.TryAcquire(ctx, "b", WithLease(500*time.Microsecond)); return err },
		"overlong metadata":     func() error { _, err := c.TryAcquire(ctx, "b", WithMetadata(strings.Repeat("m", 1025))); return err },
		"metadata, no fence":    func() error { _, err := c.TryAcquire(ctx, "b", WithMetadata("m"), WithoutFence()); return err },
		"the same key twice":    func() error { _, err := c.AcquireAll(ctx, []string{"b", "b"}); return err },
		"no keys":               func() error { _, err := c.AcquireAll(ctx, nil); return err },
		"extension by nothing":  func() error { return lock.Extend(ctx, 0) },
		"extension backwards":   func() error { return lock.Extend(ctx, -time.Second) },
		"all extended by less":  func() error { return locks.Extend(ctx, -time.Second) },
		"cover backwards":       func() error { return lock.Cover(ctx, -time.Second) },
		"no token":              func() error { _, err := c.Adopt(ctx, key, "theirs"); return err },
		"no fence to force":     func() error { _, err := c.ForceRelease(ctx, key, 0); return err },
		"no connection":         func() error { _, err := New(nil); return err },
		"run of nothing":        func() error { _, err := lock.Claim(ctx, ClaimRequest{Claimant: "c"}); return err },
		"candidate for no time": func() error { _, err := c.Announce(ctx, key, "a", 0); return err },
	} {
		g.Expect(call()).To(MatchError(ErrInvalid), name)
	}
	g.Expect(c.Close(ctx)).To(Succeed())
	for name, call := range map[string]func() error{
		"acquire":      func() error { _, err := c.TryAcquire(ctx, "b"); return err },
		"all":          func() error { _, err := c.AcquireAll(ctx, []string{"b", "c"}); return err },
		"inspect":      func() error { _, err := c.Inspect(ctx, key); return err },
		"status":       func() error { _, err := lock.Status(ctx); return err },
		"extend":       func() error { return lock.Extend(ctx, time.Hour) },
		"cover":        func() error { return lock.Cover(ctx, time.Hour) },
		"claim":        func() error { _, err := lock.Claim(ctx, claimBy("c", Run{ID: "m"})); return err },
		"detach":       func() error { _, err := lock.Detach(ctx); return err },
		"release":      func() error { return lock.Release(ctx) },
		"stopped":      func() error { return lock.ReleaseStopped(ctx) },
		"extend all":   func() error { return locks.Extend(ctx, time.Hour) },
		"release all":  func() error { return locks.Release(ctx) },
		"closed twice": func() error { return errors.Join(ErrClosed, c.Close(ctx)) },
	} {
		g.Expect(call()).To(MatchError(ErrClosed), name)
	}
	was, err := strconv.Atoi(before)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(commands()).To(Equal(strconv.Itoa(was+1)), "but for the first count itself")
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
