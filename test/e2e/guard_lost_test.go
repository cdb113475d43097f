package e2e

import (
	"context"
	"fmt"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
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

var _ = Describe("A manager that was paused until another led", func() {
	DescribeTable("leaves the Job alone that the other let go, while it still takes itself for the leader", func(ctx context.Context, hold v1alpha1.HoldPolicy) {
		st := newStand(ctx)
		lock := st.lock("stale", withLease(3*time.Second), withWatchdog(time.Minute), func(spec *v1alpha1.RedisLockSpec) { spec.Hold = hold })
		create(ctx, lock, blue)
		seen := st.witness(ctx, lock, blue)
		st.run(blue)
		job := st.job("stale", lock).RunFor(20 * time.Second).StopFor(time.Second).Obj()
		blue.make(ctx, job)
		before := fenceOf(blue.eventually(ctx, job, isRunning))

		first, leads := st.managers[blue], blue.leader(ctx)
		Expect(first.Pause(ctx)).To(Succeed())
		// It is to find its own lease over, not one that another went on with.
		st.lose(ctx, lock)
		second := st.manager(blue, operator.Options{Name: "second"})
		Expect(second.Start()).To(Succeed())
		Eventually(blue.leader).WithArguments(ctx).WithTimeout(patient).ShouldNot(Or(Equal(leads), BeEmpty()))
		after := fenceOf(blue.eventually(ctx, job, func(g Gomega, j *batchv1.Job) {
			isRunning(g, j)
			g.Expect(fenceOf(j)).To(BeNumerically(">", before))
		}))
		Expect(first.Resume()).To(Succeed())

		blue.eventually(ctx, job, isComplete)
		Expect(first.Running()).To(BeFalse(), "it has noticed by now")
		Eventually(func() []string { return fences(seen.seen(blue, job.Name)) }).WithContext(ctx).
			Should(Equal([]string{fmt.Sprint(before), fmt.Sprint(after)}))
		Expect(seen.twinned()).To(BeEmpty())
	},
		Entry("under an OnDemand lock", v1alpha1.HoldOnDemand, SpecTimeout(3*time.Minute)),
		Entry("under an Always lock", v1alpha1.HoldAlways, SpecTimeout(3*time.Minute)),
	)
})

var _ = Describe("A Job whose lease is lost as soon as it was let go", func() {
	DescribeTable("is let go again when no pod of it lives, nor is about to be made", func(ctx context.Context, hold v1alpha1.HoldPolicy) {
		st := newStand(ctx)
		lock := st.lock("soon", withLease(time.Second), func(spec *v1alpha1.RedisLockSpec) { spec.Hold = hold })
		create(ctx, lock, blue)
		seen := st.witness(ctx, lock, blue)
		st.run(blue)
		job := st.job("soon", lock).RunFor(10 * time.Second).StopFor(2 * time.Second).Obj()
		blue.make(ctx, job)
		DeferCleanup(blue.ControllerManager.Resume)
		for range 4 {
			before := blue.whenLetGo(ctx, job)
			// Its controller is slow to hear that it was let go, and that it was stopped.
			Expect(blue.ControllerManager.Pause(ctx)).To(Succeed())
			st.lose(ctx, lock)
			Eventually(func() bool { return suspended(blue.getJob(ctx, Default, job)) }).WithContext(ctx).WithPolling(2 * time.Millisecond).Should(BeTrue())
			Consistently(func() uint64 { return fenceOf(blue.getJob(ctx, Default, job)) }).WithTimeout(2 * time.Second).Should(Equal(before))
			Expect(blue.ControllerManager.Resume()).To(Succeed())
		}
		blue.eventually(ctx, job, isComplete)
		Expect(seen.twinned()).To(BeEmpty())
	},
		Entry("under an OnDemand lock", v1alpha1.HoldOnDemand, SpecTimeout(4*time.Minute)),
		Entry("under an Always lock", v1alpha1.HoldAlways, SpecTimeout(4*time.Minute)),
	)
})

// whenLetGo waits until a Job is let go, no longer, and returns its fencing token.
func (s *site) whenLetGo(ctx context.Context, job *batchv1.Job) uint64 {
	GinkgoHelper()
	var got *batchv1.Job
	Eventually(func(g Gomega) {
		got = s.getJob(ctx, g, job)
		g.Expect(suspended(got)).To(BeFalse())
	}).WithContext(ctx).WithTimeout(patient).WithPolling(2 * time.Millisecond).Should(Succeed())
	return fenceOf(got)
}

// leader is who leads the managers of a cluster.
func (s *site) leader(ctx context.Context) string {
	lease := &coordinationv1.Lease{}
	if err := s.Get(ctx, client.ObjectKey{Namespace: operator.Namespace, Name: leader.Name}, lease); err != nil || lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}
