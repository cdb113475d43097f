package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// guardName is the command by which redislock starts itself to guard a program.
const guardName = "__guard"

// A guard is a process that outlives this one for as long as it takes to end the
// program: whoever kills redislock with SIGKILL would leave it running without the lock.
type guard struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

func startGuard(grace time.Duration) (*guard, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting the guard: %w", err)
	}
	cmd := exec.Command(self, guardName, grace.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's signals are not for it
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the guard: %w", err)
	}
	return &guard{cmd, pipe}, nil
}

// watch tells which process group is guarded.
func (g *guard) watch(group int) { _, _ = fmt.Fprintln(g.pipe, group) }

// dismiss ends the guard: nothing is left to be ended.
func (g *guard) dismiss() {
	_, _ = fmt.Fprintln(g.pipe, "done")
	_ = g.pipe.Close()
	_ = g.cmd.Wait()
}

// guardMain is the guard. The end of its input without "done" is the end of redislock.
func guardMain(input io.Reader, grace string) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	wait, err := time.ParseDuration(grace)
	if err != nil {
		return exitUsage
	}
	group := 0
	for lines := bufio.NewScanner(input); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "done" {
			return exitOK
		}
		if n, err := strconv.Atoi(line); err == nil && n > 1 {
			group = n
		}
	}
	if group == 0 {
		return exitOK
	}
	gone := func() bool { return syscall.Kill(-group, 0) != nil }
	_ = syscall.Kill(-group, syscall.SIGTERM)
	_ = syscall.Kill(-group, syscall.SIGCONT)
	for deadline := time.Now().Add(wait); !gone() && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
	return exitOK
}
