//go:build !linux

package supervisor

import (
	"errors"
	"sync"
	"syscall"
)

// Elsewhere only the direct children are known; none of those that run there
// starts daemons.

func adoptOrphans() error { return nil }

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func waitAny(_ *sync.Mutex, status *syscall.WaitStatus) (int, error) {
	return syscall.Wait4(-1, status, 0, nil)
}

func killDescendants(direct []int) int {
	for _, pid := range direct {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return len(direct)
}

func privateMounts([]Bind) error { return errors.New("mount namespaces exist on Linux only") }

func unmount([]Bind) error { return nil }

func removeCgroups(string, []string) error { return nil }
