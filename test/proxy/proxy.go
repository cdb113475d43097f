// Package proxy stands between a client and a Redis server in a test and does,
// when the test says so, what networks do: it delays, loses and repeats
// requests and replies, cuts connections and refuses new ones.
//
// It reads the protocol, so that a test chooses its victim by the command, and
// it tells by channels what has happened, so that a test never sleeps:
//
//	p := proxy.Start(t, redis.URL())
//	renewal := p.Hold(proxy.Script("lock:{a}"))
//	<-renewal.Arrived         // the client has sent it, the server has not seen it
//	…                         // the lock expires, another takes it
//	reply, err := renewal.Deliver() // what does the server say to the late one?
//
// A rule (Hold, HoldReply, DropReply, Duplicate, CutOn) catches the first
// request that matches and no other; of several rules the oldest catches first.
//
// Replies belong to requests by their order. On connections that subscribe,
// monitor or replicate that is not so any more: from there on bytes only pass
// through, and rules for replies do not apply.
package proxy

import (
	"bufio"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redislock-operator/redislock-operator/test/ports"
)

// dialTimeout bounds the connection to the server, which is on this machine.
const dialTimeout = 5 * time.Second

// Direction is the way that bytes go.
type Direction int

const (
	// ToServer is the way of requests.
	ToServer Direction = iota
	// ToClient is the way of replies.
	ToClient
)

// Request is a command of a client.
type Request struct {
	// Conn numbers the client connections from 1.
	Conn int
	// Args are the command and its arguments.
	Args []string
	// At is when the proxy had it whole.
	At time.Time
}

// Proxy is a listener in front of one Redis server.
type Proxy struct {
	network, target string
	url             url.URL
	port            *ports.Port
	wg              sync.WaitGroup
	closed          chan struct{}
	slow            atomic.Int64

	mu       sync.Mutex
	listener net.Listener
	links    map[*link]struct{}
	conns    int
	rules    []*rule
	swallow  [2]*Swallowed
	gate     chan struct{} // nil when bytes flow, else closed when they do again
	requests []Request
	isClosed bool
}

// Start starts a proxy that ends with the test.
func Start(tb testing.TB, target string) *Proxy {
	tb.Helper()
	p, err := New(target)
	if err != nil {
		tb.Fatalf("start a proxy for %s: %v", target, err)
	}
	tb.Cleanup(p.Close)
	return p
}

// New starts a proxy for the server at a redis:// or unix:// URL or host:port.
// TLS cannot be looked into, so rediss:// is refused. The caller calls Close.
func New(target string) (*Proxy, error) {
	p := &Proxy{
		network: "tcp", target: target,
		url:    url.URL{Scheme: "redis", Path: "/0"},
		closed: make(chan struct{}),
		links:  map[*link]struct{}{},
	}
	if strings.Contains(target, "://") {
		u, err := url.Parse(target)
		if err != nil {
			return nil, fmt.Errorf("read the address of the server: %w", err)
		}
		switch u.Scheme {
		case "redis":
			p.target, p.url = u.Host, *u
		case "unix":
			p.network, p.target = "unix", u.Path
			p.url.User = u.User
		default:
			return nil, fmt.Errorf("a proxy cannot stand before a %s:// server", u.Scheme)
		}
	}
	for {
		port, err := ports.Reserve()
		if err != nil {
			return nil, err
		}
		p.port = port
		if err = p.Accept(); err == nil {
			break
		}
		port.Release()
	}
	p.url.Host = p.port.Addr()
	return p, nil
}

// Addr is where clients connect, as host:port.
func (p *Proxy) Addr() string { return p.port.Addr() }

// URL is the server's URL with the proxy's address in place of the server's.
func (p *Proxy) URL() string { return p.url.String() }

// Close cuts all connections and frees the port. Held requests are thrown away.
func (p *Proxy) Close() {
	p.mu.Lock()
	if p.isClosed {
		p.mu.Unlock()
		return
	}
	p.isClosed = true
	close(p.closed)
	if p.listener != nil {
		_ = p.listener.Close()
	}
	for l := range p.links {
		l.cutClient()
		_ = l.upstream.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
	p.port.Release()
}

// Hold keeps the next matching request from the server until it is delivered.
func (p *Proxy) Hold(match Match) *Held {
	r := p.add(holdRequest, match)
	return &Held{Arrived: r.caught, rule: r}
}

// HoldReply lets the next matching request through and keeps its reply from the
// client until it is delivered.
func (p *Proxy) HoldReply(match Match) *Held {
	r := p.add(holdReply, match)
	return &Held{Arrived: r.caught, rule: r}
}

// DropReply lets the next matching request through and throws its reply away.
func (p *Proxy) DropReply(match Match) *Dropped {
	r := p.add(dropReply, match)
	return &Dropped{Done: r.caught, rule: r}
}

// Duplicate lets the next matching request through and keeps a copy of it.
func (p *Proxy) Duplicate(match Match) *Copy {
	r := p.add(copyRequest, match)
	return &Copy{Arrived: r.caught, rule: r}
}

// CutOn closes the connection on which the next matching request comes, before
// the server sees the request.
func (p *Proxy) CutOn(match Match) *Cut {
	r := p.add(cutBefore, match)
	return &Cut{Done: r.caught, rule: r}
}

func (p *Proxy) add(k kind, match Match) *rule {
	r := newRule(p, k, match)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, r)
	return r
}

