package e2e

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
)

// crash is what a scene of a crash has to work with.
type crash struct {
	*stand
	ctx  context.Context
	site *site
	lock *v1alpha1.RedisLock
	seen *witness
}

// newCrash makes a lock in a cluster; each scene makes what is under it.
func newCrash(ctx context.Context, s *site, change ...func(*v1alpha1.RedisLockSpec)) *crash {
	GinkgoHelper()
	c := &crash{stand: newStandIn(ctx, s), ctx: ctx, site: s}
	c.lock = c.stand.lock("crash", append([]func(*v1alpha1.RedisLockSpec){onDemand, withLease(4 * time.Second)}, change...)...)
	create(ctx, c.lock, s)
	c.seen = c.witness(ctx, c.lock, s)
	return c
}

// die has a manager do its work until it kills itself at a point, and a successor
// start in the same cluster.
func (c *crash) die(point string) {
	GinkgoHelper()
	m := c.faulty(c.site, fault.At, point)
	Expect(m.Start()).To(Succeed())
	m.eventuallyDies(c.ctx)
	c.follow()
}

// follow has a manager start that is not told to die.
func (c *crash) follow() {
	GinkgoHelper()
	c.site.forgetLeader(c.ctx)
	c.run(c.site)
}

// ranOnce: the Job ran to its end with one pod, and its outcome is recorded.
func (c *crash) ranOnce(job *batchv1.Job) {
	GinkgoHelper()
	c.site.eventually(c.ctx, job, func(g Gomega, j *batchv1.Job) { isComplete(g, j); isRecorded(g, j) })
	Eventually(func() []sighting { return c.seen.seen(c.site, job.Name) }).WithContext(c.ctx).Should(HaveLen(1), "pods of Job %s", job.Name)
}

var _ = Describe("The successor of a manager that was killed", func() {
	DescribeTable("makes good what was left half done", func(ctx context.Context, point string, scene func(*crash, string), change ...func(*v1alpha1.RedisLockSpec)) {
		c := newCrash(ctx, blue, change...)
		scene(c, point)
		c.eventuallyFree(ctx, c.lock)
	},
		Entry("after a run was claimed", "claimed", oneJob, SpecTimeout(3*time.Minute)),
		Entry("after a Job was let go", "let-go", oneJob, SpecTimeout(3*time.Minute)),
		Entry("after the outcome was recorded", "recorded", oneJob, SpecTimeout(3*time.Minute)),
		Entry("before the lock was given back", "idle", oneJob, SpecTimeout(3*time.Minute)),
		Entry("after the lock was given back", "yielded", oneJob, SpecTimeout(3*time.Minute)),
		Entry("after the key's expiry was moved and before the deadline was", "covered", func(c *crash, point string) {
			job := c.job("long", c.lock).RunFor(14 * time.Second).Obj()
			c.site.make(c.ctx, job)
			c.die(point)
			c.ranOnce(job)
		}, withWatchdog(16*time.Second), SpecTimeout(3*time.Minute)),
		Entry("after a Job was removed that is not needed", "removed", func(c *crash, point string) {
			cronJob := c.site.makeCronJob(c.ctx, c.cronJob("ticks", c.lock).Obj())
			var old []*batchv1.Job
			for n := 4; n > 1; n-- {
				old = append(old, c.site.tick(c.ctx, cronJob, wrappers.Tick(n)))
			}
			newest := c.site.tick(c.ctx, cronJob, wrappers.Tick(1))
			c.site.note(c.ctx, cronJob, wrappers.Tick(1))
			c.die(point)
			c.ranOnce(newest)
			for _, job := range old {
				c.site.eventuallyNoJob(c.ctx, job)
			}
		}, SpecTimeout(3*time.Minute)),
		Entry("after the Job of a lost tick was made", "made", func(c *crash, point string) {
			at := wrappers.Tick(1)
			cronJob := c.site.makeCronJob(c.ctx, c.cronJob("lost", c.lock).Obj())
			c.lostRunner(c.ctx, c.lock, guard.Series(cronJob), at)
			c.die(point)
			c.ranOnce(wrappers.TickJob(cronJob, at))
			c.eventuallyRecorded(c.ctx, c.lock, at, "Complete")
		}, SpecTimeout(3*time.Minute)),
		Entry("after a Job was marked whose claim is given up", "voided", func(c *crash, point string) {
			at := wrappers.Tick(1)
			cronJob := c.site.makeCronJob(c.ctx, c.cronJob("voided", c.lock).Obj())
			job := c.site.tick(c.ctx, cronJob, at)
			// A claim without a Job that started, in a cluster that is then drained.
			first := c.faulty(c.site, fault.At, "claimed")
			Expect(first.Start()).To(Succeed())
			first.eventuallyDies(c.ctx)
			c.site.modify(c.ctx, c.lock, func(l *v1alpha1.RedisLock) { l.Spec.Paused = []string{c.site.name} })
			c.site.forgetLeader(c.ctx)
			c.die(point)
			c.eventuallyFree(c.ctx, c.lock)
			neverStarted(Default, withoutGrant(c.site.getJob(c.ctx, Default, job)))
			c.site.modify(c.ctx, c.lock, func(l *v1alpha1.RedisLock) { l.Spec.Paused = nil })
			c.ranOnce(job)
		}, SpecTimeout(3*time.Minute)),
		Entry("after a Job was marked that is deleted because its lease was lost", "marked", func(c *crash, point string) {
			at := wrappers.Tick(1)
			cronJob := c.site.makeCronJob(c.ctx, c.cronJob("marked", c.lock).RunFor(15*time.Second).Obj())
			c.site.note(c.ctx, cronJob, at)
			job := c.site.tick(c.ctx, cronJob, at)
			m := c.faulty(c.site, fault.At, point)
			Expect(m.Start()).To(Succeed())
			c.site.eventually(c.ctx, job, isRunning)
			c.lose(c.ctx, c.lock)
			m.eventuallyDies(c.ctx)
			c.follow()
			c.eventuallyRecorded(c.ctx, c.lock, at, "Complete")
		}, func(spec *v1alpha1.RedisLockSpec) { spec.OnLost = v1alpha1.OnLostDelete }, SpecTimeout(3*time.Minute)),
	)
})

