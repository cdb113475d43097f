package redislock

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// histories is for how long random histories are made: -args -histories=5m.
var histories = flag.Duration("histories", 3*time.Second, "for how long random histories of a lock are made")

// The model of a lock is who holds it, and the highest token that was ever granted.
// A store that lost its data forgets the owner, who does not know; the tokens rise
// all the same.
type lockModel struct {
	owner, highest, forgotten uint64
}

type (
	granted struct{}               // its output is the token
	ended   struct{ token uint64 } // the holder does not act any more
	flushed struct{}
)

var model = porcupine.Model{
	Init: func() any { return lockModel{} },
	Step: func(state, input, output any) (bool, any) {
		m := state.(lockModel)
		switch in := input.(type) {
		case granted:
			token := output.(uint64)
			if m.owner != 0 || token <= m.highest {
				return false, m
			}
			m.owner, m.highest = token, token
		case ended:
			if in.token != m.owner {
				return in.token <= m.forgotten, m
			}
			m.owner = 0
		case flushed:
			m.owner, m.forgotten = 0, m.highest
		}
		return true, m
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%T%v: %v", input, input, output) },
}

// A tested lock is one process' way to one lock.
type testedLock interface {
	acquire(ctx context.Context) (testedGrant, error)
	// crash ends the process, whose grants lapse.
	crash()
}

type testedGrant interface {
	fence() uint64
	// held is what the holder believes.
	held() bool
	release(ctx context.Context) error
}

// A history is what the processes did, by one monotonic clock.
type history struct {
	began time.Time

	mu         sync.Mutex
	operations []porcupine.Operation
	// writes is what the guarded resource has seen: which grant came with a token, and
	// how many it has refused.
	highest  uint64
	writers  map[uint64]testedGrant
	twice    []uint64
	rejected int
	grants   int
}

func newHistory() *history { return &history{began: time.Now(), writers: map[uint64]testedGrant{}} }

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) add(client int, input, output any, call, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, porcupine.Operation{ClientId: client, Input: input, Output: output, Call: call, Return: end})
}

// write is the guarded resource: it refuses a token lower than the highest it knows,
// and notes two grants that come with one token.
func (h *history) write(g testedGrant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other := h.writers[g.fence()]; other == nil {
		h.writers[g.fence()] = g
		h.grants++
	} else if other != g {
		h.twice = append(h.twice, g.fence())
	}
	if g.fence() < h.highest {
		h.rejected++
	}
	h.highest = max(h.highest, g.fence())
}

// granted is the number of grants under which something was written.
func (h *history) granted() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.grants
}

// verdict checks the history.
func (h *history) verdict() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.twice) > 0 {
		return fmt.Errorf("two grants came with one token: %v", h.twice)
	}
	switch result := porcupine.CheckOperationsTimeout(model, h.operations, time.Minute); result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("the history of %d operations could not be checked in time", len(h.operations))
	}
	return fmt.Errorf("the history of %d operations is that of no lock%s", len(h.operations), h.suspects())
}

