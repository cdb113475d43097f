package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/children"
	"github.com/redislock-operator/redislock-operator/test/ports"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// decode reads what --output json printed.
func decode[T any](b *bench, r result) T {
	b.t.Helper()
	var v T
	b.Expect(json.Unmarshal([]byte(r.stdout), &v)).To(Succeed(), "%+v", r)
	return v
}

func TestAcquireAndRelease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.redislock("acquire", key, "--lease", "1m", "--identity", "blue")
	b.Expect(r.code).To(Equal(0), r.stderr)
	fields := strings.Fields(r.stdout)
	b.Expect(fields).To(HaveLen(2))
	b.Expect(b.value(key)).To(Equal(fields[0]))
	b.Expect(fields[0]).To(HaveSuffix("#" + fields[1]))
	b.Expect(b.rdb.PTTL(t.Context(), key).Val()).To(BeNumerically("~", time.Minute, 30*time.Second))
	b.Expect(b.redislock("acquire", key, "--no-wait").code).To(Equal(75))
	b.Expect(b.redislock("acquire", key, "--timeout", "20ms").code).To(Equal(75))

	wrong := b.redislock("release", key, fields[0]+"1")
	b.Expect(wrong).To(Equal(result{1, "not released: " + key + " is somebody else's by now\n", ""}))
	b.Expect(b.value(key)).To(Equal(fields[0]))
	b.Expect(b.redislock("release", key, fields[0])).To(Equal(result{0, "released " + key + "\n", ""}))
	b.Expect(b.value(key)).To(BeEmpty())
	again := b.redislock("release", key, fields[0], "--output", "json")
	b.Expect(again.code).To(Equal(1))
	b.Expect(decode[map[string]any](b, again)).To(Equal(map[string]any{"key": key, "released": false}))

	got := decode[map[string]any](b, b.redislock("acquire", key, "--output", "json"))
	b.Expect(got).To(HaveKeyWithValue("key", key))
	b.Expect(got).To(HaveKeyWithValue("token", b.value(key)))
	b.Expect(got).To(HaveKeyWithValue("validForMs", And(BeNumerically(">", 0), BeNumerically("<=", 30_000))))
	b.Expect(got["token"]).To(HaveSuffix("#" + fmt.Sprintf("%.0f", got["fencingToken"])))
	b.Expect(got).To(HaveLen(4))
	released := execute(t, append(b.environ(), "REDISLOCK_TOKEN="+b.value(key)), "", "release", key)
	b.Expect(released.code).To(Equal(0))
	b.Expect(b.value(key)).To(BeEmpty())
}

// A token that nobody heard is a lock that nobody can release.
func TestALockWhoseTokenCannotBePrintedIsGivenBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := execute(t, b.environ(), "", "run", "lock:other", "--", "sh", "-c", binary+" acquire "+key+" >/dev/full; echo $?")
	b.Expect(r.stdout).To(Equal("69\n"))
	b.Expect(r.stderr).To(ContainSubstring("writing the result"))
	b.Expect(b.value(key)).To(BeEmpty())
}

