package controllers

import (
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// memories has what this process remembers of each lock. Nothing depends on it: one
// that begins anew tells some things twice, and lets one more Job go before it gives a
// lock back.
type memories struct {
	mu     sync.Mutex
	byLock map[types.NamespacedName]*memory
}

func (m *memories) of(lock types.NamespacedName) *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byLock == nil {
		m.byLock = map[types.NamespacedName]*memory{}
	}
	if m.byLock[lock] == nil {
		m.byLock[lock] = &memory{}
	}
	return m.byLock[lock]
}

func (m *memories) forget(lock types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byLock, lock)
}

// memory is of one lock.
type memory struct {
	mu    sync.Mutex
	grant uint64
	yield yield
	told  map[topic]string
}

// topic is one of the things that there may be to tell about an object.
type topic struct {
	about types.UID
	of    EventReason
}

// yield is when a lock was given back last, and which grant of it.
type yield struct {
	at    time.Time
	fence uint64
}

// ranUnder notes that a run has ended under a grant: the lock is given back then,
// where it is held on demand.
func (m *memory) ranUnder(grant uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.grant = max(m.grant, grant)
}

// served is the last grant under which a run has ended.
func (m *memory) served() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.grant
}

func (m *memory) gaveBack(grant uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.yield = yield{time.Now(), grant}
}

func (m *memory) yielded() yield {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.yield
}

// first says whether this is something else than was told last of a topic.
func (m *memory) first(about types.UID, of EventReason, what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told == nil {
		m.told = map[topic]string{}
	}
	before, known := m.told[topic{about, of}]
	m.told[topic{about, of}] = what
	return !known || before != what
}

// only forgets what was told of objects that are no more.
func (m *memory) only(there map[types.UID]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.told, func(t topic, _ string) bool { return !there[t.about] })
}
