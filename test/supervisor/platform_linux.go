package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes descendants whose parent has ended children of this
// process, so that daemons do not get away.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	return nil
}

func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// privateMounts moves this thread, and so all that it starts, to a mount
// namespace of its own.
func privateMounts(binds []Bind) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	for _, b := range binds {
		if err := unix.Mount(b.Source, b.Target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("show %s at %s: %w", b.Source, b.Target, err)
		}
	}
	return nil
}

// unmount takes the binds away again, with all that was mounted below them: a
// folder on which something is mounted cannot be removed.
func unmount(binds []Bind) error {
	var errs []error
	for _, b := range slices.Backward(binds) {
		if err := unix.Unmount(b.Target, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", b.Target, err))
		}
	}
	return errors.Join(errs...)
}

// waitAny waits for a child to end and takes it off the process table under the
// lock: until then its number cannot be given to another process.
func waitAny(mu *sync.Mutex, status *syscall.WaitStatus) (int, error) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		return 0, err
	}
	mu.Lock()
	defer mu.Unlock()
	return syscall.Wait4(-1, status, syscall.WNOHANG, nil)
}

// killDescendants kills all that this process and its children have started,
// and returns how many there still were.
func killDescendants([]int) int {
	parents := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			parents[parent] = append(parents[parent], pid)
		}
	}
	killed := 0
	todo := []int{os.Getpid()}
	for len(todo) > 0 {
		next := parents[todo[0]]
		todo = append(todo[1:], next...)
		for _, pid := range next {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			killed++
		}
	}
	return killed
}

// removeCgroups removes the control groups that are called as the entries of a
// folder, and their parents where those are of no use to anybody else.
func removeCgroups(namesIn string, parents []string) error {
	names, err := os.ReadDir(namesIn)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	errs := []error{err}
	for _, parent := range parents {
		for _, name := range names {
			errs = append(errs, removeCgroupTree(filepath.Join(parent, name.Name())))
		}
		_ = syscall.Rmdir(parent)
	}
	return errors.Join(errs...)
}

// removeCgroupTree removes a control group and those below it.
func removeCgroupTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, d := range slices.Backward(dirs) {
		if e := removeCgroup(d); e != nil {
			err = errors.Join(err, fmt.Errorf("remove the control group %s: %w", d, e))
		}
	}
	return err
}

// removeCgroup tries again while the kernel still counts processes that are
// gone already.
func removeCgroup(dir string) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}
