package controllers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var (
	activeMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "redislock_active_jobs", Help: "Guarded Jobs that run in this cluster.",
	}, []string{"namespace", "name"})
	waitingMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "redislock_waiting_jobs", Help: "Guarded Jobs that wait in this cluster, those that stand by included.",
	}, []string{"namespace", "name"})
	waitMetric = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "redislock_job_wait_seconds", Help: "Time from the creation of a guarded Job until it was let go.",
		Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600},
	}, []string{"namespace", "name"})
	runsMetric = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "redislock_runs_total", Help: "Runs that this cluster recorded, by outcome: Complete, Failed, Deleted or Lost.",
	}, []string{"namespace", "name", "outcome"})
	ticksMetric = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "redislock_ticks_total",
		Help: "Ticks of CronJobs in this cluster: claimed (started here), lost (their runner was), missed (removed without a run), unclaimed (started by no cluster in time).",
	}, []string{"namespace", "name", "series", "result"})
	lastSuccessMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "redislock_last_success_timestamp_seconds", Help: "When a tick of the series completed last, over all clusters, as Unix time.",
	}, []string{"namespace", "name", "series"})
)

func init() {
	metrics.Registry.MustRegister(activeMetric, waitingMetric, waitMetric, runsMetric, ticksMetric, lastSuccessMetric)
}

func (g *guarding) measure() {
	o := g.object()
	activeMetric.WithLabelValues(o.Namespace, o.Name).Set(float64(g.plan.Active))
	waitingMetric.WithLabelValues(o.Namespace, o.Name).Set(float64(g.plan.Waiting))
}

// measureStart counts a Job that was let go; its claim may have been made at an earlier
// try, which was overtaken.
func (g *guarding) measureStart(job *guard.Job) {
	o := g.object()
	waitMetric.WithLabelValues(o.Namespace, o.Name).Observe(time.Since(job.CreationTimestamp.Time).Seconds())
	if job.IsTick() {
		measureTick(o, job.Run.Series, "claimed")
	}
}

func measureTick(o types.NamespacedName, series, result string) {
	ticksMetric.WithLabelValues(o.Namespace, o.Name, series, result).Inc()
}

func measureRun(o types.NamespacedName, outcome guard.Outcome, run redislock.Run) {
	runsMetric.WithLabelValues(o.Namespace, o.Name, string(outcome)).Inc()
	if outcome == guard.Lost && run.Series != "" {
		measureTick(o, run.Series, "lost")
	}
}

func measureRemoved(o types.NamespacedName, step *guard.Step) {
	switch step.Reason {
	case guard.ReasonRanElsewhere, guard.ReasonReplaced, guard.ReasonRerun:
		return
	}
	if step.Job.IsTick() {
		measureTick(o, step.Job.Run.Series, "missed")
	}
}

func measureLastSuccess(o types.NamespacedName, last map[string]time.Time) {
	for series, at := range last {
		lastSuccessMetric.WithLabelValues(o.Namespace, o.Name, series).Set(float64(at.UnixMilli()) / 1000)
	}
}

func forgetJobs(o types.NamespacedName) {
	labels := prometheus.Labels{"namespace": o.Namespace, "name": o.Name}
	for _, vector := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{activeMetric, waitingMetric, waitMetric, runsMetric, ticksMetric, lastSuccessMetric} {
		vector.DeletePartialMatch(labels)
	}
}
