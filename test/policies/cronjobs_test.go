package policies

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/operator"
)

func TestWhatAGuardedCronJobMayNotBe(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	namespace := s.newNamespace(t)
	her := s.as(t, alice)
	annotated := func(key string) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) { set(&c.Spec.JobTemplate.Annotations, key, "") }
	}
	moveLabel := func(c *batchv1.CronJob, to *map[string]string) {
		*to, c.Spec.JobTemplate.Labels = c.Spec.JobTemplate.Labels, nil
	}
	for i, tc := range []struct {
		name   string
		change func(*batchv1.CronJob)
		words  []string
	}{
		{"the label on the CronJob alone", func(c *batchv1.CronJob) { moveLabel(c, &c.Labels) }, []string{"write it into spec.jobTemplate.metadata.labels"}},
		{
			"the label on the pod template alone", func(c *batchv1.CronJob) { moveLabel(c, &c.Spec.JobTemplate.Spec.Template.Labels) },
			[]string{"write it into spec.jobTemplate.metadata.labels"},
		},
		{"another lock on the CronJob", func(c *batchv1.CronJob) { set(&c.Labels, v1alpha1.LockLabel, "daily") }, []string{"another lock", `"nightly"`}},
		{
			"another lock on the pod template", func(c *batchv1.CronJob) { set(&c.Spec.JobTemplate.Spec.Template.Labels, v1alpha1.LockLabel, "daily") },
			[]string{"another lock", `"nightly"`},
		},
		{"a name with capitals", func(c *batchv1.CronJob) { c.Spec.JobTemplate.Labels[v1alpha1.LockLabel] = "Nightly" }, []string{`"Nightly" cannot be`}},
		{"Replace", func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ReplaceConcurrent }, []string{"concurrencyPolicy to Forbid or Allow"}},
		{"every", func(c *batchv1.CronJob) { c.Spec.Schedule = "@every 5m" }, []string{`"@every 5m"`, "write the times"}},
		{
			"Kueue's label", func(c *batchv1.CronJob) { set(&c.Spec.JobTemplate.Labels, "kueue.x-k8s.io/queue-name", "queue") },
			[]string{"kueue.x-k8s.io/queue-name", "Take one of the labels out"},
		},
		{
			"another controller's Jobs", func(c *batchv1.CronJob) { c.Spec.JobTemplate.Spec.ManagedBy = new("kueue.x-k8s.io/multikueue") },
			[]string{"take spec.jobTemplate.spec.managedBy out"},
		},
		{"the variable with a value", func(c *batchv1.CronJob) {
			c.Spec.JobTemplate.Spec.Template.Spec.InitContainers = []corev1.Container{{
				Name: "first", Image: "none", Env: []corev1.EnvVar{{Name: v1alpha1.FencingTokenEnv, Value: "1"}},
			}}
		}, []string{"container first", "take it out"}},
		{"a run", annotated(v1alpha1.RunAnnotation), []string{"by the operator alone"}},
		{"a grant", annotated(v1alpha1.GrantAnnotation), []string{"by the operator alone"}},
		{"a deadline", annotated(v1alpha1.DeadlineAnnotation), []string{"by the operator alone"}},
		{"a replacement", annotated(v1alpha1.ReplacesAnnotation), []string{"by the operator alone"}},
		{
			"a fencing token", func(c *batchv1.CronJob) {
				set(&c.Spec.JobTemplate.Spec.Template.Annotations, v1alpha1.FencingTokenAnnotation, "9")
			},
			[]string{"by the operator alone"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			for who, c := range map[string]client.Client{alice: her, "the cluster's administrator": s.root} {
				message := denied(g, c.Create(t.Context(), guardedCronJob(namespace, "refused", tc.change), client.DryRunAll))
				for _, words := range tc.words {
					g.Expect(message).To(ContainSubstring(words), who)
				}
			}
			good := guardedCronJob(namespace, fmt.Sprintf("good-%d", i))
			g.Expect(her.Create(t.Context(), good)).To(Succeed())
			for _, words := range tc.words {
				g.Expect(denied(g, patch(t.Context(), her, good, tc.change))).To(ContainSubstring(words))
			}
		})
	}
}

