package stores

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/certs"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const (
	// secret must never be seen in an error.
	secret = "hunter2-hunter2"
	// patience is for what happens by itself; a test that passes does not wait for it.
	patience = 30 * time.Second
)

func write(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAStoreThatCannotBeUsedSaysWhy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	none := filepath.Join(dir, "none")
	garbage := write(t, dir, "garbage", "-----BEGIN CERTIFICATE-----\n"+secret+"\n-----END CERTIFICATE-----\n")
	for _, tc := range []struct {
		name  string
		store config.Store
		want  []string
	}{
		{"a port that is none", config.Store{URL: "redis://user:" + secret + "@host:notaport"}, []string{"url:", "redis://host:6379/0"}},
		{"a bad escape", config.Store{URL: "redis://user:" + secret + "%zz@host"}, []string{"url:", "passwordFile"}},
		{"a scheme that is none", config.Store{URL: "http://user:" + secret + "@host"}, []string{"url:", "rediss:// for TLS"}},
		{"no scheme", config.Store{URL: "user:" + secret + "@host"}, []string{"url:"}},
		{"a database that is none", config.Store{URL: "redis://user:" + secret + "@host/" + secret}, []string{"url:"}},
		{"a parameter that is none", config.Store{URL: "redis://host?password=" + secret}, []string{"url:"}},
		{"the same from a file", config.Store{URLFile: write(t, dir, "url", "redis://user:"+secret+"@host:notaport\n")}, []string{"url:"}},
		{"a file with the URL that is missing", config.Store{URLFile: none}, []string{"urlFile:", none}},
		{"an empty file with the URL", config.Store{URLFile: write(t, dir, "empty", "")}, []string{"url:"}},
		{"an authority without TLS", config.Store{URL: "redis://:" + secret + "@host", CAFile: garbage}, []string{"rediss:// instead of redis://"}},
		{"a client certificate without TLS", config.Store{URL: "redis://host", CertFile: garbage, KeyFile: garbage}, []string{"rediss:// instead of redis://"}},
		{"a server name without TLS", config.Store{URL: "redis://host", ServerName: "redis"}, []string{"rediss:// instead of redis://"}},
		{"an authority that is missing", config.Store{URL: "rediss://host", CAFile: none}, []string{"caFile:", none}},
		{"an authority that is garbage", config.Store{URL: "rediss://host", CAFile: garbage}, []string{"caFile:", garbage, "no certificate in PEM form"}},
		{"a client certificate that is missing", config.Store{URL: "rediss://host", CertFile: none, KeyFile: garbage}, []string{"certFile and keyFile:", none}},
		{"a client certificate that is garbage", config.Store{URL: "rediss://host", CertFile: garbage, KeyFile: garbage}, []string{"certFile and keyFile:"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			tc.store.Name = "default"
			store := New(config.Config{Stores: []config.Store{tc.store}}).Get("default")
			g.Expect(store.Client()).To(BeNil())
			err := store.State().Invalid
			g.Expect(err).To(HaveOccurred())
			for _, want := range tc.want {
				g.Expect(err.Error()).To(ContainSubstring(want))
			}
			g.Expect(err.Error()).NotTo(ContainSubstring(secret))
		})
	}
}

func TestStoresAreFoundByTheirNames(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	list := New(config.Config{Stores: []config.Store{{Name: "a", URL: "redis://host"}, {Name: "b", URL: "redis://host"}}})
	t.Cleanup(func() { list.Close(t.Context()) })
	g.Expect(list.Names()).To(ConsistOf("a", "b"))
	g.Expect(list.Get("b").Name).To(Equal("b"))
	g.Expect(list.Get("c")).To(BeNil())
}

// single returns a store by itself, and looks at it when the test says so.
func single(t *testing.T, c config.Store) *Store {
	t.Helper()
	c.Name = "default"
	list := New(config.Config{Stores: []config.Store{c}})
	t.Cleanup(func() { list.Close(context.WithoutCancel(t.Context())) })
	return list.Get("default")
}

