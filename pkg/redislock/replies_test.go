package redislock

import (
	"context"
	"encoding/binary"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// anything gives each script the answer that a test has ready, and all else one that
// is well-formed. Nothing is sent.
type anything struct {
	mu   sync.Mutex
	next any
}

func (a *anything) set(next any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = next
}

func (a *anything) answer(cmd redis.Cmder) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch c := cmd.(type) {
	case *redis.Cmd:
		if err, ok := a.next.(error); ok {
			c.SetErr(err)
			return err
		}
		c.SetVal(a.next)
	case *redis.TimeCmd:
		c.SetVal(time.Now())
	}
	return nil
}

func (a *anything) DialHook(redis.DialHook) redis.DialHook {
	return func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
}

func (a *anything) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			_ = a.answer(cmd)
		}
		return nil
	}
}

func (a *anything) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error { return a.answer(cmd) }
}

// words are what scripts answer with.
var words = []string{
	"granted", "again", "held", "late", "corrupt", "amnesia", "ok", "mismatch", "done", "gone", "free", "new", "superseding",
	"lost", "future", "claimed", "tooold", "superseded", "active", "already", "reopened", "finished", "none", "string", "other",
	"host#0a.1#7", "~host#0a.1#7", "stored", "runs", "seen", "done 9 7 1 c/1 ok",
	"limit", "lock", "readers", "permits", "queue",
	"recorded", "resumed", "taken", "busy", "waiting", "idle", "over", "state", "key", "sources",
}

// numbers are where arithmetic goes wrong.
var numbers = []int64{0, 1, -1, -2, 7, 1000, math.MaxInt64, math.MinInt64, 1 << 53, 1<<53 - 1, math.MaxInt64 / 1_000_000, 1795310214767428}

// decode makes a value, as it may come over the wire, of random bytes.
func decode(data []byte, depth int) (value any, rest []byte) {
	if len(data) == 0 {
		return nil, nil
	}
	kind, data := data[0], data[1:]
	take := func(n int) []byte {
		n = min(n, len(data))
		taken := data[:n]
		data = data[n:]
		return taken
	}
	one := func() int {
		if b := take(1); len(b) == 1 {
			return int(b[0])
		}
		return 0
	}
	switch kind % 8 {
	case 0:
		return nil, data
	case 1:
		var b [8]byte
		copy(b[:], take(8))
		return int64(binary.LittleEndian.Uint64(b[:])), data
	case 2:
		return numbers[one()%len(numbers)], data
	case 3:
		return string(take(one() % 40)), data
	case 4:
		return words[one()%len(words)], data
	case 5:
		return one()%2 == 0, data
	case 6:
		return redis.Nil, data
	}
	list := []any{}
	for n := one() % 8; n > 0 && depth < 3; n-- {
		value, data = decode(data, depth+1)
		list = append(list, value)
	}
	return list, data
}

// encode is decode the other way round, for seeds: a list of words and numbers.
func encode(values ...any) []byte {
	data := []byte{7, byte(len(values))}
	for _, v := range values {
		switch v := v.(type) {
		case string:
			for i, word := range words {
				if word == v {
					data = append(data, 4, byte(i))
				}
			}
		case int:
			data = binary.LittleEndian.AppendUint64(append(data, 1), uint64(v))
		}
	}
	return data
}

