package controllers

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
)

// newLeader has a lock with one Job, which runs under a grant of which this manager
// knows nothing.
func newLeader(t *testing.T, leads func() bool) (*RedisLockReconciler, *v1alpha1.RedisLock, *batchv1.Job) {
	t.Helper()
	live := newKube(t)
	namespace := newNamespace(t, live)
	runs := wrappers.MakeJob(namespace, "runs").Lock("nightly").Annotation(v1alpha1.RunAnnotation, "101").Annotation(v1alpha1.GrantAnnotation, "100").Obj()
	NewWithT(t).Expect(live.Create(t.Context(), runs)).To(Succeed())
	lock := &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nightly"}}
	return &RedisLockReconciler{Client: newCached(t, namespace), Live: live, Leads: leads}, lock, runs
}

func TestAManagerThatMayHaveASuccessorStopsNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		leads func(asked int) bool
		do    func(*testing.T, Gomega, *RedisLockReconciler, *v1alpha1.RedisLock)
	}{
		"of Jobs under a lock that it does not hold": {
			func(int) bool { return false },
			func(t *testing.T, g Gomega, r *RedisLockReconciler, lock *v1alpha1.RedisLock) {
				work := &guarding{RedisLockReconciler: r, lock: lock, problem: &problem{v1alpha1.ReasonStoreInvalid, "wrong"}}
				g.Expect(work.stop(t.Context())).To(Succeed())
				g.Expect(work.hold().Known).To(BeFalse())
				g.Expect(work.next()).To(And(BeNumerically(">", 0), BeNumerically("<=", unsurePause)), "it looks again")
			},
		},
		"of Jobs whose lock it does not see": {
			func(int) bool { return false },
			func(t *testing.T, g Gomega, r *RedisLockReconciler, lock *v1alpha1.RedisLock) {
				g.Expect(r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(lock)})).To(Equal(ctrl.Result{RequeueAfter: unsurePause}))
			},
		},
		"when it was paused until the Jobs were listed": {
			func(asked int) bool { return asked == 1 },
			func(t *testing.T, g Gomega, r *RedisLockReconciler, lock *v1alpha1.RedisLock) {
				g.Expect(r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(lock)})).To(Equal(ctrl.Result{RequeueAfter: unsurePause}))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			asked := 0
			r, lock, runs := newLeader(t, func() bool { asked++; return test.leads(asked) })
			test.do(t, g, r, lock)
			g.Expect(r.Live.Get(t.Context(), client.ObjectKeyFromObject(runs), runs)).To(Succeed())
			g.Expect(runs.Spec.Suspend).To(HaveValue(BeFalse()))
		})
	}
}

func TestSinceWhenAJobIsStopped(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	m := &memory{}
	first := m.stopped("one", 101)
	g.Expect(first).NotTo(BeZero())
	g.Expect(m.stopped("one", 101)).To(Equal(first))
	time.Sleep(time.Millisecond)
	again := m.stopped("one", 102)
	g.Expect(again).To(BeTemporally(">", first), "it has run again")
	m.stopped("gone", 90)
	m.only(map[types.UID]bool{"one": true})
	g.Expect(m.stops).To(HaveLen(1))
	g.Expect(m.stopped("one", 102)).To(Equal(again))
}

func TestOnlyAJobThatRanHasToSettle(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	r, lock, runs := newLeader(t, func() bool { return true })
	waits := wrappers.MakeJob(lock.Namespace, "waits").Lock(lock.Name).Obj()
	waits.Spec.Suspend = new(true)
	ran := waits.DeepCopy()
	ran.Name, ran.Annotations = "ran", runs.Annotations
	g.Expect(r.Create(t.Context(), waits)).To(Succeed())
	g.Expect(r.Create(t.Context(), ran)).To(Succeed())
	ran.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue}}
	g.Expect(r.Status().Update(t.Context(), ran)).To(Succeed())
	g.Eventually(func(g Gomega) {
		jobs, err := r.listJobs(t.Context(), lock.Namespace, lock.Name)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(versions(jobs)).To(And(HaveLen(3), HaveKeyWithValue(ran.Name, ran.ResourceVersion)))
	}).WithTimeout(within).Should(Succeed())
	work := &guarding{RedisLockReconciler: r, lock: lock}
	g.Expect(work.list(t.Context())).To(Succeed())
	settles := map[string]bool{}
	for _, j := range work.jobs {
		settles[j.Name+" "+string(j.Phase)] = !j.Stopped.IsZero()
	}
	g.Expect(settles).To(Equal(map[string]bool{
		"ran " + string(guard.Waiting): true, "waits " + string(guard.Waiting): false, "runs " + string(guard.Running): false,
	}))
}
