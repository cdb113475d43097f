//go:build !linux

package supervisor

import (
	"sync"
	"syscall"
)

// Elsewhere only the direct children are known; none of those that run there
// starts daemons.

func adoptOrphans() error { return nil }

func attributes(Command) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func waitAny(_ *sync.Mutex, status *syscall.WaitStatus) (int, error) {
	return syscall.Wait4(-1, status, 0, nil)
}

func killDescendants(direct []int) int {
	for _, pid := range direct {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return len(direct)
}

func unmountBelow(string) error { return nil }

func removeCgroups(string) error { return nil }