func TestWhatAGuardedCronJobMayBe(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	namespace := s.newNamespace(t)
	her := s.as(t, alice)
	for name, change := range map[string]func(*batchv1.CronJob){
		"plain":             func(*batchv1.CronJob) {},
		"suspended Jobs":    func(c *batchv1.CronJob) { c.Spec.JobTemplate.Spec.Suspend = new(true) },
		"suspended":         func(c *batchv1.CronJob) { c.Spec.Suspend = new(true) },
		"Forbid":            func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ForbidConcurrent },
		"a macro":           func(c *batchv1.CronJob) { c.Spec.Schedule = "@daily" },
		"a tick's name":     func(c *batchv1.CronJob) { set(&c.Annotations, v1alpha1.TickNameAnnotation, "billing/report") },
		"a name with a dot": func(c *batchv1.CronJob) { c.Spec.JobTemplate.Labels[v1alpha1.LockLabel] = "billing.nightly-2" },
		"the label everywhere": func(c *batchv1.CronJob) {
			// As kustomize's labels transformer writes it.
			set(&c.Labels, v1alpha1.LockLabel, "nightly")
			set(&c.Spec.JobTemplate.Spec.Template.Labels, v1alpha1.LockLabel, "nightly")
		},
		"prepared": func(c *batchv1.CronJob) {
			job := guardedJob("", "", prepared)
			c.Spec.JobTemplate.Spec = job.Spec
		},
		"no lock": func(c *batchv1.CronJob) {
			c.Spec.JobTemplate.Labels = nil
			c.Spec.ConcurrencyPolicy, c.Spec.Schedule, c.Spec.TimeZone = batchv1.ReplaceConcurrent, "@every 5m", nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			NewWithT(t).Expect(her.Create(t.Context(), guardedCronJob(namespace, "allowed", change), client.DryRunAll)).To(Succeed())
		})
	}
}

func TestWhatIsFromBeforeThePolicies(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	// In a cluster of its own, where the policies come later.
	s := bare(t, "late")
	const namespace = "default"
	old := guardedCronJob(namespace, "old", func(c *batchv1.CronJob) {
		c.Spec.ConcurrencyPolicy = batchv1.ReplaceConcurrent
		c.Finalizers = []string{"example.com/keep"}
	})
	stray := newJob(namespace, "stray")
	set(&stray.Spec.Template.Labels, v1alpha1.LockLabel, "nightly")
	stray.Finalizers = []string{"example.com/keep"}
	running := guardedJob(namespace, "running")
	for _, object := range []client.Object{old, stray, running} {
		g.Expect(s.root.Create(t.Context(), object)).To(Succeed())
	}
	s.install(t, "")
	g.Expect(operator.WaitForPolicies(t.Context(), s.operator)).To(Succeed())
	g.Expect(denied(g, patch(t.Context(), s.root, old, func(c *batchv1.CronJob) { c.Spec.Schedule = "@daily" }))).To(ContainSubstring("concurrencyPolicy"))
	g.Expect(patch(t.Context(), s.root, old, func(c *batchv1.CronJob) { c.Finalizers = nil })).To(Succeed())
	g.Expect(patch(t.Context(), s.root, stray, func(job *batchv1.Job) { job.Finalizers = nil })).To(Succeed())
	g.Expect(patch(t.Context(), s.root, running, func(job *batchv1.Job) { set(&job.Annotations, "note", "") })).To(Succeed())
	// Nothing but its label tells that this one has a lock.
	g.Expect(running.Spec.Template.Labels).NotTo(HaveKey(v1alpha1.LockLabel))
	_, err := s.KubectlInput(t.Context(), strings.ReplaceAll(jobRights, operator.User, alice), "apply", "-f", "-")
	g.Expect(err).NotTo(HaveOccurred())
	her := s.as(t, alice)
	g.Eventually(func() error {
		return patch(t.Context(), her, running, func(job *batchv1.Job) { set(&job.Annotations, "note", "hers") })
	}).Should(Succeed())
	g.Expect(denied(g, patch(t.Context(), her, running, func(job *batchv1.Job) {
		delete(job.Labels, v1alpha1.LockLabel)
	}))).To(ContainSubstring("not added to a Job that exists"))
	// What the operator does to one that runs without a lock.
	g.Expect(patch(t.Context(), s.root, running, func(job *batchv1.Job) { job.Spec.Suspend = new(true) })).To(Succeed())
}

