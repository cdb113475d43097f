package cluster_test

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/test/cluster"
)

const helloImage = "redislock.test/hello:1"

func helloJob(name, sleep string) *batchv1.Job {
	j := job(name, nil)
	j.Spec.Template.Spec.Containers[0] = corev1.Container{
		Name: "main", Image: helloImage, ImagePullPolicy: corev1.PullNever, Args: []string{name},
		Env: []corev1.EnvVar{{Name: "GREETING", Value: "from a real container"}, {Name: "SLEEP", Value: sleep}},
	}
	return j
}

func TestRealNodeRunsContainers(t *testing.T) {
	g := NewWithT(t)
	ctx := t.Context()
	before := sharedPlaces(g)
	c := start(t, cluster.Options{Nodes: cluster.NodesReal, Log: os.Stderr})
	g.Expect(c.LoadGo(ctx, helloImage, "./test/cluster/internal/hello")).To(Succeed())
	k := client(t, c)
	jobs := k.BatchV1().Jobs(metav1.NamespaceDefault)
	_, err := jobs.Create(ctx, helloJob("world", ""), metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(finished(ctx, k, "world", batchv1.JobComplete)).WithTimeout(soon).Should(Succeed())
	g.Expect(c.Kubectl(ctx, "logs", "job/world")).To(Equal("hello world from a real container\n"))

	// One that is running when the cluster ends.
	_, err = jobs.Create(ctx, helloJob("sleeper", "1h"), metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(func(g Gomega) {
		j, err := jobs.Get(ctx, "sleeper", metav1.GetOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(j.Status.Ready).To(HaveValue(BeEquivalentTo(1)))
	}).WithTimeout(soon).Should(Succeed())
	node := nodeIn(g, c.Dir())
	g.Expect(node.traces(g)).To(ContainElements(HavePrefix("process"), HavePrefix("cgroup"), HavePrefix("interface")))
	g.Expect(c.Stop()).To(Succeed())
	g.Eventually(node.traces).WithTimeout(soon).Should(BeEmpty())
	g.Expect(sharedPlaces(g)).To(Equal(before))
}

func TestNothingIsLeftOfARealNodeWhoseProgramIsKilled(t *testing.T) {
	g := NewWithT(t)
	before := sharedPlaces(g)
	var node nodeTraces
	dir := killParent(g, "real", func(dir string) { node = nodeIn(g, dir) })
	g.Eventually(dir).WithTimeout(soon).ShouldNot(BeADirectory())
	g.Eventually(node.traces).WithTimeout(soon).Should(BeEmpty())
	g.Expect(processesWith(dir)).To(BeEmpty())
	g.Expect(sharedPlaces(g)).To(Equal(before))
}

// nodeTraces is by what the traces of one node can be told from those of others
// that run on the machine at the same time.
type nodeTraces struct {
	dir, mounts, gateway string
	containers           []string
}

func nodeIn(g Gomega, dir string) nodeTraces {
	n := nodeTraces{dir: dir}
	bundles, err := filepath.Glob(filepath.Join(dir, "node", "run", "containerd", "io.containerd.runtime.v2.task", "k8s.io", "*"))
	g.Expect(err).NotTo(HaveOccurred())
	for _, b := range bundles {
		n.containers = append(n.containers, filepath.Base(b))
	}
	cni, err := os.ReadFile(filepath.Join(dir, "node", "cni", "10-redislock.conflist"))
	g.Expect(err).NotTo(HaveOccurred())
	m := regexp.MustCompile(`"subnet": "(\S+)0/24"`).FindSubmatch(cni)
	g.Expect(m).NotTo(BeNil())
	n.gateway = string(m[1]) + "1/"
	files, err := filepath.Glob("/proc/[0-9]*")
	g.Expect(err).NotTo(HaveOccurred())
	for _, f := range files {
		if b, err := os.ReadFile(f + "/cmdline"); err == nil && strings.Contains(string(b), dir) && strings.Contains(string(b), "containerd.toml") {
			n.mounts, err = os.Readlink(f + "/ns/mnt")
			g.Expect(err).NotTo(HaveOccurred())
		}
	}
	g.Expect(n.mounts).NotTo(BeEmpty())
	return n
}

// traces are the node's processes, shims included, control groups, network
// interfaces and mounts.
func (n nodeTraces) traces(g Gomega) []string {
	var found []string
	files, err := filepath.Glob("/proc/[0-9]*")
	g.Expect(err).NotTo(HaveOccurred())
	for _, f := range files {
		if mounts, err := os.Readlink(f + "/ns/mnt"); err == nil && mounts == n.mounts {
			found = append(found, "process "+f)
		}
	}
	for _, container := range n.containers {
		for _, pattern := range []string{"/sys/fs/cgroup/k8s.io/", "/sys/fs/cgroup/*/k8s.io/"} {
			files, err := filepath.Glob(pattern + container)
			g.Expect(err).NotTo(HaveOccurred())
			for _, f := range files {
				found = append(found, "cgroup "+f)
			}
		}
	}
	interfaces, err := net.Interfaces()
	g.Expect(err).NotTo(HaveOccurred())
	for _, i := range interfaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if strings.HasPrefix(a.String(), n.gateway) {
				found = append(found, "interface "+i.Name)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	g.Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.dir) {
			found = append(found, "mount "+line)
		}
	}
	return found
}

// sharedPlaces are where a node leaves things when nobody takes care, and
// settings of the kernel that it changes.
func sharedPlaces(g Gomega) []string {
	var found []string
	for _, pattern := range []string{
		"/run/containerd", "/run/netns/*", "/run/calico", "/var/lib/kubelet", "/var/lib/cni", "/var/lib/containerd/*",
		"/var/log/pods", "/var/log/containers", "/opt/containerd", "/opt/cni", "/etc/cni/net.d/*",
	} {
		files, err := filepath.Glob(pattern)
		g.Expect(err).NotTo(HaveOccurred())
		found = append(found, files...)
	}
	for _, setting := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward"} {
		value, err := os.ReadFile("/proc/sys/" + setting)
		g.Expect(err).NotTo(HaveOccurred())
		found = append(found, setting+"="+string(value))
	}
	return found
}
