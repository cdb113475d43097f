package chaos

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/redislock-operator/redislock-operator/test/cluster"
)

// TestChaos is the short form: two clusters for some minutes. CHAOS_SEED replays a
// plan; "make test-chaos" is the long form.
func TestChaos(t *testing.T) {
	if os.Getenv(cluster.KubeconfigsEnv) != "" {
		// What it breaks are processes of clusters that it started itself.
		t.Fatal(cluster.ErrExternal)
	}
	cfg := Config{Clusters: 2, CronJobs: 10, Duration: 75 * time.Second, Ticks: 2, Brief: true, Settle: time.Minute, Log: t.Output(), Dir: os.Getenv("CHAOS_DIR")}
	if seed := os.Getenv("CHAOS_SEED"); seed != "" {
		var err error
		if cfg.Seed, err = strconv.ParseUint(seed, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	report, err := Execute(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	if err := report.Err(); err != nil {
		t.Error(err)
	}
}
