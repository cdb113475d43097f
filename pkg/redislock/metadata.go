package redislock

import (
	"strconv"
	"strings"
)

// MaxMetadata bounds what WithMetadata attaches to a grant, in bytes.
const MaxMetadata = 1024

// WithMetadata attaches a text to the grant for others to see in HeldError.Metadata
// and Info.Metadata: a build, a pod, a link to what runs. It is at most MaxMetadata
// bytes long, needs a fence, and is no secret: whoever can read Redis reads it.
//
// It belongs to this grant and is never shown for another; an Adopt goes on with the
// grant and so keeps it. Redis forgets it with the fence retention, counted from the
// grant, though a lease that is renewed for so long goes on.
func WithMetadata(metadata string) LockOption {
	return func(c *lockConfig) { c.metadata = metadata }
}

// metadataOf returns what is stored for the grant with this fence, as the acquire
// scripts write it: "<fence> <metadata>". A later grant need not overwrite what an
// earlier one left.
func metadataOf(stored string, fence uint64) string {
	digits, metadata, _ := strings.Cut(stored, " ")
	if fence == 0 || digits != strconv.FormatUint(fence, 10) {
		return ""
	}
	return metadata
}
