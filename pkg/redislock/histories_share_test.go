package redislock

import (
	"context"
	"errors"
	"math/rand/v2"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

// enoughVisits make a history that tells something.
const enoughVisits = 60

// A room takes note of everybody who believes that it is in, by its own clock.
type room struct {
	mu      sync.Mutex
	in      map[*Lock]bool // and whether it is alone there
	fences  map[uint64]bool
	entered int
	most    int // at once
}

func newRoom() *room { return &room{in: map[*Lock]bool{}, fences: map[uint64]bool{}} }

// enter notes that l's holder begins to act: with no more than limit at once, and
// nobody beside who is alone.
func (r *room) enter(t *testing.T, l *Lock, alone bool, limit int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.in[l] = alone
	r.entered++
	if r.fences[l.Fence()] {
		t.Errorf("fence %d was granted twice", l.Fence())
	}
	r.fences[l.Fence()] = true
	// All of these have entered, so who is valid when he is asked was so when the first
	// of them was asked: those found valid were so at once.
	valid, solitary := 0, false
	for other, lone := range r.in {
		if other.IsHeld() {
			valid++
			solitary = solitary || lone
		} else {
			delete(r.in, other)
		}
	}
	if valid > limit || solitary && valid > 1 {
		t.Errorf("%d are in at once; one of them must be alone: %t", valid, solitary)
	}
	r.most = max(r.most, valid)
}

// seen reports whether enough have entered, and so many of them at once.
func (r *room) seen(atOnce int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entered >= enoughVisits && r.most >= atOnce
}

func (r *room) leave(l *Lock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.in, l)
}

// A visit is one way to get in.
type visit struct {
	acquire func(context.Context) (*Lock, error)
	alone   bool
}

// visits lives the lives of several processes that come and go, at random, through
// proxies that cut connections, and repeat old requests when nobody expects them. It
// goes on until enough of them have entered, and atOnce have been in together.
func visits(t *testing.T, limit, atOnce int, open func(*Client, *rand.Rand) visit) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	server := startRedis(t)
	r := newRoom()
	ctx := lasting(t, time.Second, func() bool { return r.seen(atOnce) })
	var wg sync.WaitGroup
	for process := range 4 {
		random := rand.New(rand.NewPCG(seed, uint64(process)))
		p := proxy.Start(t, server.URL())
		wg.Go(func() { disturb(ctx, p, rand.New(rand.NewPCG(seed, uint64(process+100)))) })
		wg.Go(func() {
			for ctx.Err() == nil {
				comeAndGo(ctx, t, p.URL(), random, r, limit, open)
			}
		})
	}
	wg.Wait()
	t.Logf("%d grants, at most %d at once", r.entered, r.most)
	if !r.seen(atOnce) {
		t.Errorf("nothing was tested: it takes %d grants, and %d at once", enoughVisits, atOnce)
	}
}

// disturb repeats requests late and cuts connections.
func disturb(ctx context.Context, p *proxy.Proxy, random *rand.Rand) {
	pause := func() { time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond) }
	for ctx.Err() == nil {
		if random.IntN(4) == 0 {
			p.Cut()
			pause()
			continue
		}
		match := []proxy.Match{proxy.Script(key, placesKey(key)), releaseOf(key)}[random.IntN(2)]
		copied := p.Duplicate(match)
		select {
		case <-copied.Arrived:
			pause()
			_, _ = copied.Deliver()
		case <-ctx.Done():
		}
	}
}