func TestTheCronJobControllerMakesGuardedJobs(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	her := s.as(t, alice)
	namespace := s.newNamespace(t)
	guarded := guardedCronJob(namespace, "guarded")
	free := guardedCronJob(namespace, "free", func(c *batchv1.CronJob) { c.Spec.JobTemplate.Labels = nil })
	jobs := map[*batchv1.CronJob]*batchv1.Job{}
	for _, c := range []*batchv1.CronJob{guarded, free} {
		c.Spec.Schedule = "* * * * *"
		g.Expect(her.Create(t.Context(), c)).To(Succeed())
		// It missed a time, and catches up with it at once.
		c.Status.LastScheduleTime = new(metav1.NewTime(time.Now().Add(-3 * time.Minute)))
		g.Expect(s.root.Status().Update(t.Context(), c)).To(Succeed())
		g.Eventually(func(g Gomega) {
			var list batchv1.JobList
			g.Expect(her.List(t.Context(), &list, client.InNamespace(namespace))).To(Succeed())
			for _, job := range list.Items {
				if metav1.IsControlledBy(&job, c) {
					jobs[c] = &job
				}
			}
			g.Expect(jobs).To(HaveKey(c))
		}).WithTimeout(90 * time.Second).Should(Succeed())
	}
	job := jobs[guarded]
	g.Expect(job.Annotations).To(HaveKey(batchv1.CronJobScheduledTimestampAnnotation))
	g.Expect(job.Spec.Suspend).To(HaveValue(BeTrue()))
	g.Expect(job.Spec.Template.Labels).To(HaveKeyWithValue(v1alpha1.LockLabel, "nightly"))
	g.Expect(job.Spec.Template.Spec.Containers[0].Env).To(ConsistOf(tokenEnv()))

	job = jobs[free]
	g.Expect(job.Spec.Suspend).To(HaveValue(BeFalse()))
	g.Expect(job.Spec.Template.Spec.Containers[0].Env).To(BeEmpty())
	pods := func() []corev1.Pod {
		var list corev1.PodList
		g.Expect(her.List(t.Context(), &list, client.InNamespace(namespace))).To(Succeed())
		return list.Items
	}
	g.Eventually(pods).ShouldNot(BeEmpty())
	for _, pod := range pods() {
		g.Expect(pod.Labels).NotTo(HaveKey(v1alpha1.LockLabel), "a pod of the guarded Job")
	}
}

func TestAJobFromACronJobByHand(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	her := s.as(t, alice)
	namespace := s.newNamespace(t)
	g.Expect(her.Create(t.Context(), guardedCronJob(namespace, "nightly"))).To(Succeed())
	s.kubectl(t, alice, "", "-n", namespace, "create", "job", "by-hand", "--from=cronjob/nightly")
	job := &batchv1.Job{}
	g.Expect(her.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "by-hand"}, job)).To(Succeed())
	g.Expect(job.Labels).To(HaveKeyWithValue(v1alpha1.LockLabel, "nightly"))
	g.Expect(job.Spec.Suspend).To(HaveValue(BeTrue()))
	g.Expect(job.Spec.Template.Spec.Containers[0].Env).To(ConsistOf(tokenEnv()))
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	namespace := s.newNamespace(t)
	for _, tc := range []struct {
		name   string
		object client.Object
		words  []string
	}{
		{"a CronJob", guardedCronJob(namespace, "warned"), nil},
		{"a CronJob without a time zone", guardedCronJob(namespace, "warned", func(c *batchv1.CronJob) { c.Spec.TimeZone = nil }), []string{"spec.timeZone", "Etc/UTC"}},
		{"one that is not guarded", guardedCronJob(namespace, "warned", func(c *batchv1.CronJob) { c.Spec.TimeZone, c.Spec.JobTemplate.Labels = nil, nil }), nil},
		{"a Job", guardedJob(namespace, "warned"), nil},
		{"a hook of Helm", guardedJob(namespace, "warned", func(job *batchv1.Job) { set(&job.Annotations, "helm.sh/hook", "pre-upgrade") }), []string{"helm.sh/hook"}},
		{"a hook of Argo CD", guardedJob(namespace, "warned", func(job *batchv1.Job) { set(&job.Annotations, "argocd.argoproj.io/hook", "Sync") }), []string{"argocd.argoproj.io/hook"}},
		{"a hook that is not guarded", guardedJob(namespace, "warned", func(job *batchv1.Job) {
			job.Labels = nil
			set(&job.Annotations, "helm.sh/hook", "pre-upgrade")
		}), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			config, err := userConfig(s.Cluster, alice, "system:authenticated")
			g.Expect(err).NotTo(HaveOccurred())
			var warnings warnings
			config.WarningHandlerWithContext = &warnings
			her, err := operator.NewClient(config)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(her.Create(t.Context(), tc.object, client.DryRunAll)).To(Succeed())
			if tc.words == nil {
				g.Expect(warnings.list).To(BeEmpty())
				return
			}
			g.Expect(warnings.list).To(HaveLen(1))
			for _, words := range tc.words {
				g.Expect(warnings.list[0]).To(ContainSubstring(words))
			}
		})
	}
}

type warnings struct {
	mu   sync.Mutex
	list []string
}

func (w *warnings) HandleWarningHeaderWithContext(_ context.Context, _ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, text)
}
