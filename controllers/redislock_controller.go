package controllers

import (
	"context"
	"errors"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/stores"
)

const (
	// statusOwner is the field manager of what this controller writes.
	statusOwner = "redislock-operator"
	// releaseRetry is the pause between two tries to give back the lock of an object
	// that is being deleted.
	releaseRetry = time.Second
	// unsurePause is until a manager asks again whether it leads.
	unsurePause = 500 * time.Millisecond
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
	// Leads says, asking nobody, that no other manager of this cluster can lead by now.
	// One that was paused may go on for a while beside its successor.
	Leads func() bool
	// ClusterUID is what this cluster is known by in Redis.
	ClusterUID string
	// Namespace is the operator's own.
	Namespace string
	// Unguarded, where it is set, is told of each Job that somebody else started, which
	// the policies should have kept from it.
	Unguarded func()

	written written
	memory  memories
}

// +kubebuilder:rbac:groups=redislock.io,resources=redislocks,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=redislock.io,resources=redislocks/status,verbs=patch
// +kubebuilder:rbac:groups=redislock.io,resources=redislocks/finalizers,verbs=update
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",resources=namespaces,resourceNames=kube-system,verbs=get
// +kubebuilder:rbac:groups=redislock.io,resources=redislocks,verbs=guard
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=batch,resources=jobs/finalizers,verbs=update
// +kubebuilder:rbac:groups=batch,resources=cronjobs,verbs=get;list;watch
// +kubebuilder:rbac:groups=batch,resources=cronjobs/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=pods,verbs=list

// SetupWithManager registers the controller.
func (r *RedisLockReconciler) SetupWithManager(mgr ctrl.Manager) error {
	indexer := mgr.GetFieldIndexer()
	if err := errors.Join(
		indexer.IndexField(context.Background(), &batchv1.Job{}, lockIndex, indexJob),
		indexer.IndexField(context.Background(), &batchv1.CronJob{}, lockIndex, indexCronJob),
	); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("redislock").
		// Changes of the status count: a reconcile that ran before the cache had our
		// last write may have found nothing to do, and is made good when it arrives.
		For(&v1alpha1.RedisLock{}).
		Watches(&batchv1.Job{}, handler.EnqueueRequestsFromMapFunc(byName(indexJob))).
		Watches(&batchv1.CronJob{}, handler.EnqueueRequestsFromMapFunc(byName(indexCronJob))).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(r.allLocks)).
		WatchesRawSource(source.Func(r.watchCampaigns)).
		WatchesRawSource(source.Func(r.watchStores)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrentReconciles,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](100*time.Millisecond, longestBackoff),
		}).
		Complete(r)
}

// byName maps an object to the locks that it names.
func byName(names func(client.Object) []string) handler.MapFunc {
	return func(_ context.Context, o client.Object) []reconcile.Request {
		var requests []reconcile.Request
		for _, name := range names(o) {
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}})
		}
		return requests
	}
}

func (r *RedisLockReconciler) allLocks(ctx context.Context, _ client.Object) []reconcile.Request {
	return r.locks(ctx, func(*v1alpha1.RedisLock) bool { return true })
}

