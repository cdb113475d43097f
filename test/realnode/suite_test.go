package realnode

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const workerImage = "redislock.test/worker:1"

var (
	managerBinary string
	blue, green   *site
)

// site is one cluster with a real node and the operator installed.
type site struct {
	*cluster.Cluster
	client.Client
	name string
}

func TestRealNode(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "The guard on real nodes")
}

var _ = BeforeSuite(func(ctx context.Context) {
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	EnforceDefaultTimeoutsWhenUsingContexts()

	var err error
	managerBinary, err = operator.Build(ctx)
	Expect(err).NotTo(HaveOccurred())
	var wg sync.WaitGroup
	for name, s := range map[string]**site{"blue": &blue, "green": &green} {
		wg.Go(func() {
			defer GinkgoRecover()
			c, err := cluster.Start(ctx, cluster.Options{Name: name, Nodes: cluster.NodesReal, Log: GinkgoWriter})
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(c.Stop)
			kube, err := operator.NewClient(c.RESTConfig())
			Expect(err).NotTo(HaveOccurred())
			Expect(c.LoadGo(ctx, workerImage, "./test/realnode/internal/worker")).To(Succeed())
			Expect(operator.Install(ctx, c)).To(Succeed())
			// The managers run as processes.
			_, err = c.Kubectl(ctx, "-n", operator.Namespace, "scale", "deployment/redislock-controller-manager", "--replicas=0")
			Expect(err).NotTo(HaveOccurred())
			*s = &site{Cluster: c, Client: kube, name: name}
		})
	}
	wg.Wait()
	Expect(blue).NotTo(BeNil())
	Expect(green).NotTo(BeNil())
}, NodeTimeout(30*time.Minute))

// stand is what one spec works with: a namespace of its own in both clusters, a Redis,
// a register, and a manager for each cluster with a way to Redis of its own.
type stand struct {
	namespace string
	redis     *redisserver.Server
	register  *register
	links     map[*site]*proxy.Proxy
	managers  map[*site]*operator.Manager
	cronJobs  map[*site]*batchv1.CronJob
}

func newStand(ctx context.Context) *stand {
	GinkgoHelper()
	st := &stand{
		namespace: fmt.Sprintf("real-%d", time.Now().UnixNano()),
		redis:     redisserver.Start(GinkgoTB(), redisserver.Options{AppendOnly: true}),
		register:  newRegister(),
		links:     map[*site]*proxy.Proxy{}, managers: map[*site]*operator.Manager{}, cronJobs: map[*site]*batchv1.CronJob{},
	}
	dir := GinkgoT().TempDir()
	for _, s := range []*site{blue, green} {
		Expect(s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: st.namespace}})).To(Succeed())
		DeferCleanup(func(ctx context.Context) { st.clean(ctx, s) }, NodeTimeout(time.Minute))
		Eventually(func() error {
			return s.Get(ctx, client.ObjectKey{Namespace: st.namespace, Name: "default"}, &corev1.ServiceAccount{})
		}).WithContext(ctx).Should(Succeed())
		Expect(s.Create(ctx, st.lock())).To(Succeed())

		st.links[s] = proxy.Start(GinkgoTB(), st.redis.URL())
		m, err := operator.NewManager(s.Cluster, operator.Options{
			Binary: managerBinary, Dir: dir, Name: s.name, ClusterName: s.name,
			Config: operator.StoreAt(st.links[s].URL()),
		})
		Expect(err).NotTo(HaveOccurred())
		st.managers[s] = m
		DeferCleanup(func() {
			if CurrentSpecReport().Failed() {
				GinkgoWriter.Printf("--- log of manager %s\n%s\n", s.name, m.Tail())
			}
			Expect(m.Close()).To(Succeed())
		})
		Expect(m.Start()).To(Succeed())
	}
	return st
}

// clean takes away what a spec left in a cluster, without a manager's help.
func (st *stand) clean(ctx context.Context, s *site) {
	GinkgoHelper()
	if CurrentSpecReport().Failed() {
		out, _ := s.Kubectl(ctx, "-n", st.namespace, "get", "redislocks,jobs,pods", "-o", "wide")
		events, _ := s.Kubectl(ctx, "-n", st.namespace, "get", "events", "--sort-by=.metadata.creationTimestamp")
		GinkgoWriter.Printf("--- cluster %s\n%s%s\n", s.name, out, events)
	}
	Expect(operator.Clean(ctx, s, st.namespace)).To(Succeed())
	Expect(s.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: st.namespace}})).To(Succeed())
}

func other(s *site) *site {
	if s == blue {
		return green
	}
	return blue
}

func siteNamed(name string) *site {
	if name == blue.name {
		return blue
	}
	return green
}
