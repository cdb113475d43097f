package policies

import (
	"context"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// The actions and triggers, as people write them.
func createsJobs(d *v1alpha1.Debounce) {
	d.Spec.Action = v1alpha1.DebounceAction{Job: &v1alpha1.JobAction{Template: batchv1.JobTemplateSpec{Spec: newJob("", "").Spec}}}
}

func restarts(kind v1alpha1.WorkloadKind) func(*v1alpha1.Debounce) {
	return func(d *v1alpha1.Debounce) {
		d.Spec.Action = v1alpha1.DebounceAction{Restart: &v1alpha1.RestartAction{Kind: kind, Name: "web"}}
	}
}

func sendsRequests(d *v1alpha1.Debounce) {
	d.Spec.Action = v1alpha1.DebounceAction{HTTP: &v1alpha1.HTTPAction{URL: "https://cache.example.com/purge"}}
}

func watchesConfigMaps(d *v1alpha1.Debounce) {
	d.Spec.Triggers = &v1alpha1.DebounceTriggers{ConfigMaps: []v1alpha1.ConfigMapTrigger{{Name: "web"}}}
}

func newDebounce(namespace, name string, change ...func(*v1alpha1.Debounce)) *v1alpha1.Debounce {
	d := &v1alpha1.Debounce{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for _, f := range change {
		f(d)
	}
	return d
}

// grant lets a user do something in a namespace.
func (s *site) grant(t *testing.T, namespace, user, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	g := NewWithT(t)
	g.Expect(s.root.Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules})).To(Succeed())
	s.bind(t, namespace, user, "Role", name)
}

func (s *site) bind(t *testing.T, namespace, user, kind, role string) {
	t.Helper()
	NewWithT(t).Expect(s.root.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: role + "-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})).To(Succeed())
}

func rule(group, resource, verb string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}, ResourceNames: names}
}

// mayWriteDebounces is all that there is to do with Debounces but for their subresources
// call and http.
var mayWriteDebounces = rbacv1.PolicyRule{
	APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"debounces", "debounces/status"},
	Verbs: []string{"get", "list", "create", "update", "patch", "delete"},
}

