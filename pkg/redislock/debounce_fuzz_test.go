package redislock

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// FuzzDebounceReplies has each operation of a debounce answered with anything: none
// panics or spins, and none takes for a call that was recorded, or for a run, what does
// not say so.
func FuzzDebounceReplies(f *testing.F) {
	now := int(time.Now().UnixMicro())
	state := encode("7", 1, 0, now, now, now, now, 1)
	for _, word := range words {
		f.Add(encode(word))
		f.Add(encode(word, now, now, 1))
		f.Add(encode(word, "key", now))
		f.Add(slices.Concat([]byte{7, 5}, encode(word)[2:], encode(now, now)[2:], state, encode(word)[2:]))
		f.Add(encode(word, -1, -1, -1))
	}
	f.Add([]byte{6})
	f.Fuzz(func(t *testing.T, data []byte) {
		next, _ := decode(data, 0)
		fields, err := parseReply(next)
		if err != nil {
			fields = nil
		}
		in := func(words ...string) bool { return slices.Contains(words, fields.word()) }
		a := &anything{}
		rdb := redis.NewClient(&redis.Options{MaxRetries: -1})
		rdb.AddHook(a)
		c, err := New(rdb)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = c.Close(canceled())
			_ = rdb.Close()
		}()
		d, err := c.Debouncer(debounceKey, Debounce{})
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		a.set(next)

		call, err := d.Call(ctx, nil)
		switch {
		case err == nil && (!in("recorded", "again") || call.Generation == 0 || call.Generation > math.MaxInt64):
			t.Fatalf("call %+v was read into %v", call, next)
		case err == nil && call.Again != in("again"):
			t.Fatalf("call %+v was read into %v", call, next)
		case err != nil && errors.Is(err, ErrCorrupt) != in("corrupt"):
			t.Fatalf("%v was read into %v", err, next)
		}
		if s, err := d.State(ctx); err == nil && (!in("state") || s.Waiting < 0 || s.Lost) {
			t.Fatalf("state %+v was read into %v", s, next)
		}
		look, err := d.claim(ctx, 0)
		if err == nil && (!in("claimed", "resumed", "taken", "busy", "waiting", "idle", "over") || look.claimed() && look.state.Running == nil) {
			t.Fatalf("%+v was read into %v", look, next)
		}
		if err != nil {
			return
		}
		d.tell(look.state)
		d.tell(look.state)
		if pause := d.until(look); pause < 0 {
			t.Fatalf("a pause of %s was read into %v", pause, next)
		}
		if !look.claimed() {
			return
		}
		ran := false
		ended, end := context.WithCancel(ctx)
		d.perform(ended, look, func(ctx context.Context, r DebounceRun) error {
			ran = true
			if r.Generation == 0 || r.Generation > math.MaxInt64 || r.Calls < 0 {
				t.Fatalf("run %+v was read into %v", r, next)
			}
			if err := r.SetLease(ctx, time.Hour); err == nil {
				t.Fatalf("an extension was read into %v", next)
			}
			end()
			return nil
		})
		if !ran {
			t.Fatalf("%v was not run", look.state.Running)
		}
	})
}

// FuzzCalls: what is not refused is recorded once, and its payload comes out as it went
// in.
func FuzzCalls(f *testing.F) {
	f.Add("webhook", uint64(1), []byte("payload"))
	f.Add("", uint64(0), []byte(nil))
	f.Add("7 8", uint64(1)<<53-1, []byte{0, 0xff, '\n'})
	f.Add("ü", uint64(1)<<53, []byte(strings.Repeat("x", MaxPayload+1)))
	f.Add("s:p:%d+", uint64(math.MaxUint64), []byte("%s"))
	server := startRedis(f)
	rdb := connect(f, server.URL())
	c := newClient(f, rdb)
	f.Fuzz(func(t *testing.T, source string, sequence uint64, payload []byte) {
		if err := rdb.Del(t.Context(), debounceKeys...).Err(); err != nil {
			t.Fatal(err)
		}
		d, err := c.Debouncer(debounceKey, Debounce{Edge: Leading})
		if err != nil {
			t.Fatal(err)
		}
		call, err := d.Call(t.Context(), payload, WithSequence(source, sequence))
		good := validateName("source", source) == nil && sequence < 1<<53 && len(payload) <= MaxPayload
		switch {
		case good != (err == nil):
			t.Fatalf("source %q, sequence %d, payload of %d bytes: %v", source, sequence, len(payload), err)
		case err != nil && !errors.Is(err, ErrInvalid):
			t.Fatal(err)
		case err != nil:
			return
		}
		again, err := d.Call(t.Context(), []byte("else"), WithSequence(source, sequence))
		if err != nil || !again.Again || again.Generation != call.Generation {
			t.Fatalf("%+v, %v after %+v", again, err, call)
		}
		look, err := d.claim(t.Context(), 0)
		if err != nil || !look.claimed() || look.payload != string(payload) || look.state.Running.Calls != 1 {
			t.Fatalf("%+v, %v", look, err)
		}
	})
}
