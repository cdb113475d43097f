package redislock

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// A register is what a lock guards. It takes note of every holder that believes
// itself valid, and refuses tokens lower than the highest it has seen.
type register struct {
	mu      sync.Mutex
	highest uint64
	holder  *Lock
	writes  int
}

// enter notes that l's holder begins to act.
func (r *register) enter(t *testing.T, l *Lock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Asked in this order: who is valid now was so at the moment of the newer grant.
	if other := r.holder; other != nil && other.IsHeld() && l.IsHeld() {
		t.Errorf("two hold at once: %s and %s", other.Token(), l.Token())
	}
	if l.Fence() <= r.highest {
		t.Errorf("fence %d after %d", l.Fence(), r.highest)
	}
	r.highest, r.holder = l.Fence(), l
	r.writes++
}

// leave notes that it has stopped.
func (r *register) leave(l *Lock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holder == l {
		r.holder = nil
	}
}

func (r *register) written() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes
}

func TestRandomHistoriesHaveOneHolderAtATimeAndRisingFences(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	server := startRedis(t)
	var guarded register
	ctx := lasting(t, 2500*time.Millisecond, func() bool { return guarded.written() >= enough })
	var wg sync.WaitGroup
	for process := range 4 {
		random := rand.New(rand.NewPCG(seed, uint64(process)))
		wg.Go(func() {
			for ctx.Err() == nil {
				live(ctx, t, server, random, &guarded)
			}
		})
	}
	wg.Wait()
	if guarded.writes < enough {
		t.Errorf("only %d grants: nothing was tested", guarded.writes)
	}
	t.Logf("%d grants", guarded.writes)
}

// live is the life of one process, from its start to a crash or a clean end.
func live(ctx context.Context, t *testing.T, server *redisserver.Server, random *rand.Rand, guarded *register) {
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Error(err)
		return
	}
	options.ContextTimeoutEnabled = random.IntN(2) == 0
	rdb := redis.NewClient(options)
	defer func() { _ = rdb.Close() }()
	c, err := New(rdb)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close(context.Background()) }()
	// Two goroutines of one process compete with each other, too.
	seeds := [2]uint64{random.Uint64(), random.Uint64()}
	var wg sync.WaitGroup
	for _, seed := range seeds {
		random := rand.New(rand.NewPCG(seed, 0))
		wg.Go(func() {
			for range 1 + random.IntN(20) {
				renewal, lapses := WithRenewEvery(150*time.Millisecond), random.IntN(8) == 0
				if lapses {
					renewal = WithoutRenewal()
				}
				l, err := c.Acquire(ctx, key, WithWait(), WithLease(400*time.Millisecond), renewal, WithLockDelay(time.Duration(random.IntN(50))*time.Millisecond))
				if err != nil {
					if ctx.Err() == nil && !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
				guarded.enter(t, l)
				switch n := random.IntN(20); {
				case lapses:
					<-l.Context().Done() // it acts to the last moment
				case n == 0:
					_ = c.Close(ctx) // a crash: its lease lapses
				case n < 5:
					select {
					case <-l.Context().Done():
					case <-time.After(time.Duration(random.IntN(20)) * time.Millisecond):
					}
					guarded.leave(l)
				default:
					guarded.leave(l)
				}
				if err := l.Release(ctx); err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrLost) {
					if _, ok := errors.AsType[*wire.TimeoutError](err); !ok {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}
