package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	lockac "github.com/redislock-operator/redislock-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
)

const (
	// restart is a Debounce's spec with an action and nothing more.
	restart = `{action: {restart: {kind: Deployment, name: web}}}`
	// pod is a pod's spec.
	pod = `{restartPolicy: Never, containers: [{name: main, image: none}]}`
	// job is an action.
	job = `job: {template: {spec: {template: {spec: ` + pod + `}}}}`
)

// with is restart with more fields.
func with(fields string) string {
	return `{action: {restart: {kind: Deployment, name: web}}, ` + fields + `}`
}

func http(url string) string { return fmt.Sprintf(`{action: {http: {url: %q}}}`, url) }

func configMaps(entries string) string { return with(`triggers: {configMaps: [` + entries + `]}`) }

func debounce(t *testing.T, spec string) *unstructured.Unstructured {
	t.Helper()
	return object(t, "Debounce", spec)
}

// createDebounce stores a Debounce until the end of the test.
func createDebounce(t *testing.T, spec string) *unstructured.Unstructured {
	t.Helper()
	return store(t, debounce(t, spec))
}

func TestSpecOfADebounceIsAccepted(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]string{
		"an action and nothing more":         restart,
		"restart of a StatefulSet":           `{action: {restart: {kind: StatefulSet, name: db.0}}}`,
		"restart of a DaemonSet":             `{action: {restart: {kind: DaemonSet, name: "` + strings.Repeat("n", 253) + `"}}}`,
		"a Job":                              `{action: {` + job + `}}`,
		"a Job with metadata":                `{action: {job: {template: {metadata: {labels: {a: b}, annotations: {a: b}}, spec: {template: {spec: ` + pod + `}}}}}}`,
		"no Jobs kept":                       `{action: {job: {successfulJobsHistoryLimit: 0, failedJobsHistoryLimit: 0, template: {spec: {template: {spec: ` + pod + `}}}}}}`,
		"a request":                          http("https://cache.example.com/purge"),
		"a request without TLS":              http("http://cache"),
		"a request with a port and query":    http("https://cache.example.com:8443/a/b..c/.d/?x=1&y=/z//../%2f;"),
		"a request to an IPv6 address":       http("https://[fd00::1]:8443/"),
		"a request with an escape":           http("https://cache.example.com/a%20b"),
		"a request, all of it":               `{action: {http: {url: "https://a", attempts: 20, timeout: 1m}}}`,
		"fewest attempts, shortest time":     `{action: {http: {url: "https://a", attempts: 1, timeout: 1s}}}`,
		"key with a hash tag":                with(`key: "debounce:shop:{cache}"`),
		"key in another script":              with(`key: "замок:夜間"`),
		"longest key":                        with(`key: "` + strings.Repeat("k", 512) + `"`),
		"longest store":                      with(`store: "` + strings.Repeat("s", 63) + `"`),
		"shortest wait":                      with(`wait: 10ms`),
		"longest wait":                       with(`wait: 24h`),
		"wait as Go writes it":               with(`wait: 1m0.5s`),
		"maxWait as long as wait":            with(`wait: 5s, maxWait: 5s`),
		"longest maxWait":                    with(`maxWait: 24h`),
		"longest minInterval":                with(`minInterval: 24h`),
		"leading edge":                       with(`edge: Leading, payload: First`),
		"both edges":                         with(`edge: Both, payload: Last`),
		"each cluster for itself":            with(`scope: Cluster`),
		"suspended":                          with(`suspend: true`),
		"a ConfigMap by name":                configMaps(`{name: web.config}`),
		"ConfigMaps by a label":              configMaps(`{selector: {matchLabels: {app: web}}}`),
		"ConfigMaps by an expression":        configMaps(`{selector: {matchExpressions: [{key: app, operator: Exists}]}}`),
		"as many ConfigMaps as there can be": configMaps(strings.TrimSuffix(strings.Repeat(`{name: a},`, 16), ",")),
		"no trigger":                         with(`triggers: {}`),
		"a null where a default is":          with(`wait: null, minInterval: null, edge: null, payload: null, scope: null, store: null, suspend: null`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := c.Create(t.Context(), debounce(t, spec), client.DryRunAll); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestSpecOfADebounceIsRefusedWithAdvice(t *testing.T) {
	t.Parallel()
	const (
		one         = "action must have exactly one of job, restart and http: write one of them and take the others out"
		url         = "url must be http:// or https:// with a host, without user and password"
		dots        = "url must have no part of its path that is empty, '.' or '..'"
		wait        = "wait must be a duration from 10ms to 24h, written with the units h, m, s and ms in this order: for instance 1s or 500ms"
		maxWait     = "maxWait must be a duration from 10ms to 24h, written with the units h, m, s and ms in this order: for instance 10s"
		longer      = "maxWait must be at least wait: lengthen maxWait, shorten wait, or leave maxWait out"
		minInterval = "minInterval must be a duration from 0s to 24h"
		timeout     = "timeout must be a duration from 1s to 60s"
		invisible   = "take them out, or write ':' or '-' in their place"
		braces      = "take the other braces out"
		storeName   = "store must be the name of a store in the operator's configuration, not an address"
		either      = "must have either name or selector: write one of them, and take the other out"
		empty       = "selector must not be empty"
		metadata    = "take name, namespace and finalizers out"
		workload    = "name must be the name of a workload in this namespace"
		template    = "spec.action.job.template"
	)
	withMetadata := func(metadata string) string {
		return `{action: {job: {template: {metadata: {` + metadata + `}, spec: {template: {spec: ` + pod + `}}}}}}`
	}
	for name, test := range map[string]struct{ spec, field, advice string }{
		"no spec":                        {`null`, "spec", "Required value"},
		"no action":                      {`{wait: 1s}`, "spec.action", "Required value"},
		"an action that is none":         {`{action: {}}`, "spec.action", one},
		"two actions":                    {`{action: {restart: {kind: Deployment, name: web}, http: {url: "https://a"}}}`, "spec.action", one},
		"three actions":                  {`{action: {restart: {kind: Deployment, name: web}, http: {url: "https://a"}, ` + job + `}}`, "spec.action", one},
		"a Job without a template":       {`{action: {job: {}}}`, template, "Required value"},
		"a Job without a pod":            {`{action: {job: {template: {spec: {}}}}}`, template + ".spec.template", "Required value"},
		"a Job without containers":       {`{action: {job: {template: {spec: {template: {spec: {}}}}}}}`, template + ".spec.template.spec.containers", "Required value"},
		"a Job with a name":              {withMetadata(`name: a`), template, metadata},
		"a Job in another namespace":     {withMetadata(`namespace: a`), template, metadata},
		"a Job with a finalizer":         {withMetadata(`finalizers: [a/b]`), template, metadata},
		"fewer Jobs than none":           {`{action: {job: {failedJobsHistoryLimit: -1, template: {spec: {template: {spec: ` + pod + `}}}}}}`, "spec.action.job.failedJobsHistoryLimit", "greater than or equal to 0"},
		"restart of a Pod":               {`{action: {restart: {kind: Pod, name: web}}}`, "spec.action.restart.kind", `supported values: "Deployment", "StatefulSet", "DaemonSet"`},
		"restart of nothing":             {`{action: {restart: {kind: Deployment}}}`, "spec.action.restart.name", "Required value"},
		"restart of no kind":             {`{action: {restart: {name: web}}}`, "spec.action.restart.kind", "Required value"},
		"restart elsewhere":              {`{action: {restart: {kind: Deployment, name: other/web}}}`, "spec.action.restart.name", workload},
		"no URL":                         {`{action: {http: {}}}`, "spec.action.http.url", "Required value"},
		"a path alone":                   {http("/purge"), "spec.action.http.url", url},
		"another scheme":                 {http("redis://cache/0"), "spec.action.http.url", url},
		"a file":                         {http("file:///etc/passwd"), "spec.action.http.url", url},
		"no host":                        {http("https:///purge"), "spec.action.http.url", url},
		"a port alone":                   {http("https://:443/"), "spec.action.http.url", url},
		"a port that is none":            {http("https://a:b/"), "spec.action.http.url", url},
		"a user":                         {http("https://user@cache/"), "spec.action.http.url", url},
		"a user and password":            {http("https://user:secret@cache/"), "spec.action.http.url", url},
		"a fragment":                     {http("https://cache/#a"), "spec.action.http.url", url},
		"a space":                        {http("https://cache/a b"), "spec.action.http.url", url},
		"a line break":                   {http("https://cache/\n"), "spec.action.http.url", url},
		"an escape that is none":         {http("https://cache/%zz"), "spec.action.http.url", url},
		"up in the path":                 {http("https://cache/a/../b"), "spec.action.http.url", dots},
		"up at the end":                  {http("https://cache/a/.."), "spec.action.http.url", dots},
		"up before a query":              {http("https://cache/a/..?x"), "spec.action.http.url", dots},
		"a dot in the path":              {http("https://cache/./a"), "spec.action.http.url", dots},
		"an empty part":                  {http("https://cache//a"), "spec.action.http.url", dots},
		"a parameter":                    {http("https://cache/..;/a"), "spec.action.http.url", dots},
		"up, escaped":                    {http("https://cache/%2e%2E/a"), "spec.action.http.url", dots},
		"a slash, escaped":               {http("https://cache/a%2fb"), "spec.action.http.url", dots},
		"a backslash, escaped":           {http("https://cache/a%5Cb"), "spec.action.http.url", dots},
		"escaped twice":                  {http("https://cache/%252e%252e/a"), "spec.action.http.url", dots},
		"a line break, escaped":          {http("https://cache/a%0ab"), "spec.action.http.url", dots},
		"a backslash":                    {http(`https://cache/a\b`), "spec.action.http.url", dots},
		"a long URL":                     {http("https://cache/" + strings.Repeat("a", 2048)), "spec.action.http.url", "2048"},
		"no attempt":                     {`{action: {http: {url: "https://a", attempts: 0}}}`, "spec.action.http.attempts", "greater than or equal to 1"},
		"many attempts":                  {`{action: {http: {url: "https://a", attempts: 21}}}`, "spec.action.http.attempts", "less than or equal to 20"},
		"no time for an attempt":         {`{action: {http: {url: "https://a", timeout: 0s}}}`, "spec.action.http.timeout", timeout},
		"an attempt that takes long":     {`{action: {http: {url: "https://a", timeout: 61s}}}`, "spec.action.http.timeout", timeout},
		"wait too short":                 {with(`wait: 9ms`), "spec.wait", wait},
		"wait of nothing":                {with(`wait: 0s`), "spec.wait", wait},
		"wait too long":                  {with(`wait: 24h1ms`), "spec.wait", wait},
		"wait without a unit":            {with(`wait: "1"`), "spec.wait", wait},
		"wait as a number":               {with(`wait: 1`), "spec.wait", "must be of type string"},
		"negative wait":                  {with(`wait: "-1s"`), "spec.wait", wait},
		"empty wait":                     {with(`wait: ""`), "spec.wait", wait},
		"maxWait too long":               {with(`maxWait: 25h`), "spec.maxWait", maxWait},
		"maxWait that is none":           {with(`maxWait: never`), "spec.maxWait", maxWait},
		"maxWait shorter than wait":      {with(`wait: 5s, maxWait: 4999ms`), "spec.maxWait", longer},
		"maxWait shorter than default":   {with(`maxWait: 999ms`), "spec.maxWait", longer},
		"minInterval too long":           {with(`minInterval: 25h`), "spec.minInterval", minInterval},
		"negative minInterval":           {with(`minInterval: "-1s"`), "spec.minInterval", minInterval},
		"an edge that is none":           {with(`edge: Rising`), "spec.edge", `supported values: "Trailing", "Leading", "Both"`},
		"a payload that is none":         {with(`payload: All`), "spec.payload", `supported values: "Last", "First"`},
		"a scope that is none":           {with(`scope: Namespace`), "spec.scope", `supported values: "Global", "Cluster"`},
		"suspended in words":             {with(`suspend: "yes"`), "spec.suspend", "must be of type boolean"},
		"empty key":                      {with(`key: ""`), "spec.key", "at least 1 chars long"},
		"key too long":                   {with(`key: "` + strings.Repeat("k", 513) + `"`), "spec.key", "512"},
		"key with a space":               {with(`key: "a b"`), "spec.key", invisible},
		"key with a line break":          {with(`key: "ab\n"`), "spec.key", invisible},
		"key with an empty hash tag":     {with(`key: "a{}b"`), "spec.key", braces},
		"key with two hash tags":         {with(`key: "{a}{b}"`), "spec.key", braces},
		"key like that of a companion":   {with(`key: "{x}:sources"`), "spec.key", "begin it with something else"},
		"store that is an address":       {with(`store: "redis://redis:6379"`), "spec.store", storeName},
		"a ConfigMap by nothing":         {configMaps(`{}`), "spec.triggers.configMaps[0]", either},
		"a ConfigMap by both":            {configMaps(`{name: a}, {name: a, selector: {matchLabels: {a: b}}}`), "spec.triggers.configMaps[1]", either},
		"every ConfigMap":                {configMaps(`{selector: {}}`), "spec.triggers.configMaps[0].selector", empty},
		"every ConfigMap, written out":   {configMaps(`{selector: {matchLabels: {}, matchExpressions: []}}`), "spec.triggers.configMaps[0].selector", empty},
		"a ConfigMap in capitals":        {configMaps(`{name: Web}`), "spec.triggers.configMaps[0].name", "name must be the name of a ConfigMap in this namespace"},
		"a trigger on nothing":           {configMaps(``), "spec.triggers.configMaps", "should have at least 1 items"},
		"more ConfigMaps than there may": {configMaps(strings.TrimSuffix(strings.Repeat(`{name: a},`, 17), ",")), "spec.triggers.configMaps", "must have at most 16 items"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantRefusal(t, c.Create(t.Context(), debounce(t, test.spec), client.DryRunAll), test.field, test.advice)
		})
	}
}

func TestNameOfADebounceFitsALabelValue(t *testing.T) {
	t.Parallel()
	named := func(n int) *unstructured.Unstructured {
		object := debounce(t, restart)
		object.SetGenerateName("")
		object.SetName(strings.Repeat("n", n))
		return object
	}
	if err := c.Create(t.Context(), named(63), client.DryRunAll); err != nil {
		t.Errorf("63 characters were refused: %v", err)
	}
	wantRefusal(t, c.Create(t.Context(), named(64), client.DryRunAll), "", "choose a shorter name")
}

func TestDefaultsOfADebounce(t *testing.T) {
	t.Parallel()
	get := func(spec string) v1alpha1.DebounceSpec {
		t.Helper()
		var got v1alpha1.Debounce
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(createDebounce(t, spec)), &got); err != nil {
			t.Fatal(err)
		}
		return got.Spec
	}
	spec := get(`{action: {` + job + `}}`)
	if spec.Wait == nil || spec.Wait.Duration != v1alpha1.DefaultWait || spec.MinInterval == nil || spec.MinInterval.Duration != 0 {
		t.Errorf("wait and minInterval are %v and %v", spec.Wait, spec.MinInterval)
	}
	if spec.Edge != v1alpha1.DefaultEdge || spec.Payload != v1alpha1.DefaultPayload || spec.Scope != v1alpha1.DefaultScope || spec.Store != v1alpha1.DefaultStore {
		t.Errorf("edge, payload, scope and store are %q, %q, %q and %q", spec.Edge, spec.Payload, spec.Scope, spec.Store)
	}
	if spec.Suspend == nil || *spec.Suspend {
		t.Errorf("suspend is %v", spec.Suspend)
	}
	if spec.Key != "" || spec.MaxWait != nil || spec.Triggers != nil {
		t.Errorf("key, maxWait and triggers are the controller's to choose, but are %q, %v and %v", spec.Key, spec.MaxWait, spec.Triggers)
	}
	if j := spec.Action.Job; j.SuccessfulJobsHistoryLimit == nil || *j.SuccessfulJobsHistoryLimit != v1alpha1.DefaultSuccessfulJobsHistoryLimit ||
		j.FailedJobsHistoryLimit == nil || *j.FailedJobsHistoryLimit != v1alpha1.DefaultFailedJobsHistoryLimit {
		t.Errorf("the limits of history are %v and %v", j.SuccessfulJobsHistoryLimit, j.FailedJobsHistoryLimit)
	}
	if h := get(http("https://a")).Action.HTTP; h.Attempts != v1alpha1.DefaultHTTPAttempts || h.Timeout == nil || h.Timeout.Duration != v1alpha1.DefaultHTTPTimeout {
		t.Errorf("attempts and timeout are %v and %v", h.Attempts, h.Timeout)
	}
}

