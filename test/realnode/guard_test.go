package realnode

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	name     = "nightly"
	lease    = 4 * time.Second
	watchdog = 12 * time.Second
	grace    = 3 * time.Second
	// slack is what a busy machine may take for a thing beyond its time.
	slack = 3 * time.Second

	yearly   = "0 0 1 1 *"
	minutely = "* * * * *"
	never    = "never"
)

var _ = Describe("A process under a guarded Job", func() {
	var st *stand
	BeforeEach(func(ctx context.Context) { st = newStand(ctx) }, NodeTimeout(2*time.Minute))
	AfterEach(func() {
		for _, p := range st.register.processes() {
			GinkgoWriter.Println("process", p)
		}
	})

	It("sees the fencing token that its Job and Redis have", func(ctx context.Context) {
		st.schedule(ctx, minutely, "1s")
		ran := st.runs(ctx, 1)
		s := siteNamed(ran.cluster)
		job := st.job(ctx, s)
		Expect(job.Annotations).To(HaveKeyWithValue(v1alpha1.RunAnnotation, strconv.FormatUint(ran.token, 10)))
		Expect(s.Kubectl(ctx, "-n", st.namespace, "logs", "job/"+job.Name)).To(Equal(fmt.Sprintln("fence", ran.token)))
		Expect(st.tick(ctx).Fence).To(Equal(ran.token))
		Expect(st.job(ctx, other(s)).Spec.Suspend).To(HaveValue(BeTrue()))

		st.register.finish()
		st.isDone(ctx, guard.Complete, ran.token)
		By("its standby is removed")
		Eventually(func(g Gomega) {
			g.Expect(st.jobs(ctx, g, other(s), job.Name)).To(BeEmpty())
		}).WithContext(ctx).Should(Succeed())
		st.neverTwo()
	}, SpecTimeout(4*time.Minute))

	It("is ended by the watchdog when its operator is killed for good, before the other cluster's starts", func(ctx context.Context) {
		st.tickNow(ctx, "1s")
		first := st.runs(ctx, 1)
		s := siteNamed(first.cluster)

		By("killing the operator of " + s.name)
		Expect(st.managers[s].Kill()).To(Succeed())
		killed := time.Now()
		gone := st.gone(ctx, 0, watchdog+grace+2*slack)
		Expect(gone.term).NotTo(BeZero(), "it was not sent SIGTERM")
		Expect(gone.term.Sub(killed)).To(BeNumerically("<", watchdog+slack))
		second := st.runs(ctx, 2)
		Expect(second.cluster).To(Equal(other(s).name))
		Expect(second.token).To(BeNumerically(">", first.token))
		report("operator killed", killed, "SIGTERM", gone.term, "process gone", gone.end, "started in the other cluster", second.start)

		st.register.finish()
		st.isDone(ctx, guard.Complete, second.token)
		By("bringing the operator back: the tick stays as it is recorded")
		Expect(st.managers[s].Start()).To(Succeed())
		Eventually(func(g Gomega) {
			for _, job := range st.jobs(ctx, g, s, "") {
				g.Expect(job.Finalizers).NotTo(ContainElement(v1alpha1.OutcomeFinalizer))
			}
		}).WithContext(ctx).Should(Succeed())
		st.isDone(ctx, guard.Complete, second.token)
		Expect(st.register.processes()).To(HaveLen(2))
		st.neverTwo()
	}, SpecTimeout(4*time.Minute))

	It("is stopped in time when its cluster is cut off from Redis, and runs again with a higher token", func(ctx context.Context) {
		st.tickNow(ctx, "1s")
		first := st.runs(ctx, 1)
		s := siteNamed(first.cluster)

		By("cutting " + s.name + " off from Redis")
		st.links[s].Partition()
		cut := time.Now()
		gone := st.gone(ctx, 0, lease+grace+2*slack)
		Expect(gone.term).NotTo(BeZero(), "it was not sent SIGTERM")
		Expect(gone.term.Sub(cut)).To(BeNumerically("<", lease+slack))
		Expect(gone.end.Sub(gone.term)).To(BeNumerically(">", 900*time.Millisecond), "it had no grace")
		By("healing the link")
		st.links[s].Heal()
		healed := time.Now()
		second := st.runs(ctx, 2)
		Expect(second.token).To(BeNumerically(">", first.token))
		report("cut off", cut, "SIGTERM", gone.term, "process gone", gone.end, "healed", healed, "started again in "+second.cluster, second.start)

		st.register.finish()
		st.isDone(ctx, guard.Complete, second.token)
		Expect(st.register.processes()).To(HaveLen(2))
		st.neverTwo()
	}, SpecTimeout(4*time.Minute))

	It("runs on when its operator is restarted, though the new process cannot reach Redis at first", func(ctx context.Context) {
		st.tickNow(ctx, "1s")
		first := st.runs(ctx, 1)
		s := siteNamed(first.cluster)

		Expect(st.managers[s].Stop()).To(Succeed())
		st.links[s].Refuse()
		st.links[s].Cut()
		Expect(st.managers[s].Start()).To(Succeed())
		Eventually(func(g Gomega) {
			log, err := os.ReadFile(st.managers[s].LogFile())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(string(log)).To(ContainSubstring("connection refused"))
		}).WithContext(ctx).Should(Succeed())
		time.Sleep(time.Second) // less than what is left of the lease
		Expect(st.links[s].Accept()).To(Succeed())
		Consistently(func() time.Time { return st.register.processes()[0].term }).WithContext(ctx).WithTimeout(watchdog + grace).Should(BeZero())

		st.register.finish()
		st.isDone(ctx, guard.Complete, first.token)
		Expect(st.register.processes()).To(HaveLen(1))
	}, SpecTimeout(4*time.Minute))

	It("is stopped and not run elsewhere when its Job is deleted", func(ctx context.Context) {
		st.tickNow(ctx, "1s")
		first := st.runs(ctx, 1)
		s := siteNamed(first.cluster)
		standby := st.job(ctx, other(s))

		deleted := time.Now()
		Expect(s.Kubectl(ctx, "-n", st.namespace, "delete", "job", st.job(ctx, s).Name)).To(ContainSubstring("deleted"))
		gone := st.gone(ctx, 0, grace+2*slack)
		Expect(gone.term).NotTo(BeZero(), "it was not sent SIGTERM")
		report("job deleted", deleted, "SIGTERM", gone.term, "process gone", gone.end)
		st.isDone(ctx, guard.Deleted, first.token)
		By("the other cluster's standby goes, once its CronJob controller noted the tick")
		st.noted(ctx, other(s))
		Eventually(func(g Gomega) {
			g.Expect(st.jobs(ctx, g, other(s), standby.Name)).To(BeEmpty())
		}).WithContext(ctx).Should(Succeed())
		Consistently(st.register.processes).WithContext(ctx).WithTimeout(lease + slack).Should(HaveLen(1))
		st.neverTwo()
	}, SpecTimeout(4*time.Minute))

	It("that ignores SIGTERM is killed before the other cluster's starts", func(ctx context.Context) {
		st.tickNow(ctx, never)
		first := st.runs(ctx, 1)
		s := siteNamed(first.cluster)

		By("killing the operator of " + s.name)
		Expect(st.managers[s].Kill()).To(Succeed())
		killed := time.Now()
		gone := st.gone(ctx, 0, watchdog+grace+2*slack)
		Expect(gone.term).NotTo(BeZero(), "it was not sent SIGTERM")
		Expect(gone.end.Sub(gone.term)).To(BeNumerically(">", grace-500*time.Millisecond), "it did not use up its grace")
		second := st.runs(ctx, 2)
		Expect(second.cluster).To(Equal(other(s).name))
		report("operator killed", killed, "SIGTERM", gone.term, "SIGKILL", gone.end, "started in the other cluster", second.start)

		st.register.finish()
		st.isDone(ctx, guard.Complete, second.token)
		st.neverTwo()
	}, SpecTimeout(4*time.Minute))

	It("that nobody can stop, for its kubelet hangs, is refused by what checks the fencing token", func(ctx context.Context) {
		st.tickNow(ctx, never)
		first := st.runs(ctx, 1)
		s := siteNamed(first.cluster)

		By("killing the operator of " + s.name + " and stopping its kubelet")
		Expect(s.Kubelet.Pause(ctx)).To(Succeed())
		DeferCleanup(s.Kubelet.Resume)
		Expect(st.managers[s].Kill()).To(Succeed())
		killed := time.Now()
		second := st.runs(ctx, 2)
		Expect(second.cluster).To(Equal(other(s).name))
		Eventually(func() int { return st.register.processes()[0].refused }).WithContext(ctx).Should(BeNumerically(">", 10))
		Expect(st.register.overlaps()).To(HaveLen(1), "this is what no lock can prevent")
		Expect(st.register.staleAccepted()).To(BeEmpty())

		By("letting the kubelet go on")
		Expect(s.Kubelet.Resume()).To(Succeed())
		resumed := time.Now()
		gone := st.gone(ctx, 0, 30*time.Second)
		report("operator killed, kubelet stopped", killed, "started in the other cluster", second.start, "kubelet goes on", resumed, "SIGTERM", gone.term, "SIGKILL", gone.end)
		GinkgoWriter.Printf("writes of the straggler that were refused: %d\n", gone.refused)
		st.register.finish()
		st.isDone(ctx, guard.Complete, second.token)
		Expect(st.register.staleAccepted()).To(BeEmpty())
	}, SpecTimeout(4*time.Minute))
})

