// Package supervisor runs processes that leave nothing behind, whatever becomes
// of the program that wanted them: a panic, Ctrl-C and SIGKILL included.
//
// The program starts itself once more as a supervisor and holds one end of a
// pipe to it. The supervisor starts the processes, and when the pipe ends,
// because the program said so or because it is no more, it kills them and all
// that they have started, unmounts what is mounted under its folders and removes
// those. The processes are the supervisor's children and not the program's, so
// that nothing depends on the threads of the program, and so that daemons whose
// parent has gone are handed to somebody who ends them too.
//
// Importing the package is enough: its init function takes over in the process
// that is the supervisor.
package supervisor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrGone means that the supervisor, and with it all its processes, has ended.
var ErrGone = errors.New("the supervisor of the processes has ended")

// ErrNotRunning means that there is no process of that name.
var ErrNotRunning = errors.New("the process is not running")

const (
	environment = "REDISLOCK_SUPERVISOR"
	// lockFile is locked for as long as the supervisor of a folder lives, and
	// says its process id.
	lockFile    = "supervisor.pid"
	stopTimeout = 60 * time.Second
)

// Command is a process to be started.
type Command struct {
	// Name is what the process is called in later calls. A name may be used
	// again when the process has ended.
	Name string
	Path string
	Args []string // without the program itself
	Env  []string // replaces the environment when not nil
	Dir  string
	// Log is a file to which all output is appended.
	Log string
}

// Bind shows a file or folder at another place, as mount --bind does.
type Bind struct{ Source, Target string }

// Supervisor is the end of the pipe in the program that wants processes.
type Supervisor struct {
	cmd     *exec.Cmd
	control *os.File
	gone    chan struct{}

	mu      sync.Mutex
	nextID  int
	replies map[int]chan message
	exits   map[string]chan struct{}
}

// message is one line on a pipe, in either way.
type message struct {
	ID      int      `json:"id,omitempty"`
	Op      string   `json:"op,omitempty"`
	Command *Command `json:"command,omitempty"`
	Name    string   `json:"name,omitempty"`
	Signal  int      `json:"signal,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	Binds   []Bind   `json:"binds,omitempty"`
	PID     int      `json:"pid,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// New starts a supervisor for what happens in a folder. The folder exists, and
// is removed at the end when remove is true.
func New(dir string, remove bool) (*Supervisor, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start a supervisor: %w", err)
	}
	if runtime.GOOS == "linux" {
		// Works also when the file has been removed, as `go run` does.
		self = "/proc/self/exe"
	}
	fromUs, control, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start a supervisor: %w", err)
	}
	events, toUs, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a supervisor: %w", err), fromUs.Close(), control.Close())
	}
	log, err := os.OpenFile(filepath.Join(dir, "supervisor.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a supervisor: %w", err), fromUs.Close(), control.Close(), events.Close(), toUs.Close())
	}
	s := &Supervisor{
		control: control, gone: make(chan struct{}),
		replies: map[int]chan message{}, exits: map[string]chan struct{}{},
	}
	s.cmd = exec.Command(self)
	s.cmd.Args[0] = "redislock-supervisor " + dir
	s.cmd.Env = append(os.Environ(), environment+"="+dir)
	s.cmd.ExtraFiles = []*os.File{fromUs, toUs}
	// Neither the Ctrl-C nor the hang-up of the program's terminal reaches it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	err = s.cmd.Start()
	_, _, _ = fromUs.Close(), toUs.Close(), log.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a supervisor: %w", err), control.Close(), events.Close())
	}
	go s.read(events)
	if remove {
		_, err = s.call(message{Op: "remove", Paths: []string{dir}})
	} else {
		_, err = s.call(message{Op: "ping"})
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Supervisor) read(events io.ReadCloser) {
	lines := bufio.NewScanner(events)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			continue
		}
		s.mu.Lock()
		if m.Op == "exited" {
			if c := s.exits[m.Name]; c != nil {
				close(c)
				delete(s.exits, m.Name)
			}
		} else if c := s.replies[m.ID]; c != nil {
			c <- m
			delete(s.replies, m.ID)
		}
		s.mu.Unlock()
	}
	_ = events.Close()
	_ = s.cmd.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.exits {
		close(c)
	}
	s.exits = map[string]chan struct{}{}
	close(s.gone)
}

