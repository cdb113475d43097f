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

// absent stands for the content of a ConfigMap that is named and not there.
const absent = "absent"

// triggerState is what of a Debounce's triggers was seen.
type triggerState struct {
	// generation is that of the object whose triggers these are; 0 where none were seen.
	generation int64
	contents   map[string]string // hashes of ConfigMaps, by name
	call       *string           // of the annotation
}

// triggersIn are those that a status tells of.
func triggersIn(status v1alpha1.DebounceStatus) triggerState {
	s := triggerState{generation: status.ObservedGeneration, contents: map[string]string{}, call: status.Call}
	for _, content := range status.Triggers {
		s.contents[content.Name] = content.Hash
	}
	return s
}

func (s triggerState) list() []v1alpha1.ConfigMapContent {
	var list []v1alpha1.ConfigMapContent
	for _, name := range slices.Sorted(maps.Keys(s.contents)) {
		list = append(list, v1alpha1.ConfigMapContent{Name: name, Hash: s.contents[name]})
	}
	return list
}

// under is what was seen, as if the spec had always been as it is now. What is seen for
// the first time is no call, nor is a ConfigMap that a changed spec names.
func (s triggerState) under(is triggerState) triggerState {
	switch s.generation {
	case 0:
		return is
	case is.generation:
		return s
	}
	contents := maps.Clone(is.contents)
	for name := range contents {
		if before, known := s.contents[name]; known {
			contents[name] = before
		}
	}
	return triggerState{generation: is.generation, contents: contents, call: s.call}
}

// changed are the names of ConfigMaps that are not as they were.
func (s triggerState) changed(is triggerState) []string {
	names := map[string]struct{}{}
	for name, before := range s.contents {
		if is.contents[name] != before {
			names[name] = struct{}{}
		}
	}
	for name := range is.contents {
		if _, known := s.contents[name]; !known {
			names[name] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// trigger calls where a trigger is not as it was, and returns how triggers are now, or,
// where a call could not be recorded or may not, were. The status says how they were for
// the process that comes next.
func (r *DebounceReconciler) trigger(ctx context.Context, d *v1alpha1.Debounce, m *debounceMemory, may bool) (triggerState, *problem, error) {
	if m.triggers.generation == 0 {
		m.triggers = triggersIn(d.Status)
	}
	contents, p, err := r.contents(ctx, d)
	if err != nil {
		return m.triggers, p, err
	}
	is := triggerState{generation: d.Generation, contents: contents, call: m.triggers.call}
	if p != nil {
		is.contents = m.triggers.contents
	}
	if value, ok := d.Annotations[v1alpha1.CallAnnotation]; ok && len(value) > redislock.MaxPayload {
		p = cmp.Or(p, &problem{v1alpha1.ReasonTriggerInvalid, fmt.Sprintf(
			"the annotation %s is %d bytes long, and a payload at most %d: write less into it", v1alpha1.CallAnnotation, len(value), redislock.MaxPayload)})
	} else if ok {
		is.call = new(shortCall(value))
	}
	m.triggers = m.triggers.under(is)
	if !may {
		return m.triggers, p, nil
	}
	if changed := m.triggers.changed(is); len(changed) > 0 {
		if err := r.call(ctx, d, "configmap", namesOf(changed)); err != nil {
			return m.triggers, p, err
		}
		m.triggers.contents = is.contents
	}
	if !ptr.Equal(m.triggers.call, is.call) {
		if err := r.call(ctx, d, "annotation", d.Annotations[v1alpha1.CallAnnotation]); err != nil {
			return m.triggers, p, err
		}
		m.triggers.call = is.call
	}
	return m.triggers, p, nil
}

// call records a call of a trigger.
func (r *DebounceReconciler) call(ctx context.Context, d *v1alpha1.Debounce, trigger, payload string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := r.Runners.Call(ctx, client.ObjectKeyFromObject(d), []byte(payload)); err != nil {
		return fmt.Errorf("recording a call by %s: %w", trigger, err)
	}
	measureDebounceCall(client.ObjectKeyFromObject(d), trigger)
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
	contents, p := selected(d.Spec.Triggers.ConfigMaps, all)
	return contents, p, nil
}

// selected are the hashes of those of all that triggers name or select.
func selected(triggers []v1alpha1.ConfigMapTrigger, all []debounce.Content) (map[string]string, *problem) {
	contents := map[string]string{}
	for i, trigger := range triggers {
		matches := func(c debounce.Content) bool { return c.Name == trigger.Name }
		if trigger.Selector != nil {
			selector, err := metav1.LabelSelectorAsSelector(trigger.Selector)
			if err != nil {
				return nil, &problem{v1alpha1.ReasonTriggerInvalid, fmt.Sprintf("spec.triggers.configMaps[%d].selector: %v", i, err)}
			}
			matches = func(c debounce.Content) bool { return selector.Matches(labels.Set(c.Labels)) }
		} else if contents[trigger.Name] == "" {
			contents[trigger.Name] = absent
		}
		for _, content := range all {
			if matches(content) {
				contents[content.Name] = content.Hash
			}
		}
	}
	if len(contents) > mostTriggers {
		return nil, &problem{v1alpha1.ReasonTriggerInvalid, fmt.Sprintf(
			"spec.triggers.configMaps selects %d ConfigMaps, more than the %d that can be watched: write a narrower selector", len(contents), mostTriggers)}
	}
	return contents, nil
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
