// Package redisserver runs real Redis servers for tests and the demo.
//
// Each server has its own port, which it keeps over restarts, and its own
// folder. It ends with the process that started it, however that one ends.
//
//	redis := redisserver.Start(t, redisserver.Options{Password: "secret"})
//	client := goredis.NewClient(must(goredis.ParseURL(redis.URL())))
//	redis.Pause() // the server hangs
//
// It runs the program redis-server from PATH, or the one that REDIS_SERVER
// names, and nothing pretends to be it: where it is missing, Start fails and
// says what to install.
package redisserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redislock-operator/redislock-operator/test/certs"
	"github.com/redislock-operator/redislock-operator/test/children"
	"github.com/redislock-operator/redislock-operator/test/ports"
	"github.com/redislock-operator/redislock-operator/test/supervisor"
)

// ErrNotInstalled means that there is no redis-server to run.
var ErrNotInstalled = errors.New("redis-server is not installed: " +
	"install it (Debian and Ubuntu: apt-get install redis-server; Fedora: dnf install redis; macOS: brew install redis) " +
	"or set REDIS_SERVER to its path")

// ErrNotRunning means that the server has to be started for what was asked.
var ErrNotRunning = errors.New("redis-server is not running")

// startTimeout is generous: a loaded machine starts dozens of servers at once.
const startTimeout = 30 * time.Second

// Options say how the server is to be. The zero value is a server on a TCP port
// of the loopback address, without password and without persistence.
type Options struct {
	// Password of the default user.
	Password string
	// ACL are lines of an ACL file: "user app on >secret ~lock:* +@all".
	ACL []string
	// TLS serves TLS only. The certificate is for 127.0.0.1 and localhost; see
	// Server.TLSConfig and Server.CAFile.
	TLS bool
	// UnixSocket serves a Unix socket and no port.
	UnixSocket bool
	// AppendOnly keeps an append-only file, synced on each write.
	AppendOnly bool
	// Save are the points at which a snapshot is taken ("60 1"); none when empty.
	Save string
	// Args are further arguments of redis-server: "--maxmemory", "10mb".
	Args []string
	// Dir is the folder for data; a temporary one, removed at the end, when empty.
	Dir string
	// Log gets what the server prints; see also Server.Output.
	Log io.Writer
	// Port asks for a certain port. Free choice when 0, which is what tests want.
	Port int

	// sentinelOf makes it a Sentinel of a primary; see StartSentinel.
	sentinelOf   *Server
	sentinelName string
}

// Persist tells what a restart does with the data.
type Persist bool

const (
	// KeepData leaves the folder as it is. What the server finds there depends
	// on AppendOnly and Save, and on whether it was stopped or killed.
	KeepData Persist = true
	// EmptyData starts with nothing, as a server whose disk was replaced.
	EmptyData Persist = false
)

// Server is a redis-server process and the place that it keeps over restarts.
type Server struct {
	opts    Options
	program string
	dir     string
	ownDir  bool
	port    *ports.Port
	ca      *certs.CA

	mu     sync.Mutex
	proc   *process
	closed bool

	// outputMu is apart from mu, which Start holds while the server prints.
	outputMu sync.Mutex
	output   strings.Builder
}

// process is one run of the program.
type process struct {
	cmd    *exec.Cmd
	ready  chan struct{}
	exited chan struct{}
	err    error // of Wait; set before exited is closed
}

// Start starts a server that ends with the test. It fails the test when that
// does not work.
func Start(tb testing.TB, opts Options) *Server {
	tb.Helper()
	s, err := New(context.Background(), opts)
	if err != nil {
		tb.Fatalf("start redis-server: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("stop redis-server: %v", err)
		}
		if tb.Failed() {
			tb.Logf("redis-server on %s printed:\n%s", s.Addr(), s.Output())
		}
	})
	return s
}

