package callapi

import (
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// acquaintance is for how long a token that was good is none of a stranger's.
const acquaintance = 10 * time.Minute

// budget bounds what the API server is asked. Strangers have one of their own, so that a
// flood of made-up tokens does not keep out those who have called before, not even where
// a gateway makes all of them come from one address.
type budget struct {
	clock            cache.Clock
	met              *cache.LRUExpireCache
	strangers, known *rate.Limiter
	origins, tenants *rates
}

func newBudget(l limits, clock cache.Clock) *budget {
	return &budget{
		clock:     clock,
		met:       cache.NewLRUExpireCacheWithClock(remembered, clock),
		strangers: rate.NewLimiter(l.reviews, l.reviewsBurst), known: rate.NewLimiter(l.reviews, l.reviewsBurst),
		origins: newRates(l.reviewsOfOne, l.reviewsOfOneBurst), tenants: newRates(l.reviewsOfOne, l.reviewsOfOneBurst),
	}
}

// meet takes note of a token that is good.
func (b *budget) meet(tokenKey string) { b.met.Add(tokenKey, true, acquaintance) }

// spendOnToken refuses a question whose token this is, for a caller at an address.
func (b *budget) spendOnToken(from, tokenKey string) error {
	if _, ok := b.met.Get(tokenKey); ok {
		return b.spend(b.known)
	}
	if wait, ok := take(b.origins.of(from).limiter, b.clock.Now()); !ok {
		return tooMany(wait, "too many different tokens come from %s: call less often, and with the same token", from)
	}
	return b.spend(b.strangers)
}

// spendOnRight refuses a question what a user may.
func (b *budget) spendOnRight(user string) error {
	tenant := tenantOf(user)
	if wait, ok := take(b.tenants.of(tenant).limiter, b.clock.Now()); !ok {
		return tooMany(wait, "%q calls too many different Debounces: call less often", tenant)
	}
	return b.spend(b.known)
}

func (b *budget) spend(l *rate.Limiter) error {
	if wait, ok := take(l, b.clock.Now()); !ok {
		return tooMany(wait, "too many callers have to be looked up at the same time: try again")
	}
	return nil
}

// tenantOf is the namespace of a service account: who has one can make many.
func tenantOf(user string) string {
	if namespace, _, err := serviceaccount.SplitUsername(user); err == nil {
		return serviceaccount.MakeNamespaceGroupName(namespace)
	}
	return user
}
