package redislocktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// announcement: who listens hears of a release.
func announcement(s *stand) {
	listener := s.rdb.Subscribe(s.Context(), s.companion("wake"))
	defer func() { _ = listener.Close() }()
	_, err := listener.ReceiveTimeout(s.Context(), patience)
	s.must(err, "SUBSCRIBE")
	s.release(s.acquire(s.client()))
	message, err := listener.ReceiveTimeout(s.Context(), patience)
	s.must(err, "hear of a release")
	if _, ok := message.(*redis.Message); !ok {
		s.Errorf("got %v, want a message", message)
	}
}

func wakeUp(s *stand) {
	l := s.acquire(s.client())
	tries := make(chan error, 100)
	acquired := make(chan error, 1)
	waiter := s.client()
	ctx, cancel := context.WithTimeout(s.Context(), 2*patience)
	defer cancel()
	go func() {
		_, err := waiter.Acquire(ctx, s.key, lasting, redislock.WithWait(), redislock.OnRefusal(func(err error) { tries <- err }))
		acquired <- err
	}()
	for range 2 { // the second is made when its subscription is confirmed, or soon after
		select {
		case err := <-tries:
			s.is(err, redislock.ErrNotAcquired, "wait for a held lock")
		case <-time.After(patience):
			s.Fatalf("a waiter did not try twice in %s", patience)
		}
	}
	s.release(l)
	select {
	case err := <-acquired:
		s.must(err, "wait for a lock that is released")
	case <-time.After(patience):
		s.Fatalf("a waiter did not notice a release in %s", patience)
	}
}

// A recorder is a connection's hook that remembers the scripts that were run, and
// repeats each at once where it is told to.
type recorder struct {
	repeat bool

	mu       sync.Mutex
	commands [][]any
}

func (r *recorder) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (r *recorder) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (r *recorder) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if name := cmd.Name(); name != "evalsha" && name != "eval" || err != nil {
			return err
		}
		r.mu.Lock()
		r.commands = append(r.commands, cmd.Args())
		r.mu.Unlock()
		if r.repeat {
			return next(ctx, cmd) // the caller hears the second answer
		}
		return nil
	}
}

// all returns what was recorded since the last call.
func (r *recorder) all() [][]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	recorded := r.commands
	r.commands = nil
	return recorded
}

// repeatedRequests has each request carried out twice, and answered with what came
// of the second.
func repeatedRequests(s *stand) {
	ctx, rdb := s.Context(), s.connect(s)
	rdb.AddHook(&recorder{repeat: true})
	c, other := s.clientOn(rdb), s.client()
	l := s.acquire(c, redislock.WithHistory(10), redislock.WithoutRenewal())
	equal(s, s.value(), l.Token(), "what stands at the key")
	info, err := other.Inspect(ctx, s.key)
	s.must(err, "inspect")
	equal(s, len(info.History), 1, "the grants in the history")
	equal(s, info.HighestFence, l.Fence(), "the highest fencing token")

	s.must(l.Extend(ctx, time.Hour), "extend twice")
	run := redislock.Run{ID: "run"}
	claim, err := l.Claim(ctx, redislock.ClaimRequest{Run: run, Claimant: "a"})
	s.must(err, "claim twice")
	equal(s, claim.Kind, redislock.ClaimAgain, "the kind of a claim that was repeated")
	finished, err := c.FinishRun(ctx, s.key, run, claim.Fence, "ok", true)
	s.must(err, "finish twice")
	equal(s, finished, redislock.FinishAlready, "the answer to a finish that was repeated")
	token, err := l.Detach(ctx)
	s.must(err, "detach twice")
	adopted, err := c.Adopt(ctx, s.key, token, lasting)
	s.must(err, "adopt twice")
	equal(s, adopted.Fence(), l.Fence(), "the fencing token of what was adopted")
	s.must(adopted.Release(ctx), "release twice")
	equal(s, s.value(), "", "what stands at the key after the release")
	s.acquire(other)
}

// lateRequests sends all that a grant's holder ever sent once more, after the grant
// is over and the lock another's.
func lateRequests(s *stand) {
	ctx, rdb := s.Context(), s.connect(s)
	late := &recorder{}
	rdb.AddHook(late)
	c, other := s.clientOn(rdb), s.client()
	l := s.acquire(c, redislock.WithMinHold(time.Second), redislock.WithoutRenewal())
	acquires := late.all()
	s.must(l.Extend(ctx, time.Hour), "extend")
	token, err := l.Detach(ctx)
	s.must(err, "detach")
	adopted, err := c.Adopt(ctx, s.key, token, lasting)
	s.must(err, "adopt")
	_, err = c.ForceRelease(ctx, s.key, adopted.Fence(), redislock.Immediately())
	s.must(err, "force")
	s.is(adopted.Extend(ctx, time.Hour), redislock.ErrLost, "extend what was released by force")
	others := late.all()
	l = s.acquire(c, redislock.WithoutRenewal())
	acquires = append(acquires, late.all()...)
	s.release(l)
	others = append(others, late.all()...)

	next := s.acquire(other, redislock.WithoutRenewal())
	before := s.expires(s.key, 5*time.Minute)
	repeat := func(command []any, want, when string) {
		s.Helper()
		s.must(ignoreNil(s.rdb.Do(ctx, command...).Err()), fmt.Sprint("repeat ", command[0]))
		equal(s, s.value(), want, fmt.Sprintf("what stands at the key %s after a late %.60v", when, command[3:]))
	}
	for _, command := range slices.Concat(acquires, others) {
		repeat(command, next.Token(), "of a held lock")
	}
	if after := s.expires(s.key, before); after < before-patience {
		s.Errorf("late requests cut the expiry from %s to %s", before, after)
	}
	if len(acquires) < 2 || len(others) < 5 {
		s.Errorf("only %d and %d requests were recorded", len(acquires), len(others))
	}
	s.release(next)
	// Nothing comes to life again, but for the acquire of an attempt that may still
	// be under way.
	for _, command := range others {
		repeat(command, "", "of a free lock")
	}
}

