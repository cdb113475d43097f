// Package children starts processes that do not outlive the one that started
// them, and tells when a signalled process has really stopped or gone on.
package children

import (
	"os/exec"
	"runtime"
	"sync"
)

var (
	once   sync.Once
	starts chan func()
)

// Start starts the command such that the kernel kills it when this process
// ends, in whatever way (where the kernel can: Linux).
//
// Linux kills such a child when the *thread* that started it ends, so all are
// started from one thread that never does.
func Start(cmd *exec.Cmd) error {
	once.Do(func() {
		starts = make(chan func())
		go func() {
			runtime.LockOSThread()
			for start := range starts {
				start()
			}
		}()
	})
	dieWithParent(cmd)
	result := make(chan error, 1)
	starts <- func() { result <- cmd.Start() }
	return <-result
}
