package config

import (
	"net/url"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

func TestHTTPTarget(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, prefix string
		in, out      []string
	}{
		{
			name: "a host", prefix: "https://a.example.com",
			in: []string{
				"https://a.example.com", "https://a.example.com/", "https://a.example.com/x/y?z=https://b",
				"https://A.Example.COM:443/x", "HTTPS://a.example.com/x", "https://a.example.com?x=1",
			},
			out: []string{
				"http://a.example.com/", "https://a.example.com:8443/", "https://a.example.com.evil/", "https://a.example.com.evil:443/",
				"https://b.a.example.com/", "https://example.com/", "https://a-example.com/", "https://aXexample.com/",
				"https://a.example.com@evil/", "https://evil@a.example.com/", "https://user:pass@a.example.com/", "https://@a.example.com/",
				"https://a.example.com./", "https://a.example.com:/", "https://a.example.com:0443/", "https://a.example.com:443x/", "https://a.example.com:65979/",
				"https://a.example.com\\.evil/", "https://a.example.com\\@evil/", "https://a.example.com#@evil/", "https://evil/#a.example.com", "https://evil/?https://a.example.com",
				"https://a.example.com%2eevil/", "https://a.example.com%00.evil/", "https://a.example.com%2f@evil/", "https://a.example.com /", " https://a.example.com/",
				"https://a.example.com/\n", "https://a.example.com\t/", "https:a.example.com/", "https:/a.example.com/", "https:///a.example.com/", "//a.example.com/", "/x", "",
				"https://ａ.example.com/", "https://a。example.com/", "ftp://a.example.com/", "unix:///a.example.com", "https://[a.example.com]/",
			},
		},
		{
			name: "a path", prefix: "https://a/purge/v1",
			in: []string{"https://a/purge/v1", "https://a/purge/v1/", "https://a/purge/v1/x", "https://a/purge/v1?x", "https://a:443/purge/v1/x/y", "https://a/%70urge/v1/a%20b", "https://a/purge/v1/..x"},
			out: []string{
				"https://a/purge", "https://a/purge/", "https://a/", "https://a", "https://a/purge/v10", "https://a/purge/v1x", "https://a/PURGE/v1", "https://a/x/purge/v1",
				"https://a/purge/v1/../v2", "https://a/purge/v1/..", "https://a/purge/v1/%2e%2e/v2", "https://a/purge/v1/.%2E/v2", "https://a/purge/v1/..;/v2", "https://a/purge/v1/..%2fv2",
				"https://a/purge/v1/..%5cv2", "https://a/purge/v1/%252e%252e/v2", "https://a/purge/v1/./x", "https://a/purge//v1", "https://a//purge/v1", "https://a/purge/v1//x", "https://a/purge/v1/x//",
				"https://a/purge%2fv1", "https://a/purge/v1/%00", "https://a/purge/v1/%0d%0aHost:b", "https://a/purge/v1/%zz", "https://a/purge/v1/x\\..\\y",
			},
		},
		{name: "a path with a slash at its end", prefix: "https://a/purge/", in: []string{"https://a/purge/", "https://a/purge", "https://a/purge/x"}, out: []string{"https://a/purgex", "https://a/"}},
		{name: "a port", prefix: "http://a:8080/", in: []string{"http://a:8080", "http://a:8080/x"}, out: []string{"http://a/", "http://a:80/", "https://a:8080/", "http://a:808/", "http://a:08080/"}},
		{name: "the port that goes without saying", prefix: "http://a:80", in: []string{"http://a/", "http://a:80/x"}, out: []string{"https://a/", "http://a:443/"}},
		{
			name: "an address", prefix: "http://127.0.0.1",
			in: []string{"http://127.0.0.1/x"}, out: []string{"http://127.1/", "http://2130706433/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.0.0.01/", "http://localhost/", "http://[::ffff:127.0.0.1]/"},
		},
		{
			name: "an IPv6 address", prefix: "http://[FD00::1]:8080",
			in: []string{"http://[fd00::1]:8080/", "http://[fd00:0:0:0:0:0:0:1]:8080/"}, out: []string{"http://[fd00::2]:8080/", "http://fd00::1:8080/", "http://[fd00::1%25eth0]:8080/", "http://[fd00::1]8080/"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			c := Config{HTTPTargets: []HTTPTarget{{URLPrefix: tc.prefix}}}
			g.Expect(c.Validate()).To(Succeed())
			for _, address := range tc.in {
				target, ok := c.HTTPTarget("shop", address)
				g.Expect(ok).To(BeTrue(), address)
				g.Expect(target).To(BeIdenticalTo(&c.HTTPTargets[0]))
			}
			for _, address := range tc.out {
				_, ok := c.HTTPTarget("shop", address)
				g.Expect(ok).To(BeFalse(), address)
			}
		})
	}
}

