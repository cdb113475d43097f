package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/stores"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	// statusOwner is the field manager of what this controller writes.
	statusOwner = "redislock-operator"
	// releaseRetry is the pause between two tries to give back the lock of an object
	// that is being deleted.
	releaseRetry = time.Second
	// longestBackoff bounds the pause after an error: leases are counted in seconds.
	longestBackoff = 15 * time.Second
	// concurrentReconciles is generous, for a reconcile only waits for API servers:
	// what waits for Redis runs beside it.
	concurrentReconciles = 8
)

// RedisLockReconciler has a campaign run for each RedisLock and shows in its status
// how it stands.
type RedisLockReconciler struct {
	client.Client
	// Live reads past the cache.
	Live      client.Reader
	Recorder  events.EventRecorder
	Config    config.Config
	Stores    *stores.Stores
	Campaigns *campaign.Registry
	// ClusterUID is what this cluster is known by in Redis.
	ClusterUID string
}

// +kubebuilder:rbac:groups=redislock.io,resources=redislocks,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=redislock.io,resources=redislocks/status,verbs=patch
// +kubebuilder:rbac:groups=redislock.io,resources=redislocks/finalizers,verbs=update
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",resources=namespaces,resourceNames=kube-system,verbs=get

// SetupWithManager registers the controller.
func (r *RedisLockReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("redislock").
		// Changes of the status count: a reconcile that ran before the cache had our
		// last write may have found nothing to do, and is made good when it arrives.
		For(&v1alpha1.RedisLock{}).
		WatchesRawSource(source.Func(r.watchCampaigns)).
		WatchesRawSource(source.Func(r.watchStores)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrentReconciles,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](100*time.Millisecond, longestBackoff),
		}).
		Complete(r)
}

func (r *RedisLockReconciler) watchCampaigns(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.Campaigns.OnChange(func(object types.NamespacedName) { queue.Add(reconcile.Request{NamespacedName: object}) })
	return nil
}

// watchStores has the locks of a store reconciled when what is known of it changes.
func (r *RedisLockReconciler) watchStores(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.Stores.OnChange(func(store string) {
		measureStore(store, r.Stores.Get(store).State())
		var list v1alpha1.RedisLockList
		if err := r.List(ctx, &list); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "Listing the locks of a store", "store", store)
			return
		}
		for i := range list.Items {
			if storeName(&list.Items[i]) == store {
				queue.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
			}
		}
	})
	return nil
}

// Reconcile reads, has the campaign run, and writes the status if it has changed.
func (r *RedisLockReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	lock := &v1alpha1.RedisLock{}
	if err := r.Get(ctx, req.NamespacedName, lock); err != nil {
		if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, err
		}
		// The finalizer was taken away by force: give back what we may hold.
		forgetLock(req.NamespacedName)
		return ctrl.Result{}, r.Campaigns.Release(ctx, req.NamespacedName)
	}
	if !lock.DeletionTimestamp.IsZero() {
		return r.finalize(ctx, lock)
	}
	if !controllerutil.ContainsFinalizer(lock, v1alpha1.ReleaseFinalizer) {
		before := lock.DeepCopy()
		controllerutil.AddFinalizer(lock, v1alpha1.ReleaseFinalizer)
		if err := r.Patch(ctx, lock, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(statusOwner)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}

	v := view{lock: lock, key: lockKey(lock), fingerprint: fingerprint(lock), now: time.Now()}
	if store := r.Stores.Get(storeName(lock)); store != nil {
		state := store.State()
		v.store = &state
	}
	spec, p := r.spec(lock)
	if p != nil {
		v.problem = p
		// Nothing may be held for an object that may not have it.
		if err := r.Campaigns.Release(ctx, req.NamespacedName); err != nil {
			ctrl.LoggerFrom(ctx).Info("Giving the lock back; it goes on in the background", "error", err.Error())
		}
	} else {
		running := r.Campaigns.Ensure(req.NamespacedName, lock.UID, spec, uint64(lock.Status.FencingToken))
		if running == nil {
			return ctrl.Result{}, nil // this process is leaving
		}
		v.observation = running.Observe()
		if !v.observation.Known {
			return ctrl.Result{}, nil // the campaign will tell
		}
	}
	return ctrl.Result{}, r.write(ctx, v)
}

// write applies the status if it has changed, and then tells of what changed.
func (r *RedisLockReconciler) write(ctx context.Context, v view) error {
	object := client.ObjectKeyFromObject(v.lock)
	measureState(object, v.status().State)
	if equality.Semantic.DeepEqual(v.lock.Status, v.status()) {
		return nil
	}
	// The cache may not have our last write yet, and transitions are counted from it.
	live := &v1alpha1.RedisLock{}
	if err := r.Live.Get(ctx, object, live); err != nil || live.UID != v.lock.UID {
		return client.IgnoreNotFound(err)
	}
	v.lock.Status = live.Status
	before, after := v.lock.Status, v.status()
	if equality.Semantic.DeepEqual(before, after) {
		return nil
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&after)
	if err != nil {
		return fmt.Errorf("encoding the status: %w", err)
	}
	apply := &unstructured.Unstructured{Object: map[string]any{"status": content}}
	apply.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("RedisLock"))
	apply.SetNamespace(v.lock.Namespace)
	apply.SetName(v.lock.Name)
	apply.SetUID(v.lock.UID) // not the status of an object that was made anew
	if err := r.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(apply), client.FieldOwner(statusOwner), client.ForceOwnership); err != nil {
		return client.IgnoreNotFound(err)
	}
	measureTransitions(object, ptr.Deref(after.Transitions, 0)-ptr.Deref(before.Transitions, 0))
	for _, event := range eventsOf(before, after) {
		r.Recorder.Eventf(v.lock, nil, event.Type, string(event.Reason), string(event.Action), "%s", event.Message)
	}
	return nil
}

