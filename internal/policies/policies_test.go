package policies

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// apiServer answers as one with these policies does. What the policies themselves do is
// tested in test/policies.
type apiServer struct {
	mu                       sync.Mutex
	mutating, jobs, cronJobs bool
	// debounces: the policy is in force; noDebounces: the kind is not known.
	debounces, noDebounces bool
	// err is the answer to everything.
	err   error
	asked int
}

func (s *apiServer) change(f func(*apiServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *apiServer) create(_ context.Context, _ client.WithWatch, object client.Object, opts ...client.CreateOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	var o client.CreateOptions
	if o.ApplyOptions(opts); len(o.DryRun) != 1 {
		return errors.New("not a dry run")
	}
	if s.err != nil {
		return s.err
	}
	switch object := object.(type) {
	case *batchv1.Job:
		if s.mutating && !prepared(object) {
			prepare(object)
		}
		if s.jobs && !prepared(object) {
			return refusal("the Job must have spec.suspend: true")
		}
		if _, ok := object.Labels[queueLabel]; s.jobs && ok {
			return refusal("take out " + queueLabel)
		}
	case *batchv1.CronJob:
		if s.cronJobs && object.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
			return refusal("set concurrencyPolicy to Forbid")
		}
	case *v1alpha1.Debounce:
		if s.noDebounces {
			return &meta.NoKindMatchError{GroupKind: v1alpha1.SchemeGroupVersion.WithKind("Debounce").GroupKind()}
		}
		if _, ok := object.Spec.Action.Job.Template.Annotations[v1alpha1.RunAnnotation]; s.debounces && ok {
			return refusal("take out " + v1alpha1.RunAnnotation)
		}
	}
	return nil
}

func refusal(message string) error {
	err := apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "probe",
		errors.New("ValidatingAdmissionPolicy 'x' with binding 'x' denied request: "+message))
	err.ErrStatus.Reason = metav1.StatusReasonInvalid
	return err
}

// checker makes a quick Checker for an API server that knows MutatingAdmissionPolicy,
// or does not.
func checker(t *testing.T, s *apiServer, mutatingServed bool) *Checker {
	t.Helper()
	mapper := meta.NewDefaultRESTMapper(nil)
	if mutatingServed {
		mapper.Add(schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingAdmissionPolicy"}, meta.RESTScopeRoot)
	}
	c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithRESTMapper(mapper).
		WithInterceptorFuncs(interceptor.Funcs{Create: s.create}).Build()
	checker := New(c, "operators", testr.New(t))
	checker.retryEvery = 5 * time.Millisecond
	return checker
}

func TestWhatTheAnswersSay(t *testing.T) {
	// Not parallel: the metric is the process's.
	for _, tc := range []struct {
		name    string
		server  *apiServer
		old     bool
		missing []string
		metrics string
	}{
		{
			name: "all in force", server: &apiServer{mutating: true, jobs: true, cronJobs: true, debounces: true},
			metrics: `cronjobs 1, debounces 1, jobs 1, mutating 1`,
		},
		{
			name: "none in force", server: &apiServer{}, missing: []string{"MutatingAdmissionPolicy guarded-jobs", "ValidatingAdmissionPolicy guarded-jobs", "guarded-cronjobs", "ValidatingAdmissionPolicy debounces"},
			metrics: `cronjobs 0, debounces 0, jobs 0, mutating 0`,
		},
		{
			name: "not the mutating one", server: &apiServer{jobs: true, cronJobs: true, debounces: true}, missing: []string{"MutatingAdmissionPolicy guarded-jobs"},
			metrics: `cronjobs 1, debounces 1, jobs 1, mutating 0`,
		},
		{
			name: "not the one for Jobs", server: &apiServer{mutating: true, cronJobs: true, debounces: true}, missing: []string{"ValidatingAdmissionPolicy guarded-jobs"},
			metrics: `cronjobs 1, debounces 1, jobs 0, mutating 1`,
		},
		{
			name: "not the one for CronJobs", server: &apiServer{mutating: true, jobs: true, debounces: true}, missing: []string{"guarded-cronjobs"},
			metrics: `cronjobs 0, debounces 1, jobs 1, mutating 1`,
		},
		{
			name: "not the one for Debounces", server: &apiServer{mutating: true, jobs: true, cronJobs: true}, missing: []string{"ValidatingAdmissionPolicy debounces"},
			metrics: `cronjobs 1, debounces 0, jobs 1, mutating 1`,
		},
		{
			name: "no Debounces to have one for", server: &apiServer{mutating: true, jobs: true, cronJobs: true, noDebounces: true},
			metrics: `cronjobs 1, jobs 1, mutating 1`,
		},
		{
			name: "an API server without the kind", server: &apiServer{jobs: true, cronJobs: true, debounces: true}, old: true,
			metrics: `cronjobs 1, debounces 1, jobs 1`,
		},
		{
			name: "one without the kind and the policy for Jobs", server: &apiServer{cronJobs: true, debounces: true}, old: true, missing: []string{"ValidatingAdmissionPolicy guarded-jobs"},
			metrics: `cronjobs 1, debounces 1, jobs 0`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := NewWithT(t)
			c := checker(t, tc.server, !tc.old)
			g.Expect(c.ReadyzCheck(nil)).To(MatchError(ContainSubstring("not been looked at yet")))
			wait := c.look(t.Context())
			state := c.State()
			g.Expect(state.Checked).To(BeTrue())
			g.Expect(state.NoMutating).To(Equal(tc.old))
			g.Expect(state.Missing).To(HaveLen(len(tc.missing)))
			if len(tc.missing) == 0 {
				g.Expect(c.ReadyzCheck(nil)).To(Succeed())
				g.Expect(wait).To(Equal(lookEvery))
			} else {
				g.Expect(wait).To(Equal(c.retryEvery))
			}
			for i, words := range tc.missing {
				g.Expect(state.Missing[i]).To(ContainSubstring(words))
				g.Expect(c.ReadyzCheck(nil)).To(MatchError(ContainSubstring(words)))
			}
			g.Expect(measured(g)).To(Equal(tc.metrics))
		})
	}
}