// oneJob: one Job runs to its end, whenever the manager dies.
func oneJob(c *crash, point string) {
	job := c.job("one", c.lock).RunFor(time.Second).Obj()
	c.site.make(c.ctx, job)
	c.die(point)
	c.ranOnce(job)
}

// withoutGrant is a Job without the mark of a claim that was given up.
func withoutGrant(job *batchv1.Job) *batchv1.Job {
	job = job.DeepCopy()
	delete(job.Annotations, v1alpha1.GrantAnnotation)
	return job
}

// Kubernetes before 1.36, and from then on where the gate is off, does not let the
// template of a Job change that ran before.
var _ = Describe("Where the template of a Job that ran before is frozen", Ordered, ContinueOnFailure, func() {
	var frozen *site
	BeforeAll(func(ctx context.Context) {
		c, err := cluster.Start(ctx, cluster.Options{
			Name: "frozen", Audit: true, Nodes: cluster.NodesKwok, Log: GinkgoWriter,
			FeatureGates: map[string]bool{"MutableSchedulingDirectivesForSuspendedJobs": false, "MutablePodResourcesForSuspendedJobs": false},
		})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(c.Stop)
		frozen = newSite("frozen", c)
		Expect(operator.Install(ctx, c)).To(Succeed())
	}, NodeTimeout(5*time.Minute))

	// scene has a Job, and lose has it lose its lease while it runs.
	scene := func(ctx context.Context, tick bool) (*crash, *batchv1.Job) {
		c := newCrash(ctx, frozen)
		if tick {
			cronJob := frozen.makeCronJob(ctx, c.cronJob("tick", c.lock).RunFor(5*time.Second).Obj())
			return c, frozen.tick(ctx, cronJob, wrappers.Tick(1))
		}
		job := c.job("plain", c.lock).RunFor(5 * time.Second).Obj()
		frozen.make(ctx, job)
		return c, job
	}
	lose := func(c *crash, job *batchv1.Job) uint64 {
		before := fenceOf(frozen.eventually(c.ctx, job, isRunning))
		c.lose(c.ctx, c.lock)
		frozen.eventuallyNote(c.ctx, job, "the lease under which it ran is lost")
		return before
	}
	// madeAgain: another Job took the place of the first and ran with a higher fence.
	madeAgain := func(c *crash, job *batchv1.Job, name string, before uint64) {
		again := wrappers.MakeJob(job.Namespace, name).Obj()
		DeferCleanup(func(ctx context.Context) {
			if CurrentSpecReport().Failed() {
				GinkgoWriter.Printf("RUNS %+v\n", c.runs(ctx, Default, c.lock))
			}
		})
		got := frozen.eventually(c.ctx, again, func(g Gomega, j *batchv1.Job) {
			g.Expect(j.UID).NotTo(Equal(job.UID))
			isComplete(g, j)
			isRecorded(g, j)
		})
		Expect(fenceOf(got)).To(BeNumerically(">", before))
		Expect(fences(c.seen.all())).To(Equal([]string{fmt.Sprint(before), fmt.Sprint(fenceOf(got))}))
		c.eventuallyFree(c.ctx, c.lock)
		if name != job.Name {
			frozen.eventuallyNoJob(c.ctx, job)
		}
	}
	nameAgain := func(job *batchv1.Job, tick bool) string {
		if tick {
			return job.Name
		}
		return guard.NewReplacement(job).Name
	}

	DescribeTable("30: a Job that was suspended after a loss is made again with the new fencing token", func(ctx context.Context, tick bool) {
		c, job := scene(ctx, tick)
		c.run(frozen)
		before := lose(c, job)
		madeAgain(c, job, nameAgain(job, tick), before)
	},
		Entry("a plain Job", false, SpecTimeout(4*time.Minute)),
		Entry("the Job of a tick", true, SpecTimeout(4*time.Minute)),
	)

	DescribeTable("the successor of a manager that was killed makes good what was left half done", func(ctx context.Context, point string, tick bool) {
		c, job := scene(ctx, tick)
		m := c.faulty(frozen, fault.At, point)
		Expect(m.Start()).To(Succeed())
		before := lose(c, job)
		m.eventuallyDies(ctx)
		c.follow()
		madeAgain(c, job, nameAgain(job, tick), before)
	},
		Entry("after the claim of a plain Job was given up", "reopened", false, SpecTimeout(4*time.Minute)),
		Entry("after the claim of a tick was given up", "reopened", true, SpecTimeout(4*time.Minute)),
		Entry("after another Job was made in place of the first", "replaced", false, SpecTimeout(4*time.Minute)),
		Entry("after the first was removed", "removed", false, SpecTimeout(4*time.Minute)),
	)
})