// New starts a server and returns when it accepts commands. The caller calls
// Close.
func New(ctx context.Context, opts Options) (*Server, error) {
	program, err := lookup()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, program: program, dir: opts.Dir}
	if s.dir == "" {
		parent, err := folders()
		if err != nil {
			return nil, err
		}
		if s.dir, err = os.MkdirTemp(parent.path, ""); err != nil {
			return nil, fmt.Errorf("make a folder for redis-server: %w", err)
		}
		s.ownDir = true
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// folder is where the servers of this program have their folders. A supervisor
// removes it when the program ends, in whatever way; it is kept here because the
// end of its pipe is the sign of that.
type folder struct {
	path   string
	keeper *supervisor.Supervisor
}

var folders = sync.OnceValues(func() (folder, error) {
	path, err := os.MkdirTemp("", "redislock-redis-")
	if err != nil {
		return folder{}, fmt.Errorf("make a folder for redis-server: %w", err)
	}
	keeper, err := supervisor.New(path, true)
	if err != nil {
		return folder{}, errors.Join(err, os.RemoveAll(path))
	}
	return folder{path, keeper}, nil
})

func lookup() (string, error) {
	if p := os.Getenv("REDIS_SERVER"); p != "" {
		if _, err := exec.LookPath(p); err != nil {
			return "", fmt.Errorf("REDIS_SERVER: %w", err)
		}
		return p, nil
	}
	p, err := exec.LookPath("redis-server")
	if err != nil {
		return "", ErrNotInstalled
	}
	return p, nil
}

// prepare writes what the server reads at its start.
func (s *Server) prepare() error {
	if s.opts.sentinelOf != nil {
		return s.prepareSentinel()
	}
	if len(s.opts.ACL) > 0 {
		lines := s.opts.ACL
		if s.opts.Password != "" {
			// requirepass and an ACL file exclude one another.
			lines = append([]string{"user default on >" + s.opts.Password + " ~* &* +@all"}, lines...)
		}
		if err := os.WriteFile(s.path("users.acl"), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return fmt.Errorf("write the ACL file: %w", err)
		}
	}
	if s.opts.TLS {
		ca, err := certs.NewCA("redislock test Redis")
		if err != nil {
			return err
		}
		pair, err := ca.Server("redis", "127.0.0.1", "localhost")
		if err != nil {
			return err
		}
		if _, _, err := pair.Write(s.dir, "server"); err != nil {
			return fmt.Errorf("write the certificate: %w", err)
		}
		if err := os.WriteFile(s.CAFile(), ca.Cert, 0o644); err != nil {
			return fmt.Errorf("write the certificate of the CA: %w", err)
		}
		s.ca = ca
	}
	return nil
}

// startOnFreePort takes another port when somebody who does not use package
// ports took the chosen one first.
func (s *Server) startOnFreePort(ctx context.Context) error {
	if s.opts.UnixSocket || s.opts.Port != 0 {
		return s.StartContext(ctx)
	}
	for {
		port, err := ports.Reserve()
		if err != nil {
			return err
		}
		s.port = port
		err = s.StartContext(ctx)
		if err == nil || ctx.Err() != nil || !strings.Contains(s.Output(), "Address already in use") {
			return err
		}
		port.Release()
	}
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) portNumber() int {
	if s.opts.Port != 0 {
		return s.opts.Port
	}
	return s.port.Number()
}

func (s *Server) args() []string {
	if s.opts.sentinelOf != nil {
		return s.sentinelArgs()
	}
	args := []string{"--dir", s.dir, "--save", s.opts.Save, "--appendonly", "no", "--daemonize", "no"}
	if s.opts.AppendOnly {
		args = append(args, "--appendonly", "yes", "--appendfsync", "always")
	}
	switch {
	case s.opts.UnixSocket:
		args = append(args, "--port", "0", "--unixsocket", s.path("redis.sock"), "--unixsocketperm", "700")
	case s.opts.TLS:
		args = append(args, "--bind", "127.0.0.1", "--port", "0", "--tls-port", fmt.Sprint(s.portNumber()),
			"--tls-cert-file", s.path("server.crt"), "--tls-key-file", s.path("server.key"),
			"--tls-ca-cert-file", s.CAFile(), "--tls-auth-clients", "no")
	default:
		args = append(args, "--bind", "127.0.0.1", "--port", fmt.Sprint(s.portNumber()))
	}
	switch {
	case len(s.opts.ACL) > 0:
		args = append(args, "--aclfile", s.path("users.acl"))
	case s.opts.Password != "":
		args = append(args, "--requirepass", s.opts.Password)
	}
	return append(args, s.opts.Args...)
}

// Start starts the server again, on the same port, with what is in its folder.
func (s *Server) Start() error { return s.StartContext(context.Background()) }

// StartContext is Start with a context that bounds the wait for the server.
func (s *Server) StartContext(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("start redis-server: it was closed")
	}
	if s.proc != nil && !s.proc.ended() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	s.outputMu.Lock()
	s.output.Reset()
	s.outputMu.Unlock()
	p := &process{
		cmd:    exec.Command(s.program, s.args()...),
		ready:  make(chan struct{}),
		exited: make(chan struct{}),
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start redis-server: %w", err)
	}
	p.cmd.Stderr = p.cmd.Stdout
	// Ctrl-C is for the test, which stops its servers when it likes.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := children.Start(p.cmd); err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	go s.watch(p, out)

	select {
	case <-p.ready:
		s.proc = p
		return nil
	case <-p.exited:
		return fmt.Errorf("start redis-server: it ended at once (%w) and printed:\n%s", p.waitErr(), s.Output())
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("start redis-server: %w; it printed:\n%s", ctx.Err(), s.Output())
	}
}

