package controllers

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/guard"
)

// cluster has one Job that runs under a grant of which this manager knows nothing.
func cluster(t *testing.T, leads func() bool) (*RedisLockReconciler, *batchv1.Job) {
	t.Helper()
	scheme := runtime.NewScheme()
	NewWithT(t).Expect(batchv1.AddToScheme(scheme)).To(Succeed())
	NewWithT(t).Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	runs := job("runs", "")
	runs.Annotations = map[string]string{v1alpha1.RunAnnotation: "101", v1alpha1.GrantAnnotation: "100"}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(runs).
		WithIndex(&batchv1.Job{}, lockIndex, indexJob).WithIndex(&batchv1.CronJob{}, lockIndex, indexCronJob).Build()
	return &RedisLockReconciler{Client: c, Live: c, Leads: leads}, runs
}

func TestAManagerThatMayHaveASuccessorStopsNothing(t *testing.T) {
	t.Parallel()
	lock := &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: object.Namespace, Name: object.Name}}
	for name, test := range map[string]struct {
		leads func(asked int) bool
		do    func(*testing.T, Gomega, *RedisLockReconciler)
	}{
		"of Jobs under a lock that it does not hold": {
			func(int) bool { return false },
			func(t *testing.T, g Gomega, r *RedisLockReconciler) {
				work := &guarding{RedisLockReconciler: r, lock: lock, problem: &problem{v1alpha1.ReasonStoreInvalid, "wrong"}}
				g.Expect(work.stop(t.Context())).To(Succeed())
				g.Expect(work.hold().Known).To(BeFalse())
				g.Expect(work.next()).To(And(BeNumerically(">", 0), BeNumerically("<=", unsurePause)), "it looks again")
			},
		},
		"of Jobs whose lock it does not see": {
			func(int) bool { return false },
			func(t *testing.T, g Gomega, r *RedisLockReconciler) {
				g.Expect(r.Reconcile(t.Context(), ctrl.Request{NamespacedName: object})).To(Equal(ctrl.Result{RequeueAfter: unsurePause}))
			},
		},
		"when it was paused until the Jobs were listed": {
			func(asked int) bool { return asked == 1 },
			func(t *testing.T, g Gomega, r *RedisLockReconciler) {
				g.Expect(r.Reconcile(t.Context(), ctrl.Request{NamespacedName: object})).To(Equal(ctrl.Result{RequeueAfter: unsurePause}))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			asked := 0
			r, runs := cluster(t, func() bool { asked++; return test.leads(asked) })
			test.do(t, g, r)
			g.Expect(r.Get(t.Context(), client.ObjectKeyFromObject(runs), runs)).To(Succeed())
			g.Expect(runs.Spec.Suspend).To(BeNil())
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
	r, runs := cluster(t, func() bool { return true })
	waits := job("waits", "")
	waits.Spec.Suspend = new(true)
	ran := waits.DeepCopy()
	ran.Name, ran.UID, ran.Annotations = "ran", "ran", runs.Annotations
	ran.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: "True"}}
	for _, j := range []*batchv1.Job{waits, ran} {
		g.Expect(r.Create(t.Context(), j)).To(Succeed())
	}
	work := &guarding{RedisLockReconciler: r, lock: &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: object.Namespace, Name: object.Name}}}
	g.Expect(work.list(t.Context())).To(Succeed())
	settles := map[string]bool{}
	for _, j := range work.jobs {
		settles[j.Name+" "+string(j.Phase)] = !j.Stopped.IsZero()
	}
	g.Expect(settles).To(Equal(map[string]bool{
		"ran " + string(guard.Waiting): true, "waits " + string(guard.Waiting): false, "runs " + string(guard.Running): false,
	}))
}
