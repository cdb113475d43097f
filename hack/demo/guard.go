package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/poll"
)

//go:embed cronjob.yaml
var cronJobManifest string

// As in cronjob.yaml.
const (
	guarded     = "reports"
	guardedTime = 20 * time.Second
	watchdog    = 12 * time.Second
	// cover is by how much the lock's key outlives the watchdog: the pods' grace, and 5 s.
	cover = 2*time.Second + 5*time.Second
	// minute is how long the next tick may be away.
	minute = time.Minute
)

// guardStory shows a CronJob that is in both clusters run once a tick, and fails where
// it does not go as told.
func guardStory(ctx context.Context, sites []*site, redisURL string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	seen := watchRuns(ctx, sites)

	say("The same CronJob goes into both clusters, guarded by a lock that is taken on demand")
	fmt.Println(indent(cronJobManifest))
	for _, s := range sites {
		if _, err := s.cluster.KubectlInput(ctx, cronJobManifest, "apply", "-f", "-"); err != nil {
			return err
		}
	}
	fmt.Println("  (waiting for the minute to be full)")
	first, err := seen.next(ctx, 0, minute+settle/2)
	if err != nil {
		return err
	}
	runner, standby := sitesOf(sites, first)
	if err := standby.standsBy(ctx, first.job); err != nil {
		return err
	}
	fmt.Printf("  %s runs the tick with fencing token %s, and %s stands by:\n", runner.name, first.fence, standby.name)
	if err := showJobs(ctx, sites); err != nil {
		return err
	}
	if err := seen.ends(ctx, first, corev1.PodSucceeded, guardedTime+slack+settle/4); err != nil {
		return err
	}
	if err := standby.removed(ctx, first.job); err != nil {
		return err
	}
	fmt.Printf("  %s has run it to its end, so %s removes its own Job, and says why:\n", runner.name, standby.name)
	events, err := standby.cluster.Kubectl(ctx, "get", "events.v1.events.k8s.io", "-n", "default", "--field-selector=reason=RanElsewhere", "-o", "jsonpath={range .items[*]}{.regarding.kind}{'/'}{.regarding.name}{': '}{.note}{'\\n'}{end}")
	if err != nil {
		return err
	}
	fmt.Print(indent(events))

	say("In the middle of the next run its operator is killed; the watchdog ends the Job, and the tick is run again")
	second, err := seen.next(ctx, 1, minute+settle/2)
	if err != nil {
		return err
	}
	runner, standby = sitesOf(sites, second)
	fmt.Printf("  %s runs tick %s with fencing token %s\n", runner.name, second.job, second.fence)
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	if err := runner.manager.Kill(); err != nil {
		return err
	}
	killed := time.Now()
	after := func() time.Duration { return time.Since(killed).Round(100 * time.Millisecond) }
	fmt.Printf("  the operator of %s is killed\n", runner.name)
	if err := seen.ends(ctx, second, corev1.PodFailed, watchdog+2*slack); err != nil {
		return err
	}
	reason, err := runner.failure(ctx, second.job)
	if err != nil {
		return err
	}
	fmt.Printf("  %5s  nobody moves the Job's deadline ahead any more, and Kubernetes ends it in %s: %s\n", after(), runner.name, reason)
	third, err := seen.next(ctx, 2, watchdog+cover+settle/4)
	if err != nil {
		return err
	}
	if third.cluster != standby.name || third.job != second.job {
		return fmt.Errorf("%s was to run %s, and %s runs %s", standby.name, second.job, third.cluster, third.job)
	}
	if third.fence <= second.fence { // of the same number of digits
		return fmt.Errorf("the fencing token did not rise: %s, then %s", second.fence, third.fence)
	}
	fmt.Printf("  %5s  only then %s runs the same tick, with fencing token %s\n", after(), third.cluster, third.fence)
	if err := showJobs(ctx, sites); err != nil {
		return err
	}
	if err := seen.ends(ctx, third, corev1.PodSucceeded, guardedTime+slack+settle/4); err != nil {
		return err
	}
	fmt.Printf("  %5s  it has run to its end\n", after())

	say("The operator of %s comes back, and leaves the tick as it is recorded", runner.name)
	if err := runner.manager.Start(); err != nil {
		return err
	}
	if err := runner.letsGo(ctx, second.job); err != nil {
		return err
	}
	if err := summary(ctx, seen, redisURL); err != nil {
		return err
	}
	return nil
}

