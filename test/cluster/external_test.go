package cluster_test

import (
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/client-go/tools/clientcmd"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/controlplane"
)

func TestExistingClusters(t *testing.T) {
	g := NewWithT(t)
	ctx := t.Context()
	own := start(t, cluster.Options{Bare: true})
	t.Setenv(cluster.KubeconfigsEnv, own.Kubeconfig())

	c, err := cluster.Start(ctx, cluster.Options{Name: "external", Audit: true})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.External()).To(BeTrue())
	_, err = client(t, c).CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.Kubectl(ctx, "get", "namespace", "default", "-o", "name")).To(Equal("namespace/default\n"))

	_, err = cluster.Start(ctx, cluster.Options{Name: "one too many"})
	g.Expect(err).To(MatchError(ContainSubstring("names 1 clusters")))

	g.Expect(c.APIServer.Kill(ctx)).To(MatchError(cluster.ErrExternal))
	_, err = c.Audit()
	g.Expect(err).To(MatchError(cluster.ErrExternal))
	_, err = c.Clone(ctx, cluster.Options{})
	g.Expect(err).To(MatchError(cluster.ErrExternal))

	path, err := c.UserKubeconfig("alice", "writers")
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = os.Remove(path) })
	config, err := clientcmd.BuildConfigFromFlags("", path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(config.Impersonate.UserName).To(Equal("alice"))

	g.Expect(c.Stop()).To(Succeed())
	again, err := cluster.Start(ctx, cluster.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again.Stop()).To(Succeed())
}

func TestAssetsWithoutControllerManager(t *testing.T) {
	g := NewWithT(t)
	assets, err := controlplane.Ensure(t.Context(), os.Stderr)
	g.Expect(err).NotTo(HaveOccurred())
	dir := t.TempDir()
	for _, program := range []string{controlplane.Etcd, controlplane.APIServer, controlplane.Kubectl} {
		path, err := assets.Path(program)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(os.Symlink(path, filepath.Join(dir, program))).To(Succeed())
	}
	t.Setenv(controlplane.AssetsEnv, dir)
	_, err = cluster.Start(t.Context(), cluster.Options{})
	g.Expect(err).To(MatchError(And(ContainSubstring("no kube-controller-manager"), ContainSubstring("unset "+controlplane.AssetsEnv))))
	c := start(t, cluster.Options{Bare: true})
	g.Expect(c.ControllerManager).To(BeNil())
}
