package guard

import (
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

func TestPhases(t *testing.T) {
	t.Parallel()
	suspended := func(j *batchv1.Job) { j.Spec.Suspend = new(true) }
	for title, test := range map[string]struct {
		change []func(*batchv1.Job)
		want   Phase
	}{
		"made suspended":                         {nil, Waiting},
		"its controller has seen it":             {[]func(*batchv1.Job){with(batchv1.JobSuspended, "")}, Waiting},
		"let go":                                 {[]func(*batchv1.Job){running(101, 100)}, Running},
		"let go, and its controller is slow":     {[]func(*batchv1.Job){running(101, 100), with(batchv1.JobSuspended, "")}, Running},
		"suspend left out":                       {[]func(*batchv1.Job){func(j *batchv1.Job) { j.Spec.Suspend = nil }}, Running},
		"suspended again, pods active":           {[]func(*batchv1.Job){running(101, 100), suspended, with(batchv1.JobSuspended, "")}, Stopping},
		"suspended again, pods terminating":      {[]func(*batchv1.Job){ran(101, 100), func(j *batchv1.Job) { j.Status.Terminating = new(int32(1)) }}, Stopping},
		"suspended again, not yet taken in":      {[]func(*batchv1.Job){running(101, 100), suspended, func(j *batchv1.Job) { j.Status.Active = 0 }}, Stopping},
		"suspended again, all over":              {[]func(*batchv1.Job){ran(101, 100), func(j *batchv1.Job) { j.Status.Terminating = new(int32(0)) }}, Waiting},
		"suspended once, the condition is false": {[]func(*batchv1.Job){running(101, 100), suspended, func(j *batchv1.Job) { j.Status.Active = 0; condFalse(j, batchv1.JobSuspended) }}, Stopping},
		"complete":                               {[]func(*batchv1.Job){running(101, 100), ended(batchv1.JobComplete, "")}, Ended},
		"failed":                                 {[]func(*batchv1.Job){running(101, 100), ended(batchv1.JobFailed, "")}, Ended},
		"failed, though it is suspended":         {[]func(*batchv1.Job){suspended, ended(batchv1.JobFailed, "")}, Ended},
		"about to fail":                          {[]func(*batchv1.Job){running(101, 100), with(batchv1.JobFailureTarget, "")}, Running},
		"about to be complete":                   {[]func(*batchv1.Job){running(101, 100), with(batchv1.JobSuccessCriteriaMet, "")}, Running},
		"a condition that is false":              {[]func(*batchv1.Job){running(101, 100), func(j *batchv1.Job) { condFalse(j, batchv1.JobComplete) }}, Running},
		"being deleted while it runs":            {[]func(*batchv1.Job){running(101, 100), leaving}, Leaving},
		"being deleted while it waits":           {[]func(*batchv1.Job){leaving}, Leaving},
		"being deleted after its end":            {[]func(*batchv1.Job){running(101, 100), ended(batchv1.JobComplete, ""), leaving}, Ended},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			NewWithT(t).Expect(NewJob(newBatchJob("a", test.change...), nil).Phase).To(Equal(test.want))
		})
	}
}

func condFalse(j *batchv1.Job, kind batchv1.JobConditionType) {
	j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionFalse})
}