func (s *Server) watch(p *process, out io.Reader) {
	ready := false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		s.outputMu.Lock()
		s.output.WriteString(line + "\n")
		s.outputMu.Unlock()
		if s.opts.Log != nil {
			_, _ = fmt.Fprintln(s.opts.Log, line)
		}
		if !ready && announcesReady(line) {
			ready = true
			close(p.ready)
		}
	}
	p.err = p.cmd.Wait()
	close(p.exited)
}

// announcesReady recognises what is printed when the data is loaded, which a PING
// without password could not tell; a Sentinel prints what it watches.
func announcesReady(line string) bool {
	return strings.Contains(line, "Ready to accept connections") || strings.Contains(line, "ready to accept connections at") ||
		strings.Contains(line, " # +monitor ")
}

func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *process) waitErr() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

// Output is what the present run of the server has printed.
func (s *Server) Output() string {
	s.outputMu.Lock()
	defer s.outputMu.Unlock()
	return s.output.String()
}

// Addr is host:port, or the path of the socket.
func (s *Server) Addr() string {
	if s.opts.UnixSocket {
		return s.path("redis.sock")
	}
	return fmt.Sprintf("127.0.0.1:%d", s.portNumber())
}

// URL is the address for clients, with the password of the default user.
func (s *Server) URL() string { return s.UserURL("", s.opts.Password) }

// UserURL is the address for clients that log in as a user of the ACL.
func (s *Server) UserURL(user, password string) string {
	u := url.URL{Scheme: "redis", Host: s.Addr(), Path: "/0"}
	if s.opts.TLS {
		u.Scheme = "rediss"
	}
	if s.opts.UnixSocket {
		u = url.URL{Scheme: "unix", Path: s.Addr()}
	}
	if user != "" || password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}

// TLSConfig trusts the server's certificate. It is nil without TLS.
func (s *Server) TLSConfig() *tls.Config {
	if s.ca == nil {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.ca.Cert)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// CAFile is the PEM file of the authority that signed the server's certificate.
func (s *Server) CAFile() string { return s.path("ca.crt") }

// Dir is the folder of the server's data.
func (s *Server) Dir() string { return s.dir }

// PID is the process id of the present run, 0 when there is none.
func (s *Server) PID() int {
	p := s.running()
	if p == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Running tells whether there is a process, paused or not.
func (s *Server) Running() bool { return s.running() != nil }

func (s *Server) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || s.proc.ended() {
		return nil
	}
	return s.proc
}

// Stop ends the server as an administrator would (SIGTERM): it saves what it is
// told to save.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Kill ends the server as a crash would (SIGKILL).
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) error {
	p := s.running()
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end redis-server: %w", err)
	}
	// A paused process takes SIGTERM only when it goes on.
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-p.exited:
	case <-time.After(startTimeout):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("end redis-server: it took no notice of %v for %v and was killed", sig, startTimeout)
	}
	return nil
}

// Pause makes the server hang (SIGSTOP): connections stay, nothing answers. It
// returns when the server stands still.
func (s *Server) Pause() error {
	p := s.running()
	if p == nil {
		return ErrNotRunning
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return children.Pause(ctx, p.cmd.Process.Pid)
}

// Resume lets a paused server go on.
func (s *Server) Resume() error {
	p := s.running()
	if p == nil {
		return ErrNotRunning
	}
	return children.Resume(p.cmd.Process.Pid)
}

// Restart stops the server and starts it on the same port.
func (s *Server) Restart(data Persist) error {
	if err := s.Stop(); err != nil {
		return err
	}
	if data == EmptyData {
		if err := s.Empty(); err != nil {
			return err
		}
	}
	return s.Start()
}

// Empty removes the data of a server that is not running.
func (s *Server) Empty() error {
	if s.Running() {
		return errors.New("remove the data of redis-server: it is running")
	}
	for _, pattern := range []string{"dump.rdb", "appendonlydir", "appendonly.aof", "temp-*"} {
		found, err := filepath.Glob(s.path(pattern))
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := os.RemoveAll(f); err != nil {
				return fmt.Errorf("remove the data of redis-server: %w", err)
			}
		}
	}
	return nil
}

// Close kills the server and removes its folder, unless the caller gave it.
func (s *Server) Close() error {
	err := s.Kill()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.port != nil {
		s.port.Release()
	}
	if s.ownDir {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}
