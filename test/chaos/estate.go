package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/poll"
	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const (
	namespace = "chaos"
	// lease and watchdog are short, so that much happens in little time.
	lease    = 4 * time.Second
	watchdog = 10 * time.Second
	// grace is the pods' termination grace.
	grace = time.Second
	// never is a schedule that does not come during a run. A CronJob is not suspended at
	// the end, for a tick of a suspended CronJob is not run again.
	never = "0 0 1 1 *"
)

// A site is one cluster and its operators, each with a link of its own to Redis.
type site struct {
	*cluster.Cluster
	client.Client
	name     string
	managers []*keeper
}

// keeper starts a manager again that has ended by itself, as a kubelet does: a manager
// that loses its leadership ends.
type keeper struct {
	*operator.Manager
	link *proxy.Proxy

	mu   sync.Mutex
	down bool
	died int
}

// Estate is what runs.
type Estate struct {
	config Config
	sites  []*site
	redis  *redisserver.Server
	rdb    *redis.Client
	locks  map[string]Lock
	lock   *redislock.Client
	close  []func() error
	log    func(format string, args ...any)

	mu      sync.Mutex
	outages []Outage
}

// build starts everything.
func build(ctx context.Context, cfg Config, log func(string, ...any)) (_ *Estate, err error) {
	e := &Estate{config: cfg, locks: map[string]Lock{}, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	for i := range cfg.CronJobs {
		kind := kinds[i%len(kinds)]
		e.locks[lockName(i)] = Lock{Exclusive: kind.hold == v1alpha1.HoldOnDemand, Rerun: kind.lost == v1alpha1.LostTicksRerun}
	}
	if os.Getenv(cluster.KubeconfigsEnv) != "" {
		return nil, fmt.Errorf("chaos breaks and looks into clusters of its own: %w", cluster.ErrExternal)
	}
	ctrllog.SetLogger(logr.Discard())
	logging.Disable() // that Redis is away is no news here
	log("starting %d clusters", cfg.Clusters)
	binary, err := buildManager(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// An acknowledged write is on the disk: the promises depend on it.
	if e.redis, err = redisserver.New(ctx, redisserver.Options{AppendOnly: true}); err != nil {
		return nil, err
	}
	e.close = append(e.close, e.redis.Close)
	options, err := redis.ParseURL(e.redis.URL())
	if err != nil {
		return nil, err
	}
	options.ContextTimeoutEnabled = true
	e.rdb = redis.NewClient(options)
	e.close = append(e.close, e.rdb.Close)
	if e.lock, err = redislock.New(e.rdb); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	e.sites = make([]*site, cfg.Clusters)
	errs := make([]error, cfg.Clusters)
	for i := range e.sites {
		e.sites[i] = &site{name: []string{"blue", "green", "red", "gold", "grey"}[i]}
		wg.Go(func() { errs[i] = e.sites[i].start(ctx, cfg) })
	}
	wg.Wait()
	for _, s := range e.sites {
		if s.Cluster != nil {
			e.close = append(e.close, s.Stop)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, s := range e.sites {
		for n := range 2 {
			if err := e.addManager(s, binary, n); err != nil {
				return nil, err
			}
		}
	}
	return e, nil
}

// buildManager compiles the manager, with what leaves safeguards out where one is to be.
func buildManager(ctx context.Context, cfg Config) (string, error) {
	binary := filepath.Join(cfg.Dir, "manager")
	if cfg.Without != "" {
		return binary, operator.BuildTo(ctx, binary, "-tags=faults")
	}
	return binary, operator.BuildTo(ctx, binary)
}

func (s *site) start(ctx context.Context, cfg Config) (err error) {
	s.Cluster, err = cluster.Start(ctx, cluster.Options{
		Name: s.name, Nodes: cluster.NodesKwok, Log: io.Discard,
		// The judge reads the whole history.
		APIServerArgs: []string{"--etcd-compaction-interval=0"},
	})
	if err != nil {
		return err
	}
	if s.Client, err = operator.NewClient(s.RESTConfig()); err != nil {
		return err
	}
	if err := operator.Install(ctx, s.Cluster); err != nil {
		return err
	}
	return s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
}

func (e *Estate) addManager(s *site, binary string, n int) error {
	link, err := proxy.New(e.redis.URL())
	if err != nil {
		return err
	}
	e.close = append(e.close, func() error { link.Close(); return nil })
	opts := operator.Options{
		Binary: binary, Dir: e.config.Dir, Name: fmt.Sprintf("%s-%d", s.name, n), ClusterName: s.name,
		Config: operator.StoreAt(link.URL()),
	}
	if e.config.Without != "" {
		opts.Env = []string{"REDISLOCK_FAULT_WITHOUT=" + e.config.Without}
	}
	m, err := operator.NewManager(s.Cluster, opts)
	if err != nil {
		return err
	}
	k := &keeper{Manager: m, link: link}
	s.managers = append(s.managers, k)
	e.close = append(e.close, func() error { k.setDown(true); return m.Close() })
	return k.Start()
}

func (k *keeper) setDown(down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = down
}

// keep runs until the context ends.
func (k *keeper) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		k.link.Forget()
		k.mu.Lock()
		if !k.down && !k.Running() && k.Start() == nil {
			k.died++
		}
		k.mu.Unlock()
	}
}

// end ends a manager that stays down until it is begun.
func (k *keeper) end(how func(*operator.Manager) error) error {
	k.setDown(true)
	return how(k.Manager)
}

func (k *keeper) begin() error {
	k.setDown(false)
	if k.Running() {
		return nil
	}
	return k.Start()
}

// ready waits until a manager of each cluster is in order.
func (e *Estate) ready(ctx context.Context) error {
	for _, s := range e.sites {
		for _, k := range s.managers {
			if err := wait(ctx, time.Minute, "manager of "+s.name, func() error { return k.Ready(ctx) }); err != nil {
				return fmt.Errorf("%w\n%s", err, k.Tail())
			}
		}
	}
	return nil
}

func wait(ctx context.Context, limit time.Duration, what string, f func() error) error {
	if err := poll.Until(ctx, limit, 200*time.Millisecond, f); err != nil {
		return fmt.Errorf("%s is not ready: %w", what, err)
	}
	return nil
}

// kinds are the sorts of locks, each with CronJobs of its own.
var kinds = []struct {
	name   string
	hold   v1alpha1.HoldPolicy
	lost   v1alpha1.LostTicksPolicy
	on     v1alpha1.OnLostPolicy
	missed v1alpha1.MissedTicksPolicy
	// long runs outlive the watchdog of a dead operator, and its cover. There is one
	// such CronJob to a lock.
	long bool
}{
	{"demand-rerun", v1alpha1.HoldOnDemand, v1alpha1.LostTicksRerun, v1alpha1.OnLostSuspend, v1alpha1.MissedTicksSkip, false},
	{"always-rerun", v1alpha1.HoldAlways, v1alpha1.LostTicksRerun, v1alpha1.OnLostSuspend, v1alpha1.MissedTicksSkip, false},
	{"demand-long", v1alpha1.HoldOnDemand, v1alpha1.LostTicksRerun, v1alpha1.OnLostSuspend, v1alpha1.MissedTicksSkip, true},
	{"always-long", v1alpha1.HoldAlways, v1alpha1.LostTicksRerun, v1alpha1.OnLostSuspend, v1alpha1.MissedTicksSkip, true},
	{"demand-skip", v1alpha1.HoldOnDemand, v1alpha1.LostTicksSkip, v1alpha1.OnLostSuspend, v1alpha1.MissedTicksSkip, false},
	{"demand-delete", v1alpha1.HoldOnDemand, v1alpha1.LostTicksRerun, v1alpha1.OnLostDelete, v1alpha1.MissedTicksRunLatest, false},
	{"always-skip", v1alpha1.HoldAlways, v1alpha1.LostTicksSkip, v1alpha1.OnLostDelete, v1alpha1.MissedTicksSkip, false},
	{"always-delete", v1alpha1.HoldAlways, v1alpha1.LostTicksRerun, v1alpha1.OnLostDelete, v1alpha1.MissedTicksRunLatest, true},
}

// lockName is that of the lock of the i-th CronJob.
func lockName(i int) string {
	kind := kinds[i%len(kinds)]
	if kind.long {
		return fmt.Sprintf("%s-%d", kind.name, i)
	}
	return kind.name
}

func cronJobName(i int) string { return fmt.Sprintf("cron-%02d", i) }

// forbids says whether the i-th CronJob forbids two runs at once. Each kind of lock has
// some that do.
func forbids(i int) bool { return (i+i/len(kinds))%2 == 0 }

// populate makes the locks and CronJobs, the same in each cluster.
func (e *Estate) populate(ctx context.Context, rng *rand.Rand) error {
	for i := range e.config.CronJobs {
		kind := kinds[i%len(kinds)]
		name := lockName(i)
		run := time.Duration(2000+rng.IntN(6000)) * time.Millisecond
		if kind.long {
			run = time.Duration(30000+rng.IntN(12000)) * time.Millisecond
			if e.config.Brief {
				run -= 12 * time.Second
			}
		}
		lock := &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1alpha1.RedisLockSpec{
			Hold: kind.hold, LostTicks: kind.lost, OnLost: kind.on, MissedTicks: kind.missed,
			Lease: new(metav1.Duration{Duration: lease}), Watchdog: new(metav1.Duration{Duration: watchdog}),
		}}
		cronJob := newCronJob(cronJobName(i), name, run)
		if forbids(i) {
			cronJob.Spec.ConcurrencyPolicy = batchv1.ForbidConcurrent
		}
		if i%12 == 11 {
			pod := &cronJob.Spec.JobTemplate.Spec.Template
			pod.Annotations[cluster.ExitCodeAnnotation] = "3"
			cronJob.Spec.JobTemplate.Spec.BackoffLimit = new(int32(0))
		}
		if i%3 == 0 {
			cronJob.Spec.JobTemplate.Spec.Template.Annotations[cluster.StopForAnnotation] = "600ms"
		}
		for _, s := range e.sites {
			if err := s.Create(ctx, lock.DeepCopy()); client.IgnoreAlreadyExists(err) != nil {
				return err
			}
			if err := s.Create(ctx, cronJob.DeepCopy()); err != nil {
				return err
			}
		}
	}
	return nil
}

func newCronJob(name, lock string, run time.Duration) *batchv1.CronJob {
	return &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", TimeZone: new("UTC"), ConcurrencyPolicy: batchv1.AllowConcurrent,
			SuccessfulJobsHistoryLimit: new(int32(1)), FailedJobsHistoryLimit: new(int32(1)),
			JobTemplate: batchv1.JobTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LockLabel: lock}},
				Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{cluster.RunForAnnotation: run.String()}},
					Spec: corev1.PodSpec{
						RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(grace / time.Second)),
						Containers: []corev1.Container{{Name: "main", Image: "none"}},
					},
				}},
			},
		},
	}
}

