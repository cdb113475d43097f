package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/controllers"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
)

// The specs share two managers, which nobody stops: each has a lock of its own.
var _ = Describe("Guarded Jobs", Ordered, ContinueOnFailure, func() {
	var (
		st *stand
		// What needs the time that the other specs take.
		minutely     *v1alpha1.RedisLock
		minutelyJobs *witness
		missed       *v1alpha1.RedisLock
		missedAt     time.Time
	)

	BeforeAll(func(ctx context.Context) {
		st = newStand(ctx)
		st.run(blue, green)

		minutely = st.lock("minutely", onDemand)
		create(ctx, minutely, blue, green)
		watching, stop := context.WithCancel(context.Background())
		DeferCleanup(stop)
		minutelyJobs = st.witness(watching, minutely, blue, green)
		for _, s := range []*site{blue, green} {
			// All Jobs that ran are looked at in the end.
			s.make(ctx, st.cronJob("minutely", minutely).Schedule("* * * * *").HistoryLimits(100).RunFor(time.Second).Obj())
		}

		missed = st.lock("missed", onDemand, func(spec *v1alpha1.RedisLockSpec) { spec.MissedTicks = v1alpha1.MissedTicksRunLatest })
		create(ctx, missed, blue)
		missedAt = time.Now().UTC().Truncate(time.Minute).Add(time.Minute)
		blue.make(ctx, st.cronJob("missed", missed).Schedule(fmt.Sprintf("%d * * * *", missedAt.Minute())).Suspend().Obj())
	}, NodeTimeout(2*time.Minute))

	DescribeTable("are let go with a fencing token of their own, and their lock is given back", func(ctx context.Context, name string, pods int, change func(context.Context, *wrappers.Job)) {
		lock := st.lock(name, onDemand)
		create(ctx, lock, blue)
		seen := st.witness(ctx, lock, blue)
		job := st.job(name, lock)
		change(ctx, job)
		made := job.Obj()
		blue.make(ctx, made)
		got := blue.eventually(ctx, made, func(g Gomega, j *batchv1.Job) { isComplete(g, j); isRecorded(g, j) })
		Eventually(func() []sighting { return seen.all() }).WithContext(ctx).Should(HaveLen(pods))
		for _, fence := range fences(seen.all()) {
			Expect(fence).To(Equal(got.Annotations[v1alpha1.RunAnnotation]))
		}
		st.eventuallyFree(ctx, lock)
		blue.eventuallyNote(ctx, made, "LetGo: started under RedisLock "+name+" with fencing token")
	},
		Entry("a plain Job", "plain", 1, func(context.Context, *wrappers.Job) {}, SpecTimeout(3*time.Minute)),
		Entry("an indexed Job with three pods at once", "indexed", 3, func(_ context.Context, j *wrappers.Job) { j.Indexed(3).RunFor(time.Second) }, SpecTimeout(3*time.Minute)),
		Entry("a Job that another controller owns", "owned", 1, func(ctx context.Context, j *wrappers.Job) {
			owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: "owner"}}
			blue.make(ctx, owner)
			j.Owner(*metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("ConfigMap")))
		}, SpecTimeout(3*time.Minute)),
	)

	It("that fail are tried as often as their backoffLimit says, and count as run", func(ctx context.Context) {
		lock := st.lock("failing", onDemand)
		create(ctx, lock, blue)
		seen := st.witness(ctx, lock, blue)
		job := st.job("failing", lock).Fail().BackoffLimit(1).Obj()
		blue.make(ctx, job)
		blue.eventually(ctx, job, func(g Gomega, j *batchv1.Job) { isFailed(g, j); isRecorded(g, j) })
		Expect(seen.all()).To(HaveLen(2))
		st.eventuallyFree(ctx, lock)
		Eventually(func(g Gomega) {
			g.Expect(metric(ctx, g, st.managers[blue], "redislock_runs_total", `name="failing"`, st.label(), `outcome="Failed"`)).To(BeEquivalentTo(1))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(3*time.Minute))

	DescribeTable("of a tick run in one of the clusters, whatever the concurrencyPolicy", func(ctx context.Context, policy batchv1.ConcurrencyPolicy) {
		name := strings.ToLower(string(policy))
		lock := st.lock(name, onDemand)
		create(ctx, lock, blue, green)
		seen := st.witness(ctx, lock, blue, green)
		at := wrappers.Tick(1)
		jobs, cronJobs := map[*site]*batchv1.Job{}, map[*site]*batchv1.CronJob{}
		for _, s := range []*site{blue, green} {
			cronJobs[s] = s.makeCronJob(ctx, st.cronJob(name, lock).Concurrency(policy).RunFor(time.Second).Obj())
			jobs[s] = s.tick(ctx, cronJobs[s], at)
			s.note(ctx, cronJobs[s], at)
		}
		done := st.eventuallyRecorded(ctx, lock, at, "Complete")
		var ran, stood *site
		Eventually(func(g Gomega) {
			ran, stood = blue, green
			if blue.noJob(ctx, jobs[blue]) {
				ran, stood = green, blue
			}
			g.Expect(stood.noJob(ctx, jobs[stood])).To(BeTrue())
			isComplete(g, ran.getJob(ctx, g, jobs[ran]))
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		Expect(fenceOf(ran.getJob(ctx, Default, jobs[ran]))).To(Equal(done.Fence))
		Expect(seen.all()).To(HaveLen(1))
		stood.eventuallyNote(ctx, cronJobs[stood], "RanElsewhere")
		st.eventuallyFree(ctx, lock)
		for _, s := range []*site{blue, green} { // the cluster that never ran it included
			Eventually(func(g Gomega) {
				at := metric(ctx, g, st.managers[s], "redislock_last_success_timestamp_seconds", `name="`+name+`"`, st.label())
				g.Expect(at).To(BeNumerically("~", float64(done.At.UnixMilli())/1000, 0.1))
			}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		}
	},
		Entry("Forbid", batchv1.ForbidConcurrent, SpecTimeout(4*time.Minute)),
		Entry("Allow", batchv1.AllowConcurrent, SpecTimeout(4*time.Minute)),
	)

	It("of CronJobs of other names run once where redislock.io/tick-name is the same", func(ctx context.Context) {
		lock := st.lock("named", onDemand)
		create(ctx, lock, blue, green)
		seen := st.witness(ctx, lock, blue, green)
		at := wrappers.Tick(1)
		jobs := map[*site]*batchv1.Job{}
		for s, name := range map[*site]string{blue: "report-a", green: "report-b"} {
			c := s.makeCronJob(ctx, st.cronJob(name, lock).Annotation(v1alpha1.TickNameAnnotation, "report").RunFor(time.Second).Obj())
			jobs[s] = s.tick(ctx, c, at)
			s.note(ctx, c, at)
		}
		Expect(st.eventuallyRecorded(ctx, lock, at, "Complete").Series).To(Equal("report"))
		Eventually(func() bool { return blue.noJob(ctx, jobs[blue]) || green.noJob(ctx, jobs[green]) }).WithContext(ctx).WithTimeout(patient).Should(BeTrue())
		Expect(seen.all()).To(HaveLen(1))
	}, SpecTimeout(3*time.Minute))

	It("of a suspended CronJob are not made again, but run when somebody makes one from it", func(ctx context.Context) {
		lock := st.lock("asleep", onDemand)
		at := wrappers.Tick(1)
		asleep := blue.makeCronJob(ctx, st.cronJob("asleep", lock).Suspend().Obj())
		awake := blue.makeCronJob(ctx, st.cronJob("awake", lock).Obj())
		st.lostRunner(ctx, lock, guard.Series(asleep), at)
		st.lostRunner(ctx, lock, guard.Series(awake), at)
		create(ctx, lock, blue)
		st.eventuallyRecordedOf(ctx, lock, guard.Series(awake), at, "Complete")
		Expect(blue.noJob(ctx, wrappers.TickJob(asleep, at))).To(BeTrue())

		_, err := blue.Kubectl(ctx, "create", "job", "--from=cronjob/asleep", "by-hand", "--namespace="+st.namespace)
		Expect(err).NotTo(HaveOccurred())
		byHand := wrappers.MakeJob(st.namespace, "by-hand").Obj()
		blue.eventually(ctx, byHand, func(g Gomega, j *batchv1.Job) { isComplete(g, j); isRecorded(g, j) })
		Expect(st.runs(ctx, Default, lock).HighWater).To(HaveKeyWithValue(guard.Series(asleep), BeTemporally("==", at)), "a run by hand is no tick")
	}, SpecTimeout(3*time.Minute))

	DescribeTable("end by their own activeDeadlineSeconds, be it shorter or longer than the watchdog's window",
		func(ctx context.Context, name string, own, watchdog time.Duration) {
			lock := st.lock(name, onDemand, withWatchdog(watchdog))
			create(ctx, lock, blue)
			at := wrappers.Tick(1)
			cronJob := blue.makeCronJob(ctx, st.cronJob(name, lock).RunFor(time.Hour).Jobs(func(j *wrappers.Job) { j.Deadline(own) }).Obj())
			job := blue.tick(ctx, cronJob, at)
			got := blue.eventually(ctx, job, func(g Gomega, j *batchv1.Job) { isFailed(g, j); isRecorded(g, j) })
			Expect(got.Annotations).To(HaveKeyWithValue(v1alpha1.DeadlineAnnotation, fmt.Sprint(int64(own/time.Second))))
			// It would be run again if its watchdog had ended it.
			Expect(st.eventuallyRecorded(ctx, lock, at, "Failed").Fence).To(Equal(fenceOf(got)))
			for _, c := range got.Status.Conditions {
				if c.Type == batchv1.JobFailed {
					Expect(c.Reason).To(Equal(batchv1.JobReasonDeadlineExceeded))
					Expect(c.LastTransitionTime.Sub(got.Status.StartTime.Time)).To(BeNumerically(">=", own-time.Second))
				}
			}
		},
		Entry("shorter", "own-short", 3*time.Second, time.Minute, SpecTimeout(3*time.Minute)),
		Entry("longer", "own-long", 12*time.Second, 8*time.Second, SpecTimeout(3*time.Minute)),
	)

	It("have no deadline without a watchdog", func(ctx context.Context) {
		lock := st.lock("unwatched", onDemand, withWatchdog(0))
		create(ctx, lock, blue)
		job := st.job("unwatched", lock).Obj()
		blue.make(ctx, job)
		got := blue.eventually(ctx, job, isComplete)
		Expect(got.Spec.ActiveDeadlineSeconds).To(BeNil())
		Expect(got.Annotations).NotTo(HaveKey(v1alpha1.DeadlineAnnotation))
		st.eventuallyFree(ctx, lock)
	}, SpecTimeout(2*time.Minute))

	It("outlive their watchdog's window while their operator lives", func(ctx context.Context) {
		lock := st.lock("prolonged", onDemand, withWatchdog(10*time.Second))
		create(ctx, lock, blue)
		job := st.job("prolonged", lock).RunFor(12 * time.Second).Obj()
		blue.make(ctx, job)
		got := blue.eventually(ctx, job, isComplete)
		Expect(*got.Spec.ActiveDeadlineSeconds).To(BeNumerically(">", 10))
	}, SpecTimeout(3*time.Minute))

	It("are deleted when their lease is lost, with onLost Delete", func(ctx context.Context) {
		lock := st.lock("deleted", onDemand, func(spec *v1alpha1.RedisLockSpec) { spec.OnLost = v1alpha1.OnLostDelete })
		create(ctx, lock, blue)
		job := st.job("deleted", lock).RunFor(time.Hour).Obj()
		blue.make(ctx, job)
		blue.eventually(ctx, job, isRunning)
		st.lose(ctx, lock)
		blue.eventuallyNoJob(ctx, job)
		blue.eventuallyNote(ctx, job, "NoHold: the lease under which it ran is lost")
		next := st.job("next", lock).Obj() // whose claim also takes away what is left of the first
		blue.make(ctx, next)
		blue.eventually(ctx, next, isComplete)
		st.eventuallyFree(ctx, lock)
	}, SpecTimeout(3*time.Minute))

	DescribeTable("of a tick whose runner was lost are run again or not, as lostTicks says", func(ctx context.Context, policy v1alpha1.LostTicksPolicy, outcome string) {
		name := "lost-" + strings.ToLower(string(policy))
		lock := st.lock(name, onDemand, func(spec *v1alpha1.RedisLockSpec) { spec.LostTicks = policy })
		at := wrappers.Tick(1)
		cronJob := blue.makeCronJob(ctx, st.cronJob(name, lock).Obj())
		lost := st.lostRunner(ctx, lock, guard.Series(cronJob), at)
		standby := blue.tick(ctx, cronJob, at)
		blue.note(ctx, cronJob, at)
		create(ctx, lock, blue)
		done := st.eventuallyRecorded(ctx, lock, at, outcome)
		if policy == v1alpha1.LostTicksSkip {
			Expect(done.Fence).To(Equal(lost.Fence))
			blue.eventuallyNote(ctx, cronJob, "TickLost: the runner of tick")
			blue.eventuallyNoJob(ctx, standby)
		} else {
			Expect(done.Fence).To(BeNumerically(">", lost.Fence))
			blue.eventuallyNote(ctx, standby, "an earlier run of it was lost")
		}
	},
		Entry("Rerun", v1alpha1.LostTicksRerun, "Complete", SpecTimeout(3*time.Minute)),
		Entry("Skip", v1alpha1.LostTicksSkip, "Lost", SpecTimeout(3*time.Minute)),
	)

	It("that waited longer than maxWait are removed, with an event", func(ctx context.Context) {
		lock := st.lock("impatient", onDemand, withMaxWait(2*time.Second))
		Expect(st.client().Set(ctx, key(lock), "somebody-else", 0).Err()).To(Succeed())
		create(ctx, lock, blue)
		job := st.job("impatient", lock).Obj()
		blue.make(ctx, job)
		blue.eventuallyNoJob(ctx, job)
		blue.eventuallyNote(ctx, job, "WaitedTooLong")
	}, SpecTimeout(2*time.Minute))

	It("of a tick that is later than startingDeadlineSeconds are removed, with an event and a metric", func(ctx context.Context) {
		lock := st.lock("belated", onDemand)
		create(ctx, lock, blue)
		at := wrappers.Tick(2)
		cronJob := blue.makeCronJob(ctx, st.cronJob("belated", lock).StartingDeadline(20*time.Second).Obj())
		job := blue.tick(ctx, cronJob, at)
		blue.note(ctx, cronJob, at)
		blue.eventuallyNoJob(ctx, job)
		blue.eventuallyNote(ctx, cronJob, "MissedStartingDeadline")
		Eventually(func(g Gomega) {
			g.Expect(metric(ctx, g, st.managers[blue], "redislock_ticks_total", `name="belated"`, st.label(), `result="missed"`)).To(BeEquivalentTo(1))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(2*time.Minute))

	It("keep the lock taken for minHold though they take less", func(ctx context.Context) {
		hold := 6 * time.Second
		lock := st.lock("tombstone", onDemand, withMinHold(hold))
		create(ctx, lock, blue, green)
		first, second := st.job("first", lock).Obj(), st.job("second", lock).Obj()
		blue.make(ctx, first)
		got := blue.eventually(ctx, first, isComplete)
		green.make(ctx, second)
		Eventually(func(g Gomega) {
			info, err := st.locks().Inspect(ctx, key(lock))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(info.Kept).To(BeTrue())
		}).WithContext(ctx).WithTimeout(hold).Should(Succeed())
		next := green.eventually(ctx, second, isComplete)
		Expect(grantOf(next) - grantOf(got)).To(BeNumerically(">=", hold.Microseconds())) // they are of Redis' clock
	}, SpecTimeout(3*time.Minute))

	It("are ended before maxHold, and the lock goes on to the next", func(ctx context.Context) {
		hold := 16 * time.Second
		lock := st.lock("bounded", onDemand, withMaxHold(hold))
		create(ctx, lock, blue, green)
		seen := st.witness(ctx, lock, blue, green)
		long, next := st.job("long", lock).RunFor(time.Hour).Obj(), st.job("next", lock).Obj()
		blue.make(ctx, long)
		got := blue.eventually(ctx, long, isRunning)
		green.make(ctx, next)
		green.eventually(ctx, next, isComplete)
		isFailed(Default, blue.getJob(ctx, Default, long))
		Expect(seen.overlaps()).To(BeEmpty())
		pods := seen.seen(blue, long.Name)
		Expect(pods).To(HaveLen(1))
		Expect(pods[0].to).To(BeTemporally("<=", time.UnixMicro(grantOf(got)).Add(hold)))
	}, SpecTimeout(3*time.Minute))

	It("wait in the order of their creation, and run one at a time", func(ctx context.Context) {
		lock := st.lock("queue", onDemand)
		seen := st.witness(ctx, lock, blue)
		var jobs []*batchv1.Job
		for i := range 10 {
			job := st.job(fmt.Sprintf("queue-%d", i), lock).RunFor(time.Second).Obj()
			blue.make(ctx, job)
			jobs = append(jobs, job)
		}
		create(ctx, lock, blue)
		last := uint64(0)
		for _, job := range jobs {
			got := blue.eventually(ctx, job, isComplete)
			Expect(fenceOf(got)).To(BeNumerically(">", last), "Job %s", job.Name)
			last = fenceOf(got)
		}
		Expect(seen.overlaps()).To(BeEmpty())
		Expect(seen.all()).To(HaveLen(len(jobs)))
	}, SpecTimeout(4*time.Minute))

	It("of two clusters take turns, and never run in both", func(ctx context.Context) {
		lock := st.lock("turns", onDemand)
		create(ctx, lock, blue, green)
		seen := st.witness(ctx, lock, blue, green)
		jobs := map[*site][]*batchv1.Job{}
		for i := range 3 {
			for _, s := range []*site{blue, green} {
				job := st.job(fmt.Sprintf("turn-%d", i), lock).RunFor(1500 * time.Millisecond).Obj()
				s.make(ctx, job)
				jobs[s] = append(jobs[s], job)
			}
		}
		for s, list := range jobs {
			for _, job := range list {
				s.eventually(ctx, job, isComplete)
			}
		}
		Expect(seen.overlaps()).To(BeEmpty())
		Expect(seen.all()).To(HaveLen(6))
		st.eventuallyFree(ctx, lock)
		// The lock is given back after each run, so one cluster does not keep it.
		first, last := seen.all()[0].site, seen.all()[5].site
		Expect(first).NotTo(Equal(last))
	}, SpecTimeout(4*time.Minute))

	It("run several at once in the one cluster that holds an Always lock", func(ctx context.Context) {
		lock := st.lock("always")
		create(ctx, lock, blue, green)
		holder, _, others := eventuallyOneHolds(ctx, lock, blue, green)
		var jobs []*batchv1.Job
		for i := range 3 {
			job := st.job(fmt.Sprintf("always-%d", i), lock).RunFor(time.Hour).Obj()
			others[0].make(ctx, job.DeepCopy())
			holder.make(ctx, job)
			jobs = append(jobs, job)
		}
		Eventually(func(g Gomega) {
			different := map[uint64]bool{}
			for _, job := range jobs {
				got := holder.getJob(ctx, g, job)
				isRunning(g, got)
				different[fenceOf(got)] = true
			}
			g.Expect(different).To(HaveLen(3))
			status := holder.status(ctx, g, lock)
			g.Expect(*status.ActiveJobs).To(BeEquivalentTo(3))
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		for _, job := range jobs {
			neverStarted(Default, others[0].getJob(ctx, Default, job))
		}
	}, SpecTimeout(3*time.Minute))

	DescribeTable("that run are left to end when their cluster is drained, and others stay out", func(ctx context.Context, name string, drain, resume func(context.Context, *v1alpha1.RedisLock)) {
		lock := st.lock(name, onDemand, withLease(time.Minute))
		create(ctx, lock, blue, green)
		seen := st.witness(ctx, lock, blue, green)
		running, waiting, theirs := st.job(name+"-a", lock).RunFor(time.Hour).Obj(), st.job(name+"-b", lock).Obj(), st.job(name+"-c", lock).Obj()
		blue.make(ctx, running)
		blue.eventually(ctx, running, isRunning)
		blue.make(ctx, waiting)
		drain(ctx, lock)
		DeferCleanup(resume, lock)
		green.make(ctx, theirs)
		blue.eventuallyNote(ctx, waiting, "so it stays out")
		isRunning(Default, blue.getJob(ctx, Default, running))
		neverStarted(Default, green.getJob(ctx, Default, theirs))

		By("ending the one that runs")
		blue.remove(ctx, running)
		green.eventually(ctx, theirs, isComplete)
		Eventually(func(g Gomega) {
			g.Expect(reason(blue.status(ctx, g, lock), v1alpha1.ConditionAcquired)).To(Equal(v1alpha1.ReasonPaused))
		}).WithContext(ctx).Should(Succeed())
		neverStarted(Default, blue.getJob(ctx, Default, waiting))
		Expect(seen.overlaps()).To(BeEmpty())

		resume(ctx, lock)
		blue.eventually(ctx, waiting, isComplete)
	},
		Entry("by spec.paused", "paused",
			func(ctx context.Context, lock *v1alpha1.RedisLock) {
				blue.modify(ctx, lock, func(l *v1alpha1.RedisLock) { l.Spec.Paused = []string{blue.name} })
			},
			func(ctx context.Context, lock *v1alpha1.RedisLock) {
				blue.modify(ctx, lock, func(l *v1alpha1.RedisLock) { l.Spec.Paused = nil })
			}, SpecTimeout(4*time.Minute)),
		Entry("by the ConfigMap of the cluster", "drained",
			func(ctx context.Context, _ *v1alpha1.RedisLock) {
				blue.make(ctx, drainMap())
			},
			func(ctx context.Context, _ *v1alpha1.RedisLock) {
				Expect(client.IgnoreNotFound(blue.Delete(ctx, drainMap()))).To(Succeed())
			}, SpecTimeout(4*time.Minute)),
	)

	It("do not start in a drained cluster that keeps an Always lock for one that runs", func(ctx context.Context) {
		lock := st.lock("kept", withLease(time.Minute))
		create(ctx, lock, blue)
		eventuallyHolds(ctx, lock, blue)
		create(ctx, lock, green)
		running, waiting := st.job("kept-a", lock).RunFor(time.Hour).Obj(), st.job("kept-b", lock).Obj()
		blue.make(ctx, running)
		blue.eventually(ctx, running, isRunning)
		blue.modify(ctx, lock, func(l *v1alpha1.RedisLock) { l.Spec.Paused = []string{blue.name} })
		Eventually(func(g Gomega) { // it was seen
			g.Expect(blue.status(ctx, g, lock).ObservedGeneration).To(BeNumerically(">", 1))
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		blue.make(ctx, waiting)
		blue.eventuallyNote(ctx, waiting, "so it stays out")
		isRunning(Default, blue.getJob(ctx, Default, running))
		Expect(blue.status(ctx, Default, lock).State).To(Equal(v1alpha1.StateAcquired))

		blue.remove(ctx, running)
		eventuallyHolds(ctx, lock, green)
		neverStarted(Default, blue.getJob(ctx, Default, waiting))
	}, SpecTimeout(3*time.Minute))

	It("keep a RedisLock that is deleted until they have ended, and it says so", func(ctx context.Context) {
		lock := st.lock("parting", onDemand)
		create(ctx, lock, blue)
		job, waiting := st.job("parting", lock).RunFor(time.Hour).Obj(), st.job("stranded", lock).Obj()
		blue.make(ctx, job)
		blue.eventually(ctx, job, isRunning)
		blue.make(ctx, waiting)
		Expect(blue.Delete(ctx, lock.DeepCopy())).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(message(blue.status(ctx, g, lock), v1alpha1.ConditionReady)).To(ContainSubstring("until the guarded Jobs that run have ended: 1"))
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		isRunning(Default, blue.getJob(ctx, Default, job))
		blue.remove(ctx, job)
		Eventually(func() bool { return blue.gone(ctx, lock) }).WithContext(ctx).WithTimeout(patient).Should(BeTrue())
		st.eventuallyFree(ctx, lock)
		neverStarted(Default, blue.getJob(ctx, Default, waiting))
	}, SpecTimeout(3*time.Minute))

	It("whose lock is not there stay suspended and say so, until it is", func(ctx context.Context) {
		lock := st.lock("missing", onDemand)
		job := st.job("early", lock).Obj()
		blue.make(ctx, job)
		blue.eventuallyNote(ctx, job, "LockMissing: there is no RedisLock missing")
		neverStarted(Default, blue.getJob(ctx, Default, job))
		create(ctx, lock, blue)
		blue.eventually(ctx, job, isComplete)
	}, SpecTimeout(2*time.Minute))

	It("say in one line of kubectl describe why they wait", func(ctx context.Context) {
		lock := st.lock("described", onDemand)
		create(ctx, lock, blue, green)
		running, waiting := st.job("described", lock).RunFor(time.Hour).Obj(), st.job("described", lock).Obj()
		green.make(ctx, running)
		green.eventually(ctx, running, isRunning)
		blue.make(ctx, waiting)
		blue.eventuallyNote(ctx, waiting, "Waiting: waits for RedisLock described: ")
		text, err := blue.Kubectl(ctx, "describe", "job", waiting.Name, "--namespace="+st.namespace)
		Expect(err).NotTo(HaveOccurred())
		var lines []string
		for line := range strings.Lines(text) {
			if strings.Contains(line, "waits for RedisLock") {
				lines = append(lines, line)
			}
		}
		Expect(lines).To(ConsistOf(ContainSubstring(`cluster "green"`)))
	}, SpecTimeout(2*time.Minute))

	It("are counted in the metrics and in the status", func(ctx context.Context) {
		lock := st.lock("measured", onDemand)
		create(ctx, lock, blue)
		at := wrappers.Tick(1)
		cronJob := blue.makeCronJob(ctx, st.cronJob("measured", lock).RunFor(time.Hour).Obj())
		running, waiting := blue.tick(ctx, cronJob, at), st.job("measured-next", lock).Obj()
		blue.eventually(ctx, running, isRunning)
		blue.make(ctx, waiting)
		value := func(g Gomega, name string, labels ...string) float64 {
			return metric(ctx, g, st.managers[blue], name, append(labels, `name="measured"`, st.label())...)
		}
		Eventually(func(g Gomega) {
			g.Expect(value(g, "redislock_active_jobs")).To(BeEquivalentTo(1))
			g.Expect(value(g, "redislock_waiting_jobs")).To(BeEquivalentTo(1))
			g.Expect(value(g, "redislock_job_wait_seconds_count")).To(BeEquivalentTo(1))
			g.Expect(value(g, "redislock_ticks_total", `result="claimed"`)).To(BeEquivalentTo(1))
			status := blue.status(ctx, g, lock)
			g.Expect([]int32{*status.ActiveJobs, *status.WaitingJobs}).To(Equal([]int32{1, 1}))
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		blue.remove(ctx, running)
		blue.eventually(ctx, waiting, isComplete)
		Eventually(func(g Gomega) {
			g.Expect(value(g, "redislock_active_jobs")).To(BeZero())
			g.Expect(value(g, "redislock_waiting_jobs")).To(BeZero())
			g.Expect(value(g, "redislock_runs_total", `outcome="Deleted"`)).To(BeEquivalentTo(1))
			g.Expect(value(g, "redislock_runs_total", `outcome="Complete"`)).To(BeEquivalentTo(1))
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
	}, SpecTimeout(3*time.Minute))

	It("of a tick that nobody ran are made by the operator, with missedTicks RunLatest", func(ctx context.Context) {
		cronJob := &batchv1.CronJob{}
		Expect(blue.Get(ctx, client.ObjectKey{Namespace: st.namespace, Name: "missed"}, cronJob)).To(Succeed())
		Eventually(time.Now).WithContext(ctx).WithTimeout(3 * time.Minute).WithPolling(time.Second).Should(BeTemporally(">", missedAt.Add(time.Minute)))
		By("having the CronJob controller stand still, which would make up for it itself")
		Expect(blue.ControllerManager.Pause(ctx)).To(Succeed())
		DeferCleanup(blue.ControllerManager.Resume)
		Expect(blue.Patch(ctx, cronJob, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"suspend":false}}`)))).To(Succeed())
		job := wrappers.TickJob(cronJob, missedAt)
		blue.eventually(ctx, job, func(Gomega, *batchv1.Job) {})
		blue.eventuallyNote(ctx, cronJob, "TickUnclaimed: no cluster has started tick")
		blue.eventuallyNote(ctx, cronJob, "MadeUp: tick "+missedAt.Format(time.RFC3339)+" is run in this cluster")
		Expect(blue.ControllerManager.Resume()).To(Succeed())
		blue.eventually(ctx, job, isComplete)
		st.eventuallyRecorded(ctx, missed, missedAt, "Complete")
		Eventually(func(g Gomega) {
			g.Expect(metric(ctx, g, st.managers[blue], "redislock_ticks_total", `name="missed"`, st.label(), `result="unclaimed"`)).To(BeEquivalentTo(1))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(5*time.Minute))

	It("of a real CronJob in two clusters run once a tick, and a standby that was removed is not made again", func(ctx context.Context) {
		var done []redislock.TickRecord
		Eventually(func(g Gomega) {
			done = nil
			for _, r := range st.runs(ctx, g, minutely).Ticks {
				if r.State == redislock.TickDone {
					done = append(done, r)
				}
			}
			g.Expect(len(done)).To(BeNumerically(">=", 2))
		}).WithContext(ctx).WithTimeout(4 * time.Minute).WithPolling(time.Second).Should(Succeed())
		for _, r := range done {
			job := wrappers.MakeJob(st.namespace, wrappers.TickName("minutely", r.Tick)).Obj()
			Expect(r.Outcome).To(Equal("Complete"))
			Eventually(func() bool { return blue.noJob(ctx, job) != green.noJob(ctx, job) }).WithContext(ctx).WithTimeout(patient).
				Should(BeTrue(), "Job %s is in one cluster", job.Name)
			Expect(append(minutelyJobs.seen(blue, job.Name), minutelyJobs.seen(green, job.Name)...)).To(HaveLen(1))
			for _, s := range []*site{blue, green} {
				Expect(auditOf(s, func(e cluster.AuditEvent) bool {
					return e.Verb == "create" && e.Resource == "jobs" && e.Namespace == st.namespace && e.Name == job.Name && e.Code == 201
				})).To(HaveLen(1), "Job %s was made in %s", job.Name, s.name)
			}
		}
		Expect(minutelyJobs.overlaps()).To(BeEmpty())
	}, SpecTimeout(6*time.Minute))
})

var _ = Describe("A preferred cluster", func() {
	It("gets the lock back after the dwell, and never in the middle of a run", func(ctx context.Context) {
		st := newStand(ctx)
		dwell := 3 * time.Second
		lock := st.lock("preferred", withLease(3*time.Second), func(spec *v1alpha1.RedisLockSpec) {
			spec.PreferredClusters = []string{blue.name}
			spec.FailbackAfter = new(metav1.Duration{Duration: dwell})
		})
		create(ctx, lock, blue, green)
		st.run(green)
		eventuallyHolds(ctx, lock, green)
		job := st.job("run", lock).RunFor(time.Hour).Obj()
		green.make(ctx, job)
		green.eventually(ctx, job, isRunning)

		st.run(blue)
		Eventually(func(g Gomega) {
			there, err := st.locks().Announce(ctx, key(lock), "", 3*time.Second)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(there).To(HaveKey(blue.name))
			g.Expect(time.Since(there[blue.name])).To(BeNumerically(">", dwell+2*time.Second), "it is back for longer than the dwell")
		}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
		late := st.job("late", lock).Obj()
		green.make(ctx, late)
		green.eventuallyNote(ctx, late, "goes back to a preferred cluster")
		isRunning(Default, green.getJob(ctx, Default, job))
		Expect(green.status(ctx, Default, lock).State).To(Equal(v1alpha1.StateAcquired))

		green.remove(ctx, job)
		eventuallyHolds(ctx, lock, blue)
		neverStarted(Default, green.getJob(ctx, Default, late))
	}, SpecTimeout(4*time.Minute))
})

// eventuallyHolds waits until a cluster has a lock.
func eventuallyHolds(ctx context.Context, lock *v1alpha1.RedisLock, s *site) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(s.status(ctx, g, lock).State).To(Equal(v1alpha1.StateAcquired))
	}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
}

// drainMap is the ConfigMap that drains a cluster.
func drainMap() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: controllers.DrainConfigMap},
		Data:       map[string]string{controllers.DrainKey: "true"},
	}
}
