// Package redisconn is what the connections to Redis of the manager and of the command
// line have in common. Its errors name a setting as its user does.
package redisconn

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"
)

// Timeouts of a connection. Each operation has a shorter one of its own, from its
// lease; these bound what an operation that was given up on still occupies.
const (
	DialTimeout = 3 * time.Second
	IOTimeout   = 5 * time.Second
)

// A File is one that the user named, and the setting in which he did.
type File struct{ setting, path string }

// Named returns the file that a setting names; path is "" where it names none.
func Named(setting, path string) File { return File{setting, path} }

// ReadLine returns what is in the file, without the white space around it.
func (f File) ReadLine() (string, error) {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", f.setting, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// TLS is what is set about it beside the URL.
type TLS struct {
	CA, Cert, Key File
	ServerName    string
}

// Any says whether anything is.
func (t TLS) Any() bool { return t.CA.path != "" || t.Cert.path != "" || t.ServerName != "" }

// Apply adds what is set to the configuration of a connection.
func (t TLS) Apply(config *tls.Config) error {
	if t.ServerName != "" {
		config.ServerName = t.ServerName
	}
	if t.CA.path != "" {
		pem, err := os.ReadFile(t.CA.path)
		if err != nil {
			return fmt.Errorf("%s: %w", t.CA.setting, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: %s holds no certificate in PEM form", t.CA.setting, t.CA.path)
		}
		config.RootCAs = pool
	}
	if t.Cert.path != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert.path, t.Key.path)
		if err != nil {
			return fmt.Errorf("%s and %s: %w", t.Cert.setting, t.Key.setting, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return nil
}
