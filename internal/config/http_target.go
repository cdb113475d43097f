package config

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// HTTPTarget is where Debounces may send requests.
type HTTPTarget struct {
	// URLPrefix is http:// or https:// with a host, and with a path or none. A URL lies
	// under it whose scheme, host and port are the same, and whose path is the same or
	// below.
	URLPrefix string `json:"urlPrefix"`
	// Namespaces are patterns (path.Match) of the namespaces whose Debounces may use it;
	// empty: all.
	Namespaces []string `json:"namespaces,omitempty"`
	// CAFile is the certificate authority that signed the server's certificate; without
	// it the system's are trusted.
	CAFile string `json:"caFile,omitempty"`
	// HeaderFiles are headers of each request, by name; a file holds a value.
	HeaderFiles map[string]string `json:"headerFiles,omitempty"`
}

// HTTPTarget is the first target that a URL lies under and a namespace may use.
func (c *Config) HTTPTarget(namespace, address string) (*HTTPTarget, bool) {
	to, err := parseLocation(address)
	if err != nil {
		return nil, false
	}
	for i := range c.HTTPTargets {
		if target := &c.HTTPTargets[i]; target.admits(namespace) && target.covers(to) {
			return target, true
		}
	}
	return nil, false
}

func (t *HTTPTarget) admits(namespace string) bool {
	return len(t.Namespaces) == 0 || slices.ContainsFunc(t.Namespaces, func(pattern string) bool {
		ok, _ := path.Match(pattern, namespace)
		return ok
	})
}

func (t *HTTPTarget) covers(to location) bool {
	prefix, err := parseLocation(t.URLPrefix)
	return err == nil && prefix.scheme == to.scheme && prefix.host == to.host && prefix.port == to.port &&
		len(prefix.path) <= len(to.path) && slices.Equal(prefix.path, to.path[:len(prefix.path)])
}

// headersOfRequest are those that the operator sets itself, or that would have the
// request mean another thing than was checked.
var headersOfRequest = []string{
	"Host", "Content-Length", "Transfer-Encoding", "Connection", "Proxy-Connection", "Keep-Alive", "Trailer", "Te", "Upgrade", "Expect",
	"Idempotency-Key", "Redislock-Debounce", "Redislock-Calls",
}

var headerName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")

func (t *HTTPTarget) validate() error {
	prefix, err := parseLocation(t.URLPrefix)
	if err != nil {
		return fmt.Errorf("urlPrefix: %w", err)
	}
	if strings.Contains(t.URLPrefix, "?") {
		return errors.New("urlPrefix: has a query, which is not compared: take it out")
	}
	if t.CAFile != "" && prefix.scheme != "https" {
		return errors.New("caFile: is for https; urlPrefix has http")
	}
	for i, pattern := range t.Namespaces {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return fmt.Errorf("namespaces[%d]: %q: write a namespace's name, or a pattern such as team-*", i, pattern)
		}
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(t.HeaderFiles)) {
		file := t.HeaderFiles[name]
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !headerName.MatchString(name):
			// Not repeated: it may be a header's value that slipped in.
			return errors.New("headerFiles: one of the names is no name of a header: write it as in Authorization: /etc/redislock/targets/authorization")
		case seen[canonical]:
			return fmt.Errorf("headerFiles: %s is there twice", canonical)
		case slices.Contains(headersOfRequest, canonical):
			return fmt.Errorf("headerFiles: %s is set by the operator: take it out", canonical)
		case !filepath.IsAbs(file):
			// Nor this: it may be the value itself.
			return fmt.Errorf("headerFiles: %s: write the absolute path of a file that holds the value", canonical)
		}
		seen[canonical] = true
	}
	return nil
}

// location is the part of a URL that says where a request goes.
type location struct {
	scheme, host, port string
	// path is the path's parts; one that ends with a slash has no empty last part.
	path []string
}

// parseLocation takes a URL apart. It refuses all that servers, proxies and clients are
// known to understand differently, for what is compared here must be what is asked there.
// Its errors do not repeat the URL: there may be a password in it.
func parseLocation(address string) (location, error) {
	for _, c := range []byte(address) {
		if c <= ' ' || c >= 0x7f || c == '\\' || c == '#' {
			return location{}, errors.New("has spaces, a backslash, a # or characters that are not ASCII: take them out, or escape them with %")
		}
	}
	u, err := url.Parse(address)
	if err != nil || u.Opaque != "" || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return location{}, errors.New("write http:// or https:// with a host, as in https://cache.example.com/purge")
	}
	if u.User != nil {
		return location{}, errors.New("has a user or password in it: put what the server asks for into a file and name that in headerFiles")
	}
	l := location{scheme: u.Scheme, port: u.Port()}
	if l.host, err = host(u); err != nil {
		return location{}, err
	}
	switch {
	case l.port == "" && strings.HasSuffix(u.Host, ":"):
		return location{}, errors.New("has a ':' and no port after it: write the port, or take the ':' out")
	case l.port == "" && l.scheme == "http":
		l.port = "80"
	case l.port == "":
		l.port = "443"
	default:
		n, err := strconv.ParseUint(l.port, 10, 16)
		if err != nil || n == 0 || l.port[0] == '0' {
			return location{}, errors.New("has a port that is none: write a number from 1 to 65535")
		}
	}
	escaped := u.EscapedPath()
	if escaped == "" || escaped == "/" {
		return l, nil
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(escaped[1:], "/"), "/") {
		decoded, err := url.PathUnescape(part)
		if err != nil || decoded == "" || decoded == "." || decoded == ".." || strings.ContainsAny(decoded, "/\\%;") || hasControl(decoded) {
			return location{}, errors.New("has a part of its path that is empty, '.' or '..', or has a slash, a backslash, ';', '%' or a control character hidden in it: write the path that is meant")
		}
		l.path = append(l.path, decoded)
	}
	return l, nil
}

// host is a URL's host as it is compared: a name in lower case, an address in its one
// shortest form.
func host(u *url.URL) (string, error) {
	name := strings.ToLower(u.Hostname())
	if strings.HasPrefix(u.Host, "[") {
		address, err := netip.ParseAddr(name)
		if err != nil || address.Zone() != "" {
			return "", errors.New("has an address in brackets that is none")
		}
		return address.String(), nil
	}
	if address, err := netip.ParseAddr(name); err == nil {
		return address.String(), nil
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", errors.New("has a host that is none: write it as in cache.example.com, without a dot at its end")
		}
	}
	// 127.1, 0x7f.1 and 2130706433 are addresses to some and names to others.
	if last := labels[len(labels)-1]; last[0] >= '0' && last[0] <= '9' {
		return "", errors.New("has a host that is a number: write an address in full, as in 192.0.2.1")
	}
	return name, nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