func TestTheStateFollowsTheServer(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := redisserver.Start(t, redisserver.Options{AppendOnly: true})
	store := single(t, config.Store{URL: server.URL()})
	g.Expect(store.State()).To(Equal(State{}), "it has not been looked at")

	g.Expect(store.look(t.Context())).To(BeTrue())
	up := store.State()
	g.Expect(up.Looked).To(BeTrue())
	g.Expect(up.Unreachable).NotTo(HaveOccurred())
	g.Expect(up.Report.Verdict()).To(Equal(redislock.Safe), "%v", up.Report.Findings)
	g.Expect(store.look(t.Context())).To(BeFalse(), "nothing has changed")

	g.Expect(server.Stop()).To(Succeed())
	g.Expect(store.look(t.Context())).To(BeTrue())
	down := store.State()
	g.Expect(down.Unreachable).To(MatchError(ContainSubstring("connection refused")))
	g.Expect(down.Invalid).NotTo(HaveOccurred())
	g.Expect(down.Report).To(Equal(up.Report), "what was known of its settings is kept")
	g.Expect(store.look(t.Context())).To(BeFalse(), "nothing has changed")

	g.Expect(server.Start()).To(Succeed())
	g.Expect(store.look(t.Context())).To(BeTrue())
	g.Expect(store.State().Unreachable).NotTo(HaveOccurred())
}

func TestAChangeOfASettingIsNoticed(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := redisserver.Start(t, redisserver.Options{AppendOnly: true})
	store := single(t, config.Store{URL: server.URL()})
	g.Expect(store.look(t.Context())).To(BeTrue())
	rdb := redisserver.Connect(t, server.URL())

	g.Expect(rdb.ConfigSet(t.Context(), "appendonly", "no").Err()).To(Succeed())
	g.Expect(store.look(t.Context())).To(BeTrue())
	g.Expect(store.State().Report.Verdict()).To(Equal(redislock.Dangerous))
	g.Expect(store.State().Report.Message(redislock.Dangerous)).To(ContainSubstring("set appendonly yes"))
}

func TestALookThatIsCutShortChangesNothing(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	store := single(t, config.Store{URL: "redis://127.0.0.1:1"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.Expect(store.look(ctx)).To(BeFalse())
	g.Expect(store.State()).To(Equal(State{}))
}

func TestAnUnreachableServerIsNamedWithoutItsPassword(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := redisserver.Start(t, redisserver.Options{Password: "right"})
	url := write(t, t.TempDir(), "url", server.UserURL("default", secret))
	store := single(t, config.Store{URLFile: url})
	store.look(t.Context())
	err := store.State().Unreachable
	g.Expect(err).To(MatchError(ContainSubstring("WRONGPASS")))
	g.Expect(redislock.Refused(err)).To(BeTrue())
	g.Expect(err.Error()).NotTo(ContainSubstring(secret))
}

func TestFilesThatComeLaterMakeAStoreUsable(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := redisserver.Start(t, redisserver.Options{TLS: true, Password: secret})
	dir := t.TempDir()
	store := single(t, config.Store{
		URLFile: filepath.Join(dir, "url"), CAFile: filepath.Join(dir, "ca.crt"), PasswordFile: filepath.Join(dir, "password"),
	})
	g.Expect(store.State().Invalid).To(MatchError(ContainSubstring("urlFile:")))

	write(t, dir, "url", "rediss://"+server.Addr()+"\n")
	g.Expect(store.look(t.Context())).To(BeTrue())
	g.Expect(store.State().Invalid).To(MatchError(ContainSubstring("caFile:")))
	g.Expect(store.Client()).To(BeNil())

	ca, err := os.ReadFile(server.CAFile())
	g.Expect(err).NotTo(HaveOccurred())
	write(t, dir, "ca.crt", string(ca))
	g.Expect(store.look(t.Context())).To(BeTrue())
	g.Expect(store.State().Invalid).NotTo(HaveOccurred())
	g.Expect(store.State().Unreachable).To(MatchError(ContainSubstring("passwordFile:")))

	write(t, dir, "password", secret+"\n")
	g.Expect(store.look(t.Context())).To(BeTrue())
	g.Expect(store.State().Unreachable).NotTo(HaveOccurred())
	_, err = store.Client().TryAcquire(t.Context(), "lock:a")
	g.Expect(err).NotTo(HaveOccurred())
}

func TestCredentialsAreReadForEachNewConnection(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := redisserver.Start(t, redisserver.Options{ACL: []string{"user default off", "user one on >first ~* &* +@all", "user two on >second ~* &* +@all"}})
	dir := t.TempDir()
	c := config.Store{
		URL:          "redis://nobody@" + server.Addr(),
		UsernameFile: write(t, dir, "username", "one\n"),
		PasswordFile: write(t, dir, "password", "first\n"),
	}
	rdb, err := connect(c)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = rdb.Close() })
	g.Expect(rdb.Do(t.Context(), "ACL", "WHOAMI").Text()).To(Equal("one"))

	write(t, dir, "username", "two\n")
	write(t, dir, "password", "second\n")
	g.Expect(rdb.Do(t.Context(), "ACL", "WHOAMI").Text()).To(Equal("one"), "a connection that stands keeps its user")
	own, err := rdb.ClientID(t.Context()).Result()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(rdb.ClientKillByFilter(t.Context(), "ID", strconv.FormatInt(own, 10), "SKIPME", "no").Err()).To(Succeed())
	g.Eventually(func() (string, error) { return rdb.Do(t.Context(), "ACL", "WHOAMI").Text() }).WithTimeout(patience).Should(Equal("two"))
}

