package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/controllers"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/controlplane"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

var _ = Describe("make undeploy", func() {
	It("refuses while something would start unguarded or hang, and then leaves nothing behind", func(ctx context.Context) {
		c, err := cluster.Start(ctx, cluster.Options{Name: "red", Nodes: cluster.NodesKwok, Log: GinkgoWriter})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(c.Stop)
		red := newSite("red", c)
		Expect(operator.Install(ctx, c)).To(Succeed())
		st := &stand{
			namespace: "reports", redis: redisserver.Start(GinkgoTB(), redisserver.Options{}),
			dir: artifacts(), managers: map[*site]*operator.Manager{},
		}
		Expect(red.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: st.namespace}})).To(Succeed())
		st.run(red)
		unguarded := watchUnguarded(ctx, red, st.namespace)

		By("having a lock that is held, and guarded Jobs that ended, run and wait")
		create(ctx, st.lock("leader"), red)
		create(ctx, st.onDemand("nightly"), red)
		cronJob := minutely(st.namespace, "nightly")
		Expect(red.Create(ctx, cronJob)).To(Succeed())
		Expect(red.Create(ctx, guardedJob(st.namespace, "ended", "0s"))).To(Succeed())
		red.eventuallyJob(ctx, st.namespace, "ended", func(g Gomega, job *batchv1.Job) { g.Expect(job.Status.Succeeded).To(BeEquivalentTo(1)) })
		Expect(red.Create(ctx, guardedJob(st.namespace, "running", "25s"))).To(Succeed())
		red.eventuallyJob(ctx, st.namespace, "running", func(g Gomega, job *batchv1.Job) { g.Expect(job.Spec.Suspend).To(HaveValue(BeFalse())) })
		Expect(red.Create(ctx, guardedJob(st.namespace, "waiting", "0s"))).To(Succeed())

		By("refusing for the sake of the CronJob")
		out, err := undeploy(ctx, c, "TIMEOUT=1")
		Expect(err).To(HaveOccurred())
		Expect(out).To(And(ContainSubstring("reports/nightly\n"), ContainSubstring("suspend or delete them")))
		Expect(red.modifyCronJob(ctx, cronJob, func(c *batchv1.CronJob) { c.Spec.Suspend = new(true) })).To(Succeed())

		By("refusing for the sake of the Job that runs, and taking the drain back")
		out, err = undeploy(ctx, c, "TIMEOUT=1")
		Expect(err).To(HaveOccurred())
		Expect(out).To(And(ContainSubstring("reports/running\n"), ContainSubstring("wait for them, or delete them"), Not(ContainSubstring("deleting"))))
		drain := client.ObjectKey{Namespace: operator.Namespace, Name: controllers.DrainConfigMap}
		Expect(apierrors.IsNotFound(red.Get(ctx, drain, &corev1.ConfigMap{}))).To(BeTrue())

		By("waiting for it, and refusing for the sake of the Job that waits, which the drain kept from starting")
		out, err = undeploy(ctx, c, "TIMEOUT=60")
		Expect(err).To(HaveOccurred())
		Expect(out).To(And(ContainSubstring("wait for their lock"), ContainSubstring("reports/waiting\n"), Not(ContainSubstring("deleting"))))
		var jobs batchv1.JobList
		Expect(red.List(ctx, &jobs, client.InNamespace(st.namespace))).To(Succeed())
		for i := range jobs.Items {
			if job := &jobs.Items[i]; job.Name != "ended" && job.Name != "running" {
				Expect(client.IgnoreNotFound(red.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground)))).To(Succeed())
			}
		}

		By("removing everything")
		out, err = undeploy(ctx, c, "TIMEOUT=60")
		Expect(err).NotTo(HaveOccurred(), out)
		Expect(apierrors.IsNotFound(red.Get(ctx, client.ObjectKey{Name: operator.Namespace}, &corev1.Namespace{}))).To(BeTrue())
		_, err = c.Kubectl(ctx, "get", "redislocks", "-A")
		Expect(err).To(MatchError(ContainSubstring("doesn't have a resource type")))
		for _, list := range []client.ObjectList{
			&admissionv1.ValidatingAdmissionPolicyList{}, &admissionv1.ValidatingAdmissionPolicyBindingList{},
			&admissionv1.MutatingAdmissionPolicyList{}, &admissionv1.MutatingAdmissionPolicyBindingList{},
		} {
			Expect(red.List(ctx, list, client.MatchingLabels{"app.kubernetes.io/name": "redislock-operator"})).To(Succeed())
			Expect(list).To(HaveField("Items", BeEmpty()))
		}
		Expect(st.client().Exists(ctx, "lock:reports:leader", "lock:reports:nightly").Val()).To(BeZero())
		Expect(red.List(ctx, &jobs, client.InNamespace(st.namespace))).To(Succeed())
		for _, job := range jobs.Items {
			Expect(job.Finalizers).To(BeEmpty(), job.Name)
		}
		Expect(unguarded()).To(BeEmpty())
		kubectl(ctx, c, "delete", "namespace", st.namespace, "--timeout=30s")
	}, SpecTimeout(6*time.Minute))
})

