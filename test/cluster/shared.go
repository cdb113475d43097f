package cluster

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// Shared is a cluster that the tests of a package share. It starts with the first test
// that needs it, for most need none.
type Shared struct {
	Options Options
	// Prepare is done once, when it has started.
	Prepare func(context.Context, *Cluster) error

	mu      sync.Mutex
	started *Cluster
}

// Get returns the cluster. A test that cannot have it fails.
func (s *Shared) Get(tb testing.TB) *Cluster {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started != nil {
		return s.started
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	c, err := Start(ctx, s.Options)
	if err != nil {
		tb.Fatal(err)
	}
	if s.Prepare != nil {
		if err := s.Prepare(ctx, c); err != nil {
			_ = c.Stop()
			tb.Fatal(err)
		}
	}
	s.started = c
	return c
}

// Run runs the tests, stops the cluster, and returns the exit code for TestMain.
func (s *Shared) Run(m *testing.M) int {
	code := m.Run()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started == nil {
		return code
	}
	if err := s.started.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the cluster:", err)
		return 1
	}
	return code
}
