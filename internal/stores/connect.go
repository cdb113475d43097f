package stores

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/redisconn"
)

// connect builds the client for a store; it does not dial yet. Its errors name
// what is wrong without repeating a URL, for there may be a password in it.
func connect(s config.Store) (*redis.Client, error) {
	address := s.URL
	if s.URLFile != "" {
		var err error
		if address, err = redisconn.Named("urlFile", s.URLFile).ReadLine(); err != nil {
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
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = redisconn.DialTimeout, redisconn.IOTimeout, redisconn.IOTimeout
	opts.DialerRetries = 1
	opts.MaxRetries = 1
	return redis.NewClient(opts), nil
}

// credentials reads user name and password anew for each connection.
func credentials(s config.Store, username, password string) func(context.Context) (string, string, error) {
	return func(context.Context) (string, string, error) {
		var err error
		if s.UsernameFile != "" {
			if username, err = redisconn.Named("usernameFile", s.UsernameFile).ReadLine(); err != nil {
				return "", "", err
			}
		}
		if s.PasswordFile != "" {
			if password, err = redisconn.Named("passwordFile", s.PasswordFile).ReadLine(); err != nil {
				return "", "", err
			}
		}
		return username, password, nil
	}
}

func addTLS(opts *redis.Options, s config.Store) error {
	set := redisconn.TLS{
		CA: redisconn.Named("caFile", s.CAFile), ServerName: s.ServerName,
		Cert: redisconn.Named("certFile", s.CertFile), Key: redisconn.Named("keyFile", s.KeyFile),
	}
	if opts.TLSConfig == nil && set.Any() {
		return errors.New("url: caFile, certFile and serverName are for TLS: write rediss:// instead of redis://")
	}
	if err := set.Apply(opts.TLSConfig); err != nil {
		return err
	}
	if s.CertFile != "" {
		// Anew for each connection.
		opts.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
			return &pair, err
		}
	}
	return nil
}
