package controllers

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/debounce"
	"github.com/redislock-operator/redislock-operator/internal/stores"
)

// callTimeout bounds what a reconcile waits for Redis.
const callTimeout = 5 * time.Second

// DebounceReconciler has a runner for each Debounce, calls it when a trigger says so,
// and shows in its status how it stands.
type DebounceReconciler struct {
	client.Client
	// Live reads past the cache, and watches.
	Live     client.WithWatch
	Recorder events.EventRecorder
	Config   config.Config
	Stores   *stores.Stores
	Runners  *debounce.Runners
	// Contents has the ConfigMaps of triggers.
	Contents *debounce.Contents
	// Leads says, asking nobody, that no other manager of this cluster can lead by now.
	Leads func() bool
	// ClusterUID is what this cluster is known by in Redis.
	ClusterUID string

	mu     sync.Mutex
	memory map[types.NamespacedName]*debounceMemory
}

// +kubebuilder:rbac:groups=redislock.io,resources=debounces,verbs=get;list;watch
// +kubebuilder:rbac:groups=redislock.io,resources=debounces/status,verbs=patch
// +kubebuilder:rbac:groups=redislock.io,resources=debounces/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=list;watch
// +kubebuilder:rbac:groups=apps,resources=deployments;statefulsets;daemonsets,verbs=get;patch

// SetupWithManager registers the controller.
func (r *DebounceReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("debounce").
		For(&v1alpha1.Debounce{}).
		WatchesRawSource(source.Func(r.watchRunners)).
		WatchesRawSource(source.Func(r.watchContents)).
		WatchesRawSource(source.Func(r.watchStores)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrentReconciles,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](100*time.Millisecond, longestBackoff),
		}).
		Complete(r)
}

func (r *DebounceReconciler) watchRunners(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.Runners.OnChange(func(object types.NamespacedName) { queue.Add(reconcile.Request{NamespacedName: object}) })
	return nil
}

// watchContents has the Debounces reconciled that a changed ConfigMap may call.
func (r *DebounceReconciler) watchContents(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.Contents.OnChange(func(namespace string) {
		r.enqueue(ctx, queue, func(d *v1alpha1.Debounce) bool { return d.Spec.Triggers != nil }, client.InNamespace(namespace))
	})
	return nil
}

// watchStores has those of a store reconciled when what is known of it changes.
func (r *DebounceReconciler) watchStores(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.Stores.OnChange(func(store string) {
		r.enqueue(ctx, queue, func(d *v1alpha1.Debounce) bool { return debounceStore(d) == store })
	})
	return nil
}

func (r *DebounceReconciler) enqueue(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request], which func(*v1alpha1.Debounce) bool, opts ...client.ListOption) {
	var list v1alpha1.DebounceList
	if err := r.List(ctx, &list, opts...); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Listing debounces")
		return
	}
	for i := range list.Items {
		if which(&list.Items[i]) {
			queue.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
}

// Reconcile has the runner run, calls where a trigger has changed, and writes the status
// if it has changed.
func (r *DebounceReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if !r.Leads() {
		return ctrl.Result{RequeueAfter: unsurePause}, nil
	}
	d := &v1alpha1.Debounce{}
	err := r.Get(ctx, req.NamespacedName, d)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	if err != nil || !d.DeletionTimestamp.IsZero() {
		r.Runners.Stop(req.NamespacedName)
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	m := r.remember(req.NamespacedName, d)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.version != "" && m.version != d.ResourceVersion {
		// The cache may be behind what was written here last.
		d.Status = m.status
	}

	v := debounceView{debounce: d, now: time.Now(), clusterName: r.Config.ClusterName}
	spec, p := r.debounceSpec(d)
	v.key, v.problem = spec.Key, p
	if p == nil {
		if err := r.Runners.Ensure(req.NamespacedName, d.UID, spec, r.action(d)); err != nil {
			v.problem = &problem{v1alpha1.ReasonActionInvalid, err.Error()}
		}
	} else {
		r.Runners.Stop(req.NamespacedName)
	}
	triggers, p, failed := r.trigger(ctx, d, m, v.problem == nil)
	v.triggers, v.problem = triggers, cmp.Or(v.problem, p)
	v.observation = r.Runners.Get(req.NamespacedName, d.UID)
	if store := r.Stores.Get(debounceStore(d)); store != nil {
		v.store = new(store.State())
	}
	// Before the status says that the run has ended, for after that nobody looks again.
	kept := r.dropOldJobs(ctx, d, v.observation.State.LastRun, m)
	again, err := r.write(ctx, v, m)
	return ctrl.Result{RequeueAfter: again}, errors.Join(failed, kept, err)
}

// debounceMemory is what this process remembers of a Debounce.
type debounceMemory struct {
	uid types.UID

	mu sync.Mutex
	// status is what was written last, when, and to which version.
	status  v1alpha1.DebounceStatus
	version string
	written time.Time
	// triggers are as they were when a call was recorded for them last, so that a status
	// which could not be written costs no second call.
	triggers triggerState
	// dropped is the generation after whose end old Jobs were deleted last.
	dropped uint64
}

func (r *DebounceReconciler) remember(object types.NamespacedName, d *v1alpha1.Debounce) *debounceMemory {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.memory == nil {
		r.memory = map[types.NamespacedName]*debounceMemory{}
	}
	if m := r.memory[object]; m != nil && m.uid == d.UID {
		return m
	}
	m := &debounceMemory{uid: d.UID}
	if last := d.Status.LastRun; last != nil && last.Outcome != "" {
		m.dropped = uint64(last.Generation)
	}
	r.memory[object] = m
	return m
}

func (r *DebounceReconciler) forget(object types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.memory, object)
	forgetDebounce(object)
}
