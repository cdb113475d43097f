package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/poll"
)

// A runner looks at least once in this time where nothing happens, and less often than
// looksPerMinute.
const looksPerMinute = 1.2

// idle measures what Debounces cost that nobody calls.
func (b *bench) idle(ctx context.Context) error {
	before, err := b.usage(ctx)
	if err != nil {
		return err
	}
	if err := b.createDebounces(ctx); err != nil {
		return err
	}
	if err := poll.Until(ctx, 10*time.Minute, time.Second, func() error { return b.debouncesReady(ctx) }); err != nil {
		return fmt.Errorf("%w\n%s", err, b.manager.Tail())
	}
	created, err := b.usage(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d Debounces are ready\n", *debounces)
	// What they have to do at first is over.
	if err := pause(ctx, time.Minute); err != nil {
		return err
	}
	from, err := b.usage(ctx)
	if err != nil {
		return err
	}
	scripts, err := b.scripts(ctx)
	if err != nil {
		return err
	}
	if err := pause(ctx, *watched); err != nil {
		return err
	}
	to, err := b.usage(ctx)
	if err != nil {
		return err
	}
	scriptsAfter, err := b.scripts(ctx)
	if err != nil {
		return err
	}
	minutes := watched.Minutes()
	looks := float64(scriptsAfter-scripts) / minutes
	requests := 0.0
	for method, n := range to.requests {
		requests += n - from.requests[method]
	}
	fmt.Printf("\ndebounces: %d that nobody calls, watched for %s\n", *debounces, *watched)
	fmt.Printf("  Redis: %.0f scripts a minute, %.2f for each\n", looks, looks/float64(*debounces))
	fmt.Printf("  API requests of the manager a minute: %.1f, its election's included\n", requests/minutes)
	fmt.Printf("  manager: %.0f MiB resident, %.0f before there were any; %.2f %% of a CPU\n", to.memory/(1<<20), before.memory/(1<<20), 100*(to.cpu-from.cpu)/watched.Seconds())
	fmt.Printf("  API requests of the manager to begin with, for each: %s\n", before.perRun(created, *debounces))
	if looks > looksPerMinute*float64(*debounces) {
		return fmt.Errorf("the runners of %d debounces looked %.0f times a minute", *debounces, looks)
	}
	return nil
}

func (b *bench) createDebounces(ctx context.Context) error {
	action := v1alpha1.DebounceAction{Job: &v1alpha1.JobAction{Template: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "main", Image: "none"}},
		}},
	}}}}
	var wg sync.WaitGroup
	errs := make(chan error, 20)
	for worker := range cap(errs) {
		wg.Go(func() {
			for i := worker; i < *debounces; i += cap(errs) {
				d := &v1alpha1.Debounce{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("idle-%05d", i)}}
				d.Spec.Action = action
				d.Spec.Triggers = &v1alpha1.DebounceTriggers{ConfigMaps: []v1alpha1.ConfigMapTrigger{{Name: d.Name}}}
				if err := b.Create(ctx, d); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return <-errs
	}
	return nil
}

func (b *bench) debouncesReady(ctx context.Context) error {
	var list v1alpha1.DebounceList
	if err := b.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return err
	}
	ready := 0
	for i := range list.Items {
		if s := list.Items[i].Status; s.Calls != nil && meta.IsStatusConditionTrue(s.Conditions, string(v1alpha1.ConditionReady)) {
			ready++
		}
	}
	if ready < *debounces {
		return fmt.Errorf("%d of %d Debounces are ready", ready, *debounces)
	}
	return nil
}

// scripts is how many Redis has run.
func (b *bench) scripts(ctx context.Context) (int64, error) {
	opts, err := redis.ParseURL(b.redis)
	if err != nil {
		return 0, err
	}
	rdb := redis.NewClient(opts)
	defer func() { _ = rdb.Close() }()
	stats, err := rdb.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(stats) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_evalsha:calls="); ok {
			n, _, _ := strings.Cut(rest, ",")
			return strconv.ParseInt(n, 10, 64)
		}
	}
	return 0, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