func TestStatusSaysWhoHoldsTheLock(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Expect(b.redislock("status", key)).To(Equal(result{1, "FREE\n", ""}))
	free := b.redislock("status", key, "--output", "json")
	b.Expect(free.code).To(Equal(1))
	b.Expect(decode[map[string]any](b, free)).To(Equal(map[string]any{
		"key": key, "state": "FREE", "holder": "", "fencingToken": 0.0, "expiresInMs": 0.0, "keptTaken": false,
	}))

	b.redislock("acquire", key, "--identity", "blue", "--lease", "1m")
	token, _ := redislock.ParseToken(b.value(key))
	held := b.redislock("status", key)
	b.Expect(held.code).To(Equal(0))
	b.Expect(held.stdout).To(MatchRegexp(fmt.Sprintf(`^ACQUIRED by blue, fencing token %d, expires in .*s\n$`, token.Fence)))
	state := decode[map[string]any](b, b.redislock("status", "--output=json", key))
	b.Expect(state).To(HaveKeyWithValue("holder", "blue"))
	b.Expect(state).To(HaveKeyWithValue("state", "ACQUIRED"))
	b.Expect(state).To(HaveKeyWithValue("fencingToken", BeEquivalentTo(token.Fence)))
	b.Expect(state).To(HaveKeyWithValue("expiresInMs", And(BeNumerically(">", 0), BeNumerically("<=", 60_000))))
	b.Expect(state).To(HaveKeyWithValue("tokenHash", redislock.HashToken(b.value(key))))
	for _, r := range []result{held, b.redislock("status", key, "--output", "json"), b.redislock("ls"), b.redislock("history", key)} {
		b.Expect(r.stdout).NotTo(ContainSubstring(b.value(key)), "the token is the right to release")
	}

	client, err := redislock.New(b.rdb)
	b.Expect(err).NotTo(HaveOccurred())
	_, err = client.ForceRelease(t.Context(), key, token.Fence)
	b.Expect(err).NotTo(HaveOccurred())
	kept := b.redislock("status", key)
	b.Expect(kept.code).To(Equal(1))
	b.Expect(kept.stdout).To(HavePrefix("FREE, but nobody gets it for"))

	b.Expect(b.rdb.Set(t.Context(), key, "x", 0).Err()).To(Succeed())
	b.Expect(b.redislock("status", key)).To(Equal(result{0, "ACQUIRED by (another library), expires in never\n", ""}))
}

func TestThoseWhoShareALockAreShown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	client, err := redislock.New(b.rdb, redislock.WithIdentity("blue"))
	b.Expect(err).NotTo(HaveOccurred())
	semaphore, err := client.Semaphore("lock:exports", 3)
	b.Expect(err).NotTo(HaveOccurred())
	readers, err := client.RWLock("lock:catalogue")
	b.Expect(err).NotTo(HaveOccurred())
	for range 2 {
		_, err = semaphore.TryAcquire(t.Context(), redislock.WithLease(time.Hour))
		b.Expect(err).NotTo(HaveOccurred())
	}
	_, err = readers.TryRLock(t.Context(), redislock.WithLease(time.Hour))
	b.Expect(err).NotTo(HaveOccurred())

	b.Expect(b.redislock("status", "lock:exports").stdout).To(HavePrefix("ACQUIRED by 2 of 3 permits: blue, blue, expires in "))
	text := b.redislock("ls").stdout
	b.Expect(text).To(ContainSubstring("2 of 3 permits: blue, blue"))
	b.Expect(text).To(ContainSubstring("1 who read: blue"))
}

func TestHistoryIsNewestFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Expect(b.redislock("history", key, "--output", "json").stdout).To(Equal("[]\n"))
	for _, name := range []string{"blue", "green"} {
		b.Expect(b.redislock("run", "--identity", name, key, "--", "true").code).To(Equal(0))
	}
	grants := decode[[]map[string]any](b, b.redislock("history", key, "--output", "json"))
	b.Expect(grants).To(HaveLen(2))
	b.Expect(grants[0]).To(HaveKeyWithValue("holder", "green"))
	b.Expect(grants[1]).To(HaveKeyWithValue("holder", "blue"))
	b.Expect(grants[0]["fencingToken"]).To(BeNumerically(">", grants[1]["fencingToken"]))
	at, err := time.Parse(time.RFC3339, grants[0]["at"].(string))
	b.Expect(err).NotTo(HaveOccurred())
	b.Expect(at).To(BeTemporally("~", time.Now(), time.Hour))
	lines := strings.Split(b.redislock("history", key).stdout, "\n")
	b.Expect(lines[0]).To(MatchRegexp(`^AT +FENCING TOKEN +HOLDER$`))
	b.Expect(lines[1]).To(HaveSuffix("green"))
	b.Expect(lines).To(HaveLen(4))
}

