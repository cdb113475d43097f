package controllers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
)

// within is for a busy machine.
const within = time.Minute

var (
	startMu sync.Mutex
	started *cluster.Cluster
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		code := m.Run()
		startMu.Lock()
		defer startMu.Unlock()
		if started == nil {
			return code
		}
		if err := started.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping the cluster:", err)
			return 1
		}
		return code
	}())
}

// apiServer is how to reach that of all tests, which has the CRDs as config/ has them.
// It starts with the first test that needs it, for most need none.
func apiServer(t *testing.T) *rest.Config {
	t.Helper()
	startMu.Lock()
	defer startMu.Unlock()
	if started == nil {
		g := NewWithT(t)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
		defer cancel()
		c, err := cluster.Start(ctx, cluster.Options{Name: "controllers", Bare: true, Log: os.Stderr})
		g.Expect(err).NotTo(HaveOccurred())
		started = c
		_, err = c.Kubectl(ctx, "apply", "--server-side", "-f", filepath.Join("..", "config", "crd", "bases"))
		g.Expect(err).NotTo(HaveOccurred())
		kube, err := operator.NewClient(c.RESTConfig())
		g.Expect(err).NotTo(HaveOccurred())
		g.Eventually(func() error {
			return errors.Join(kube.List(ctx, &v1alpha1.RedisLockList{}), kube.List(ctx, &v1alpha1.DebounceList{}))
		}).WithTimeout(within).Should(Succeed())
	}
	config := started.RESTConfig()
	config.QPS = -1
	return config
}

func newKube(t *testing.T) client.WithWatch {
	t.Helper()
	kube, err := operator.NewClient(apiServer(t))
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return kube
}

func newNamespace(t *testing.T, kube client.Client) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "controllers-"}}
	NewWithT(t).Expect(kube.Create(t.Context(), namespace)).To(Succeed())
	return namespace.Name
}

// newCached reads a namespace from a cache, as the manager does.
func newCached(t *testing.T, namespace string) client.Client {
	t.Helper()
	g := NewWithT(t)
	live := newKube(t)
	cached, err := cache.New(apiServer(t), cache.Options{
		Scheme: live.Scheme(), Mapper: live.RESTMapper(), DefaultNamespaces: map[string]cache.Config{namespace: {}},
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cached.IndexField(t.Context(), &batchv1.Job{}, lockIndex, indexJob)).To(Succeed())
	g.Expect(cached.IndexField(t.Context(), &batchv1.CronJob{}, lockIndex, indexCronJob)).To(Succeed())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- cached.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		NewWithT(t).Eventually(ended).WithTimeout(within).Should(Receive(BeNil()))
	})
	g.Expect(cached.WaitForCacheSync(t.Context())).To(BeTrue())
	kube, err := client.New(apiServer(t), client.Options{
		Scheme: live.Scheme(), Mapper: live.RESTMapper(), Cache: &client.CacheOptions{Reader: cached},
	})
	g.Expect(err).NotTo(HaveOccurred())
	return kube
}
