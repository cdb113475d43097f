package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/fault"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/operator"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
)

// What a guarded lock's spec is changed by.

func onDemand(spec *v1alpha1.RedisLockSpec) { spec.Hold = v1alpha1.HoldOnDemand }

func withWatchdog(d time.Duration) func(*v1alpha1.RedisLockSpec) {
	return func(spec *v1alpha1.RedisLockSpec) { spec.Watchdog = new(metav1.Duration{Duration: d}) }
}

func withMinHold(d time.Duration) func(*v1alpha1.RedisLockSpec) {
	return func(spec *v1alpha1.RedisLockSpec) { spec.MinHold = new(metav1.Duration{Duration: d}) }
}

func withMaxHold(d time.Duration) func(*v1alpha1.RedisLockSpec) {
	return func(spec *v1alpha1.RedisLockSpec) { spec.MaxHold = new(metav1.Duration{Duration: d}) }
}

func withMaxWait(d time.Duration) func(*v1alpha1.RedisLockSpec) {
	return func(spec *v1alpha1.RedisLockSpec) { spec.MaxWait = new(metav1.Duration{Duration: d}) }
}

// job builds a guarded Job.
func (st *stand) job(name string, lock *v1alpha1.RedisLock) *wrappers.Job {
	return wrappers.MakeJob(st.namespace, name).Lock(lock.Name)
}

// cronJob builds a CronJob whose Jobs are guarded, and whose ticks the spec makes.
func (st *stand) cronJob(name string, lock *v1alpha1.RedisLock) *wrappers.CronJob {
	return wrappers.MakeCronJob(st.namespace, name).Lock(lock.Name)
}

// make makes an object in a cluster and returns it as it is there.
func (s *site) make(ctx context.Context, object client.Object) {
	GinkgoHelper()
	Expect(s.Create(ctx, object)).To(Succeed())
}

// makeCronJob makes a CronJob.
func (s *site) makeCronJob(ctx context.Context, c *batchv1.CronJob) *batchv1.CronJob {
	GinkgoHelper()
	s.make(ctx, c)
	return c
}

// tick makes the Job of a tick as the CronJob controller does.
func (s *site) tick(ctx context.Context, c *batchv1.CronJob, tick time.Time) *batchv1.Job {
	GinkgoHelper()
	here := &batchv1.CronJob{}
	Expect(s.Get(ctx, client.ObjectKeyFromObject(c), here)).To(Succeed())
	job := wrappers.TickJob(here, tick)
	s.make(ctx, job)
	return job
}

// note writes a CronJob's lastScheduleTime as the CronJob controller does after it
// has made a Job.
func (s *site) note(ctx context.Context, c *batchv1.CronJob, tick time.Time) {
	GinkgoHelper()
	patch := fmt.Sprintf(`{"status":{"lastScheduleTime":%q}}`, tick.UTC().Format(time.RFC3339))
	Expect(s.Status().Patch(ctx, c.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(patch)))).To(Succeed())
}

// getJob reads a Job, failing the spec or g if it is not there.
func (s *site) getJob(ctx context.Context, g Gomega, job *batchv1.Job) *batchv1.Job {
	got := &batchv1.Job{}
	g.Expect(s.Get(ctx, client.ObjectKeyFromObject(job), got)).To(Succeed())
	return got
}

