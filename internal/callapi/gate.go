package callapi

import (
	"net"
	"sync"
)

// gate bounds the connections of a listener. One too many is closed at once: were it left
// waiting, a single address could keep all others out.
type gate struct {
	net.Listener
	most, mostOfOne int

	mu   sync.Mutex
	open int
	of   map[string]int
}

func newGate(l net.Listener, most, mostOfOne int) *gate {
	return &gate{Listener: l, most: most, mostOfOne: mostOfOne, of: map[string]int{}}
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := origin(conn.RemoteAddr().String())
		if g.enter(from) {
			return &guest{Conn: conn, leave: sync.OnceFunc(func() { g.leave(from) })}, nil
		}
		_ = conn.Close()
	}
}

func (g *gate) enter(from string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open >= g.most || g.of[from] >= g.mostOfOne {
		return false
	}
	g.open++
	g.of[from]++
	return true
}

func (g *gate) leave(from string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if g.of[from]--; g.of[from] == 0 {
		delete(g.of, from)
	}
}

type guest struct {
	net.Conn
	leave func()
}

func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}
