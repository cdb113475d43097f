package leaderelection

import "strings"

// companion names a key beside the lock's, in its hash slot, as package redislock
// does.
func companion(key, name string) string {
	if i := strings.IndexByte(key, '{'); i >= 0 {
		return key[i:strings.IndexByte(key, '}')+1] + ":" + key + ":" + name
	}
	return "{" + key + "}:" + name
}

func recordKey(key string) string   { return companion(key, "record") }
func fenceKey(key string) string    { return companion(key, "fence") }
func wakeChannel(key string) string { return companion(key, "wake") }
