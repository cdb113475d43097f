// Package policies finds out whether the policies that keep guarded Jobs from running
// without their lock, and Debounces from being a way to more rights, are in force.
//
// It asks for the effect and not for the objects: a policy whose binding is missing or
// names another one, or that the API server has not taken up yet, looks well and
// enforces nothing. So the Checker has the API server create, as a dry run, what the
// policies must change or refuse. Nothing of it is stored.
package policies

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

const (
	// retryEvery is how often it looks until all is in force. A new policy takes up to
	// a second to act.
	retryEvery = 2 * time.Second
	// lookEvery is how often it looks while all is in force.
	lookEvery = 5 * time.Minute
	// askTimeout bounds one look.
	askTimeout = 10 * time.Second
)

// policy is one of those that are asked for, by the name that it has in metrics.
type policy string

const (
	mutating  policy = "mutating"
	jobs      policy = "jobs"
	cronJobs  policy = "cronjobs"
	debounces policy = "debounces"
)

// verdict is what a question about a policy came to.
type verdict string

const (
	inForce verdict = "InForce"
	missing verdict = "Missing"
	// notServed: the API server does not know this kind of policy, or the kind of object
	// that it is about.
	notServed verdict = "NotServed"
)

var inForceMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "redislock_policies_in_force",
	Help: "1 while the admission policy acts, else 0. One that the API server has no use for, because it does not serve its kind, has no value.",
}, []string{"policy"})

func init() {
	metrics.Registry.MustRegister(inForceMetric)
}

// State is what is known about the policies.
type State struct {
	// Checked tells that the API server has answered. Until then nothing is known.
	Checked bool
	// Missing says in words which policies are not in force and what to do. It is empty
	// where all that are needed are.
	Missing []string
	// NoMutating tells that this API server does not serve MutatingAdmissionPolicy, so
	// that the templates themselves must have what it would add.
	NoMutating bool
}

func (s State) equal(other State) bool {
	return s.Checked == other.Checked && s.NoMutating == other.NoMutating && slices.Equal(s.Missing, other.Missing)
}

// Checker looks at the policies as long as the manager runs, whether it leads or not:
// each replica is asked whether it is ready.
type Checker struct {
	client    client.Client
	namespace string
	log       logr.Logger
	now       chan struct{}

	retryEvery, lookEvery time.Duration

	mu       sync.Mutex
	state    State
	err      error
	onChange []func(State)
}

// New makes a Checker that looks by dry runs in a namespace, the operator's own.
func New(c client.Client, namespace string, log logr.Logger) *Checker {
	return &Checker{
		client: c, namespace: namespace, log: log, now: make(chan struct{}, 1),
		retryEvery: retryEvery, lookEvery: lookEvery,
	}
}

// OnChange has f called with the new state after each change, one call after the
// other. It is to return soon, and to be given before Start.
func (c *Checker) OnChange(f func(State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onChange = append(c.onChange, f)
}

// State is what the last look that was answered came to.
func (c *Checker) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Missing = slices.Clone(s.Missing)
	return s
}

// Recheck has the Checker look soon, for one who has seen a guarded Job that a policy
// should have kept from being as it is. However often it is called, there is no more than
// one look in 2 s.
func (c *Checker) Recheck() {
	select {
	case c.now <- struct{}{}:
	default: // it is about to look
	}
}

// NeedLeaderElection is for the manager: no.
func (c *Checker) NeedLeaderElection() bool { return false }

// ReadyzCheck fails while a policy that is needed is not in force, and says which.
func (c *Checker) ReadyzCheck(*http.Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.state.Checked && c.err != nil:
		return fmt.Errorf("whether the policies for guarded Jobs and Debounces are in force is not known: %w", c.err)
	case !c.state.Checked:
		return errors.New("whether the policies for guarded Jobs and Debounces are in force has not been looked at yet")
	case len(c.state.Missing) > 0:
		return errors.New(strings.Join(c.state.Missing, "; "))
	}
	return nil
}

// Start looks until the context ends.
func (c *Checker) Start(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			last = time.Now()
			timer.Reset(c.look(ctx))
		case <-c.now:
			timer.Reset(max(0, c.retryEvery-time.Since(last)))
		}
	}
}

// look asks once, and returns how long to wait until the next time.
func (c *Checker) look(ctx context.Context) time.Duration {
	bounded, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	state, err := c.ask(bounded)
	if ctx.Err() != nil {
		return c.retryEvery
	}
	if err != nil {
		c.failed(err)
		return c.retryEvery
	}
	c.learned(state)
	if len(state.Missing) > 0 {
		return c.retryEvery
	}
	return c.lookEvery
}

// failed keeps what was known: an API server that is away says nothing about policies.
func (c *Checker) failed(err error) {
	c.mu.Lock()
	again := c.err != nil && c.err.Error() == err.Error()
	c.err = err
	c.mu.Unlock()
	if !again {
		c.log.Error(err, "Looking whether the policies for guarded Jobs and Debounces are in force")
	}
}

func (c *Checker) learned(state State) {
	c.mu.Lock()
	before := c.state
	c.state, c.err = state, nil
	listeners := slices.Clone(c.onChange)
	c.mu.Unlock()
	if state.equal(before) {
		return
	}
	for _, what := range state.Missing {
		c.log.Info("A POLICY IS NOT IN FORCE", "policy", what)
	}
	if state.NoMutating && !before.NoMutating {
		c.log.Info("This API server has no MutatingAdmissionPolicy (Kubernetes 1.36): guarded Jobs must have suspend, the label and the environment variable in their templates, and are refused without; see docs/policies.md")
	}
	if len(state.Missing) == 0 {
		c.log.Info("The policies for guarded Jobs and Debounces are in force")
	}
	for _, f := range listeners {
		f(state)
	}
}

