package controllers

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/internal/guard"
)

// Reasons of events about guarded Jobs, besides those of package guard.
const (
	EventLetGo       EventReason = "LetGo"
	EventLockMissing EventReason = "LockMissing"
	EventNotMade     EventReason = "NotMade"
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
		if g.memory.of(g.object()).first(job.UID, EventReason(guard.ReasonWaiting), why) {
			g.tell(job.Job, Event{corev1.EventTypeNormal, EventReason(guard.ReasonWaiting), ActionGuard,
				fmt.Sprintf("waits for RedisLock %s: %s", g.lock.Name, why)})
		}
	}
}

// tellUnclaimed says of each tick that no cluster claimed in time.
func (g *guarding) tellUnclaimed() {
	for _, u := range g.plan.Unclaimed {
		if !g.memory.of(g.object()).first(u.CronJob.UID, EventReason(guard.ReasonUnclaimed), u.Tick.String()) {
			continue
		}
		measureTick(g.object(), guard.Series(u.CronJob), "unclaimed")
		g.tell(u.CronJob, Event{corev1.EventTypeWarning, EventReason(guard.ReasonUnclaimed), ActionGuard,
			fmt.Sprintf("no cluster has started tick %s within %s under RedisLock %s", u.Tick.UTC().Format(time.RFC3339), g.terms.ClaimGrace, g.lock.Name)})
	}
}

// missingLock tells of a Job whose lock is not there.
func missingLock(job *batchv1.Job, lock string) Event {
	return Event{corev1.EventTypeWarning, EventLockMissing, ActionGuard,
		fmt.Sprintf("there is no RedisLock %s in namespace %s, so this Job stays suspended: create it, or delete the Job", lock, job.Namespace)}
}