// lock is held on demand, on short terms.
func (st *stand) lock() *v1alpha1.RedisLock {
	return &v1alpha1.RedisLock{ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: name}, Spec: v1alpha1.RedisLockSpec{
		Hold: v1alpha1.HoldOnDemand, Lease: new(metav1.Duration{Duration: lease}), Watchdog: new(metav1.Duration{Duration: watchdog}),
	}}
}

// schedule makes the same CronJob in both clusters. A worker goes on for stopFor after
// SIGTERM.
func (st *stand) schedule(ctx context.Context, schedule, stopFor string) {
	GinkgoHelper()
	for _, s := range []*site{blue, green} {
		cronJob := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: name}, Spec: batchv1.CronJobSpec{
			Schedule: schedule, TimeZone: new("Etc/UTC"), ConcurrencyPolicy: batchv1.ForbidConcurrent,
			JobTemplate: batchv1.JobTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LockLabel: name}},
				Spec: batchv1.JobSpec{BackoffLimit: new(int32(0)), Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
					RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(grace / time.Second)),
					Containers: []corev1.Container{{Name: "main", Image: workerImage, ImagePullPolicy: corev1.PullNever, Env: []corev1.EnvVar{
						{Name: "REGISTER", Value: fmt.Sprintf("%s:%d", s.Gateway(), st.register.port)},
						{Name: "CLUSTER", Value: s.name}, {Name: "STOP_FOR", Value: stopFor},
						{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
					}}},
				}}},
			},
		}}
		Expect(s.Create(ctx, cronJob)).To(Succeed())
		st.cronJobs[s] = cronJob
	}
}

