package redislock

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// finding returns what a look at the store said of one property.
func finding(t *testing.T, c *Client, check string) Finding {
	t.Helper()
	report, err := c.CheckStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("nothing is said of %s", check)
	return Finding{}
}

func TestStoreSettingsAreJudged(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		args    []string
		check   string
		verdict Verdict
		advice  string
	}{
		{"no memory limit", nil, "Eviction", Safe, ""},
		{"a limit and noeviction", []string{"--maxmemory", "100mb"}, "Eviction", Safe, ""},
		{"a limit and eviction", []string{"--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"}, "Eviction", Dangerous, "set noeviction"},
		{"nothing on disk", nil, "Persistence", Dangerous, "set appendonly yes"},
		{"snapshots only", []string{"--save", "60 1"}, "Persistence", Dangerous, "only snapshots"},
		{"an append-only file", []string{"--appendonly", "yes"}, "Persistence", Safe, ""},
		{"no replica", nil, "Replication", Safe, ""},
		{"a recent version", nil, "Version", Safe, ""},
		{"an even clock", nil, "Clock", Safe, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			f := finding(t, dial(t, startRedis(t, tc.args...).URL()), tc.check)
			g.Expect(f.Verdict).To(Equal(tc.verdict))
			g.Expect(f.Message).To(ContainSubstring(tc.advice))
		})
	}
}

func TestStoreWithReplicasThatNobodyWaitsForIsDangerous(t *testing.T) {
	t.Parallel()
	g := within(t)
	primary := startReachableRedis(t, "--repl-diskless-sync-delay", "0")
	replica := startReachableRedis(t)
	host, port := splitAddr(t, primary.Addr())
	g.Expect(connect(t, replica.URL()).ReplicaOf(t.Context(), host, port).Err()).To(Succeed())
	c := dial(t, primary.URL())
	g.Eventually(func() Finding { return finding(t, c, "Replication") }).
		WithPolling(50 * time.Millisecond).Should(HaveField("Message", ContainSubstring("min-replicas-to-write is 0 with 1 replicas")))
	g.Expect(finding(t, dial(t, replica.URL()), "Replication").Message).To(ContainSubstring("give the address of the primary"))

	g.Expect(connect(t, primary.URL()).ConfigSet(t.Context(), "min-replicas-to-write", "1").Err()).To(Succeed())
	g.Expect(finding(t, c, "Replication").Verdict).To(Equal(Safe))
}

func TestStoreThatMayNotBeReadIsUnverified(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := redisserver.Start(t, redisserver.Options{ACL: []string{"user app on >secret ~* &* +@all -info -config"}})
	c := dial(t, server.UserURL("app", "secret"))
	report, err := c.CheckStore(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(report.Verdict()).To(Equal(Unverified))
	for _, check := range []string{"Version", "Eviction", "Persistence", "Replication"} {
		g.Expect(finding(t, c, check).Verdict).To(Equal(Unverified))
	}
	g.Expect(report.Message(Unverified)).To(ContainSubstring("allow INFO"))
}

func TestStoreThatDoesNotAnswerIsAnError(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := startRedis(t)
	c := newClient(t, connect(t, server.URL(), impatient, singleShot))
	g.Expect(server.Kill()).To(Succeed())
	_, err := c.CheckStore(t.Context())
	g.Expect(err).To(HaveOccurred())
}

func TestStepOfTheServersClockIsDangerous(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	clk := &bentClock{}
	c := newClient(t, connect(t, startRedis(t).URL()), withClock(clk))
	g.Expect(finding(t, c, "Clock").Verdict).To(Equal(Safe))
	clk.pass(time.Hour) // as if the server's clock were set back by as much
	f := finding(t, c, "Clock")
	g.Expect(f.Verdict).To(Equal(Dangerous))
	g.Expect(f.Message).To(ContainSubstring("have it slewed"))
}
