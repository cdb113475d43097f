package stores

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var (
	renewMetric = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "redislock_renew_duration_seconds", Help: "How long renewals of leases took that the store answered.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
	}, []string{"store"})
	renewFailuresMetric = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "redislock_renew_failures_total", Help: "Renewals of leases that failed: the store did not answer, refused, or had another token.",
	}, []string{"store"})
)

func init() {
	metrics.Registry.MustRegister(renewMetric, renewFailuresMetric)
}

// observer measures the renewals of a store.
func observer(store string) redislock.Observer {
	took, failures := renewMetric.WithLabelValues(store), renewFailuresMetric.WithLabelValues(store)
	return redislock.Observer{Renewed: func(_ string, d time.Duration, err error) {
		switch {
		case err == nil:
			took.Observe(d.Seconds())
		case !errors.Is(err, redislock.ErrReleased):
			failures.Inc()
		}
	}}
}
