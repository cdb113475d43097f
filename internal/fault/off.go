//go:build !faults

// Package fault has points at which a manager built with the tag "faults" dies or
// stands still, and switches by which it leaves a safeguard out, for tests that prove
// that a crash is made good and that a safeguard is needed. In every other build they
// are nothing.
package fault

import (
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Point is a place between two writes.
func Point(string) {}

// Claim is the claim of a run.
func Claim(r redislock.ClaimRequest) redislock.ClaimRequest { return r }

// Window is for how long a Job that is let go may outlive its operator.
func Window(d time.Duration) time.Duration { return d }

// Fence is the fencing token that a run gets to see.
func Fence(run, _ uint64) uint64 { return run }
