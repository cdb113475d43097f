package controllers

import (
	"fmt"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/internal/guard"
)

// Reasons of events about guarded Jobs, besides those of package guard.
const (
	EventLetGo       EventReason = "LetGo"
	EventLockMissing EventReason = "LockMissing"
)

// ActionGuard is the action of events about guarded Jobs.
const ActionGuard EventAction = "Guard"

// patience is for how long a Job may wait before an event says why: most wait shorter,
// and an event is a write.
const patience = 5 * time.Second

func jobEvent(kind string, step *guard.Step) Event {
	return Event{kind, EventReason(step.Reason), ActionGuard, step.Message}
}

func eventLetGo(lock string, fence uint64, again bool) Event {
	message := fmt.Sprintf("started under RedisLock %s with fencing token %d", lock, fence)
	if again {
		message += "; an earlier run of it was lost"
	}
	return Event{corev1.EventTypeNormal, EventLetGo, ActionGuard, message}
}

func (r *RedisLockReconciler) tell(about client.Object, event Event) {
	r.Recorder.Eventf(about, nil, event.Type, string(event.Reason), string(event.Action), "%s", event.Message)
}

// tellWaits says of each Job that has waited for long why it does not run, once for
// each cause. It answers the question "why isn't my Job running?".
func (g *guarding) tellWaits(now time.Time) {
	for _, job := range g.jobs {
		why, waits := g.plan.Waits[job.UID]
		if !waits {
			continue
		}
		if young := patience - now.Sub(job.CreationTimestamp.Time); young > 0 {
			g.soon(young)
			continue
		}
		if g.told.first(g.object(), job.UID, why) {
			g.tell(job.Job, Event{corev1.EventTypeNormal, EventReason(guard.ReasonWaiting), ActionGuard,
				fmt.Sprintf("waits for RedisLock %s: %s", g.lock.Name, why)})
		}
	}
	g.told.only(g.object(), g.jobs)
}

// tellUnclaimed says of each tick that no cluster claimed in time.
func (g *guarding) tellUnclaimed() {
	for _, u := range g.plan.Unclaimed {
		if !g.unclaimed.first(g.object(), u.CronJob.UID, u.Tick.String()) {
			continue
		}
		measureTick(g.object(), guard.Series(u.CronJob), "unclaimed")
		g.tell(u.CronJob, Event{corev1.EventTypeWarning, EventReason(guard.ReasonUnclaimed), ActionGuard,
			fmt.Sprintf("no cluster has started tick %s within %s under RedisLock %s", u.Tick.UTC().Format(time.RFC3339), g.terms.ClaimGrace, g.lock.Name)})
	}
}

// told remembers what was told last about what, so that it is told once. A process
// that starts anew tells it again.
type told struct {
	mu     sync.Mutex
	byLock map[types.NamespacedName]map[types.UID]string
}

func (t *told) first(lock types.NamespacedName, about types.UID, what string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byLock == nil {
		t.byLock = map[types.NamespacedName]map[types.UID]string{}
	}
	if t.byLock[lock] == nil {
		t.byLock[lock] = map[types.UID]string{}
	}
	if t.byLock[lock][about] == what {
		return false
	}
	t.byLock[lock][about] = what
	return true
}

// only forgets what was told of Jobs that are no more.
func (t *told) only(lock types.NamespacedName, jobs []*guard.Job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byLock[lock]) == 0 {
		return
	}
	there := map[types.UID]bool{}
	for _, job := range jobs {
		there[job.UID] = true
	}
	for uid := range t.byLock[lock] {
		if !there[uid] {
			delete(t.byLock[lock], uid)
		}
	}
}

func (t *told) forget(lock types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byLock, lock)
}

// missingLock tells of a Job whose lock is not there.
func missingLock(job *batchv1.Job, lock string) Event {
	return Event{corev1.EventTypeWarning, EventLockMissing, ActionGuard,
		fmt.Sprintf("there is no RedisLock %s in namespace %s, so this Job stays suspended: create it, or delete the Job", lock, job.Namespace)}
}
