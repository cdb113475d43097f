package redislocktest

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// poolSize keeps go-redis from ever waiting for a connection: for that it takes a
// timer from a pool that all tests share, and one of a synctest bubble must not get
// out of it.
const poolSize = 1024

// A Server is a Redis inside the test. It is safe for concurrent use.
//
// It has what locks need of Redis: strings, hashes, sorted sets and streams with
// expiry, scripts, and pub/sub. It has no persistence, replicas or eviction, and
// INFO tells nothing of them: redislock.Client.CheckStore finds them Unverified.
type Server struct {
	tb    testing.TB
	inner *miniredis.Miniredis
	// commands carries commands out on inner. What clients talk to is front, which
	// sees each of their commands, but not those that scripts make.
	commands *server.Server

	mu       sync.Mutex
	front    *server.Server // nil while the server is down
	cut      chan struct{}  // closed when the connections of front are cut
	answers  chan struct{}  // nil while commands are answered; closed when they are again
	faults   []*fault
	listener net.Listener
}

// New starts a server that ends with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{tb: tb, inner: miniredis.NewMiniRedis()}
	// What is dialled has no port, and a connection starts what it is made to.
	conn, err := s.inner.Dial()
	if err != nil {
		tb.Fatalf("start the Redis inside the test: %v", err)
	}
	_ = conn.Close()
	s.commands = s.inner.Server()
	s.tick()
	s.inner.ClockTTL(true)
	s.Up()
	tb.Cleanup(func() {
		s.Down()
		s.inner.Close()
		if bubbled() {
			time.Sleep(aftermath)
		}
	})
	return s
}

// aftermath is how long go-redis may go on trying what was given up on, such as a
// renewal. A synctest bubble waits for it, at no cost.
const aftermath = time.Minute

// bubbled says whether this is a synctest bubble: only there time.Now has no
// monotonic reading, which Round removes.
func bubbled() bool {
	t := time.Now()
	return t == t.Round(0) //nolint:staticcheck // Equal would not see the monotonic reading
}

// Redis returns a connection to the server that is closed with the test. change
// alters its options.
func (s *Server) Redis(change ...func(*redis.Options)) *redis.Client {
	s.tb.Helper()
	options := &redis.Options{
		Addr:     "127.0.0.1:6379", // a name would be looked up
		PoolSize: poolSize,
		Dialer:   func(context.Context, string, string) (net.Conn, error) { return s.dial() },
		// They need a server that knows them, and ask for it on every connection.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	for _, f := range change {
		f(options)
	}
	rdb := redis.NewClient(options)
	s.tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Client returns a lock client with a connection of its own, as another process
// has. It is closed with the test.
func (s *Server) Client(opts ...redislock.Option) *redislock.Client {
	s.tb.Helper()
	c, err := redislock.New(s.Redis(), opts...)
	if err != nil {
		s.tb.Fatalf("make a lock client: %v", err)
	}
	s.tb.Cleanup(func() { closeNow(c) })
	return c
}

// closeNow does not wait for clean-ups that a test left behind.
func closeNow(c *redislock.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.Close(ctx)
}

// URL returns an address, redis://127.0.0.1:<port>/0, for what makes connections of
// its own: it is served from the first call on. A synctest bubble has no network, so
// use Redis there.
func (s *Server) URL() string {
	s.tb.Helper()
	if bubbled() {
		s.tb.Fatal("redislocktest: a synctest bubble has no network: use Server.Redis")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.tb.Fatalf("listen: %v", err)
		}
		s.listener = l
		s.tb.Cleanup(func() { _ = l.Close() })
		go s.accept(l)
	}
	return "redis://" + s.listener.Addr().String() + "/0"
}

func (s *Server) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.front == nil {
			_ = conn.Close()
		} else {
			s.front.ServeConn(conn)
		}
		s.mu.Unlock()
	}
}

func (s *Server) dial() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.front == nil {
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: syscall.ECONNREFUSED}
	}
	ours, theirs := pipe()
	s.front.ServeConn(ours)
	return theirs, nil
}

// handle is called with each command of a client, on its connection's goroutine.
func (s *Server) handle(cut <-chan struct{}) server.Hook {
	return func(peer *server.Peer, cmd string, args ...string) bool {
		if !s.awaitAnswers(cut) {
			return true
		}
		command := append([]string{cmd}, args...)
		f := s.takeFault(command)
		if f != nil && !f.carriedOut {
			peer.WriteError(f.message)
			return true
		}
		s.tick()
		if f != nil {
			s.commands.Dispatch(server.NewPeer(bufio.NewWriter(io.Discard)), command)
			peer.Close() // nothing more comes to the client on this connection
			return true
		}
		s.commands.Dispatch(peer, command)
		return true
	}
}

// tick has time pass up to now, and stand still for what is carried out next: as in
// Redis a script sees one time, and nothing expires under its hands.
func (s *Server) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inner.SetTime(time.Now().UTC())
}
