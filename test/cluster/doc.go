// Package cluster starts real Kubernetes clusters for tests and the demo, side
// by side on one machine, and leaves nothing of them behind.
//
//	west, err := cluster.Start(ctx, cluster.Options{Name: "west"})
//	defer west.Stop()
//	client, err := kubernetes.NewForConfig(west.RESTConfig())
//
// A cluster is an etcd, a kube-apiserver and a kube-controller-manager, and
// where pods are to run also a kube-scheduler and nodes: ones that kwok plays
// (NodesKwok), or a real one (NodesReal). Ports are free ones, etcd is reached by
// a socket in the data folder. What a cluster is made of can be stopped, killed,
// paused and started again, on the same port, to see what others make of it.
//
// # Which programs
//
// They are built from hack/controlplane at the first use, which takes minutes
// and says so (package controlplane). When KUBEBUILDER_ASSETS is set, etcd,
// kube-apiserver and kubectl are those of that folder, and the others too if
// they are there. The folders that setup-envtest makes have no
// kube-controller-manager: Start fails then, unless Options.Bare asks for a
// cluster without one.
//
// # Existing clusters
//
// When REDISLOCK_KUBECONFIGS is set, to kubeconfig files separated as in PATH,
// Start starts nothing and hands out these clusters one after the other. Their
// processes cannot be controlled, they have no audit log and cannot be cloned:
// what needs that fails with ErrExternal.
//
// # What stays
//
// Nothing: a supervisor process ends the cluster and removes its folder when the
// program that started it ends, also by a panic, Ctrl-C or SIGKILL (package
// supervisor). Only a cluster that was detached stays, until StopDetached.
package cluster
