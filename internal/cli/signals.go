package cli

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
)

// forwarded are the signals that a program under a lock gets from redislock. SIGKILL
// and SIGSTOP cannot be; what nohup has redislock ignore stays ignored.
func forwarded() []os.Signal {
	all := []os.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH,
	}
	return slices.DeleteFunc(all, signal.Ignored)
}

// ends says whether a signal ends a program that does nothing about it, and so a wait.
func ends(s syscall.Signal) bool { return s != syscall.SIGCONT && s != syscall.SIGWINCH }

// asksToEnd says whether a signal is meant for who runs programs again and again, too.
func asksToEnd(s syscall.Signal) bool {
	return s == syscall.SIGINT || s == syscall.SIGTERM || s == syscall.SIGHUP || s == syscall.SIGQUIT
}

// signals gives each signal to the program that runs; while none does, one that ends
// programs ends the context.
type signals struct {
	context.Context
	cancel   context.CancelCauseFunc
	received chan os.Signal

	mu    sync.Mutex
	to    *child
	asked syscall.Signal // the last one passed on that asks to end; 0 for none
}

func (s *signals) deliver(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case received := <-s.received:
			sig, ok := received.(syscall.Signal)
			if !ok {
				continue
			}
			s.mu.Lock()
			switch {
			case s.to != nil:
				s.to.signal(sig)
				if asksToEnd(sig) {
					s.asked = sig
				}
			case ends(sig):
				s.cancel(&signalError{sig})
			}
			s.mu.Unlock()
		}
	}
}

// start starts a program to which signals go from then on, unless one has ended the
// context before.
func (s *signals) start(start func() (*child, error)) (*child, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Err() != nil {
		return nil, context.Cause(s)
	}
	c, err := start()
	if err == nil {
		s.to = c
	}
	return c, err
}

// ended says that the program is gone.
func (s *signals) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to = nil
}

// endIfAsked ends the context if a program was given a signal that asks to end.
func (s *signals) endIfAsked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked != 0 {
		s.cancel(&signalError{s.asked})
	}
}
