package redislocktest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
)

// A verdict is a test that may fail: it takes note of that instead.
type verdict struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (v *verdict) Helper()                  {}
func (v *verdict) Context() context.Context { return context.Background() }

func (v *verdict) Cleanup(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cleanups = append(v.cleanups, f)
}

func (v *verdict) Errorf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failures = append(v.failures, fmt.Sprintf(format, args...))
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.Errorf(format, args...)
	runtime.Goexit()
}

// judge runs a check against a server of its own that a sabotage has been done to,
// and returns what the check found.
func judge(c check, s sabotage) []string {
	v := &verdict{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, f := range slices.Backward(v.cleanups) {
				f()
			}
		}()
		store := New(v)
		if s != nil {
			store.commands.SetPreHook(func(peer *server.Peer, cmd string, args ...string) bool { return s(store, peer, cmd, args) })
		}
		c.run(newStand(v, func(testing.TB) redis.UniversalClient { return store.Redis() }))
	}()
	<-done
	return v.failures
}

// A sabotage gets to see each command, those of scripts too. It says true where it
// has answered.
type sabotage func(s *Server, peer *server.Peer, cmd string, args []string) bool

// instead has another command carried out.
func instead(s *Server, peer *server.Peer, cmd string, args []string) bool {
	s.commands.Dispatch(peer, append([]string{cmd}, args...))
	return true
}

// option returns where an option stands among a command's arguments; -1 where it
// does not.
func option(args []string, name string) int {
	return slices.IndexFunc(args, func(arg string) bool { return strings.EqualFold(arg, name) })
}

// scaled multiplies an argument by a factor.
func scaled(arg string, factor float64) string {
	n, _ := strconv.ParseFloat(arg, 64)
	return strconv.FormatInt(int64(n*factor), 10)
}

// silently answers commands as if they had been carried out.
func silently(answer func(*server.Peer), cmds ...string) sabotage {
	return func(_ *Server, peer *server.Peer, cmd string, _ []string) bool {
		if !slices.Contains(cmds, cmd) {
			return false
		}
		answer(peer)
		return true
	}
}

func expiryOfSet(factor float64) sabotage {
	return func(_ *Server, _ *server.Peer, cmd string, args []string) bool {
		for _, unit := range []string{"PX", "EX"} {
			if i := option(args, unit); cmd == "SET" && i >= 0 && i+1 < len(args) {
				args[i+1] = scaled(args[i+1], factor)
			}
		}
		return false
	}
}

func one(peer *server.Peer) { peer.WriteInt(1) }

