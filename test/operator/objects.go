package operator

import (
	"context"
	"errors"

	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/leader"
)

// NewClient returns a client that knows Kubernetes' own types and the operator's.
func NewClient(config *rest.Config) (client.WithWatch, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return client.NewWithWatch(config, client.Options{Scheme: scheme})
}

// Clean takes away what a test left in a namespace, and after its managers, without a
// manager's help.
func Clean(ctx context.Context, kube client.Client, namespace string) error {
	// CronJobs first, or they make their Jobs again.
	for _, list := range []client.ObjectList{&batchv1.CronJobList{}, &v1alpha1.DebounceList{}, &batchv1.JobList{}, &v1alpha1.RedisLockList{}} {
		if err := kube.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return err
		}
		if err := meta.EachListItem(list, func(o runtime.Object) error {
			object := o.(client.Object)
			// A Job's other finalizers are Kubernetes' own.
			patch := `{"metadata":{"finalizers":null}}`
			if err := kube.Patch(ctx, object, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
				return client.IgnoreNotFound(err)
			}
			return client.IgnoreNotFound(kube.Delete(ctx, object, client.PropagationPolicy(metav1.DeletePropagationBackground)))
		}); err != nil {
			return err
		}
	}
	return ForgetLeader(ctx, kube)
}

// ForgetLeader takes the Lease away that a manager leaves which was killed, and for which
// the next would wait.
func ForgetLeader(ctx context.Context, kube client.Client) error {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: leader.Name}}
	return client.IgnoreNotFound(kube.Delete(ctx, lease))
}
