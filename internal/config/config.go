// Package config is the manager's configuration: a file, overlaid by environment
// variables and flags.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Config is the manager's configuration file.
type Config struct {
	// ClusterName is this cluster's name for people and for spec.paused. What a
	// cluster is known by in Redis is the UID of its kube-system namespace.
	ClusterName string `json:"clusterName,omitempty"`
	// Stores are the Redis deployments that RedisLocks may name.
	Stores []Store `json:"stores,omitempty"`
	// KeyPolicy allows namespaces keys outside their own prefixes, lock:<namespace>: and
	// debounce:<namespace>:.
	KeyPolicy []KeyRule `json:"keyPolicy,omitempty"`
	// HTTPTargets are where Debounces may send requests; none: nowhere.
	HTTPTargets []HTTPTarget `json:"httpTargets,omitempty"`
	// WatchNamespaces limits the manager to some namespaces; empty: all.
	WatchNamespaces []string `json:"watchNamespaces,omitempty"`
}

// Store is one Redis deployment. Secrets come from files, which a Secret of the
// manager's namespace is mounted as; credentials are read again for each new
// connection, so a rotated one needs no restart.
type Store struct {
	Name string `json:"name"`
	// URL is redis://host:6379/0 or rediss://... for TLS, without a password.
	URL string `json:"url,omitempty"`
	// URLFile holds the URL, which may then have a password in it.
	URLFile      string `json:"urlFile,omitempty"`
	UsernameFile string `json:"usernameFile,omitempty"`
	PasswordFile string `json:"passwordFile,omitempty"`
	// CAFile is the certificate authority that signed Redis' certificate; without it
	// the system's are trusted.
	CAFile string `json:"caFile,omitempty"`
	// CertFile and KeyFile are a client certificate.
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
	// ServerName is the name that Redis' certificate must have, where it is not the
	// URL's host.
	ServerName string `json:"serverName,omitempty"`

	// trusted: the URL came from where a password may stand.
	trusted bool
}

// KeyRule allows the namespaces that match a pattern (path.Match) keys that begin
// with one of the prefixes.
type KeyRule struct {
	Namespace string   `json:"namespace"`
	Prefixes  []string `json:"prefixes"`
}

// Unnamed is the cluster name in config/manager until somebody sets one. It counts
// as none, or all clusters that nobody named would go by the same.
const Unnamed = "unnamed"

// Environment variables.
const (
	// ClusterNameVariable sets ClusterName.
	ClusterNameVariable = "REDISLOCK_CLUSTER_NAME"
	// storeVariable and its suffix around a store's name, in upper case and with
	// underscores, set a store's URL: REDISLOCK_STORE_DEFAULT_URL.
	storeVariablePrefix = "REDISLOCK_STORE_"
	storeVariableSuffix = "_URL"
)

// Load reads a file, unless its name is empty, and the environment over it.
func Load(file string, environ []string) (Config, error) {
	var c Config
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return Config{}, fmt.Errorf("reading the configuration: %w", err)
		}
		if err := yaml.UnmarshalStrict(bytes.TrimSpace(data), &c); err != nil {
			return Config{}, fmt.Errorf("configuration file %s: %s", file, credentials.ReplaceAllString(err.Error(), "://…@"))
		}
	}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if name == ClusterNameVariable && value != "" {
			c.ClusterName = value
		}
		if store, ok := strings.CutPrefix(name, storeVariablePrefix); ok && value != "" {
			if store, ok = strings.CutSuffix(store, storeVariableSuffix); ok {
				c.SetStore(Store{Name: strings.ToLower(strings.ReplaceAll(store, "_", "-")), URL: value, trusted: true})
			}
		}
	}
	return c, nil
}

// SetStoreFlag takes a --store flag: name=url, without a password, for a command
// line is for everyone to read.
func (c *Config) SetStoreFlag(flag string) error {
	name, address, ok := strings.Cut(flag, "=")
	if !ok || !label.MatchString(name) {
		// What was given instead of a name may be a URL, with a password in it.
		return errors.New("--store: write name=url, as in default=redis://redis:6379/0, with a name of lower-case letters, digits and '-'")
	}
	c.SetStore(Store{Name: name, URL: address})
	return nil
}