// Cut closes all connections of clients. Requests that are held stay so.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cutClient()
	}
}

// Refuse closes the port: clients that connect are refused. Connections that
// exist stay; see Cut.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// Accept opens the port again.
func (p *Proxy) Accept() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed {
		return ErrClosed
	}
	if p.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", p.port.Addr())
	if err != nil {
		return fmt.Errorf("open the port of the proxy: %w", err)
	}
	p.listener = l
	p.wg.Go(func() { p.serve(l) })
	return nil
}

// Partition stops all bytes, both ways, until Heal: none is lost, all are late.
// What a client sent before it gave up arrives after Heal too, as it does when
// a kernel sends lost packets again.
func (p *Proxy) Partition() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gate == nil {
		p.gate = make(chan struct{})
	}
}

// Heal ends a Partition.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gate != nil {
		close(p.gate)
		p.gate = nil
	}
}

// Slow delays every request by d; 0 ends that.
func (p *Proxy) Slow(d time.Duration) { p.slow.Store(int64(d)) }

// Forget forgets the requests seen so far, for a proxy that is to live for long.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = nil
}

// Swallow makes all requests, or all replies, vanish until Stop.
func (p *Proxy) Swallow(dir Direction) *Swallowed {
	s := &Swallowed{first: make(chan struct{}), proxy: p, dir: dir}
	s.First = s.first
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow[dir] = s
	return s
}

// Requests are the requests seen so far, in the order in which they came, also
// those that did not reach the server.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// Count is the number of requests seen so far that match.
func (p *Proxy) Count(match Match) int {
	n := 0
	for _, r := range p.Requests() {
		if match(r.Args) {
			n++
		}
	}
	return n
}

// Connections is the number of connections of clients that are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for l := range p.links {
		if !l.clientGone() {
			n++
		}
	}
	return n
}

func (p *Proxy) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.handle(client) })
	}
}

func (p *Proxy) handle(client net.Conn) {
	defer func() { _ = client.Close() }()
	upstream, err := net.DialTimeout(p.network, p.target, dialTimeout)
	if err != nil {
		// The server is not there: the client sees its connection end.
		return
	}
	defer func() { _ = upstream.Close() }()

	l := &link{proxy: p, client: client, upstream: upstream, gone: make(chan struct{})}
	p.mu.Lock()
	if p.isClosed {
		p.mu.Unlock()
		return
	}
	p.conns++
	l.number = p.conns
	p.links[l] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	}()
	l.run()
}

// route records a request and finds the rule for it, if there is one.
func (p *Proxy) route(l *link, args []string) (*rule, Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	req := Request{Conn: l.number, Args: args, At: time.Now()}
	p.requests = append(p.requests, req)
	for i, r := range p.rules {
		if r.match(args) {
			p.rules = slices.Delete(p.rules, i, i+1)
			return r, req
		}
	}
	return nil, req
}

// vanish tells whether what goes this way is to be swallowed.
func (p *Proxy) vanish(dir Direction) bool {
	p.mu.Lock()
	s := p.swallow[dir]
	p.mu.Unlock()
	if s == nil {
		return false
	}
	s.once.Do(func() { close(s.first) })
	return true
}

// lag waits for as long as a request is delayed. It is false when the proxy is closed.
func (p *Proxy) lag() bool {
	d := time.Duration(p.slow.Load())
	if d == 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-p.closed:
		return false
	}
}

// pass waits while there is a partition. It is false when the proxy is closed.
func (p *Proxy) pass() bool {
	for {
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		if gate == nil {
			return true
		}
		select {
		case <-gate:
		case <-p.closed:
			return false
		}
	}
}

// send sends a request over a connection of its own, after what the client had
// sent to log in, and returns the reply.
func (p *Proxy) send(preamble, raw []byte) (string, error) {
	conn, err := net.DialTimeout(p.network, p.target, dialTimeout)
	if err != nil {
		return "", fmt.Errorf("deliver a copy: %w", err)
	}
	defer func() { _ = conn.Close() }()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-p.closed:
			_ = conn.Close()
		case <-stop:
		}
	}()
	if _, err := conn.Write(append(slices.Clone(preamble), raw...)); err != nil {
		return "", fmt.Errorf("deliver a copy: %w", err)
	}
	commands := bufio.NewReader(strings.NewReader(string(preamble)))
	replies := bufio.NewReader(conn)
	for {
		_, _, more := readCommand(commands)
		reply, err := nextReply(replies)
		if err != nil {
			return "", fmt.Errorf("deliver a copy: %w", err)
		}
		if more != nil {
			return reply, nil
		}
	}
}

func nextReply(r *bufio.Reader) (string, error) {
	for {
		raw, push, err := readReply(r)
		if err != nil || !push {
			return string(raw), err
		}
	}
}
