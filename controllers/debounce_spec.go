package controllers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/utils/ptr"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/debounce"
	"github.com/redislock-operator/redislock-operator/internal/stores"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// debounceSpec works out what a runner is to do, or why there can be none.
func (r *DebounceReconciler) debounceSpec(d *v1alpha1.Debounce) (debounce.Spec, *problem) {
	spec := debounce.Spec{Key: debounceKey(d, r.ClusterUID)}
	client, p := debounceClient(d, r.Config, r.Stores)
	if p != nil {
		return spec, p
	}
	if http := d.Spec.Action.HTTP; http != nil {
		if _, ok := r.Config.HTTPTarget(d.Namespace, http.URL); !ok {
			return spec, &problem{v1alpha1.ReasonURLNotAllowed, fmt.Sprintf(
				"the operator's configuration has no HTTP target for namespace %s under which spec.action.http.url lies: use another URL or ask the operator's administrator for a target", d.Namespace)}
		}
	}
	// Of a Job template no equality can be asked for, but of what it is written as.
	action, err := json.Marshal(d.Spec.Action)
	if err != nil {
		return spec, &problem{v1alpha1.ReasonActionInvalid, err.Error()}
	}
	wait := duration(d.Spec.Wait, v1alpha1.DefaultWait)
	spec.Client = client
	spec.Idle = ptr.Deref(d.Spec.Suspend, false)
	spec.Revision = campaign.Fingerprint(string(action))
	spec.Settings = debounce.Settings{
		Wait:        wait,
		MaxWait:     duration(d.Spec.MaxWait, min(v1alpha1.DefaultMaxWaitFactor*wait, v1alpha1.MaxDebounceWait)),
		MinInterval: duration(d.Spec.MinInterval, 0),
		Edge:        redislock.Edge(d.Spec.Edge),
		Payload:     redislock.PayloadChoice(d.Spec.Payload),
		Claimant:    claimant{r.ClusterUID, r.Config.ClusterName, d.Namespace, d.Name}.String(),
	}
	return spec, nil
}

// debounceClient finds the store, or what is wrong with key or store.
func debounceClient(d *v1alpha1.Debounce, cfg config.Config, list *stores.Stores) (*redislock.Client, *problem) {
	if d.Spec.Key != "" && !cfg.KeyAllowed(config.DebounceKey, d.Namespace, d.Spec.Key) {
		return nil, &problem{v1alpha1.ReasonKeyNotAllowed, fmt.Sprintf(
			"the key %q does not begin with %q, and the operator's key policy does not allow it to namespace %s: use another key or ask the operator's administrator for leave",
			d.Spec.Key, config.DebounceKey.Prefix(d.Namespace), d.Namespace)}
	}
	store := list.Get(debounceStore(d))
	if store == nil {
		known := slices.Sorted(slices.Values(list.Names()))
		return nil, &problem{v1alpha1.ReasonStoreUnknown, fmt.Sprintf(
			"the operator's configuration has no store %q; it has: %s", debounceStore(d), strings.Join(known, ", "))}
	}
	client := store.Client()
	if client == nil {
		return nil, &problem{v1alpha1.ReasonStoreInvalid, fmt.Sprintf("store %q: %v", store.Name, store.State().Invalid)}
	}
	return client, nil
}

func debounceKey(d *v1alpha1.Debounce, clusterUID string) string {
	key := d.Spec.Key
	if key == "" {
		key = config.DebounceKey.Prefix(d.Namespace) + d.Name
	}
	if d.Spec.Scope == v1alpha1.ScopeCluster {
		key += ":" + clusterUID
	}
	return key
}

func debounceStore(d *v1alpha1.Debounce) string {
	if d.Spec.Store != "" {
		return d.Spec.Store
	}
	return v1alpha1.DefaultStore
}

// A claimant is who runs, as it is written into Redis.
type claimant struct{ clusterUID, clusterName, namespace, name string }

func (c claimant) String() string {
	return strings.Join([]string{c.clusterUID, c.clusterName, c.namespace, c.name}, "/")
}

// clusterOf is the name of the cluster of a claimant; empty for another program's.
func clusterOf(s string) string {
	parts := strings.Split(s, "/")
	if len(parts) != 4 {
		return ""
	}
	return parts[1][:min(len(parts[1]), 253)]
}
