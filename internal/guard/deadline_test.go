package guard

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

func TestFirstDeadline(t *testing.T) {
	t.Parallel()
	own := func(seconds int64) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = &seconds }
	}
	for title, test := range map[string]struct {
		change  func(*batchv1.Job)
		window  time.Duration
		seconds *int64
		kept    *string
	}{
		"three quarters of the window":              {func(*batchv1.Job) {}, 5 * time.Minute, new(int64(225)), new("")},
		"the user's own is shorter":                 {own(60), 5 * time.Minute, new(int64(60)), new("60")},
		"the user's own is longer":                  {own(3600), 5 * time.Minute, new(int64(225)), new("3600")},
		"no watchdog":                               {func(*batchv1.Job) {}, 0, nil, nil},
		"no watchdog, and the user's own":           {own(60), 0, new(int64(60)), nil},
		"a window that is over":                     {own(60), -time.Second, new(int64(60)), nil},
		"the shortest window":                       {func(*batchv1.Job) {}, 3 * time.Second, new(int64(2)), new("")},
		"a window of less than a second":            {func(*batchv1.Job) {}, time.Millisecond, new(int64(1)), new("")},
		"let go again, the user's own kept":         {watched(300, "3600"), 5 * time.Minute, new(int64(225)), new("3600")},
		"let go again, the user gave none":          {watched(300, ""), 5 * time.Minute, new(int64(225)), new("")},
		"let go again, what was kept is no number":  {watched(300, "soon"), 5 * time.Minute, new(int64(225)), new("")},
		"let go again, the watchdog is off now":     {watched(300, "3600"), 0, new(int64(3600)), nil},
		"let go again, off now, the user gave none": {watched(300, ""), 0, nil, nil},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			d := FirstDeadline(newBatchJob("a", test.change), test.window)
			NewWithT(t).Expect(d).To(Equal(Deadline{test.seconds, test.kept}))
		})
	}
}

func TestProlong(t *testing.T) {
	t.Parallel()
	const window = 5 * time.Minute
	startedAt := func(ago time.Duration) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Status.StartTime = new(metav1.NewTime(now.Add(-ago))) }
	}
	for title, test := range map[string]struct {
		change  []func(*batchv1.Job)
		window  time.Duration
		seconds int64
		due     bool
		next    time.Duration // from now; 0: never
	}{
		"more than half is left":                 {[]func(*batchv1.Job){watched(300, ""), startedAt(time.Minute)}, window, 0, false, 90 * time.Second},
		"half is left":                           {[]func(*batchv1.Job){watched(300, ""), startedAt(150 * time.Second)}, window, 450, true, 150 * time.Second},
		"a moment more than half is left":        {[]func(*batchv1.Job){watched(300, ""), startedAt(150*time.Second - 1)}, window, 0, false, 1},
		"the deadline has passed":                {[]func(*batchv1.Job){watched(300, ""), startedAt(time.Hour)}, window, 3900, true, 150 * time.Second},
		"a fraction of a second is cut":          {[]func(*batchv1.Job){watched(300, ""), startedAt(200*time.Second + 900*time.Millisecond)}, window, 500, true, 150 * time.Second},
		"up to the user's own":                   {[]func(*batchv1.Job){watched(300, "400"), startedAt(200 * time.Second)}, window, 400, true, 150 * time.Second},
		"the user's own is reached":              {[]func(*batchv1.Job){watched(400, "400"), startedAt(390 * time.Second)}, window, 0, false, 0},
		"the user's own is passed":               {[]func(*batchv1.Job){watched(500, "400"), startedAt(390 * time.Second)}, window, 0, false, 0},
		"the user's own, not yet counted":        {[]func(*batchv1.Job){watched(60, "60"), func(j *batchv1.Job) { j.Status.StartTime = nil }}, window, 0, true, window / 8},
		"it was never given a deadline":          {[]func(*batchv1.Job){startedAt(time.Hour)}, window, 0, false, 0},
		"no watchdog":                            {[]func(*batchv1.Job){watched(300, ""), startedAt(time.Hour)}, 0, 0, false, 0},
		"the grant's maximum has come":           {[]func(*batchv1.Job){watched(300, ""), startedAt(time.Hour)}, -time.Second, 0, false, 0},
		"a start that the clock has not reached": {[]func(*batchv1.Job){watched(300, ""), startedAt(-time.Minute)}, window, 0, false, 210 * time.Second},
		"a start that is far off":                {[]func(*batchv1.Job){watched(1, ""), startedAt(-time.Hour)}, window, 0, false, time.Hour + time.Second - window/2},
		"nothing is gained by moving it":         {[]func(*batchv1.Job){watched(60, ""), startedAt(time.Minute)}, 800 * time.Millisecond, 0, false, 100 * time.Millisecond},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			seconds, due, next := Prolong(newBatchJob("a", append([]func(*batchv1.Job){running(101, 100)}, test.change...)...), test.window, now)
			g.Expect(seconds).To(Equal(test.seconds))
			g.Expect(due).To(Equal(test.due))
			if test.next == 0 {
				g.Expect(next).To(BeZero())
			} else {
				g.Expect(next.Sub(now)).To(Equal(test.next))
			}
		})
	}
}

