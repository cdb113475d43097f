package redislocktest

import (
	"context"
	"sync"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

func oneHolder(s *stand) {
	first, second := s.client(redislock.WithIdentity("first")), s.client()
	l := s.acquire(first)
	equal(s, s.value(), l.Token(), "what stands at the key")
	s.expires(s.key, 5*time.Minute)
	for _, c := range []*redislock.Client{first, second} {
		for _, opts := range [][]redislock.LockOption{nil, {redislock.WithoutFence()}} {
			held := s.held(c, opts...)
			equal(s, held.Holder, "first", "who holds it")
			equal(s, held.Fence, l.Fence(), "the fencing token of who holds it")
			if held.TTL <= 0 || held.TTL > 5*time.Minute {
				s.Errorf("it is held for %s more", held.TTL)
			}
		}
	}
	state, err := l.Status(s.Context())
	s.must(err, "ask for the lock's status")
	equal(s, state, redislock.Acquired, "its status")
	info, err := second.Inspect(s.Context(), s.key)
	s.must(err, "inspect")
	equal(s, info.Status, redislock.Acquired, "its status to others")
	equal(s, info.HighestFence, l.Fence(), "the highest fencing token")
	s.release(l)
	equal(s, s.value(), "", "what stands at the key after the release")
	s.acquire(second)
}

func oneUnfencedHolder(s *stand) {
	first, second := s.client(), s.client()
	l := s.acquire(first, redislock.WithoutFence())
	s.expires(s.key, 5*time.Minute)
	s.held(second)
	s.held(second, redislock.WithoutFence())
	equal(s, s.value(), l.Token(), "what stands at the key")
	s.release(l)
	s.acquire(second, redislock.WithoutFence())
}

// takingTurns has many callers count without any other protection than the lock.
func takingTurns(s *stand) {
	const processes, callers, turns = 2, 3, 8
	var guarded struct {
		sync.Mutex
		inside  bool
		highest uint64
		count   int
	}
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for range processes {
		c := s.client()
		for range callers {
			wg.Go(func() {
				for range turns {
					l, err := c.Acquire(ctx, s.key, lasting, redislock.WithWait())
					if err != nil {
						s.Errorf("acquire: %v", err)
						return
					}
					guarded.Lock()
					if guarded.inside {
						s.Errorf("two hold the lock")
					}
					if l.Fence() <= guarded.highest {
						s.Errorf("fencing token %d after %d", l.Fence(), guarded.highest)
					}
					guarded.inside, guarded.highest = true, l.Fence()
					guarded.count++
					guarded.Unlock()
					_, _ = l.Status(ctx) // time for others to come in

					guarded.Lock()
					guarded.inside = false
					guarded.Unlock()
					if err := l.Release(ctx); err != nil {
						s.Errorf("release: %v", err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	equal(s, guarded.count, processes*callers*turns, "the turns taken")
}

func foreignLocks(s *stand) {
	c := s.client()
	s.must(s.rdb.SetNX(s.Context(), s.key, "theirs", time.Minute).Err(), "SET NX PX")
	for _, opts := range [][]redislock.LockOption{nil, {redislock.WithoutFence()}} {
		held := s.held(c, opts...)
		equal(s, held.Value, "theirs", "what stands at the key")
		equal(s, held.Holder, "", "who holds it")
	}
	s.must(s.rdb.Persist(s.Context(), s.key).Err(), "PERSIST")
	if held := s.held(c); held.TTL >= 0 {
		s.Errorf("a key without expiry is held for %s more", held.TTL)
	}
	s.must(s.rdb.Del(s.Context(), s.key).Err(), "DEL")
	s.must(s.rdb.HSet(s.Context(), s.key, "them", "1").Err(), "HSET")
	s.held(c)
	s.held(c, redislock.WithoutFence())
	equal(s, s.rdb.HGet(s.Context(), s.key, "them").Val(), "1", "another library's hash")
	s.must(s.rdb.Del(s.Context(), s.key).Err(), "DEL")

	l := s.acquire(c)
	if set, err := s.rdb.SetNX(s.Context(), s.key, "theirs", time.Minute).Result(); err != nil || set {
		s.Errorf("SET NX of another library at a held lock: got %t, %v", set, err)
	}
	s.release(l)
}

func risingFences(s *stand) {
	first, second := s.client(), s.client()
	var highest uint64
	for i := range 6 {
		c := first
		if i%2 == 1 {
			c = second
		}
		floor := uint64(s.now().UnixMicro())
		l := s.acquire(c)
		if l.Fence() <= highest || l.Fence() < floor {
			s.Fatalf("fencing token %d after %d, with the server's time at %d µs", l.Fence(), highest, floor)
		}
		highest = l.Fence()
		s.release(l)
	}
	// The server's time is the floor where the counter is forgotten.
	s.eventually("TIME goes on", func() bool { return uint64(s.now().UnixMicro()) > highest })
	s.must(s.rdb.Del(s.Context(), s.companion("fence")).Err(), "DEL")
	if l := s.acquire(s.client()); l.Fence() <= highest {
		s.Errorf("fencing token %d after %d and the loss of the counter", l.Fence(), highest)
	}
}

func expiry(s *stand) {
	holder, other := s.client(), s.client()
	for _, opts := range [][]redislock.LockOption{nil, {redislock.WithoutFence()}} {
		opts = append(opts, redislock.WithLease(shortly), redislock.WithoutRenewal())
		began := time.Now()
		l := s.acquire(holder, opts...)
		s.eventually("a lock that nobody renews expires", func() bool { return s.value() == "" })
		if took := time.Since(began); took < shortly {
			s.Errorf("a lock for %s is gone after %s", shortly, took)
		}
		if l.IsHeld() {
			s.Errorf("its key is gone and the lease is not over")
		}
		s.release(s.acquire(other))
	}
}

// serverTime compares the clock by which keys expire with the one that is told.
func serverTime(s *stand) {
	const life = 10 * time.Minute
	began := s.now()
	s.must(s.rdb.Set(s.Context(), s.key, "x", life).Err(), "SET PX")
	set := s.now()
	s.eventually("TIME goes on", func() bool { return s.now().Sub(set) >= shortly })
	before := s.now()
	ttl := s.expires(s.key, life)
	after := s.now()
	// Redis counts whole milliseconds.
	least, most := life-after.Sub(began)-2*time.Millisecond, life-before.Sub(set)+2*time.Millisecond
	if ttl < least || ttl > most {
		s.Errorf("%s after it was set for %s a key has %s left: TIME and expiry go by two clocks", before.Sub(set), life, ttl)
	}
}

// everythingExpires: nothing is left behind for ever.
func everythingExpires(s *stand) {
	c := s.client()
	l := s.acquire(c, redislock.WithHistory(5), redislock.WithFenceRetention(time.Hour))
	_, err := c.Announce(s.Context(), s.key, "candidate", time.Minute)
	s.must(err, "announce")
	_, err = l.Claim(s.Context(), redislock.ClaimRequest{Run: redislock.Run{ID: "run"}, Claimant: "claimant", Retention: time.Hour})
	s.must(err, "claim")
	s.expires(s.key, 5*time.Minute)
	s.expires(s.companion("fence"), time.Hour)
	s.expires(s.companion("history"), time.Hour)
	s.expires(s.companion("runs"), 2*time.Hour)
	s.expires(s.companion("candidates"), time.Minute)
}

func extension(s *stand) {
	c := s.client()
	l := s.acquire(c, redislock.WithoutRenewal())
	s.must(l.Extend(s.Context(), time.Hour), "extend")
	if ttl := s.expires(s.key, time.Hour); ttl < 50*time.Minute {
		s.Errorf("extended to an hour it has %s left", ttl)
	}
	s.must(l.Extend(s.Context(), time.Second), "extend by less than there is")
	if ttl := s.expires(s.key, time.Hour); ttl < 50*time.Minute {
		s.Errorf("an extension has shortened the expiry to %s", ttl)
	}

	s.must(s.rdb.Set(s.Context(), s.key, "theirs", time.Minute).Err(), "SET")
	s.is(l.Extend(s.Context(), time.Hour), redislock.ErrLost, "extend what another has")
	equal(s, s.value(), "theirs", "what stands at another's key")
	s.expires(s.key, time.Minute)

	s.must(s.rdb.Del(s.Context(), s.key).Err(), "DEL")
	l = s.acquire(c, redislock.WithoutRenewal())
	s.must(s.rdb.Del(s.Context(), s.key).Err(), "DEL")
	s.is(l.Extend(s.Context(), time.Hour), redislock.ErrLost, "extend what is gone")
	equal(s, s.value(), "", "what an extension made of a key that is gone")
}

// observed tells of renewals.
func observed() (redislock.Option, <-chan error) {
	told := make(chan error, 1000)
	return redislock.WithObserver(redislock.Observer{Renewed: func(_ string, _ time.Duration, err error) {
		select {
		case told <- err:
		default:
		}
	}}), told
}

// awaitRenewals waits for so many renewals that work. One that does not is tried
// again while the lease lasts.
func (s *stand) awaitRenewals(n int, told <-chan error) {
	s.Helper()
	var last error
	for len(told) > 0 {
		last = <-told
	}
	for timeout := time.After(2 * patience); n > 0; {
		select {
		case err := <-told:
			if err == nil {
				n--
			} else {
				last = err
			}
		case <-timeout:
			s.Fatalf("%d renewals are missing after %s; the last error: %v", n, 2*patience, last)
		}
	}
}

// often renews a lasting lease a few times within a check. Half of it is all the
// time that one operation has.
var often = redislock.WithRenewEvery(3 * time.Second)

func renewal(s *stand) {
	observer, told := observed()
	l := s.acquire(s.client(observer), often)
	s.must(s.rdb.PExpire(s.Context(), s.key, time.Minute).Err(), "PEXPIRE")
	s.awaitRenewals(2, told) // one may have been sent before the PEXPIRE
	if ttl := s.expires(s.key, 5*time.Minute); ttl < 2*time.Minute {
		s.Errorf("renewed for five minutes it has %s left", ttl)
	}
	ctx := l.Context()
	s.must(s.rdb.Set(s.Context(), s.key, "theirs", time.Minute).Err(), "SET")
	select {
	case <-ctx.Done():
		s.is(context.Cause(ctx), redislock.ErrLost, "why the lock's context ended")
	case <-time.After(patience):
		s.Fatalf("a holder whose key another has was not told in %s", patience)
	}
	equal(s, s.value(), "theirs", "what stands at another's key")
}

func release(s *stand) {
	c := s.client()
	for name, opts := range map[string][]redislock.LockOption{"fenced": nil, "unfenced": {redislock.WithoutFence()}} {
		l := s.acquire(c, opts...)
		s.release(l)
		equal(s, s.value(), "", "what stands at the key of a released lock, "+name)
		next := s.acquire(c, opts...)
		s.release(l) // it is idempotent, and about its own grant
		equal(s, s.value(), next.Token(), "what stands at the key after the release of an older grant, "+name)
		s.must(s.rdb.Set(s.Context(), s.key, "theirs", time.Minute).Err(), "SET")
		s.is(next.Release(s.Context()), redislock.ErrLost, "release what another has")
		equal(s, s.value(), "theirs", "what stands at another's key")
		s.must(s.rdb.Del(s.Context(), s.key).Err(), "DEL")
	}
}

func minimumHold(s *stand) {
	const least = time.Second
	c := s.client()
	began := time.Now()
	l := s.acquire(c, redislock.WithMinHold(least))
	s.release(l)
	if time.Since(began) < least/2 {
		if held := s.held(c); !held.Free() {
			s.Errorf("a released lock in its minimum hold is held with %q at its key", held.Value)
		}
		if _, err := c.Adopt(s.Context(), s.key, l.Token()); err == nil {
			s.Errorf("a released lock in its minimum hold was adopted")
		}
	}
	s.eventually("a minimum hold ends", func() bool { return s.value() == "" })
	if took := time.Since(began); took < least {
		s.Errorf("a minimum hold of %s was over after %s", least, took)
	}
	s.acquire(c)
}

func adoption(s *stand) {
	for name, opts := range map[string][]redislock.LockOption{"fenced": nil, "unfenced": {redislock.WithoutFence()}} {
		first, second := s.client(), s.client()
		l := s.acquire(first, append(opts, redislock.WithoutRenewal())...)
		token, err := l.Detach(s.Context())
		s.must(err, "detach, "+name)
		equal(s, s.value(), token, "what stands at the key of a detached lock, "+name)
		adopted, err := second.Adopt(s.Context(), s.key, token, lasting)
		s.must(err, "adopt, "+name)
		equal(s, adopted.Fence(), l.Fence(), "the fencing token of what was adopted, "+name)
		equal(s, s.value(), adopted.Token(), "what stands at the key of an adopted lock, "+name)
		s.expires(s.key, 5*time.Minute)
		for _, stale := range []string{token, l.Token()} {
			_, err = first.Adopt(s.Context(), s.key, stale)
			s.is(err, redislock.ErrMismatch, "adopt by a stale token, "+name)
		}
		equal(s, s.value(), adopted.Token(), "what stands at the key after stale adoptions, "+name)
		s.release(adopted)
		_, err = first.Adopt(s.Context(), s.key, token)
		s.is(err, redislock.ErrMismatch, "adopt what is gone, "+name)
		equal(s, s.value(), "", "what an adoption made of a key that is gone, "+name)
	}
}

func force(s *stand) {
	c := s.client()
	l := s.acquire(c)
	_, err := c.ForceRelease(s.Context(), s.key, l.Fence()+1)
	s.is(err, redislock.ErrMismatch, "force by another fencing token")
	equal(s, s.value(), l.Token(), "what stands at the key after force by another fencing token")
	done, err := c.ForceRelease(s.Context(), s.key, l.Fence())
	s.must(err, "force")
	equal(s, done, true, "whether it was released by force")
	if held := s.held(c); !held.Free() {
		s.Errorf("a lock released by force is held with %q at its key", held.Value)
	}
	s.expires(s.key, 5*time.Minute)
	s.must(s.rdb.Del(s.Context(), s.key).Err(), "DEL")

	l = s.acquire(c)
	done, err = c.ForceRelease(s.Context(), s.key, l.Fence(), redislock.Immediately())
	s.must(err, "force at once")
	equal(s, done, true, "whether it was released by force at once")
	equal(s, s.value(), "", "what stands at the key after force at once")
	done, err = c.ForceRelease(s.Context(), s.key, l.Fence())
	s.must(err, "force on a free lock")
	equal(s, done, false, "whether a free lock was released by force")

	s.must(s.rdb.Set(s.Context(), s.key, "theirs", time.Minute).Err(), "SET")
	_, err = c.ForceReleaseValue(s.Context(), s.key, "another's")
	s.is(err, redislock.ErrMismatch, "force by another value")
	done, err = c.ForceReleaseValue(s.Context(), s.key, "theirs", redislock.Immediately())
	s.must(err, "force by value")
	equal(s, done, true, "whether another library's lock was released by force")
	s.acquire(c)
}

func runs(s *stand) {
	ctx, c := s.Context(), s.client()
	l := s.acquire(c)
	tick := s.now().Truncate(time.Second).Add(-time.Hour)
	run := redislock.Run{Series: "series", Tick: tick}
	claim := func(l *redislock.Lock, run redislock.Run, who string) (redislock.Claim, error) {
		return l.Claim(ctx, redislock.ClaimRequest{Run: run, Claimant: who})
	}
	refused := func(err error, why redislock.ClaimRefusal) {
		s.Helper()
		s.is(err, redislock.ErrNotClaimed, "claim what is "+string(why))
	}
	first, err := claim(l, run, "a")
	s.must(err, "claim")
	equal(s, first.Kind, redislock.ClaimNew, "the kind of a first claim")
	if first.Fence <= l.Fence() {
		s.Errorf("fencing token %d of a run under %d", first.Fence, l.Fence())
	}
	again, err := claim(l, run, "a")
	s.must(err, "claim again")
	equal(s, again, redislock.Claim{Fence: first.Fence, Kind: redislock.ClaimAgain}, "a claim that is repeated")
	_, err = claim(l, redislock.Run{ID: "other"}, "a")
	refused(err, redislock.RunActive)
	s.release(l)

	// It is recorded though its lock is gone, once, and never handed out again.
	finished, err := c.FinishRun(ctx, s.key, run, first.Fence, "ok", true)
	s.must(err, "finish")
	equal(s, finished, redislock.FinishDone, "the answer to finish")
	finished, err = c.FinishRun(ctx, s.key, run, first.Fence, "ok", true)
	s.must(err, "finish again")
	equal(s, finished, redislock.FinishAlready, "the answer to finish again")
	l = s.acquire(s.client())
	_, err = claim(l, run, "b")
	refused(err, redislock.RunDone)
	older := redislock.Run{Series: "series", Tick: tick.Add(-time.Minute)}
	_, err = claim(l, older, "b")
	refused(err, redislock.RunSuperseded)

	next := redislock.Run{Series: "series", Tick: tick.Add(time.Minute)}
	second, err := claim(l, next, "b")
	s.must(err, "claim the next tick")
	if second.Fence <= l.Fence() || second.Fence <= first.Fence {
		s.Errorf("fencing token %d of a run after %d, under %d", second.Fence, first.Fence, l.Fence())
	}
	reopened, err := c.ReopenRun(ctx, s.key, next, second.Fence)
	s.must(err, "reopen")
	equal(s, reopened, redislock.Reopened, "the answer to reopen")
	third, err := claim(l, next, "c")
	s.must(err, "claim what was reopened")
	equal(s, third.Kind, redislock.ClaimNew, "the kind of a claim of what was reopened")
	finished, err = c.FinishRun(ctx, s.key, next, second.Fence, "late", false)
	s.must(err, "finish a superseded claim")
	equal(s, finished, redislock.FinishSuperseded, "the answer to finish of a superseded claim")

	known, err := c.Runs(ctx, s.key)
	s.must(err, "list runs")
	if len(known.Ticks) != 2 || known.Ticks[0].State != redislock.TickDone || known.Ticks[1].Fence != third.Fence ||
		len(known.Active) != 1 || known.LastSuccess["series"].IsZero() || known.Unreadable != 0 {
		s.Errorf("the records are %+v", known)
	}
}

func candidates(s *stand) {
	c := s.client()
	for _, name := range []string{"a", "b"} {
		_, err := c.Announce(s.Context(), s.key, name, time.Minute)
		s.must(err, "announce")
	}
	_, err := c.Announce(s.Context(), s.key, "brief", shortly)
	s.must(err, "announce")
	s.must(c.Withdraw(s.Context(), s.key, "b"), "withdraw")
	s.eventually("an announcement lapses, and only that", func() bool {
		present, err := c.Announce(s.Context(), s.key, "", 0)
		s.must(err, "read announcements")
		if _, ok := present["a"]; !ok {
			s.Fatalf("an announcement for a minute is gone")
		}
		return len(present) == 1
	})
}

func history(s *stand) {
	c := s.client(redislock.WithIdentity("me"))
	var fences []uint64
	for range 3 {
		l := s.acquire(c, redislock.WithHistory(2))
		fences = append(fences, l.Fence())
		s.release(l)
	}
	info, err := c.Inspect(s.Context(), s.key)
	s.must(err, "inspect")
	equal(s, len(info.History), 2, "the length of the history")
	for i, grant := range info.History {
		equal(s, grant.Fence, fences[2-i], "a fencing token in the history")
		equal(s, grant.Holder, "me", "a holder in the history")
	}
}
