package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/certs"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// secret must never be seen in a status, an event or a log.
const secret = "hunter2-hunter2"

var _ = Describe("Stores that cannot be used", func() {
	var st *stand
	BeforeEach(func(ctx context.Context) { st = newStand(ctx) }, NodeTimeout(time.Minute))

	file := func(name, content string) string {
		GinkgoHelper()
		path := filepath.Join(st.dir, name)
		Expect(os.WriteFile(path, []byte(content), 0o600)).To(Succeed())
		return path
	}

	// says runs a manager with one store and waits for the condition and the event
	// that name the cause.
	says := func(ctx context.Context, config, store string, want v1alpha1.ConditionReason, cause string) {
		GinkgoHelper()
		lock := st.lock("lock", func(spec *v1alpha1.RedisLockSpec) { spec.Store = store })
		create(ctx, lock, blue)
		m := st.manager(blue, operator.Options{Config: config})
		Expect(m.Start()).To(Succeed())
		Eventually(func(g Gomega) {
			status := blue.status(ctx, g, lock)
			g.Expect(status.State).To(Equal(v1alpha1.StateFree))
			for _, kind := range []v1alpha1.ConditionType{v1alpha1.ConditionReady, v1alpha1.ConditionAcquired} {
				g.Expect(reason(status, kind)).To(Equal(want))
				g.Expect(message(status, kind)).To(ContainSubstring(cause))
				g.Expect(message(status, kind)).NotTo(ContainSubstring(secret))
			}
			var told bool
			for _, event := range blue.events(ctx, g, lock) {
				g.Expect(event.Note).NotTo(ContainSubstring(secret))
				told = told || event.Reason == string(want) && event.Type == "Warning"
			}
			g.Expect(told).To(BeTrue(), "no event tells of it")
		}).WithContext(ctx).Should(Succeed())
		log, err := os.ReadFile(m.LogFile())
		Expect(err).NotTo(HaveOccurred())
		Expect(string(log)).NotTo(ContainSubstring(secret))
	}

	It("names a store that is not configured, and those that are", func(ctx context.Context) {
		says(ctx, st.config(), "elsewhere", v1alpha1.ReasonStoreUnknown, `no store "elsewhere"; it has: default`)
	}, SpecTimeout(2*time.Minute))

	It("names a URL that is none", func(ctx context.Context) {
		url := file("url", "redis://user:"+secret+"@host:notaport")
		says(ctx, "stores:\n- {name: default, urlFile: "+url+"}", "default", v1alpha1.ReasonStoreInvalid, "redis://host:6379/0")
	}, SpecTimeout(2*time.Minute))

	It("names an address where nobody answers", func(ctx context.Context) {
		Expect(st.redis.Kill()).To(Succeed())
		says(ctx, st.config(), "default", v1alpha1.ReasonStoreUnreachable, "connection refused")
	}, SpecTimeout(2*time.Minute))

	It("names a wrong password, and goes on with the right one without a restart", func(ctx context.Context) {
		guarded := redisserver.Start(GinkgoTB(), redisserver.Options{Password: "right"})
		password := file("password", secret)
		config := fmt.Sprintf("stores:\n- {name: default, url: 'redis://%s', passwordFile: %s}", guarded.Addr(), password)
		says(ctx, config, "default", v1alpha1.ReasonStoreRefused, "WRONGPASS")

		file("password", "right\n")
		eventuallyOneHolds(ctx, st.lock("lock"), blue)
	}, SpecTimeout(2*time.Minute))

	It("names a file that is missing", func(ctx context.Context) {
		config := fmt.Sprintf("stores:\n- {name: default, url: 'redis://%s', passwordFile: %s}", st.redis.Addr(), filepath.Join(st.dir, "none"))
		says(ctx, config, "default", v1alpha1.ReasonStoreUnreachable, "passwordFile: open")
	}, SpecTimeout(2*time.Minute))

	It("names a certificate that the given authority did not sign", func(ctx context.Context) {
		encrypted := redisserver.Start(GinkgoTB(), redisserver.Options{TLS: true})
		stranger, err := certs.NewCA("somebody else")
		Expect(err).NotTo(HaveOccurred())
		ca := file("ca.crt", string(stranger.Cert))
		config := fmt.Sprintf("stores:\n- {name: default, url: 'rediss://%s', caFile: %s}", encrypted.Addr(), ca)
		says(ctx, config, "default", v1alpha1.ReasonStoreUnreachable, "certificate signed by unknown authority")
	}, SpecTimeout(2*time.Minute))

	It("works with TLS and the right authority", func(ctx context.Context) {
		encrypted := redisserver.Start(GinkgoTB(), redisserver.Options{TLS: true})
		config := fmt.Sprintf("stores:\n- {name: default, url: 'rediss://%s', caFile: %s}", encrypted.Addr(), encrypted.CAFile())
		lock := st.lock("tls")
		create(ctx, lock, blue)
		Expect(st.manager(blue, operator.Options{Config: config}).Start()).To(Succeed())
		eventuallyOneHolds(ctx, lock, blue)
	}, SpecTimeout(2*time.Minute))

	It("keeps a namespace from another's keys, unless the key policy allows it", func(ctx context.Context) {
		key := "lock:payments:" + st.namespace
		lock := st.lock("lock", func(spec *v1alpha1.RedisLockSpec) { spec.Key = key })
		create(ctx, lock, blue)
		first := st.manager(blue, operator.Options{})
		Expect(first.Start()).To(Succeed())
		Eventually(func(g Gomega) {
			status := blue.status(ctx, g, lock)
			g.Expect(reason(status, v1alpha1.ConditionReady)).To(Equal(v1alpha1.ReasonKeyNotAllowed))
			g.Expect(message(status, v1alpha1.ConditionReady)).To(ContainSubstring("lock:" + st.namespace + ":"))
		}).WithContext(ctx).Should(Succeed())
		Expect(st.client().Exists(ctx, key).Val()).To(BeZero())
		Expect(first.Stop()).To(Succeed())

		policy := "keyPolicy:\n- {namespace: 'e2e-*', prefixes: ['lock:payments:']}\n"
		Expect(st.manager(blue, operator.Options{Name: "allowed", Config: st.config() + policy}).Start()).To(Succeed())
		eventuallyOneHolds(ctx, lock, blue)
	}, SpecTimeout(2*time.Minute))

	It("says in StoreSafe how a Redis endangers locks, and when it no longer does", func(ctx context.Context) {
		lock := st.lock("lock")
		create(ctx, lock, blue)
		st.run(blue)
		storeSafe := func(status metav1.ConditionStatus, text string) func(Gomega) {
			return func(g Gomega) {
				c := meta.FindStatusCondition(blue.status(ctx, g, lock).Conditions, string(v1alpha1.ConditionStoreSafe))
				g.Expect(c).NotTo(BeNil())
				g.Expect(c.Status).To(Equal(status))
				g.Expect(c.Message).To(ContainSubstring(text))
			}
		}
		Eventually(storeSafe(metav1.ConditionFalse, "set appendonly yes")).WithContext(ctx).Should(Succeed())
		rdb := st.client()
		Expect(rdb.ConfigSet(ctx, "appendonly", "yes").Err()).To(Succeed())
		Expect(rdb.ConfigSet(ctx, "maxmemory", "100mb").Err()).To(Succeed())
		Expect(rdb.ConfigSet(ctx, "maxmemory-policy", "volatile-lru").Err()).To(Succeed())
		// It looks once a minute, and when it starts.
		Expect(st.managers[blue].Stop()).To(Succeed())
		Expect(st.managers[blue].Start()).To(Succeed())
		Eventually(storeSafe(metav1.ConditionFalse, "set noeviction")).WithContext(ctx).Should(Succeed())
		metrics, err := st.managers[blue].Metrics(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(metrics).To(ContainSubstring(`redislock_store_check{check="Eviction",store="default",verdict="Dangerous"} 1`))
		Expect(metrics).To(ContainSubstring(`redislock_store_up{store="default"} 1`))

		Expect(rdb.ConfigSet(ctx, "maxmemory-policy", "noeviction").Err()).To(Succeed())
		Expect(st.managers[blue].Stop()).To(Succeed())
		Expect(st.managers[blue].Start()).To(Succeed())
		Eventually(storeSafe(metav1.ConditionTrue, "nothing was found")).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(3*time.Minute))
})

var _ = Describe("A manager that is configured wrongly", func() {
	DescribeTable("ends at once and says what to change",
		func(ctx context.Context, config string, args []string, want string) {
			st := newStand(ctx)
			m := st.manager(blue, operator.Options{Config: config, Args: args})
			Expect(m.Start()).To(Succeed())
			Eventually(m.Running).WithContext(ctx).Should(BeFalse())
			Expect(m.Tail()).To(ContainSubstring(want))
			Expect(m.Tail()).NotTo(ContainSubstring(secret))
		},
		Entry("no store", "clusterName: blue", nil, "no store is configured", SpecTimeout(time.Minute)),
		Entry("an unknown field", "store: []", nil, `unknown field \"store\"`, SpecTimeout(time.Minute)),
		Entry("a store twice", "stores: [{name: a, url: redis://x}, {name: a, url: redis://y}]", nil, "is there twice", SpecTimeout(time.Minute)),
		Entry("a password in the file", "stores: [{name: a, url: 'redis://:"+secret+"@x'}]", nil, "passwordFile", SpecTimeout(time.Minute)),
		Entry("a bad flag", "clusterName: blue", []string{"--store=redis://x"}, "write name=url", SpecTimeout(time.Minute)),
		Entry("a bad cluster name", "stores: [{name: a, url: redis://x}]", []string{"--cluster-name=Blue Cluster"}, "clusterName", SpecTimeout(time.Minute)),
	)
})