func TestHTTPTargetIsTheFirstThatTheNamespaceMayUse(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := Config{HTTPTargets: []HTTPTarget{
		{URLPrefix: "https://a/x", Namespaces: []string{"shop", "team-*"}},
		{URLPrefix: "https://a"},
		{URLPrefix: "https://b", Namespaces: []string{"shop"}},
	}}
	for _, tc := range []struct {
		namespace, address string
		want               int
	}{
		{"shop", "https://a/x/y", 0}, {"team-1", "https://a/x", 0}, {"other", "https://a/x", 1}, {"shop-2", "https://a/x", 1},
		{"shop", "https://a/y", 1}, {"shop", "https://b/", 2}, {"other", "https://b/", -1}, {"", "https://b/", -1}, {"shop", "https://c/", -1},
	} {
		target, ok := c.HTTPTarget(tc.namespace, tc.address)
		g.Expect(ok).To(Equal(tc.want >= 0), "%v", tc)
		if ok {
			g.Expect(target).To(BeIdenticalTo(&c.HTTPTargets[tc.want]), "%v", tc)
		}
	}
	_, ok := new(Config).HTTPTarget("shop", "https://a/")
	g.Expect(ok).To(BeFalse(), "nothing is allowed by itself")
}

func TestWhatIsWrongWithATargetIsNamed(t *testing.T) {
	t.Parallel()
	target := func(fields string) string { return "httpTargets: [{urlPrefix: https://ok}, {" + fields + "}]" }
	for _, tc := range []struct{ name, file, want string }{
		{"no URL", target("namespaces: [a]"), "httpTargets[1]: urlPrefix: write http:// or https:// with a host, as in"},
		{"a URL that is none", target("urlPrefix: cache.example.com"), "write http:// or https://"},
		{"another scheme", target("urlPrefix: 'redis://:" + secret + "@a'"), "write http:// or https://"},
		{"a password", target("urlPrefix: 'https://user:" + secret + "@a'"), "put what the server asks for into a file and name that in headerFiles"},
		{"a query", target("urlPrefix: 'https://a/?token=" + secret + "'"), "urlPrefix: has a query, which is not compared"},
		{"a query and nothing in it", target("urlPrefix: 'https://a/?'"), "urlPrefix: has a query"},
		{"a fragment", target("urlPrefix: 'https://a/#b'"), "has spaces, a backslash, a #"},
		{"a pattern for a host", target("urlPrefix: 'https://*.example.com'"), "has a host that is none"},
		{"a number for a host", target("urlPrefix: 'https://127.1'"), "write an address in full"},
		{"a port that is none", target("urlPrefix: 'https://a:70000'"), "a number from 1 to 65535"},
		{"up in the path", target("urlPrefix: 'https://a/b/../c'"), "write the path that is meant"},
		{"an authority for http", target("urlPrefix: 'http://a', caFile: /f"), "caFile: is for https"},
		{"a namespace pattern that is none", target("urlPrefix: 'https://a', namespaces: [b, 'a[']"), `namespaces[1]: "a["`},
		{"an empty namespace", target("urlPrefix: 'https://a', namespaces: ['']"), `namespaces[0]: ""`},
		{"a header that is none", target("urlPrefix: 'https://a', headerFiles: {'Authorization: " + secret + "': /f}"), "is no name of a header"},
		{"a header with the value for a file", target("urlPrefix: 'https://a', headerFiles: {authorization: 'Bearer " + secret + "'}"), "headerFiles: Authorization: write the absolute path of a file"},
		{"a header twice", target("urlPrefix: 'https://a', headerFiles: {X-Key: /f, x-key: /g}"), "headerFiles: X-Key is there twice"},
		{"a header of the operator's", target("urlPrefix: 'https://a', headerFiles: {idempotency-key: /f}"), "Idempotency-Key is set by the operator"},
		{"another host by a header", target("urlPrefix: 'https://a', headerFiles: {host: /f}"), "Host is set by the operator"},
		{"an unknown field", target("urlPrefix: 'https://a', headers: {X-Key: a}"), `unknown field "headers"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			_, err := read(write(t, tc.file), nil, nil)
			g.Expect(err).To(MatchError(ContainSubstring(tc.want)))
			g.Expect(err.Error()).NotTo(ContainSubstring(secret))
		})
	}
}

// FuzzHTTPTarget: whatever is let through goes to the host, port and path of the target,
// as Go's HTTP client understands it.
func FuzzHTTPTarget(f *testing.F) {
	for _, address := range []string{
		"https://a.example.com/purge", "https://a.example.com:443/purge/x?y=z", "https://a.example.com.evil/purge", "https://a.example.com@evil/purge",
		"https://a.example.com/purge/../x", "https://a.example.com/purge/%2e%2e/x", "https://a.example.com\\@evil/purge", "HTTPS://A.example.com/purge/",
	} {
		f.Add(address)
	}
	c := Config{HTTPTargets: []HTTPTarget{{URLPrefix: "https://a.example.com/purge"}}}
	f.Fuzz(func(t *testing.T, address string) {
		if _, ok := c.HTTPTarget("shop", address); !ok {
			return
		}
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if u.Scheme != "https" || !strings.EqualFold(u.Hostname(), "a.example.com") || (u.Port() != "" && u.Port() != "443") || u.User != nil {
			t.Fatalf("%q goes to %s", address, u.Host)
		}
		cleaned, err := url.Parse("https://a.example.com/")
		if err != nil {
			t.Fatal(err)
		}
		cleaned = cleaned.JoinPath(u.Path) // resolves what is left of dots
		if cleaned.Path != "/purge" && !strings.HasPrefix(cleaned.Path, "/purge/") {
			t.Fatalf("%q goes to the path %s", address, cleaned.Path)
		}
	})
}