func (s *Supervisor) call(m message) (message, error) {
	reply := make(chan message, 1)
	s.mu.Lock()
	s.nextID++
	m.ID = s.nextID
	s.replies[m.ID] = reply
	if m.Op == "start" {
		// Entered before the process exists: it may end at once.
		if s.exits[m.Command.Name] == nil {
			s.exits[m.Command.Name] = make(chan struct{})
		}
	}
	line, err := json.Marshal(m)
	if err == nil {
		_, err = s.control.Write(append(line, '\n'))
	}
	s.mu.Unlock()
	if err != nil {
		return message{}, fmt.Errorf("%w (%w)", ErrGone, err)
	}
	select {
	case r := <-reply:
		switch r.Error {
		case "":
			return r, nil
		case ErrNotRunning.Error():
			return r, fmt.Errorf("%s: %w", m.Name, ErrNotRunning)
		default:
			return r, errors.New(r.Error)
		}
	case <-s.gone:
		return message{}, ErrGone
	}
}

// Start starts a process and returns its id and a channel that is closed when
// it has ended.
func (s *Supervisor) Start(c Command) (pid int, exited <-chan struct{}, err error) {
	r, err := s.call(message{Op: "start", Command: &c})
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	exit := s.exits[c.Name]
	if exit == nil {
		// It has ended already.
		exit = make(chan struct{})
		close(exit)
	}
	return r.PID, exit, nil
}

// Signal sends a signal to the process of that name.
func (s *Supervisor) Signal(name string, sig syscall.Signal) error {
	_, err := s.call(message{Op: "signal", Name: name, Signal: int(sig)})
	return err
}

// RemoveAtEnd adds folders to what is unmounted and removed at the end.
func (s *Supervisor) RemoveAtEnd(paths ...string) error {
	_, err := s.call(message{Op: "remove", Paths: paths})
	return err
}

// RemoveCgroupsAtEnd removes control groups at the end: in each of the parents
// those that are called as the entries of a folder are then, and the parents
// themselves where nothing is left in them.
func (s *Supervisor) RemoveCgroupsAtEnd(namesIn string, parents ...string) error {
	_, err := s.call(message{Op: "cgroups", Name: namesIn, Paths: parents})
	return err
}

// PrivateMounts gives the processes that are started from now on a mount
// namespace of their own, which they share, with these binds in it: what they
// mount is seen by nobody else and goes with them (Linux, root).
func (s *Supervisor) PrivateMounts(binds ...Bind) error {
	_, err := s.call(message{Op: "mounts", Binds: binds})
	return err
}

// Detach lets the supervisor and its processes outlive this program. Stop with
// the folder ends them.
func (s *Supervisor) Detach() error {
	_, err := s.call(message{Op: "detach"})
	return err
}

// Gone is closed when the supervisor has ended.
func (s *Supervisor) Gone() <-chan struct{} { return s.gone }

// Close ends all processes and returns when nothing is left of them.
func (s *Supervisor) Close() error {
	_, err := s.call(message{Op: "end"})
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	s.mu.Lock()
	_ = s.control.Close()
	s.mu.Unlock()
	select {
	case <-s.gone:
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		<-s.gone
		return fmt.Errorf("the supervisor did not end within %v and was killed", stopTimeout)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the supervisor ended with %v: see supervisor.log in its folder if that is left", s.cmd.ProcessState)
	}
	return nil
}

// Alive tells whether a supervisor is in charge of the folder, and its process
// id.
func Alive(dir string) (pid int, alive bool) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return 0, false
	}
	defer func() { _ = f.Close() }()
	return holder(f)
}

// holder is the process that holds the lock on the file.
func holder(f *os.File) (pid int, alive bool) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
		_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		return 0, false
	}
	b := make([]byte, 32)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return pid, err == nil
}

// Stop ends what a supervisor runs in the folder, also one that was detached by
// another program, and returns when nothing is left of it.
func Stop(dir string) error {
	// Opened once: the file goes before the rest of the folder does, the lock
	// after it.
	f, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	pid, alive := holder(f)
	if !alive {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop the processes in %s: %w", dir, err)
	}
	for end := time.Now().Add(stopTimeout); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, alive := holder(f); !alive {
			return nil
		}
	}
	return fmt.Errorf("the processes in %s did not end within %v: end process %d by hand", dir, stopTimeout, pid)
}
