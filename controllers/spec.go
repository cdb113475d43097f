package controllers

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// spec works out what a campaign is to do, or why there can be none.
func (r *RedisLockReconciler) spec(lock *v1alpha1.RedisLock) (campaign.Spec, *problem) {
	key := lockKey(lock)
	if !r.Config.KeyAllowed(config.LockKey, lock.Namespace, key) {
		return campaign.Spec{}, &problem{v1alpha1.ReasonKeyNotAllowed, fmt.Sprintf(
			"the key %q does not begin with %q, and the operator's key policy does not allow it to namespace %s: use another key or ask the operator's administrator for leave",
			key, config.LockKey.Prefix(lock.Namespace), lock.Namespace)}
	}
	if err := redislock.ValidateKey(key); err != nil {
		return campaign.Spec{}, &problem{v1alpha1.ReasonKeyNotAllowed, err.Error()}
	}
	store := r.Stores.Get(storeName(lock))
	if store == nil {
		known := slices.Sorted(slices.Values(r.Stores.Names()))
		return campaign.Spec{}, &problem{v1alpha1.ReasonStoreUnknown, fmt.Sprintf(
			"the operator's configuration has no store %q; it has: %s", storeName(lock), strings.Join(known, ", "))}
	}
	if invalid := store.State().Invalid; invalid != nil {
		return campaign.Spec{}, &problem{v1alpha1.ReasonStoreInvalid, fmt.Sprintf("store %q: %v", store.Name, invalid)}
	}
	return campaign.Spec{
		Client: store.Client(),
		Key:    key,
		Identity: campaign.Identity{
			ClusterUID: r.ClusterUID, ClusterName: r.Config.ClusterName,
			Object: client.ObjectKeyFromObject(lock), Fingerprint: fingerprint(lock),
		},
		Terms: campaign.Terms{
			Lease: lease(lock), Renew: renewEvery(lock), LockDelay: lockDelay(lock),
			MinHold: duration(lock.Spec.MinHold, 0), MaxHold: duration(lock.Spec.MaxHold, 0),
		},
	}, nil
}

// What a spec says, with its defaults.

func lockKey(lock *v1alpha1.RedisLock) string {
	if lock.Spec.Key != "" {
		return lock.Spec.Key
	}
	return redislock.Key(lock.Namespace, lock.Name)
}

func storeName(lock *v1alpha1.RedisLock) string {
	if lock.Spec.Store != "" {
		return lock.Spec.Store
	}
	return v1alpha1.DefaultStore
}

func duration(d *metav1.Duration, byDefault time.Duration) time.Duration {
	if d != nil {
		return d.Duration
	}
	return byDefault
}

func lease(lock *v1alpha1.RedisLock) time.Duration {
	return duration(lock.Spec.Lease, v1alpha1.DefaultLease)
}

func renewEvery(lock *v1alpha1.RedisLock) time.Duration {
	return duration(lock.Spec.RenewEvery, lease(lock)/3)
}

func lockDelay(lock *v1alpha1.RedisLock) time.Duration { return duration(lock.Spec.LockDelay, 0) }

// fingerprint is of what must be the same in all clusters, or they would share a
// lock on different terms.
func fingerprint(lock *v1alpha1.RedisLock) string {
	return campaign.Fingerprint(string(lock.Spec.Hold), lease(lock).String(), lockDelay(lock).String(), string(lock.Spec.LostTicks))
}
