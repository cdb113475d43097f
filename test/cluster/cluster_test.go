package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/controlplane"
)

const (
	// soon bounds what must happen; it is long because the machine may be busy.
	soon      = 2 * time.Minute
	parentEnv = "TEST_CLUSTER_PARENT"
)

// TestMain is also the program that is killed in a test: it starts a cluster,
// says where, and waits.
func TestMain(m *testing.M) {
	if kind := os.Getenv(parentEnv); kind != "" {
		c, err := cluster.Start(context.Background(), cluster.Options{Name: "orphan", Nodes: nodes[kind]})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.Dir())
		select {}
	}
	// The build belongs to no test: it would use up the time of the first.
	if _, err := controlplane.Ensure(context.Background(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var nodes = map[string]cluster.Nodes{"none": cluster.NodesNone, "kwok": cluster.NodesKwok, "real": cluster.NodesReal}

func start(t *testing.T, opts cluster.Options) *cluster.Cluster {
	t.Helper()
	if opts.Name == "" {
		opts.Name = t.Name()
	}
	began := time.Now()
	c, err := cluster.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("cluster %s was ready after %v", opts.Name, time.Since(began).Round(time.Millisecond))
	cleanup(t, c)
	return c
}

func cleanup(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(c.Dir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the data folder %s is left (%v)", c.Dir(), err)
		}
	})
}

func client(t *testing.T, c *cluster.Cluster) kubernetes.Interface {
	t.Helper()
	k, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault}}
}

func job(name string, annotations map[string]string) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec: batchv1.JobSpec{
			BackoffLimit: new(int32(0)),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Annotations: annotations},
				Spec: corev1.PodSpec{
					RestartPolicy: corev1.RestartPolicyNever,
					Containers:    []corev1.Container{{Name: "main", Image: "none"}},
				},
			},
		},
	}
}

