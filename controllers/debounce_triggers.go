package controllers

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/debounce"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	// mostTriggers is how many ConfigMaps the status has room for.
	mostTriggers = 512
	// longestCall is what of a call annotation the status has room for.
	longestCall = 256
)

// triggerState is what of a Debounce's triggers was seen.
type triggerState struct {
	contents map[string]string // hashes of ConfigMaps, by name
	call     *string           // of the annotation
}

func (s triggerState) list() []v1alpha1.ConfigMapContent {
	var list []v1alpha1.ConfigMapContent
	for _, name := range slices.Sorted(maps.Keys(s.contents)) {
		list = append(list, v1alpha1.ConfigMapContent{Name: name, Hash: s.contents[name]})
	}
	return list
}

// trigger calls where a trigger is not as it was, and returns how triggers are now, or,
// where a call could not be recorded, were. The status says how they were: what was not
// written there is called for again. What is seen for the first time is no call.
func (r *DebounceReconciler) trigger(ctx context.Context, d *v1alpha1.Debounce, m *debounceMemory, may bool) (triggerState, *problem, error) {
	was := triggerState{contents: map[string]string{}, call: d.Status.Call}
	for _, content := range d.Status.Triggers {
		was.contents[content.Name] = content.Hash
	}
	first := d.Status.ObservedGeneration == 0
	is := triggerState{call: was.call}
	var p *problem
	var err error
	if is.contents, p, err = r.contents(ctx, d); p != nil || err != nil {
		is.contents = was.contents
	}
	if value, ok := d.Annotations[v1alpha1.CallAnnotation]; ok && len(value) > redislock.MaxPayload {
		p = cmp.Or(p, &problem{v1alpha1.ReasonTriggerInvalid, fmt.Sprintf(
			"the annotation %s is %d bytes long, and a payload at most %d: write less into it", v1alpha1.CallAnnotation, len(value), redislock.MaxPayload)})
	} else if ok {
		is.call = ptr.To(shortCall(value))
	}
	if !may {
		return was, p, err
	}

	// A ConfigMap that a changed spec names is not a changed ConfigMap.
	respecified := d.Status.ObservedGeneration != d.Generation
	var changed []string
	for name := range union(was.contents, is.contents) {
		before, had := was.contents[name]
		now, has := is.contents[name]
		if before != now && (had && has || !respecified) {
			changed = append(changed, name)
		}
	}
	if !first && len(changed) > 0 && !maps.Equal(m.called.contents, is.contents) {
		slices.Sort(changed)
		if err := r.call(ctx, d, "configmap", namesOf(changed)); err != nil {
			return was, p, err
		}
		m.called.contents = is.contents
	}
	was.contents = is.contents
	if !first && is.call != nil && !ptr.Equal(was.call, is.call) && !ptr.Equal(m.called.call, is.call) {
		if err := r.call(ctx, d, "annotation", d.Annotations[v1alpha1.CallAnnotation]); err != nil {
			return was, p, err
		}
		m.called.call = is.call
	}
	return is, p, err
}

func union[V any](a, b map[string]V) map[string]struct{} {
	all := map[string]struct{}{}
	for name := range a {
		all[name] = struct{}{}
	}
	for name := range b {
		all[name] = struct{}{}
	}
	return all
}

// call records a call of a trigger.
func (r *DebounceReconciler) call(ctx context.Context, d *v1alpha1.Debounce, trigger, payload string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, there, err := r.Runners.Call(ctx, client.ObjectKeyFromObject(d), []byte(payload))
	if err != nil {
		return fmt.Errorf("recording a call by %s: %w", trigger, err)
	}
	if there {
		measureDebounceCall(client.ObjectKeyFromObject(d), trigger)
	}
	return nil
}

// contents are the hashes of the ConfigMaps that the spec names.
func (r *DebounceReconciler) contents(ctx context.Context, d *v1alpha1.Debounce) (map[string]string, *problem, error) {
	if d.Spec.Triggers == nil || len(d.Spec.Triggers.ConfigMaps) == 0 {
		return nil, nil, nil
	}
	all, err := r.Contents.In(ctx, d.Namespace)
	if err != nil {
		return nil, &problem{v1alpha1.ReasonTriggerInvalid, fmt.Sprintf("ConfigMaps cannot be read: %v", err)}, err
	}
	contents := map[string]string{}
	for i, trigger := range d.Spec.Triggers.ConfigMaps {
		matches := func(c debounce.Content) bool { return c.Name == trigger.Name }
		if trigger.Selector != nil {
			selector, err := metav1.LabelSelectorAsSelector(trigger.Selector)
			if err != nil {
				return nil, &problem{v1alpha1.ReasonTriggerInvalid, fmt.Sprintf("spec.triggers.configMaps[%d].selector: %v", i, err)}, nil
			}
			matches = func(c debounce.Content) bool { return selector.Matches(labels.Set(c.Labels)) }
		}
		for _, content := range all {
			if matches(content) {
				contents[content.Name] = content.Hash
			}
		}
	}
	if len(contents) > mostTriggers {
		return nil, &problem{v1alpha1.ReasonTriggerInvalid, fmt.Sprintf(
			"spec.triggers.configMaps selects %d ConfigMaps, more than the %d that can be watched: write a narrower selector", len(contents), mostTriggers)}, nil
	}
	return contents, nil, nil
}

// namesOf is the payload of a call by ConfigMaps.
func namesOf(changed []string) string {
	const most = 100
	more := ""
	if n := len(changed) - most; n > 0 {
		changed, more = changed[:most], fmt.Sprintf(" and %d more", n)
	}
	return "configmaps " + strings.Join(changed, ",") + more
}

func shortCall(value string) string {
	if len(value) <= longestCall {
		return value
	}
	sum := sha256.Sum256([]byte(value))
	return "sha256:" + hex.EncodeToString(sum[:])
}
