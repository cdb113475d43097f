package cli

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/url"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/internal/redisconn"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	urlVariable   = "REDISLOCK_REDIS_URL"
	tokenVariable = "REDISLOCK_TOKEN"
)

// leaveTimeout bounds how long an end waits for what is given back in the background.
const leaveTimeout = 2 * time.Second

// connection is the flags about Redis.
type connection struct {
	url                                   string
	cluster                               bool
	sentinelMaster                        string
	passwordFile, sentinelPasswordFile    string
	caFile, certFile, keyFile, serverName string
}

func (c *connection) bind(fs *flag.FlagSet) {
	fs.StringVar(&c.url, "redis-url", "", "`URL` of the Redis: redis://host:6379/0, rediss:// for TLS, unix:///path; further nodes as ?addr=host:port&addr=…; without a password. Default: $"+urlVariable+", which may have one")
	fs.BoolVar(&c.cluster, "cluster", false, "the URL names nodes of a Redis Cluster")
	fs.StringVar(&c.sentinelMaster, "sentinel-master", "", "the URL names Sentinels, which know the primary by this `name`")
	fs.StringVar(&c.passwordFile, "password-file", "", "`file` with the password, read again for each connection")
	fs.StringVar(&c.sentinelPasswordFile, "sentinel-password-file", "", "`file` with the password of the Sentinels")
	fs.StringVar(&c.caFile, "ca-file", "", "`file` with the certificate authority of Redis, PEM; default the system's")
	fs.StringVar(&c.certFile, "cert-file", "", "`file` with a client certificate, PEM")
	fs.StringVar(&c.keyFile, "key-file", "", "`file` with its key")
	fs.StringVar(&c.serverName, "server-name", "", "`name` that Redis' certificate has to have, where it is not the URL's host")
}

// store is a connection and the locks in it.
type store struct {
	*redislock.Client
	rdb redis.UniversalClient
}

// close ends the connection, and waits a little for what goes on in the background.
// Leases that are still held lapse.
func (s *store) close() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	_ = s.Close(ctx)
	_ = s.rdb.Close()
}

// connect builds a client; it does not dial yet. Its errors repeat no URL, for there may
// be a password in it.
func (c *connection) connect(getenv func(string) string, identity string) (*store, error) {
	opts, err := c.options(getenv)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	var client []redislock.Option
	if identity != "" {
		client = append(client, redislock.WithIdentity(identity))
	}
	rdb := redis.NewUniversalClient(opts)
	locks, err := redislock.New(rdb, client...)
	if err != nil {
		return nil, err
	}
	return &store{locks, rdb}, nil
}

var errURL = errors.New("the URL is no address of a Redis: write redis://host:6379/0, or rediss:// for TLS, or unix:///path; special characters of a password as %XX, or the password into --password-file")

func (c *connection) options(getenv func(string) string) (*redis.UniversalOptions, error) {
	address := c.url
	if address == "" {
		address = getenv(urlVariable)
	}
	if address == "" {
		return nil, errors.New("no Redis: give --redis-url redis://host:6379/0, or set " + urlVariable)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, errURL
	}
	if _, has := u.User.Password(); has && c.url != "" {
		return nil, errors.New("--redis-url: has a password in it, which everybody can read who lists processes: set " + urlVariable + " instead, or give --password-file")
	}
	query := u.Query()
	more := query["addr"]
	query.Del("addr")
	u.RawQuery = query.Encode()
	single, err := redis.ParseURL(u.String())
	if err != nil {
		return nil, errURL
	}
	opts := &redis.UniversalOptions{
		Addrs: append([]string{single.Addr}, more...), DB: single.DB,
		MasterName: c.sentinelMaster, IsClusterMode: c.cluster,
		TLSConfig:  single.TLSConfig,
		ClientName: "redislock", ContextTimeoutEnabled: true,
		DialTimeout: redisconn.DialTimeout, ReadTimeout: redisconn.IOTimeout, WriteTimeout: redisconn.IOTimeout,
		DialerRetries: 1, MaxRetries: 1,
	}
	if err := c.check(single, more); err != nil {
		return nil, err
	}
	if single.Network == "unix" {
		opts.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: redisconn.DialTimeout}).DialContext(ctx, "unix", single.Addr)
		}
	}
	if err := c.tls().Apply(opts.TLSConfig); err != nil {
		return nil, err
	}
	return opts, c.addCredentials(opts, single.Username, single.Password)
}

// check refuses what does not go together.
func (c *connection) check(first *redis.Options, more []string) error {
	switch {
	case c.cluster && c.sentinelMaster != "":
		return errors.New("--cluster and --sentinel-master exclude each other: a Cluster has no Sentinels")
	case c.cluster && first.DB != 0:
		return errors.New("the URL: a Cluster has database 0 only: leave the number out")
	case first.Network == "unix" && (c.cluster || c.sentinelMaster != ""):
		return errors.New("the URL: a Unix socket is one Redis: leave out --cluster and --sentinel-master")
	case len(more) > 0 && !c.cluster && c.sentinelMaster == "":
		return errors.New("the URL has several addresses: add --cluster, or --sentinel-master NAME")
	case c.sentinelPasswordFile != "" && c.sentinelMaster == "":
		return errors.New("--sentinel-password-file goes with --sentinel-master NAME")
	case (c.certFile == "") != (c.keyFile == ""):
		return errors.New("--cert-file and --key-file go together")
	case c.tls().Any() && first.TLSConfig == nil:
		return errors.New("--ca-file, --cert-file and --server-name are for TLS: write rediss:// instead of redis://")
	}
	return nil
}

func (c *connection) addCredentials(opts *redis.UniversalOptions, username, password string) error {
	opts.Username, opts.Password = username, password
	if c.passwordFile != "" {
		file := redisconn.Named("--password-file", c.passwordFile)
		if _, err := file.ReadLine(); err != nil {
			return err
		}
		opts.Username, opts.Password = "", ""
		opts.CredentialsProviderContext = func(context.Context) (string, string, error) {
			password, err := file.ReadLine()
			return username, password, err
		}
	}
	if c.sentinelPasswordFile != "" {
		var err error
		if opts.SentinelPassword, err = redisconn.Named("--sentinel-password-file", c.sentinelPasswordFile).ReadLine(); err != nil {
			return err
		}
	}
	return nil
}

func (c *connection) tls() redisconn.TLS {
	return redisconn.TLS{
		CA: redisconn.Named("--ca-file", c.caFile), ServerName: c.serverName,
		Cert: redisconn.Named("--cert-file", c.certFile), Key: redisconn.Named("--key-file", c.keyFile),
	}
}
