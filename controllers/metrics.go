package controllers

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/stores"
)

var (
	heldMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "redislock_held", Help: "1 while this cluster holds the lock, else 0.",
	}, []string{"namespace", "name"})
	transitionsMetric = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "redislock_transitions_total", Help: "How often a lock was acquired or given up in this cluster, as this process saw it.",
	}, []string{"namespace", "name"})
	storeUpMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "redislock_store_up", Help: "1 while the store answers, else 0.",
	}, []string{"store"})
	storeCheckMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "redislock_store_check", Help: "1 for the verdict that a property of the store came to: Safe, Dangerous or Unverified.",
	}, []string{"store", "check", "verdict"})
)

func init() {
	metrics.Registry.MustRegister(heldMetric, transitionsMetric, storeUpMetric, storeCheckMetric)
}

func measureState(object types.NamespacedName, state v1alpha1.LockState) {
	held := 0.0
	if state == v1alpha1.StateAcquired {
		held = 1
	}
	heldMetric.WithLabelValues(object.Namespace, object.Name).Set(held)
}

func measureTransitions(object types.NamespacedName, n int64) {
	transitionsMetric.WithLabelValues(object.Namespace, object.Name).Add(float64(n))
}

func forgetLock(object types.NamespacedName) {
	heldMetric.DeleteLabelValues(object.Namespace, object.Name)
	transitionsMetric.DeleteLabelValues(object.Namespace, object.Name)
}

func measureStore(name string, state stores.State) {
	up := 0.0
	if state.Looked && state.Invalid == nil && state.Unreachable == nil {
		up = 1
	}
	storeUpMetric.WithLabelValues(name).Set(up)
	storeCheckMetric.DeletePartialMatch(prometheus.Labels{"store": name})
	for _, finding := range state.Report.Findings {
		storeCheckMetric.WithLabelValues(name, finding.Check, string(finding.Verdict)).Set(1)
	}
}
