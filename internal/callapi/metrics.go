package callapi

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	requestsMetric = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "redislock_debounce_http_requests_total", Help: "Requests to call a Debounce, by the status that they were answered with; 499: the caller went away before.",
	}, []string{"code"})
	durationMetric = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "redislock_debounce_http_request_duration_seconds", Help: "How long requests to call a Debounce took.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
)

func init() {
	metrics.Registry.MustRegister(requestsMetric, durationMetric)
}

func measure(code int, took time.Duration) {
	requestsMetric.WithLabelValues(strconv.Itoa(code)).Inc()
	durationMetric.Observe(took.Seconds())
}