// suspects names the grants that overlap or whose tokens fall, for who reads why a
// history was refused.
func (h *history) suspects() string {
	type span struct {
		token      uint64
		from, till int64
	}
	var spans []span
	ends := map[uint64]int64{}
	for _, op := range h.operations {
		if in, ok := op.Input.(ended); ok {
			ends[in.token] = op.Call
		}
	}
	for _, op := range h.operations {
		if _, ok := op.Input.(granted); ok {
			spans = append(spans, span{op.Output.(uint64), op.Return, ends[op.Output.(uint64)]})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	text := ""
	for i := 1; i < len(spans); i++ {
		a, b := spans[i-1], spans[i]
		if b.from < a.till || b.token <= a.token {
			text += fmt.Sprintf("; %d until %s, %d from %s", a.token, time.Duration(a.till), b.token, time.Duration(b.from))
		}
	}
	return text
}

// work is one goroutine of a process that takes the lock and acts under it, as long
// as it believes that it may.
func (h *history) work(ctx context.Context, client int, random *rand.Rand, lock testedLock) {
	for ctx.Err() == nil {
		call := h.now()
		g, err := lock.acquire(ctx)
		if err != nil {
			continue
		}
		h.add(client, granted{}, g.fence(), call, h.now())
		last := h.now()
		overstays := random.IntN(8) == 0
		for n := random.IntN(8); n > 0 || overstays && ctx.Err() == nil && h.now()-call < int64(2*testedLease); n-- {
			at := h.now()
			if !g.held() {
				break
			}
			last = at
			h.write(g)
			pause(ctx, time.Duration(random.IntN(8))*time.Millisecond)
		}
		if !overstays {
			if at := h.now(); g.held() {
				last = at
			}
		}
		if random.IntN(20) == 0 {
			h.add(client, ended{g.fence()}, nil, last, math.MaxInt64)
			lock.crash()
			return
		}
		// Nobody knows when a release that was not answered was carried out.
		end := int64(math.MaxInt64)
		if err := g.release(ctx); err == nil && !overstays {
			end = h.now()
		}
		h.add(client, ended{g.fence()}, nil, last, end)
	}
}

// pause lets time pass in which a holder works, or a fault lasts.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// A world is a store, processes that reach it each over a network of its own, and
// what befalls them.
type world struct {
	open   func(rdb *redis.Client) (testedLock, error)
	server *redisserver.Server
	h      *history
	struck bool // the store is stopped and killed, too
	flush  bool // and may lose its data
}

// enough is the number of grants without which a history tests nothing.
const enough = 10

// run makes a history that takes so long, and longer where it holds too little.
func (w *world) run(t *testing.T, least time.Duration, seed uint64) {
	ctx := lasting(t, least, func() bool { return w.h.granted() >= enough })
	var wg sync.WaitGroup
	for process := range 3 {
		p := proxy.Start(t, w.server.URL())
		random := rand.New(rand.NewPCG(seed, uint64(process)))
		faults := rand.New(rand.NewPCG(seed, uint64(100+process)))
		wg.Go(func() {
			for ctx.Err() == nil {
				w.live(ctx, t, p, process, random)
			}
		})
		wg.Go(func() {
			for ctx.Err() == nil {
				befall(ctx, p, faults)
			}
		})
	}
	wg.Go(func() {
		random := rand.New(rand.NewPCG(seed, 1000))
		for w.struck && ctx.Err() == nil {
			w.strike(ctx, t, random)
		}
	})
	wg.Wait()
}

// live is the life of one process: two goroutines that compete with each other too.
func (w *world) live(ctx context.Context, t *testing.T, p *proxy.Proxy, process int, random *rand.Rand) {
	options, err := redis.ParseURL(p.URL())
	if err != nil {
		t.Error(err)
		return
	}
	hasty(options)
	rdb := redis.NewClient(options)
	defer func() { _ = rdb.Close() }()
	lock, err := w.open(rdb)
	if err != nil {
		t.Error(err)
		return
	}
	defer lock.crash()
	inner, end := context.WithCancel(ctx)
	defer end()
	var wg sync.WaitGroup
	for worker := range 2 {
		random := rand.New(rand.NewPCG(random.Uint64(), 0))
		wg.Go(func() {
			defer end() // one that crashes takes the other with it
			w.h.work(inner, 2*process+worker, random, lock)
		})
	}
	wg.Wait()
}

// befall does something to a process' network.
func befall(ctx context.Context, p *proxy.Proxy, random *rand.Rand) {
	defer p.Forget()
	soon := func() { pause(ctx, time.Duration(random.IntN(60))*time.Millisecond) }
	switch about := proxy.With(key); random.IntN(7) {
	case 0:
		held := p.Hold(about)
		select {
		case <-held.Arrived:
			// Longer than a lease, at times: it comes when the lock is another's.
			pause(ctx, time.Duration(random.IntN(700))*time.Millisecond)
			_, _ = held.Deliver()
		case <-time.After(100 * time.Millisecond):
		}
	case 1:
		p.DropReply(about)
		soon()
	case 2:
		copied := p.Duplicate(about)
		select {
		case <-copied.Arrived:
			pause(ctx, time.Duration(random.IntN(700))*time.Millisecond)
			_, _ = copied.Deliver()
		case <-time.After(100 * time.Millisecond):
		}
	case 3:
		p.Cut()
	case 4:
		p.Partition()
		soon()
		p.Heal()
	case 5:
		p.Slow(time.Duration(random.IntN(20)) * time.Millisecond)
		soon()
		p.Slow(0)
	}
	soon()
}

// strike does something to the store.
func (w *world) strike(ctx context.Context, t *testing.T, random *rand.Rand) {
	pause(ctx, time.Duration(100+random.IntN(400))*time.Millisecond)
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	switch random.IntN(3) {
	case 0:
		must(w.server.Pause())
		pause(ctx, time.Duration(random.IntN(600))*time.Millisecond)
		must(w.server.Resume())
	case 1:
		must(w.server.Kill())
		must(w.server.Start())
	case 2:
		if w.flush {
			options, err := redis.ParseURL(w.server.URL())
			must(err)
			rdb := redis.NewClient(options)
			call := w.h.now()
			must(rdb.FlushAll(context.WithoutCancel(ctx)).Err())
			w.h.add(-1, flushed{}, nil, call, w.h.now())
			must(rdb.Close())
		}
	}
}

const testedLease = 500 * time.Millisecond

// ourLock is what this package makes of it.
type ourLock struct {
	c      *Client
	random *rand.Rand
	mu     sync.Mutex
}

func openOurs(rdb *redis.Client) (testedLock, error) {
	c, err := New(rdb)
	return &ourLock{c: c, random: rand.New(rand.NewPCG(rand.Uint64(), 0))}, err
}

func (o *ourLock) acquire(ctx context.Context) (testedGrant, error) {
	o.mu.Lock()
	renewal := WithRenewEvery(testedLease / 3)
	if o.random.IntN(3) == 0 {
		renewal = WithoutRenewal()
	}
	o.mu.Unlock()
	inner, cancel := context.WithTimeout(ctx, 4*testedLease)
	defer cancel()
	l, err := o.c.Acquire(inner, key, WithLease(testedLease), renewal, WithWait())
	if err != nil {
		return nil, err
	}
	return ourGrant{l}, nil
}

func (o *ourLock) crash() { _ = o.c.Close(canceled()) }

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

type ourGrant struct{ l *Lock }

func (g ourGrant) fence() uint64                     { return g.l.Fence() }
func (g ourGrant) held() bool                        { return g.l.IsHeld() }
func (g ourGrant) release(ctx context.Context) error { return g.l.Release(ctx) }

func TestRandomHistoriesAreThoseOfALock(t *testing.T) {
	t.Parallel()
	for name, flush := range map[string]bool{"data is kept": false, "data is lost": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			w := &world{open: openOurs, server: redisserver.Start(t, redisserver.Options{UnixSocket: true, AppendOnly: true}), h: newHistory(), struck: true, flush: flush}
			w.run(t, *histories, seed)
			if err := w.h.verdict(); err != nil {
				t.Error(err)
			}
			t.Logf("%d operations, %d grants that wrote, %d writes refused", len(w.h.operations), w.h.grants, w.h.rejected)
			if w.h.grants < enough {
				t.Errorf("only %d grants: nothing was tested", w.h.grants)
			}
		})
	}
}

