package interop

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"testing"
)

// A register is what the locks guard. Contenders of any language come to it over
// TCP, one line at a time: "enter <name> <fence>" when they hold the lock, and "leave
// <name>" before they give it back. The answer to that is "go" or, once everybody has
// had enough turns, "stop".
type register struct {
	listener net.Listener
	least    map[string]int // turns, by contender

	mu       sync.Mutex
	inside   string
	highest  uint64
	turns    map[string]int
	overlaps []string
}

func startRegister(t *testing.T, least map[string]int) *register {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &register{listener: listener, least: least, turns: map[string]int{}}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go r.serve(conn)
		}
	}()
	return r
}

func (r *register) port() string {
	_, port, _ := net.SplitHostPort(r.listener.Addr().String())
	return port
}

func (r *register) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var name string
		var fence uint64
		answer := "what?"
		if n, _ := fmt.Sscanf(lines.Text(), "enter %s %d", &name, &fence); n == 2 {
			answer = r.enter(name, fence)
		} else if n, _ := fmt.Sscanf(lines.Text(), "leave %s", &name); n == 1 {
			answer = r.leave(name)
		}
		if _, err := fmt.Fprintln(conn, answer); err != nil {
			return
		}
	}
}

// enter takes note of one who comes in. Fences rise from one of ours to the next;
// those of other libraries have none.
func (r *register) enter(name string, fence uint64) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inside != "" {
		r.overlaps = append(r.overlaps, fmt.Sprintf("%s came in while %s was inside", name, r.inside))
	}
	if fence != 0 && fence <= r.highest {
		r.overlaps = append(r.overlaps, fmt.Sprintf("%s came with fencing token %d after %d", name, fence, r.highest))
	}
	r.inside, r.highest = name, max(r.highest, fence)
	r.turns[name]++
	return "ok"
}

func (r *register) leave(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inside != name {
		r.overlaps = append(r.overlaps, fmt.Sprintf("%s left while %q was inside", name, r.inside))
	}
	r.inside = ""
	for name, least := range r.least {
		if r.turns[name] < least {
			return "go"
		}
	}
	return "stop"
}

// report returns what was wrong, and the turns by contender.
func (r *register) report() (overlaps []string, turns map[string]int, total int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.turns {
		total += n
	}
	return r.overlaps, r.turns, total
}