func TestWhatIdentifiesADebounceCannotChange(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ before, after, field, advice string }{
		"key changed":   {with(`key: a`), with(`key: b`), "spec.key", "delete this Debounce and create one with the other key"},
		"key added":     {restart, with(`key: b`), "spec.key", "delete this Debounce and create one with the other key"},
		"key removed":   {with(`key: a`), restart, "spec.key", "delete this Debounce and create one with the other key"},
		"store changed": {with(`store: a`), with(`store: b`), "spec.store", "delete this Debounce and create one with the other store"},
		"store removed": {with(`store: a`), restart, "spec.store", "delete this Debounce and create one with the other store"},
		"scope changed": {with(`scope: Cluster`), with(`scope: Global`), "spec.scope", "delete this Debounce and create one with the other scope"},
		"scope added":   {restart, with(`scope: Cluster`), "spec.scope", "delete this Debounce and create one with the other scope"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			object := createDebounce(t, test.before)
			setSpec(t, object, test.after)
			wantRefusal(t, c.Update(t.Context(), object), test.field, test.advice)
		})
	}
	t.Run("everything else may", func(t *testing.T) {
		t.Parallel()
		object := createDebounce(t, with(`key: a, store: s, scope: Cluster`))
		setSpec(t, object, `{key: a, store: s, scope: Cluster, wait: 2s, maxWait: 3s, minInterval: 1m, edge: Both, payload: First, suspend: true,
			triggers: {configMaps: [{name: a}]}, action: {`+job+`}}`)
		if err := c.Update(t.Context(), object); err != nil {
			t.Error(err)
		}
	})
}