// eventually waits until a Job is as wanted, and returns it.
func (s *site) eventually(ctx context.Context, job *batchv1.Job, want func(Gomega, *batchv1.Job)) *batchv1.Job {
	GinkgoHelper()
	var got *batchv1.Job
	Eventually(func(g Gomega) {
		got = s.getJob(ctx, g, job)
		want(g, got)
	}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
	return got
}

// patient is for how long a spec waits for what must come, on a machine that others use.
const patient = 2 * time.Minute

func isComplete(g Gomega, job *batchv1.Job) {
	g.Expect(ended(job)).To(Equal(batchv1.JobComplete), "Job %s: %v", job.Name, job.Status)
}

func isFailed(g Gomega, job *batchv1.Job) {
	g.Expect(ended(job)).To(Equal(batchv1.JobFailed), "Job %s: %v", job.Name, job.Status)
}

// isRecorded: the outcome is recorded, so the finalizer is gone.
func isRecorded(g Gomega, job *batchv1.Job) {
	g.Expect(ended(job)).NotTo(BeEmpty())
	g.Expect(job.Finalizers).NotTo(ContainElement(v1alpha1.OutcomeFinalizer))
}

func isRunning(g Gomega, job *batchv1.Job) {
	g.Expect(suspended(job)).To(BeFalse(), "Job %s is suspended", job.Name)
	g.Expect(job.Status.Active).To(BeNumerically(">", 0))
	g.Expect(ptr.Deref(job.Status.Ready, 0)).To(Equal(job.Status.Active))
}

func isSuspended(g Gomega, job *batchv1.Job) {
	g.Expect(suspended(job)).To(BeTrue(), "Job %s is not suspended", job.Name)
}

// neverStarted: it never was let go.
func neverStarted(g Gomega, job *batchv1.Job) {
	isSuspended(g, job)
	g.Expect(job.Status.StartTime).To(BeNil())
	g.Expect(job.Annotations).NotTo(HaveKey(v1alpha1.RunAnnotation))
}

func suspended(job *batchv1.Job) bool { return ptr.Deref(job.Spec.Suspend, false) }

// ended is Complete, Failed or nothing.
func ended(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) {
			return c.Type
		}
	}
	return ""
}

// fenceOf is the fencing token of the run for which a Job was let go last, and grantOf
// that of the grant.
func fenceOf(job *batchv1.Job) uint64 {
	GinkgoHelper()
	n, err := strconv.ParseUint(job.Annotations[v1alpha1.RunAnnotation], 10, 64)
	Expect(err).NotTo(HaveOccurred())
	return n
}

func grantOf(job *batchv1.Job) int64 {
	GinkgoHelper()
	n, err := strconv.ParseInt(job.Annotations[v1alpha1.GrantAnnotation], 10, 64)
	Expect(err).NotTo(HaveOccurred())
	return n
}

// remove deletes a Job as kubectl does, with its pods.
func (s *site) remove(ctx context.Context, job *batchv1.Job) {
	GinkgoHelper()
	Expect(s.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
}

// noJob says whether a Job is no longer there.
func (s *site) noJob(ctx context.Context, job *batchv1.Job) bool {
	return apierrors.IsNotFound(s.Get(ctx, client.ObjectKeyFromObject(job), &batchv1.Job{}))
}

// eventuallyNoJob waits until a Job is gone.
func (s *site) eventuallyNoJob(ctx context.Context, job *batchv1.Job) {
	GinkgoHelper()
	Eventually(func() bool { return s.noJob(ctx, job) }).WithContext(ctx).WithTimeout(patient).Should(BeTrue(), "Job %s is still there", job.Name)
}

// notes are what events say about an object, without those of Kubernetes itself.
func (s *site) notes(ctx context.Context, g Gomega, about client.Object) []string {
	var list eventsv1.EventList
	g.Expect(s.List(ctx, &list, client.InNamespace(about.GetNamespace()))).To(Succeed())
	var notes []string
	for _, e := range list.Items {
		if e.Regarding.Name == about.GetName() && e.ReportingController == "redislock-operator" {
			notes = append(notes, e.Reason+": "+e.Note)
		}
	}
	return notes
}

// eventuallyNote waits for an event about an object.
func (s *site) eventuallyNote(ctx context.Context, about client.Object, part string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(s.notes(ctx, g, about)).To(ContainElement(ContainSubstring(part)))
	}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
}

// locks speaks to the stand's Redis as a program of its own.
func (st *stand) locks() *redislock.Client {
	GinkgoHelper()
	if st.redisClient == nil {
		c, err := redislock.New(st.client())
		Expect(err).NotTo(HaveOccurred())
		st.redisClient = c
	}
	return st.redisClient
}

func key(lock *v1alpha1.RedisLock) string { return redislock.Key(lock.Namespace, lock.Name) }

// runs reads what is recorded of the runs under a lock.
func (st *stand) runs(ctx context.Context, g Gomega, lock *v1alpha1.RedisLock) redislock.Runs {
	runs, err := st.locks().Runs(ctx, key(lock))
	g.Expect(err).NotTo(HaveOccurred())
	return runs
}

