package redisserver

import (
	"fmt"
	"os"
	"testing"
)

// sentinelFile is what redis-server in its Sentinel mode reads, and writes to.
const sentinelFile = "sentinel.conf"

// StartSentinel starts a Sentinel that watches a primary under a name and ends with
// the test. One alone decides, and takes the primary for dead after a second.
func StartSentinel(tb testing.TB, name string, primary *Server) *Server {
	tb.Helper()
	return Start(tb, Options{sentinelOf: primary, sentinelName: name})
}

// prepareSentinel writes its configuration; its port comes on the command line.
func (s *Server) prepareSentinel() error {
	text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 1\nsentinel down-after-milliseconds %[1]s 1000\n",
		s.opts.sentinelName, s.opts.sentinelOf.portNumber())
	if err := os.WriteFile(s.path(sentinelFile), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the configuration of the Sentinel: %w", err)
	}
	return nil
}

func (s *Server) sentinelArgs() []string {
	return []string{s.path(sentinelFile), "--sentinel", "--dir", s.dir, "--bind", "127.0.0.1", "--port", fmt.Sprint(s.portNumber())}
}
