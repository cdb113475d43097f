package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/controlplane"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

var _ = Describe("make deploy", func() {
	It("installs an operator that runs in pods, with the rights and the file system it is given", func(ctx context.Context) {
		c, err := cluster.Start(ctx, cluster.Options{Name: "red", Nodes: cluster.NodesReal, Log: GinkgoWriter})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(c.Stop)
		red := newSite("red", c)
		DeferCleanup(func(ctx context.Context) {
			if CurrentSpecReport().Failed() {
				logs, _ := c.Kubectl(ctx, "-n", operator.Namespace, "logs", "-l", "control-plane=controller-manager", "--tail=100", "--prefix")
				GinkgoWriter.Println(logs)
			}
		})
		redis := redisserver.Start(GinkgoTB(), redisserver.Options{Password: secret, Args: []string{"--bind", "0.0.0.0", "--protected-mode", "no"}})

		By("building the image and deploying it as the README says")
		binary := filepath.Join(GinkgoT().TempDir(), "manager")
		Expect(cluster.BuildGo(ctx, "./cmd/manager", binary)).To(Succeed())
		const image = "redislock-operator:e2e"
		Expect(c.LoadImage(ctx, cluster.Image{
			Name: image, Files: map[string]string{"/manager": binary}, Entrypoint: []string{"/manager"}, User: "65532:65532",
		})).To(Succeed())
		root, err := controlplane.Root()
		Expect(err).NotTo(HaveOccurred())
		deploy := exec.CommandContext(ctx, "make", "-C", root, "deploy", "CLUSTER_NAME=red", "IMG="+image,
			"KUBECTL="+filepath.Join(root, "bin", "k8s", "kubectl")+" --kubeconfig "+c.Kubeconfig())
		out, err := deploy.CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(out))

		By("telling it where Redis is, and its password by a Secret")
		_, port, _ := strings.Cut(redis.Addr(), ":")
		config := fmt.Sprintf("stores:\n- name: default\n  url: redis://%s:%s\n  passwordFile: /etc/redislock/stores/password\n", c.Gateway(), port)
		kubectl(ctx, c, "-n", operator.Namespace, "create", "secret", "generic", "redislock-stores", "--from-literal=password="+secret)
		kubectl(ctx, c, "-n", operator.Namespace, "patch", "configmap", "redislock-manager-config", "--type=merge",
			"-p", fmt.Sprintf(`{"data":{"config.yaml":%q}}`, config))
		// This node has no service network, so the API server is named by an address
		// that pods reach.
		_, apiPort, _ := strings.Cut(strings.TrimPrefix(c.RESTConfig().Host, "https://"), ":")
		kubectl(ctx, c, "-n", operator.Namespace, "set", "env", "deployment/redislock-controller-manager",
			"KUBERNETES_SERVICE_HOST="+c.Gateway(), "KUBERNETES_SERVICE_PORT="+apiPort)
		kubectl(ctx, c, "-n", operator.Namespace, "rollout", "status", "deployment/redislock-controller-manager", "--timeout=150s")

		By("applying a sample")
		kubectl(ctx, c, "create", "namespace", "reports")
		kubectl(ctx, c, "-n", "reports", "apply", "-f", filepath.Join(root, "config", "samples", "redislock_v1alpha1_minimal.yaml"))
		var lock *v1alpha1.RedisLock
		Eventually(func(g Gomega) {
			var locks v1alpha1.RedisLockList
			g.Expect(red.List(ctx, &locks)).To(Succeed())
			g.Expect(locks.Items).To(HaveLen(1))
			lock = &locks.Items[0]
			g.Expect(lock.Status.State).To(Equal(v1alpha1.StateAcquired), "%v", lock.Status.Conditions)
			g.Expect(lock.Status.Holder.Cluster).To(Equal("red"))
		}).WithContext(ctx).Should(Succeed())
		fence := lock.Status.FencingToken

		By("reading metrics, which only those may who are allowed to")
		url := "https://" + readyPod(ctx, red).Status.PodIP + ":8443/metrics"
		status, _ := scrape(ctx, url, "")
		Expect(status).To(Equal(http.StatusUnauthorized))
		kubectl(ctx, c, "-n", "reports", "create", "serviceaccount", "prometheus")
		token := strings.TrimSpace(kubectl(ctx, c, "-n", "reports", "create", "token", "prometheus"))
		status, _ = scrape(ctx, url, token)
		Expect(status).To(Equal(http.StatusForbidden))
		kubectl(ctx, c, "create", "clusterrolebinding", "scrape", "--clusterrole=redislock-metrics-reader", "--serviceaccount=reports:prometheus")
		Eventually(func(g Gomega) {
			status, body := scrape(ctx, url, token)
			g.Expect(status).To(Equal(http.StatusOK))
			g.Expect(body).To(ContainSubstring("go_goroutines"))
		}).WithContext(ctx).Should(Succeed())

		By("rolling the Deployment, to give it a certificate: the lock stays, with its fencing token")
		authority := certify(ctx, red)
		kubectl(ctx, c, "-n", operator.Namespace, "rollout", "status", "deployment/redislock-controller-manager", "--timeout=150s")
		Eventually(func(g Gomega) {
			after, err := red.show(ctx, lock)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(after.Status.State).To(Equal(v1alpha1.StateAcquired))
			g.Expect(after.Status.FencingToken).To(Equal(fence))
			g.Expect(*after.Status.Transitions).To(BeEquivalentTo(1))
		}).WithContext(ctx).Should(Succeed())

		By("running a guarded Job, with the rights that the operator is given")
		job := guardedJob("reports", "version", "")
		job.Labels[v1alpha1.LockLabel] = lock.Name
		container := &job.Spec.Template.Spec.Containers[0]
		container.Image, container.ImagePullPolicy, container.Args = image, corev1.PullNever, []string{"--version"}
		Expect(red.Create(ctx, job)).To(Succeed())
		red.eventuallyJob(ctx, "reports", "version", func(g Gomega, job *batchv1.Job) {
			g.Expect(job.Status.Succeeded).To(BeEquivalentTo(1))
			g.Expect(job.Annotations).To(HaveKey(v1alpha1.RunAnnotation))
			g.Expect(job.Finalizers).To(BeEmpty())
		})

		By("calling a Debounce from a pod")
		callFromAPod(ctx, red, authority, image)

		By("removing it in the documented order, with nothing left hanging")
		undeploy := exec.CommandContext(ctx, "make", "-C", root, "undeploy",
			"KUBECTL="+filepath.Join(root, "bin", "k8s", "kubectl")+" --kubeconfig "+c.Kubeconfig())
		out, err = undeploy.CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(out))
		Expect(red.gone(ctx, lock)).To(BeTrue())
		kubectl(ctx, c, "delete", "namespace", "reports", "--timeout=30s")
	}, SpecTimeout(8*time.Minute))
})

// readyPod returns one of the operator's pods that is ready and stays.
func readyPod(ctx context.Context, s *site) *corev1.Pod {
	GinkgoHelper()
	var pod *corev1.Pod
	Eventually(func(g Gomega) {
		pods := &corev1.PodList{}
		g.Expect(s.List(ctx, pods, client.InNamespace(operator.Namespace))).To(Succeed())
		i := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool {
			return p.DeletionTimestamp.IsZero() && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
		})
		g.Expect(i).To(BeNumerically(">=", 0), "no pod is ready")
		pod = &pods.Items[i]
	}).WithContext(ctx).Should(Succeed())
	return pod
}

func kubectl(ctx context.Context, c *cluster.Cluster, args ...string) string {
	GinkgoHelper()
	out, err := c.Kubectl(ctx, args...)
	Expect(err).NotTo(HaveOccurred())
	return out
}

// scrape asks for metrics as Prometheus does; the certificate is signed by itself.
func scrape(ctx context.Context, url, token string) (int, string) {
	GinkgoHelper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	Expect(err).NotTo(HaveOccurred())
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // see above
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(req)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	Expect(err).NotTo(HaveOccurred())
	return res.StatusCode, string(body)
}