func (c *Checker) ask(ctx context.Context) (State, error) {
	state := State{Checked: true}
	verdicts := map[policy]verdict{}
	for _, question := range []struct {
		policy policy
		ask    func(context.Context) (verdict, error)
	}{
		{mutating, c.askMutating},
		{jobs, c.askJobs},
		{cronJobs, c.askCronJobs},
		{debounces, c.askDebounces},
	} {
		v, err := question.ask(ctx)
		if err != nil {
			return State{}, fmt.Errorf("asking for the policy %s by a dry run in namespace %s: %w", question.policy, c.namespace, err)
		}
		verdicts[question.policy] = v
		if v == missing {
			state.Missing = append(state.Missing, words[question.policy])
		}
	}
	state.NoMutating = verdicts[mutating] == notServed
	measure(verdicts)
	return state, nil
}

var words = map[policy]string{
	mutating: "the MutatingAdmissionPolicy guarded-jobs is not in force, so guarded Jobs are not suspended and prepared when they are created: " +
		"apply config/policies with its bindings, and see that each binding's spec.policyName is the policy's name",
	jobs: "the ValidatingAdmissionPolicy guarded-jobs is not in force, so guarded Jobs may be started by anyone: " +
		"apply config/policies with its bindings, and see that each binding's spec.policyName is the policy's name",
	cronJobs: "the ValidatingAdmissionPolicy guarded-cronjobs is not in force, so CronJobs whose Jobs cannot be guarded are let in: " +
		"apply config/policies with its bindings, and see that each binding's spec.policyName is the policy's name",
	debounces: "the ValidatingAdmissionPolicy debounces is not in force, so the operator does for whoever writes a Debounce what he may not do himself: " +
		"apply config/policies with its bindings, and see that each binding's spec.policyName is the policy's name",
}

func measure(verdicts map[policy]verdict) {
	for policy, v := range verdicts {
		switch v {
		case inForce:
			inForceMetric.WithLabelValues(string(policy)).Set(1)
		case missing:
			inForceMetric.WithLabelValues(string(policy)).Set(0)
		case notServed:
			inForceMetric.DeleteLabelValues(string(policy))
		}
	}
}

// The rights that the questions need, in the operator's namespace. The policies let
// through what they ask by one who has the verb guard.
//
// +kubebuilder:rbac:groups=batch,resources=jobs;cronjobs,verbs=create
// +kubebuilder:rbac:groups=redislock.io,resources=redislocks,verbs=guard
// +kubebuilder:rbac:groups=redislock.io,resources=debounces,verbs=create

// askMutating has a Job created that lacks all that the policy adds.
func (c *Checker) askMutating(ctx context.Context) (verdict, error) {
	job := probeJob(c.namespace)
	err := c.client.Create(ctx, job, client.DryRunAll)
	if err == nil && prepared(job) {
		return inForce, nil
	}
	// The other policy refuses a Job that this one has not prepared.
	if err != nil && !deniedByPolicy(err, "spec.suspend: true") {
		return "", err
	}
	_, err = c.client.RESTMapper().RESTMapping(schema.GroupKind{Group: admissionregistrationv1.GroupName, Kind: "MutatingAdmissionPolicy"}, "v1")
	switch {
	case meta.IsNoMatchError(err):
		return notServed, nil
	case err != nil:
		return "", fmt.Errorf("asking whether MutatingAdmissionPolicy is served: %w", err)
	}
	return missing, nil
}

// askJobs has a Job created as it should be, but that Kueue has it too.
func (c *Checker) askJobs(ctx context.Context) (verdict, error) {
	job := probeJob(c.namespace)
	prepare(job)
	job.Labels[queueLabel] = probeName
	return refused(c.client.Create(ctx, job, client.DryRunAll), queueLabel)
}

// askCronJobs has a CronJob created that replaces its Jobs.
func (c *Checker) askCronJobs(ctx context.Context) (verdict, error) {
	return refused(c.client.Create(ctx, probeCronJob(c.namespace), client.DryRunAll), "concurrencyPolicy")
}

// askDebounces has a Debounce created that nobody may write, whatever he may do.
func (c *Checker) askDebounces(ctx context.Context) (verdict, error) {
	err := c.client.Create(ctx, probeDebounce(c.namespace), client.DryRunAll)
	if meta.IsNoMatchError(err) {
		return notServed, nil
	}
	return refused(err, v1alpha1.RunAnnotation)
}

func refused(err error, words string) (verdict, error) {
	switch {
	case err == nil:
		return missing, nil
	case deniedByPolicy(err, words):
		return inForce, nil
	}
	return "", err
}

// deniedByPolicy says whether one of these policies refused, by words that stand in its
// message. Others refuse too: RBAC, quotas, webhooks, policies of the cluster's
// administrator. Their refusal says nothing about ours.
func deniedByPolicy(err error, words string) bool {
	return apierrors.ReasonForError(err) != "" && strings.Contains(err.Error(), "ValidatingAdmissionPolicy") && strings.Contains(err.Error(), words)
}
