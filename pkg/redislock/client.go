package redislock

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Client acquires locks in one Redis. It is safe for concurrent use; a program
// wants one for each Redis, for renewals and waiters are shared within it.
type Client struct {
	rdb      redis.UniversalClient
	line     *line
	clock    clock
	identity string
	nonce    string
	sequence atomic.Uint64
	observer Observer
	jitter   func(time.Duration) time.Duration // a random time below its argument

	server   serverTime
	memory   memory
	renewers *renewers
	wakes    *wakes

	// life ends with Close; background counts what still goes on then.
	life       context.Context
	end        context.CancelFunc
	mu         sync.Mutex
	closed     bool
	background sync.WaitGroup
}

// New returns a Client for a Redis. It sends nothing yet, and does not close rdb.
//
// rdb should have redis.Options.ContextTimeoutEnabled set. Without it, or where rdb is
// neither a *redis.Client nor a *redis.ClusterClient, each command needs a goroutine and
// a timer, to be given up on when it takes too long, and callers share no pipelines.
// With it, a call whose command is under way when its context is cancelled returns at
// the answer or when its time is over (a sixth of the lease, at most 5 s); a context's
// deadline is kept either way.
func New(rdb redis.UniversalClient, opts ...Option) (*Client, error) {
	if isNil(rdb) {
		return nil, invalid("client", "nil", "is no connection to Redis")
	}
	if _, ok := rdb.(*redis.Ring); ok {
		return nil, invalid("client", "*redis.Ring", "is not supported: its shards move without a handover")
	}
	c := &Client{rdb: rdb, line: newLine(rdb), clock: systemClock{}, jitter: rand.N[time.Duration], identity: hostIdentity(), nonce: newNonce()}
	for _, opt := range opts {
		opt(c)
	}
	if err := validateIdentity(c.identity); err != nil {
		return nil, err
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.renewers = &renewers{c: c, byNode: map[string]*renewer{}}
	c.wakes = newWakes(c)
	return c, nil
}

// isNil sees through an interface that holds a nil pointer.
func isNil(rdb redis.UniversalClient) bool {
	switch r := rdb.(type) {
	case nil:
		return true
	case *redis.Client:
		return r == nil
	case *redis.ClusterClient:
		return r == nil
	}
	return false
}

// hostIdentity is the host's name with what a token cannot carry replaced.
func hostIdentity() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == '#' || r == '~' || r == 0x7f {
			return '-'
		}
		return r
	}, host)
}

func newNonce() string {
	var b [8]byte
	_, _ = cryptorand.Read(b[:]) // never fails: crypto/rand.Read crashes the program instead
	return hex.EncodeToString(b[:])
}

// nextToken draws a token for one call. Its fence is still 0.
func (c *Client) nextToken(identity string) token {
	return token{identity: identity, nonce: c.nonce, sequence: strconv.FormatUint(c.sequence.Add(1), 10)}
}

// Nonce returns what names this client's process in its tokens.
func (c *Client) Nonce() string { return c.nonce }

// goBackground runs f unless the client is closed, and has Close wait for it.
func (c *Client) goBackground(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.background.Go(f)
	return true
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Close ends renewal and waiting. Locks that are still held are not released, for
// nothing proves that the work under them has stopped: their contexts are
// cancelled with ErrClosed and their leases lapse. It waits for clean-ups under
// way until ctx is done, and leaves the connection to Redis to its owner.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	already := c.closed
	c.closed = true
	c.mu.Unlock()
	if already {
		return nil
	}
	c.renewers.close()
	done := make(chan struct{})
	go func() {
		c.background.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	c.end()
	c.wakes.close()
	return err
}