// comeAndGo is the life of one process.
func comeAndGo(ctx context.Context, t *testing.T, url string, random *rand.Rand, r *room, limit int, open func(*Client, *rand.Rand) visit) {
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Error(err)
		return
	}
	hasty(options)
	rdb := redis.NewClient(options)
	defer func() { _ = rdb.Close() }()
	c, err := New(rdb)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close(context.Background()) }()
	var wg sync.WaitGroup
	for range 3 {
		random := rand.New(rand.NewPCG(random.Uint64(), 0))
		wg.Go(func() {
			for range 1 + random.IntN(20) {
				v := open(c, random)
				l, err := v.acquire(ctx)
				if err != nil {
					if ctx.Err() != nil || errors.Is(err, ErrClosed) {
						return
					}
					continue // its connection was cut, or it gave up
				}
				r.enter(t, l, v.alone, limit)
				switch n := random.IntN(24); {
				case n == 0:
					_ = c.Close(ctx) // a crash: its leases lapse
				case n < 12:
					select {
					case <-l.Context().Done():
					case <-time.After(time.Duration(random.IntN(20)) * time.Millisecond):
					}
				}
				r.leave(l)
				_ = l.Release(ctx) // whatever it says: at worst the lease lapses
			}
		})
	}
	wg.Wait()
}

// waitAtRandom is how a visitor waits: it may give up, and may not be renewed.
func waitAtRandom(random *rand.Rand, acquire func(context.Context, ...LockOption) (*Lock, error)) func(context.Context) (*Lock, error) {
	opts := []LockOption{WithLease(400 * time.Millisecond), WithWait(), WithLockDelay(time.Duration(random.IntN(50)) * time.Millisecond)}
	if random.IntN(8) == 0 {
		opts = append(opts, WithoutRenewal())
	}
	patience := time.Minute
	if random.IntN(8) == 0 {
		patience = time.Duration(random.IntN(30)) * time.Millisecond
	}
	return func(ctx context.Context) (*Lock, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return acquire(ctx, opts...)
	}
}

func TestRandomHistoriesOfASemaphoreHaveNoMoreHoldersThanPermits(t *testing.T) {
	t.Parallel()
	const permits = 2
	visits(t, permits, permits, func(c *Client, random *rand.Rand) visit {
		if random.IntN(10) == 0 {
			return visit{acquire: waitAtRandom(random, func(ctx context.Context, opts ...LockOption) (*Lock, error) {
				return c.Acquire(ctx, key, opts...)
			}), alone: true}
		}
		s, err := c.Semaphore(key, permits)
		if err != nil {
			t.Error(err)
		}
		return visit{acquire: waitAtRandom(random, s.Acquire)}
	})
}

func TestRandomHistoriesOfAnRWLockHaveNoWriterBesideAReader(t *testing.T) {
	t.Parallel()
	visits(t, 1000, 2, func(c *Client, random *rand.Rand) visit {
		rw, err := c.RWLock(key)
		if err != nil {
			t.Error(err)
		}
		if random.IntN(4) == 0 {
			return visit{acquire: waitAtRandom(random, rw.Lock), alone: true}
		}
		return visit{acquire: waitAtRandom(random, rw.RLock)}
	})
}

// Whoever had to wait is granted the lock in the order of the tickets: the fences, which
// tell the order of the grants, rise with them.
func TestRandomHistoriesOfAFairLockGrantInOrderOfArrival(t *testing.T) {
	t.Parallel()
	type grant struct {
		fence  uint64
		ticket int64
	}
	var mu sync.Mutex
	var grants []grant
	visits(t, 1, 1, func(c *Client, random *rand.Rand) visit {
		fair := func(ctx context.Context, opts ...LockOption) (*Lock, error) {
			a, err := c.newAttempt(key, append(opts, WithFair()))
			if err != nil {
				return nil, err
			}
			l, err := a.persist(ctx)
			if err == nil && a.ticket > 0 {
				mu.Lock()
				grants = append(grants, grant{l.Fence(), a.ticket})
				mu.Unlock()
			}
			return l, a.end(ctx, err)
		}
		return visit{acquire: waitAtRandom(random, fair), alone: true}
	})
	sort.Slice(grants, func(i, j int) bool { return grants[i].fence < grants[j].fence })
	if len(grants) < 5 {
		t.Errorf("only %d had to wait: nothing was tested", len(grants))
	}
	for i := 1; i < len(grants); i++ {
		if grants[i].ticket <= grants[i-1].ticket {
			t.Errorf("the grant with fence %d and ticket %d came after ticket %d", grants[i].fence, grants[i].ticket, grants[i-1].ticket)
		}
	}
	t.Logf("%d had to wait", len(grants))
}
