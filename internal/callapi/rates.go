package callapi

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/lru"
)

// parties bounds how many users or addresses are told apart. Those that were heard of
// longest ago are forgotten first; what they had used up has come back by then.
const parties = 4096

// party is a user or an address.
type party struct {
	limiter  *rate.Limiter
	requests atomic.Int64
}

type rates struct {
	mu    sync.Mutex
	known *lru.Cache
	limit rate.Limit
	burst int
}

func newRates(limit rate.Limit, burst int) *rates {
	return &rates{known: lru.New(parties), limit: limit, burst: burst}
}

func (r *rates) of(name string) *party {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.known.Get(name); ok {
		return p.(*party)
	}
	p := &party{limiter: rate.NewLimiter(r.limit, r.burst)}
	r.known.Add(name, p)
	return p
}

// take takes one, or says how long to wait for the next.
func take(l *rate.Limiter, now time.Time) (wait time.Duration, ok bool) {
	if l.AllowN(now, 1) {
		return 0, true
	}
	missing := 1 - l.TokensAt(now)
	return time.Duration(missing / float64(l.Limit()) * float64(time.Second)), false
}

// origin is what an address counts as: who has one of IPv6 has its whole /64.
func origin(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	address = address.Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	prefix, err := address.Prefix(64)
	if err != nil {
		return host
	}
	return prefix.String()
}
