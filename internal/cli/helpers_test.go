package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const key = "lock:report"

// waitDelay bounds the wait for pipes that something holds open which should have ended.
const waitDelay = 10 * time.Second

// binary is the program, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "redislock-cli-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "redislock")
	build := exec.Command("go", "build", "-ldflags=-X main.version=v1.2.3", "-o", binary, "../../cmd/redislock")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building redislock: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func within(t *testing.T) *WithT {
	t.Helper()
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(60 * time.Second)
	g.SetDefaultEventuallyPollingInterval(5 * time.Millisecond)
	return g
}

// A bench is a Redis and command lines that use it.
type bench struct {
	*WithT
	t      *testing.T
	server *redisserver.Server
	rdb    *redis.Client
}

func newBench(t *testing.T) *bench {
	t.Helper()
	server := redisserver.Start(t, redisserver.Options{UnixSocket: true})
	return &bench{within(t), t, server, redisserver.Connect(t, server.URL())}
}

// environ is that of a command line: nothing of the developer's own.
func (b *bench) environ() []string {
	return append(clean(), "REDISLOCK_REDIS_URL="+b.server.URL())
}

func clean() []string { return []string{"PATH=" + os.Getenv("PATH"), "HOME=/", "FROM_OUTSIDE=kept"} }

// result is what a command line came to.
type result struct {
	code           int
	stdout, stderr string
}

// redislock runs a command line to its end.
func (b *bench) redislock(args ...string) result {
	b.t.Helper()
	return execute(b.t, b.environ(), "", args...)
}

func execute(t *testing.T, environ []string, stdin string, args ...string) result {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.WaitDelay = waitDelay
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("redislock %q: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// A process is a command line that still runs.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}

	mu     sync.Mutex
	lines  []string
	stderr lockedBuffer
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *lockedBuffer) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// start runs a command line that the test ends, or waits for.
func (b *bench) start(args ...string) *process {
	b.t.Helper()
	p := &process{cmd: exec.Command(binary, args...), exited: make(chan struct{})}
	p.cmd.Env, p.cmd.Stderr, p.cmd.WaitDelay = b.environ(), &p.stderr, waitDelay
	// The pipe is ours, for what redislock leaves running may hold it open.
	reader, writer, err := os.Pipe()
	b.Expect(err).NotTo(HaveOccurred())
	p.cmd.Stdout = writer
	b.Expect(p.cmd.Start()).To(Succeed())
	_ = writer.Close()
	go func() {
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, scanner.Text())
			p.mu.Unlock()
		}
	}()
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	b.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		_ = reader.Close()
		if b.t.Failed() {
			b.t.Logf("redislock %q printed %q and said %q", args, p.output(), p.stderr.text())
		}
	})
	return p
}

// output is what it has printed so far.
func (p *process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// line waits for the nth line that it prints, from 0.
func (b *bench) line(p *process, n int) string {
	b.t.Helper()
	b.Eventually(func() int { return len(p.output()) }).Should(BeNumerically(">", n))
	return p.output()[n]
}

// pids are the process ids in a line.
func (b *bench) pids(line string) []int {
	b.t.Helper()
	var pids []int
	for field := range strings.FieldsSeq(line) {
		pid, err := strconv.Atoi(field)
		b.Expect(err).NotTo(HaveOccurred())
		pids = append(pids, pid)
	}
	return pids
}

// alive says whether a process runs: one that is dead but not reaped does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	i := bytes.LastIndexByte(stat, ')')
	return i < 0 || i+2 >= len(stat) || stat[i+2] != 'Z'
}

func (b *bench) code(p *process) int {
	b.t.Helper()
	b.Eventually(p.exited).Should(BeClosed())
	return p.cmd.ProcessState.ExitCode()
}

func (b *bench) value(key string) string {
	b.t.Helper()
	value, err := b.rdb.Get(context.Background(), key).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		b.t.Fatal(err)
	}
	return value
}
