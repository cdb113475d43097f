package redislock

import (
	"fmt"
	"strings"
)

// maxKeyLength bounds a key in bytes. Redis itself allows 512 MB; a key that
// long is a bug in the caller.
const maxKeyLength = 1024

// Key builds a lock's key from a prefix and parts: Key("order", 7, "pay") is
// "lock:order:7:pay".
func Key(prefix string, parts ...any) string {
	var b strings.Builder
	b.WriteString("lock:")
	b.WriteString(prefix)
	for _, part := range parts {
		fmt.Fprintf(&b, ":%v", part)
	}
	return b.String()
}

// ValidateKey says whether a key can name a lock. Beside the obvious it refuses
// braces with which the lock and its companion keys would not share a hash slot
// of a Redis Cluster: a key has no brace at all, or exactly one tag "{x}".
func ValidateKey(key string) error {
	switch {
	case key == "":
		return invalid("key", key, "is empty")
	case len(key) > maxKeyLength:
		return invalid("key", key[:32]+"…", fmt.Sprintf("is %d bytes long; the limit is %d", len(key), maxKeyLength))
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return invalid("key", key, "has a control character")
	}
	opening, closing := strings.IndexByte(key, '{'), strings.IndexByte(key, '}')
	switch {
	case opening < 0 && closing < 0:
		return nil
	case strings.Count(key, "{") != 1 || strings.Count(key, "}") != 1 || closing < opening:
		return invalid("key", key, "has braces that are not one hash tag; write one {tag} or none")
	case closing == opening+1:
		return invalid("key", key, "has an empty hash tag {}; put a name between the braces or drop them")
	case opening == 0 && strings.HasPrefix(key[closing:], "}:"):
		return invalid("key", key, "begins like the companion key of another lock; begin it with something other than {tag}:")
	}
	return nil
}

// companion names a key that lives in the same hash slot as the lock and carries
// its whole key, so that "a{x}" and "b{x}" share a slot but not a companion.
func companion(key, name string) string {
	if i := strings.IndexByte(key, '{'); i >= 0 {
		return key[i:strings.IndexByte(key, '}')+1] + ":" + key + ":" + name
	}
	return "{" + key + "}:" + name
}

func fenceKey(key string) string      { return companion(key, "fence") }
func historyKey(key string) string    { return companion(key, "history") }
func runsKey(key string) string       { return companion(key, "runs") }
func candidatesKey(key string) string { return companion(key, "candidates") }
func metadataKey(key string) string   { return companion(key, "metadata") }
func queueKey(key string) string      { return companion(key, "queue") }
func placesKey(key string) string     { return companion(key, "places") }
func sourcesKey(key string) string    { return companion(key, "sources") }
func heardKey(key string) string      { return companion(key, "heard") }
func wakeChannel(key string) string   { return companion(key, "wake") }

// grantCompanions returns the keys of the fence and of the metadata that share one
// string, for every try needs both.
func grantCompanions(key string) (fence, metadata string) {
	prefix := companion(key, "")
	both := prefix + "fence" + prefix + "metadata"
	return both[:len(prefix)+len("fence")], both[len(prefix)+len("fence"):]
}