// tickNow makes the Job of a tick in both clusters, as their CronJob controllers do,
// without waiting for a minute to begin.
func (st *stand) tickNow(ctx context.Context, stopFor string) {
	GinkgoHelper()
	st.schedule(ctx, yearly, stopFor)
	tick := time.Now().Truncate(time.Minute)
	for _, s := range []*site{blue, green} {
		job := guard.NewTickJob(st.cronJobs[s], tick)
		job.Spec.Suspend = nil // the policy sees to that
		Expect(s.Create(ctx, job)).To(Succeed())
	}
}

// noted has the CronJob say that its ticks were noted, as its controller does.
func (st *stand) noted(ctx context.Context, s *site) {
	GinkgoHelper()
	cronJob := &batchv1.CronJob{}
	Eventually(func(g Gomega) {
		g.Expect(s.Get(ctx, client.ObjectKeyFromObject(st.cronJobs[s]), cronJob)).To(Succeed())
		cronJob.Status.LastScheduleTime = new(metav1.Now())
		g.Expect(s.Status().Update(ctx, cronJob)).To(Succeed())
	}).WithContext(ctx).Should(Succeed())
}

// runs waits until so many processes have started, and returns the last.
func (st *stand) runs(ctx context.Context, count int) process {
	GinkgoHelper()
	Eventually(st.register.processes).WithContext(ctx).WithTimeout(100 * time.Second).Should(HaveLen(count))
	return st.register.processes()[count-1]
}

