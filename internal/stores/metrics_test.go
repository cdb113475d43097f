package stores

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	dto "github.com/prometheus/client_model/go"

	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

func TestRenewalsAreMeasured(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	server := redisserver.Start(t, redisserver.Options{})
	failures := func(g Gomega) float64 {
		var m dto.Metric
		g.Expect(renewFailuresMetric.WithLabelValues("measured").Write(&m)).To(Succeed())
		return m.GetCounter().GetValue()
	}
	before := failures(g)
	list := New(config.Config{Stores: []config.Store{{Name: "measured", URL: server.URL()}}})
	t.Cleanup(func() { list.Close(t.Context()) })
	_, err := list.Get("measured").Client().TryAcquire(t.Context(), "lock:ns:name", redislock.WithLease(10*time.Second), redislock.WithRenewEvery(time.Second))
	g.Expect(err).NotTo(HaveOccurred())

	g.Eventually(func(g Gomega) uint64 {
		var m dto.Metric
		g.Expect(renewMetric.WithLabelValues("measured").(interface{ Write(*dto.Metric) error }).Write(&m)).To(Succeed())
		return m.GetHistogram().GetSampleCount()
	}).WithTimeout(patience).Should(BeNumerically(">", 2))

	g.Expect(failures(g)).To(Equal(before))
	g.Expect(server.Kill()).To(Succeed())
	g.Eventually(failures).WithTimeout(patience).Should(BeNumerically(">", before))
}
