package controllers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
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
	"github.com/redislock-operator/redislock-operator/test/poll"
)

// within is for a busy machine.
const within = time.Minute

// shared is the API server of all tests, which has the CRDs as config/ has them.
var shared = cluster.Shared{
	Options: cluster.Options{Name: "controllers", Bare: true, Log: os.Stderr},
	Prepare: func(ctx context.Context, c *cluster.Cluster) error {
		if _, err := c.Kubectl(ctx, "apply", "--server-side", "-f", filepath.Join("..", "config", "crd", "bases")); err != nil {
			return err
		}
		kube, err := operator.NewClient(c.RESTConfig())
		if err != nil {
			return err
		}
		return poll.Until(ctx, within, 100*time.Millisecond, func() error {
			return errors.Join(kube.List(ctx, &v1alpha1.RedisLockList{}), kube.List(ctx, &v1alpha1.DebounceList{}))
		})
	},
}

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// apiServer is how to reach that of all tests.
func apiServer(t *testing.T) *rest.Config {
	t.Helper()
	config := shared.Get(t).RESTConfig()
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
