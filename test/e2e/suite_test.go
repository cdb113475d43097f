// Package e2e runs the operator as its users do: two clusters with real API
// servers, one real Redis, and managers as processes that are killed, stopped and
// started again.
package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
)

var (
	managerBinary string
	blue, green   *site
)

// site is one cluster with the operator installed.
type site struct {
	*cluster.Cluster
	client.WithWatch
	name string
}

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "End to end")
}

var _ = BeforeSuite(func(ctx context.Context) {
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	SetDefaultConsistentlyPollingInterval(200 * time.Millisecond)
	EnforceDefaultTimeoutsWhenUsingContexts()

	var err error
	managerBinary, err = operator.Build(ctx)
	Expect(err).NotTo(HaveOccurred())

	var wg sync.WaitGroup
	for name, s := range map[string]**site{"blue": &blue, "green": &green} {
		wg.Go(func() {
			defer GinkgoRecover()
			c, err := cluster.Start(ctx, cluster.Options{Name: name, Audit: true, Nodes: cluster.NodesKwok, Log: GinkgoWriter})
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(c.Stop)
			*s = newSite(name, c)
			Expect(operator.Install(ctx, c)).To(Succeed())
		})
	}
	wg.Wait()
	Expect(blue).NotTo(BeNil())
	Expect(green).NotTo(BeNil())
}, NodeTimeout(30*time.Minute))

func newSite(name string, c *cluster.Cluster) *site {
	GinkgoHelper()
	kube, err := operator.NewClient(c.RESTConfig())
	Expect(err).NotTo(HaveOccurred())
	return &site{Cluster: c, WithWatch: kube, name: name}
}

// artifacts is the folder for the logs of a spec, kept where E2E_ARTIFACTS says.
func artifacts() string {
	GinkgoHelper()
	if dir := os.Getenv("E2E_ARTIFACTS"); dir != "" {
		dir = filepath.Join(dir, strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
				return r
			}
			return '-'
		}, CurrentSpecReport().LeafNodeText))
		Expect(os.MkdirAll(dir, 0o755)).To(Succeed())
		return dir
	}
	return GinkgoT().TempDir()
}