// measured is what the metric says.
func measured(g Gomega) string {
	families, err := metrics.Registry.Gather()
	g.Expect(err).NotTo(HaveOccurred())
	var list []string
	for _, family := range families {
		if family.GetName() != "redislock_policies_in_force" {
			continue
		}
		for _, m := range family.GetMetric() {
			list = append(list, fmt.Sprintf("%s %v", m.GetLabel()[0].GetValue(), m.GetGauge().GetValue()))
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func TestAnotherRefusalSaysNothingAboutThePolicies(t *testing.T) {
	for name, err := range map[string]error{
		"no right":         apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "probe", errors.New("may not create")),
		"a quota":          apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "probe", errors.New("exceeded quota")),
		"another policy":   refusal("images must come from our registry"),
		"a webhook":        apierrors.NewBadRequest("admission webhook denied the request: no concurrencyPolicy " + queueLabel + " spec.suspend: true"),
		"no API server":    errors.New("connection refused"),
		"no such resource": &meta.NoKindMatchError{},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			s := &apiServer{err: err}
			c := checker(t, s, true)
			g.Expect(c.look(t.Context())).To(Equal(c.retryEvery))
			g.Expect(c.State()).To(Equal(State{}))
			g.Expect(c.ReadyzCheck(nil)).To(MatchError(And(ContainSubstring("is not known"), ContainSubstring(err.Error()), ContainSubstring("namespace operators"))))

			s.change(func(s *apiServer) { s.err, s.mutating, s.jobs, s.cronJobs, s.debounces = nil, true, true, true, true })
			g.Expect(c.look(t.Context())).To(Equal(lookEvery))
			g.Expect(c.ReadyzCheck(nil)).To(Succeed())

			s.change(func(s *apiServer) { s.err = err })
			g.Expect(c.look(t.Context())).To(Equal(c.retryEvery))
			g.Expect(c.State()).To(Equal(State{Checked: true}))
			g.Expect(c.ReadyzCheck(nil)).To(Succeed(), "what was known stays")
		})
	}
}

func TestItLooksUntilAllIsInForceAndWhenItIsTold(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(30 * time.Second)
	s := &apiServer{}
	c := checker(t, s, true)
	g.Expect(c.NeedLeaderElection()).To(BeFalse())
	var mu sync.Mutex
	var states []State
	c.OnChange(func(state State) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, state)
	})
	told := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(states)
	}
	asked := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.asked
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	g.Eventually(asked).Should(BeNumerically(">", 10))
	g.Expect(told()).To(Equal(1))
	s.change(func(s *apiServer) { s.mutating, s.jobs, s.cronJobs, s.debounces = true, true, true, true })
	// A look that is under way may see some of them.
	g.Eventually(func() error { return c.ReadyzCheck(nil) }).Should(Succeed())
	g.Eventually(told).Should(BeNumerically(">=", 2))

	rest, before := asked(), told()
	g.Consistently(asked).WithTimeout(100 * time.Millisecond).Should(Equal(rest))
	s.change(func(s *apiServer) { s.jobs = false })
	c.Recheck()
	c.Recheck() // does not block
	g.Eventually(func() error { return c.ReadyzCheck(nil) }).Should(HaveOccurred())
	g.Eventually(told).Should(Equal(before + 1))

	cancel()
	g.Eventually(ended).Should(Receive(BeNil()))
}