// locks lists the locks that are meant, for all of them to be reconciled.
func (r *RedisLockReconciler) locks(ctx context.Context, which func(*v1alpha1.RedisLock) bool) []reconcile.Request {
	var list v1alpha1.RedisLockList
	if err := r.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Listing locks")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if which(&list.Items[i]) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}

func (r *RedisLockReconciler) watchCampaigns(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.Campaigns.OnChange(func(object types.NamespacedName) { queue.Add(reconcile.Request{NamespacedName: object}) })
	return nil
}

// watchStores has the locks of a store reconciled when what is known of it changes.
func (r *RedisLockReconciler) watchStores(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.Stores.OnChange(func(store string) {
		measureStore(store, r.Stores.Get(store).State())
		for _, request := range r.locks(ctx, func(lock *v1alpha1.RedisLock) bool { return storeName(lock) == store }) {
			queue.Add(request)
		}
	})
	return nil
}

// Reconcile reads, has the campaign run, sees to the Jobs under the lock, and writes
// the status if it has changed.
func (r *RedisLockReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if !r.Leads() {
		return ctrl.Result{RequeueAfter: unsurePause}, nil
	}
	lock := &v1alpha1.RedisLock{}
	if err := r.Get(ctx, req.NamespacedName, lock); err != nil {
		if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, err
		}
		return r.orphans(ctx, req.NamespacedName)
	}
	deleting := !lock.DeletionTimestamp.IsZero()
	if deleting && !controllerutil.ContainsFinalizer(lock, v1alpha1.ReleaseFinalizer) {
		return ctrl.Result{}, nil
	}
	if !deleting && !controllerutil.ContainsFinalizer(lock, v1alpha1.ReleaseFinalizer) {
		before := lock.DeepCopy()
		controllerutil.AddFinalizer(lock, v1alpha1.ReleaseFinalizer)
		if err := r.Patch(ctx, lock, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(statusOwner)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	g, again, err := r.guard(ctx, lock)
	if g == nil {
		return ctrl.Result{RequeueAfter: again}, err
	}
	if deleting {
		done, failed := r.finalize(ctx, g, err)
		if done || failed != nil {
			return ctrl.Result{}, failed
		}
		if err != nil {
			// Redis may be away, and the object goes all the same when its lease has lapsed.
			ctrl.LoggerFrom(ctx).Info("Seeing to the Jobs of a RedisLock that is being deleted; it is tried again", "error", err.Error())
			g.soon(releaseRetry)
			err = nil
		}
	}
	if wait := g.next(); wait > 0 && (again == 0 || wait < again) {
		again = wait
	}
	again, failed := r.show(ctx, g, again)
	err = errors.Join(err, failed)
	if err != nil && g.plan.Active > 0 {
		// Jobs that run cannot wait for a back-off that grows: their watchdogs end them.
		ctrl.LoggerFrom(ctx).Error(err, "Seeing to the Jobs of a RedisLock; it is tried again")
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	if err != nil {
		return ctrl.Result{}, err // tried again soon, whatever else there is to wait for
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// guard has the campaign run and sees to the Jobs. It returns no guarding where this
// process has nothing to say.
func (r *RedisLockReconciler) guard(ctx context.Context, lock *v1alpha1.RedisLock) (*guarding, time.Duration, error) {
	object := client.ObjectKeyFromObject(lock)
	g := &guarding{RedisLockReconciler: r, lock: lock, key: lockKey(lock), terms: terms(lock), admit: true}
	spec, p := r.spec(lock)
	g.problem, g.lockClient = p, spec.Client

	g.running = r.Campaigns.Get(object, lock.UID)
	if err := g.stop(ctx); err != nil {
		return nil, 0, err
	}

	drained, err := r.drained(ctx, lock)
	if err != nil {
		return nil, 0, err
	}
	asking, done := g.untilLost(ctx)
	defer done()
	var place standing
	switch {
	case !lock.DeletionTimestamp.IsZero():
		place = standing{aside: campaign.Aside{Reason: v1alpha1.ReasonDeleting, Message: "this RedisLock is being deleted"}, giveUp: true}
		g.admit, g.notAdmitted = false, "its RedisLock is being deleted"
	case drained != "":
		place.aside = campaign.Aside{Reason: v1alpha1.ReasonPaused, Message: drained}
		g.admit, g.notAdmitted = false, drained
		if p == nil {
			r.withdraw(asking, lock, spec.Client, spec.Key)
		}
	case p == nil:
		place = r.preference(asking, lock, spec.Client, spec.Key)
		if place.giveUp {
			g.admit, g.notAdmitted = false, "the lock goes back to a preferred cluster as soon as nothing runs here"
		}
	}
	g.giveUp = place.giveUp
	changed := true
	for round := 0; changed && round < guardRounds; round++ {
		if err := g.see(ctx); err != nil {
			return nil, 0, err
		}
		if p == nil {
			spec.Quarantine = g.quarantine()
			spec.Aside = place.aside
			if spec.Aside == (campaign.Aside{}) && g.terms.Exclusive && !g.plan.Compete {
				spec.Aside = campaign.Aside{Reason: v1alpha1.ReasonIdle, Message: "no guarded Job waits in this cluster, so it does not ask for the lock"}
			}
			first := g.running == nil
			if g.running = r.Campaigns.Ensure(object, lock.UID, spec, uint64(lock.Status.FencingToken)); g.running == nil {
				return nil, 0, nil // this process is leaving
			}
			if first {
				continue // with a campaign to ask
			}
		}
		if changed, err = g.act(ctx); err != nil {
			break
		}
	}
	if changed && err == nil {
		g.soon(0) // there is more to do, when the others had their turn
	}
	if p != nil && g.plan.Active == 0 {
		// Nothing may be held for an object that may not have it.
		if err := r.Campaigns.Release(ctx, object); err != nil {
			ctrl.LoggerFrom(ctx).Info("Giving the lock back; it goes on in the background", "error", err.Error())
		}
	}
	return g, place.again, errors.Join(err, g.settle(ctx))
}

// show writes the status, and tells and measures what there is besides.
func (r *RedisLockReconciler) show(ctx context.Context, g *guarding, again time.Duration) (time.Duration, error) {
	g.measure()
	g.tellUnclaimed()
	g.tellWaits(time.Now())
	g.memory.of(g.object()).only(g.there())
	if last, known := r.memory.of(g.object()).shown(g.lock); known {
		g.lock.Status = last
	}
	v := g.view()
	measureState(g.object(), v.status().State)
	if g.problem == nil && !v.observation.Known {
		return again, nil // the campaign will tell
	}
	if g.terms.Exclusive && g.plan.Compete && !v.observation.Held && v.observation.Reason == v1alpha1.ReasonReleased {
		// It was given back between two runs, and is taken again in a moment.
		if left := turn - time.Since(g.memory.of(g.object()).yielded().at); left > 0 {
			if again == 0 || left < again {
				again = left
			}
			return again, nil
		}
	}
	// Many Jobs start a moment after they were created, and some end a moment after that:
	// how many there are is written when it has stayed so for a while.
	if left := r.memory.of(g.object()).settling(g.overtaken || onlyCounts(g.lock.Status, v.status())); left > 0 {
		if again == 0 || left < again {
			again = left
		}
		return again, nil
	}
	return again, r.write(ctx, v)
}

// view is what the status is made from.
func (g *guarding) view() view {
	v := view{
		lock: g.lock, key: g.key, fingerprint: fingerprint(g.lock), now: time.Now(), problem: g.problem,
		active: g.plan.Active, waiting: g.plan.Waiting, observation: g.observation,
	}
	if store := g.Stores.Get(storeName(g.lock)); store != nil {
		state := store.State()
		v.store = &state
	}
	return v
}

// write applies the status if it has changed, and then tells of what changed.
func (r *RedisLockReconciler) write(ctx context.Context, v view) error {
	object := client.ObjectKeyFromObject(v.lock)
	if _, known := r.memory.of(object).shown(v.lock); !known && !equality.Semantic.DeepEqual(v.lock.Status, v.status()) {
		// The cache may not have the last write of the process before us yet, and
		// transitions are counted from it.
		live := &v1alpha1.RedisLock{}
		if err := r.Live.Get(ctx, object, live); err != nil || live.UID != v.lock.UID {
			return client.IgnoreNotFound(err)
		}
		v.lock.Status = live.Status
	}
	before, after := v.lock.Status, v.status()
	if equality.Semantic.DeepEqual(before, after) {
		return nil
	}
	version, err := applyStatus(ctx, r.Client, v.lock, "RedisLock", &after)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	r.memory.of(object).show(v.lock.UID, version, after)
	measureTransitions(object, ptr.Deref(after.Transitions, 0)-ptr.Deref(before.Transitions, 0))
	for _, event := range eventsOf(before, after, v.lock.Spec.Hold, r.memory.of(object).yielded().fence) {
		r.Recorder.Eventf(v.lock, nil, event.Type, string(event.Reason), string(event.Action), "%s", event.Message)
	}
	return nil
}