// key is where a lock lives in Redis.
func key(lock string) string { return "lock:" + namespace + ":" + lock }

// heal puts all in order that the plan may have left otherwise.
func (e *Estate) heal(ctx context.Context) error {
	var errs []error
	_ = e.redis.Resume() // it may not run
	errs = append(errs, e.redis.StartContext(ctx))
	for _, s := range e.sites {
		for _, p := range []*cluster.Process{s.APIServer, s.ControllerManager} {
			_ = p.Resume() // it may not run
			errs = append(errs, p.Start(ctx))
		}
		for _, k := range s.managers {
			k.link.Heal()
			k.link.Slow(0)
			_ = k.Resume() // it may not run
			errs = append(errs, k.link.Accept(), k.begin())
		}
		errs = append(errs, s.drain(ctx, e, false))
	}
	return errors.Join(errs...)
}

// drain has a cluster stay out of all locks, or come back.
func (s *site) drain(ctx context.Context, e *Estate, out bool) error {
	patch := `{"spec":{"paused":null}}`
	if out {
		patch = fmt.Sprintf(`{"spec":{"paused":[%q]}}`, s.name)
	}
	return s.patchAll(ctx, e, patch, &v1alpha1.RedisLockList{})
}

// patchAll changes all objects of a kind.
func (s *site) patchAll(ctx context.Context, e *Estate, patch string, list client.ObjectList) error {
	return wait(ctx, 30*time.Second, "API server of "+s.name, func() error {
		if err := s.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return err
		}
		var errs []error
		change := func(o client.Object) {
			errs = append(errs, s.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(patch))))
		}
		switch l := list.(type) {
		case *v1alpha1.RedisLockList:
			for i := range l.Items {
				change(&l.Items[i])
			}
		case *batchv1.CronJobList:
			for i := range l.Items {
				change(&l.Items[i])
			}
		}
		return errors.Join(errs...)
	})
}

// Close ends everything.
func (e *Estate) Close() error {
	var errs []error
	for _, end := range slices.Backward(e.close) {
		errs = append(errs, end())
	}
	e.close = nil
	return errors.Join(errs...)
}

// makeDir returns the folder for logs and whether it is to be removed at the end.
func makeDir(dir string) (string, bool, error) {
	if dir != "" {
		return dir, false, os.MkdirAll(dir, 0o755)
	}
	dir, err := os.MkdirTemp("", "redislock-chaos-")
	return dir, true, err
}
