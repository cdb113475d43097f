package redislocktest_test

import (
	"flag"
	"os"
	"testing"

	"github.com/redis/go-redis/v9/logging"
)

// TestMain has more tests run at once than there are processors, for they wait more
// than they work, and go-redis say nothing of the servers that go down on purpose.
func TestMain(m *testing.M) {
	flag.Parse()
	atOnce := true
	flag.Visit(func(f *flag.Flag) { atOnce = atOnce && f.Name != "test.parallel" })
	if atOnce {
		_ = flag.Set("test.parallel", "16")
	}
	logging.Disable()
	os.Exit(m.Run())
}
