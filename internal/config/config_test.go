package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// secret must never be seen in an error.
const secret = "hunter2-hunter2"

// write returns the path of a file with this content, which ends with the test.
func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// read does what the manager does with its configuration.
func read(file string, environ, flags []string) (Config, error) {
	c, err := Load(file, environ)
	if err != nil {
		return c, err
	}
	for _, flag := range flags {
		if err := c.SetStoreFlag(flag); err != nil {
			return c, err
		}
	}
	return c, c.Validate()
}

func TestLoadReadsEveryField(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c, err := read(write(t, `
clusterName: blue
stores:
- name: default
  url: rediss://redis:6379/0
  usernameFile: /s/username
  passwordFile: /s/password
  caFile: /s/ca.crt
  certFile: /s/tls.crt
  keyFile: /s/tls.key
  serverName: redis.example.com
- name: payments
  urlFile: /s/url
keyPolicy:
- namespace: team-*
  prefixes: ["legacy:"]
httpTargets:
- urlPrefix: https://cache.example.com/purge
  namespaces: [shop, team-*]
  caFile: /t/ca.crt
  headerFiles: {Authorization: /t/authorization}
watchNamespaces: [a, b]
`), nil, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c).To(Equal(Config{
		ClusterName: "blue",
		Stores: []Store{{
			Name: "default", URL: "rediss://redis:6379/0", UsernameFile: "/s/username", PasswordFile: "/s/password",
			CAFile: "/s/ca.crt", CertFile: "/s/tls.crt", KeyFile: "/s/tls.key", ServerName: "redis.example.com",
		}, {Name: "payments", URLFile: "/s/url"}},
		KeyPolicy: []KeyRule{{Namespace: "team-*", Prefixes: []string{"legacy:"}}},
		HTTPTargets: []HTTPTarget{{
			URLPrefix: "https://cache.example.com/purge", Namespaces: []string{"shop", "team-*"},
			CAFile: "/t/ca.crt", HeaderFiles: map[string]string{"Authorization": "/t/authorization"},
		}},
		WatchNamespaces: []string{"a", "b"},
	}))
}

func TestSamplesAreValid(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "config")
	for _, file := range []string{"manager/config.yaml", "samples/manager-config.yaml", "samples/manager-config-local.yaml", "samples/overlay/config.yaml"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			c, err := read(filepath.Join(root, file), nil, nil)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(c.Stores).NotTo(BeEmpty())
		})
	}
}

func TestLaterSourcesWin(t *testing.T) {
	t.Parallel()
	file := "clusterName: file\nstores:\n- {name: default, url: 'redis://file', passwordFile: /s/password}\n- {name: my-store, urlFile: /s/url}\n"
	for _, tc := range []struct {
		name           string
		environ, flags []string
		cluster        string
		stores         []Store
	}{{
		name:    "the file alone",
		cluster: "file",
		stores:  []Store{{Name: "default", URL: "redis://file", PasswordFile: "/s/password"}, {Name: "my-store", URLFile: "/s/url"}},
	}, {
		name:    "an empty variable is as none",
		environ: []string{"REDISLOCK_CLUSTER_NAME=", "REDISLOCK_STORE_DEFAULT_URL=", "PATH=/bin", "REDISLOCK_STORE_DEFAULT=redis://x", "nonsense"},
		cluster: "file",
		stores:  []Store{{Name: "default", URL: "redis://file", PasswordFile: "/s/password"}, {Name: "my-store", URLFile: "/s/url"}},
	}, {
		name:    "the environment replaces addresses and keeps the rest",
		environ: []string{"REDISLOCK_CLUSTER_NAME=env", "REDISLOCK_STORE_DEFAULT_URL=redis://:" + secret + "@env", "REDISLOCK_STORE_MY_STORE_URL=redis://mine"},
		cluster: "env",
		stores: []Store{
			{Name: "default", URL: "redis://:" + secret + "@env", PasswordFile: "/s/password", trusted: true},
			{Name: "my-store", URL: "redis://mine", trusted: true},
		},
	}, {
		name:    "a flag replaces what the environment said",
		environ: []string{"REDISLOCK_STORE_DEFAULT_URL=redis://env"},
		flags:   []string{"default=redis://flag?read_timeout=1s", "other=redis://other"},
		cluster: "file",
		stores: []Store{
			{Name: "default", URL: "redis://flag?read_timeout=1s", PasswordFile: "/s/password"},
			{Name: "my-store", URLFile: "/s/url"}, {Name: "other", URL: "redis://other"},
		},
	}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			c, err := read(write(t, file), tc.environ, tc.flags)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(c.ClusterName).To(Equal(tc.cluster))
			g.Expect(c.Stores).To(Equal(tc.stores))
		})
	}
}