func TestWhatAJobWouldRun(t *testing.T) {
	t.Parallel()
	c := newCronJob("report")
	own := redislock.Run{ID: "ns/a/a-uid"}
	zoned := tick.In(time.FixedZone("", 5*3600+1800)).Format(time.RFC3339)
	written := func(s string) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = s }
	}
	owner := func(change func(*metav1.OwnerReference)) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			ownedBy(c)(j)
			change(&j.OwnerReferences[0])
		}
	}
	for title, test := range map[string]struct {
		change []func(*batchv1.Job)
		want   redislock.Run
		owned  bool
	}{
		"a Job of nobody's":                        {nil, own, false},
		"a tick":                                   {[]func(*batchv1.Job){ownedBy(c), scheduledAt(tick)}, runOf(tick), true},
		"the same instant in another time zone":    {[]func(*batchv1.Job){ownedBy(c), written(zoned)}, runOf(tick), true},
		"made by hand from a CronJob":              {[]func(*batchv1.Job){ownedBy(c)}, own, true},
		"a time that is none":                      {[]func(*batchv1.Job){ownedBy(c), written("noon")}, own, true},
		"a time without its owner":                 {[]func(*batchv1.Job){scheduledAt(tick)}, own, false},
		"an owner with another UID":                {[]func(*batchv1.Job){owner(func(o *metav1.OwnerReference) { o.UID = "x" }), scheduledAt(tick)}, own, false},
		"an owner with another name":               {[]func(*batchv1.Job){owner(func(o *metav1.OwnerReference) { o.Name = "x" }), scheduledAt(tick)}, own, false},
		"an owner of another kind":                 {[]func(*batchv1.Job){owner(func(o *metav1.OwnerReference) { o.Kind = "Workflow" }), scheduledAt(tick)}, own, false},
		"an owner that does not control it":        {[]func(*batchv1.Job){owner(func(o *metav1.OwnerReference) { o.Controller = nil }), scheduledAt(tick)}, own, false},
		"an owner beside one that only looks like": {[]func(*batchv1.Job){owner(func(o *metav1.OwnerReference) { o.Controller = nil }), ownedBy(c), scheduledAt(tick)}, runOf(tick), true},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			job := NewJob(newBatchJob("a", test.change...), []*batchv1.CronJob{newCronJob("other"), c})
			g.Expect(job.Run).To(Equal(test.want))
			g.Expect(job.IsTick()).To(Equal(test.want.Series != ""))
			if test.owned {
				g.Expect(job.CronJob).To(BeIdenticalTo(c))
			} else {
				g.Expect(job.CronJob).To(BeNil())
			}
		})
	}
	t.Run("a CronJob that is known by another name", func(t *testing.T) {
		t.Parallel()
		named := newCronJob("report", func(c *batchv1.CronJob) { c.Annotations = map[string]string{v1alpha1.TickNameAnnotation: "nightly"} })
		NewWithT(t).Expect(NewJob(tickJob(named, tick), []*batchv1.CronJob{named}).Run.Series).To(Equal("nightly"))
	})
}

func TestWhatCannotBeReadOfAJobIsNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", "-1", "1.5", "99999999999999999999999", " 7"} {
		g := NewWithT(t)
		job := NewJob(newBatchJob("a", func(j *batchv1.Job) {
			j.Annotations[v1alpha1.RunAnnotation], j.Annotations[v1alpha1.GrantAnnotation] = text, text
		}), nil)
		g.Expect(job.Fence).To(BeZero(), "%q", text)
		g.Expect(job.Grant).To(BeZero(), "%q", text)
	}
	NewWithT(t).Expect(NewJob(&batchv1.Job{}, nil).Phase).To(Equal(Running), "without annotations at all")
}

func TestJobsWaitInTheOrderOfTheirCreation(t *testing.T) {
	t.Parallel()
	c := newCronJob("report")
	at := func(name string, age time.Duration, t time.Time) *Job {
		return NewJob(newBatchJob(name, ownedBy(c), scheduledAt(t), aged(age)), []*batchv1.CronJob{c})
	}
	list := []*Job{at("d", 0, tick), at("c", time.Minute, tick), at("b", time.Minute, tick.Add(time.Minute)), at("a", time.Minute, tick)}
	slices.SortFunc(list, byAge)
	var names []string
	for _, job := range list {
		names = append(names, job.Name)
	}
	NewWithT(t).Expect(names).To(Equal([]string{"a", "c", "b", "d"}))
}

