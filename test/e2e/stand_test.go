package e2e

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// stand is what one spec works with: a namespace of its own in both clusters, a
// Redis, and a manager for each cluster.
type stand struct {
	namespace string
	redis     *redisserver.Server
	dir       string
	managers  map[*site]*operator.Manager

	redisClient *redislock.Client // see locks
}

func newStand(ctx context.Context) *stand {
	GinkgoHelper()
	return newStandIn(ctx, blue, green)
}

// newStandIn is newStand with other clusters than those that all specs share.
func newStandIn(ctx context.Context, sites ...*site) *stand {
	GinkgoHelper()
	st := &stand{
		namespace: fmt.Sprintf("e2e-%d", time.Now().UnixNano()),
		redis:     redisserver.Start(GinkgoTB(), redisserver.Options{}),
		dir:       artifacts(),
		managers:  map[*site]*operator.Manager{},
	}
	for _, s := range sites {
		st.prepare(ctx, s)
	}
	st.locks() // which lives as long as the stand does
	return st
}

// prepare makes the namespace in a cluster, and cleans the cluster up afterwards.
func (st *stand) prepare(ctx context.Context, s *site) {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: st.namespace}}
	Expect(client.IgnoreAlreadyExists(s.Create(ctx, namespace))).To(Succeed())
	DeferCleanup(func(ctx context.Context) { st.clean(ctx, s) }, NodeTimeout(time.Minute))
}

// clean takes away what a spec left in a cluster, without a manager's help.
func (st *stand) clean(ctx context.Context, s *site) {
	GinkgoHelper()
	Expect(operator.Clean(ctx, s, st.namespace)).To(Succeed())
}

// forgetLeader has the next manager not wait for one that was killed.
func (s *site) forgetLeader(ctx context.Context) {
	GinkgoHelper()
	Expect(operator.ForgetLeader(ctx, s)).To(Succeed())
}

// config is a manager's configuration with this Redis as its one store.
func (st *stand) config() string { return operator.StoreAt(st.redis.URL()) }

// manager prepares a manager; it is ended after the spec.
func (st *stand) manager(s *site, opts operator.Options) *operator.Manager {
	GinkgoHelper()
	opts.Binary, opts.Dir, opts.ClusterName = cmp.Or(opts.Binary, managerBinary), st.dir, s.name
	if opts.Name == "" {
		opts.Name = s.name
	}
	if opts.Config == "" {
		opts.Config = st.config()
	}
	m, err := operator.NewManager(s.Cluster, opts)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		if CurrentSpecReport().Failed() {
			GinkgoWriter.Printf("--- log of manager %s\n%s\n", opts.Name, m.Tail())
		}
		Expect(m.Close()).To(Succeed())
	})
	return m
}

// run starts a manager with the usual configuration in each of the clusters.
func (st *stand) run(sites ...*site) {
	GinkgoHelper()
	for _, s := range sites {
		st.managers[s] = st.manager(s, operator.Options{})
		Expect(st.managers[s].Start()).To(Succeed())
	}
}

// lock builds a RedisLock with a short lease.
func (st *stand) lock(name string, change ...func(*v1alpha1.RedisLockSpec)) *v1alpha1.RedisLock {
	lock := &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: name}}
	lock.Spec.Lease = new(metav1.Duration{Duration: 5 * time.Second})
	for _, f := range change {
		f(&lock.Spec)
	}
	return lock
}

func withLease(d time.Duration) func(*v1alpha1.RedisLockSpec) {
	return func(spec *v1alpha1.RedisLockSpec) { spec.Lease = new(metav1.Duration{Duration: d}) }
}

func withLockDelay(d time.Duration) func(*v1alpha1.RedisLockSpec) {
	return func(spec *v1alpha1.RedisLockSpec) { spec.LockDelay = new(metav1.Duration{Duration: d}) }
}

// create makes the same lock in each of the clusters.
func create(ctx context.Context, lock *v1alpha1.RedisLock, sites ...*site) {
	GinkgoHelper()
	for _, s := range sites {
		Expect(s.Create(ctx, lock.DeepCopy())).To(Succeed())
	}
}

// show reads a lock back from a cluster.
func (s *site) show(ctx context.Context, lock *v1alpha1.RedisLock) (*v1alpha1.RedisLock, error) {
	got := &v1alpha1.RedisLock{}
	err := s.Get(ctx, client.ObjectKeyFromObject(lock), got)
	return got, err
}

// status reads a lock's status, failing the spec or g if it cannot.
func (s *site) status(ctx context.Context, g Gomega, lock *v1alpha1.RedisLock) v1alpha1.RedisLockStatus {
	got, err := s.show(ctx, lock)
	g.Expect(err).NotTo(HaveOccurred())
	return got.Status
}

// modify changes a lock in a cluster.
func (s *site) modify(ctx context.Context, lock *v1alpha1.RedisLock, change func(*v1alpha1.RedisLock)) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		got, err := s.show(ctx, lock)
		g.Expect(err).NotTo(HaveOccurred())
		change(got)
		g.Expect(s.Update(ctx, got)).To(Succeed())
	}).WithContext(ctx).Should(Succeed())
}

// reason returns the reason of a condition, "" where it is not there.
func reason(status v1alpha1.RedisLockStatus, kind v1alpha1.ConditionType) v1alpha1.ConditionReason {
	if c := meta.FindStatusCondition(status.Conditions, string(kind)); c != nil {
		return v1alpha1.ConditionReason(c.Reason)
	}
	return ""
}

func message(status v1alpha1.RedisLockStatus, kind v1alpha1.ConditionType) string {
	if c := meta.FindStatusCondition(status.Conditions, string(kind)); c != nil {
		return c.Message
	}
	return ""
}

// eventuallyOneHolds waits until exactly one of the clusters holds the lock and the
// others say who does, and returns it first.
func eventuallyOneHolds(ctx context.Context, lock *v1alpha1.RedisLock, sites ...*site) (holder *site, status v1alpha1.RedisLockStatus, others []*site) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		holder, others = nil, nil
		for _, s := range sites {
			switch st := s.status(ctx, g, lock); st.State {
			case v1alpha1.StateAcquired:
				g.Expect(holder).To(BeNil(), "two clusters hold the lock")
				holder, status = s, st
			case v1alpha1.StateFree:
				others = append(others, s)
			}
		}
		g.Expect(holder).NotTo(BeNil(), "nobody holds the lock")
		g.Expect(others).To(HaveLen(len(sites) - 1))
		for _, s := range others {
			st := s.status(ctx, g, lock)
			g.Expect(reason(st, v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonHeldElsewhere))
			g.Expect(st.Holder).NotTo(BeNil())
			g.Expect(st.Holder.Cluster).To(Equal(holder.name))
			g.Expect(st.FencingToken).To(Equal(status.FencingToken))
		}
	}).WithContext(ctx).Should(Succeed())
	return holder, status, others
}

func other(s *site) *site {
	if s == blue {
		return green
	}
	return blue
}

// events lists what was told about a lock.
func (s *site) events(ctx context.Context, g Gomega, lock *v1alpha1.RedisLock) []eventsv1.Event {
	var list eventsv1.EventList
	g.Expect(s.List(ctx, &list, client.InNamespace(lock.Namespace))).To(Succeed())
	return slices.DeleteFunc(list.Items, func(e eventsv1.Event) bool { return e.Regarding.Name != lock.Name })
}

// gone says whether a lock's object is no longer there.
func (s *site) gone(ctx context.Context, lock *v1alpha1.RedisLock) bool {
	_, err := s.show(ctx, lock)
	return apierrors.IsNotFound(err)
}
