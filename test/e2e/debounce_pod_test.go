package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/certs"
	"github.com/redislock-operator/redislock-operator/test/controlplane"
	"github.com/redislock-operator/redislock-operator/test/operator"
)

// callsHost is the name that callers in a cluster use for the operator's endpoint.
const callsHost = "redislock-calls." + operator.Namespace + ".svc"

// httpManual returns the YAML in docs/debounce-http.md that begins so.
func httpManual(start string) string {
	GinkgoHelper()
	root, err := controlplane.Root()
	Expect(err).NotTo(HaveOccurred())
	manual, err := os.ReadFile(filepath.Join(root, "docs", "debounce-http.md"))
	Expect(err).NotTo(HaveOccurred())
	_, rest, found := strings.Cut(string(manual), "```yaml\n"+start)
	Expect(found).To(BeTrue(), "the manual has no YAML that begins with %q", start)
	block, _, _ := strings.Cut(rest, "```")
	return start + block
}

func tempFile(name, content string) string {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), name)
	Expect(os.WriteFile(path, []byte(content), 0o600)).To(Succeed())
	return path
}

// certify gives the endpoint of an operator that runs in pods a certificate, by the
// overlay in the manual, and returns its authority's.
func certify(ctx context.Context, s *site) []byte {
	GinkgoHelper()
	authority, err := certs.NewCA("calls")
	Expect(err).NotTo(HaveOccurred())
	pair, err := authority.Server(callsHost, callsHost)
	Expect(err).NotTo(HaveOccurred())
	cert, key, err := pair.Write(GinkgoT().TempDir(), "tls")
	Expect(err).NotTo(HaveOccurred())
	kubectl(ctx, s.Cluster, "-n", operator.Namespace, "create", "secret", "tls", "redislock-calls", "--cert="+cert, "--key="+key)
	var overlay struct {
		Patches []struct {
			Target struct{ Kind, Name string }
			Patch  string
		}
	}
	Expect(yaml.Unmarshal([]byte(httpManual("patches:")), &overlay)).To(Succeed())
	Expect(overlay.Patches).To(HaveLen(1))
	target := overlay.Patches[0].Target
	kubectl(ctx, s.Cluster, "-n", operator.Namespace, "patch", target.Kind, target.Name, "--type=json", "--patch-file="+tempFile("patch.yaml", overlay.Patches[0].Patch))
	return authority.Cert
}

// callFromAPod has a pod call a Debounce as the manual says. authority is the
// certificate of whoever signed the endpoint's; image is what the Debounce runs.
func callFromAPod(ctx context.Context, s *site, authority []byte, image string) {
	GinkgoHelper()
	const callerImage = "redislock.test/caller:1"
	Expect(s.LoadGo(ctx, callerImage, "./test/e2e/internal/caller")).To(Succeed())
	const namespace = "shop"
	kubectl(ctx, s.Cluster, "create", "namespace", namespace)
	kubectl(ctx, s.Cluster, "apply", "-f", tempFile("rights.yaml", httpManual("apiVersion: v1\nkind: ServiceAccount")))
	kubectl(ctx, s.Cluster, "-n", namespace, "create", "configmap", "redislock-ca", "--from-file=ca.crt="+tempFile("ca.crt", string(authority)))
	d := &v1alpha1.Debounce{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "settings"}, Spec: v1alpha1.DebounceSpec{Action: aJob()}}
	work := &d.Spec.Action.Job.Template.Spec.Template.Spec.Containers[0]
	work.Image, work.ImagePullPolicy, work.Args = image, corev1.PullNever, []string{"--version"}
	createDebounce(ctx, d, s)

	pod := &corev1.Pod{}
	Expect(yaml.UnmarshalStrict([]byte(httpManual("apiVersion: v1\nkind: Pod")), pod)).To(Succeed())
	url := regexp.MustCompile(`https://\S+`).FindString(pod.Spec.Containers[0].Args[0])
	Expect(url).To(HavePrefix("https://" + callsHost + "/"))
	// This node has neither DNS nor a service network, nor ways from pod to pod: the name
	// and the port of one of the Service's endpoints stand for them, and the machine's own
	// network.
	ip, port := s.endpoint(ctx, "redislock-calls")
	pod.Spec.HostNetwork = true
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: ip, Hostnames: []string{callsHost}}}
	container := &pod.Spec.Containers[0]
	container.Image, container.ImagePullPolicy, container.Command = callerImage, corev1.PullNever, nil
	container.Args = []string{container.VolumeMounts[0].MountPath, strings.Replace(url, callsHost, fmt.Sprintf("%s:%d", callsHost, port), 1), "settings changed"}
	Expect(s.Create(ctx, pod)).To(Succeed())
	Eventually(func(g Gomega) {
		g.Expect(s.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		g.Expect(pod.Status.Phase).To(BeElementOf(corev1.PodSucceeded, corev1.PodFailed))
	}).WithContext(ctx).Should(Succeed())
	said := kubectl(ctx, s.Cluster, "-n", namespace, "logs", pod.Name)
	Expect(pod.Status.Phase).To(Equal(corev1.PodSucceeded), said)
	var answer struct{ Generation string }
	Expect(json.Unmarshal([]byte(said), &answer)).To(Succeed())
	Eventually(func(g Gomega) {
		last := s.debounceStatus(ctx, g, d).LastRun
		g.Expect(last).To(HaveField("Outcome", v1alpha1.RunSucceeded))
		g.Expect(strconv.FormatInt(last.Generation, 10)).To(Equal(answer.Generation))
	}).WithContext(ctx).Should(Succeed())
	jobs := jobsOf(ctx, Default, d, s)
	Expect(jobs).To(HaveLen(1))
	Expect(payloadOf(jobs[0])).To(Equal("settings changed"))
	kubectl(ctx, s.Cluster, "delete", "namespace", namespace, "--timeout=60s")
}

// endpoint is where one of the pods behind a Service of the operator is reached.
func (s *site) endpoint(ctx context.Context, service string) (ip string, port int32) {
	GinkgoHelper()
	stays := readyPod(ctx, s).Status.PodIP
	Eventually(func(g Gomega) {
		var slices discoveryv1.EndpointSliceList
		g.Expect(s.List(ctx, &slices, client.InNamespace(operator.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service})).To(Succeed())
		g.Expect(slices.Items).To(HaveLen(1))
		g.Expect(slices.Items[0].Endpoints).To(ContainElement(HaveField("Addresses", ConsistOf(stays))))
		ip, port = stays, *slices.Items[0].Ports[0].Port
	}).WithContext(ctx).Should(Succeed())
	return ip, port
}