func TestCover(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	grace := func(seconds int64) *batchv1.Job {
		return newBatchJob("a", func(j *batchv1.Job) { j.Spec.Template.Spec.TerminationGracePeriodSeconds = &seconds })
	}
	g.Expect(Cover(newBatchJob("a"), 5*time.Minute)).To(Equal(5*time.Minute + 30*time.Second + coverMargin))
	g.Expect(Cover(grace(120), 5*time.Minute)).To(Equal(7*time.Minute + coverMargin))
	g.Expect(Cover(grace(0), 5*time.Minute)).To(Equal(5*time.Minute+time.Second+coverMargin), "Kubernetes makes a second of it")
	g.Expect(Cover(grace(120), 0)).To(BeZero(), "nobody ends the Job, so no cover would be enough")
}

func TestEndedByWatchdog(t *testing.T) {
	t.Parallel()
	overdue := ended(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded)
	for title, test := range map[string]struct {
		change []func(*batchv1.Job)
		want   bool
	}{
		"its own deadline is longer":             {[]func(*batchv1.Job){watched(300, "3600"), overdue}, true},
		"it has none of its own":                 {[]func(*batchv1.Job){watched(300, ""), overdue}, true},
		"what was kept of its own is no number":  {[]func(*batchv1.Job){watched(300, "x"), overdue}, true},
		"it came to its own":                     {[]func(*batchv1.Job){watched(60, "60"), overdue}, false},
		"it was never watched":                   {[]func(*batchv1.Job){overdue, func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(60)) }}, false},
		"it failed for another reason":           {[]func(*batchv1.Job){watched(300, ""), ended(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded)}, false},
		"it is complete":                         {[]func(*batchv1.Job){watched(300, ""), ended(batchv1.JobComplete, batchv1.JobReasonDeadlineExceeded)}, false},
		"it runs":                                {[]func(*batchv1.Job){watched(300, "")}, false},
		"somebody took the deadline out":         {[]func(*batchv1.Job){watched(300, ""), overdue, func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = nil }}, false},
		"the annotation alone says that it was ": {[]func(*batchv1.Job){overdue, func(j *batchv1.Job) { j.Annotations[v1alpha1.DeadlineAnnotation] = "" }}, false},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			NewWithT(t).Expect(endedByWatchdog(newBatchJob("a", test.change...))).To(Equal(test.want))
		})
	}
}

// FuzzDeadlines: however a Job's deadline is moved, Kubernetes ends it before the key
// that was lengthened with it, and never later than the user wanted.
func FuzzDeadlines(f *testing.F) {
	f.Add(int64(300), int64(0), int64(225), int64(60), false)
	f.Add(int64(3), int64(60), int64(2), int64(-5), true)
	f.Fuzz(func(t *testing.T, windowSeconds, own, current, ago int64, hasOwn bool) {
		const day = 24 * 3600
		if windowSeconds < 0 || windowSeconds > day || own < 1 || own > 1e6 || current < 1 || current > 1e6 || ago < -day || ago > 1e6 {
			return // no such input is meant
		}
		window := time.Duration(windowSeconds) * time.Second
		job := newBatchJob("a", running(101, 100), func(j *batchv1.Job) {
			j.Status.StartTime = new(metav1.NewTime(now.Add(-time.Duration(ago) * time.Second)))
		})
		if hasOwn {
			watched(current, time.Duration(own).String())(job)
			job.Annotations[v1alpha1.DeadlineAnnotation] = itoa(own)
		} else {
			watched(current, "")(job)
		}
		seconds, due, next := Prolong(job, window, now)
		if due {
			ends := job.Status.StartTime.Add(time.Duration(seconds) * time.Second)
			if ends.After(now.Add(window)) {
				t.Errorf("ends %s from now, beyond the window of %s", ends.Sub(now), window)
			}
			if hasOwn && seconds > own {
				t.Errorf("moved to %d beyond the user's own %d", seconds, own)
			}
			if seconds <= current {
				t.Errorf("moved back from %d to %d", current, seconds)
			}
		}
		if !next.IsZero() && !next.After(now) {
			t.Errorf("looks again at once, %s from now", next.Sub(now))
		}
		if d := FirstDeadline(job, window); window > 0 && (d.Seconds == nil || time.Duration(*d.Seconds)*time.Second > max(window, time.Second) || hasOwn && *d.Seconds > own) {
			t.Errorf("first deadline %v of a window of %s", d, window)
		}
	})
}
