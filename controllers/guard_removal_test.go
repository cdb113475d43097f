package controllers

import (
	"testing"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/guard"
)

// A removed Job with a finalizer is as before in the cache for a moment. If it were let
// go from there, the claim of that would count as one of a Job that somebody deleted.
func TestARemovedJobIsSeenAsLeavingBeforeTheCacheHasIt(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		finalizers []string
		want       []guard.Phase
	}{
		"with a finalizer":    {[]string{v1alpha1.OutcomeFinalizer}, []guard.Phase{guard.Leaving}},
		"without a finalizer": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			stored := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
				Namespace: "ns", Name: "one", UID: "uid", Finalizers: tc.finalizers, Labels: map[string]string{v1alpha1.LockLabel: "nightly"},
			}}
			stored.Spec.Suspend = new(true)
			c := fake.NewClientBuilder().WithObjects(stored).Build()
			cached := &batchv1.Job{}
			g.Expect(c.Get(t.Context(), client.ObjectKeyFromObject(stored), cached)).To(Succeed())

			lock := &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "nightly"}}
			work := &guarding{RedisLockReconciler: &RedisLockReconciler{Client: c, Live: c, Recorder: events.NewFakeRecorder(1)}, lock: lock}
			g.Expect(work.removeJob(t.Context(), &guard.Step{Kind: guard.Remove, Job: guard.NewJob(cached, nil), Reason: guard.ReasonReplaced})).To(Succeed())

			var phases []guard.Phase
			for _, job := range work.written.over(work.object(), []batchv1.Job{*cached}) {
				phases = append(phases, guard.NewJob(job, nil).Phase)
			}
			g.Expect(phases).To(Equal(tc.want))
		})
	}
}