// finalize gives the lock back before the object goes. Redis may delay that by one
// expiry at most: by then the lease has lapsed.
func (r *RedisLockReconciler) finalize(ctx context.Context, lock *v1alpha1.RedisLock) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(lock, v1alpha1.ReleaseFinalizer) {
		return ctrl.Result{}, nil
	}
	object := client.ObjectKeyFromObject(lock)
	spec, p := r.spec(lock)
	err := r.Campaigns.Release(ctx, object)
	if err == nil && p == nil {
		err = campaign.Clear(ctx, spec)
	}
	left := time.Until(lock.DeletionTimestamp.Add(lease(lock) + lockDelay(lock)))
	if err != nil && left > 0 {
		v := view{lock: lock, key: lockKey(lock), fingerprint: fingerprint(lock), now: time.Now(), problem: &problem{
			v1alpha1.ReasonDeleting, fmt.Sprintf("the lock could not be given back yet, so this object stays until it lapses, at %s at the latest: %v",
				lock.DeletionTimestamp.Add(lease(lock)+lockDelay(lock)).UTC().Format(time.RFC3339), err)}}
		return ctrl.Result{RequeueAfter: min(releaseRetry, left)}, r.write(ctx, v)
	}
	before := lock.DeepCopy()
	controllerutil.RemoveFinalizer(lock, v1alpha1.ReleaseFinalizer)
	if err := r.Patch(ctx, lock, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(statusOwner)); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	forgetLock(object)
	return ctrl.Result{}, nil
}

// spec works out what a campaign is to do, or why there can be none.
func (r *RedisLockReconciler) spec(lock *v1alpha1.RedisLock) (campaign.Spec, *problem) {
	key := lockKey(lock)
	if !r.Config.KeyAllowed(lock.Namespace, key) {
		return campaign.Spec{}, &problem{v1alpha1.ReasonKeyNotAllowed, fmt.Sprintf(
			"the key %q does not begin with %q, and the operator's key policy does not allow it to namespace %s: use another key or ask the operator's administrator for leave",
			key, "lock:"+lock.Namespace+":", lock.Namespace)}
	}
	if err := redislock.ValidateKey(key); err != nil {
		return campaign.Spec{}, &problem{v1alpha1.ReasonKeyNotAllowed, err.Error()}
	}
	store := r.Stores.Get(storeName(lock))
	if store == nil {
		known := slices.Sorted(slices.Values(r.Stores.Names()))
		return campaign.Spec{}, &problem{v1alpha1.ReasonStoreUnknown, fmt.Sprintf(
			"the operator's configuration has no store %q; it has: %s", storeName(lock), strings.Join(known, ", "))}
	}
	if invalid := store.State().Invalid; invalid != nil {
		return campaign.Spec{}, &problem{v1alpha1.ReasonStoreInvalid, fmt.Sprintf("store %q: %v", store.Name, invalid)}
	}
	return campaign.Spec{
		Client: store.Client(),
		Key:    key,
		Identity: campaign.Identity{
			ClusterUID: r.ClusterUID, ClusterName: r.Config.ClusterName,
			Object: client.ObjectKeyFromObject(lock), Fingerprint: fingerprint(lock),
		},
		Lease: lease(lock), Renew: renewEvery(lock), LockDelay: lockDelay(lock),
		Paused: slices.Contains(lock.Spec.Paused, r.Config.ClusterName),
	}, nil
}

// What a spec says, with its defaults.

func lockKey(lock *v1alpha1.RedisLock) string {
	if lock.Spec.Key != "" {
		return lock.Spec.Key
	}
	return redislock.Key(lock.Namespace, lock.Name)
}

func storeName(lock *v1alpha1.RedisLock) string {
	if lock.Spec.Store != "" {
		return lock.Spec.Store
	}
	return v1alpha1.DefaultStore
}

func lease(lock *v1alpha1.RedisLock) time.Duration {
	if lock.Spec.Lease != nil {
		return lock.Spec.Lease.Duration
	}
	return v1alpha1.DefaultLease
}

func renewEvery(lock *v1alpha1.RedisLock) time.Duration {
	if lock.Spec.RenewEvery != nil {
		return lock.Spec.RenewEvery.Duration
	}
	return lease(lock) / 3
}

func lockDelay(lock *v1alpha1.RedisLock) time.Duration {
	if lock.Spec.LockDelay != nil {
		return lock.Spec.LockDelay.Duration
	}
	return 0
}

// fingerprint is of what must be the same in all clusters, or they would share a
// lock on different terms.
func fingerprint(lock *v1alpha1.RedisLock) string {
	return campaign.Fingerprint(string(lock.Spec.Hold), lease(lock).String(), lockDelay(lock).String())
}
