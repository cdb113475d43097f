package controllers

import (
	"errors"
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// job is a guarded Job of the lock at a version.
func job(name, version string) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Namespace: object.Namespace, Name: name, UID: types.UID(name), ResourceVersion: version, Labels: map[string]string{v1alpha1.LockLabel: object.Name},
	}}
}

func versions(jobs []*batchv1.Job) map[string]string {
	m := map[string]string{}
	for _, j := range jobs {
		m[j.Name] = j.ResourceVersion
	}
	return m
}

func TestWhatWasWrittenIsSeenBeforeTheCacheHasIt(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var w written
	other := job("other", "90")
	other.Labels[v1alpha1.LockLabel] = "another"
	w.put(job("newer", "12"))
	w.put(job("older", "9"))
	w.put(job("vanished", "12"))
	w.gone(job("gone", "12"))
	w.put(other)
	cached := func() []batchv1.Job {
		return []batchv1.Job{*job("newer", "11"), *job("older", "10"), *job("gone", "11"), *job("plain", "1")}
	}
	want := map[string]string{"newer": "12", "older": "10", "plain": "1"}
	g.Expect(versions(w.over(object, cached()))).To(Equal(want), "as numbers, not as text; and nothing that the cache does not have")
	g.Expect(versions(w.over(object, cached()))).To(Equal(want), "until the cache is as far")
	g.Expect(w.byLock[object]).To(HaveLen(2), "the newer one and the one that is gone")

	g.Expect(versions(w.over(object, []batchv1.Job{*job("newer", "12")}))).To(Equal(map[string]string{"newer": "12"}))
	g.Expect(w.byLock[object]).To(BeEmpty(), "it has caught up, and what was deleted is gone from it")
	g.Expect(w.byLock).To(HaveLen(1), "another lock's stay")
	g.Expect(versions(w.over(object, nil))).To(BeEmpty())
}

func TestVersionsThatAreNoNumbersAreNotNewer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"2", "1", true}, {"10", "9", true}, {"1", "1", false}, {"1", "2", false}, {"b", "a", false}, {"2", "a", false}, {"", "1", false},
	} {
		NewWithT(t).Expect(newer(tc.a, tc.b)).To(Equal(tc.want), "%q and %q", tc.a, tc.b)
	}
}

func TestAThingIsToldOnce(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var all memories
	m := all.of(object)
	g.Expect(m.first("a", EventLetGo, "why")).To(BeTrue())
	g.Expect(m.first("a", EventLetGo, "why")).To(BeFalse())
	g.Expect(m.first("a", EventNotMade, "why")).To(BeTrue(), "another thing about it")
	g.Expect(m.first("a", EventLetGo, "why")).To(BeFalse(), "which makes this no new one")
	g.Expect(m.first("a", EventLetGo, "why else")).To(BeTrue(), "another cause")
	g.Expect(m.first("b", EventLetGo, "")).To(BeTrue(), "of another Job")
	g.Expect(all.of(types.NamespacedName{}).first("a", EventLetGo, "why else")).To(BeTrue(), "of another lock")

	all.of(object).only(map[types.UID]bool{"b": true})
	g.Expect(m.first("b", EventLetGo, "")).To(BeFalse())
	g.Expect(m.first("a", EventLetGo, "why else")).To(BeTrue(), "the Job was no more")
	all.forget(object)
	g.Expect(all.of(object).first("b", EventLetGo, "")).To(BeTrue())
	g.Expect(all.of(types.NamespacedName{}).first("a", EventLetGo, "why else")).To(BeFalse())
}

func TestTheLastGrantsServedAndYieldedAreRemembered(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var all memories
	g.Expect(all.of(object).served()).To(BeZero())
	g.Expect(all.of(object).yielded()).To(BeZero())
	all.of(object).ranUnder(7)
	all.of(object).ranUnder(5)
	g.Expect(all.of(object).served()).To(BeEquivalentTo(7), "a Job of an earlier grant may be recorded late")
	all.of(object).gaveBack(5)
	all.of(object).gaveBack(7)
	g.Expect(all.of(object).yielded().fence).To(BeEquivalentTo(7))
	g.Expect(all.of(object).yielded().at).To(BeTemporally("~", time.Now(), time.Minute))
	g.Expect(all.of(types.NamespacedName{}).served()).To(BeZero())
	all.forget(object)
	g.Expect(all.of(object).served()).To(BeZero())
	g.Expect(all.of(object).yielded()).To(BeZero())
}