// record is what Redis knows of a tick.
func record(runs redislock.Runs, tick time.Time) redislock.TickRecord {
	i := slices.IndexFunc(runs.Ticks, func(r redislock.TickRecord) bool { return r.Tick.Equal(tick) })
	if i < 0 {
		return redislock.TickRecord{}
	}
	return runs.Ticks[i]
}

// label is that of the stand's namespace in metrics.
func (st *stand) label() string { return `namespace="` + st.namespace + `"` }

// eventuallyRecordedOf is eventuallyRecorded where a lock has several series.
func (st *stand) eventuallyRecordedOf(ctx context.Context, lock *v1alpha1.RedisLock, series string, tick time.Time, outcome string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(st.runs(ctx, g, lock).Ticks).To(ContainElement(And(
			HaveField("Series", series), HaveField("Tick", BeTemporally("==", tick)), HaveField("State", redislock.TickDone), HaveField("Outcome", outcome))))
	}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
}

// eventuallyRecorded waits until a tick is recorded as done, and checks how.
func (st *stand) eventuallyRecorded(ctx context.Context, lock *v1alpha1.RedisLock, tick time.Time, outcome string) redislock.TickRecord {
	GinkgoHelper()
	var r redislock.TickRecord
	Eventually(func(g Gomega) {
		r = record(st.runs(ctx, g, lock), tick)
		g.Expect(r.State).To(Equal(redislock.TickDone))
	}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
	Expect(r.Outcome).To(Equal(outcome))
	return r
}

// eventuallyFree waits until nobody holds a lock and no run is claimed under it.
func (st *stand) eventuallyFree(ctx context.Context, lock *v1alpha1.RedisLock) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		info, err := st.locks().Inspect(ctx, key(lock))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.Status).To(Equal(redislock.Free), "held by %s", info.Holder)
		g.Expect(st.runs(ctx, g, lock).Active).To(BeEmpty())
	}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
}

// lose takes a lock's key away, as an eviction or a person does.
func (st *stand) lose(ctx context.Context, lock *v1alpha1.RedisLock) {
	GinkgoHelper()
	Expect(st.client().Del(ctx, key(lock)).Err()).To(Succeed())
}

// lostRunner claims a tick as another cluster does that is then lost with its lease.
func (st *stand) lostRunner(ctx context.Context, lock *v1alpha1.RedisLock, series string, tick time.Time) redislock.Claim {
	GinkgoHelper()
	grant, err := st.locks().TryAcquire(ctx, key(lock), redislock.LockIdentity("elsewhere"))
	Expect(err).NotTo(HaveOccurred())
	claim, err := grant.Claim(ctx, redislock.ClaimRequest{Run: redislock.Run{Series: series, Tick: tick}, Claimant: "elsewhere/1"})
	Expect(err).NotTo(HaveOccurred())
	Expect(grant.Release(ctx)).To(Succeed())
	return claim
}

// faultsBinary is a manager that dies or stands still where its environment says so.
var faultsBinary = sync.OnceValues(func() (string, error) { return operator.BuildFaults(context.Background()) })

// faulty prepares a manager of a cluster that dies, or stops, at a point, once.
func (st *stand) faulty(s *site, variable, point string, args ...string) *faultyManager {
	GinkgoHelper()
	binary, err := faultsBinary()
	Expect(err).NotTo(HaveOccurred())
	once := filepath.Join(GinkgoT().TempDir(), "once")
	return &faultyManager{once: once, Manager: st.manager(s, operator.Options{
		Binary: binary, Name: s.name + "-" + strings.ReplaceAll(point, ",", "-"), Args: args,
		Env: []string{variable + "=" + point, fault.Once + "=" + once},
	})}
}

type faultyManager struct {
	*operator.Manager
	once string
}

// eventuallyDies waits until the manager has killed itself.
func (m *faultyManager) eventuallyDies(ctx context.Context) {
	GinkgoHelper()
	Eventually(m.once).WithContext(ctx).WithTimeout(patient).Should(BeAnExistingFile(), "the manager did not come to its fault point")
	Eventually(m.Running).WithContext(ctx).Should(BeFalse())
}