func ignoreNil(err error) error {
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// lostScripts has the store forget the scripts before each operation.
func lostScripts(s *stand) {
	ctx := s.Context()
	forget := func() {
		s.Helper()
		s.must(s.rdb.ScriptFlush(ctx).Err(), "SCRIPT FLUSH")
	}
	observer, told := observed()
	c := s.client(observer)
	forget()
	l := s.acquire(c, often, redislock.WithHistory(1))
	forget()
	s.awaitRenewals(1, told) // in a pipeline
	forget()
	s.must(l.Extend(ctx, time.Hour), "extend")
	forget()
	claim, err := l.Claim(ctx, redislock.ClaimRequest{Run: redislock.Run{ID: "run"}, Claimant: "a"})
	s.must(err, "claim")
	forget()
	_, err = c.ReopenRun(ctx, s.key, redislock.Run{ID: "run"}, claim.Fence)
	s.must(err, "reopen")
	forget()
	_, err = c.FinishRun(ctx, s.key, redislock.Run{ID: "run"}, claim.Fence, "ok", true)
	s.must(err, "finish")
	forget()
	_, err = c.Runs(ctx, s.key)
	s.must(err, "list runs")
	forget()
	_, err = c.Announce(ctx, s.key, "a", time.Minute)
	s.must(err, "announce")
	forget()
	_, err = c.Inspect(ctx, s.key)
	s.must(err, "inspect")
	forget()
	token, err := l.Detach(ctx)
	s.must(err, "detach")
	forget()
	l, err = c.Adopt(ctx, s.key, token, lasting)
	s.must(err, "adopt")
	forget()
	_, err = c.ForceRelease(ctx, s.key, l.Fence(), redislock.Immediately())
	s.must(err, "force")
	forget()
	l = s.acquire(c)
	forget()
	s.release(l)
}

// lostData deletes what a caller remembers, which is what a flush or the promotion
// of a replica that lags looks like.
func lostData(s *stand) {
	c := s.client()
	l := s.acquire(c, redislock.WithLease(shortly), redislock.WithoutRenewal())
	s.must(s.rdb.Del(s.Context(), s.key, s.companion("fence")).Err(), "DEL")
	began := time.Now()
	_, err := c.Acquire(s.Context(), s.key, redislock.WithLease(shortly), redislock.WithoutRenewal())
	if _, ok := errors.AsType[*redislock.QuarantineError](err); !ok {
		s.Fatalf("acquire after data was lost: got %v, want a *QuarantineError", err)
	}
	next := s.acquire(c, redislock.WithLease(shortly), redislock.WithWait())
	if took := time.Since(began); took < shortly {
		s.Errorf("a quarantine of %s was over after %s", shortly, took)
	}
	if next.Fence() <= l.Fence() {
		s.Errorf("fencing token %d after %d and the loss of the counter", next.Fence(), l.Fence())
	}
}

// slots uses keys that a Cluster keeps on different nodes, and some with a hash tag.
func slots(s *stand) {
	observer, told := observed()
	c := s.client(observer)
	var locks []*redislock.Lock
	keys := []string{s.key + "{tag}", "{" + s.key + "}", s.key + "{" + s.key + "}:x"}
	for i := range 24 {
		keys = append(keys, fmt.Sprint(s.key, ":", i))
	}
	for _, key := range keys {
		l := s.acquireKey(c, key, often, redislock.WithHistory(1))
		locks = append(locks, l)
		if _, err := l.Claim(s.Context(), redislock.ClaimRequest{Run: redislock.Run{ID: "run"}, Claimant: "a"}); err != nil {
			s.Fatalf("claim under %q: %v", key, err)
		}
		if _, err := c.Announce(s.Context(), key, "a", time.Minute); err != nil {
			s.Fatalf("announce for %q: %v", key, err)
		}
	}
	s.awaitRenewals(2*len(keys), told)
	fences := map[uint64]bool{}
	for _, l := range locks {
		info, err := c.Inspect(s.Context(), l.Key())
		s.must(err, "inspect")
		equal(s, info.HighestFence >= l.Fence(), true, "whether the lock has a counter of its own")
		equal(s, len(info.History), 1, "the length of its history")
		fences[l.Fence()] = true
		s.must(l.Release(s.Context()), "release")
	}
}