func TestListShowsLocksAndNothingBesideThem(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Expect(b.redislock("ls", "--output", "json").stdout).To(Equal("[]\n"))
	b.redislock("acquire", "lock:b", "--identity", "blue")
	b.redislock("acquire", "lock:{tag}:c", "--identity", "green")
	b.redislock("acquire", "other", "--identity", "green")
	ctx := t.Context()
	b.Expect(b.rdb.Set(ctx, "lock:a", "x", 0).Err()).To(Succeed())
	b.Expect(b.rdb.Set(ctx, "lock:d", "~x", time.Minute).Err()).To(Succeed())
	b.Expect(b.rdb.HSet(ctx, "lock:e", "redisson", 1).Err()).To(Succeed())
	keys := func(args ...string) []string {
		var keys []string
		for _, state := range decode[[]map[string]any](b, b.redislock(append(args, "--output", "json")...)) {
			keys = append(keys, state["key"].(string))
		}
		return keys
	}
	b.Expect(keys("ls")).To(Equal([]string{"lock:a", "lock:b", "lock:d", "lock:e", "lock:{tag}:c"}))
	b.Expect(keys("ls", "lock:b")).To(Equal([]string{"lock:b"}))
	b.Expect(keys("ls", "lock:*")).To(BeEmpty(), "a prefix is no pattern")
	b.Expect(keys("ls", "")).To(Equal([]string{"lock:a", "lock:b", "lock:d", "lock:e", "lock:{tag}:c", "other"}))
	text := b.redislock("ls").stdout
	b.Expect(text).To(MatchRegexp(`(?m)^KEY +HOLDER +FENCING TOKEN +EXPIRES IN$`))
	b.Expect(text).To(MatchRegexp(`(?m)^lock:a +\(another library\) +0 +never$`))
	b.Expect(text).To(MatchRegexp(`(?m)^lock:b +blue +\d+ +.*s$`))
	b.Expect(text).To(MatchRegexp(`(?m)^lock:d +\(nobody\) `))
	b.Expect(text).To(MatchRegexp(`(?m)^lock:e +\(another library\) `))
}

func TestADebounceIsTakenForNoLock(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.redislock("debounce", "call", "debounce:index")
	b.redislock("acquire", "debounce:lock", "--identity", "blue")
	b.Expect(b.redislock("ls", "debounce:").stdout).NotTo(ContainSubstring("debounce:index"))
	b.Expect(b.redislock("ls", "debounce:").stdout).To(ContainSubstring("debounce:lock"))
	for _, command := range []string{"status", "history"} {
		r := b.redislock(command, "debounce:index")
		b.Expect(r.code).To(Equal(69))
		b.Expect(r.stderr).To(Equal("redislock: debounce:index is a debounce, not a lock: ask redislock debounce status debounce:index\n"))
	}
}

func TestListLooksAtManyKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	pipe := b.rdb.Pipeline()
	for i := range 2000 {
		pipe.Set(t.Context(), fmt.Sprintf("lock:%04d", i), "x", time.Hour)
		pipe.Set(t.Context(), fmt.Sprintf("noise:%04d", i), "x", time.Hour)
	}
	_, err := pipe.Exec(t.Context())
	b.Expect(err).NotTo(HaveOccurred())
	b.Expect(decode[[]map[string]any](b, b.redislock("ls", "--output", "json"))).To(HaveLen(2000))
}

