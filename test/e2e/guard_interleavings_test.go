package e2e

import (
	"context"
	"fmt"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
)

// The numbers are those of the interleavings that broke an earlier design.
var _ = Describe("Interleavings of the guard", func() {
	var st *stand
	BeforeEach(func(ctx context.Context) { st = newStand(ctx) }, NodeTimeout(time.Minute))

	It("24: a patch that lets a Job go and comes late conflicts with what the successor did", func(ctx context.Context) {
		lock := st.lock("late", onDemand, withLease(time.Minute))
		create(ctx, lock, blue)
		// It does not take part in the election, so that its successor need not wait.
		paused := st.faulty(blue, fault.StopAt, "claimed", "--leader-elect=false")
		Expect(paused.Start()).To(Succeed())
		job := st.job("one", lock).Obj()
		blue.make(ctx, job)
		paused.eventuallyStops(ctx, "claimed")
		Expect(st.runs(ctx, Default, lock).Active).To(HaveLen(1))

		By("having a successor give the claim up, for the cluster is drained")
		blue.modify(ctx, lock, func(l *v1alpha1.RedisLock) { l.Spec.Paused = []string{blue.name} })
		st.run(blue)
		Eventually(func(g Gomega) {
			g.Expect(st.runs(ctx, g, lock).Active).To(BeEmpty())
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())

		By("having the late patch go out while the lease by which it was decided still seems valid")
		before := conflicts(blue, job)
		Expect(paused.Resume()).To(Succeed())
		Eventually(func() int { return conflicts(blue, job) }).WithContext(ctx).WithTimeout(patient).Should(BeNumerically(">", before))
		Expect(paused.Kill()).To(Succeed())
		neverStarted(Default, blue.getJob(ctx, Default, job))
	}, SpecTimeout(4*time.Minute))

	It("24: a manager that was paused for longer than its lease starts nothing beside another cluster's Job", func(ctx context.Context) {
		lock := st.lock("paused", onDemand, withLease(3*time.Second), withWatchdog(8*time.Second))
		create(ctx, lock, blue, green)
		paused := st.faulty(blue, fault.StopAt, "claimed")
		Expect(paused.Start()).To(Succeed())
		mine := st.job("mine", lock).Obj()
		blue.make(ctx, mine)
		paused.eventuallyStops(ctx, "claimed")

		st.run(green)
		theirs := st.job("theirs", lock).RunFor(time.Hour).Obj()
		green.make(ctx, theirs)
		green.eventually(ctx, theirs, isRunning)

		Expect(paused.Resume()).To(Succeed())
		supervise(ctx, paused.Manager)
		Eventually(func(g Gomega) { // it has looked again
			status := blue.status(ctx, g, lock)
			g.Expect(reason(status, v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonHeldElsewhere))
			g.Expect(status.Holder.Cluster).To(Equal(green.name))
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		neverStarted(Default, blue.getJob(ctx, Default, mine))
		isRunning(Default, green.getJob(ctx, Default, theirs))

		By("ending the other cluster's: it starts then")
		green.remove(ctx, theirs)
		got := blue.eventually(ctx, mine, isComplete)
		Expect(got.Status.Failed).To(BeZero())
	}, SpecTimeout(4*time.Minute))

	It("25: an API server that hangs while a Job is let go leaves it counted as running", func(ctx context.Context) {
		lock := st.lock("frozen", onDemand, withLease(30*time.Second))
		create(ctx, lock, blue, green)
		seen := st.witness(ctx, lock, blue, green)
		m := st.faulty(blue, fault.StopAt, "claimed,let-go", "--leader-elect=false")
		Expect(m.Start()).To(Succeed())
		first, second, theirs := st.job("a", lock).RunFor(2*time.Second).Obj(), st.job("b", lock).RunFor(2*time.Second).Obj(), st.job("c", lock).RunFor(2*time.Second).Obj()
		blue.make(ctx, first)
		m.eventuallyStops(ctx, "claimed")
		blue.make(ctx, second)
		st.run(green)
		green.make(ctx, theirs)

		Expect(blue.APIServer.Pause(ctx)).To(Succeed())
		DeferCleanup(blue.APIServer.Resume)
		Expect(m.Resume()).To(Succeed())
		m.eventuallyStops(ctx, "let-go") // it has given the patch up
		// Nobody knows whether it was carried out, so the claim and the lock stay.
		Expect(st.runs(ctx, Default, lock).Active).To(HaveLen(1))
		neverStarted(Default, green.getJob(ctx, Default, theirs))
		Expect(blue.APIServer.Resume()).To(Succeed())
		Expect(m.Resume()).To(Succeed())

		for s, jobs := range map[*site][]*batchv1.Job{blue: {first, second}, green: {theirs}} {
			for _, job := range jobs {
				s.eventually(ctx, job, isComplete)
				Eventually(func() []sighting { return seen.seen(s, job.Name) }).WithContext(ctx).Should(HaveLen(1), "pods of Job %s", job.Name)
			}
		}
		Expect(seen.overlaps()).To(BeEmpty())
		st.eventuallyFree(ctx, lock)
	}, SpecTimeout(5*time.Minute))

	It("26: a standby is removed only when its tick was noted, so that it is not made again", func(ctx context.Context) {
		lock := st.lock("noted", onDemand)
		create(ctx, lock, blue, green)
		at := wrappers.Tick(1)
		cronJobs := map[*site]*batchv1.CronJob{}
		for _, s := range []*site{blue, green} {
			cronJobs[s] = s.makeCronJob(ctx, st.cronJob("report", lock).Obj())
		}
		st.run(green)
		job := green.tick(ctx, cronJobs[green], at)
		green.eventually(ctx, job, isComplete)
		st.eventuallyRecorded(ctx, lock, at, "Complete")

		st.run(blue)
		standby := blue.tick(ctx, cronJobs[blue], at)
		blue.eventuallyNote(ctx, standby, "it is removed when the CronJob's lastScheduleTime says that its tick was noted")
		neverStarted(Default, blue.getJob(ctx, Default, standby))

		blue.note(ctx, cronJobs[blue], at)
		blue.eventuallyNoJob(ctx, standby)
		blue.eventuallyNote(ctx, cronJobs[blue], "RanElsewhere: tick "+at.Format(time.RFC3339)+" has been run (in cluster \"green\"")
	}, SpecTimeout(3*time.Minute))

	It("27: a tick whose runner was lost is run by a cluster where Forbid skipped it", func(ctx context.Context) {
		lock := st.lock("forbidden", onDemand, withLease(3*time.Second), withWatchdog(6*time.Second))
		create(ctx, lock, blue, green)
		at := wrappers.Tick(1)
		st.run(blue, green)
		build := func() *batchv1.CronJob {
			return st.cronJob("forbid", lock).Concurrency(batchv1.ForbidConcurrent).RunFor(time.Hour).Obj()
		}
		mine := blue.makeCronJob(ctx, build())
		// The Job here is to end, so its pods are others than there.
		theirs := st.cronJob("forbid", lock).Concurrency(batchv1.ForbidConcurrent).Obj()
		green.make(ctx, theirs)

		job := blue.tick(ctx, mine, at)
		blue.eventually(ctx, job, isRunning)
		Expect(st.managers[blue].Kill()).To(Succeed())

		made := wrappers.TickJob(theirs, at)
		ran := green.eventually(ctx, made, isComplete)
		Expect(metav1.IsControlledBy(ran, theirs)).To(BeTrue())
		Expect(ran.Annotations).To(HaveKeyWithValue(batchv1.CronJobScheduledTimestampAnnotation, at.Format(time.RFC3339)))
		st.eventuallyRecorded(ctx, lock, at, "Complete")
		Expect(fenceOf(ran)).To(BeNumerically(">", fenceOf(blue.getJob(ctx, Default, job))))
		isFailed(Default, blue.getJob(ctx, Default, job)) // by its watchdog, before

		By("starting the first manager again: it finds the tick done by another and lets its Job go")
		blue.forgetLeader(ctx)
		Expect(st.managers[blue].Start()).To(Succeed())
		blue.eventually(ctx, job, isRecorded)
		Expect(record(st.runs(ctx, Default, lock), at).Outcome).To(Equal("Complete"))
	}, SpecTimeout(4*time.Minute))

	It("28: a Job whose operator is away for longer than lease and window has ended before another cluster starts", func(ctx context.Context) {
		lock := st.lock("watched", onDemand, withLease(3*time.Second), withWatchdog(8*time.Second))
		create(ctx, lock, blue, green)
		seen := st.witness(ctx, lock, blue, green)
		st.run(blue, green)
		mine := st.job("mine", lock).RunFor(time.Hour).StopFor(time.Second).Obj()
		blue.make(ctx, mine)
		blue.eventually(ctx, mine, isRunning)
		theirs := st.job("theirs", lock).Obj()
		green.make(ctx, theirs)
		Expect(st.managers[blue].Kill()).To(Succeed())

		green.eventually(ctx, theirs, isComplete)
		isFailed(Default, blue.getJob(ctx, Default, mine))
		Expect(seen.overlaps()).To(BeEmpty())
		// To the microsecond, by what the API servers were asked to do.
		failed := lastWrite(blue, func(e cluster.AuditEvent) bool {
			return e.Resource == "jobs" && e.Subresource == "status" && e.Namespace == st.namespace && e.Name == "mine" && e.User != operator.User
		})
		started := firstWrite(green, func(e cluster.AuditEvent) bool {
			return e.Resource == "jobs" && e.Verb == "patch" && e.Namespace == st.namespace && e.Name == "theirs" && e.User == operator.User && e.Code == 200
		})
		Expect(started.Time).To(BeTemporally(">", failed.Time))
		AddReportEntry("between end and start", started.Time.Sub(failed.Time).String())

		By("starting the first manager again: the run is recorded as lost")
		blue.forgetLeader(ctx)
		Expect(st.managers[blue].Start()).To(Succeed())
		blue.eventually(ctx, mine, isRecorded)
		blue.eventuallyNote(ctx, mine, "ended by its watchdog")
		st.eventuallyFree(ctx, lock)
	}, SpecTimeout(4*time.Minute))

	It("29: the outcome is seen of Jobs that are gone as soon as they end, by TTL 0 and history limit 0", func(ctx context.Context) {
		lock := st.lock("gone", onDemand)
		create(ctx, lock, blue)
		st.run(blue)
		job := st.job("ttl", lock).TTL(0).Obj()
		blue.make(ctx, job)
		blue.eventuallyNoJob(ctx, job)
		complete := func(g Gomega) float64 {
			return metric(ctx, g, st.managers[blue], "redislock_runs_total", `namespace="`+st.namespace+`"`, `outcome="Complete"`)
		}
		Eventually(func(g Gomega) { g.Expect(complete(g)).To(BeEquivalentTo(1)) }).WithContext(ctx).Should(Succeed())

		at := wrappers.Tick(1)
		cronJob := blue.makeCronJob(ctx, st.cronJob("limit", lock).HistoryLimits(0).Obj())
		tick := blue.tick(ctx, cronJob, at)
		st.eventuallyRecorded(ctx, lock, at, "Complete")
		blue.eventuallyNoJob(ctx, tick)
		Eventually(func(g Gomega) { g.Expect(complete(g)).To(BeEquivalentTo(2)) }).WithContext(ctx).Should(Succeed())
		st.eventuallyFree(ctx, lock)
	}, SpecTimeout(3*time.Minute))

	It("30: a Job that was suspended after a loss goes on with a new fencing token when the lock is won again", func(ctx context.Context) {
		lock := st.lock("again", onDemand)
		create(ctx, lock, blue)
		seen := st.witness(ctx, lock, blue)
		st.run(blue)
		job := st.job("resumed", lock).RunFor(time.Hour).StopFor(time.Second).Obj()
		blue.make(ctx, job)
		before := fenceOf(blue.eventually(ctx, job, isRunning))
		st.lose(ctx, lock)
		blue.eventuallyNote(ctx, job, "the lease under which it ran is lost")
		after := blue.eventually(ctx, job, func(g Gomega, j *batchv1.Job) {
			isRunning(g, j)
			g.Expect(j.Annotations[v1alpha1.RunAnnotation]).NotTo(Equal(fmt.Sprint(before)))
		})
		Expect(after.UID).To(Equal(job.UID))
		Expect(fenceOf(after)).To(BeNumerically(">", before))
		Eventually(func() []string { return fences(seen.seen(blue, job.Name)) }).WithContext(ctx).
			Should(Equal([]string{fmt.Sprint(before), fmt.Sprint(fenceOf(after))}))
		runs := seen.seen(blue, job.Name)
		Expect(runs[0].to).NotTo(BeZero())
		Expect(runs[1].from).NotTo(BeTemporally("<", runs[0].to), "two pods at once")
	}, SpecTimeout(3*time.Minute))

	It("31: deleting a running Job ends its run in all clusters", func(ctx context.Context) {
		lock := st.lock("cancelled", onDemand)
		create(ctx, lock, blue, green)
		at := wrappers.Tick(1)
		seen := st.witness(ctx, lock, blue, green)
		st.run(blue, green)
		mine := blue.makeCronJob(ctx, st.cronJob("cancel", lock).RunFor(time.Hour).Obj())
		theirs := green.makeCronJob(ctx, st.cronJob("cancel", lock).RunFor(time.Hour).Obj())
		job := blue.tick(ctx, mine, at)
		blue.eventually(ctx, job, isRunning)
		standby := green.tick(ctx, theirs, at)
		green.note(ctx, theirs, at)

		_, err := blue.Kubectl(ctx, "delete", "job", job.Name, "--namespace="+st.namespace, "--wait=false")
		Expect(err).NotTo(HaveOccurred())
		st.eventuallyRecorded(ctx, lock, at, "Deleted")
		blue.eventuallyNoJob(ctx, job)
		green.eventuallyNoJob(ctx, standby)
		st.eventuallyFree(ctx, lock)
		Expect(seen.all()).To(HaveLen(1))
	}, SpecTimeout(3*time.Minute))

	It("32: without the policies a Job that started unguarded is suspended at once, and readiness says so", func(ctx context.Context) {
		DeferCleanup(func(ctx context.Context) { Expect(operator.Install(ctx, blue.Cluster)).To(Succeed()) }, NodeTimeout(time.Minute))
		lock := st.lock("unguarded", onDemand)
		create(ctx, lock, blue)
		st.run(blue)
		Eventually(st.managers[blue].Ready).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		for _, kind := range []string{"mutatingadmissionpolicybinding", "validatingadmissionpolicybinding"} {
			_, err := blue.Kubectl(ctx, "delete", kind, "--all")
			Expect(err).NotTo(HaveOccurred())
		}
		var job *batchv1.Job
		n := 0
		Eventually(func(g Gomega) { // policies act for a moment longer
			n++
			job = st.job(fmt.Sprintf("wild-%d", n), lock).RunFor(time.Hour).Obj()
			g.Expect(blue.Create(ctx, job)).To(Succeed())
			g.Expect(suspended(job)).To(BeFalse())
		}).WithContext(ctx).Should(Succeed())
		blue.eventuallyNote(ctx, job, "started by somebody other than the operator, without the lock")
		Eventually(func(g Gomega) {
			g.Expect(st.managers[blue].Ready(ctx)).To(MatchError(ContainSubstring("[-]policies failed")))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(3*time.Minute))

	It("33: of many ticks that waited only the newest is run", func(ctx context.Context) {
		lock := st.lock("outage", onDemand)
		create(ctx, lock, blue)
		seen := st.witness(ctx, lock, blue)
		cronJob := blue.makeCronJob(ctx, st.cronJob("minutely", lock).Concurrency(batchv1.AllowConcurrent).Obj())
		var jobs []*batchv1.Job
		for n := 22; n > 0; n-- {
			jobs = append(jobs, blue.tick(ctx, cronJob, wrappers.Tick(n)))
		}
		newest := jobs[len(jobs)-1]
		blue.note(ctx, cronJob, wrappers.Tick(1))
		st.run(blue)
		blue.eventually(ctx, newest, isComplete)
		for _, job := range jobs[:len(jobs)-1] {
			blue.eventuallyNoJob(ctx, job)
		}
		blue.eventuallyNote(ctx, cronJob, "only the newest is run")
		st.eventuallyFree(ctx, lock)
		Expect(seen.all()).To(HaveLen(1))
	}, SpecTimeout(3*time.Minute))

	It("34: clones of a cluster with a running Job run it together until the older's next renewal, and never again with one fencing token", func(ctx context.Context) {
		lock := st.lock("cloned", onDemand, withLease(6*time.Second))
		create(ctx, lock, blue)
		st.run(blue)
		job := st.job("twins", lock).RunFor(time.Hour).Obj()
		blue.make(ctx, job)
		highest := fenceOf(blue.eventually(ctx, job, isRunning))

		copied, err := blue.Clone(ctx, cluster.Options{Name: "clone", Nodes: cluster.NodesKwok, Log: GinkgoWriter})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(copied.Stop)
		clone := newSite("blue", copied)
		clone.forgetLeader(ctx)
		second := st.manager(clone, operator.Options{Name: "clone"})
		Expect(second.Start()).To(Succeed())
		By("waiting for the original to step down")
		blue.eventually(ctx, job, isSuspended)
		clone.eventually(ctx, job, isRunning)

		managers := map[*site]*operator.Manager{blue: st.managers[blue], clone: second}
		for _, turn := range []struct{ next, last *site }{{blue, clone}, {clone, blue}} {
			By("restarting a manager, which takes the lease for its own again")
			Expect(managers[turn.next].Stop()).To(Succeed())
			Expect(managers[turn.next].Start()).To(Succeed())
			turn.last.eventually(ctx, job, isSuspended)
			got := turn.next.eventually(ctx, job, isRunning)
			Expect(fenceOf(got)).To(BeNumerically(">", highest))
			highest = fenceOf(got)
			isSuspended(Default, turn.last.getJob(ctx, Default, job))
		}
	}, SpecTimeout(6*time.Minute))

	It("35: a namespace with locks and guarded Jobs in it goes away when it is deleted", func(ctx context.Context) {
		lock, idle := st.lock("busy", onDemand), st.lock("leader")
		create(ctx, lock, blue)
		create(ctx, idle, blue)
		st.run(blue)
		running, waiting := st.job("running", lock).RunFor(time.Hour).Obj(), st.job("waiting", lock).Obj()
		blue.make(ctx, running)
		blue.eventually(ctx, running, isRunning)
		blue.make(ctx, waiting)
		blue.makeCronJob(ctx, st.cronJob("nightly", lock).Obj())
		eventuallyOneHolds(ctx, idle, blue)

		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: st.namespace}}
		Expect(blue.Delete(ctx, namespace)).To(Succeed())
		Eventually(func() bool {
			return apierrors.IsNotFound(blue.Get(ctx, client.ObjectKeyFromObject(namespace), namespace))
		}).WithContext(ctx).WithTimeout(patient).Should(BeTrue())
		for _, l := range []*v1alpha1.RedisLock{lock, idle} {
			info, err := st.locks().Inspect(ctx, key(l))
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Status).To(Equal(redislock.Free))
		}
	}, SpecTimeout(3*time.Minute))
})

// fences are the fencing tokens that pods got to see.
func fences(pods []sighting) []string {
	var list []string
	for _, p := range pods {
		list = append(list, p.fence)
	}
	return list
}

// conflicts counts the operator's patches of a Job that were refused because it had
// changed.
func conflicts(s *site, job *batchv1.Job) int {
	return len(auditOf(s, func(e cluster.AuditEvent) bool {
		return e.User == operator.User && e.Verb == "patch" && e.Resource == "jobs" && e.Namespace == job.Namespace && e.Name == job.Name && e.Code == 409
	}))
}

func auditOf(s *site, which func(cluster.AuditEvent) bool) []cluster.AuditEvent {
	GinkgoHelper()
	events, err := s.Audit()
	Expect(err).NotTo(HaveOccurred())
	return slices.DeleteFunc(events, func(e cluster.AuditEvent) bool { return !which(e) })
}

func firstWrite(s *site, which func(cluster.AuditEvent) bool) cluster.AuditEvent {
	GinkgoHelper()
	events := auditOf(s, which)
	Expect(events).NotTo(BeEmpty())
	return events[0]
}

func lastWrite(s *site, which func(cluster.AuditEvent) bool) cluster.AuditEvent {
	GinkgoHelper()
	events := auditOf(s, which)
	Expect(events).NotTo(BeEmpty())
	return events[len(events)-1]
}
