package controllers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

var (
	debounceOpenMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "redislock_debounce_open", Help: "1 while calls wait for their run or a run goes on, in whichever cluster, else 0.",
	}, []string{"namespace", "name"})
	debounceCallsMetric = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "redislock_debounce_calls_total", Help: "Calls that this process recorded, by what made them: annotation, configmap or http.",
	}, []string{"namespace", "name", "trigger"})
	debounceRunsMetric = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "redislock_debounce_runs_total", Help: "Runs that ended in this process, by outcome: Succeeded, Failed or Lost.",
	}, []string{"namespace", "name", "outcome"})
	debounceRunSecondsMetric = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "redislock_debounce_run_duration_seconds", Help: "How long runs took, from their claim by this process.",
		Buckets: []float64{.1, .5, 1, 5, 15, 60, 300, 900, 3600},
	}, []string{"namespace", "name"})
	debounceDelayMetric = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "redislock_debounce_delay_seconds", Help: "Time from the first call of a run until this process claimed it.",
		Buckets: []float64{.1, .5, 1, 2, 5, 10, 30, 60, 300, 900, 3600},
	}, []string{"namespace", "name"})
	debounceLostMetric = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "redislock_debounce_calls_lost_total", Help: "How often this process noticed that Redis had lost recorded calls.",
	}, []string{"namespace", "name"})
)

func init() {
	metrics.Registry.MustRegister(debounceOpenMetric, debounceCallsMetric, debounceRunsMetric, debounceRunSecondsMetric, debounceDelayMetric, debounceLostMetric)
}

func measureDebounce(object types.NamespacedName, state v1alpha1.LockState) {
	open := 0.0
	if state == v1alpha1.StateAcquired {
		open = 1
	}
	debounceOpenMetric.WithLabelValues(object.Namespace, object.Name).Set(open)
}

func measureDebounceCall(object types.NamespacedName, trigger string) {
	debounceCallsMetric.WithLabelValues(object.Namespace, object.Name, trigger).Inc()
}

func measureDebounceClaim(object types.NamespacedName, waited time.Duration) {
	debounceDelayMetric.WithLabelValues(object.Namespace, object.Name).Observe(waited.Seconds())
}

func measureDebounceRun(object types.NamespacedName, outcome v1alpha1.RunOutcome, took time.Duration) {
	debounceRunsMetric.WithLabelValues(object.Namespace, object.Name, string(outcome)).Inc()
	debounceRunSecondsMetric.WithLabelValues(object.Namespace, object.Name).Observe(took.Seconds())
}

func forgetDebounce(object types.NamespacedName) {
	labels := prometheus.Labels{"namespace": object.Namespace, "name": object.Name}
	for _, metric := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		debounceOpenMetric, debounceCallsMetric, debounceRunsMetric, debounceRunSecondsMetric, debounceDelayMetric, debounceLostMetric,
	} {
		metric.DeletePartialMatch(labels)
	}
}