var _ = Describe("A namespace with guarded Jobs", func() {
	DescribeTable("goes when it is deleted, and the lock with it",
		func(ctx context.Context, redisIsThere bool) {
			st := newStand(ctx)
			st.run(blue, green)
			create(ctx, st.lock("leader"), blue)
			create(ctx, st.onDemand("nightly"), blue)
			Expect(blue.Create(ctx, minutely(st.namespace, "nightly"))).To(Succeed())
			Expect(blue.Create(ctx, guardedJob(st.namespace, "ended", "0s"))).To(Succeed())
			blue.eventuallyJob(ctx, st.namespace, "ended", func(g Gomega, job *batchv1.Job) { g.Expect(job.Status.Succeeded).To(BeEquivalentTo(1)) })
			Expect(blue.Create(ctx, guardedJob(st.namespace, "running", "10m"))).To(Succeed())
			blue.eventuallyJob(ctx, st.namespace, "running", func(g Gomega, job *batchv1.Job) { g.Expect(job.Spec.Suspend).To(HaveValue(BeFalse())) })
			Expect(blue.Create(ctx, guardedJob(st.namespace, "waiting", "10m"))).To(Succeed())
			unguarded := watchUnguarded(ctx, blue, st.namespace)

			if !redisIsThere {
				Expect(st.redis.Kill()).To(Succeed())
			}
			begun := time.Now()
			kubectl(ctx, blue.Cluster, "delete", "namespace", st.namespace, "--timeout=60s")
			AddReportEntry("namespace gone after", time.Since(begun).Round(time.Millisecond).String())
			Expect(unguarded()).To(BeEmpty())
			if !redisIsThere {
				return
			}
			By("the other cluster has the lock at once")
			create(ctx, st.onDemand("nightly"), green)
			Expect(green.Create(ctx, guardedJob(st.namespace, "next", "0s"))).To(Succeed())
			green.eventuallyJob(ctx, st.namespace, "next", func(g Gomega, job *batchv1.Job) { g.Expect(job.Status.Succeeded).To(BeEquivalentTo(1)) })
		},
		Entry("while the operator runs", true, SpecTimeout(3*time.Minute)),
		Entry("while Redis is away", false, SpecTimeout(3*time.Minute)),
	)
})

