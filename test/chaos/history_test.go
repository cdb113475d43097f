package chaos

import (
	"encoding/json"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// seenBy is a recorder and what is put into it.
type seenBy struct {
	*recorder
	t *testing.T
}

func (s seenBy) put(seconds float64, path string, o any) {
	s.t.Helper()
	var value []byte
	if o != nil {
		var err error
		if value, err = json.Marshal(o); err != nil {
			s.t.Fatal(err)
		}
	}
	s.take("blue", etcdEvent{Key: "/registry/" + path, Value: value, At: at(seconds)})
}

func guarded(claim string, finalizers ...string) *batchv1.Job {
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "nightly-1", UID: "job", Finalizers: finalizers,
			Labels: map[string]string{v1alpha1.LockLabel: "demand"},
			Annotations: map[string]string{
				v1alpha1.RunAnnotation: claim, batchv1.CronJobScheduledTimestampAnnotation: "2027-01-15T08:00:00Z",
			},
			OwnerReferences: []metav1.OwnerReference{{Kind: "CronJob", Name: "nightly", Controller: new(true)}},
		},
	}
}

func podOf(uid, token string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: uid, UID: types.UID(uid), Annotations: map[string]string{v1alpha1.FencingTokenAnnotation: token},
			OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: "nightly-1", UID: "job", Controller: new(true)}},
		},
		Status: corev1.PodStatus{Phase: phase},
	}
}

func TestHistoryOfAJobThatRanTwice(t *testing.T) {
	s := seenBy{newRecorder(namespace), t}
	const job, first, second = "jobs/" + namespace + "/nightly-1", "pods/" + namespace + "/a", "pods/" + namespace + "/b"
	s.put(0, job, guarded("", v1alpha1.OutcomeFinalizer))
	s.put(1, job, guarded("7", v1alpha1.OutcomeFinalizer))
	s.put(2, first, podOf("a", "7", corev1.PodPending))
	s.put(3, first, podOf("a", "7", corev1.PodRunning))
	s.put(4, first, podOf("a", "7", corev1.PodRunning))
	s.put(5, first, nil) // gone by force
	s.put(6, job, guarded("9", v1alpha1.OutcomeFinalizer))
	s.put(7, second, podOf("b", "9", corev1.PodPending))
	s.put(8, second, podOf("b", "9", corev1.PodRunning))
	s.put(9, second, podOf("b", "9", corev1.PodSucceeded))
	s.put(10, second, nil)
	complete := guarded("9", v1alpha1.OutcomeFinalizer)
	complete.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	s.put(11, job, complete)
	if len(s.pending()) != 1 {
		t.Error("a Job whose outcome is not recorded is taken for done")
	}
	complete.Finalizers = nil
	s.put(12, job, complete)
	s.put(13, job, nil)
	if len(s.pending()) != 0 {
		t.Error("a Job that is gone is taken for one to be done")
	}

	var h History
	s.fill(&h)
	if len(h.Runs) != 2 || len(h.Jobs) != 1 || len(h.Unreadable) != 0 {
		t.Fatalf("%+v", h)
	}
	for i, want := range []Run{
		{Claim: 7, Token: 7, Begin: at(3), End: at(5)},
		{Claim: 9, Token: 9, Begin: at(8), End: at(9), Succeeded: true},
	} {
		want.Cluster, want.Job, want.UID, want.Lock, want.Tick = "blue", "nightly-1", "job", "demand", Tick{namespace + "/nightly", 1_800_000_000}
		if h.Runs[i] != want {
			t.Errorf("got %+v, want %+v", h.Runs[i], want)
		}
	}
	if j := h.Jobs[0]; j.Ended != "Complete" || !j.Recorded.Equal(at(12)) || !j.Gone.Equal(at(13)) || j.Pending {
		t.Errorf("%+v", j)
	}
}