// TestAJobTemplateIsKeptWhole: what the schema does not know is dropped, so it must know
// what Jobs have.
func TestAJobTemplateIsKeptWhole(t *testing.T) {
	t.Parallel()
	template := batchv1.JobTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}},
		Spec: batchv1.JobSpec{
			BackoffLimit: new(int32(3)), ActiveDeadlineSeconds: new(int64(60)), TTLSecondsAfterFinished: new(int32(0)), Suspend: new(false),
			CompletionMode: new(batchv1.IndexedCompletion), Completions: new(int32(2)), Parallelism: new(int32(2)),
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
			}}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"e": "f"}, Annotations: map[string]string{"g": "h"}},
				Spec: corev1.PodSpec{
					RestartPolicy: corev1.RestartPolicyNever, ServiceAccountName: "builder", PriorityClassName: "low",
					SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
					Tolerations:     []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}},
					InitContainers:  []corev1.Container{{Name: "first", Image: "none", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}},
					Containers: []corev1.Container{{
						Name: "main", Image: "none", Command: []string{"a"}, Args: []string{"b"},
						Env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
							LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k",
						}}}},
						Ports:           []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}, {ContainerPort: 80, Protocol: corev1.ProtocolUDP}},
						Resources:       corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
						SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
						VolumeMounts:    []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}},
					}},
					Volumes: []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
						VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
							ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"i": "j"}},
							Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
						},
					}}}},
				},
			},
		},
	}
	object := &v1alpha1.Debounce{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "whole-"},
		Spec:       v1alpha1.DebounceSpec{Action: v1alpha1.DebounceAction{Job: &v1alpha1.JobAction{Template: template}}},
	}
	strict := client.WithFieldValidation(c, client.FieldValidation(metav1.FieldValidationStrict))
	if err := strict.Create(t.Context(), object, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(template)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(object.Spec.Action.Job.Template)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("it came back as\n%s\nwant\n%s", got, want)
	}

	typo := debounce(t, `{action: {job: {template: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, imgae: b}]}}}}}}}`)
	if err := strict.Create(t.Context(), typo, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "containers[0].imgae") {
		t.Errorf("want the misspelt field in the refusal, got %v", err)
	}
}