var sabotages = map[string]struct {
	do sabotage
	// found: the checks that have to find out.
	found []string
}{
	"NX is ignored": {func(s *Server, peer *server.Peer, cmd string, args []string) bool {
		if i := option(args, "NX"); cmd == "SET" && i >= 0 {
			return instead(s, peer, cmd, slices.Delete(slices.Clone(args), i, i+1))
		}
		if cmd == "SETNX" {
			return instead(s, peer, "SET", args)
		}
		return false
	}, []string{"an unfenced lock has one holder", "locks of other libraries are respected"}},
	"SET forgets the expiry": {func(s *Server, peer *server.Peer, cmd string, args []string) bool {
		if i := option(args, "PX"); cmd == "SET" && i >= 0 {
			return instead(s, peer, cmd, slices.Delete(slices.Clone(args), i, i+2))
		}
		return false
	}, []string{"all that is written expires", "a lock has one holder", "what expires is gone, in its time"}},
	"keys expire early": {expiryOfSet(0.5), []string{"what expires is gone, in its time", "the server's time goes on", "a minimum hold is kept"}},
	"keys expire late":  {expiryOfSet(2), []string{"all that is written expires", "the server's time goes on"}},
	"PEXPIRE shortens": {func(_ *Server, _ *server.Peer, cmd string, args []string) bool {
		if cmd == "PEXPIRE" {
			args[1] = scaled(args[1], 0.1)
		}
		return false
	}, []string{"an extension prolongs, and creates nothing", "renewal goes on by itself"}},
	"PEXPIRE does nothing": {silently(one, "PEXPIRE"), []string{"an extension prolongs, and creates nothing", "all that is written expires"}},
	"PTTL knows nothing":   {silently(func(peer *server.Peer) { peer.WriteInt(-1) }, "PTTL"), []string{"a lock has one holder", "adoption compares and swaps"}},
	"TIME stands still": {silently(func(peer *server.Peer) {
		peer.WriteLen(2)
		peer.WriteBulk("946684800")
		peer.WriteBulk("0")
	}, "TIME"), []string{"the server's time goes on"}},
	"PUBLISH reaches nobody":     {silently(func(peer *server.Peer) { peer.WriteInt(0) }, "PUBLISH"), []string{"a release is announced"}},
	"DEL does nothing":           {silently(one, "DEL"), []string{"a lock has one holder", "a release frees its own grant only", "force is aimed at one grant"}},
	"SET does nothing":           {silently(func(peer *server.Peer) { peer.WriteOK() }, "SET"), []string{"a lock has one holder", "an unfenced lock has one holder", "callers at once take turns"}},
	"GET finds nothing":          {silently(func(peer *server.Peer) { peer.WriteNull() }, "GET"), []string{"a lock has one holder", "callers at once take turns", "late requests change nothing"}},
	"HSET does nothing":          {silently(one, "HSET"), []string{"runs are done once", "candidates see each other", "repeated requests change nothing"}},
	"HDEL does nothing":          {silently(one, "HDEL"), []string{"runs are done once", "many calls are one run"}},
	"HINCRBY does nothing":       {silently(one, "HINCRBY"), []string{"many calls are one run"}},
	"HMGET finds nothing":        {silently(func(peer *server.Peer) { peer.WriteLen(0) }, "HMGET"), []string{"many calls are one run", "a run is taken over"}},
	"ZADD does nothing":          {silently(one, "ZADD"), []string{"a semaphore has so many permits", "readers share, a writer does not"}},
	"ZREM does nothing":          {silently(one, "ZREM"), []string{"a semaphore has so many permits"}},
	"PEXPIREAT does nothing":     {silently(one, "PEXPIREAT"), []string{"a semaphore has so many permits"}},
	"XADD does nothing":          {silently(func(peer *server.Peer) { peer.WriteBulk("1-1") }, "XADD"), []string{"history is kept", "keys of all slots work"}},
	"there are no scripts":       {silently(func(peer *server.Peer) { peer.WriteError("ERR unknown command") }, "EVAL", "EVALSHA"), []string{"a lock has one holder", "fencing tokens rise"}},
	"NOSCRIPT is another error":  {silently(func(peer *server.Peer) { peer.WriteError("ERR no such script") }, "EVALSHA"), []string{"lost scripts are sent again"}},
	"there are no subscriptions": {silently(func(peer *server.Peer) { peer.WriteError("ERR unknown command") }, "SUBSCRIBE"), []string{"a release is announced"}},
	"the fence counter is lost": {func(_ *Server, peer *server.Peer, cmd string, args []string) bool {
		if cmd == "SET" && strings.HasSuffix(args[0], ":fence") {
			peer.WriteOK()
			return true
		}
		return false
	}, []string{"fencing tokens rise", "callers at once take turns"}},
}

func TestEachCheckPassesOnAStoreThatConforms(t *testing.T) {
	t.Parallel()
	for _, c := range checks {
		synctest.Test(t, func(t *testing.T) {
			if found := judge(c, nil); len(found) > 0 {
				t.Errorf("%s: %q", c.name, found)
			}
		})
	}
}

// A Redis before 7 knows no PEXPIRE with a condition.
func TestAStoreWithoutConditionsOfExpiryConforms(t *testing.T) {
	t.Parallel()
	old := func(_ *Server, peer *server.Peer, cmd string, args []string) bool {
		if cmd != "PEXPIRE" || option(args, "GT") < 0 {
			return false
		}
		peer.WriteError("ERR wrong number of arguments for 'pexpire' command")
		return true
	}
	for _, c := range checks {
		synctest.Test(t, func(t *testing.T) {
			if found := judge(c, old); len(found) > 0 {
				t.Errorf("%s: %q", c.name, found)
			}
		})
	}
}

func TestBrokenStoresAreFoundOut(t *testing.T) {
	t.Parallel()
	for name, broken := range sabotages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, found := range broken.found {
				i := slices.IndexFunc(checks, func(c check) bool { return c.name == found })
				if i < 0 {
					t.Fatalf("there is no check %q", found)
				}
				synctest.Test(t, func(t *testing.T) {
					failures := judge(checks[i], broken.do)
					if len(failures) == 0 {
						t.Errorf("%q passes", found)
					}
					t.Logf("%s: %q", found, failures)
				})
			}
		})
	}
}
