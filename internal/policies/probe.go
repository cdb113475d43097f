package policies

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

const (
	probeName  = "redislock-policy-probe"
	queueLabel = "kueue.x-k8s.io/queue-name"
)

// probeJob is a guarded Job with nothing else that a cluster's own policies commonly
// refuse, and nothing of what the mutating policy adds.
func probeJob(namespace string) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, GenerateName: probeName + "-",
			Labels: map[string]string{v1alpha1.LockLabel: probeName},
		},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot:   new(true),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "probe", Image: "redislock-operator:probe",
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("1Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("1Mi")},
				},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		}}},
	}
}

// prepare does what the mutating policy does.
func prepare(job *batchv1.Job) {
	job.Spec.Suspend = new(true)
	job.Spec.Template.Labels = map[string]string{v1alpha1.LockLabel: job.Labels[v1alpha1.LockLabel]}
	for i := range job.Spec.Template.Spec.Containers {
		c := &job.Spec.Template.Spec.Containers[i]
		c.Env = append(c.Env, corev1.EnvVar{Name: v1alpha1.FencingTokenEnv, ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{FieldPath: v1alpha1.FencingTokenFieldPath},
		}})
	}
}

// prepared says whether a Job is as prepare makes it.
func prepared(job *batchv1.Job) bool {
	if job.Spec.Suspend == nil || !*job.Spec.Suspend || job.Spec.Template.Labels[v1alpha1.LockLabel] != job.Labels[v1alpha1.LockLabel] {
		return false
	}
	for _, c := range job.Spec.Template.Spec.Containers {
		found := false
		for _, e := range c.Env {
			found = found || e.Name == v1alpha1.FencingTokenEnv && e.ValueFrom != nil &&
				e.ValueFrom.FieldRef != nil && e.ValueFrom.FieldRef.FieldPath == v1alpha1.FencingTokenFieldPath
		}
		if !found {
			return false
		}
	}
	return true
}

// probeCronJob is a guarded CronJob that the policy refuses for replacing its Jobs.
func probeCronJob(namespace string) *batchv1.CronJob {
	job := probeJob(namespace)
	prepare(job)
	return &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: probeName + "-"},
		Spec: batchv1.CronJobSpec{
			Schedule: "0 0 1 1 *", TimeZone: new("Etc/UTC"), Suspend: new(true),
			ConcurrencyPolicy: batchv1.ReplaceConcurrent,
			JobTemplate:       batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: job.Labels}, Spec: job.Spec},
		},
	}
}

// probeDebounce is a Debounce that the policy refuses, for its Jobs would say about
// themselves what only the operator may.
func probeDebounce(namespace string) *v1alpha1.Debounce {
	job := probeJob(namespace)
	return &v1alpha1.Debounce{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: probeName + "-"},
		Spec: v1alpha1.DebounceSpec{
			Suspend: new(true),
			Action: v1alpha1.DebounceAction{Job: &v1alpha1.JobAction{Template: batchv1.JobTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.RunAnnotation: probeName}},
				Spec:       job.Spec,
			}}},
		},
	}
}
