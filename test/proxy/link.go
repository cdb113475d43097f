package proxy

import (
	"bufio"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
)

// link is a client's connection and the one to the server that serves it.
//
// The two ends live and die apart: the connection to the server stays for as
// long as a request of the client is held, also when the client has gone.
type link struct {
	proxy            *Proxy
	number           int
	client, upstream net.Conn
	preamble         []byte // what logs the client in; the request side's alone

	cutOnce sync.Once
	gone    chan struct{} // closed when the client is cut or has left

	mu      sync.Mutex
	pending []*exchange
	dead    bool // the server's end is gone
	raw     bool // replies can no longer be told apart
	mute    bool // a reply was lost, so none may follow
}

// exchange is a request on its way and the reply that it waits for.
type exchange struct {
	rule  *rule
	done  chan struct{}
	reply string
	err   error
}

func (l *link) run() {
	var wg sync.WaitGroup
	wg.Go(l.replies)
	l.requestLoop()
	// Half of a close: what the server still has to say is read, because a
	// close with unread replies would reset the connection and could take
	// requests with it that the server has not read yet.
	if c, ok := l.upstream.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
	wg.Wait()
}

func (l *link) cutClient() {
	l.cutOnce.Do(func() {
		close(l.gone)
		_ = l.client.Close()
	})
}

func (l *link) clientGone() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

func (l *link) requestLoop() {
	r := bufio.NewReader(l.client)
	lost := false
	for {
		raw, args, err := readCommand(r)
		if err != nil {
			break
		}
		if !l.proxy.pass() || !l.proxy.lag() {
			return
		}
		rule, req := l.proxy.route(l, args)
		if rule != nil {
			rule.request, rule.raw, rule.link = req, raw, l
			rule.preamble = l.preamble
		}
		// A stream that lost bytes gets no more of them.
		if lost = lost || l.proxy.vanish(ToServer); lost {
			continue
		}
		if !l.request(rule, raw, args) {
			break
		}
	}
	// Redis gives no more replies to a client that closed its side, either.
	l.cutClient()
}

// request deals with one request. It is false when the client has been cut.
func (l *link) request(r *rule, raw []byte, args []string) bool {
	if r == nil {
		return l.forward(nil, raw, args) != nil
	}
	switch r.kind {
	case cutBefore:
		l.cutClient()
		close(r.caught)
		return false
	case holdRequest:
		close(r.caught)
		select {
		case <-r.deliver:
		case <-r.cut:
			l.cutClient()
			r.settle("", ErrCut)
			return false
		case <-l.proxy.closed:
			r.settle("", ErrClosed)
			return false
		}
		ex := l.forward(r, raw, args)
		if ex == nil {
			r.settle("", errServerGone)
			return false
		}
		<-ex.done
		r.settle(ex.reply, ex.err)
		return true
	default:
		return l.forward(r, raw, args) != nil
	}
}

// forward sends a request to the server and enters it among those that wait for
// their reply.
func (l *link) forward(r *rule, raw []byte, args []string) *exchange {
	ex := &exchange{rule: r, done: make(chan struct{})}
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return nil
	}
	switch name := strings.ToUpper(first(args)); name {
	case "HELLO", "AUTH", "SELECT":
		l.preamble = append(slices.Clip(l.preamble), raw...)
	case "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR", "SYNC", "PSYNC":
		l.raw = true
	case "CLIENT":
		if len(args) > 1 && strings.EqualFold(args[1], "REPLY") {
			l.raw = true
		}
	}
	if len(args) == 0 || l.raw {
		// Nobody can tell which reply is its own; to an empty line there is none.
		close(ex.done)
	} else {
		l.pending = append(l.pending, ex)
	}
	l.mu.Unlock()
	// A failed write shows on the side of the replies, which ends all that wait.
	_, _ = l.upstream.Write(raw)
	return ex
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (l *link) replies() {
	defer l.serverGone()
	r := bufio.NewReader(l.upstream)
	for {
		if l.isRaw() {
			l.copyRaw(r)
			return
		}
		raw, push, err := readReply(r)
		if err != nil {
			return
		}
		if !l.proxy.pass() {
			return
		}
		if l.isRaw() || push {
			l.toClient(raw)
			continue
		}
		l.settle(l.next(), raw)
	}
}

// settle gives a reply to whom it belongs.
func (l *link) settle(ex *exchange, raw []byte) {
	if ex == nil {
		l.toClient(raw)
		return
	}
	ex.reply = string(raw)
	defer close(ex.done)
	r := ex.rule
	if r == nil {
		l.toClient(raw)
		return
	}
	switch r.kind {
	case dropReply:
		l.mu.Lock()
		l.mute = true
		l.mu.Unlock()
		r.settle(ex.reply, nil)
		close(r.caught)
	case holdReply:
		close(r.caught)
		select {
		case <-r.deliver:
			l.toClient(raw)
			r.settle(ex.reply, nil)
		case <-r.cut:
			l.cutClient()
			r.settle(ex.reply, ErrCut)
		case <-l.proxy.closed:
			r.settle(ex.reply, ErrClosed)
		}
	case copyRequest:
		l.toClient(raw)
		r.settle(ex.reply, nil)
		close(r.caught)
	default:
		l.toClient(raw)
	}
}

func (l *link) next() *exchange {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 {
		return nil
	}
	ex := l.pending[0]
	l.pending = l.pending[1:]
	return ex
}

func (l *link) isRaw() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.raw
}

// copyRaw passes bytes without looking into them.
func (l *link) copyRaw(r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if !l.proxy.pass() {
				return
			}
			l.toClient(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// toClient writes to the client if it is there and has missed nothing.
func (l *link) toClient(raw []byte) {
	vanish := l.proxy.vanish(ToClient)
	l.mu.Lock()
	l.mute = l.mute || vanish
	mute := l.mute
	l.mu.Unlock()
	if !mute {
		// A client that is gone is no fault of the request that it made.
		_, _ = l.client.Write(raw)
	}
}

// serverGone ends the link when the server has ended its side.
func (l *link) serverGone() {
	l.mu.Lock()
	l.dead = true
	pending := l.pending
	l.pending = nil
	mute := l.mute
	l.mu.Unlock()
	for _, ex := range pending {
		ex.err = errServerGone
		close(ex.done)
	}
	if !mute {
		l.cutClient()
	}
}
