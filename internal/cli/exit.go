package cli

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Exit codes beside those of the program that is run, which are passed on. They keep
// away from the small numbers that programs use; 126, 127 and 128 + n are those of
// shells.
const (
	exitOK          = 0
	exitFalse       = 1
	exitUsage       = 64
	exitUnavailable = 69
	exitNotAcquired = 75
	exitLost        = 79
	exitCannotRun   = 126
	exitNotFound    = 127
	exitSignal      = 128
)

// exitCodes is the table of docs/cli.md.
var exitCodes = []struct {
	code    string
	meaning string
}{
	{"0", "done; the program that was run ended with 0; status: the lock is held; debounce status: a window is open, or a run goes on"},
	{"1", "status: the lock is free; debounce status: nothing waits or is run; release: there was nothing to release"},
	{"64", "the command line is wrong, and nothing was sent"},
	{"69", "Redis cannot be asked, refuses, or holds what is no lock, or no debounce"},
	{"75", "the lock was not acquired: somebody has it (--no-wait, --timeout)"},
	{"79", "run, debounce run --once: the lock, or the claim, was lost while the program ran, which was ended"},
	{"126", "the program cannot be run"},
	{"127", "the program was not found"},
	{"128+n", "signal n ended the program, or redislock while it waited"},
	{"other", "that of the program that was run"},
}

func writeExitCodes(b *strings.Builder) {
	for _, c := range exitCodes {
		fmt.Fprintf(b, "  %-6s %s\n", c.code, c.meaning)
	}
}

// An exitError ends redislock with a code, and says something unless err is nil.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// A signalError is a signal that ended a wait.
type signalError struct{ signal syscall.Signal }

func (e *signalError) Error() string { return e.signal.String() }

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func exitCode(err error) int {
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code
	}
	if s, ok := errors.AsType[*signalError](err); ok {
		return exitSignal + int(s.signal)
	}
	switch {
	case errors.Is(err, redislock.ErrInvalid):
		return exitUsage
	case errors.Is(err, redislock.ErrLost):
		return exitLost
	case errors.Is(err, redislock.ErrNotAcquired):
		return exitNotAcquired
	}
	return exitUnavailable
}

// message is what is said of an error; "" where its exit code says it all.
func message(err error) string {
	if exit, ok := errors.AsType[*exitError](err); ok && exit.err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "redislock: ", "")
}
