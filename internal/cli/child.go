package cli

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// goneTimeout bounds the wait for processes that got SIGKILL and so act no more: what
// is left of them may be for somebody else to reap.
const goneTimeout = 2 * time.Second

// A child is a program in a process group of its own, so that what it starts ends with
// it.
type child struct {
	cmd   *exec.Cmd
	guard *guard
	// terminal is the descriptor of the terminal that it talks to, -1 for none.
	terminal int
	exited   chan struct{}
}

// startChild starts a program, and a guard that ends it should this process be killed.
// Its standard input is input; nil for this process' own.
func (a *App) startChild(program, environ []string, grace time.Duration, input *os.File) (*child, error) {
	path, err := exec.LookPath(program[0])
	if err != nil {
		return nil, startError(err)
	}
	g, err := startGuard(grace)
	if err != nil {
		return nil, &exitError{exitCannotRun, err}
	}
	cmd := &exec.Cmd{
		Path: path, Args: program, Env: environ,
		Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	// In a terminal the program is what it talks to: it gets the keys, and Ctrl-C.
	terminal := -1
	if input != nil {
		cmd.Stdin = input
	} else if group, err := unix.IoctlGetInt(int(a.Stdin.Fd()), unix.TIOCGPGRP); err == nil && group == unix.Getpgrp() {
		terminal = int(a.Stdin.Fd())
		cmd.SysProcAttr.Foreground, cmd.SysProcAttr.Ctty = true, terminal
	}
	if err := cmd.Start(); err != nil {
		g.dismiss()
		return nil, startError(err)
	}
	c := &child{cmd: cmd, guard: g, terminal: terminal, exited: make(chan struct{})}
	g.watch(cmd.Process.Pid)
	go func() {
		_ = cmd.Wait() // its state says how it ended
		close(c.exited)
	}()
	return c, nil
}

func startError(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return &exitError{exitNotFound, err}
	}
	return &exitError{exitCannotRun, err}
}

// signal sends a signal to all processes of the group.
func (c *child) signal(s syscall.Signal) { _ = syscall.Kill(-c.cmd.Process.Pid, s) }

// end ends what still runs: SIGTERM, and SIGKILL once grace is over. It returns when
// nothing of the group acts any more.
func (c *child) end(grace time.Duration) {
	if grace > 0 && !c.gone() {
		c.signal(syscall.SIGTERM)
		c.signal(syscall.SIGCONT) // one that is stopped would not hear of it
		c.wait(grace)
	}
	if !c.gone() {
		c.signal(syscall.SIGKILL)
		c.wait(goneTimeout)
	}
	c.guard.dismiss()
	if c.terminal >= 0 {
		signal.Ignore(syscall.SIGTTOU) // what the terminal says to one in its background
		_ = unix.IoctlSetPointerInt(c.terminal, unix.TIOCSPGRP, unix.Getpgrp())
		signal.Reset(syscall.SIGTTOU)
	}
}

// wait waits until the group is gone, d at most.
func (c *child) wait(d time.Duration) {
	for deadline := time.Now().Add(d); !c.gone() && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond) // nothing tells when a group is gone
	}
}

// gone says whether no process of the group is left, and reaps those that have become
// ours to reap, which is so for the first process of a container.
func (c *child) gone() bool {
	select {
	case <-c.exited:
	default:
		return false
	}
	for {
		if pid, err := syscall.Wait4(-c.cmd.Process.Pid, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
			break
		}
	}
	return errors.Is(syscall.Kill(-c.cmd.Process.Pid, 0), syscall.ESRCH)
}

// code is the program's exit code, as shells have it; valid once it has exited.
func (c *child) code() int {
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignal + int(status.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}
