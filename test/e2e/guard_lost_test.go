package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/leader"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
)

var _ = Describe("A manager that was paused, with onLost Delete", func() {
	It("does not have the tick recorded as deleted with which its successor went on", func(ctx context.Context) {
		st := newStand(ctx)
		lock := st.lock("paused", onDemand, withWatchdog(40*time.Second), func(spec *v1alpha1.RedisLockSpec) { spec.OnLost = v1alpha1.OnLostDelete })
		create(ctx, lock, blue)
		at := wrappers.Tick(1)
		cronJob := blue.makeCronJob(ctx, st.cronJob("paused", lock).RunFor(20*time.Second).Obj())
		blue.note(ctx, cronJob, at)
		st.run(blue)
		job := blue.tick(ctx, cronJob, at)
		blue.eventually(ctx, job, isRunning)

		first := st.managers[blue]
		before := blue.leader(ctx)
		Expect(first.Pause(ctx)).To(Succeed())
		second := st.manager(blue, operator.Options{Name: "second"})
		Expect(second.Start()).To(Succeed())
		Eventually(blue.leader).WithArguments(ctx).WithTimeout(patient).ShouldNot(Or(Equal(before), BeEmpty()))
		Expect(first.Resume()).To(Succeed()) // its lease is over by its clock, and it still takes itself for the leader

		st.eventuallyRecorded(ctx, lock, at, "Complete")
	}, SpecTimeout(4*time.Minute))
})

// leader is who leads the managers of a cluster.
func (s *site) leader(ctx context.Context) string {
	lease := &coordinationv1.Lease{}
	if err := s.Get(ctx, client.ObjectKey{Namespace: operator.Namespace, Name: leader.Name}, lease); err != nil || lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}
