// Package policies tests the admission policies of config/policies where they act: in
// real API servers, with what real users and Kubernetes' own controllers do.
package policies

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/go-logr/logr"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/controlplane"
	"github.com/redislock-operator/redislock-operator/test/operator"
)

const (
	// alice administers namespaces: she has Kubernetes' own role admin there.
	alice = "alice"
	// within is for a busy machine.
	within = time.Minute
)

var (
	// shared is the cluster that the tests share, each with a namespace of its own.
	shared    *cluster.Cluster
	namespace atomic.Int64
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctrllog.SetLogger(logr.Discard()) // controller-runtime warns where there is none
	SetDefaultEventuallyTimeout(within)
	SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Options{Name: "policies", Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = c.Stop() }()
	if err := prepare(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared = c
	code := m.Run()
	if code == 0 && flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == "" {
		if err := everyRuleRefused(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

func prepare(ctx context.Context, c *cluster.Cluster) error {
	if err := operator.Install(ctx, c); err != nil {
		return err
	}
	if _, err := c.KubectlInput(ctx, jobRights, "apply", "-f", "-"); err != nil {
		return err
	}
	kube, err := operatorClient(c)
	if err != nil {
		return err
	}
	return operator.WaitForPolicies(ctx, kube)
}

// jobRights let the operator's service account write Jobs, so that what stops it here
// is a policy and nothing else.
const jobRights = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: test-jobs}
rules:
- {apiGroups: [batch], resources: [jobs], verbs: [get, create, update, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-jobs}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: test-jobs}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "` + operator.User + `"}]
`

// site is a cluster as a test sees it.
type site struct {
	*cluster.Cluster
	// root is a cluster's administrator, operator its operator's service account.
	root, operator client.Client
}

func newSite(t *testing.T, c *cluster.Cluster) *site {
	t.Helper()
	g := NewWithT(t)
	config := c.RESTConfig()
	config.WarningHandlerWithContext = rest.NoWarnings{}
	root, err := operator.NewClient(config)
	g.Expect(err).NotTo(HaveOccurred())
	kube, err := operatorClient(c)
	g.Expect(err).NotTo(HaveOccurred())
	return &site{Cluster: c, root: root, operator: kube}
}

// inShared is the cluster that the tests share, with the policies in force.
func inShared(t *testing.T) *site {
	t.Helper()
	return newSite(t, shared)
}

func operatorClient(c *cluster.Cluster) (client.Client, error) {
	config, err := userConfig(c, operator.User, operator.Groups...)
	if err != nil {
		return nil, err
	}
	return operator.NewClient(config)
}

func userConfig(c *cluster.Cluster, user string, groups ...string) (*rest.Config, error) {
	file, err := c.UserKubeconfig(user, groups...)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.WarningHandlerWithContext = rest.NoWarnings{}
	return config, nil
}

// as is a user's client in this cluster.
func (s *site) as(t *testing.T, user string) client.Client {
	t.Helper()
	g := NewWithT(t)
	config, err := userConfig(s.Cluster, user, "system:authenticated")
	g.Expect(err).NotTo(HaveOccurred())
	c, err := operator.NewClient(config)
	g.Expect(err).NotTo(HaveOccurred())
	return c
}

// newNamespace makes a namespace that alice administers, and waits until she does.
func (s *site) newNamespace(t *testing.T) string {
	t.Helper()
	g := NewWithT(t)
	ctx := t.Context()
	name := fmt.Sprintf("policies-%d", namespace.Add(1))
	g.Expect(s.root.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})).To(Succeed())
	t.Cleanup(func() {
		_ = s.root.Delete(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}) // the cluster goes as well
	})
	g.Expect(s.root.Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "admin"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: alice}},
	})).To(Succeed())
	her := s.as(t, alice)
	g.Eventually(func() error {
		return her.Create(ctx, newJob(name, "probe"), client.DryRunAll)
	}).WithContext(ctx).Should(Succeed())
	return name
}

// newJob is a Job without a lock.
func newJob(namespace, name string) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "main", Image: "none"}},
		}}},
	}
}

// guardedJob is a Job with a lock, as people write it.
func guardedJob(namespace, name string, change ...func(*batchv1.Job)) *batchv1.Job {
	job := newJob(namespace, name)
	job.Labels = map[string]string{v1alpha1.LockLabel: "nightly"}
	for _, f := range change {
		f(job)
	}
	return job
}

// guardedCronJob is a CronJob with a lock, whose time does not come.
func guardedCronJob(namespace, name string, change ...func(*batchv1.CronJob)) *batchv1.CronJob {
	job := guardedJob(namespace, "")
	cronJob := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: batchv1.CronJobSpec{
			Schedule: "0 0 1 1 *", TimeZone: new("Etc/UTC"),
			JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: job.Labels}, Spec: job.Spec},
		},
	}
	for _, f := range change {
		f(cronJob)
	}
	return cronJob
}

// tokenEnv is the variable as it must be.
func tokenEnv() corev1.EnvVar {
	return corev1.EnvVar{Name: v1alpha1.FencingTokenEnv, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: v1alpha1.FencingTokenFieldPath},
	}}
}

// prepared is what the mutating policy makes of a Job.
func prepared(job *batchv1.Job) {
	job.Spec.Suspend = new(true)
	set(&job.Spec.Template.Labels, v1alpha1.LockLabel, job.Labels[v1alpha1.LockLabel])
	for _, containers := range [][]corev1.Container{job.Spec.Template.Spec.InitContainers, job.Spec.Template.Spec.Containers} {
		for i := range containers {
			containers[i].Env = append(containers[i].Env, tokenEnv())
		}
	}
}

// letGo is what the operator does when a Job's turn has come.
func letGo(job *batchv1.Job) {
	job.Spec.Suspend = new(false)
	job.Spec.ActiveDeadlineSeconds = new(int64(300))
	job.Finalizers = append(job.Finalizers, v1alpha1.OutcomeFinalizer)
	set(&job.Annotations, v1alpha1.RunAnnotation, "12")
	set(&job.Annotations, v1alpha1.GrantAnnotation, "11")
	set(&job.Annotations, v1alpha1.DeadlineAnnotation, "")
	set(&job.Spec.Template.Annotations, v1alpha1.FencingTokenAnnotation, "12")
}

func set(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

// patch changes an object as c's user, by a merge patch of what differs.
func patch[T client.Object](ctx context.Context, c client.Client, object T, change func(T), opts ...client.PatchOption) error {
	before := object.DeepCopyObject().(T)
	after := object.DeepCopyObject().(T)
	change(after)
	return c.Patch(ctx, after, client.MergeFrom(before), opts...)
}

// overlay writes a kustomization over config/default, and returns its folder.
func overlay(t *testing.T, more string) string {
	t.Helper()
	g := NewWithT(t)
	root, err := controlplane.Root()
	g.Expect(err).NotTo(HaveOccurred())
	dir, err := filepath.EvalSymlinks(t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	base, err := filepath.Rel(dir, filepath.Join(root, "config"))
	g.Expect(err).NotTo(HaveOccurred())
	content := fmt.Sprintf("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [%s/default]\n", base)
	content += os.Expand(more, func(string) string { return base })
	g.Expect(os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(content), 0o600)).To(Succeed())
	return dir
}
