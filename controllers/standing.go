package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	// DrainConfigMap, in the operator's namespace, drains the whole cluster while its
	// key DrainKey is "true": a switch for all locks at once.
	DrainConfigMap = "redislock-drain"
	DrainKey       = "drained"
)

// A standing is this cluster's place among those that share a lock.
type standing struct {
	// aside is why it does not compete; zero where it does.
	aside campaign.Aside
	// giveUp: it is to give the lock up to a preferred cluster that is back.
	giveUp bool
	// again is when to ask again; 0: never.
	again time.Duration
}

// drained says why this cluster stays out of a lock; "" where it does not.
func (r *RedisLockReconciler) drained(ctx context.Context, lock *v1alpha1.RedisLock) (string, error) {
	if slices.Contains(lock.Spec.Paused, r.Config.ClusterName) {
		return "paused: spec.paused names this cluster, so it stays out", nil
	}
	var drain corev1.ConfigMap
	err := r.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: DrainConfigMap}, &drain)
	if client.IgnoreNotFound(err) != nil {
		return "", err
	}
	if err == nil && drain.Data[DrainKey] == "true" {
		return fmt.Sprintf("paused: ConfigMap %s/%s drains this cluster, so it stays out", r.Namespace, DrainConfigMap), nil
	}
	return "", nil
}

// rank is a cluster's place in the order of preference: the lower the better.
func rank(preferred []string, cluster string) int {
	if i := slices.Index(preferred, cluster); i >= 0 {
		return i
	}
	return len(preferred)
}

// preference works out what the order of preference means for this cluster: a cluster
// of the list announces itself in Redis, by whose clock it is there or not.
func (r *RedisLockReconciler) preference(ctx context.Context, lock *v1alpha1.RedisLock, client *redislock.Client, key string) standing {
	preferred := lock.Spec.PreferredClusters
	if len(preferred) == 0 {
		return standing{}
	}
	s := standing{again: lease(lock) / 3}
	mine := rank(preferred, r.Config.ClusterName)
	name := ""
	if mine < len(preferred) {
		name = r.Config.ClusterName
	}
	ctx, cancel := context.WithTimeout(ctx, runsTimeout)
	defer cancel()
	there, err := client.Announce(ctx, key, name, lease(lock))
	if err != nil {
		ctrl.LoggerFrom(ctx).V(1).Info("Asking which preferred clusters are there", "error", err.Error())
		return s // an order of preference is not worth standing still for
	}
	dwell := duration(lock.Spec.FailbackAfter, v1alpha1.DefaultFailbackAfter)
	for cluster, since := range there {
		if rank(preferred, cluster) >= mine {
			continue
		}
		s.aside = campaign.Aside{Reason: v1alpha1.ReasonDeferring, Message: "this cluster leaves the lock to one that is preferred and there"}
		// By this machine's clock, like the dwell time itself: a second more or less
		// means nothing.
		back := time.Until(since.Add(dwell))
		if back <= 0 {
			s.giveUp = true
		} else {
			s.again = min(s.again, back)
		}
	}
	return s
}

// withdraw takes this cluster out of those that are there.
func (r *RedisLockReconciler) withdraw(ctx context.Context, lock *v1alpha1.RedisLock, client *redislock.Client, key string) {
	if !slices.Contains(lock.Spec.PreferredClusters, r.Config.ClusterName) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, runsTimeout)
	defer cancel()
	if err := client.Withdraw(ctx, key, r.Config.ClusterName); err != nil {
		ctrl.LoggerFrom(ctx).V(1).Info("Withdrawing", "error", err.Error())
	}
}
