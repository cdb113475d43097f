// Command demo shows a lock change hands between two clusters, and a CronJob that is
// in both run once a tick, on one machine: real API servers, a real Redis, the operator
// as it is. The nodes are played, so that it needs no root: pods run in name only.
//
// It ends by itself, with exit code 0 if everything it announces was seen. With
// KEEP=1 it leaves all of it running until Ctrl-C and prints the kubeconfigs.
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/poll"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

//go:embed lock.yaml
var manifest string

var lockName = types.NamespacedName{Namespace: "default", Name: "nightly-reports"}

const (
	lease = 20 * time.Second // as in lock.yaml
	slack = 2 * time.Second
	// settle is how long a step may take that waits for no lease.
	settle = time.Minute
	// often is how often it is looked.
	often = 100 * time.Millisecond
)

func main() {
	log.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\nThe demo failed: %v\n", err)
		os.Exit(1)
	}
}

// site is one cluster with its manager.
type site struct {
	name    string
	cluster *cluster.Cluster
	client  client.Client
	manager *operator.Manager
}

func run(ctx context.Context) (err error) {
	folder, err := os.MkdirTemp("", "redislock-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()

	say("Setting up: one Redis, two Kubernetes clusters, the operator in each")
	redis, err := redisserver.New(ctx, redisserver.Options{AppendOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.Close()) }()
	binary, err := operator.Build(ctx)
	if err != nil {
		return err
	}
	sites := []*site{{name: "blue"}, {name: "green"}}
	defer func() {
		for _, s := range sites {
			err = errors.Join(err, s.close())
		}
	}()
	var wg sync.WaitGroup
	errs := make([]error, len(sites))
	for i, s := range sites {
		wg.Go(func() { errs[i] = s.start(ctx, binary, folder, redis.URL()) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := story(ctx, sites); err != nil {
		return err
	}
	if err := debounceStory(ctx, sites); err != nil {
		return err
	}
	if err := guardStory(ctx, sites, redis.URL()); err != nil {
		return err
	}
	if os.Getenv("KEEP") == "" || os.Getenv("KEEP") == "0" {
		fmt.Println("\nThat was all of it. KEEP=1 leaves it running for you to try things.")
		return nil
	}
	fmt.Println("\nEverything keeps running. In another terminal:")
	for _, s := range sites {
		get, err := s.cluster.KubectlCommand(ctx, "get", "redislocks,debounces,cronjobs,jobs", "-A")
		if err != nil {
			return err
		}
		fmt.Printf("  KUBECONFIG=%s %s    # %s\n", s.cluster.Kubeconfig(), strings.Join(get.Args, " "), s.name)
	}
	fmt.Printf("  redis-cli -u %s\n", redis.URL())
	fmt.Println("Ctrl-C ends it and leaves nothing behind.")
	<-ctx.Done()
	return nil
}

// story shows the lock change hands, and fails where it does not go as told.
func story(ctx context.Context, sites []*site) error {
	say("The same YAML goes into both clusters; exactly one of them holds the lock")
	fmt.Println(indent(manifest))
	for _, s := range sites {
		if _, err := s.cluster.KubectlInput(ctx, manifest, "apply", "-f", "-"); err != nil {
			return err
		}
	}
	first, err := oneHolds(ctx, sites, settle)
	if err != nil {
		return err
	}
	if err := show(ctx, sites); err != nil {
		return err
	}
	holder := sites[first.holder]
	next := sites[1-first.holder]

	say("The holder's manager in %s is restarted, as in a rolling update: nothing moves", holder.name)
	if err := holder.manager.Stop(); err != nil {
		return err
	}
	if err := holder.manager.Start(); err != nil {
		return err
	}
	if err := holder.holdsAgain(ctx); err != nil {
		return err
	}
	same, err := oneHolds(ctx, sites, settle)
	if err != nil {
		return err
	}
	if same != first {
		return fmt.Errorf("the restart moved the lock: fencing token %d before and %d after", first.fence, same.fence)
	}
	fmt.Printf("  still %s, still fencing token %d, still %d transition\n", holder.name, same.fence, same.transitions)

	say("The manager in %s is killed for good; when the lease of %s ends, %s takes over", holder.name, lease, next.name)
	if err := holder.manager.Kill(); err != nil {
		return err
	}
	killed := time.Now()
	after, err := next.takesOver(ctx, lease+slack)
	if err != nil {
		return err
	}
	if after <= first.fence {
		return fmt.Errorf("the fencing token did not rise: %d, then %d", first.fence, after)
	}
	fmt.Printf("  %s took over %s after the kill; fencing token %d, then %d\n",
		next.name, time.Since(killed).Round(100*time.Millisecond), first.fence, after)
	if err := show(ctx, []*site{next}); err != nil {
		return err
	}
	fmt.Printf("  (in %s nobody is left to write that cluster's status)\n", holder.name)

	say("The manager in %s comes back, finds the lock held elsewhere, and says so", holder.name)
	if err := holder.manager.Start(); err != nil {
		return err
	}
	last, err := oneHolds(ctx, sites, settle)
	if err != nil {
		return err
	}
	if sites[last.holder] != next || last.fence != after {
		return fmt.Errorf("the lock moved when the old holder came back")
	}
	if err := show(ctx, sites); err != nil {
		return err
	}
	history, err := next.cluster.Kubectl(ctx, "get", "redislock", lockName.Name, "-n", lockName.Namespace, "-o", "jsonpath={range .status.history[*]}{.acquiredAt}{'  '}{.cluster}{'  '}{.fencingToken}{'\\n'}{end}")
	if err != nil {
		return err
	}
	fmt.Printf("\n  Who held it, newest first:\n%s\n", indent(history))
	return nil
}

func (s *site) start(ctx context.Context, binary, folder, redisURL string) error {
	var err error
	if s.cluster, err = cluster.Start(ctx, cluster.Options{Name: s.name, Nodes: cluster.NodesKwok, Log: os.Stderr}); err != nil {
		return err
	}
	if s.client, err = operator.NewClient(s.cluster.RESTConfig()); err != nil {
		return err
	}
	if err := operator.Install(ctx, s.cluster); err != nil {
		return err
	}
	if s.manager, err = operator.NewManager(s.cluster, operator.Options{
		Binary: binary, Dir: filepath.Join(folder, s.name), Name: "manager", ClusterName: s.name,
		Config: operator.StoreAt(redisURL),
	}); err != nil {
		return err
	}
	fmt.Printf("  cluster %s is up\n", s.name)
	return s.manager.Start()
}

func (s *site) close() error {
	var err error
	if s.manager != nil {
		err = s.manager.Close()
	}
	if s.cluster != nil {
		err = errors.Join(err, s.cluster.Stop())
	}
	return err
}

func (s *site) status(ctx context.Context) (v1alpha1.RedisLockStatus, error) {
	lock := &v1alpha1.RedisLock{}
	err := s.client.Get(ctx, lockName, lock)
	return lock.Status, err
}

// holding is what both clusters agree on.
type holding struct {
	holder      int
	fence       int64
	transitions int64
}

// oneHolds waits until one of the clusters holds the lock and the other names it.
func oneHolds(ctx context.Context, sites []*site, within time.Duration) (holding, error) {
	var h holding
	err := poll.Until(ctx, within, often, func() error {
		var holders []int
		statuses := make([]v1alpha1.RedisLockStatus, len(sites))
		for i, s := range sites {
			var err error
			if statuses[i], err = s.status(ctx); err != nil {
				return err
			}
			if statuses[i].State == v1alpha1.StateAcquired {
				holders = append(holders, i)
			}
		}
		if len(holders) != 1 {
			return fmt.Errorf("%d clusters hold the lock, not one", len(holders))
		}
		own := statuses[holders[0]]
		h = holding{holder: holders[0], fence: own.FencingToken, transitions: *own.Transitions}
		i := slices.IndexFunc(statuses, func(s v1alpha1.RedisLockStatus) bool {
			return s.Holder == nil || s.Holder.Cluster != sites[h.holder].name || s.FencingToken != h.fence
		})
		if i >= 0 {
			return fmt.Errorf("cluster %s does not know who holds the lock", sites[i].name)
		}
		return nil
	})
	return h, err
}

// holdsAgain waits until a manager that was restarted holds the lock: the status
// alone could be that of the process before.
func (s *site) holdsAgain(ctx context.Context) error {
	want := fmt.Sprintf("redislock_held{name=%q,namespace=%q} 1", lockName.Name, lockName.Namespace)
	return poll.Until(ctx, settle, often, func() error {
		metrics, err := s.manager.Metrics(ctx)
		if err == nil && !strings.Contains(metrics, want) {
			err = fmt.Errorf("the restarted manager of %s does not hold the lock", s.name)
		}
		return err
	})
}

func (s *site) takesOver(ctx context.Context, within time.Duration) (int64, error) {
	var fence int64
	err := poll.Until(ctx, within, often, func() error {
		status, err := s.status(ctx)
		if err == nil && status.State != v1alpha1.StateAcquired {
			err = fmt.Errorf("cluster %s did not take over within %s", s.name, within)
		}
		fence = status.FencingToken
		return err
	})
	return fence, err
}

// show runs kubectl get redislock in each cluster, as a person would.
func show(ctx context.Context, sites []*site) error {
	for _, s := range sites {
		out, err := s.cluster.Kubectl(ctx, "get", "redislock", lockName.Name, "-n", lockName.Namespace)
		if err != nil {
			return err
		}
		fmt.Printf("  %s $ kubectl get redislock %s\n%s", s.name, lockName.Name, indent(out))
	}
	return nil
}

var steps int

func say(format string, args ...any) {
	steps++
	fmt.Printf("\n%d. %s\n", steps, fmt.Sprintf(format, args...))
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("     " + line)
	}
	return b.String()
}
