package controllers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/debounce"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

func seen(generation int64, contents map[string]string) triggerState {
	return triggerState{generation: generation, contents: contents}
}

func TestWhichConfigMapsCall(t *testing.T) {
	t.Parallel()
	type hashes = map[string]string
	for name, tc := range map[string]struct {
		was, is triggerState
		want    []string
	}{
		"at first sight none":                            {triggerState{}, seen(1, hashes{"a": "1"}), nil},
		"none that is as it was":                         {seen(1, hashes{"a": "1"}), seen(1, hashes{"a": "1"}), nil},
		"one with other content":                         {seen(1, hashes{"a": "1", "b": "1"}), seen(1, hashes{"a": "2", "b": "1"}), []string{"a"}},
		"one that was created, by selector":              {seen(1, hashes{}), seen(1, hashes{"a": "1"}), []string{"a"}},
		"one that was created, by name":                  {seen(1, hashes{"a": absent}), seen(1, hashes{"a": "1"}), []string{"a"}},
		"one that was deleted, by selector":              {seen(1, hashes{"a": "1"}), seen(1, hashes{}), []string{"a"}},
		"one that was deleted, by name":                  {seen(1, hashes{"a": "1"}), seen(1, hashes{"a": absent}), []string{"a"}},
		"none that a changed spec names":                 {seen(1, hashes{"a": "1"}), seen(2, hashes{"a": "1", "b": "1"}), nil},
		"none that a changed spec no longer names":       {seen(1, hashes{"a": "1", "b": "1"}), seen(2, hashes{"a": "1"}), nil},
		"one that changed with the spec":                 {seen(1, hashes{"a": "1"}), seen(2, hashes{"a": "2", "b": "1"}), []string{"a"}},
		"one that was named and created with the spec":   {seen(1, hashes{"a": absent}), seen(2, hashes{"a": "1"}), []string{"a"}},
		"several, in order":                              {seen(1, hashes{"b": "1", "a": "1", "c": "1"}), seen(1, hashes{"b": "2", "a": "2", "c": "1"}), []string{"a", "b"}},
		"one that changed while nothing could be called": {seen(2, hashes{"a": "1"}).under(seen(3, hashes{"a": "2"})), seen(3, hashes{"a": "2"}), []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			g.Expect(tc.was.under(tc.is).changed(tc.is)).To(Equal(tc.want))
		})
	}
}

func TestWhichConfigMapsAreWatched(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	all := []debounce.Content{
		{Name: "a", Hash: "1", Labels: map[string]string{"app": "shop"}},
		{Name: "b", Hash: "2", Labels: map[string]string{"app": "shop"}},
		{Name: "c", Hash: "3"},
	}
	shop := v1alpha1.ConfigMapTrigger{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop"}}}
	contents, p := selected([]v1alpha1.ConfigMapTrigger{{Name: "c"}, {Name: "d"}, shop, {Name: "a"}}, all)
	g.Expect(p).To(BeNil())
	g.Expect(contents).To(Equal(map[string]string{"a": "1", "b": "2", "c": "3", "d": absent}))

	for i := range mostTriggers + 1 {
		all = append(all, debounce.Content{Name: fmt.Sprintf("many-%d", i), Hash: "1", Labels: map[string]string{"many": ""}})
	}
	many := v1alpha1.ConfigMapTrigger{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"many": ""}}}
	_, p = selected([]v1alpha1.ConfigMapTrigger{many}, all)
	g.Expect(p.reason).To(Equal(v1alpha1.ReasonTriggerInvalid))
	g.Expect(p.message).To(ContainSubstring("513"))
	_, p = selected([]v1alpha1.ConfigMapTrigger{many}, all[:len(all)-1])
	g.Expect(p).To(BeNil())

	wrong := v1alpha1.ConfigMapTrigger{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}}
	_, p = selected([]v1alpha1.ConfigMapTrigger{wrong}, all)
	g.Expect(p.reason).To(Equal(v1alpha1.ReasonTriggerInvalid))
}

// calling is a Debounce whose calls go into a real Redis.
type calling struct {
	*DebounceReconciler
	g         Gomega
	redis     *redisserver.Server
	debouncer *redislock.Debouncer
	d         *v1alpha1.Debounce
	memory    *debounceMemory
}

func newCalling(t *testing.T) *calling {
	t.Helper()
	g := NewWithT(t)
	redis := redisserver.Start(t, redisserver.Options{})
	locks, err := redislock.New(redisserver.Connect(t, redis.URL()))
	g.Expect(err).NotTo(HaveOccurred())
	c := &calling{
		DebounceReconciler: &DebounceReconciler{Runners: debounce.NewRunners(logr.Discard())}, g: g, redis: redis,
		d: &v1alpha1.Debounce{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "name", UID: "uid", Generation: 1}}, memory: &debounceMemory{},
	}
	c.debouncer, err = locks.Debouncer("debounce:ns:name", redislock.Debounce{})
	g.Expect(err).NotTo(HaveOccurred())
	// Idle, so that calls stay where they can be counted.
	g.Expect(c.Runners.Ensure(client.ObjectKeyFromObject(c.d), c.d.UID, debounce.Spec{Client: locks, Key: "debounce:ns:name", Idle: true}, nil)).To(Succeed())
	t.Cleanup(func() { _ = c.Runners.Leave(context.Background()) })
	return c
}

