package leaderelection

import (
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// memory is the highest fencing token that this candidate saw. A Redis that knows only
// a lower one has lost acknowledged writes, and a leader with them who may still act:
// nobody who knows of it takes over for one full expiry. As in package redislock.
type memory struct {
	seen     uint64
	forgiven uint64    // the seen for which a quarantine was sat out
	begun    time.Time // of the quarantine under way; zero where there is none
	span     time.Duration
	// quarantined and stored are what the quarantine is about.
	quarantined, stored uint64
}

func (m *memory) saw(fence uint64) { m.seen = max(m.seen, fence) }

func (m *memory) quarantine(now time.Time, span time.Duration, seen, stored uint64) {
	m.begun, m.span, m.quarantined, m.stored = now, span, seen, stored
}

// remaining says how long nothing may be taken, and ends a quarantine that is over.
func (m *memory) remaining(now time.Time) time.Duration {
	if m.begun.IsZero() {
		return 0
	}
	if left := m.span - now.Sub(m.begun); left > 0 {
		return left
	}
	m.forgiven = max(m.forgiven, m.quarantined)
	m.begun = time.Time{}
	return 0
}

func (m *memory) refusal(key string, left time.Duration) error {
	return &redislock.QuarantineError{Key: key, Seen: m.quarantined, Stored: m.stored, Remaining: left}
}

// plausible keeps a forged fence out of the memory, as the take script would.
func plausible(fence uint64, serverMicros int64) bool {
	const year = 366 * 24 * time.Hour
	return int64(fence) <= serverMicros+year.Microseconds()
}
