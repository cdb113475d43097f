package redislock

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// A token is what stands at a lock's key: "<identity>#<nonce>.<sequence>#<fence>".
//
// The identity says who, the nonce which process, the sequence which call of it.
// One token is drawn for each call that acquires, never for a process: a release
// of the last grant that was stuck on its way must not delete this one. The part
// up to the last '#' is the attempt; the script appends the fence.
type token struct {
	identity string
	nonce    string
	sequence string // digits
	stopped  bool   // its process left it behind on purpose
	fence    uint64 // 0 where the lock was taken without one
}

const stoppedSuffix = ".stopped"

// tombstone marks a key that is taken though nobody holds the lock: no token
// begins with it.
const tombstone = "~"

// attempt returns the token without its fence.
func (t token) attempt() string {
	t.fence = 0
	return withoutFence(t.String())
}

// withoutFence takes the only digit off a token with fence 0.
func withoutFence(value string) string { return value[:len(value)-1] }

func (t token) String() string {
	suffix := ""
	if t.stopped {
		suffix = stoppedSuffix
	}
	return t.identity + "#" + t.nonce + "." + t.sequence + suffix + "#" + strconv.FormatUint(t.fence, 10)
}

// parseToken takes apart a value found at a key. It answers false for what is not
// ours: another library's value, or a tombstone.
func parseToken(value string) (token, bool) {
	identity, rest, ok := strings.Cut(value, "#")
	if !ok || identity == "" || strings.HasPrefix(identity, tombstone) {
		return token{}, false
	}
	attempt, digits, ok := strings.Cut(rest, "#")
	if !ok {
		return token{}, false
	}
	fence, err := strconv.ParseUint(digits, 10, 53)
	if err != nil || strconv.FormatUint(fence, 10) != digits {
		return token{}, false
	}
	attempt, stopped := strings.CutSuffix(attempt, stoppedSuffix)
	nonce, sequence, ok := strings.Cut(attempt, ".")
	if !ok || nonce == "" {
		return token{}, false
	}
	if n, err := strconv.ParseUint(sequence, 10, 64); err != nil || strconv.FormatUint(n, 10) != sequence {
		return token{}, false
	}
	return token{identity: identity, nonce: nonce, sequence: sequence, stopped: stopped, fence: fence}, true
}

// TokenInfo is what a token of this package says.
type TokenInfo struct {
	Identity string
	// Nonce names the process within the identity.
	Nonce string
	Fence uint64
	// Stopped: its process has left the grant for another to Adopt.
	Stopped bool
}

// ParseToken reads a value found at a key; it answers false for one that is not a
// token of this package.
func ParseToken(value string) (TokenInfo, bool) {
	t, ok := parseToken(value)
	return TokenInfo{Identity: t.identity, Nonce: t.nonce, Fence: t.fence, Stopped: t.stopped}, ok
}

// HashToken shortens a token to something that may be shown: the token itself is
// the right to release.
func HashToken(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:6])
}

func validateIdentity(identity string) error {
	switch {
	case identity == "":
		return invalid("identity", identity, "is empty")
	case len(identity) > 512:
		return invalid("identity", identity[:32]+"…", "is longer than 512 bytes")
	case strings.HasPrefix(identity, tombstone):
		return invalid("identity", identity, `begins with "~", which marks a key that nobody holds`)
	case strings.ContainsFunc(identity, func(r rune) bool { return r == '#' || r <= ' ' || r == 0x7f }):
		return invalid("identity", identity, `has a "#", a space or a control character`)
	}
	return nil
}
