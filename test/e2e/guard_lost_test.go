package e2e

import (
	"context"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/leader"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
)

var _ = Describe("A manager that was paused, with onLost Delete", func() {
	DescribeTable("does not have the tick recorded as deleted with which its successor went on", func(ctx context.Context, hold v1alpha1.HoldPolicy) {
		st := newStand(ctx)
		lock := st.lock("paused", withWatchdog(40*time.Second), func(spec *v1alpha1.RedisLockSpec) {
			spec.Hold, spec.OnLost = hold, v1alpha1.OnLostDelete
		})
		create(ctx, lock, blue)
		seen := st.witness(ctx, lock, blue)
		at := wrappers.Tick(1)
		template := st.cronJob("paused", lock).RunFor(20 * time.Second).Obj()
		template.Spec.JobTemplate.Spec.Template.Annotations[cluster.StopForAnnotation] = "8s"
		cronJob := blue.makeCronJob(ctx, template)
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
		pods := seen.seen(blue, job.Name)
		slices.SortFunc(pods, func(a, b sighting) int { return a.from.Compare(b.from) })
		for i := range pods[1:] {
			// In whole seconds.
			Expect(pods[i+1].from.Add(time.Second)).To(BeTemporally(">=", pods[i].to), "%s before the end of %s", pods[i+1], pods[i])
		}
	},
		Entry("of an OnDemand lock", v1alpha1.HoldOnDemand, SpecTimeout(4*time.Minute)),
		Entry("of an Always lock", v1alpha1.HoldAlways, SpecTimeout(4*time.Minute)),
	)
})

// leader is who leads the managers of a cluster.
func (s *site) leader(ctx context.Context) string {
	lease := &coordinationv1.Lease{}
	if err := s.Get(ctx, client.ObjectKey{Namespace: operator.Namespace, Name: leader.Name}, lease); err != nil || lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}