func TestWhatIsWrongIsNamedWithWhatToChange(t *testing.T) {
	t.Parallel()
	store := func(fields string) string { return "stores: [{" + fields + "}]" }
	for _, tc := range []struct {
		name, file string
		flag       string
		want       []string
	}{
		{name: "no YAML", file: "stores: [", want: []string{"configuration file", "line 1"}},
		{name: "an unknown field", file: "store: []", want: []string{`unknown field "store"`}},
		{name: "an unknown field of a store", file: store("name: a, uri: redis://x"), want: []string{`unknown field "uri"`}},
		{name: "a field twice", file: "clusterName: a\nclusterName: b", want: []string{`"clusterName" already set`}},
		{name: "another type", file: "stores: default", want: []string{"cannot unmarshal", "stores"}},
		{name: "a cluster name with spaces", file: "clusterName: Blue Cluster", want: []string{`clusterName "Blue Cluster"`, "lower-case letters, digits and '-', at most 63"}},
		{name: "a cluster name that is too long", file: "clusterName: " + strings.Repeat("a", 64), want: []string{"at most 63"}},
		{name: "a store without a name", file: store("url: redis://x"), want: []string{"stores[0]: name: use lower-case letters"}},
		{name: "a store with a name that is none", file: store("name: My_Store, url: redis://x"), want: []string{"stores[0]: name: use lower-case letters"}},
		{name: "a store twice", file: "stores: [{name: a, url: redis://x}, {name: a, url: redis://y}]", want: []string{`store "a": is there twice: give each store a name of its own`}},
		{name: "no address", file: store("name: a"), want: []string{`store "a": set either url or urlFile`}},
		{name: "two addresses", file: store("name: a, url: redis://x, urlFile: /f"), want: []string{"set either url or urlFile"}},
		{name: "a certificate without a key", file: store("name: a, url: rediss://x, certFile: /f"), want: []string{"certFile and keyFile go together"}},
		{name: "a key without a certificate", file: store("name: a, url: rediss://x, keyFile: /f"), want: []string{"certFile and keyFile go together"}},
		{name: "a password in the file", file: store("name: a, url: 'redis://user:" + secret + "@x'"), want: []string{`store "a": url: has a password in it`, "passwordFile"}},
		{name: "a password in the file, without a user", file: store("name: a, url: 'rediss://:" + secret + "@x:1/0'"), want: []string{"passwordFile"}},
		{name: "a URL for a name", file: store("name: 'redis://:" + secret + "@x', url: redis://x"), want: []string{"stores[0]: name: use lower-case letters"}},
		{name: "a URL for a field", file: store("name: a, 'redis://:" + secret + "@x': b"), want: []string{"unknown field"}},
		{name: "a key rule without a namespace", file: "keyPolicy: [{prefixes: ['a']}]", want: []string{"keyPolicy[0]: namespace", "team-*"}},
		{name: "a key rule with a pattern that is none", file: "keyPolicy: [{namespace: 'a[', prefixes: ['a']}]", want: []string{`keyPolicy[0]: namespace "a["`, "team-*"}},
		{name: "a key rule without prefixes", file: "keyPolicy: [{namespace: a}]", want: []string{"keyPolicy[0]: prefixes: list at least one", `"" allows every key`}},
		{name: "a namespace that is none", file: "watchNamespaces: [a, B]", want: []string{`watchNamespaces[1]: "B" is no name of a namespace`}},
		{name: "several things at once", file: "clusterName: A\nwatchNamespaces: [B]", want: []string{"clusterName", "watchNamespaces[0]"}},
		{name: "a flag without a name", flag: "redis://:" + secret + "@x", want: []string{"--store", "write name=url", "default=redis://redis:6379/0"}},
		{name: "a flag without a name, with an = in its password", flag: "redis://:" + secret + "=a@x", want: []string{"--store", "write name=url"}},
		{name: "a flag without a name, with a query", flag: "redis://:" + secret + "@x?db=1", want: []string{"--store", "write name=url"}},
		{name: "a flag with a password", flag: "default=redis://:" + secret + "@x", want: []string{`store "default": url: has a password in it`, "passwordFile"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			var flags []string
			if tc.flag != "" {
				flags = []string{tc.flag}
			}
			_, err := read(write(t, tc.file), nil, flags)
			g.Expect(err).To(HaveOccurred())
			for _, want := range tc.want {
				g.Expect(err.Error()).To(ContainSubstring(want))
			}
			g.Expect(err.Error()).NotTo(ContainSubstring(secret))
		})
	}
}

func TestAFileThatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	_, err := Load("/nowhere/config.yaml", nil)
	g.Expect(err).To(MatchError(os.ErrNotExist))
	g.Expect(err.Error()).To(ContainSubstring("/nowhere/config.yaml"))
}

