// Command guardbench measures the operator on a real API server, controller manager and
// Redis, with pods that kwok plays:
//
//   - start: the time from the creation of a guarded Job until it is let go, with the
//     lock free, and the requests to the API server for each run;
//   - queue: many guarded Jobs queued on some locks drain, in the order of their
//     creation; what that costs the manager;
//   - debounces: what many Debounces cost that nobody calls.
//
// It prints one table for each and ends with an error where a promise was broken.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/poll"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const namespace = "default"

var (
	starts = flag.Int("starts", 200, "guarded Jobs to start one after the other, for each kind of hold; 0 leaves this out")
	queued = flag.Int("queued", 2000, "guarded Jobs to queue; 0 leaves this out")
	locks  = flag.Int("locks", 50, "locks to queue them on")

	debounces = flag.Int("debounces", 0, "Debounces that nobody calls; 0 leaves this out")
	watched   = flag.Duration("watched", 3*time.Minute, "for how long they are watched")
)

func main() {
	flag.Parse()
	log.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "guardbench:", err)
		os.Exit(1)
	}
}

// bench is one cluster with its manager.
type bench struct {
	client.WithWatch
	manager *operator.Manager
	redis   string // its URL
}

func run(ctx context.Context) (err error) {
	folder, err := os.MkdirTemp("", "redislock-guardbench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	redis, err := redisserver.New(ctx, redisserver.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.Close()) }()
	binary, err := operator.Build(ctx)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Options{Name: "bench", Nodes: cluster.NodesKwok, Log: os.Stderr,
		ControllerManagerArgs: []string{"--concurrent-job-syncs=20"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := operator.Install(ctx, c); err != nil {
		return err
	}
	config := c.RESTConfig()
	config.QPS = -1
	kube, err := operator.NewClient(config)
	if err != nil {
		return err
	}
	manager, err := operator.NewManager(c, operator.Options{Binary: binary, Dir: folder, Name: "bench", ClusterName: "bench",
		Config: operator.StoreAt(redis.URL())})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, manager.Close()) }()
	if err := manager.Start(); err != nil {
		return err
	}
	b := &bench{WithWatch: kube, manager: manager, redis: redis.URL()}
	if err := poll.Until(ctx, time.Minute, 20*time.Millisecond, func() error { return manager.Ready(ctx) }); err != nil {
		return fmt.Errorf("%w\n%s", err, manager.Tail())
	}
	if *starts > 0 {
		for _, hold := range []v1alpha1.HoldPolicy{v1alpha1.HoldOnDemand, v1alpha1.HoldAlways} {
			if err := b.start(ctx, hold); err != nil {
				return err
			}
		}
	}
	if *queued > 0 {
		if err := b.queue(ctx); err != nil {
			return err
		}
	}
	if *debounces > 0 {
		return b.idle(ctx)
	}
	return nil
}

// start measures single starts under a free lock.
func (b *bench) start(ctx context.Context, hold v1alpha1.HoldPolicy) error {
	name := "start-" + strings.ToLower(string(hold))
	if err := b.lock(ctx, name, hold); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(*starts)*10*time.Second)
	defer cancel()
	jobs, err := b.follow(ctx, name)
	if err != nil {
		return err
	}
	// The first warms up what only the first has to.
	var took []time.Duration
	var before usage
	for i := range *starts + 1 {
		if i == 1 {
			if before, err = b.usage(ctx); err != nil {
				return err
			}
		}
		job := guarded(fmt.Sprintf("%s-%05d", name, i), name)
		created := time.Now()
		if err := b.Create(ctx, job); err != nil {
			return err
		}
		var released time.Time
		for seen := range jobs {
			if seen.Name != job.Name {
				continue
			}
			if released.IsZero() && !*seen.Spec.Suspend {
				released = time.Now()
			}
			if finished(seen) && !slices.Contains(seen.Finalizers, v1alpha1.OutcomeFinalizer) {
				break
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for Job %s: %w\n%s", job.Name, ctx.Err(), b.manager.Tail())
		}
		if err := b.given(ctx, name, hold); err != nil {
			return err
		}
		if i > 0 {
			took = append(took, released.Sub(created))
		}
	}
	after, err := b.usage(ctx)
	if err != nil {
		return err
	}
	slices.Sort(took)
	fmt.Printf("\nstart, hold %s: %d guarded Jobs, one after the other, lock free\n", hold, len(took))
	fmt.Printf("  created until let go: median %s, p99 %s, max %s\n", took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	fmt.Printf("  API requests of the manager for each run: %s\n", before.perRun(after, len(took)))
	return nil
}

// given waits until a lock is back, so that the next Job finds it free.
func (b *bench) given(ctx context.Context, name string, hold v1alpha1.HoldPolicy) error {
	if hold == v1alpha1.HoldAlways {
		return nil
	}
	return poll.Until(ctx, time.Minute, 20*time.Millisecond, func() error {
		lock := &v1alpha1.RedisLock{}
		if err := b.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, lock); err != nil {
			return err
		}
		if lock.Status.State != v1alpha1.StateFree || *lock.Status.ActiveJobs+*lock.Status.WaitingJobs > 0 {
			return fmt.Errorf("RedisLock %s is not free yet", name)
		}
		return nil
	})
}

// queue measures how a long queue drains.
func (b *bench) queue(ctx context.Context) error {
	for i := range *locks {
		if err := b.lock(ctx, fmt.Sprintf("queue-%03d", i), v1alpha1.HoldOnDemand); err != nil {
			return err
		}
	}
	before, err := b.usage(ctx)
	if err != nil {
		return err
	}
	// The manager is held back until all are there, so that there is a queue.
	if err := b.manager.Stop(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make(chan error, 20)
	for worker := range cap(errs) {
		wg.Go(func() {
			for i := worker; i < *queued; i += cap(errs) {
				lock := fmt.Sprintf("queue-%03d", i%*locks)
				if err := b.Create(ctx, guarded(fmt.Sprintf("%s-%05d", lock, i / *locks), lock)); err != nil {
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
	if err := b.manager.Start(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d Jobs wait on %d locks\n", *queued, *locks)
	began := time.Now()
	for {
		var list batchv1.JobList
		if err := b.List(ctx, &list, client.InNamespace(namespace), client.HasLabels{v1alpha1.LockLabel}); err != nil {
			return err
		}
		done := 0
		for i := range list.Items {
			if strings.HasPrefix(list.Items[i].Name, "queue-") && finished(&list.Items[i]) && len(list.Items[i].Finalizers) == 0 {
				done++
			}
		}
		fmt.Fprintf(os.Stderr, "%s: %d of %d\n", time.Since(began).Round(time.Second), done, *queued)
		if done == *queued {
			if err := inOrder(list.Items); err != nil {
				return err
			}
			break
		}
		if time.Since(began) > 30*time.Minute {
			return fmt.Errorf("%d of %d Jobs ran within 30 minutes\n%s", done, *queued, b.manager.Tail())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Second):
		}
	}
	took := time.Since(began)
	after, err := b.usage(ctx)
	if err != nil {
		return err
	}
	before.requests, before.cpu = nil, 0 // the manager began anew
	fmt.Printf("\nqueue: %d guarded Jobs on %d locks, drained in order of creation\n", *queued, *locks)
	fmt.Printf("  time: %s, %.1f runs a second\n", took.Round(time.Second), float64(*queued)/took.Seconds())
	fmt.Printf("  manager: %.0f MiB resident, %.1f s of CPU (%.1f ms a run)\n", after.memory/(1<<20), after.cpu, after.cpu*1000/float64(*queued))
	fmt.Printf("  API requests of the manager for each run: %s\n", before.perRun(after, *queued))
	return nil
}

// inOrder sees that the Jobs of each lock were let go as they were created: the fences
// of their runs rise with it.
func inOrder(jobs []batchv1.Job) error {
	slices.SortFunc(jobs, func(a, b batchv1.Job) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	last := map[string]uint64{}
	for _, job := range jobs {
		lock := job.Labels[v1alpha1.LockLabel]
		fence, err := strconv.ParseUint(job.Annotations[v1alpha1.RunAnnotation], 10, 64)
		if err != nil || fence <= last[lock] {
			return fmt.Errorf("out of order: Job %s ran with fencing token %d, and one created before it with %d", job.Name, fence, last[lock])
		}
		last[lock] = fence
	}
	return nil
}

func (b *bench) lock(ctx context.Context, name string, hold v1alpha1.HoldPolicy) error {
	return b.Create(ctx, &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1alpha1.RedisLockSpec{Hold: hold}})
}

func guarded(name, lock string) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{v1alpha1.LockLabel: lock}},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "main", Image: "none"}},
		}}},
	}
}

