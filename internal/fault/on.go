//go:build faults

// Package fault has points at which a manager built with the tag "faults" dies or
// stands still, and switches by which it leaves a safeguard out, for tests that prove
// that a crash is made good and that a safeguard is needed. In every other build they
// are nothing.
package fault

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var (
	at      = os.Getenv(At)
	stopAt  = strings.Split(os.Getenv(StopAt), ",")
	once    = os.Getenv(Once)
	without = strings.Split(os.Getenv(Without), ",")
)

// Point dies as by SIGKILL, or waits to go on, where the test said so.
func Point(name string) {
	switch {
	case name == at && first(once):
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case slices.Contains(stopAt, name):
		// The process does not stop itself, or it might do so after it was told to go on.
		goesOn := make(chan os.Signal, 1)
		signal.Notify(goesOn, syscall.SIGCONT)
		defer signal.Stop(goesOn)
		if first(once + "." + name) {
			<-goesOn
		}
	}
}

// first says whether nothing happened there yet, in this process or one before it.
func first(mark string) bool {
	file, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false
	}
	_, _ = fmt.Fprintln(file, os.Getpid())
	_ = file.Close()
	return true
}

// Claim makes every claim one of a run that nobody else knows.
func Claim(r redislock.ClaimRequest) redislock.ClaimRequest {
	if slices.Contains(without, "claims") {
		r.Run = redislock.Run{ID: uuid.NewString()}
	}
	return r
}

// Window is 0, which is no deadline.
func Window(d time.Duration) time.Duration {
	if slices.Contains(without, "watchdog") {
		return 0
	}
	return d
}

// Fence is that of the grant.
func Fence(run, grant uint64) uint64 {
	if slices.Contains(without, "fence") {
		return grant
	}
	return run
}