func finished(ctx context.Context, k kubernetes.Interface, name string, kind batchv1.JobConditionType) func(Gomega) {
	return func(g Gomega) {
		j, err := k.BatchV1().Jobs(metav1.NamespaceDefault).Get(ctx, name, metav1.GetOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(j.Status.Conditions).To(ContainElement(And(
			HaveField("Type", kind), HaveField("Status", corev1.ConditionTrue))))
	}
}

func TestTwoClustersAtOnce(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ctx := t.Context()
	var (
		clusters [2]*cluster.Cluster
		errs     [2]error
		wg       sync.WaitGroup
	)
	for i, name := range []string{"west", "east"} {
		wg.Go(func() { clusters[i], errs[i] = cluster.Start(ctx, cluster.Options{Name: name}) })
	}
	wg.Wait()
	for i, c := range clusters {
		g.Expect(errs[i]).NotTo(HaveOccurred())
		cleanup(t, c)
		_, err := client(t, c).CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(ctx, configMap(c.Name()), metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
	}
	_, err := client(t, clusters[0]).CoreV1().ConfigMaps(metav1.NamespaceDefault).Get(ctx, "east", metav1.GetOptions{})
	g.Expect(apierrors.IsNotFound(err)).To(BeTrue())
	g.Expect(clusters[0].Kubectl(ctx, "get", "configmap", "west", "-o", "name")).To(Equal("configmap/west\n"))
	g.Expect(clusters[0].KubectlInput(ctx, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}`, "apply", "-f", "-")).To(ContainSubstring("namespace/n created"))
	_, err = clusters[1].Kubectl(ctx, "get", "configmap", "west")
	g.Expect(err).To(MatchError(ContainSubstring(`"west" not found`)))

	v, err := client(t, clusters[0]).Discovery().ServerVersion()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(v.GitVersion).NotTo(HavePrefix("v0.0.0"))

	// Namespaces end only where a kube-controller-manager works.
	k := client(t, clusters[0])
	g.Expect(k.CoreV1().Namespaces().Delete(ctx, "n", metav1.DeleteOptions{})).To(Succeed())
	g.Eventually(func(g Gomega) {
		_, err := k.CoreV1().Namespaces().Get(ctx, "n", metav1.GetOptions{})
		g.Expect(apierrors.IsNotFound(err)).To(BeTrue())
	}).WithTimeout(soon).Should(Succeed())
}

func TestFaultsOfProcesses(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ctx := t.Context()
	c := start(t, cluster.Options{})
	k := client(t, c)
	maps := k.CoreV1().ConfigMaps(metav1.NamespaceDefault)
	host := c.RESTConfig().Host
	_, err := maps.Create(ctx, configMap("before"), metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())

	for name, end := range map[string]func(context.Context) error{"Kill": c.APIServer.Kill, "Stop": c.APIServer.Stop} {
		g.Expect(end(ctx)).To(Succeed(), name)
		g.Expect(c.APIServer.Running()).To(BeFalse())
		_, err = maps.Get(ctx, "before", metav1.GetOptions{})
		g.Expect(err).To(HaveOccurred())
		g.Expect(c.APIServer.Pause(ctx)).To(MatchError(cluster.ErrNotRunning))
		g.Expect(c.APIServer.Start(ctx)).To(Succeed())
		g.Expect(c.RESTConfig().Host).To(Equal(host))
		_, err = maps.Get(ctx, "before", metav1.GetOptions{})
		g.Expect(err).NotTo(HaveOccurred())
	}

	g.Expect(c.APIServer.Pause(ctx)).To(Succeed())
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = maps.Get(short, "before", metav1.GetOptions{})
	g.Expect(err).To(MatchError(context.DeadlineExceeded))
	g.Expect(c.APIServer.Resume()).To(Succeed())
	_, err = maps.Get(ctx, "before", metav1.GetOptions{})
	g.Expect(err).NotTo(HaveOccurred())

	g.Expect(c.ControllerManager.Kill(ctx)).To(Succeed())
	_, err = k.BatchV1().Jobs(metav1.NamespaceDefault).Create(ctx, job("j", nil), metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.ControllerManager.Start(ctx)).To(Succeed())
	g.Eventually(func(g Gomega) {
		pods, err := k.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(pods.Items).To(HaveLen(1))
	}).WithTimeout(soon).Should(Succeed())

	g.Expect(c.Etcd.Kill(ctx)).To(Succeed())
	g.Expect(c.Etcd.Start(ctx)).To(Succeed())
	g.Eventually(func() error {
		_, err := maps.Get(ctx, "before", metav1.GetOptions{})
		return err
	}).WithTimeout(soon).Should(Succeed(), "what was written survives")
}

func TestUsersAndAudit(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ctx := t.Context()
	c := start(t, cluster.Options{Audit: true})
	k := client(t, c)

	path, err := c.UserKubeconfig("alice", "writers")
	g.Expect(err).NotTo(HaveOccurred())
	config, err := clientcmd.BuildConfigFromFlags("", path)
	g.Expect(err).NotTo(HaveOccurred())
	alice, err := kubernetes.NewForConfig(config)
	g.Expect(err).NotTo(HaveOccurred())

	_, err = alice.CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(ctx, configMap("a"), metav1.CreateOptions{})
	g.Expect(apierrors.IsForbidden(err)).To(BeTrue())
	_, err = k.RbacV1().Roles(metav1.NamespaceDefault).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "writer"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"*"}}},
	}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	_, err = k.RbacV1().RoleBindings(metav1.NamespaceDefault).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "writers"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "writer"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "writers"}},
	}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(func() error {
		_, err := alice.CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(ctx, configMap("a"), metav1.CreateOptions{})
		return err
	}).WithTimeout(soon).Should(Succeed())

	events, err := c.Audit()
	g.Expect(err).NotTo(HaveOccurred())
	var codes []int
	for _, e := range events {
		if e.User == "alice" {
			g.Expect(e.Resource).To(Equal("configmaps"))
			g.Expect(e.Verb).To(Equal("create"))
			g.Expect(e.Namespace).To(Equal(metav1.NamespaceDefault))
			g.Expect(e.Groups).To(ContainElement("writers"))
			g.Expect(e.Time).To(BeTemporally("~", time.Now(), soon))
			codes = append(codes, e.Code)
		}
		g.Expect(e.Verb).NotTo(BeElementOf("get", "list", "watch"))
	}
	g.Expect(codes).To(And(HaveEach(BeElementOf(403, 201)), ContainElement(403), ContainElement(201)))
	g.Expect(events).To(ContainElement(And(
		HaveField("User", "system:serviceaccount:kube-system:service-account-controller"),
		HaveField("Resource", "serviceaccounts"))), "controllers are told apart")
}

func TestCloneIsIndependentAndHasTheSameIdentity(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ctx := t.Context()
	original := start(t, cluster.Options{})
	k := client(t, original)
	for i := range 50 {
		_, err := k.CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(ctx, configMap(fmt.Sprintf("before-%d", i)), metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
	}
	clone, err := original.Clone(ctx, cluster.Options{Name: "clone"})
	g.Expect(err).NotTo(HaveOccurred())
	cleanup(t, clone)

	kc := client(t, clone)
	list, err := kc.CoreV1().ConfigMaps(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(len(list.Items)).To(BeNumerically(">=", 50))
	uid := func(k kubernetes.Interface) string {
		ns, err := k.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		return string(ns.UID)
	}
	g.Expect(uid(kc)).To(Equal(uid(k)))

	for _, x := range []kubernetes.Interface{k, kc} {
		_, err := x.CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(ctx, configMap("after"), metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred(), "neither sees the other's writes")
	}
	g.Expect(original.Stop()).To(Succeed())
	_, err = kc.CoreV1().ConfigMaps(metav1.NamespaceDefault).Get(ctx, "after", metav1.GetOptions{})
	g.Expect(err).NotTo(HaveOccurred(), "it lives on without the original")
}

func TestKwokPlaysPods(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ctx := t.Context()
	c := start(t, cluster.Options{Nodes: cluster.NodesKwok})
	k := client(t, c)
	for name, annotations := range map[string]map[string]string{
		"quick":  nil,
		"slow":   {cluster.RunForAnnotation: "1s"},
		"fails":  {cluster.ExitCodeAnnotation: "3"},
		"endure": {cluster.RunForAnnotation: "1h"},
	} {
		_, err := k.BatchV1().Jobs(metav1.NamespaceDefault).Create(ctx, job(name, annotations), metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
	}
	g.Eventually(finished(ctx, k, "quick", batchv1.JobComplete)).WithTimeout(soon).Should(Succeed())
	g.Eventually(finished(ctx, k, "slow", batchv1.JobComplete)).WithTimeout(soon).Should(Succeed())
	g.Eventually(finished(ctx, k, "fails", batchv1.JobFailed)).WithTimeout(soon).Should(Succeed())

	pods := func(g Gomega) []corev1.Pod {
		list, err := k.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: "job-name=endure"})
		g.Expect(err).NotTo(HaveOccurred())
		return list.Items
	}
	g.Eventually(func(g Gomega) {
		g.Expect(pods(g)).To(ConsistOf(HaveField("Status.Phase", corev1.PodRunning)))
	}).WithTimeout(soon).Should(Succeed())
	g.Expect(k.BatchV1().Jobs(metav1.NamespaceDefault).Delete(ctx, "endure", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})).To(Succeed())
	g.Eventually(func(g Gomega) { g.Expect(pods(g)).To(BeEmpty()) }).WithTimeout(soon).Should(Succeed())
}

func TestNothingIsLeftOfAKilledProgram(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	dir := killParent(g, "none", func(string) {})
	g.Eventually(dir).WithTimeout(soon).ShouldNot(BeADirectory())
	g.Eventually(func() []string { return processesWith(dir) }).WithTimeout(soon).Should(BeEmpty())
}

// killParent runs this program as the parent of a cluster, kills it and returns
// the folder of the cluster, at which the caller may look before.
func killParent(g *WithT, kind string, look func(dir string)) string {
	self, err := os.Executable()
	g.Expect(err).NotTo(HaveOccurred())
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), parentEnv+"="+kind)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(parent.Start()).To(Succeed())
	line, err := bufio.NewReader(out).ReadString('\n')
	g.Expect(err).NotTo(HaveOccurred())
	dir := strings.TrimSpace(line)
	g.Expect(dir).To(BeADirectory(), line)
	g.Expect(len(processesWith(dir))).To(BeNumerically(">=", 4))
	look(dir)
	g.Expect(parent.Process.Signal(syscall.SIGKILL)).To(Succeed())
	_ = parent.Wait()
	return dir
}

// processesWith are the command lines that name a folder.
func processesWith(dir string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), dir) {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

func TestDetachedClusterGoesOnInItsFolder(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "data")
	first, err := cluster.Start(ctx, cluster.Options{Name: "kept", DataDir: dir, Bare: true})
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = cluster.StopDetached(dir) })
	_, err = client(t, first).CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(ctx, configMap("kept"), metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first.Detach()).To(Succeed())
	g.Expect(cluster.StopDetached(dir)).To(Succeed())
	g.Expect(processesWith(dir)).To(BeEmpty())

	again, err := cluster.Start(ctx, cluster.Options{Name: "kept", DataDir: dir, Bare: true})
	g.Expect(err).NotTo(HaveOccurred())
	_, err = client(t, again).CoreV1().ConfigMaps(metav1.NamespaceDefault).Get(ctx, "kept", metav1.GetOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again.Stop()).To(Succeed())
	g.Expect(dir).To(BeADirectory(), "it is the caller's")
	g.Expect(processesWith(dir)).To(BeEmpty())
}

func TestStartThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	name := "failing-start"
	_, err := cluster.Start(t.Context(), cluster.Options{Name: name, APIServerArgs: []string{"--no-such-flag"}})
	g.Expect(err).To(MatchError(ContainSubstring("no-such-flag")))
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "redislock-"+name+"*"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(BeEmpty())
}
