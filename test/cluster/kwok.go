package cluster

import (
	"context"
	_ "embed"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/test/controlplane"
)

// Annotations of a pod that tell a node of kwok how to play it.
const (
	// RunForAnnotation is how long a pod of a Job runs, such as "2.5s", before
	// it completes. It completes at once without.
	RunForAnnotation = "test.redislock.io/run-for"
	// ExitCodeAnnotation is the exit code of a pod of a Job that is to fail.
	ExitCodeAnnotation = "test.redislock.io/exit-code"
	// StopForAnnotation is how long a pod takes to end when it is deleted. It
	// ends at once without.
	StopForAnnotation = "test.redislock.io/stop-for"
)

// kwokStages is what kwok does with nodes and pods.
//
//go:embed kwok.yaml
var kwokStages string

// NodeName is the name of the node of a cluster that has one.
func (c *Cluster) NodeName() string {
	if c.node != nil {
		return c.node.name
	}
	return "kwok"
}

func (c *Cluster) startKwok(ctx context.Context) error {
	stages, err := c.writeFile("kwok.yaml", kwokStages)
	if err != nil {
		return err
	}
	kubeconfig, err := c.UserKubeconfig("kwok", adminGroup)
	if err != nil {
		return err
	}
	c.Kwok = c.process(controlplane.Kwok, "--kubeconfig="+kubeconfig, "--config="+stages, "--manage-all-nodes=true", "--node-lease-duration-seconds=40")
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.NodeName()}}
	// A clone has the node of the original, and so has a cluster that goes on.
	if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make a node for kwok: %w", err)
	}
	c.Kwok.ready = func(ctx context.Context) error { return c.nodeReady(ctx, client) }
	return c.Kwok.Start(ctx)
}

// nodeReady fails until pods can run on the node.
func (c *Cluster) nodeReady(ctx context.Context, client kubernetes.Interface) error {
	node, err := client.CoreV1().Nodes().Get(ctx, c.NodeName(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, taint := range node.Spec.Taints {
		if taint.Effect != corev1.TaintEffectPreferNoSchedule {
			return fmt.Errorf("node %s has the taint %s", node.Name, taint.Key)
		}
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			if cond.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("node %s is not ready: %s", node.Name, cond.Message)
		}
	}
	return fmt.Errorf("node %s has not reported yet", node.Name)
}
