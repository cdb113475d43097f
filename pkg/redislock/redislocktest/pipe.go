package redislocktest

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// pipe returns the two ends of a connection. What the server writes to ours never
// blocks, as it does on a bare net.Pipe: a client that sends a long pipeline reads
// no answer before it has sent all, and the server no request before it has answered
// the one before.
func pipe() (ours, theirs net.Conn) {
	ours, theirs = net.Pipe()
	b := &buffered{Conn: ours, more: make(chan struct{}, 1), closed: make(chan struct{})}
	go b.pump()
	return b, &dialled{theirs}
}

// dialled fails as a socket does when the other end is gone: go-redis tries again
// after that, but not after io.ErrClosedPipe.
type dialled struct{ net.Conn }

func (d *dialled) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	return n, broken("read", err)
}

func (d *dialled) Write(p []byte) (int, error) {
	n, err := d.Conn.Write(p)
	return n, broken("write", err)
}

func (d *dialled) SetDeadline(t time.Time) error     { return broken("set", d.Conn.SetDeadline(t)) }
func (d *dialled) SetReadDeadline(t time.Time) error { return broken("set", d.Conn.SetReadDeadline(t)) }
func (d *dialled) SetWriteDeadline(t time.Time) error {
	return broken("set", d.Conn.SetWriteDeadline(t))
}

func broken(op string, err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return &net.OpError{Op: op, Net: "pipe", Err: syscall.EPIPE}
	}
	return err
}

// buffered writes in the background.
type buffered struct {
	net.Conn
	more   chan struct{} // there is something in unsent
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex
	unsent []byte
	err    error
}

func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	b.unsent = append(b.unsent, p...)
	select {
	case b.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (b *buffered) pump() {
	for {
		select {
		case <-b.more:
		case <-b.closed:
			return
		}
		b.mu.Lock()
		next := b.unsent
		b.unsent = nil
		b.mu.Unlock()
		if _, err := b.Conn.Write(next); err != nil {
			b.mu.Lock()
			b.err = err
			b.mu.Unlock()
			return
		}
	}
}

func (b *buffered) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Conn.Close()
}