var _ = Describe("A RedisLock that is deleted", func() {
	It("is not given back while pods of a deleted Job still end, however long they take", func(ctx context.Context) {
		st := newStand(ctx)
		st.run(blue, green)
		create(ctx, st.onDemand("nightly"), blue)
		job := guardedJob(st.namespace, "slow", "10m")
		job.Spec.Template.Annotations[cluster.StopForAnnotation] = "15s" // the lease is 5 s
		Expect(blue.Create(ctx, job)).To(Succeed())
		blue.eventuallyJob(ctx, st.namespace, "slow", func(g Gomega, job *batchv1.Job) { g.Expect(job.Status.Ready).To(HaveValue(BeEquivalentTo(1))) })
		create(ctx, st.onDemand("nightly"), green)
		Expect(green.Create(ctx, guardedJob(st.namespace, "next", "0s"))).To(Succeed())

		deleted := time.Now()
		Expect(blue.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
		Expect(blue.Delete(ctx, st.onDemand("nightly"))).To(Succeed())
		green.eventuallyJob(ctx, st.namespace, "next", func(g Gomega, job *batchv1.Job) {
			if *job.Spec.Suspend {
				g.Expect(job.Spec.Suspend).To(HaveValue(BeFalse()))
			}
			var pods corev1.PodList
			Expect(blue.List(ctx, &pods, client.InNamespace(st.namespace))).To(Succeed())
			for _, pod := range pods.Items {
				Expect(pod.Status.Phase).To(BeElementOf(corev1.PodFailed, corev1.PodSucceeded), "pod %s runs beside the other cluster's", pod.Name)
			}
		})
		AddReportEntry("started elsewhere after", time.Since(deleted).Round(time.Millisecond).String())
		Expect(time.Since(deleted)).To(BeNumerically(">", 10*time.Second))
	}, SpecTimeout(2*time.Minute))
})

// undeploy runs make undeploy as a person would, with further variables.
func undeploy(ctx context.Context, c *cluster.Cluster, variables ...string) (string, error) {
	GinkgoHelper()
	root, err := controlplane.Root()
	Expect(err).NotTo(HaveOccurred())
	args := append([]string{"-C", root, "undeploy", "KUBECTL=" + filepath.Join(root, "bin", "k8s", "kubectl") + " --kubeconfig " + c.Kubeconfig()}, variables...)
	out, err := exec.CommandContext(ctx, "make", args...).CombinedOutput()
	GinkgoWriter.Printf("%s\n", out)
	return string(out), err
}

// watchUnguarded looks for what runs without its lock until the returned function is
// called, which says what it found.
func watchUnguarded(ctx context.Context, s *site, namespace string) func() []string {
	ctx, stop := context.WithCancel(ctx)
	DeferCleanup(stop)
	var found []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			var jobs batchv1.JobList
			var pods corev1.PodList
			if s.List(ctx, &jobs, client.InNamespace(namespace)) == nil && s.List(ctx, &pods, client.InNamespace(namespace)) == nil {
				for _, job := range jobs.Items {
					if job.Spec.Suspend == nil || !*job.Spec.Suspend && job.Annotations[v1alpha1.RunAnnotation] == "" {
						found = append(found, "job "+job.Name)
					}
				}
				for _, pod := range pods.Items {
					if pod.Annotations[v1alpha1.FencingTokenAnnotation] == "" {
						found = append(found, "pod "+pod.Name)
					}
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	return func() []string {
		stop()
		wg.Wait()
		slices.Sort(found)
		return slices.Compact(found)
	}
}

// onDemand builds a lock for guarded Jobs, with a short watchdog.
func (st *stand) onDemand(name string) *v1alpha1.RedisLock {
	return st.lock(name, func(spec *v1alpha1.RedisLockSpec) {
		spec.Hold, spec.Watchdog = v1alpha1.HoldOnDemand, new(metav1.Duration{Duration: 12 * time.Second})
	})
}

// guardedJob builds a Job under the lock "nightly" whose pod runs for so long.
func guardedJob(namespace, name, runFor string) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{v1alpha1.LockLabel: "nightly"}},
		Spec: batchv1.JobSpec{BackoffLimit: new(int32(0)), Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{cluster.RunForAnnotation: runFor}},
			Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(2)),
				Containers: []corev1.Container{{Name: "main", Image: "none"}},
			},
		}},
	}
}

// minutely builds a CronJob under the lock of its name.
func minutely(namespace, name string) *batchv1.CronJob {
	job := guardedJob(namespace, name, "1s")
	return &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: batchv1.CronJobSpec{
		Schedule: "* * * * *", TimeZone: new("Etc/UTC"), ConcurrencyPolicy: batchv1.ForbidConcurrent,
		JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: job.Labels}, Spec: job.Spec},
	}}
}

func (s *site) modifyCronJob(ctx context.Context, c *batchv1.CronJob, change func(*batchv1.CronJob)) error {
	if err := s.Get(ctx, client.ObjectKeyFromObject(c), c); err != nil {
		return err
	}
	before := c.DeepCopy()
	change(c)
	return s.Patch(ctx, c, client.MergeFrom(before))
}

// eventuallyJob waits until a Job is as it should be.
func (s *site) eventuallyJob(ctx context.Context, namespace, name string, check func(Gomega, *batchv1.Job)) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		job := &batchv1.Job{}
		g.Expect(s.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, job)).To(Succeed())
		check(g, job)
	}).WithContext(ctx).Should(Succeed(), fmt.Sprintf("Job %s in %s", name, s.name))
}