// summary holds what was seen against what Redis has recorded.
func summary(ctx context.Context, seen *runs, redisURL string) error {
	options, err := redis.ParseURL(redisURL)
	if err != nil {
		return err
	}
	rdb := redis.NewClient(options)
	defer func() { _ = rdb.Close() }()
	locks, err := redislock.New(rdb)
	if err != nil {
		return err
	}
	defer func() { _ = locks.Close(context.WithoutCancel(ctx)) }()
	recorded, err := locks.Runs(ctx, redislock.Key("default", guarded))
	if err != nil {
		return err
	}
	done := 0
	fmt.Println()
	for _, tick := range recorded.Ticks {
		if tick.State != redislock.TickDone {
			continue // one that has just begun
		}
		job := fmt.Sprintf("%s-%d", guarded, tick.Tick.Unix()/60)
		var completed []string
		var tries []string
		for _, r := range seen.of(job) {
			tries = append(tries, fmt.Sprintf("%s (fencing token %s): %s", r.cluster, r.fence, r.outcome()))
			if r.phase == corev1.PodSucceeded {
				completed = append(completed, r.cluster)
			}
		}
		fmt.Printf("  tick %s  %s\n", tick.Tick.Format(time.TimeOnly), strings.Join(tries, ", then "))
		if len(completed) != 1 || tick.Outcome != string(guard.Complete) {
			return fmt.Errorf("tick %s ended %d times (%v), and is recorded as %s", tick.Tick.Format(time.TimeOnly), len(completed), completed, tick.Outcome)
		}
		done++
	}
	if done < 2 {
		return fmt.Errorf("%d ticks are recorded as done, not 2 or more", done)
	}
	if two := seen.overlap(); two != "" {
		return errors.New(two)
	}
	fmt.Printf("  ticks %d, each run to its end once, never two at once\n", done)
	return nil
}

// aRun is a pod of a guarded Job.
type aRun struct {
	cluster, job, pod, fence string
	phase                    corev1.PodPhase
}

func (r aRun) outcome() string {
	switch r.phase {
	case corev1.PodSucceeded:
		return "complete"
	case corev1.PodFailed:
		return "ended by the watchdog"
	}
	return "running"
}

// runs are all pods of guarded Jobs that were ever seen, in the order of their start.
type runs struct {
	mu   sync.Mutex
	list []aRun
	two  string
}

// watchRuns looks at the pods of both clusters ten times a second.
func watchRuns(ctx context.Context, sites []*site) *runs {
	r := &runs{}
	go func() {
		_ = poll.Until(ctx, 24*time.Hour, often, func() error {
			alive := map[string]bool{}
			for _, s := range sites {
				var pods corev1.PodList
				if err := s.client.List(ctx, &pods, client.MatchingLabels{v1alpha1.LockLabel: guarded}); err != nil {
					return err
				}
				r.note(s.name, pods.Items)
				for _, pod := range pods.Items {
					if pod.Status.Phase == corev1.PodRunning {
						alive[s.name+"/"+pod.Name] = true
					}
				}
			}
			if len(alive) > 1 {
				r.mu.Lock()
				r.two = fmt.Sprintf("these ran at the same time: %v", slices.Sorted(maps.Keys(alive)))
				r.mu.Unlock()
			}
			return errors.New("once more")
		})
	}()
	return r
}

func (r *runs) note(cluster string, pods []corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.list {
		// One that was deleted may be gone before anybody saw how it ended.
		x := &r.list[i]
		if x.cluster == cluster && x.phase == corev1.PodRunning && !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.Name == x.pod }) {
			x.phase = corev1.PodFailed
		}
	}
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodPending {
			continue
		}
		i := slices.IndexFunc(r.list, func(x aRun) bool { return x.cluster == cluster && x.pod == pod.Name })
		if i < 0 {
			i = len(r.list)
			r.list = append(r.list, aRun{cluster: cluster, pod: pod.Name, job: pod.Labels[batchv1.JobNameLabel], fence: pod.Annotations[v1alpha1.FencingTokenAnnotation]})
		}
		r.list[i].phase = pod.Status.Phase
	}
}