// gone waits until a process is there no more.
func (st *stand) gone(ctx context.Context, i int, within time.Duration) process {
	GinkgoHelper()
	Eventually(func() time.Time { return st.register.processes()[i].end }).WithContext(ctx).WithTimeout(within).ShouldNot(BeZero())
	return st.register.processes()[i]
}

// jobs are the Jobs of a cluster, or the one of that name.
func (st *stand) jobs(ctx context.Context, g Gomega, s *site, name string) []batchv1.Job {
	var list batchv1.JobList
	g.Expect(s.List(ctx, &list, client.InNamespace(st.namespace))).To(Succeed())
	if name == "" {
		return list.Items
	}
	for _, job := range list.Items {
		if job.Name == name {
			return []batchv1.Job{job}
		}
	}
	return nil
}

// job waits for the one Job of a cluster.
func (st *stand) job(ctx context.Context, s *site) *batchv1.Job {
	GinkgoHelper()
	var jobs []batchv1.Job
	Eventually(func(g Gomega) {
		jobs = st.jobs(ctx, g, s, "")
		g.Expect(jobs).To(HaveLen(1))
	}).WithContext(ctx).Should(Succeed())
	return &jobs[0]
}

// tick is what Redis has recorded of the one tick there is.
func (st *stand) tick(ctx context.Context) redislock.TickRecord {
	GinkgoHelper()
	rdb := redis.NewClient(&redis.Options{Addr: st.redis.Addr()})
	defer func() { _ = rdb.Close() }()
	locks, err := redislock.New(rdb)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = locks.Close(ctx) }()
	runs, err := locks.Runs(ctx, redislock.Key(st.namespace, name))
	Expect(err).NotTo(HaveOccurred())
	Expect(runs.Ticks).NotTo(BeEmpty())
	return runs.Ticks[0]
}

// isDone waits until the tick is recorded as ended so, by the run with that token.
func (st *stand) isDone(ctx context.Context, outcome guard.Outcome, token uint64) {
	GinkgoHelper()
	var record redislock.TickRecord
	Eventually(func() redislock.TickState {
		record = st.tick(ctx)
		return record.State
	}).WithContext(ctx).Should(Equal(redislock.TickDone))
	Expect(record.Outcome).To(Equal(string(outcome)))
	Expect(record.Fence).To(Equal(token))
}

// neverTwo is what the guard promises.
func (st *stand) neverTwo() {
	GinkgoHelper()
	Expect(st.register.overlaps()).To(BeEmpty())
	Expect(st.register.staleAccepted()).To(BeEmpty())
}

// report writes down when things happened after the first of them.
func report(what string, from time.Time, then ...any) {
	line := what
	for i := 0; i < len(then); i += 2 {
		line += fmt.Sprintf("; %s after %.1fs", then[i], then[i+1].(time.Time).Sub(from).Seconds())
	}
	AddReportEntry("times", line)
	GinkgoWriter.Println("times:", line)
}
