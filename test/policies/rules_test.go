package policies

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"github.com/redislock-operator/redislock-operator/test/controlplane"
)

// denial is how the API server says that a policy of ours refuses.
var denial = regexp.MustCompile(`^ValidatingAdmissionPolicy 'redislock-([^']+)' with binding '[^']+' denied request: (.*)$`)

// denials are the messages with which the policies refused something in some test, each
// after the policy's name.
var denials struct {
	sync.Mutex
	messages []string
}

// denied is the message with which a policy refused; it fails the test where none did.
// A policy reports the first of its rules that refuses, so the message tells which.
func denied(g Gomega, err error) string {
	var status *apierrors.StatusError
	g.ExpectWithOffset(1, errors.As(err, &status)).To(BeTrue(), "not refused: %v", err)
	for _, cause := range status.ErrStatus.Details.Causes {
		if found := denial.FindStringSubmatch(cause.Message); found != nil {
			denials.Lock()
			defer denials.Unlock()
			denials.messages = append(denials.messages, found[1]+": "+found[2])
			return found[2]
		}
	}
	g.ExpectWithOffset(1, err).NotTo(HaveOccurred(), "refused, by something else")
	return ""
}

// everyRuleRefused fails if there is a rule by which nothing was refused in any test.
func everyRuleRefused() error {
	root, err := controlplane.Root()
	if err != nil {
		return err
	}
	denials.Lock()
	defer denials.Unlock()
	var unseen []error
	for _, file := range []string{"jobs.yaml", "cronjobs.yaml", "debounces.yaml"} {
		content, err := os.ReadFile(filepath.Join(root, "config", "policies", file))
		if err != nil {
			return err
		}
		var policy admissionregistrationv1.ValidatingAdmissionPolicy
		document, _, _ := strings.Cut(string(content), "\n---\n")
		if err := yaml.UnmarshalStrict([]byte(document), &policy); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, rule := range policy.Spec.Validations {
			begins := policy.Name + ": " + beginning(rule)
			if !slices.ContainsFunc(denials.messages, func(m string) bool { return strings.HasPrefix(m, begins) }) {
				unseen = append(unseen, fmt.Errorf("%s: no test has a case for the rule with the message %q", file, begins))
			}
		}
	}
	return errors.Join(unseen...)
}

var literal = regexp.MustCompile(`^'((?:[^'\\]|\\.)*)'`)

// beginning is how a rule's message begins: up to the first thing that is put in.
func beginning(rule admissionregistrationv1.Validation) string {
	if found := literal.FindStringSubmatch(rule.MessageExpression); found != nil {
		return found[1]
	}
	return rule.Message
}
