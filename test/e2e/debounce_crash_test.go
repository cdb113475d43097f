package e2e

import (
	"context"
	"net/http"
	"strconv"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/cluster"
)

var _ = Describe("A Debounce whose manager was killed", func() {
	// killed has a manager in blue die at a point of a run.
	killed := func(ctx context.Context, point string, change ...func(*v1alpha1.DebounceSpec)) (*stand, *v1alpha1.Debounce, uint64) {
		st := newStand(ctx)
		d := st.debounce("crash", aJob(), append(change, withWait(100*time.Millisecond))...)
		m := st.faulty(blue, fault.At, point)
		Expect(m.Start()).To(Succeed())
		createDebounce(ctx, d, blue)
		generation := st.call(ctx, d, "payload")
		m.eventuallyDies(ctx)
		state, err := st.debouncer(d).State(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(state.Running).To(HaveField("Generation", generation))
		return st, d, generation
	}

	DescribeTable("goes on with the run where its successor is in the same cluster", func(ctx context.Context, point string, jobs int) {
		st, d, generation := killed(ctx, point)
		Expect(jobsOf(ctx, Default, d, blue, green)).To(HaveLen(jobs))
		blue.forgetLeader(ctx)
		st.run(blue, green)
		green.make(ctx, d.DeepCopy())
		ended := st.eventuallyRan(ctx, d, generation)
		Expect(ended.Outcome).To(Equal(redislock.DebounceSucceeded))
		Expect(ended.Attempt).To(Equal(1), "no lease was waited for")
		Expect(jobOfRun(ctx, Default, d, generation).Labels).To(HaveKeyWithValue(v1alpha1.DebounceLabel, "crash"))
		Expect(jobsOf(ctx, Default, d, green)).To(BeEmpty())
	},
		Entry("before there was a Job", "debounce.claimed", 0, SpecTimeout(3*time.Minute)),
		Entry("when there was a Job", "debounce.created", 1, SpecTimeout(3*time.Minute)),
	)

	It("makes no second Job where the first has ended and none is kept", func(ctx context.Context) {
		st, d, generation := killed(ctx, "debounce.ended", func(spec *v1alpha1.DebounceSpec) {
			spec.Action.Job.SuccessfulJobsHistoryLimit = new(int32(0))
		})
		job := jobOfRun(ctx, Default, d, generation)
		blue.forgetLeader(ctx)
		st.run(blue)
		Expect(st.eventuallyRan(ctx, d, generation).Outcome).To(Equal(redislock.DebounceSucceeded))
		Eventually(func(g Gomega) { g.Expect(jobsOf(ctx, g, d, blue)).To(BeEmpty()) }).WithContext(ctx).Should(Succeed())
		made := auditOf(blue, func(e cluster.AuditEvent) bool {
			return e.Verb == "create" && e.Resource == "jobs" && e.Namespace == st.namespace && e.Code == http.StatusCreated
		})
		Expect(made).To(HaveLen(1), "%s was made again", job.Name)
	}, SpecTimeout(3*time.Minute))

	It("is run by another cluster after the lease of the claim", func(ctx context.Context) {
		st, d, generation := killed(ctx, "debounce.claimed")
		st.run(green)
		createDebounce(ctx, d, green)
		ended := st.eventuallyRan(ctx, d, generation)
		Expect(ended.Outcome).To(Equal(redislock.DebounceSucceeded))
		Expect(ended.Attempt).To(Equal(2))
		Expect(jobsOf(ctx, Default, d, blue)).To(BeEmpty())
		job := jobOfRun(ctx, Default, d, generation)
		Expect(payloadOf(job)).To(Equal("payload"))
		Expect(job.Name).To(Equal("crash-" + strconv.FormatUint(generation, 36)))
		Eventually(func(g Gomega) {
			g.Expect(green.debounceStatus(ctx, g, d).LastRun).To(And(HaveField("Cluster", "green"), HaveField("Attempt", BeEquivalentTo(2))))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(4*time.Minute))
})
