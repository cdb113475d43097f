package redislocktest

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Bounds for what a store does by itself. A store that conforms is not waited for so
// long; one that does not is found out however slow its machine is.
const (
	patience = 30 * time.Second
	polling  = 2 * time.Millisecond
)

// shortly is the time to live of what a check waits for to expire. A quarter of it is
// all the time that one operation of such a lock has.
const shortly = 2 * time.Second

// Conformance runs a test of its own for each thing that locks need of a store:
// what each operation promises, expiry, the server's time, pub/sub, the loss of
// scripts, and keys on the nodes of a Cluster.
//
// connect returns a new connection to the store, as another process has; it sees to
// it that it is closed with the test. The store need not be empty: all keys are new,
// begin with "lock:conformance:" and expire. The connections may do what locks do,
// and SCRIPT FLUSH.
func Conformance(t *testing.T, connect func(testing.TB) redis.UniversalClient) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if !c.alone {
				t.Parallel()
			}
			c.run(newStand(t, connect))
		})
	}
}

// A check finds out one thing about a store.
type check struct {
	name  string
	run   func(*stand)
	alone bool // it disturbs others on the same store
}

var checks = []check{
	{"a lock has one holder", oneHolder, false},
	{"an unfenced lock has one holder", oneUnfencedHolder, false},
	{"callers at once take turns", takingTurns, false},
	{"locks of other libraries are respected", foreignLocks, false},
	{"fencing tokens rise", risingFences, false},
	{"what expires is gone, in its time", expiry, false},
	{"the server's time goes on", serverTime, false},
	{"all that is written expires", everythingExpires, false},
	{"an extension prolongs, and creates nothing", extension, false},
	{"renewal goes on by itself", renewal, false},
	{"a release frees its own grant only", release, false},
	{"a minimum hold is kept", minimumHold, false},
	{"adoption compares and swaps", adoption, false},
	{"force is aimed at one grant", force, false},
	{"runs are done once", runs, false},
	{"candidates see each other", candidates, false},
	{"history is kept", history, false},
	{"a semaphore has so many permits", permits, false},
	{"readers share, a writer does not", readersAndWriter, false},
	{"who waits in order of arrival gets in so", orderOfArrival, false},
	{"many calls are one run", debounced, false},
	{"a run is taken over", debouncedRuns, false},
	{"a release is announced", announcement, false},
	{"a waiter is woken", wakeUp, false},
	{"repeated requests change nothing", repeatedRequests, false},
	{"late requests change nothing", lateRequests, false},
	{"lost scripts are sent again", lostScripts, true},
	{"lost data is noticed", lostData, false},
	{"keys of all slots work", slots, false},
}

// A stand is what one check works with.
type stand struct {
	testing.TB
	connect func(testing.TB) redis.UniversalClient
	rdb     redis.UniversalClient
	key     string
}

func newStand(tb testing.TB, connect func(testing.TB) redis.UniversalClient) *stand {
	tb.Helper()
	return &stand{TB: tb, connect: connect, rdb: connect(tb), key: "lock:conformance:" + strings.ToLower(rand.Text())}
}

// companion names what belongs to the check's lock, as package redislock lays it
// out.
func (s *stand) companion(name string) string { return "{" + s.key + "}:" + name }

// client returns a lock client as a process of its own has one.
func (s *stand) client(opts ...redislock.Option) *redislock.Client {
	s.Helper()
	return s.clientOn(s.connect(s), opts...)
}

func (s *stand) clientOn(rdb redis.UniversalClient, opts ...redislock.Option) *redislock.Client {
	s.Helper()
	c, err := redislock.New(rdb, opts...)
	s.must(err, "make a lock client")
	s.Cleanup(func() { closeNow(c) })
	return c
}

// lasting is a lease that outlives the check, however loaded the machine.
var lasting = redislock.WithLease(5 * time.Minute)

// acquire takes the check's lock, which is free.
func (s *stand) acquire(c *redislock.Client, opts ...redislock.LockOption) *redislock.Lock {
	s.Helper()
	return s.acquireKey(c, s.key, opts...)
}

func (s *stand) acquireKey(c *redislock.Client, key string, opts ...redislock.LockOption) *redislock.Lock {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	l, err := c.Acquire(ctx, key, append([]redislock.LockOption{lasting}, opts...)...)
	s.must(err, "acquire a free lock")
	return l
}

// held tries to take the check's lock, which somebody has.
func (s *stand) held(c *redislock.Client, opts ...redislock.LockOption) redislock.HeldError {
	s.Helper()
	_, err := c.TryAcquire(s.Context(), s.key, append([]redislock.LockOption{lasting}, opts...)...)
	held, ok := errors.AsType[*redislock.HeldError](err)
	if !ok {
		s.Fatalf("acquire a held lock: got %v, want a *HeldError", err)
	}
	return *held
}

func (s *stand) release(l *redislock.Lock) {
	s.Helper()
	s.must(l.Release(s.Context()), "release")
}

// value is what stands at the check's key; empty where there is nothing.
func (s *stand) value() string {
	s.Helper()
	v, err := s.rdb.Get(s.Context(), s.key).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		s.Fatalf("GET %q: %v", s.key, err)
	}
	return v
}

// expires checks that a key's time to live lies between 0 and at most, and returns
// it.
func (s *stand) expires(key string, atMost time.Duration) time.Duration {
	s.Helper()
	ttl, err := s.rdb.PTTL(s.Context(), key).Result()
	s.must(err, "PTTL "+key)
	if ttl <= 0 || ttl > atMost {
		s.Fatalf("the time to live of %q is %d, want one up to %s", key, ttl, atMost)
	}
	return ttl
}

// now is the server's time; in a Cluster, that of the node that has the check's lock.
func (s *stand) now() time.Time {
	s.Helper()
	t, err := s.rdb.Eval(s.Context(), "return redis.call('TIME')", []string{s.key}).StringSlice()
	s.must(err, "TIME")
	if len(t) != 2 {
		s.Fatalf("TIME: got %q", t)
	}
	seconds, err := strconv.ParseInt(t[0], 10, 64)
	s.must(err, "TIME")
	micros, err := strconv.ParseInt(t[1], 10, 64)
	s.must(err, "TIME")
	return time.Unix(seconds, micros*1000)
}

func (s *stand) must(err error, what string) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// is checks that an error is of a kind.
func (s *stand) is(err, kind error, what string) {
	s.Helper()
	if !errors.Is(err, kind) {
		s.Fatalf("%s: got error %v, want %q", what, err, kind)
	}
}

// equal checks a value.
func equal[T comparable](s *stand, got, want T, what string) {
	s.Helper()
	if got != want {
		s.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// eventually waits until something is so.
func (s *stand) eventually(what string, so func() bool) {
	s.Helper()
	for started := time.Now(); !so(); time.Sleep(polling) {
		if time.Since(started) > patience {
			s.Fatalf("not within %s: %s", patience, what)
		}
	}
}
