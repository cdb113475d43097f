package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var _ = Describe("A Debounce whose Job is guarded", func() {
	It("runs it under the lock", func(ctx context.Context) {
		st := newStand(ctx)
		st.run(blue, green)
		lock := st.lock("mutex", func(spec *v1alpha1.RedisLockSpec) { spec.Hold = v1alpha1.HoldOnDemand })
		create(ctx, lock, blue, green)
		d := st.debounce("guarded", aJob(), withWait(100*time.Millisecond), func(spec *v1alpha1.DebounceSpec) {
			spec.Action.Job.Template.Labels = map[string]string{v1alpha1.LockLabel: lock.Name}
		})
		createDebounce(ctx, d, blue, green)
		held, err := st.locks().TryAcquire(ctx, redislock.Key(st.namespace, lock.Name), redislock.WithLease(time.Minute))
		Expect(err).NotTo(HaveOccurred())

		generation := st.call(ctx, d, "go")
		var job batchv1.Job
		Eventually(func(g Gomega) {
			jobs := jobsOf(ctx, g, d, blue, green)
			g.Expect(jobs).To(HaveLen(1))
			job = jobs[0]
		}).WithContext(ctx).Should(Succeed())
		Expect(job.Spec.Suspend).To(HaveValue(BeTrue()), "somebody else has the lock")
		state, err := st.debouncer(d).State(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(state.Running).To(HaveField("Generation", generation))

		Expect(held.Release(ctx)).To(Succeed())
		Expect(st.eventuallyRan(ctx, d, generation).Outcome).To(Equal(redislock.DebounceSucceeded))
		ran := jobOfRun(ctx, Default, d, generation)
		Expect(ran.Spec.Template.Annotations).To(HaveKey(v1alpha1.FencingTokenAnnotation))
	}, SpecTimeout(3*time.Minute))
})
