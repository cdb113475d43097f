package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/debounce"
	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Events of runs.
const (
	EventRunStarted   EventReason = "RunStarted"
	EventRunSucceeded EventReason = "RunSucceeded"
	EventRunFailed    EventReason = "RunFailed"
	EventRunLost      EventReason = "RunLost"

	ActionRun   EventAction = "Run"
	ActionWatch EventAction = "Watch"
)

const (
	// actionTries is how often a request to the API server is made that fails for reasons
	// which may pass.
	actionTries = 6
	// firstActionPause doubles after each.
	firstActionPause = 500 * time.Millisecond
	// longestNote, in bytes, is what an event has room for, after the generation.
	longestNote = 980
)

// action is what the runner of a Debounce does in a run. It may be done twice, by a
// process that lost its claim or its leadership and by the next, and is made so that
// this does no harm: see each.
func (r *DebounceReconciler) action(d *v1alpha1.Debounce) debounce.Action {
	d = d.DeepCopy()
	object := client.ObjectKeyFromObject(d)
	return func(ctx context.Context, run redislock.DebounceRun) error {
		// One that was paused may be here beside its successor.
		for !r.Leads() {
			if err := sleep(ctx, unsurePause); err != nil {
				return err
			}
		}
		if !run.Resumed {
			measureDebounceClaim(object, run.Claimed.Sub(run.First))
			r.Recorder.Eventf(d, nil, corev1.EventTypeNormal, string(EventRunStarted), string(ActionRun),
				"generation %d runs for %d calls%s", run.Generation, run.Calls, attemptOf(run))
		}
		fault.Point("debounce.claimed")
		began := time.Now()
		message, err := r.act(ctx, d, run)
		outcome, kind, reason := v1alpha1.RunSucceeded, corev1.EventTypeNormal, EventRunSucceeded
		switch {
		case errors.Is(context.Cause(ctx), redislock.ErrLost):
			outcome, kind, reason, message = v1alpha1.RunLost, corev1.EventTypeWarning, EventRunLost, context.Cause(ctx).Error()
		case err != nil && ctx.Err() != nil:
			return err // the process ends, or the spec has changed: it is gone on with
		case err != nil:
			outcome, kind, reason, message = v1alpha1.RunFailed, corev1.EventTypeWarning, EventRunFailed, err.Error()
		}
		measureDebounceRun(object, outcome, time.Since(began))
		r.Recorder.Eventf(d, nil, kind, string(reason), string(ActionRun), "generation %d: %s", run.Generation, cut(message, longestNote))
		return err
	}
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func attemptOf(run redislock.DebounceRun) string {
	if run.Attempt > 1 {
		return fmt.Sprintf(", as attempt %d: the runner before was lost", run.Attempt)
	}
	return ""
}

func (r *DebounceReconciler) act(ctx context.Context, d *v1alpha1.Debounce, run redislock.DebounceRun) (string, error) {
	switch a := d.Spec.Action; {
	case a.Job != nil:
		return r.runJob(ctx, d, a.Job, run)
	case a.Restart != nil:
		return r.restart(ctx, d, a.Restart, run)
	case a.HTTP != nil:
		return r.post(ctx, d, a.HTTP, run)
	}
	return "", errors.New("spec.action has none of job, restart and http")
}

// patiently does what asks the API server, again where it may help.
func patiently(ctx context.Context, do func() error) error {
	pause := firstActionPause
	for n := 1; ; n++ {
		err := do()
		if err == nil || n == actionTries || !mayPass(err) || ctx.Err() != nil {
			return err
		}
		if sleep(ctx, pause) != nil {
			return err
		}
		pause *= 2
	}
}

// mayPass says whether an error may be gone later. A quota may have room then, and a
// right may be granted.
func mayPass(err error) bool {
	return !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) && !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