// A flawedLock is a lock as it is often written, with one flaw chosen.
type flawedLock struct {
	rdb  *redis.Client
	flaw string
	own  string // the token of the process
}

const (
	noFlaw        = "none"
	incrFence     = "the fence is an INCR"
	blindRelease  = "a release deletes whatever is there"
	tokenPerOwner = "one token for all grants of a process"
)

func openFlawed(flaw string) func(*redis.Client) (testedLock, error) {
	return func(rdb *redis.Client) (testedLock, error) {
		return &flawedLock{rdb: rdb, flaw: flaw, own: newNonce()}, nil
	}
}

var (
	flawedFence   = redis.NewScript(`local f = math.max((tonumber(redis.call('GET', KEYS[1])) or 0) + 1, tonumber(ARGV[1])); redis.call('SET', KEYS[1], string.format('%.0f', f)); return f`)
	flawedRelease = redis.NewScript(`if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`)
)

func (f *flawedLock) acquire(ctx context.Context) (testedGrant, error) {
	g := &flawedGrant{f: f, token: newNonce()}
	if f.flaw == tokenPerOwner {
		g.token = f.own
	}
	inner, cancel := context.WithTimeout(ctx, 4*testedLease)
	defer cancel()
	for {
		g.until = time.Now().Add(validitySpan(testedLease))
		set, err := f.rdb.SetNX(inner, key, g.token, testedLease).Result()
		if err == nil && !set {
			// A first answer that was lost is looked for.
			var found string
			found, err = f.rdb.Get(inner, key).Result()
			set = found == g.token
			g.until = time.Now() // how much is left of it is unknown
			if f.flaw == tokenPerOwner {
				g.until = g.until.Add(testedLease / 2)
			}
		}
		if set && err == nil {
			break
		}
		if inner.Err() != nil {
			return nil, inner.Err()
		}
		pause(inner, 2*time.Millisecond)
	}
	floor := time.Now().UnixMicro()
	if f.flaw == incrFence {
		floor = 0
	}
	fence, err := flawedFence.Run(inner, f.rdb, []string{fenceKey(key)}, floor).Int64()
	if err != nil || !g.held() {
		return nil, fmt.Errorf("no fence in time: %w", cmp.Or(err, context.DeadlineExceeded))
	}
	g.number = uint64(fence)
	return g, nil
}

func (f *flawedLock) crash() {}

type flawedGrant struct {
	f      *flawedLock
	token  string
	number uint64
	until  time.Time
}

func (g *flawedGrant) fence() uint64 { return g.number }
func (g *flawedGrant) held() bool    { return time.Now().Before(g.until) }

func (g *flawedGrant) release(ctx context.Context) error {
	if g.f.flaw == blindRelease {
		return g.f.rdb.Del(ctx, key).Err()
	}
	return flawedRelease.Run(ctx, g.f.rdb, []string{key}, g.token).Err()
}

// What random histories find must be what is there: three locks of which each has
// one well-known flaw are found out, and the same lock without it is not.
func TestFlawedLocksAreFoundOut(t *testing.T) {
	t.Parallel()
	for _, flaw := range []string{noFlaw, incrFence, blindRelease, tokenPerOwner} {
		t.Run(flaw, func(t *testing.T) {
			t.Parallel()
			const most = 40
			for round := range most {
				w := &world{
					open: openFlawed(flaw), server: redisserver.Start(t, redisserver.Options{UnixSocket: true, AppendOnly: true}),
					h: newHistory(), struck: flaw == incrFence, flush: flaw == incrFence,
				}
				w.run(t, 2*time.Second, rand.Uint64())
				err := w.h.verdict()
				if flaw == noFlaw {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err != nil {
					t.Logf("round %s: %.300s", strconv.Itoa(round+1), err.Error())
					return
				}
			}
			t.Errorf("not found out in %d histories", most)
		})
	}
}
