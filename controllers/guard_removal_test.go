package controllers

import (
	"testing"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
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
			kube := newKube(t)
			namespace := newNamespace(t, kube)
			cached := wrappers.MakeJob(namespace, "one").Lock("nightly").Obj()
			cached.Finalizers, cached.Spec.Suspend = tc.finalizers, new(true)
			g.Expect(kube.Create(t.Context(), cached)).To(Succeed())

			lock := &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nightly"}}
			work := &guarding{RedisLockReconciler: &RedisLockReconciler{Client: kube, Live: kube, Recorder: events.NewFakeRecorder(1)}, lock: lock}
			g.Expect(work.removeJob(t.Context(), &guard.Step{Kind: guard.Remove, Job: guard.NewJob(cached, nil), Reason: guard.ReasonReplaced})).To(Succeed())

			var phases []guard.Phase
			for _, job := range work.written.over(work.object(), []batchv1.Job{*cached}) {
				phases = append(phases, guard.NewJob(job, nil).Phase)
			}
			g.Expect(phases).To(Equal(tc.want))
		})
	}
}
