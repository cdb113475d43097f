package controllers

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// applyStatus writes a status as a whole, and returns the version that the object has
// with it.
func applyStatus(ctx context.Context, c client.Client, o client.Object, kind string, status any) (string, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status)
	if err != nil {
		return "", fmt.Errorf("encoding the status: %w", err)
	}
	apply := &unstructured.Unstructured{Object: map[string]any{"status": content}}
	apply.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(kind))
	apply.SetNamespace(o.GetNamespace())
	apply.SetName(o.GetName())
	apply.SetUID(o.GetUID()) // not the status of an object that was made anew
	err = c.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(apply), client.FieldOwner(statusOwner), client.ForceOwnership)
	return apply.GetResourceVersion(), err
}
