package campaign

import (
	"fmt"
	"time"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Observation is what a campaign knows of its lock at the moment.
type Observation struct {
	// Known: the campaign has looked at the lock, or found that it cannot. Until
	// then the rest says nothing, least of all that the lock is not held here.
	Known bool
	// Held: this process holds the lock.
	Held bool
	// Reason and Message are those of the condition Acquired.
	Reason  v1alpha1.ConditionReason
	Message string
	// Holder is who has the lock; nil while nobody is known to.
	Holder *Holder
	// Fence is the highest fencing token seen.
	Fence uint64
	// AcquiredAt is when this cluster was granted the lock that it holds.
	AcquiredAt time.Time
	// Adopted: it was gone on with from another process of this cluster.
	Adopted bool
	// QuietUntil: the lease was taken over from a process of this cluster that may
	// still be alive, so nothing new may start under it before then.
	QuietUntil time.Time
	// History is the last grants, newest first.
	History []redislock.Grant
}

// Clusters names the clusters that had the last grants, by fencing token.
func (o Observation) Clusters() map[uint64]string {
	clusters := map[uint64]string{}
	for _, grant := range o.History {
		if identity, ok := ParseIdentity(grant.Holder); ok {
			clusters[grant.Fence] = identity.ClusterName
		}
	}
	return clusters
}

// Holder is whoever has a lock.
type Holder struct {
	// Identity is set where the holder is an operator.
	Identity *Identity
	// Name is what another program calls itself, where it says.
	Name string
	// TokenHash tells holders apart; the token itself is the right to release.
	TokenHash string
	Fence     uint64
	Since     time.Time
	// Ours: it is this cluster, though maybe another process of it.
	Ours bool

	nonce string // of its process
}

// String names a holder for people.
func (h *Holder) String() string {
	switch {
	case h.Identity != nil:
		return fmt.Sprintf("cluster %q (RedisLock %s)", h.Identity.ClusterName, h.Identity.Object)
	case h.Name != "":
		return fmt.Sprintf("the program %q", h.Name)
	}
	return fmt.Sprintf("another program (token hash %s)", h.TokenHash)
}

// newHolder describes who put a value at a lock's key. fence is what the lock core
// makes of its fencing token.
func newHolder(value string, fence uint64, me Identity) *Holder {
	h := &Holder{TokenHash: redislock.HashToken(value), Fence: fence}
	if t, ok := redislock.ParseToken(value); ok {
		h.Name, h.nonce = t.Identity, t.Nonce
		if identity, ok := ParseIdentity(t.Identity); ok {
			h.Identity, h.Ours = &identity, identity.sameHolder(me)
		}
	}
	return h
}

// grantedAt finds the time of a grant in a lock's history.
func grantedAt(history []redislock.Grant, fence uint64) (time.Time, bool) {
	for _, grant := range history {
		if fence > 0 && grant.Fence == fence {
			return grant.At, true
		}
	}
	return time.Time{}, false
}

func tokenHash(h *Holder) string {
	if h == nil {
		return ""
	}
	return h.TokenHash
}

// orBefore keeps what was known of the history where it could not be read.
func orBefore(history, before []redislock.Grant) []redislock.Grant {
	if history == nil {
		return before
	}
	return history
}