func TestTheJobOfATickIsLikeItsControllers(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	c := newCronJob("report", func(c *batchv1.CronJob) {
		c.Spec.TimeZone = new("Europe/Berlin")
		c.Spec.JobTemplate.Annotations = map[string]string{"team": "billing"}
		c.Spec.JobTemplate.Spec.BackoffLimit = new(int32(3))
	})
	before := c.DeepCopy()
	job := NewTickJob(c, tick)
	g.Expect(c).To(Equal(before), "the template is not shared")
	g.Expect(job.Name).To(Equal("report-29539440"), "as every cluster's controller names it")
	g.Expect(job.Namespace).To(Equal("ns"))
	g.Expect(job.Labels).To(HaveKeyWithValue(v1alpha1.LockLabel, "lock"))
	g.Expect(job.Annotations).To(Equal(map[string]string{"team": "billing", batchv1.CronJobScheduledTimestampAnnotation: "2026-03-01T13:00:00+01:00"}))
	g.Expect(job.Spec.Suspend).To(HaveValue(BeTrue()))
	g.Expect(job.Spec.BackoffLimit).To(HaveValue(BeEquivalentTo(3)))
	g.Expect(metav1.IsControlledBy(job, c)).To(BeTrue())
	g.Expect(NewJob(job, []*batchv1.CronJob{c}).Run).To(Equal(runOf(tick)), "it is read as that tick's")

	c.Spec.TimeZone = new("Mars/Olympus")
	g.Expect(NewTickJob(c, tick).Annotations).To(HaveKeyWithValue(batchv1.CronJobScheduledTimestampAnnotation, "2026-03-01T12:00:00Z"))
	c.Spec.TimeZone, c.Spec.JobTemplate.Annotations = nil, nil
	g.Expect(NewTickJob(c, tick).Annotations).To(HaveKeyWithValue(batchv1.CronJobScheduledTimestampAnnotation, "2026-03-01T12:00:00Z"))
}

func TestAReplacementIsLikeTheOldOneWasMade(t *testing.T) {
	t.Parallel()
	c := newCronJob("report")
	labels := func() map[string]string {
		return map[string]string{"app": "report", v1alpha1.LockLabel: "lock", "controller-uid": "u", "job-name": "n", batchv1.ControllerUidLabel: "u", batchv1.JobNameLabel: "n"}
	}
	old := newBatchJob("report-by-hand", ran(90, 80), watched(300, "3600"), ownedBy(c), func(j *batchv1.Job) {
		j.UID = "0123456789-uid"
		j.Labels = labels()
		j.Annotations["team"], j.Annotations[v1alpha1.ReplacesAnnotation] = "billing", "older-uid"
		j.Spec.Suspend = new(false)
		j.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{batchv1.ControllerUidLabel: "u"}}
		j.Spec.Template.Labels = labels()
		j.Spec.Template.Annotations = map[string]string{v1alpha1.FencingTokenAnnotation: "90", "note": "kept"}
	})
	kept := map[string]string{"app": "report", v1alpha1.LockLabel: "lock"}
	before := old.DeepCopy()

	g := NewWithT(t)
	job := NewReplacement(old)
	g.Expect(old).To(Equal(before))
	g.Expect(job.Name).To(Equal("report-by-hand-01234567"))
	g.Expect(job.Labels).To(Equal(kept))
	g.Expect(job.Annotations).To(Equal(map[string]string{"team": "billing", v1alpha1.ReplacesAnnotation: "0123456789-uid"}))
	g.Expect(job.OwnerReferences).To(Equal(old.OwnerReferences))
	g.Expect(job.Finalizers).To(BeEmpty())
	g.Expect(job.Status).To(BeZero())
	g.Expect(job.UID).To(BeEmpty())
	g.Expect(job.ResourceVersion).To(BeEmpty())
	g.Expect(job.Spec.Suspend).To(HaveValue(BeTrue()))
	g.Expect(job.Spec.ActiveDeadlineSeconds).To(HaveValue(BeEquivalentTo(3600)), "the user's, not the watchdog's")
	g.Expect(job.Spec.Selector).To(BeNil())
	g.Expect(job.Spec.Template.Labels).To(Equal(kept))
	g.Expect(job.Spec.Template.Annotations).To(Equal(map[string]string{"note": "kept"}))

	watched(300, "")(old)
	g.Expect(NewReplacement(old).Spec.ActiveDeadlineSeconds).To(BeNil(), "the user gave none")
	delete(old.Annotations, v1alpha1.DeadlineAnnotation)
	g.Expect(NewReplacement(old).Spec.ActiveDeadlineSeconds).To(HaveValue(BeEquivalentTo(300)), "there was no watchdog")

	old.Spec.ManualSelector = new(true)
	g.Expect(NewReplacement(old).Spec.Selector).To(Equal(old.Spec.Selector), "the user's own")
	g.Expect(NewReplacement(old).Spec.Template.Labels).To(Equal(labels()))

	old.Name = strings.Repeat("n", 63)
	g.Expect(NewReplacement(old).Name).To(Equal(strings.Repeat("n", 54) + "-01234567"))
	old.UID = "short"
	g.Expect(NewReplacement(old).Name).To(Equal(strings.Repeat("n", 57) + "-short"))
}