func TestWhoWritesADebounceMustBeAllowedToDoItHimself(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	for _, tc := range []struct {
		name   string
		action func(*v1alpha1.Debounce)
		// more is what is taken for granted besides.
		more []rbacv1.PolicyRule
		// short is nearly enough; enough is.
		short, enough rbacv1.PolicyRule
		words         []string
	}{
		{
			name: "job", action: createsJobs, short: rule("batch", "jobs", "update"), enough: rule("batch", "jobs", "create"),
			words: []string{"creates Jobs", "may not create jobs.batch in namespace "},
		},
		{
			name: "restart", action: restarts(v1alpha1.WorkloadDeployment), short: rule("apps", "deployments", "patch", "other"), enough: rule("apps", "deployments", "patch", "web"),
			words: []string{"restarts a workload", `may not patch deployments.apps "web" in namespace `},
		},
		{
			name: "restart-statefulset", action: restarts(v1alpha1.WorkloadStatefulSet), short: rule("apps", "deployments", "patch"), enough: rule("apps", "statefulsets", "patch"),
			words: []string{`may not patch statefulsets.apps "web" in namespace `},
		},
		{
			name: "restart-daemonset", action: restarts(v1alpha1.WorkloadDaemonSet), short: rule("apps", "daemonsets", "get"), enough: rule("apps", "daemonsets", "patch"),
			words: []string{`may not patch daemonsets.apps "web" in namespace `},
		},
		{
			name: "http", action: sendsRequests, short: rule(v1alpha1.GroupName, "debounces/call", "create"), enough: rule(v1alpha1.GroupName, "debounces/http", "create"),
			words: []string{"sends HTTP requests", "may not create debounces.redislock.io/http in namespace ", "ClusterRole redislock-debounce-http"},
		},
		{
			name: "configmaps", action: func(d *v1alpha1.Debounce) { createsJobs(d); watchesConfigMaps(d) }, more: []rbacv1.PolicyRule{rule("batch", "jobs", "create")},
			short: rule("", "configmaps", "get"), enough: rule("", "configmaps", "list"),
			words: []string{"watches ConfigMaps", "may not list configmaps in namespace "},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			ctx := t.Context()
			namespace, user := s.newNamespace(t), "bob-"+tc.name
			his := s.as(t, user)
			s.grant(t, namespace, user, "writer", append(tc.more, mayWriteDebounces, tc.short)...)
			// What is enough elsewhere is nothing here.
			s.grant(t, s.newNamespace(t), user, "elsewhere", tc.enough)
			create := func() error { return his.Create(ctx, newDebounce(namespace, "his", tc.action), client.DryRunAll) }
			refused := func(g Gomega, err error) {
				message := denied(g, err)
				g.Expect(message).To(ContainSubstring(`"` + user + `" may not`))
				for _, words := range tc.words {
					g.Expect(message).To(ContainSubstring(words))
				}
				g.Expect(message).To(ContainSubstring("in namespace " + namespace))
			}
			// It takes the API server a moment to know his other rights.
			g.Eventually(func(g Gomega) { refused(g, create()) }).Should(Succeed())

			// What somebody else wrote he may call, and all else that leaves the spec as it is.
			object := newDebounce(namespace, "hers", tc.action)
			g.Expect(s.root.Create(ctx, object)).To(Succeed())
			for _, change := range []func(*v1alpha1.Debounce){
				func(d *v1alpha1.Debounce) { set(&d.Annotations, v1alpha1.CallAnnotation, "payload") },
				func(d *v1alpha1.Debounce) { set(&d.Labels, "a", "b") },
				func(d *v1alpha1.Debounce) { d.Finalizers = []string{"example.com/test"} },
				func(d *v1alpha1.Debounce) { d.Finalizers = nil },
			} {
				g.Expect(patch(ctx, his, object, change)).To(Succeed())
				g.Expect(his.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
			}
			object.Status.State = v1alpha1.StateFree
			g.Expect(his.Status().Update(ctx, object)).To(Succeed())
			object.Spec = newDebounce("", "", tc.action).Spec // without what the schema adds
			g.Expect(his.Update(ctx, object)).To(Succeed())
			manifest, err := yaml.Marshal(map[string]any{
				"apiVersion": v1alpha1.SchemeGroupVersion.String(), "kind": "Debounce",
				"metadata": map[string]any{"name": object.Name, "namespace": namespace}, "spec": newDebounce("", "", tc.action).Spec,
			})
			g.Expect(err).NotTo(HaveOccurred())
			s.kubectl(t, user, string(manifest), "apply", "--server-side", "--force-conflicts", "-f", "-")

			// But no change of the spec, whatever it is.
			later := func(d *v1alpha1.Debounce) { d.Spec.Wait = &metav1.Duration{Duration: v1alpha1.MaxDebounceWait} }
			refused(g, patch(ctx, his, object, later))

			s.grant(t, namespace, user, "enough", tc.enough)
			g.Eventually(create).Should(Succeed())
			g.Expect(patch(ctx, his, object, later)).To(Succeed())
			g.Expect(his.Delete(ctx, object)).To(Succeed())
		})
	}
}

func TestAChangeOfActionIsLookedAtAsTheNewOne(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	namespace, user := s.newNamespace(t), "carol"
	her := s.as(t, user)
	s.grant(t, namespace, user, "writer", mayWriteDebounces, rule("apps", "deployments", "patch", "web"))
	object := newDebounce(namespace, "hers", restarts(v1alpha1.WorkloadDeployment))
	g.Eventually(func() error { return her.Create(t.Context(), object) }).Should(Succeed())
	for words, change := range map[string]func(*v1alpha1.Debounce){
		"may not create jobs.batch":          createsJobs,
		"may not create debounces.redislock": sendsRequests,
		"may not list configmaps":            watchesConfigMaps,
		`may not patch deployments.apps "x"`: func(d *v1alpha1.Debounce) { d.Spec.Action.Restart.Name = "x" },
		"may not patch statefulsets.apps":    restarts(v1alpha1.WorkloadStatefulSet),
	} {
		g.Expect(denied(g, patch(t.Context(), her, object, change))).To(ContainSubstring(words))
	}
}

