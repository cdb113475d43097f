package controllers

import (
	"context"
	"fmt"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// restart has the pods of a workload made anew, once for each generation: its
// annotations say which was the last, and the version that was read is that which is
// written. A higher generation there does not stand for this one: it may be that of
// another Debounce, which ran before this one's last call.
func (r *DebounceReconciler) restart(ctx context.Context, d *v1alpha1.Debounce, a *v1alpha1.RestartAction, run redislock.DebounceRun) (string, error) {
	what := fmt.Sprintf("%s %s", a.Kind, a.Name)
	generation := strconv.FormatUint(run.Generation, 10)
	done := false
	err := patiently(ctx, func() error {
		workload, template := workloadOf(a.Kind)
		if workload == nil {
			return apierrors.NewBadRequest("spec.action.restart.kind is none of Deployment, StatefulSet and DaemonSet")
		}
		if err := r.Live.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: a.Name}, workload); err != nil {
			return err
		}
		before := workload.DeepCopyObject().(client.Object)
		pods := template(workload)
		if done = pods.Annotations[v1alpha1.RestartAnnotation] == generation; done {
			return nil
		}
		metav1.SetMetaDataAnnotation(&pods.ObjectMeta, v1alpha1.RestartAnnotation, generation)
		metav1.SetMetaDataAnnotation(&pods.ObjectMeta, v1alpha1.RestartedAtAnnotation, time.Now().UTC().Format(time.RFC3339))
		return r.Live.Patch(ctx, workload, client.StrategicMergeFrom(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(statusOwner))
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("restarting %s: %w", what, err)
	case done:
		return what + " was restarted before", nil
	}
	return what + " was restarted", nil
}

// workloadOf is an empty object of a kind, and where its pod template is.
func workloadOf(kind v1alpha1.WorkloadKind) (client.Object, func(client.Object) *corev1.PodTemplateSpec) {
	switch kind {
	case v1alpha1.WorkloadDeployment:
		return &appsv1.Deployment{}, func(o client.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.Deployment).Spec.Template }
	case v1alpha1.WorkloadStatefulSet:
		return &appsv1.StatefulSet{}, func(o client.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.StatefulSet).Spec.Template }
	case v1alpha1.WorkloadDaemonSet:
		return &appsv1.DaemonSet{}, func(o client.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.DaemonSet).Spec.Template }
	}
	return nil, nil
}
