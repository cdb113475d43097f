package main

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/poll"
)

//go:embed debounce.yaml
var debounceManifest string

// As in debounce.yaml.
var debounceName = types.NamespacedName{Namespace: "default", Name: "search-index"}

const pushes = 20

// debounceStory shows many calls in both clusters become one Job, and fails where they
// do not.
func debounceStory(ctx context.Context, sites []*site) error {
	say("The same Debounce goes into both clusters, and %d pushes call it, in one or the other", pushes)
	fmt.Println(indent(debounceManifest))
	for _, s := range sites {
		if _, err := s.cluster.KubectlInput(ctx, debounceManifest, "apply", "-f", "-"); err != nil {
			return err
		}
	}
	for _, s := range sites {
		if err := s.debounced(ctx, func(status v1alpha1.DebounceStatus) bool { return status.ObservedGeneration > 0 }); err != nil {
			return fmt.Errorf("cluster %s does not work with the Debounce: %w", s.name, err)
		}
	}
	var last string
	for n := range pushes {
		last = fmt.Sprintf("%s=commit-%d", v1alpha1.CallAnnotation, n+1)
		if _, err := sites[n%len(sites)].cluster.Kubectl(ctx, "annotate", "--overwrite", "debounce", debounceName.Name, "-n", debounceName.Namespace, last); err != nil {
			return err
		}
	}
	fmt.Printf("  the last: kubectl annotate --overwrite debounce %s %s\n", debounceName.Name, last)
	for _, s := range sites {
		if err := s.debounced(ctx, func(status v1alpha1.DebounceStatus) bool {
			return status.State == v1alpha1.StateFree && status.LastRun != nil && status.LastRun.Outcome == v1alpha1.RunSucceeded && ptr.Deref(status.Calls, 0) > 0
		}); err != nil {
			return fmt.Errorf("cluster %s does not show the run: %w", s.name, err)
		}
	}
	jobs := 0
	for _, s := range sites {
		var list batchv1.JobList
		if err := s.client.List(ctx, &list, client.InNamespace(debounceName.Namespace), client.MatchingLabels{v1alpha1.DebounceLabel: debounceName.Name}); err != nil {
			return err
		}
		jobs += len(list.Items)
		for _, job := range list.Items {
			fmt.Printf("  %s ran Job %s", s.name, job.Name)
			for _, variable := range job.Spec.Template.Spec.Containers[0].Env {
				fmt.Printf(" %s=%s", variable.Name, variable.Value)
			}
			fmt.Println()
		}
	}
	// kubectl may be slower than the window is long.
	if jobs == 0 || jobs > pushes/4 {
		return fmt.Errorf("%d calls became %d Jobs", pushes, jobs)
	}
	for _, s := range sites {
		out, err := s.cluster.Kubectl(ctx, "get", "debounce", debounceName.Name, "-n", debounceName.Namespace, "-o", "wide")
		if err != nil {
			return err
		}
		fmt.Printf("  %s $ kubectl get debounce %s -o wide\n%s", s.name, debounceName.Name, indent(out))
	}
	return nil
}

// debounced waits until the status of the Debounce is as it is to be.
func (s *site) debounced(ctx context.Context, is func(v1alpha1.DebounceStatus) bool) error {
	return poll.Until(ctx, settle+20*time.Second, often, func() error {
		d := &v1alpha1.Debounce{}
		if err := s.client.Get(ctx, debounceName, d); err != nil {
			return err
		}
		if !is(d.Status) {
			return fmt.Errorf("its status is %+v", d.Status)
		}
		return nil
	})
}