func TestWithoutAFileTheEnvironmentIsEnough(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c, err := read("", []string{"REDISLOCK_STORE_DEFAULT_URL=redis://x"}, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.Stores).To(HaveLen(1))
}

func TestKeyAllowed(t *testing.T) {
	t.Parallel()
	policy := Config{KeyPolicy: []KeyRule{
		{Namespace: "billing", Prefixes: []string{"lock:payments:", "legacy:"}},
		{Namespace: "team-*", Prefixes: []string{"shared:"}},
		{Namespace: "root", Prefixes: []string{""}},
	}}
	for _, tc := range []struct {
		namespace, key string
		want           bool
	}{
		{"billing", "lock:billing:nightly", true},
		{"billing", "lock:payments:nightly", true},
		{"billing", "legacy:x", true},
		{"billing", "lock:other:x", false},
		{"billing", "lock:billing-2:x", false},
		{"billing", "lock:billing", false},
		{"billing", "xlock:billing:x", false},
		{"bill", "lock:billing:x", false},
		{"payments", "legacy:x", false},
		{"payments", "lock:payments:x", true},
		{"team-a", "shared:x", true},
		{"team-", "shared:x", true},
		{"a-team-b", "shared:x", false},
		{"team-a", "lock:team-b:x", false},
		{"root", "anything", true},
	} {
		t.Run(tc.namespace+" "+tc.key, func(t *testing.T) {
			t.Parallel()
			NewWithT(t).Expect(policy.KeyAllowed(LockKey, tc.namespace, tc.key)).To(Equal(tc.want))
		})
	}
}

func TestEachKindHasKeysOfItsOwn(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	policy := Config{KeyPolicy: []KeyRule{{Namespace: "billing", Prefixes: []string{"shared:", "lock:billing:calls:"}}}}
	g.Expect(policy.KeyAllowed(DebounceKey, "billing", "debounce:billing:purge")).To(BeTrue())
	g.Expect(policy.KeyAllowed(LockKey, "billing", "debounce:billing:purge")).To(BeFalse())
	g.Expect(policy.KeyAllowed(DebounceKey, "billing", "lock:billing:nightly")).To(BeFalse())
	g.Expect(policy.KeyAllowed(DebounceKey, "billing", "lock:billing:calls:a")).To(BeTrue(), "by the policy")
	g.Expect(policy.KeyAllowed(DebounceKey, "billing", "debounce:billing-2:purge")).To(BeFalse())
	for _, kind := range []KeyKind{LockKey, DebounceKey} {
		g.Expect(policy.KeyAllowed(kind, "billing", "shared:a")).To(BeTrue())
		g.Expect(policy.KeyAllowed(kind, "other", "shared:a")).To(BeFalse())
	}
}

// FuzzLoad has nothing that is read make the manager panic, and no password that
// stands in a URL appear in an error, wherever the URL was put.
func FuzzLoad(f *testing.F) {
	f.Add("clusterName: blue\nstores: [{name: a, url: redis://x}]", "host:6379", "/0")
	f.Add("keyPolicy: [{namespace: 'a*', prefixes: ['']}]", "host", "?db=1")
	f.Add("&a [*a]", "[::1", "\x00")
	f.Add("store:\n\t- x", "h:notaport", "/%zz")
	f.Add("- \xff", "", "=")
	f.Fuzz(func(t *testing.T, content, host, rest string) {
		if c, err := Load(write(t, content), []string{content}); err == nil {
			_ = c.Validate()
			_ = c.KeyAllowed(LockKey, host, rest)
			_, _ = c.HTTPTarget(host, rest)
		}
		if strings.Contains(host+rest, secret) {
			return
		}
		address := "redis://user:" + secret + "@" + host + rest
		quoted, err := json.Marshal(address) // YAML reads it too
		if err != nil {
			t.Fatal(err)
		}
		for _, source := range []struct {
			file           string
			environ, flags []string
		}{
			{file: fmt.Sprintf("stores: [{name: a, url: %s}]", quoted)},
			{file: fmt.Sprintf("stores:\n- name: %s\n  url: redis://x", quoted)},
			{environ: []string{"REDISLOCK_STORE_A_URL=" + address}},
			{file: fmt.Sprintf("stores: [{name: a, %s: redis://x}]", quoted)},
			{file: fmt.Sprintf("clusterName: [%s]", quoted)},
			{flags: []string{"a=" + address}},
			{flags: []string{address}},
			{flags: []string{"redis://" + secret + "=" + rest}},
		} {
			file := ""
			if source.file != "" {
				file = write(t, source.file)
			}
			if _, err := read(file, source.environ, source.flags); err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%+v: the error repeats the password: %v", source, err)
			}
		}
	})
}