// FuzzReplies has each operation answered with anything: none panics, and none takes
// for a grant, a renewal, a release or a claim what does not say so.
func FuzzReplies(f *testing.F) {
	now := int(time.Now().UnixMicro())
	for _, word := range words {
		f.Add(encode(word))
		f.Add(encode(word, now, 10_000, now))
		f.Add(encode(word, "host#0a.1#7", 10_000, now))
		f.Add(encode(word, 0, 0, 0))
		f.Add(encode(word, -1, -1, -1))
		f.Add(encode(word, now, "done"))
	}
	f.Add([]byte{})
	f.Add([]byte{6})
	f.Add([]byte("1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		next, _ := decode(data, 0)
		fields, err := parseReply(next)
		if err != nil {
			fields = nil
		}
		said := fields.word()
		in := func(words ...string) bool { return slices.Contains(words, said) }
		a := &anything{}
		rdb := redis.NewClient(&redis.Options{})
		rdb.AddHook(a)
		c, err := New(rdb)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = c.Close(canceled())
			_ = rdb.Close()
		}()
		ctx := t.Context()

		a.set(next)
		l, err := c.TryAcquire(ctx, key, patient())
		if (l == nil) == (err == nil) {
			t.Fatalf("acquire: %v, %v", l, err)
		}
		if l != nil && (!in("granted", "again") || fields.number(1) <= 0 || l.Fence() != uint64(fields.number(1))) {
			t.Fatalf("a grant with fence %d was read into %v", l.Fence(), next)
		}
		if l != nil && time.Until(l.ValidUntil()) > 5*time.Minute {
			t.Fatalf("a lease until %s was read into %v", l.ValidUntil(), next)
		}
		if l, err := c.TryAcquire(ctx, "lock:unfenced", WithoutFence(), patient()); (l == nil) == (err == nil) {
			t.Fatalf("acquire without fence: %v, %v", l, err)
		}
		permits := func(key string, opts ...LockOption) (*Lock, error) {
			s, err := c.Semaphore(key, 2, patient())
			if err != nil {
				t.Fatal(err)
			}
			return s.TryAcquire(ctx, opts...)
		}
		for what, acquire := range map[string]func() (*Lock, error){
			"in order": func() (*Lock, error) { return c.TryAcquire(ctx, "lock:fair", patient(), WithFair()) },
			"a permit": func() (*Lock, error) { return permits("lock:permits") },
		} {
			l, err := acquire()
			if (l == nil) == (err == nil) {
				t.Fatalf("acquire %s: %v, %v", what, l, err)
			}
			if l != nil && (!in("granted", "again") || l.Fence() != uint64(fields.number(1))) {
				t.Fatalf("%s with fence %d was read into %v", what, l.Fence(), next)
			}
		}
		if l, err := c.Adopt(ctx, key, "host#0a.1#7", patient(), WithRetry(1, 0)); err == nil && (!in("ok") || l.Fence() != 7) {
			t.Fatalf("an adoption was read into %v", next)
		}
		if done, err := c.ForceRelease(ctx, key, 7); err == nil && done != in("done") || err == nil && !in("done", "free") {
			t.Fatalf("a release by force was read into %v", next)
		}
		if _, err := c.Inspect(ctx, key); err == nil && !in("none", "string", "other") {
			t.Fatalf("an inspection was read into %v", next)
		}
		if _, err := c.Runs(ctx, key); err == nil && !in("ok") {
			t.Fatalf("records were read into %v", next)
		}
		if _, err := c.Announce(ctx, key, "a", time.Minute); err == nil && !in("ok") {
			t.Fatalf("an announcement was read into %v", next)
		}
		run := Run{ID: "run"}
		if _, err := c.FinishRun(ctx, key, run, 7, "", true); err == nil && !in("done", "already", "superseded", "reopened", "finished") {
			t.Fatalf("a finish was read into %v", next)
		}

		for _, operation := range []func(*Lock){
			func(l *Lock) {
				if err := l.Extend(ctx, time.Hour); err == nil && !in("ok") {
					t.Fatalf("an extension was read into %v", next)
				}
			},
			func(l *Lock) {
				if err := l.Cover(ctx, time.Hour); err == nil && !in("ok") {
					t.Fatalf("a cover was read into %v", next)
				}
			},
			func(l *Lock) {
				if state, err := l.Status(ctx); err == nil && (!in("none", "string", "other") || state == Acquired && fields.text(1) != l.Token()) {
					t.Fatalf("%s, %v was read into %v", state, err, next)
				}
			},
			func(l *Lock) {
				claim, err := l.Claim(ctx, ClaimRequest{Run: run, Claimant: "c"})
				if err == nil && (!in("new", "again", "superseding") || claim.Fence == 0 || claim.Fence > math.MaxInt64) {
					t.Fatalf("claim %+v was read into %v", claim, next)
				}
			},
			func(l *Lock) {
				if _, err := l.Detach(ctx); err == nil && !in("ok") {
					t.Fatalf("a detachment was read into %v", next)
				}
			},
			func(l *Lock) {
				if err := l.Release(ctx); err == nil && !in("done", "gone") {
					t.Fatalf("a release was read into %v", next)
				}
			},
		} {
			a.set([]any{"granted", int64(now), int64(300_000), int64(now)})
			l, err := c.TryAcquire(ctx, "lock:held", patient(), WithoutRenewal())
			if err != nil {
				t.Fatalf("a grant is refused: %v", err)
			}
			a.set(next)
			operation(l)
		}

		for _, operation := range []func(*Lock){
			func(l *Lock) {
				if err := l.Extend(ctx, time.Hour); err == nil && !in("ok") {
					t.Fatalf("an extension of a permit was read into %v", next)
				}
			},
			func(l *Lock) {
				if state, err := l.Status(ctx); state == Acquired && (err != nil || !slices.Contains(fields.list(4), any(l.Token()))) {
					t.Fatalf("%s of a permit, %v was read into %v", state, err, next)
				}
			},
			func(l *Lock) {
				if err := l.Release(ctx); err == nil && !in("done", "gone") {
					t.Fatalf("a release of a permit was read into %v", next)
				}
			},
		} {
			a.set([]any{"granted", int64(now), int64(300_000), int64(now)})
			l, err := permits("lock:permits:held", WithoutRenewal())
			if err != nil {
				t.Fatalf("a permit is refused: %v", err)
			}
			a.set(next)
			operation(l)
		}
	})
}

