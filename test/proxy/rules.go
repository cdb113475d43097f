package proxy

import (
	"errors"
	"sync"
)

var (
	// ErrNothingHeld means that no request has come for the rule yet.
	ErrNothingHeld = errors.New("no request has arrived for this rule")
	// ErrCut means that the request was thrown away with its connection.
	ErrCut = errors.New("the connection was cut")
	// ErrClosed means that the proxy was closed.
	ErrClosed     = errors.New("the proxy is closed")
	errServerGone = errors.New("the server closed the connection")
)

// kind is what a rule does to the request that it catches.
type kind int

const (
	pass kind = iota
	holdRequest
	holdReply
	dropReply
	copyRequest
	cutBefore
)

// rule waits for one request and does one thing to it.
type rule struct {
	kind    kind
	match   Match
	proxy   *Proxy
	caught  chan struct{} // closed when the thing has happened
	deliver chan struct{} // closed when the test lets it go
	cut     chan struct{} // closed when the test throws it away
	settled chan struct{} // closed when nothing more happens to it

	decide sync.Once

	// Written before caught is closed.
	request  Request
	raw      []byte
	preamble []byte
	link     *link

	// Written before settled is closed.
	reply string
	err   error
}

func newRule(p *Proxy, k kind, m Match) *rule {
	return &rule{
		kind: k, match: m, proxy: p,
		caught: make(chan struct{}), deliver: make(chan struct{}), cut: make(chan struct{}), settled: make(chan struct{}),
	}
}

func (r *rule) settle(reply string, err error) {
	r.reply, r.err = reply, err
	close(r.settled)
}

func (r *rule) hasCaught() bool {
	select {
	case <-r.caught:
		return true
	default:
		return false
	}
}

// Held is a request, or the reply to one, that is kept back by Proxy.Hold or
// Proxy.HoldReply. What follows on the same connection waits behind it, as it
// would behind a lost packet.
type Held struct {
	// Arrived is closed when the request has come from the client and is held,
	// or, for a reply, when it has come from the server.
	Arrived <-chan struct{}
	rule    *rule
}

// Request is what is held; valid once it has arrived.
func (h *Held) Request() Request { return h.rule.request }

// Deliver lets it go, and returns when the server has answered: its reply as it
// came over the wire, such as ":1\r\n". The client gets the reply if it is still
// there; a request whose client has gone away reaches the server all the same.
func (h *Held) Deliver() (reply string, err error) {
	if !h.rule.hasCaught() {
		return "", ErrNothingHeld
	}
	h.rule.decide.Do(func() { close(h.rule.deliver) })
	<-h.rule.settled
	return h.rule.reply, h.rule.err
}

// Cut throws it away together with its connection.
func (h *Held) Cut() error {
	if !h.rule.hasCaught() {
		return ErrNothingHeld
	}
	h.rule.decide.Do(func() { close(h.rule.cut) })
	<-h.rule.settled
	return nil
}

// Dropped is a reply that the client does not get, by Proxy.DropReply. Nothing
// more comes to the client on that connection: a stream has no gaps.
type Dropped struct {
	// Done is closed when the server has answered and the answer is gone.
	Done <-chan struct{}
	rule *rule
}

// Request is the request that the server has carried out.
func (d *Dropped) Request() Request { return d.rule.request }

// Reply is what the server said, as it came over the wire; valid once Done.
func (d *Dropped) Reply() string { return d.rule.reply }

// Cut closes the client's connection, which without it hangs until the client
// gives up.
func (d *Dropped) Cut() error {
	if !d.rule.hasCaught() {
		return ErrNothingHeld
	}
	d.rule.link.cutClient()
	return nil
}

// Copy is a request of which the proxy keeps a copy, by Proxy.Duplicate, to send
// it again later.
type Copy struct {
	// Arrived is closed when the server has answered the original.
	Arrived <-chan struct{}
	rule    *rule
}

// Request is the original.
func (c *Copy) Request() Request { return c.rule.request }

// Deliver sends the copy to the server, over a connection of its own that has
// logged in as the client's did, and returns the server's reply as it came over
// the wire. It may be called again for a third time of the same request.
func (c *Copy) Deliver() (reply string, err error) {
	if !c.rule.hasCaught() {
		return "", ErrNothingHeld
	}
	return c.rule.proxy.send(c.rule.preamble, c.rule.raw)
}

// Cut is a request that costs the client its connection, by Proxy.CutOn.
type Cut struct {
	// Done is closed when the connection is gone. The server has not seen the
	// request.
	Done <-chan struct{}
	rule *rule
}

// Request is what the client tried to send.
func (c *Cut) Request() Request { return c.rule.request }

// Swallowed tells of bytes that vanish, by Proxy.Swallow.
type Swallowed struct {
	// First is closed when the first request or reply has vanished.
	First <-chan struct{}
	first chan struct{}
	once  sync.Once
	proxy *Proxy
	dir   Direction
}

// Stop lets the bytes of new connections pass again. Connections that lost
// bytes stay dead until somebody closes them.
func (s *Swallowed) Stop() {
	s.proxy.mu.Lock()
	defer s.proxy.mu.Unlock()
	if s.proxy.swallow[s.dir] == s {
		s.proxy.swallow[s.dir] = nil
	}
}
