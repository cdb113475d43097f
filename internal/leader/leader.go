// Package leader elects one of the managers of a cluster, by a Lease of that
// cluster's API server.
package leader

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Name is that of the Lease.
const Name = "redislock-operator"

// A manager that dies is followed by another within LeaseDuration and some
// RetryPeriods. With the start of its controllers that must be over before a lock's
// default lease ends that was last renewed a third of it ago: 20 s. client-go's
// defaults (15, 10 and 2 s) were measured to take up to 21 s.
const (
	LeaseDuration = 8 * time.Second
	RenewDeadline = 6 * time.Second
	RetryPeriod   = 1500 * time.Millisecond
)

const (
	outsideNamespace = "redislock-system"
	namespaceFile    = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	askTimeout       = 3 * time.Second
)

// Election is this process's part in the election.
type Election struct {
	Lock resourcelock.Interface

	term      *term
	leases    coordinationv1.LeasesGetter
	namespace string
}

// New prepares the election in a namespace; without one, in that of the pod.
func New(cfg *rest.Config, namespace string) (*Election, error) {
	if namespace == "" {
		namespace = ownNamespace()
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = RenewDeadline / 2
	clientset, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("setting up leader election: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("setting up leader election: %w", err)
	}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, namespace, Name, clientset.CoreV1(), clientset.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: host + "_" + uuid.NewString()})
	if err != nil {
		return nil, fmt.Errorf("setting up leader election: %w", err)
	}
	t := &term{Interface: lock}
	return &Election{Lock: t, term: t, leases: clientset.CoordinationV1(), namespace: namespace}, nil
}

// Namespace is that of the Lease: the one that was given, or the pod's.
func (e *Election) Namespace() string { return e.namespace }

// Sure says, asking nobody, that no other process of this cluster can lead by now. One
// that was paused takes itself for the leader for RenewDeadline after it goes on,
// though another may have followed: client-go goes on trying to renew.
func (e *Election) Sure() bool { return e.term.sure(time.Now()) }

// Leads asks the API server, live, whether this process is the leader.
func (e *Election) Leads(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	lease, err := e.leases.Leases(e.namespace).Get(ctx, Name, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Errorf("asking who leads: %w", err)
	}
	return lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity == e.Lock.Identity(), nil
}

func ownNamespace() string {
	if data, err := os.ReadFile(namespaceFile); err == nil {
		if namespace := strings.TrimSpace(string(data)); namespace != "" {
			return namespace
		}
	}
	return outsideNamespace
}