func TestAClusterIsAskedOnAllItsPrimaries(t *testing.T) {
	t.Parallel()
	b := within(t)
	var nodes []*redisserver.Server
	for range 2 {
		nodes = append(nodes, redisserver.Start(t, redisserver.Options{Args: []string{"--cluster-enabled", "yes"}}))
	}
	var clients []*redis.Client
	for i, node := range nodes {
		rdb := redis.NewClient(&redis.Options{Addr: node.Addr()})
		t.Cleanup(func() { _ = rdb.Close() })
		b.Expect(rdb.ClusterAddSlotsRange(t.Context(), i*8192, i*8192+8191).Err()).To(Succeed())
		b.Expect(rdb.Do(t.Context(), "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err()).To(Succeed())
		clients = append(clients, rdb)
	}
	host, port, _ := strings.Cut(nodes[1].Addr(), ":")
	b.Expect(clients[0].ClusterMeet(t.Context(), host, port).Err()).To(Succeed())
	for _, rdb := range clients {
		b.Eventually(func() string { return rdb.ClusterInfo(context.Background()).Val() }).Should(
			And(ContainSubstring("cluster_state:ok"), ContainSubstring("cluster_known_nodes:2")))
	}
	flags := []string{"--cluster", "--redis-url", "redis://" + nodes[0].Addr() + "?addr=" + nodes[1].Addr()}
	want := []string{}
	for _, name := range []string{"lock:a", "lock:b", "lock:c", "lock:d"} {
		r := execute(t, clean(), "", append([]string{"acquire", name}, flags...)...)
		b.Expect(r.code).To(Equal(0), r.stderr)
		want = append(want, name)
	}
	for _, rdb := range clients {
		b.Expect(rdb.DBSize(t.Context()).Val()).To(BeNumerically(">", 0), "they are spread")
	}
	r := execute(t, clean(), "", append([]string{"ls", "--output", "json"}, flags...)...)
	var states []struct{ Key string }
	b.Expect(json.Unmarshal([]byte(r.stdout), &states)).To(Succeed(), r.stderr)
	var keys []string
	for _, s := range states {
		keys = append(keys, s.Key)
	}
	b.Expect(keys).To(Equal(want))
}

func TestSentinelsSayWhereThePrimaryIs(t *testing.T) {
	t.Parallel()
	g := within(t)
	primary := redisserver.Start(t, redisserver.Options{Password: "s3cret"})
	host, port, _ := strings.Cut(primary.Addr(), ":")
	place, err := ports.Reserve()
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(place.Release)
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	g.Expect(os.WriteFile(config, fmt.Appendf(nil,
		"bind 127.0.0.1\nport %d\nsentinel monitor locks %s %s 1\nsentinel auth-pass locks s3cret\nrequirepass s3ntinel\n", place.Number(), host, port), 0o600)).To(Succeed())
	program := os.Getenv("REDIS_SERVER")
	if program == "" {
		program = "redis-server"
	}
	sentinel := exec.Command(program, config, "--sentinel")
	g.Expect(children.Start(sentinel)).To(Succeed())
	t.Cleanup(func() {
		_ = sentinel.Process.Kill()
		_ = sentinel.Wait()
	})
	rdb := redis.NewClient(&redis.Options{Addr: place.Addr(), Password: "s3ntinel"})
	t.Cleanup(func() { _ = rdb.Close() })
	g.Eventually(func() error { return rdb.Ping(context.Background()).Err() }).Should(Succeed())

	password := filepath.Join(t.TempDir(), "password")
	g.Expect(os.WriteFile(password, []byte("s3ntinel\n"), 0o600)).To(Succeed())
	environ := append(clean(), "REDISLOCK_REDIS_URL=redis://:s3cret@"+place.Addr())
	flags := []string{"--sentinel-master", "locks", "--sentinel-password-file", password}
	g.Expect(execute(t, environ, "", append([]string{"acquire", key}, flags...)...).code).To(Equal(0))
	g.Expect(execute(t, environ, "", append([]string{"status", key}, flags...)...).code).To(Equal(0))
	listed := execute(t, environ, "", append([]string{"ls"}, flags...)...)
	g.Expect(listed.stdout).To(ContainSubstring(key))
	unknown := execute(t, environ, "", "status", key, "--sentinel-master", "others", "--sentinel-password-file", password)
	g.Expect(unknown.code).To(Equal(69))
}

func TestConnectionsWithTLSAndCredentials(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := redisserver.Start(t, redisserver.Options{TLS: true, ACL: []string{"user default off", "user app on >s3cr+t ~* &* +@all"}})
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	g.Expect(os.WriteFile(password, []byte("s3cr+t\n"), 0o600)).To(Succeed())
	address := "rediss://app@" + server.Addr() + "/0"
	good := []string{"--redis-url", address, "--password-file", password, "--ca-file", server.CAFile()}
	status := func(environ []string, flags ...string) result {
		return execute(t, append(clean(), environ...), "", append([]string{"status", key}, flags...)...)
	}
	g.Expect(status(nil, good...)).To(Equal(result{1, "FREE\n", ""}))
	g.Expect(status([]string{"REDISLOCK_REDIS_URL=rediss://app:s3cr%2Bt@" + server.Addr()}, "--ca-file", server.CAFile())).To(Equal(result{1, "FREE\n", ""}))
	g.Expect(status(nil, append(good, "--server-name", "localhost")...).code).To(Equal(1))

	wrong := filepath.Join(dir, "wrong")
	g.Expect(os.WriteFile(wrong, []byte("0th3r"), 0o600)).To(Succeed())
	for name, r := range map[string]result{
		"wrong password":                    status(nil, "--redis-url", address, "--password-file", wrong, "--ca-file", server.CAFile()),
		"wrong password in the environment": status([]string{"REDISLOCK_REDIS_URL=rediss://app:0th3r@" + server.Addr()}, "--ca-file", server.CAFile()),
		"unknown authority":                 status(nil, "--redis-url", address, "--password-file", password),
		"wrong name":                        status(nil, append(good, "--server-name", "elsewhere")...),
	} {
		g.Expect(r.code).To(Equal(69), name)
		g.Expect(r.stderr).NotTo(BeEmpty())
		g.Expect(r.stderr).NotTo(Or(ContainSubstring("0th3r"), ContainSubstring("s3cr")), name)
	}
}

func TestWhatWaitingCannotHelpIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Expect(b.rdb.Set(t.Context(), "{"+key+"}:fence", "x", time.Minute).Err()).To(Succeed())
	corrupt := b.redislock("run", key, "--", "echo", "ran")
	b.Expect(corrupt.code).To(Equal(69))
	b.Expect(corrupt.stderr).To(And(ContainSubstring("delete it"), HavePrefix("redislock: ")))
	b.Expect(strings.Count(corrupt.stderr, "\n")).To(Equal(1))
	b.Expect(b.redislock("elect", "x", "--", "true").code).To(Equal(0))
	b.Expect(b.rdb.ConfigSet(t.Context(), "requirepass", "s3cret").Err()).To(Succeed())
	for _, args := range [][]string{{"run", key, "--", "echo", "ran"}, {"elect", "x", "--", "echo", "ran"}, {"status", key}, {"debounce", "run", key, "--", "echo", "ran"}, {"debounce", "call", key}} {
		refused := b.redislock(args...)
		b.Expect(refused.code).To(Equal(69), "%q", args)
		b.Expect(refused.stdout).To(BeEmpty())
		b.Expect(refused.stderr).To(ContainSubstring("NOAUTH"))
	}
}

func TestRedisThatIsAwayIsSaid(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Expect(b.server.Kill()).To(Succeed())
	for _, args := range [][]string{
		{"status", key}, {"ls"}, {"history", key}, {"release", key, "x"}, {"acquire", "--no-wait", key},
		{"run", "--no-wait", key, "--", "echo", "ran"}, {"debounce", "call", key}, {"debounce", "status", key},
	} {
		r := b.redislock(args...)
		b.Expect(r.code).To(Equal(69), "%q", args)
		b.Expect(r.stdout).To(BeEmpty())
		b.Expect(r.stderr).To(ContainSubstring("connect"), "%q", args)
	}
	r := b.redislock("run", "--timeout", "100ms", key, "--", "echo", "ran")
	b.Expect(r.code).To(Equal(69), "nobody said that it is held")
	b.Expect(r.stdout).To(BeEmpty())

	waiting := b.start("run", key, "--", "echo", "ran")
	b.Eventually(waiting.stderr.text).Should(ContainSubstring("connect"), "why it waits")
	b.Expect(b.server.Start()).To(Succeed())
	b.Expect(b.code(waiting)).To(Equal(0))
	b.Expect(b.line(waiting, 0)).To(Equal("ran"))
	b.Expect(strings.Count(waiting.stderr.text(), "\n")).To(BeNumerically("<=", 2), "once")
}

func TestBadInputIsRefusedWithWhatToChange(t *testing.T) {
	t.Parallel()
	g := within(t)
	const address = "redis://127.0.0.1:1"
	run := func(flags ...string) []string {
		return append(append([]string{"run", key, "--redis-url", address}, flags...), "--", "true")
	}
	call := func(flags ...string) []string {
		return append([]string{"debounce", "call", key, "--redis-url", address}, flags...)
	}
	debounce := func(flags ...string) []string {
		return append(append([]string{"debounce", "run", key, "--redis-url", address}, flags...), "--", "true")
	}
	file := filepath.Join(t.TempDir(), "file")
	g.Expect(os.WriteFile(file, []byte("x"), 0o600)).To(Succeed())
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"frobnicate"}, "redislock help"},
		{[]string{"run"}, "write redislock run KEY -- PROGRAM"},
		{[]string{"run", key}, "-- PROGRAM"},
		{[]string{"run", key, "--"}, "-- PROGRAM"},
		{[]string{"run", key, "echo", "x"}, "after --"},
		{[]string{"run", "--leese", "5s", key, "--", "true"}, "redislock run --help"},
		{run("--lease", "fast"), "--help"},
		{run("--lease", "1ms"), "lease"},
		{run("--lease", "-1s"), "lease"},
		{run("--wait", "--no-wait"), "exclude"},
		{run("--timeout", "1s", "--no-wait"), "exclude"},
		{run("--timeout", "-1s"), "--timeout"},
		{run("--grace", "-1s"), "--grace"},
		{run("--identity", "a b"), "identity"},
		{run("--cluster", "--sentinel-master", "x"), "exclude"},
		{run("--cert-file", file), "--key-file"},
		{run("--ca-file", file), "rediss://"},
		{run("--sentinel-password-file", file), "--sentinel-master"},
		{run("--password-file", "/no/such/file"), "--password-file"},
		{[]string{"run", "a{}b", "--redis-url", address, "--", "true"}, "hash tag"},
		{[]string{"run", "", "--redis-url", address, "--", "true"}, "key"},
		{[]string{"elect", "x"}, "-- PROGRAM"},
		{[]string{"elect", "a{}b", "--redis-url", address, "--", "true"}, "hash tag"},
		{[]string{"elect", "x", "--no-wait", "--", "true"}, "redislock elect --help"},
		{[]string{"status"}, "write redislock status KEY"},
		{[]string{"status", "a", "b"}, "one argument too many"},
		{[]string{"status", "a", "--", "b"}, "leave out"},
		{[]string{"status", "a\nb", "--redis-url", address}, "control character"},
		{[]string{"status", key, "--output", "yaml"}, "text or json"},
		{[]string{"status", key}, "REDISLOCK_REDIS_URL"},
		{[]string{"status", key, "--redis-url", "http://127.0.0.1"}, "redis://host:6379/0"},
		{[]string{"status", key, "--redis-url", "redis://u:p4ss@[::1"}, "redis://host:6379/0"},
		{[]string{"status", key, "--redis-url", "redis://u:p4ss@127.0.0.1:1"}, "--password-file"},
		{[]string{"status", key, "--redis-url", "redis://127.0.0.1:1/0?addr=127.0.0.1:2"}, "--cluster"},
		{[]string{"status", key, "--redis-url", "redis://127.0.0.1:1/0?nonsense=1"}, "redis://host:6379/0"},
		{[]string{"status", key, "--redis-url", "redis://127.0.0.1:1/3", "--cluster"}, "database 0"},
		{[]string{"status", key, "--redis-url", "unix:///tmp/x", "--cluster"}, "socket"},
		{[]string{"status", key, "--redis-url", "rediss://127.0.0.1:1", "--ca-file", file}, "no certificate"},
		{[]string{"status", key, "--redis-url", "rediss://127.0.0.1:1", "--ca-file", "/no/such/file"}, "--ca-file"},
		{[]string{"status", key, "--redis-url", "rediss://127.0.0.1:1", "--cert-file", file, "--key-file", file}, "--cert-file"},
		{[]string{"release", key, "--redis-url", address}, "REDISLOCK_TOKEN"},
		{[]string{"version", "x"}, "one argument too many"},
		{[]string{"debounce"}, "redislock debounce --help"},
		{[]string{"debounce", "frobnicate"}, "redislock help"},
		{[]string{"debounce", "call"}, "write redislock debounce call KEY"},
		{call("--source", "x"), "go together"},
		{call("--sequence", "1"), "go together"},
		{call("--sequence", "x", "--source", "y"), "redislock debounce call --help"},
		{call("--sequence", "9007199254740992", "--source", "y"), "2^53"},
		{call("--sequence", "1", "--source", "a\nb"), "source"},
		{call("--payload", "x", "--payload-file", file), "exclude"},
		{call("--payload-file", "/no/such/file"), "--payload-file"},
		{call("--payload-file", "/dev/zero"), "65536"},
		{[]string{"debounce", "status", "a{}b", "--redis-url", address}, "hash tag"},
		{[]string{"debounce", "run", key}, "-- PROGRAM"},
		{debounce("--wait", "0s"), "--wait"},
		{debounce("--wait", "-1s"), "wait"},
		{debounce("--wait", "2s", "--max-wait", "1s"), "maximum wait"},
		{debounce("--min-interval", "-1s"), "interval"},
		{debounce("--lease", "0s"), "--lease"},
		{debounce("--lease", "1ms"), "lease"},
		{debounce("--grace", "-1s"), "--grace"},
		{debounce("--edge", "rising"), "trailing, leading or both"},
		{debounce("--payload-choice", "all"), "last or first"},
		{debounce("--identity", "a b"), "identity"},
	} {
		r := execute(t, clean(), "", c.args...)
		g.Expect(r.code).To(Equal(64), "%q: %s", c.args, r.stderr)
		g.Expect(r.stdout).To(BeEmpty(), "%q", c.args)
		g.Expect(r.stderr).To(ContainSubstring(c.says), "%q", c.args)
		g.Expect(r.stderr).NotTo(ContainSubstring("p4ss"), "%q", c.args)
		g.Expect(strings.Count(r.stderr, "\n")).To(Equal(1), "%q: %s", c.args, r.stderr)
	}
	nothing := execute(t, clean(), "")
	g.Expect(nothing.code).To(Equal(64))
	g.Expect(nothing.stderr).To(ContainSubstring("Commands:"))
	bad := execute(t, append(clean(), "REDISLOCK_REDIS_URL=redis://u:p4ss@host:port"), "", "status", key)
	g.Expect(bad.code).To(Equal(64))
	g.Expect(bad.stderr).NotTo(ContainSubstring("p4ss"))
}