func TestAJobTemplateCanChange(t *testing.T) {
	t.Parallel()
	scheduled := func(key string) string {
		return `{action: {job: {template: {spec: {scheduling: {schedulingConstraints: {topology: [{key: ` + key + `}]}}, template: {spec: ` + pod + `}}}}}}`
	}
	object := createDebounce(t, scheduled("a"))
	for _, spec := range []string{scheduled("b"), `{action: {` + job + `}}`} {
		setSpec(t, object, spec)
		if err := c.Update(t.Context(), object); err != nil {
			t.Error(err)
		}
	}
}

// TestTheCRDCanBeAppliedByEveryTool: kubectl apply without --server-side keeps the object
// in an annotation, which is at most 256 KiB.
func TestTheCRDCanBeAppliedByEveryTool(t *testing.T) {
	t.Parallel()
	file := filepath.Join("..", "..", "config", "crd", "bases", "redislock.io_debounces.yaml")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	object, err := yaml.YAMLToJSON(content)
	if err != nil {
		t.Fatal(err)
	}
	if len(object) > 200<<10 {
		t.Errorf("the CRD has %d bytes", len(object))
	}
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := apiserver.Kubectl(t.Context(), "apply", "--dry-run=server", "-f", path); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := apiserver.Kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", path); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestStatusOfADebounce(t *testing.T) {
	t.Parallel()
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	full := func() *lockac.DebounceStatusApplyConfiguration {
		return lockac.DebounceStatus().
			WithObservedGeneration(1).
			WithState(v1alpha1.StateAcquired).
			WithKey("debounce:default:status").
			WithCalls(0).
			WithRuns(0).
			WithLastCallAt(now).
			WithDueAt(now).
			WithCall("").
			WithTriggers(lockac.ConfigMapContent().WithName("web").WithHash("sha256:0")).
			WithLastRun(lockac.DebounceRun().WithGeneration(1<<53 - 1).WithCluster("blue").WithStartedAt(now).WithFinishedAt(now).
				WithCalls(1000).WithAttempt(1).WithOutcome(v1alpha1.RunSucceeded).WithMessage("restarted")).
			WithConditions(metav1ac.Condition().
				WithType(string(v1alpha1.ConditionReady)).
				WithStatus(metav1.ConditionTrue).
				WithReason(string(v1alpha1.ReasonOperational)).
				WithMessage("").
				WithObservedGeneration(1).
				WithLastTransitionTime(now))
	}
	apply := func(t *testing.T, name string, status *lockac.DebounceStatusApplyConfiguration) error {
		return c.Status().Apply(t.Context(), lockac.Debounce(name, namespace).WithStatus(status), fieldOwner, client.ForceOwnership)
	}
	t.Run("of an operator is accepted", func(t *testing.T) {
		t.Parallel()
		object := createDebounce(t, restart)
		if err := apply(t, object.GetName(), full()); err != nil {
			t.Fatal(err)
		}
		var got v1alpha1.Debounce
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), &got); err != nil {
			t.Fatal(err)
		}
		if s := got.Status; s.State != v1alpha1.StateAcquired || s.LastRun == nil || s.LastRun.Generation != 1<<53-1 || s.Call == nil || s.Calls == nil || len(s.Triggers) != 1 {
			t.Errorf("status came back as %+v", s)
		}
	})
	for name, test := range map[string]struct {
		change        func(*lockac.DebounceStatusApplyConfiguration)
		field, advice string
	}{
		"with another state is refused": {
			func(s *lockac.DebounceStatusApplyConfiguration) { s.WithState("DUE") },
			"status.state", `supported values: "ACQUIRED", "FREE"`},
		"with another outcome is refused": {
			func(s *lockac.DebounceStatusApplyConfiguration) { s.LastRun.WithOutcome("Skipped") },
			"status.lastRun.outcome", `supported values: "Succeeded", "Failed", "Lost"`},
		"with a run without a generation is refused": {
			func(s *lockac.DebounceStatusApplyConfiguration) { s.LastRun.Generation = nil },
			"status.lastRun.generation", "Required value"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := full()
			test.change(status)
			wantRefusal(t, apply(t, createDebounce(t, restart).GetName(), status), test.field, test.advice)
		})
	}
}