// The operator creates the Jobs, and the policy for Jobs lets it write these.
func TestAJobTemplateSaysNothingThatOnlyTheOperatorMay(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	namespace := s.newNamespace(t)
	onJob := func(key string) func(*v1alpha1.Debounce) {
		return func(d *v1alpha1.Debounce) { set(&d.Spec.Action.Job.Template.Annotations, key, "1") }
	}
	for name, change := range map[string]func(*v1alpha1.Debounce){
		"run": onJob(v1alpha1.RunAnnotation), "grant": onJob(v1alpha1.GrantAnnotation),
		"deadline": onJob(v1alpha1.DeadlineAnnotation), "replaces": onJob(v1alpha1.ReplacesAnnotation),
		"token": func(d *v1alpha1.Debounce) {
			set(&d.Spec.Action.Job.Template.Spec.Template.Annotations, v1alpha1.FencingTokenAnnotation, "1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			for _, user := range []client.Client{s.as(t, alice), s.operator, s.root} {
				err := user.Create(t.Context(), newDebounce(namespace, name, createsJobs, change), client.DryRunAll)
				g.Expect(denied(g, err)).To(ContainSubstring("take them out of spec.action.job.template"))
			}
		})
	}
	t.Run("a lock is its writer's to choose", func(t *testing.T) {
		t.Parallel()
		guarded := func(d *v1alpha1.Debounce) {
			d.Spec.Action.Job.Template.Labels = map[string]string{v1alpha1.LockLabel: "nightly"}
		}
		NewWithT(t).Expect(s.as(t, alice).Create(t.Context(), newDebounce(namespace, "guarded", createsJobs, guarded), client.DryRunAll)).To(Succeed())
	})
}

// TestRoles: who has which rights on Debounces by the roles of config/rbac.
func TestRoles(t *testing.T) {
	t.Parallel()
	s := inShared(t)
	namespace := s.newNamespace(t)
	for _, tc := range []struct{ role, may, mayNot string }{
		{"view", "get list watch", "create update patch delete create/call create/http"},
		{"edit", "get list watch create update patch delete create/call", "create/http deletecollection update/status"},
		{"admin", "get list watch create update patch delete deletecollection create/call create/http get/status", "update/status"},
		{"redislock-debounce-caller", "create/call", "get update create create/http"},
		{"redislock-debounce-http", "create/http", "get update create create/call"},
	} {
		t.Run(tc.role, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			user := "dora-" + tc.role
			s.bind(t, namespace, user, "ClusterRole", tc.role)
			may := func(what string) bool {
				verb, subresource, _ := strings.Cut(what, "/")
				review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
					User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{
						Namespace: namespace, Group: v1alpha1.GroupName, Resource: "debounces", Subresource: subresource, Verb: verb, Name: "purge",
					},
				}}
				g.Expect(s.root.Create(t.Context(), review)).To(Succeed())
				return review.Status.Allowed
			}
			for what := range strings.FieldsSeq(tc.may) {
				g.Eventually(func() bool { return may(what) }).Should(BeTrue(), what)
			}
			for what := range strings.FieldsSeq(tc.mayNot) {
				g.Expect(may(what)).To(BeFalse(), what)
			}
		})
	}
}

// TestDebouncesGoAwayWithTheirNamespace: those who take them away may do nothing of what
// the Debounces do.
func TestDebouncesGoAwayWithTheirNamespace(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := inShared(t)
	namespace := s.newNamespace(t)
	held := func(d *v1alpha1.Debounce) { d.Finalizers = []string{"example.com/test"} }
	objects := []*v1alpha1.Debounce{
		newDebounce(namespace, "job", createsJobs, held), newDebounce(namespace, "restart", restarts(v1alpha1.WorkloadDeployment)), newDebounce(namespace, "http", sendsRequests),
	}
	for _, object := range objects {
		g.Expect(s.root.Create(t.Context(), object)).To(Succeed())
	}
	// The namespace's own roles go before the Debounces do.
	const user = "erin"
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "test-debounces"}, Rules: []rbacv1.PolicyRule{mayWriteDebounces}}
	g.Expect(s.root.Create(t.Context(), role)).To(Succeed())
	g.Expect(s.root.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})).To(Succeed())
	_, err := s.Kubectl(t.Context(), "delete", "namespace", namespace, "--wait=false")
	g.Expect(err).NotTo(HaveOccurred())
	left := func(ctx context.Context) []string {
		var list v1alpha1.DebounceList
		g.Expect(s.root.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return names
	}
	g.Eventually(left).WithContext(t.Context()).Should(ConsistOf("job"))
	// One with rights on the object alone takes its finalizer away.
	g.Expect(patch(t.Context(), s.as(t, user), objects[0], func(d *v1alpha1.Debounce) { d.Finalizers = nil })).To(Succeed())
	g.Eventually(left).WithContext(t.Context()).Should(BeEmpty())
}