func TestVersionAndHelp(t *testing.T) {
	t.Parallel()
	g := within(t)
	g.Expect(execute(t, nil, "", "version")).To(Equal(result{0, "v1.2.3\n", ""}))
	g.Expect(execute(t, nil, "", "--version")).To(Equal(result{0, "v1.2.3\n", ""}))
	g.Expect(execute(t, nil, "", "version", "--output", "json")).To(Equal(result{0, "{\"version\":\"v1.2.3\"}\n", ""}))
	help := execute(t, nil, "", "help")
	g.Expect(help.code).To(Equal(0))
	g.Expect(execute(t, nil, "", "--help")).To(Equal(help))
	g.Expect(help.stdout).NotTo(ContainSubstring("__guard"))
	group := execute(t, nil, "", "debounce", "--help")
	g.Expect(group.code).To(Equal(0))
	g.Expect(strings.Count(group.stdout, "\n  debounce ")).To(Equal(3))
}

// What --help says is in docs/cli.md, word for word where it is a contract.
func TestTheDocumentationHasAllCommandsFlagsAndExitCodes(t *testing.T) {
	t.Parallel()
	g := within(t)
	data, err := os.ReadFile("../../docs/cli.md")
	g.Expect(err).NotTo(HaveOccurred())
	docs := string(data)
	help := execute(t, nil, "", "help").stdout
	commands := regexp.MustCompile(`(?m)^  ([a-z]+(?: [a-z]+)?) .*[A-Z]`).FindAllStringSubmatch(strings.Split(help, "Exit codes:")[0], -1)
	g.Expect(len(commands)).To(BeNumerically(">=", 11))
	flags := map[string]bool{}
	for _, c := range commands {
		g.Expect(docs).To(ContainSubstring("`redislock "+c[1]), c[1])
		for _, f := range regexp.MustCompile(`(?m)^  (--[a-z-]+)`).FindAllStringSubmatch(execute(t, nil, "", append(strings.Fields(c[1]), "--help")...).stdout, -1) {
			flags[f[1]] = true
		}
	}
	g.Expect(len(flags)).To(BeNumerically(">", 12))
	for f := range flags {
		g.Expect(docs).To(ContainSubstring("`"+f), f)
	}
	codes := regexp.MustCompile(`(?m)^  (\S+) +(.*)$`).FindAllStringSubmatch(strings.Split(help, "Exit codes:")[1], -1)
	g.Expect(codes).To(HaveLen(10))
	for _, c := range codes {
		g.Expect(docs).To(MatchRegexp(`\| `+regexp.QuoteMeta(c[1])+` +\| `+regexp.QuoteMeta(c[2])+` \|`), c[1])
	}
	g.Expect(slices.Contains(strings.Fields(docs), "__guard")).To(BeFalse())
}