func (r *runs) overlap() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.two
}

func (r *runs) all() []aRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

func (r *runs) of(job string) []aRun {
	return slices.DeleteFunc(r.all(), func(x aRun) bool { return x.job != job })
}

// next waits for the run after so many others.
func (r *runs) next(ctx context.Context, others int, within time.Duration) (aRun, error) {
	var found aRun
	err := poll.Until(ctx, within, often, func() error {
		all := r.all()
		if len(all) <= others {
			return fmt.Errorf("no guarded Job was started within %s", within)
		}
		found = all[others]
		return nil
	})
	return found, err
}

// ends waits until the run has ended so.
func (r *runs) ends(ctx context.Context, run aRun, phase corev1.PodPhase, within time.Duration) error {
	return poll.Until(ctx, within, often, func() error {
		for _, x := range r.all() {
			if x.cluster == run.cluster && x.pod == run.pod && x.phase != phase {
				return fmt.Errorf("pod %s in %s is %s after %s, not %s", run.pod, run.cluster, x.phase, within, phase)
			}
		}
		return nil
	})
}

// sitesOf returns where a run is, and where it is not.
func sitesOf(sites []*site, r aRun) (runner, standby *site) {
	if sites[0].name == r.cluster {
		return sites[0], sites[1]
	}
	return sites[1], sites[0]
}

func (s *site) job(ctx context.Context, name string) (*batchv1.Job, error) {
	job := &batchv1.Job{}
	return job, s.client.Get(ctx, client.ObjectKey{Namespace: "default", Name: name}, job)
}

// standsBy waits until the cluster has the Job too, suspended.
func (s *site) standsBy(ctx context.Context, name string) error {
	return poll.Until(ctx, settle, often, func() error {
		job, err := s.job(ctx, name)
		if err == nil && (job.Spec.Suspend == nil || !*job.Spec.Suspend) {
			err = fmt.Errorf("job %s runs in %s too", name, s.name)
		}
		return err
	})
}

// removed waits until the Job is there no more.
func (s *site) removed(ctx context.Context, name string) error {
	return poll.Until(ctx, settle, often, func() error {
		_, err := s.job(ctx, name)
		if err == nil {
			return fmt.Errorf("the standby %s in %s was not removed", name, s.name)
		}
		return client.IgnoreNotFound(err)
	})
}

// failure waits until the Job has failed and returns why.
func (s *site) failure(ctx context.Context, name string) (string, error) {
	var reason string
	err := poll.Until(ctx, settle, often, func() error {
		job, err := s.job(ctx, name)
		if err != nil {
			return err
		}
		for _, c := range job.Status.Conditions {
			if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
				reason = c.Reason
				return nil
			}
		}
		return fmt.Errorf("job %s in %s was not ended by its watchdog", name, s.name)
	})
	return reason, err
}

// letsGo waits until the operator has seen to a Job that ended without it.
func (s *site) letsGo(ctx context.Context, name string) error {
	return poll.Until(ctx, settle, often, func() error {
		job, err := s.job(ctx, name)
		if err == nil && slices.Contains(job.Finalizers, v1alpha1.OutcomeFinalizer) {
			err = fmt.Errorf("the operator of %s has not seen to job %s", s.name, name)
		}
		return client.IgnoreNotFound(err)
	})
}

// showJobs runs kubectl get jobs in each cluster, as a person would.
func showJobs(ctx context.Context, sites []*site) error {
	for _, s := range sites {
		out, err := s.cluster.Kubectl(ctx, "get", "jobs", "-n", "default", "-L", v1alpha1.LockLabel)
		if err != nil {
			return err
		}
		fmt.Printf("  %s $ kubectl get jobs -L %s\n%s", s.name, v1alpha1.LockLabel, indent(out))
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