// SetStore adds a store, or replaces the address of the one of that name.
func (c *Config) SetStore(store Store) {
	i := slices.IndexFunc(c.Stores, func(s Store) bool { return s.Name == store.Name })
	if i < 0 {
		c.Stores = append(c.Stores, store)
		return
	}
	c.Stores[i].URL, c.Stores[i].URLFile, c.Stores[i].trusted = store.URL, "", store.trusted
}

var (
	label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	// credentials are what a URL has before its host, wherever in a text it stands.
	credentials = regexp.MustCompile(`(?s)://.*@`)
)

// Validate finds everything that is wrong with the configuration as such. Whether
// a store's files and server are there is another matter: they can come later.
func (c *Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ClusterName != "" && !label.MatchString(c.ClusterName) {
		wrong("clusterName %q: use lower-case letters, digits and '-', at most 63", c.ClusterName)
	}
	seen := map[string]bool{}
	for i, s := range c.Stores {
		where := fmt.Sprintf("store %q", s.Name)
		switch {
		case !label.MatchString(s.Name):
			// Not repeated: it may be a URL that slipped in, with a password in it.
			where = fmt.Sprintf("stores[%d]", i)
			wrong("%s: name: use lower-case letters, digits and '-', at most 63", where)
		case seen[s.Name]:
			wrong("%s: is there twice: give each store a name of its own", where)
		}
		seen[s.Name] = true
		if err := s.validate(); err != nil {
			wrong("%s: %w", where, err)
		}
	}
	for i, rule := range c.KeyPolicy {
		if _, err := path.Match(rule.Namespace, ""); err != nil || rule.Namespace == "" {
			wrong("keyPolicy[%d]: namespace %q: write a namespace's name, or a pattern such as team-*", i, rule.Namespace)
		}
		if len(rule.Prefixes) == 0 {
			wrong("keyPolicy[%d]: prefixes: list at least one; \"\" allows every key", i)
		}
	}
	for i := range c.HTTPTargets {
		if err := c.HTTPTargets[i].validate(); err != nil {
			wrong("httpTargets[%d]: %w", i, err)
		}
	}
	for i, namespace := range c.WatchNamespaces {
		if !label.MatchString(namespace) {
			wrong("watchNamespaces[%d]: %q is no name of a namespace", i, namespace)
		}
	}
	return errors.Join(errs...)
}

func (s *Store) validate() error {
	if (s.URL == "") == (s.URLFile == "") {
		return errors.New("set either url or urlFile")
	}
	if (s.CertFile == "") != (s.KeyFile == "") {
		return errors.New("certFile and keyFile go together")
	}
	if s.URL != "" && !s.trusted {
		// The error of url.Parse repeats the URL, and so a password in it.
		if u, err := url.Parse(s.URL); err == nil && u.User != nil {
			if _, has := u.User.Password(); has {
				return errors.New("url: has a password in it: put it into a Secret and name the file it is mounted at in passwordFile")
			}
		}
	}
	return nil
}

// KeyKind is what keys of a kind of object begin with, before the namespace.
type KeyKind string

const (
	LockKey     KeyKind = "lock"
	DebounceKey KeyKind = "debounce"
)

// Prefix is how the keys begin that objects of this kind in a namespace may always use.
func (k KeyKind) Prefix(namespace string) string { return string(k) + ":" + namespace + ":" }

// KeyAllowed says whether objects of a kind in a namespace may use a key.
func (c *Config) KeyAllowed(kind KeyKind, namespace, key string) bool {
	if strings.HasPrefix(key, kind.Prefix(namespace)) {
		return true
	}
	for _, rule := range c.KeyPolicy {
		if ok, _ := path.Match(rule.Namespace, namespace); !ok {
			continue
		}
		if slices.ContainsFunc(rule.Prefixes, func(prefix string) bool { return strings.HasPrefix(key, prefix) }) {
			return true
		}
	}
	return false
}