// FuzzSpans has a lock configured with any durations: what is not refused has a
// lease to hold, within an expiry that Redis takes.
func FuzzSpans(f *testing.F) {
	for _, d := range []time.Duration{0, 1, -1, time.Millisecond, minLease, 10 * time.Second, longestSpan, longestSpan + 1, math.MaxInt64, math.MinInt64} {
		f.Add(int64(d), int64(0), int64(0), int64(0), int64(time.Second))
		f.Add(int64(10*time.Second), int64(d), int64(d), int64(d), int64(d))
	}
	c, err := New(redis.NewClient(&redis.Options{}))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, lease, lockDelay, minHold, maxHold, renewEvery int64) {
		span := func(n int64) time.Duration { return time.Duration(n) }
		cfg, err := c.configure(key, []LockOption{
			WithLease(span(lease)), WithLockDelay(span(lockDelay)), WithMinHold(span(minHold)), WithMaxHold(span(maxHold)),
			WithRenewEvery(span(renewEvery)), WithFenceRetention(3 * longestSpan),
		})
		if err != nil {
			return
		}
		expiry := cfg.expiry()
		switch {
		case validitySpan(cfg.lease) <= 0 || validitySpan(cfg.lease) >= cfg.lease:
			t.Fatalf("a lease of %s is valid for %s", cfg.lease, validitySpan(cfg.lease))
		case expiry < cfg.lease || wire.Milliseconds(expiry) <= 0 || span(wire.Milliseconds(expiry))*time.Millisecond < expiry:
			t.Fatalf("a lease of %s expires after %s, %d ms", cfg.lease, expiry, wire.Milliseconds(expiry))
		case cfg.operationTimeout() <= 0 && cfg.renewEvery > 1:
			t.Fatalf("an operation has %s where every %s is renewed", cfg.operationTimeout(), cfg.renewEvery)
		}
	})
}

// FuzzIdentities: an identity that is not refused comes back out of its tokens.
func FuzzIdentities(f *testing.F) {
	for _, identity := range []string{"host", "a/b", "", "#", "~x", "a b", "x\x7f", "\xff", "ü", "1.2.stopped"} {
		f.Add(identity, uint64(1), false)
		f.Add(identity, uint64(1)<<53-1, true)
	}
	f.Fuzz(func(t *testing.T, identity string, fence uint64, stopped bool) {
		if validateIdentity(identity) != nil || fence >= 1<<53 {
			return
		}
		want := token{identity: identity, nonce: "0a", sequence: "7", stopped: stopped, fence: fence}
		if got, ok := parseToken(want.String()); !ok || got != want {
			t.Fatalf("%q is read as %+v, %v", want, got, ok)
		}
		if _, ok := parseToken(tombstone + want.String()); ok {
			t.Fatalf("the tombstone of %q is a token", want)
		}
	})
}