func (c *calling) annotate(value string) {
	c.d.Annotations = map[string]string{v1alpha1.CallAnnotation: value}
}

// look is a reconcile; written says whether its status is.
func (c *calling) look(t *testing.T, written bool) (triggerState, *problem, error) {
	is, p, err := c.trigger(t.Context(), c.d, c.memory, true)
	if written {
		c.d.Status.ObservedGeneration, c.d.Status.Call = is.generation, is.call
	}
	return is, p, err
}

// anew forgets what the process remembers.
func (c *calling) anew() { c.memory = &debounceMemory{} }

func (c *calling) calls(t *testing.T) int {
	t.Helper()
	state, err := c.debouncer.State(t.Context())
	c.g.Expect(err).NotTo(HaveOccurred())
	return int(state.Calls)
}

func TestAChangedAnnotationCallsOnce(t *testing.T) {
	t.Parallel()
	c := newCalling(t)
	for _, step := range []struct {
		what    string
		do      func()
		written bool
		calls   int
	}{
		{"what was there at first sight", func() { c.annotate("zero") }, true, 0},
		{"a change", func() { c.annotate("one") }, true, 1},
		{"nothing", func() {}, true, 1},
		{"another process", c.anew, true, 1},
		{"a change whose status is not written", func() { c.annotate("two") }, false, 2},
		{"the next look", func() {}, false, 2},
		{"back", func() { c.annotate("one") }, false, 3},
		{"and forth", func() { c.annotate("two") }, true, 4},
		{"a removal", func() { c.d.Annotations = nil }, true, 4},
		{"an empty value", func() { c.annotate("") }, true, 5},
		{"a value too long for the status", func() { c.annotate(strings.Repeat("a", longestCall+1)) }, true, 6},
		{"which another process sees", c.anew, true, 6},
		{"another such", func() { c.annotate(strings.Repeat("a", longestCall+2)) }, true, 7},
	} {
		step.do()
		_, p, err := c.look(t, step.written)
		c.g.Expect(err).NotTo(HaveOccurred(), step.what)
		c.g.Expect(p).To(BeNil(), step.what)
		c.g.Expect(c.calls(t)).To(Equal(step.calls), step.what)
	}
}

func TestAnAnnotationThatIsTooLongIsAProblem(t *testing.T) {
	t.Parallel()
	c := newCalling(t)
	_, _, err := c.look(t, true)
	c.g.Expect(err).NotTo(HaveOccurred())
	c.annotate(strings.Repeat("a", redislock.MaxPayload+1))
	_, p, err := c.look(t, true)
	c.g.Expect(err).NotTo(HaveOccurred())
	c.g.Expect(p.reason).To(Equal(v1alpha1.ReasonTriggerInvalid))
	c.g.Expect(c.calls(t)).To(BeZero())
	c.annotate(strings.Repeat("a", redislock.MaxPayload))
	_, p, err = c.look(t, true)
	c.g.Expect(err).NotTo(HaveOccurred())
	c.g.Expect(p).To(BeNil())
	c.g.Expect(c.calls(t)).To(Equal(1))
}

func TestACallThatCouldNotBeRecordedIsMadeLater(t *testing.T) {
	t.Parallel()
	c := newCalling(t)
	_, _, err := c.look(t, true)
	c.g.Expect(err).NotTo(HaveOccurred())
	c.annotate("one")

	c.g.Expect(c.redis.Kill()).To(Succeed())
	is, _, err := c.look(t, true)
	c.g.Expect(err).To(HaveOccurred())
	c.g.Expect(is.call).To(BeNil(), "the status does not say that it was called for")
	c.g.Expect(c.redis.Start()).To(Succeed())
	c.anew()
	NewWithT(t).Eventually(func() error { _, _, err := c.look(t, true); return err }).WithTimeout(30 * time.Second).Should(Succeed())
	c.g.Expect(c.calls(t)).To(Equal(1))

	c.annotate("two")
	c.Runners.Stop(client.ObjectKeyFromObject(c.d))
	is, _, err = c.look(t, true)
	c.g.Expect(err).To(MatchError(debounce.ErrNoRunner))
	c.g.Expect(is.call).To(HaveValue(Equal("one")))
}

func TestACallThatMayNotBeMadeYetIsMadeLater(t *testing.T) {
	t.Parallel()
	c := newCalling(t)
	c.annotate("zero")
	is, _, err := c.trigger(t.Context(), c.d, c.memory, false)
	c.g.Expect(err).NotTo(HaveOccurred())
	c.g.Expect(is.call).To(HaveValue(Equal("zero")), "seen for the first time, it is no call")
	c.annotate("one")
	is, _, err = c.trigger(t.Context(), c.d, c.memory, false)
	c.g.Expect(err).NotTo(HaveOccurred())
	c.g.Expect(is.call).To(HaveValue(Equal("zero")))
	_, _, err = c.look(t, true)
	c.g.Expect(err).NotTo(HaveOccurred())
	c.g.Expect(c.calls(t)).To(Equal(1))
}

func TestThePayloadOfAChangeFits(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(namesOf([]string{"a", "b"})).To(Equal("configmaps a,b"))
	var names []string
	for range mostTriggers {
		names = append(names, strings.Repeat("n", 253))
	}
	payload := namesOf(names)
	g.Expect(len(payload)).To(BeNumerically("<=", redislock.MaxPayload))
	g.Expect(payload).To(HaveSuffix(" and 412 more"))
}
