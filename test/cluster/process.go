package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/redislock-operator/redislock-operator/test/children"
	"github.com/redislock-operator/redislock-operator/test/supervisor"
)

// ErrNotRunning means that the process has to be started for what was asked.
var ErrNotRunning = supervisor.ErrNotRunning

// Process is one of the programs of a cluster. It keeps its port and its folder
// when it is ended and started again.
type Process struct {
	cluster *Cluster
	name    string
	command supervisor.Command
	// ready fails until the process does its work.
	ready func(context.Context) error

	mu      sync.Mutex // over Start and its kind, so that they do not mix
	pid     int
	exited  <-chan struct{}
	logFrom int64
}

// Name is the name of the program.
func (p *Process) Name() string { return p.name }

// LogFile is where the program writes, over all of its runs.
func (p *Process) LogFile() string { return p.command.Log }

// PID is the id of the process, 0 when it is not running.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0
	}
	return p.pid
}

// Running tells whether there is a process, paused or not.
func (p *Process) Running() bool { return p.PID() != 0 }

func (p *Process) running() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Start starts the program and waits until it is ready. It does nothing when
// the program is running.
func (p *Process) Start(ctx context.Context) error {
	if p.cluster.External() {
		return p.failed("start", ErrExternal)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		if info, err := os.Stat(p.command.Log); err == nil {
			p.logFrom = info.Size()
		}
		var err error
		if p.pid, p.exited, err = p.cluster.super.Start(p.command); err != nil {
			return err
		}
	}
	return p.waitReady(ctx)
}

// waitReady waits until the process is ready, or has ended.
func (p *Process) waitReady(ctx context.Context) error {
	if p.ready == nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	exited := p.exited
	go func() {
		select {
		case <-exited:
			cancel(errors.New("it has ended"))
		case <-done:
		}
	}()
	if err := poll(ctx, p.name, p.ready); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return fmt.Errorf("%s is not ready: %w\nits log (%s) ends:\n%s", p.name, err, p.command.Log, p.tail())
	}
	return nil
}

// Stop ends the program in order (SIGTERM) and returns when it has ended.
func (p *Process) Stop(ctx context.Context) error { return p.end(ctx, "stop", syscall.SIGTERM) }

// Kill ends the program as a crash would (SIGKILL) and returns when it is gone.
func (p *Process) Kill(ctx context.Context) error { return p.end(ctx, "kill", syscall.SIGKILL) }

func (p *Process) end(ctx context.Context, verb string, sig syscall.Signal) error {
	if p.cluster.External() {
		return p.failed(verb, ErrExternal)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return nil
	}
	// A paused process takes note of SIGTERM only when it goes on.
	for _, s := range []syscall.Signal{sig, syscall.SIGCONT} {
		if err := p.cluster.super.Signal(p.name, s); err != nil && !errors.Is(err, ErrNotRunning) {
			return p.failed(verb, err)
		}
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return p.failed(verb, ctx.Err())
	}
}

// Restart is Stop and Start.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Pause makes the program hang (SIGSTOP): its connections stay and nothing
// answers. It returns when the process stands still.
func (p *Process) Pause(ctx context.Context) error {
	return p.control("pause", func(pid int) error { return children.Pause(ctx, pid) })
}

// Resume lets a paused program go on.
func (p *Process) Resume() error {
	return p.control("resume", children.Resume)
}

func (p *Process) control(verb string, f func(pid int) error) error {
	if p.cluster.External() {
		return p.failed(verb, ErrExternal)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return p.failed(verb, ErrNotRunning)
	}
	if err := f(p.pid); err != nil {
		return p.failed(verb, err)
	}
	return nil
}

func (p *Process) failed(verb string, err error) error {
	return fmt.Errorf("%s %s of cluster %s: %w", verb, p.name, p.cluster.opts.Name, err)
}

// tail is the end of what the present run has logged.
func (p *Process) tail() string {
	const most = 4 << 10
	f, err := os.Open(p.command.Log)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(p.logFrom, info.Size()-most), most))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
