package controllers

import (
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
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
	// last is the status that was written last, to the object of uid in its version.
	last    v1alpha1.RedisLockStatus
	uid     types.UID
	version string
	// stops is since when Jobs are seen to wait that ran before, by their last run. Who
	// forgets it has them wait a little longer.
	stops map[types.UID]stop
	// unsettled is since when the counts in the status are not up to date.
	unsettled time.Time
}

// topic is one of the things that there may be to tell about an object.
type topic struct {
	about types.UID
	of    EventReason
}

type stop struct {
	fence uint64
	at    time.Time
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

// stopped is since when a Job is seen to wait that ran with a fencing token.
func (m *memory) stopped(job types.UID, fence uint64) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stops == nil {
		m.stops = map[types.UID]stop{}
	}
	if m.stops[job].fence != fence {
		m.stops[job] = stop{fence, time.Now()}
	}
	return m.stops[job].at
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

// show notes the status that was written.
func (m *memory) show(uid types.UID, version string, status v1alpha1.RedisLockStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uid, m.version, m.last, m.unsettled = uid, version, status, time.Time{}
}

// shown returns the status of a lock as the cache has it or, where that is newer, as
// this process wrote it. It answers false while it wrote none.
func (m *memory) shown(cached *v1alpha1.RedisLock) (v1alpha1.RedisLockStatus, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.uid != cached.UID {
		return cached.Status, false
	}
	if newer(m.version, cached.ResourceVersion) {
		return m.last, true
	}
	return cached.Status, true
}

// settling is for how long a change of nothing but counts is still to be watched.
func (m *memory) settling(onlyCounts bool) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !onlyCounts {
		m.unsettled = time.Time{}
		return 0
	}
	if m.unsettled.IsZero() {
		m.unsettled = time.Now()
	}
	return turn - time.Since(m.unsettled)
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

// only forgets objects that are no more.
func (m *memory) only(there map[types.UID]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.told, func(t topic, _ string) bool { return !there[t.about] })
	maps.DeleteFunc(m.stops, func(job types.UID, _ stop) bool { return !there[job] })
}