func TestARemovalThatLeavesATickUndoneIsAWarning(t *testing.T) {
	t.Parallel()
	for reason, want := range map[guard.Reason]string{
		guard.ReasonRanElsewhere: corev1.EventTypeNormal, guard.ReasonReplaced: corev1.EventTypeNormal, guard.ReasonRerun: corev1.EventTypeNormal,
		guard.ReasonSuperseded: corev1.EventTypeWarning, guard.ReasonTooOld: corev1.EventTypeWarning,
		guard.ReasonWaitedTooLong: corev1.EventTypeWarning, guard.ReasonDeadline: corev1.EventTypeWarning,
	} {
		NewWithT(t).Expect(removedType(reason)).To(Equal(want), string(reason))
	}
}

func TestAFrozenTemplateIsToldFromOtherRefusals(t *testing.T) {
	t.Parallel()
	kind := schema.GroupKind{Group: "batch", Kind: "Job"}
	// As kube-apiserver 1.35 puts it.
	frozen := apierrors.NewInvalid(kind, "a", field.ErrorList{field.Invalid(field.NewPath("spec", "template"), "...", "field is immutable")})
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"the template":            {frozen, true},
		"wrapped":                 {fmt.Errorf("patching: %w", frozen), true},
		"a field of the template": {apierrors.NewInvalid(kind, "a", field.ErrorList{field.Forbidden(field.NewPath("spec", "template", "metadata", "annotations"), "")}), true},
		"among others":            {apierrors.NewInvalid(kind, "a", field.ErrorList{field.Required(field.NewPath("spec", "x"), ""), field.Invalid(field.NewPath("spec", "template"), "", "")}), true},
		"another field":           {apierrors.NewInvalid(kind, "a", field.ErrorList{field.Invalid(field.NewPath("spec", "completions"), 1, "field is immutable")}), false},
		"a policy":                {&apierrors.StatusError{ErrStatus: metav1.Status{Reason: metav1.StatusReasonInvalid, Message: "ValidatingAdmissionPolicy 'x' denied request: spec.template"}}, false},
		"a conflict":              {apierrors.NewConflict(schema.GroupResource{Resource: "jobs"}, "a", errors.New("spec.template")), false},
		"no answer":               {errors.New("spec.template"), false},
		"nothing":                 {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			NewWithT(t).Expect(templateFrozen(tc.err)).To(Equal(tc.want))
		})
	}
}

func TestJobsAreCountedInTheStatus(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	v := viewOf(heldHere())
	g.Expect(v.status().ActiveJobs).To(HaveValue(BeZero()), "it says so where there are none")
	g.Expect(v.status().WaitingJobs).To(HaveValue(BeZero()))
	v.active, v.waiting = 2, 3
	g.Expect(v.status().ActiveJobs).To(HaveValue(BeEquivalentTo(2)))
	g.Expect(v.status().WaitingJobs).To(HaveValue(BeEquivalentTo(3)))
}

func TestJobsAreFoundByTheirLock(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(indexJob(job("a", "1"))).To(ConsistOf("name"))
	g.Expect(indexJob(&batchv1.Job{})).To(BeEmpty())
	cronJob := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LockLabel: "on itself"}}}
	g.Expect(indexCronJob(cronJob)).To(BeEmpty(), "there it guards nothing")
	cronJob.Spec.JobTemplate.Labels = map[string]string{v1alpha1.LockLabel: "name"}
	g.Expect(indexCronJob(cronJob)).To(ConsistOf("name"))
	requests := byName(indexJob)(t.Context(), job("a", "1"))
	g.Expect(requests).To(HaveLen(1))
	g.Expect(requests[0].NamespacedName).To(Equal(object))
}

func TestTermsOfASpec(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	lock := &v1alpha1.RedisLock{}
	g.Expect(terms(lock)).To(Equal(guard.Terms{Watchdog: 5 * time.Minute, Rerun: true, ClaimGrace: time.Minute}))
	lock.Spec = v1alpha1.RedisLockSpec{
		Hold: v1alpha1.HoldOnDemand, Watchdog: &metav1.Duration{}, MaxWait: &metav1.Duration{Duration: time.Hour}, LostTicks: v1alpha1.LostTicksSkip,
		MissedTicks: v1alpha1.MissedTicksRunLatest, OnLost: v1alpha1.OnLostDelete, Lease: &metav1.Duration{Duration: time.Minute}, LockDelay: &metav1.Duration{Duration: time.Second},
	}
	g.Expect(terms(lock)).To(Equal(guard.Terms{Exclusive: true, MaxWait: time.Hour, RunLatest: true, DeleteOnLost: true, ClaimGrace: time.Minute + time.Second}))
}

