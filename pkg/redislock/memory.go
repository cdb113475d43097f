package redislock

import (
	"sync"
	"time"
)

// memoryGeneration bounds how many keys a client remembers: at most twice as many.
const memoryGeneration = 4096

// memory keeps, for the keys a client used last, the highest fencing token that it
// saw. It is what tells a Redis that lost its data from one that never had any.
// A key that has dropped out is one without a witness, no more.
type memory struct {
	mu         sync.Mutex
	young, old map[string]recollection
}

type recollection struct {
	seen uint64
	// forgiven is the seen for which a quarantine was sat out.
	forgiven uint64
	// quarantine is the one under way for quarantined; its span is 0 where there is
	// none.
	quarantine         validity
	quarantined, found uint64
}

func (m *memory) recall(key string) recollection {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.get(key)
}

// update changes what is remembered of a key and returns the result.
func (m *memory) update(key string, change func(*recollection)) recollection {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.get(key)
	change(&r)
	if m.young == nil || len(m.young) >= memoryGeneration {
		m.old, m.young = m.young, make(map[string]recollection)
	}
	m.young[key] = r
	return r
}

func (m *memory) get(key string) recollection {
	if r, ok := m.young[key]; ok {
		return r
	}
	return m.old[key]
}

func (m *memory) saw(key string, fence uint64) {
	if fence == 0 {
		return
	}
	m.update(key, func(r *recollection) { r.seen = max(r.seen, fence) })
}

// quarantine begins one full expiry during which a key is not acquired.
func (m *memory) beginQuarantine(key string, seen, stored uint64, now instant, expiry time.Duration) {
	m.update(key, func(r *recollection) {
		r.quarantine, r.quarantined, r.found = validity{now, expiry}, seen, stored
	})
}

// quarantineOver says how long a key is still in quarantine, and ends one whose
// time is up.
func (m *memory) quarantineRemaining(key string, now instant) (recollection, time.Duration) {
	r := m.recall(key)
	if r.quarantine.span == 0 {
		return r, 0
	}
	// The larger of the clocks is the careless choice here: a wall clock that was
	// set ahead must not cut a quarantine short.
	left := r.quarantine.span - now.t.Sub(r.quarantine.from.t)
	if left > 0 {
		return r, left
	}
	return m.update(key, func(r *recollection) {
		r.forgiven = max(r.forgiven, r.quarantined)
		r.quarantine = validity{}
	}), 0
}
