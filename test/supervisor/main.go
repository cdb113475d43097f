package supervisor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// grace is what processes get to end by themselves when their folder stays, so
// that it is left in order.
const grace = 10 * time.Second

func init() {
	dir, ok := os.LookupEnv(environment)
	if !ok {
		return
	}
	// The processes die with the thread that started them, so it is this one,
	// the first, which lives as long as the process.
	runtime.LockOSThread()
	_ = os.Unsetenv(environment)
	if err := (&supervisor{dir: dir, children: map[string]int{}}).run(); err != nil {
		log.Print(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// supervisor is the process that the package documentation speaks of.
type supervisor struct {
	dir    string
	events *os.File

	mu       sync.Mutex // held while a process is started, so that its end is not missed
	children map[string]int
	order    []string
	reap     *sync.Cond

	remove   []string
	cgroups  []message // their Name is the folder of the names, their Paths the parents
	binds    []Bind
	detached bool
}

func (s *supervisor) run() error {
	s.reap = sync.NewCond(&s.mu)
	s.events = os.NewFile(4, "events")
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	if err := adoptOrphans(); err != nil {
		return err
	}
	// Held, by the open file, until the process ends.
	lock, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another supervisor is in charge of %s: %w", s.dir, err)
	}
	if err := lock.Truncate(0); err != nil {
		return err
	}
	if _, err := lock.WriteString(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		return err
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	commands := make(chan message)
	go read(os.NewFile(3, "commands"), commands)
	go s.reaper()

	var last *message
	for last == nil {
		select {
		case m, ok := <-commands:
			switch {
			case !ok && s.detached:
				commands = nil
			case !ok, m.Op == "end":
				last = &m
			default:
				s.answer(m)
			}
		case <-signals:
			last = &message{}
		}
	}
	err = s.end()
	if err == nil && last.ID != 0 {
		s.say(message{ID: last.ID})
	}
	runtime.KeepAlive(lock)
	return err
}

func read(f *os.File, to chan<- message) {
	defer close(to)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			log.Printf("a command that cannot be read: %v", err)
			return
		}
		to <- m
	}
}

func (s *supervisor) say(m message) {
	line, err := json.Marshal(m)
	if err != nil {
		log.Print(err)
		return
	}
	// Nobody may be there to hear it.
	_, _ = s.events.Write(append(line, '\n'))
}

func (s *supervisor) answer(m message) {
	reply := message{ID: m.ID}
	var err error
	switch m.Op {
	case "start":
		reply.PID, err = s.start(*m.Command)
	case "signal":
		err = s.signal(m.Name, syscall.Signal(m.Signal))
	case "remove":
		s.remove = append(s.remove, m.Paths...)
	case "cgroups":
		s.cgroups = append(s.cgroups, m)
	case "mounts":
		s.binds = append(s.binds, m.Binds...)
		err = privateMounts(m.Binds)
	case "detach":
		s.detached = true
	case "ping":
	default:
		err = fmt.Errorf("unknown operation %q", m.Op)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	s.say(reply)
}

func (s *supervisor) start(c Command) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	out, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { _ = out.Close() }()
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.children[c.Name] != 0 {
		return 0, fmt.Errorf("%s is running", c.Name)
	}
	pid, err := syscall.ForkExec(c.Path, append([]string{c.Path}, c.Args...), &syscall.ProcAttr{
		Dir: c.Dir, Env: env,
		Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys:   attributes(),
	})
	if err != nil {
		return 0, err
	}
	s.children[c.Name] = pid
	s.order = append(s.order, c.Name)
	s.reap.Broadcast()
	return pid, nil
}

func (s *supervisor) signal(name string, sig syscall.Signal) error {
	// Under the lock the process cannot be reaped, so the number is its own.
	s.mu.Lock()
	defer s.mu.Unlock()
	pid := s.children[name]
	if pid == 0 {
		return ErrNotRunning
	}
	return syscall.Kill(pid, sig)
}

// reaper takes note of each child that ends, adopted ones included.
func (s *supervisor) reaper() {
	for {
		var info syscall.WaitStatus
		pid, err := waitAny(&s.mu, &info)
		if errors.Is(err, syscall.ECHILD) {
			s.mu.Lock()
			if len(s.children) == 0 {
				s.reap.Wait()
			}
			s.mu.Unlock()
			continue
		}
		if err != nil {
			continue
		}
		s.mu.Lock()
		for name, child := range s.children {
			if child == pid {
				delete(s.children, name)
				s.order = slices.DeleteFunc(s.order, func(n string) bool { return n == name })
				log.Printf("%s ended: %s", name, describe(info))
				s.say(message{Op: "exited", Name: name})
			}
		}
		s.reap.Broadcast()
		s.mu.Unlock()
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return "exit status " + strconv.Itoa(s.ExitStatus())
}

// end ends all processes, the last started first, and removes what is to be
// removed.
func (s *supervisor) end() error {
	if len(s.remove) == 0 {
		s.mu.Lock()
		names := slices.Clone(s.order)
		s.mu.Unlock()
		for _, name := range slices.Backward(names) {
			_ = s.signal(name, syscall.SIGTERM)
			_ = s.signal(name, syscall.SIGCONT)
			s.await(name, grace)
		}
	}
	deadline := time.Now().Add(stopTimeout / 2)
	for killDescendants(s.pids()) > 0 {
		if time.Now().After(deadline) {
			return errors.New("some processes cannot be killed")
		}
		time.Sleep(2 * time.Millisecond)
	}
	var errs []error
	for _, m := range s.cgroups {
		errs = append(errs, removeCgroups(m.Name, m.Paths))
	}
	errs = append(errs, unmount(s.binds))
	for _, dir := range s.remove {
		errs = append(errs, removeAll(dir))
	}
	return errors.Join(errs...)
}

// removeAll removes a folder, in which processes of the program itself, who die
// with it and not by us, may be writing for a moment.
func removeAll(dir string) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := os.RemoveAll(dir)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

func (s *supervisor) pids() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.children))
}

func (s *supervisor) await(name string, limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		_, there := s.children[name]
		s.mu.Unlock()
		if !there {
			return
		}
	}
}
