package stores

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/internal/config"
)

// Timeouts of a connection. Each operation has a shorter one of its own, from its
// lease; these bound what an operation that was given up on still occupies.
const (
	dialTimeout = 3 * time.Second
	ioTimeout   = 5 * time.Second
)

// connect builds the client for a store; it does not dial yet. Its errors name
// what is wrong without repeating a URL, for there may be a password in it.
func connect(s config.Store) (*redis.Client, error) {
	address := s.URL
	if s.URLFile != "" {
		var err error
		if address, err = readLine("urlFile", s.URLFile); err != nil {
			return nil, err
		}
	}
	opts, err := redis.ParseURL(address)
	if err != nil {
		return nil, errors.New("url: is no address of a Redis: write redis://host:6379/0, or rediss:// for TLS; a password with special characters belongs into passwordFile")
	}
	if err := addTLS(opts, s); err != nil {
		return nil, err
	}
	opts.CredentialsProviderContext = credentials(s, opts.Username, opts.Password)
	opts.Username, opts.Password = "", ""
	opts.ClientName = "redislock-operator"
	opts.ContextTimeoutEnabled = true
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = dialTimeout, ioTimeout, ioTimeout
	opts.DialerRetries = 1
	opts.MaxRetries = 1
	return redis.NewClient(opts), nil
}

// credentials reads user name and password anew for each connection.
func credentials(s config.Store, username, password string) func(context.Context) (string, string, error) {
	return func(context.Context) (string, string, error) {
		var err error
		if s.UsernameFile != "" {
			if username, err = readLine("usernameFile", s.UsernameFile); err != nil {
				return "", "", err
			}
		}
		if s.PasswordFile != "" {
			if password, err = readLine("passwordFile", s.PasswordFile); err != nil {
				return "", "", err
			}
		}
		return username, password, nil
	}
}

func addTLS(opts *redis.Options, s config.Store) error {
	if s.CAFile == "" && s.CertFile == "" && s.ServerName == "" {
		return nil
	}
	if opts.TLSConfig == nil {
		return errors.New("url: caFile, certFile and serverName are for TLS: write rediss:// instead of redis://")
	}
	if s.ServerName != "" {
		opts.TLSConfig.ServerName = s.ServerName
	}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return fmt.Errorf("caFile: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("caFile: %s holds no certificate in PEM form", s.CAFile)
		}
		opts.TLSConfig.RootCAs = pool
	}
	if s.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile); err != nil {
			return fmt.Errorf("certFile and keyFile: %w", err)
		}
		opts.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
			return &pair, err
		}
	}
	return nil
}

func readLine(field, file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", field, err)
	}
	return strings.TrimSpace(string(data)), nil
}
