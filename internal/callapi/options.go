package callapi

import (
	"errors"
	"flag"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// DefaultAudience is what a token must be made for, so that none which was made for the
// API server or another service can be passed on here.
const DefaultAudience = "redislock.io"

// Options are the administrator's settings.
type Options struct {
	// BindAddress is where calls are served; "0" for nowhere.
	BindAddress string
	// CertDir has tls.crt and tls.key. Empty: a certificate that the process signs itself.
	CertDir string
	// Audience is what tokens must be made for.
	Audience string
	// Rate and Burst bound the calls a second of each user.
	Rate  float64
	Burst int
}

// Bind declares the flags.
func (o *Options) Bind(fs *flag.FlagSet) {
	fs.StringVar(&o.BindAddress, "call-bind-address", ":8444", "Where calls of Debounces are served by HTTPS; 0 switches that off.")
	fs.StringVar(&o.CertDir, "call-cert-dir", "", "A folder with tls.crt and tls.key for calls, read again when they change. Default: a certificate signed by itself, which callers cannot verify.")
	fs.StringVar(&o.Audience, "call-audience", DefaultAudience, "The audience that the tokens of callers must be made for.")
	fs.Float64Var(&o.Rate, "call-rate", 100, "How many calls a second each user may make on each replica.")
	fs.IntVar(&o.Burst, "call-burst", 200, "How many calls each user may make at once, before the rate counts.")
}

// Enabled says whether calls are served at all.
func (o Options) Enabled() bool { return o.BindAddress != "0" }

func (o Options) validate() error {
	switch {
	case o.BindAddress == "":
		return errors.New("--call-bind-address is empty: give an address such as :8444, or 0 to serve no calls")
	case o.Audience == "":
		return errors.New("--call-audience is empty: tokens for any audience would be let in")
	case !(o.Rate > 0):
		return fmt.Errorf("--call-rate is %v: it must be above 0", o.Rate)
	case o.Burst < 1:
		return fmt.Errorf("--call-burst is %d: it must be 1 at least", o.Burst)
	}
	return nil
}

// limits bound what callers can cost the manager and the API server.
type limits struct {
	// Connections, in all and of each address; requests at once, in all and of each user.
	connections, connectionsOfOne int
	requests, requestsOfOne       int

	// What the API server is asked a second: for strangers and for others, each in all;
	// for each address of strangers, and for each tenant.
	reviews, reviewsOfOne           rate.Limit
	reviewsBurst, reviewsOfOneBurst int

	// Of a request: its headers, all of it, all of it and the answer.
	readHeader, read, write time.Duration
	idle                    time.Duration
	// Of one question to the API server, and of recording a call.
	review, call time.Duration
	shutdown     time.Duration
}

// With these, bodies and windows of HTTP/2 take 100 MB at worst, and it takes several
// addresses to use up what there is for all.
var defaultLimits = limits{
	connections: 512, connectionsOfOne: 128,
	requests: 512, requestsOfOne: 64,
	reviews: 250, reviewsBurst: 500,
	reviewsOfOne: 50, reviewsOfOneBurst: 100,
	readHeader: 5 * time.Second, read: 10 * time.Second, write: 30 * time.Second,
	idle:   60 * time.Second,
	review: 5 * time.Second, call: 10 * time.Second,
	shutdown: 10 * time.Second,
}

const (
	maxHeaderBytes = 32 << 10
	// streams and window are those of an HTTP/2 connection.
	streams = 64
	window  = 128 << 10
)