func TestTheServersNameIsChecked(t *testing.T) {
	t.Parallel()
	server := redisserver.Start(t, redisserver.Options{TLS: true})
	stranger, err := certs.NewCA("somebody else")
	if err != nil {
		t.Fatal(err)
	}
	strange := write(t, t.TempDir(), "ca.crt", string(stranger.Cert))
	for _, tc := range []struct {
		name  string
		store config.Store
		want  string
	}{
		{"as it is", config.Store{CAFile: server.CAFile()}, ""},
		{"by another of its names", config.Store{CAFile: server.CAFile(), ServerName: "localhost"}, ""},
		{"by a name that it does not have", config.Store{CAFile: server.CAFile(), ServerName: "redis.example.com"}, "redis.example.com"},
		{"with an authority that did not sign", config.Store{CAFile: strange}, "unknown authority"},
		{"with the system's authorities", config.Store{}, "unknown authority"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			tc.store.URL = server.URL()
			store := single(t, tc.store)
			store.look(t.Context())
			if tc.want == "" {
				g.Expect(store.State().Unreachable).NotTo(HaveOccurred())
			} else {
				g.Expect(store.State().Unreachable).To(MatchError(ContainSubstring(tc.want)))
			}
		})
	}
}

func TestChangesAreTold(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := redisserver.Start(t, redisserver.Options{AppendOnly: true})
	list := New(config.Config{Stores: []config.Store{{Name: "default", URL: server.URL()}}})
	t.Cleanup(func() { list.Close(context.WithoutCancel(t.Context())) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- list.Start(ctx) }()
	g.Eventually(func() bool { return list.Get("default").State().Looked }).WithTimeout(patience).Should(BeTrue())

	// Whoever asks later is told of what was found before.
	told := make(chan string, 10)
	list.OnChange(func(store string) { told <- store })
	g.Eventually(told).WithTimeout(patience).Should(Receive(Equal("default")))

	cancel()
	g.Eventually(ended).WithTimeout(patience).Should(Receive(BeNil()))
}

// TestTheRightsInTheManualAreEnough takes the ACL that docs/operator.md gives.
func TestTheRightsInTheManualAreEnough(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	manual, err := os.ReadFile(filepath.Join("..", "..", "docs", "operator.md"))
	g.Expect(err).NotTo(HaveOccurred())
	_, rights, found := strings.Cut(string(manual), "ACL SETUSER redislock on >PASSWORD ")
	g.Expect(found).To(BeTrue())
	rights, _, _ = strings.Cut(rights, "\n")
	server := redisserver.Start(t, redisserver.Options{ACL: []string{"user redislock on >" + secret + " " + rights}})

	c := config.Store{Name: "default", URLFile: write(t, t.TempDir(), "url", server.UserURL("redislock", secret))}
	store := single(t, c)
	store.look(t.Context())
	g.Expect(store.State().Unreachable).NotTo(HaveOccurred())
	for _, finding := range store.State().Report.Findings {
		g.Expect(finding.Verdict).NotTo(Equal(redislock.Unverified), "%+v", finding)
	}

	for _, key := range []string{"debounce:a", "debounce:{tag}:a"} {
		d, err := store.Client().Debouncer(key, redislock.Debounce{Wait: time.Millisecond, Edge: redislock.Both})
		g.Expect(err).NotTo(HaveOccurred())
		ran, err := d.CallAndWait(t.Context(), nil, func(ctx context.Context, r redislock.DebounceRun) error { return r.SetLease(ctx, time.Minute) })
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(ran).To(BeTrue())
	}
	for _, key := range []string{"lock:a", "lock:{tag}:a"} {
		options := []redislock.LockOption{redislock.WithLease(2 * time.Second), redislock.WithRenewEvery(100 * time.Millisecond), redislock.WithHistory(10)}
		lock, err := store.Client().TryAcquire(t.Context(), key, options...)
		g.Expect(err).NotTo(HaveOccurred())
		until := lock.ValidUntil()
		g.Eventually(lock.ValidUntil).WithTimeout(patience).Should(BeTemporally(">", until.Add(50*time.Millisecond)), "it is renewed")

		other := single(t, c)
		acquired := make(chan error, 1)
		waits := make(chan struct{}, 1000)
		go func() {
			_, err := other.Client().Acquire(t.Context(), key, append(options, redislock.WithWait(), redislock.OnRefusal(func(error) { waits <- struct{}{} }))...)
			acquired <- err
		}()
		g.Eventually(waits).WithTimeout(patience).Should(Receive())
		g.Expect(lock.Release(t.Context())).To(Succeed())
		g.Eventually(acquired).WithTimeout(patience).Should(Receive(BeNil()))
		info, err := store.Client().Inspect(t.Context(), key)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.History).To(HaveLen(2))
		adopted, err := store.Client().Adopt(t.Context(), key, info.Value, options...)
		g.Expect(err).NotTo(HaveOccurred())
		run := redislock.Run{Series: "ns/cronjob", Tick: time.Now().Truncate(time.Second)}
		claim, err := adopted.Claim(t.Context(), redislock.ClaimRequest{Run: run, Claimant: "cluster/job", Cover: time.Minute})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(adopted.Release(t.Context())).To(Succeed())
		g.Expect(store.Client().ReopenRun(t.Context(), key, run, claim.Fence)).To(Equal(redislock.Reopened))
		g.Expect(store.Client().FinishRun(t.Context(), key, run, claim.Fence, "Complete", true)).To(Equal(redislock.FinishDone))
		runs, err := store.Client().Runs(t.Context(), key)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(runs.Ticks).To(HaveLen(1))
		g.Expect(store.Client().Announce(t.Context(), key, "cluster", time.Minute)).To(HaveLen(1))
		g.Expect(store.Client().Withdraw(t.Context(), key, "cluster")).To(Succeed())
	}
	// The connection that is its own, so that go-redis' refusals are not hidden.
	denied := redisserver.Connect(t, server.URL()).Do(t.Context(), "ACL", "LOG").String()
	g.Expect(denied).To(Equal("ACL LOG: []"), "something was denied")
}
