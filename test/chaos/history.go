package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// A Tick is one scheduled time of a CronJob.
type Tick struct {
	Series string
	At     int64 // Unix seconds
}

func (t Tick) String() string {
	return t.Series + " at " + time.Unix(t.At, 0).UTC().Format("15:04:05")
}

// A Job is one guarded Job of one cluster, as its API server had it.
type Job struct {
	Cluster, Name, UID string
	Lock               string
	Tick               Tick // zero: it is for no tick
	// Claim is the fencing token of the run for which it was let go last.
	Claim uint64
	// Ended is its condition, Complete or Failed, and Reason that of a failure.
	Ended, Reason string
	// Recorded is when the finalizer was taken off a Job that had ended: the operator
	// has had its outcome recorded by then.
	Recorded time.Time
	// Gone is when it was deleted.
	Gone time.Time
	// Pending: it has a finalizer of ours, or waits.
	Pending bool
}

// A Run is what one claim made run: pods of one Job.
type Run struct {
	Cluster, Job, UID string
	Lock              string
	Tick              Tick
	// Claim is the fencing token of the claim, Token what the pods got to see.
	Claim, Token uint64
	// Begin is when the first of its pods ran, and End when the last that ran was
	// terminal or gone; zero while one runs.
	Begin, End time.Time
	Succeeded  bool
}

func (r *Run) String() string {
	end := "still runs"
	if !r.End.IsZero() {
		end = r.End.Format("15:04:05.000")
	}
	return fmt.Sprintf("%s in %s (token %d, %s - %s)", r.Job, r.Cluster, r.Token, r.Begin.Format("15:04:05.000"), end)
}

// until is when a run ended, or the end of time.
func (r *Run) until() time.Time {
	if r.End.IsZero() {
		return time.Unix(1<<40, 0)
	}
	return r.End
}

// recorder takes in what the clusters' histories say. Times are those at which it
// came to know, all by one process's monotonic clock.
type recorder struct {
	namespace string
	// begun and ended are told of pods that run in a run, and that do not any more.
	begun func(pod string, run *Run)
	ended func(pod string)

	mu     sync.Mutex
	jobs   map[string]*Job     // by UID
	byKey  map[string]string   // UID by cluster and key
	pods   map[string]*podSeen // by cluster and key
	runs   map[runKey]*Run
	live   map[runKey]int
	order  []*Run
	marks  map[string]bool // clusters of which all was seen
	broken []string
}

type runKey struct {
	uid   string
	claim uint64
}

type podSeen struct {
	uid     string
	run     runKey
	running bool
}

// markName is the name of a Job that is made when all is over, in no cluster guarded:
// once it was seen there, so was all before it.
const markName = "all-is-over"

func newRecorder(namespace string) *recorder {
	return &recorder{
		namespace: namespace, begun: func(string, *Run) {}, ended: func(string) {},
		jobs: map[string]*Job{}, byKey: map[string]string{}, pods: map[string]*podSeen{},
		runs: map[runKey]*Run{}, live: map[runKey]int{}, marks: map[string]bool{},
	}
}

func (r *recorder) take(cluster string, e etcdEvent) {
	rest, ok := strings.CutPrefix(e.Key, "/registry/")
	if !ok {
		return
	}
	kind, rest, _ := strings.Cut(rest, "/")
	if namespace, _, _ := strings.Cut(rest, "/"); namespace != r.namespace || kind != "jobs" && kind != "pods" {
		return
	}
	key := cluster + " " + e.Key
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Value == nil {
		r.gone(key, e.At)
		return
	}
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(e.Value, nil, nil)
	if err != nil {
		r.broken = append(r.broken, fmt.Sprintf("%s: %v", key, err))
		return
	}
	switch o := object.(type) {
	case *batchv1.Job:
		r.job(cluster, key, o, e.At)
	case *corev1.Pod:
		r.pod(cluster, key, o, e.At)
	}
}

func (r *recorder) gone(key string, at time.Time) {
	if job := r.jobs[r.byKey[key]]; job != nil {
		job.Gone, job.Pending = at, false
		if job.Ended != "" && job.Recorded.IsZero() {
			job.Recorded = at
		}
	}
	if pod := r.pods[key]; pod != nil {
		r.over(pod, false, at)
		delete(r.pods, key)
	}
}