func TestRank(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	list := []string{"blue", "green"}
	g.Expect([]int{rank(list, "blue"), rank(list, "green"), rank(list, "red"), rank(nil, "red")}).To(Equal([]int{0, 1, 2, 0}))
}

func TestPreference(t *testing.T) {
	t.Parallel()
	server := redisserver.Start(t, redisserver.Options{UnixSocket: true})
	rdb := redisserver.Connect(t, server.URL())
	store, err := redislock.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close(t.Context()) })
	of := func(cluster string) *RedisLockReconciler {
		return &RedisLockReconciler{Config: config.Config{ClusterName: cluster}}
	}
	lock := func(failback time.Duration, preferred ...string) *v1alpha1.RedisLock {
		return &v1alpha1.RedisLock{Spec: v1alpha1.RedisLockSpec{PreferredClusters: preferred, FailbackAfter: &metav1.Duration{Duration: failback}}}
	}
	aside := campaign.Aside{Reason: v1alpha1.ReasonDeferring, Message: "this cluster leaves the lock to one that is preferred and there"}

	t.Run("without an order nobody asks", func(t *testing.T) {
		t.Parallel()
		g := NewWithT(t)
		g.Expect(of("red").preference(t.Context(), lock(0), nil, "none")).To(Equal(standing{}))
		of("red").withdraw(t.Context(), lock(0), nil, "none")
	})
	t.Run("a cluster leaves it to a better one that is there", func(t *testing.T) {
		t.Parallel()
		g := NewWithT(t)
		l := lock(time.Hour, "blue", "green")
		const key = "lock:ns:order"
		g.Expect(of("red").preference(t.Context(), l, store, key)).To(Equal(standing{again: 10 * time.Second}), "nobody is there")
		g.Expect(of("green").preference(t.Context(), l, store, key).aside).To(BeZero(), "one outside the list is no better")
		g.Expect(of("red").preference(t.Context(), l, store, key).aside).To(Equal(aside))
		g.Expect(of("blue").preference(t.Context(), l, store, key).aside).To(BeZero())
		s := of("green").preference(t.Context(), l, store, key)
		g.Expect(s.aside).To(Equal(aside))
		g.Expect(s.giveUp).To(BeFalse(), "not before it was there for the dwell time")
		g.Expect(s.again).To(Equal(10 * time.Second))

		of("blue").withdraw(t.Context(), l, store, key)
		g.Expect(of("green").preference(t.Context(), l, store, key).aside).To(BeZero())
		there, err := store.Announce(t.Context(), key, "", 0)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(there).To(HaveLen(1), "those outside the list do not announce themselves")
	})
	t.Run("and gives it up after the dwell time", func(t *testing.T) {
		t.Parallel()
		g := NewWithT(t)
		l := lock(1500*time.Millisecond, "blue")
		const key = "lock:ns:dwell"
		of("blue").preference(t.Context(), l, store, key)
		s := of("green").preference(t.Context(), l, store, key)
		g.Expect(s.giveUp).To(BeFalse())
		g.Expect(s.again).To(And(BeNumerically(">", 0), BeNumerically("<=", 1500*time.Millisecond)), "it asks again then")
		g.Eventually(func() bool { return of("green").preference(t.Context(), l, store, key).giveUp }).WithTimeout(20 * time.Second).Should(BeTrue())
		g.Expect(of("blue").preference(t.Context(), l, store, key).giveUp).To(BeFalse())
	})
	t.Run("a Redis that does not answer holds nobody back", func(t *testing.T) {
		t.Parallel()
		g := NewWithT(t)
		gone, err := redislock.New(rdb)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(gone.Close(t.Context())).To(Succeed())
		g.Expect(of("red").preference(t.Context(), lock(0, "blue"), gone, "lock:ns:away")).To(Equal(standing{again: 10 * time.Second}))
	})
}
