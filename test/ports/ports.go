// Package ports hands out TCP ports to tests that run side by side.
//
// Asking the kernel for a free port and closing it again is not enough: another
// test, or an outgoing connection of any program, may be given the same port
// before the server that is to have it has bound it, or while that server is
// being restarted. So a port here lies outside the range from which the kernel
// serves outgoing connections, and stays reserved, against every other process
// that uses this package, until it is released or its holder has died.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

// ErrNone means that no port could be reserved.
var ErrNone = errors.New("no free TCP port found")

const (
	lowest   = 12000
	attempts = 500
)

var (
	mu   sync.Mutex
	held = map[int]bool{}
)

// Port is a reserved port of the loopback address.
type Port struct {
	number int
	lock   net.Listener
	once   sync.Once
}

// Reserve picks a port that nobody listens on and keeps it from the other users
// of this package until Release.
func Reserve() (*Port, error) {
	highest := outgoingFrom()
	for range attempts {
		number := lowest + rand.IntN(highest-lowest)
		if p := reserve(number); p != nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: tried %d ports from %d to %d", ErrNone, attempts, lowest, highest-1)
}

func reserve(number int) *Port {
	mu.Lock()
	defer mu.Unlock()
	if held[number] {
		return nil
	}
	lock, err := acquire(number)
	if err != nil {
		return nil
	}
	// The wildcard address too: a server that listens on all addresses would
	// not be seen on the loopback address by every kernel.
	for _, host := range []string{"127.0.0.1", ""} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(number)))
		if err != nil {
			if lock != nil {
				_ = lock.Close()
			}
			return nil
		}
		_ = l.Close()
	}
	held[number] = true
	return &Port{number: number, lock: lock}
}

// Number is the port.
func (p *Port) Number() int { return p.number }

// String is the port in decimal.
func (p *Port) String() string { return strconv.Itoa(p.number) }

// Addr is the port on the loopback address, as host:port.
func (p *Port) Addr() string { return net.JoinHostPort("127.0.0.1", p.String()) }

// Release gives the port back. It may be called more than once.
func (p *Port) Release() {
	p.once.Do(func() {
		mu.Lock()
		defer mu.Unlock()
		delete(held, p.number)
		if p.lock != nil {
			_ = p.lock.Close()
		}
	})
}

// outgoingFrom is the lowest port that the kernel gives to outgoing connections.
func outgoingFrom() int {
	const usual = 32768
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usual
	}
	low, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\t")
	n, err := strconv.Atoi(strings.TrimSpace(low))
	if err != nil || n < lowest+1000 {
		return usual
	}
	return n
}