func (r *recorder) job(cluster, key string, o *batchv1.Job, at time.Time) {
	if o.Name == markName {
		r.marks[cluster] = true
		return
	}
	lock := o.Labels[v1alpha1.LockLabel]
	if lock == "" {
		return
	}
	job := r.jobs[string(o.UID)]
	if job == nil {
		job = &Job{Cluster: cluster, Name: o.Name, UID: string(o.UID), Lock: lock, Tick: tickOf(o)}
		r.jobs[job.UID] = job
		r.byKey[key] = job.UID
	}
	job.Claim, _ = strconv.ParseUint(o.Annotations[v1alpha1.RunAnnotation], 10, 64)
	for _, c := range o.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			job.Ended, job.Reason = string(c.Type), c.Reason
		}
	}
	held := false
	for _, f := range o.Finalizers {
		held = held || f == v1alpha1.OutcomeFinalizer
	}
	if job.Ended != "" && !held && job.Recorded.IsZero() {
		job.Recorded = at
	}
	job.Pending = job.Ended == "" || held
}

func tickOf(o *batchv1.Job) Tick {
	owner := metav1.GetControllerOf(o)
	at, err := time.Parse(time.RFC3339, o.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	if owner == nil || owner.Kind != "CronJob" || err != nil {
		return Tick{}
	}
	return Tick{o.Namespace + "/" + owner.Name, at.Unix()}
}

func (r *recorder) pod(cluster, key string, o *corev1.Pod, at time.Time) {
	seen := r.pods[key]
	if seen == nil || seen.uid != string(o.UID) {
		owner := metav1.GetControllerOf(o)
		if owner == nil || r.jobs[string(owner.UID)] == nil {
			return
		}
		job := r.jobs[string(owner.UID)]
		token, _ := strconv.ParseUint(o.Annotations[v1alpha1.FencingTokenAnnotation], 10, 64)
		seen = &podSeen{uid: string(o.UID), run: runKey{job.UID, job.Claim}}
		r.pods[key] = seen
		if r.runs[seen.run] == nil {
			r.runs[seen.run] = &Run{Cluster: cluster, Job: job.Name, UID: job.UID, Lock: job.Lock, Tick: job.Tick, Claim: job.Claim, Token: token}
		}
	}
	switch {
	case o.Status.Phase == corev1.PodRunning && !seen.running:
		seen.running = true
		run := r.runs[seen.run]
		if run.Begin.IsZero() {
			run.Begin = at
			r.order = append(r.order, run)
		}
		run.End = time.Time{}
		r.live[seen.run]++
		r.begun(seen.uid, run)
	case o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed:
		r.over(seen, o.Status.Phase == corev1.PodSucceeded, at)
	}
}

func (r *recorder) over(pod *podSeen, succeeded bool, at time.Time) {
	if !pod.running {
		return
	}
	pod.running = false
	run := r.runs[pod.run]
	run.Succeeded = run.Succeeded || succeeded
	if r.live[pod.run]--; r.live[pod.run] == 0 {
		run.End = at
	}
	r.ended(pod.uid)
}

// saw tells whether all was seen that happened in a cluster before its mark.
func (r *recorder) saw(cluster string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.marks[cluster]
}

// pending names guarded Jobs with which the operators are not done.
func (r *recorder) pending() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, job := range r.jobs {
		if job.Pending {
			names = append(names, job.Name+" in "+job.Cluster)
		}
	}
	return names
}

// fill copies what was seen into a history.
func (r *recorder) fill(h *History) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range r.order {
		h.Runs = append(h.Runs, *run)
	}
	for _, job := range r.jobs {
		h.Jobs = append(h.Jobs, *job)
	}
	h.Unreadable = append(h.Unreadable, r.broken...)
}

// A Record is what Redis had of a tick at some time.
type Record struct {
	Tick    Tick
	State   redislock.TickState
	Claim   uint64
	Outcome string
	At      time.Time // of the claim or the end, by the server's clock
}

// ledger collects the records of ticks: Redis keeps only the latest of each series.
type ledger struct {
	mu     sync.Mutex
	seen   map[Record]bool
	all    []Record
	latest map[Tick]Record
	newest map[string]int64
}

func newLedger() *ledger {
	return &ledger{seen: map[Record]bool{}, latest: map[Tick]Record{}, newest: map[string]int64{}}
}

func (l *ledger) take(runs redislock.Runs) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range runs.Ticks {
		r := Record{Tick{t.Series, t.Tick.Unix()}, t.State, t.Fence, t.Outcome, t.At}
		if !l.seen[r] {
			l.seen[r] = true
			l.all = append(l.all, r)
		}
		l.latest[r.Tick] = r
	}
	for series, tick := range runs.HighWater {
		l.newest[series] = max(l.newest[series], tick.Unix())
	}
}

// fill copies what was seen into a history.
func (l *ledger) fill(h *History) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.Records = slices.Clone(l.all)
	maps.Copy(h.Newest, l.newest)
}

// open names ticks that were claimed and are not done.
func (l *ledger) open() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var open []string
	for tick, r := range l.latest {
		if r.State != redislock.TickDone {
			open = append(open, "tick of "+tick.String())
		}
	}
	return open
}