func finished(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
}

// follow watches the Jobs of a lock.
func (b *bench) follow(ctx context.Context, lock string) (<-chan *batchv1.Job, error) {
	watch, err := b.Watch(ctx, &batchv1.JobList{}, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LockLabel: lock})
	if err != nil {
		return nil, err
	}
	jobs := make(chan *batchv1.Job)
	go func() {
		defer close(jobs)
		defer watch.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case event, ok := <-watch.ResultChan():
				if !ok {
					return
				}
				if job, isJob := event.Object.(*batchv1.Job); isJob {
					select {
					case jobs <- job:
					case <-ctx.Done():
						return
					}
				}
			}
		}
	}()
	return jobs, nil
}

// usage is what the manager has used since it began, from its own metrics.
type usage struct {
	requests map[string]float64 // by method
	cpu      float64            // seconds
	memory   float64            // bytes, resident
}

var request = regexp.MustCompile(`^rest_client_requests_total\{.*method="([A-Z]+)".*\} (\S+)$`)

func (b *bench) usage(ctx context.Context) (usage, error) {
	text, err := b.manager.Metrics(ctx)
	if err != nil {
		return usage{}, err
	}
	u := usage{requests: map[string]float64{}}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if m := request.FindStringSubmatch(line); m != nil {
			n, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				return u, err
			}
			u.requests[m[1]] += n
		}
		for name, into := range map[string]*float64{"process_cpu_seconds_total ": &u.cpu, "process_resident_memory_bytes ": &u.memory} {
			if value, ok := strings.CutPrefix(line, name); ok {
				if *into, err = strconv.ParseFloat(value, 64); err != nil {
					return u, err
				}
			}
		}
	}
	return u, lines.Err()
}

// perRun is the requests between two looks for each of some runs. Those of the
// election are among them.
func (u usage) perRun(after usage, runs int) string {
	var parts []string
	total := 0.0
	methods := make([]string, 0, len(after.requests))
	for method := range after.requests {
		methods = append(methods, method)
	}
	slices.Sort(methods)
	for _, method := range methods {
		n := after.requests[method] - u.requests[method]
		total += n
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %.2f", method, n/float64(runs)))
		}
	}
	return fmt.Sprintf("%.2f (%s)", total/float64(runs), strings.Join(parts, ", "))
}