// eventuallyStops waits until the manager stands still at a point.
func (m *faultyManager) eventuallyStops(ctx context.Context, point string) {
	GinkgoHelper()
	Eventually(m.once+"."+point).WithContext(ctx).WithTimeout(patient).Should(BeAnExistingFile(), "the manager did not come to its fault point")
	Expect(m.Pause(ctx)).To(Succeed()) // returns when it does
}

// metric is the value of a metric with these labels, as name="value"; -1 where it is
// not there.
func metric(ctx context.Context, g Gomega, m *operator.Manager, name string, labels ...string) float64 {
	text, err := m.Metrics(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(text) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.HasPrefix(series, name+"{") || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(series, l) }) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		g.Expect(err).NotTo(HaveOccurred())
		return n
	}
	return -1
}

// witness sees all pods of guarded Jobs come and go, in all clusters.
type witness struct {
	mu   sync.Mutex
	pods map[types.UID]sighting
	// twins are pods that began while another of their Job lived, by the order in which
	// their cluster tells of them.
	twins []string
}

type sighting struct {
	site  *site
	lives bool
	job   string
	fence string
	// from and to are by the clusters' clocks, which are one here, in whole seconds. A
	// pod that has not ended has no end.
	from, to time.Time
}

func (p sighting) String() string {
	return fmt.Sprintf("%s %s fence %s %s-%s", p.site.name, p.job, p.fence, p.from.Format("15:04:05"), p.to.Format("15:04:05"))
}

// witness begins to look at the pods under a lock.
func (st *stand) witness(ctx context.Context, lock *v1alpha1.RedisLock, sites ...*site) *witness {
	GinkgoHelper()
	w := &witness{pods: map[types.UID]sighting{}}
	for _, s := range sites {
		go func() {
			for ctx.Err() == nil {
				w.look(ctx, s, client.InNamespace(st.namespace), client.MatchingLabels{v1alpha1.LockLabel: lock.Name})
			}
		}()
	}
	return w
}

// look sees what there is and what comes, until the watch ends.
func (w *witness) look(ctx context.Context, s *site, which ...client.ListOption) {
	var pods corev1.PodList
	if s.List(ctx, &pods, which...) != nil {
		time.Sleep(100 * time.Millisecond)
		return
	}
	for i := range pods.Items {
		w.see(s, &pods.Items[i], false)
	}
	events, err := s.Watch(ctx, &corev1.PodList{}, append(which, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: pods.ResourceVersion}})...)
	if err != nil {
		return
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		if pod, ok := event.Object.(*corev1.Pod); ok {
			w.see(s, pod, event.Type == watch.Deleted)
		}
	}
}

func (w *witness) see(s *site, pod *corev1.Pod, gone bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pods[pod.UID]
	p.site, p.from = s, pod.CreationTimestamp.Time
	p.job, p.fence = pod.Labels[batchv1.JobNameLabel], pod.Annotations[v1alpha1.FencingTokenAnnotation]
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Terminated != nil {
			p.to = c.State.Terminated.FinishedAt.Time
		}
	}
	if gone && p.to.IsZero() {
		p.to = time.Now()
	}
	p.lives = !gone && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
	if _, known := w.pods[pod.UID]; !known && p.lives {
		for _, other := range w.pods {
			if other.lives && other.site == s && other.job == p.job {
				w.twins = append(w.twins, other.String()+" | "+p.String())
			}
		}
	}
	w.pods[pod.UID] = p
}

// twinned are pods that began while another of their Job lived.
func (w *witness) twinned() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.twins)
}

// seen are the pods of a Job, by when they began.
func (w *witness) seen(s *site, job string) []sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []sighting
	for _, p := range w.pods {
		if p.site == s && p.job == job {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b sighting) int { return a.from.Compare(b.from) })
	return list
}

// all are all pods, by when they began.
func (w *witness) all() []sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []sighting
	for _, p := range w.pods {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b sighting) int { return a.from.Compare(b.from) })
	return list
}

// overlaps names pods of two Jobs that ran at the same time for a second or more.
func (w *witness) overlaps() []string {
	var list []string
	all := w.all()
	for i, a := range all {
		for _, b := range all[i+1:] {
			if (a.site != b.site || a.job != b.job) && (a.to.IsZero() || b.from.Before(a.to)) {
				list = append(list, a.String()+" | "+b.String())
			}
		}
	}
	return list
}
