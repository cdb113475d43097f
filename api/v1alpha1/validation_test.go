package v1alpha1_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	lockac "github.com/redislock-operator/redislock-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/test/cluster"
)

const (
	namespace  = "default"
	fieldOwner = client.FieldOwner("validation-test")
)

var (
	apiserver *cluster.Cluster
	c         client.Client
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
		defer cancel()
		if err := setUp(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "cannot test validation:", err)
			return 1
		}
		code := m.Run()
		if err := apiserver.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping the cluster:", err)
			return 1
		}
		return code
	}())
}

// setUp starts an API server with the CRDs as config/ has them.
func setUp(ctx context.Context) (err error) {
	apiserver, err = cluster.Start(ctx, cluster.Options{Name: "validation", Bare: true, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = apiserver.Stop()
		}
	}()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		return err
	}
	if c, err = client.New(apiserver.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join("..", "..", "config", "crd", "bases", "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(content, &crd.Object); err != nil {
			return err
		}
		err = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(crd), fieldOwner, client.ForceOwnership)
		if err != nil {
			return err
		}
	}
	for {
		err := errors.Join(c.List(ctx, &v1alpha1.RedisLockList{}), c.List(ctx, &v1alpha1.DebounceList{}))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server does not serve RedisLocks and Debounces: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestSpecIsAccepted(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]string{
		"nothing set":                        `{}`,
		"key with a hash tag":                `{key: "lock:billing:{nightly}"}`,
		"key that is nothing but a hash tag": `{key: "{nightly}"}`,
		"key of another library":             `{key: "legacy/cron:job-1"}`,
		"key in another script":              `{key: "замок:夜間"}`,
		"longest key":                        `{key: "` + strings.Repeat("k", 512) + `"}`,
		"longest store":                      `{store: "` + strings.Repeat("s", 63) + `"}`,
		"shortest lease":                     `{lease: 1s}`,
		"longest lease":                      `{lease: 24h}`,
		"lease in milliseconds":              `{lease: 1500ms}`,
		"lease with a fraction":              `{lease: 1.5s}`,
		"lease as Go writes it":              `{lease: 1h0m0s}`,
		"renewal at half of lease":           `{lease: 30s, renewEvery: 15s}`,
		"fastest renewal":                    `{lease: 1s, renewEvery: 100ms}`,
		"longest lock delay":                 `{lockDelay: 24h}`,
		"no lock delay":                      `{lockDelay: 0s}`,
		"paused clusters":                    `{paused: [blue, green-2, "3"]}`,
		"a null where a default is":          `{lease: null, store: null, hold: null, lockDelay: null, minHold: null, watchdog: null, lostTicks: null, missedTicks: null, onLost: null, failbackAfter: null}`,
		"every field": `{key: k, store: s, hold: Always, lease: 1m30s, renewEvery: 20s, lockDelay: 10s, paused: [], minHold: 5s, maxHold: 1h,
			watchdog: 1m, maxWait: 10m, lostTicks: Skip, missedTicks: RunLatest, onLost: Delete, preferredClusters: [blue], failbackAfter: 1m}`,
		"hold on demand":                              `{hold: OnDemand}`,
		"hold on demand with what goes with it":       `{hold: OnDemand, minHold: 10s, maxHold: 1h, watchdog: 30s, maxWait: 1s, failbackAfter: 0s}`,
		"longest minHold":                             `{minHold: 24h}`,
		"maxHold as long as lease":                    `{lease: 30s, maxHold: 30s}`,
		"maxHold as long as minHold":                  `{minHold: 2m, maxHold: 2m}`,
		"longest maxHold":                             `{maxHold: 8784h}`,
		"shortest watchdog":                           `{watchdog: 3s}`,
		"longest watchdog":                            `{watchdog: 24h}`,
		"no watchdog":                                 `{watchdog: 0s}`,
		"shortest maxWait":                            `{maxWait: 1s}`,
		"longest maxWait":                             `{maxWait: 8784h}`,
		"preferred clusters":                          `{preferredClusters: [blue, green-2, "3"]}`,
		"preferred clusters, hold written out":        `{hold: Always, preferredClusters: [blue]}`,
		"failback at once":                            `{preferredClusters: [blue], failbackAfter: 0s}`,
		"longest failback":                            `{failbackAfter: 24h}`,
		"renewal left out beside the shortest lease":  `{lease: 1s}`,
		"key that begins like a tombstone in a store": `{key: "~k"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := c.Create(t.Context(), lock(t, spec), client.DryRunAll); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestSpecIsRefusedWithAdvice(t *testing.T) {
	t.Parallel()
	const (
		invisible = "take them out, or write ':' or '-' in their place"
		braces    = "take the other braces out"
		lease     = "lease must be a duration from 1s to 24h, written with the units h, m, s and ms in this order: for instance 30s"
		renew     = "renewEvery must be a duration of at least 100ms, written with the units h, m, s and ms in this order: for instance 10s"
		delay     = "lockDelay must be a duration from 0s to 24h, written with the units h, m, s and ms in this order: for instance 0s"
		half      = "shorten renewEvery, lengthen lease, or leave renewEvery out"
		store     = "store must be the name of a store in the operator's configuration, not an address"
		minHold   = "minHold must be a duration from 0s to 24h, written with the units h, m, s and ms in this order: for instance 0s or 10s"
		maxHold   = "maxHold must be a duration from 1s to 8784h, written with the units h, m, s and ms in this order: for instance 1h"
		watchdog  = "watchdog must be 0s, or a duration from 3s to 24h, written with the units h, m, s and ms in this order: for instance 5m"
		maxWait   = "maxWait must be a duration from 1s to 8784h, written with the units h, m, s and ms in this order: for instance 30m"
		failback  = "failbackAfter must be a duration from 0s to 24h, written with the units h, m, s and ms in this order: for instance 10m"
		preferred = "preferredClusters must list names of clusters as their operators' configurations have them"
		always    = "take preferredClusters out or set hold to Always"
		cluster   = "paused must list names of clusters as their operators' configurations have them"
	)
	for name, test := range map[string]struct{ spec, field, advice string }{
		"empty key":                          {`{key: ""}`, "spec.key", "at least 1 chars long"},
		"key too long":                       {`{key: "` + strings.Repeat("k", 513) + `"}`, "spec.key", "512"},
		"key with a space":                   {`{key: "a b"}`, "spec.key", invisible},
		"key with a line break":              {`{key: "a\nb"}`, "spec.key", invisible},
		"key that ends with a line break":    {`{key: "ab\n"}`, "spec.key", invisible},
		"key with a control character":       {`{key: "a\u0007b"}`, "spec.key", invisible},
		"key with a no-break space":          {`{key: "a\u00a0b"}`, "spec.key", invisible},
		"key with a zero-width space":        {`{key: "a\u200bb"}`, "spec.key", invisible},
		"key with an empty hash tag":         {`{key: "a{}b"}`, "spec.key", braces},
		"key with a closing brace alone":     {`{key: "foo}bar"}`, "spec.key", braces},
		"key with an opening brace alone":    {`{key: "foo{bar"}`, "spec.key", braces},
		"key with braces the wrong way":      {`{key: "a}b{c"}`, "spec.key", braces},
		"key with two hash tags":             {`{key: "{a}{b}"}`, "spec.key", braces},
		"key like that of a companion":       {`{key: "{x}:fence"}`, "spec.key", "begin it with something else"},
		"key with a brace in the hash tag":   {`{key: "{a{b}"}`, "spec.key", braces},
		"store that is an address":           {`{store: "redis://redis:6379"}`, "spec.store", store},
		"store in capitals":                  {`{store: Default}`, "spec.store", store},
		"store that ends with a hyphen":      {`{store: a-}`, "spec.store", store},
		"empty store":                        {`{store: ""}`, "spec.store", "at least 1 chars long"},
		"hold that is none":                  {`{hold: Sometimes}`, "spec.hold", `supported values: "Always", "OnDemand"`},
		"empty hold":                         {`{hold: ""}`, "spec.hold", `supported values: "Always", "OnDemand"`},
		"minHold without a unit":             {`{minHold: "10"}`, "spec.minHold", minHold},
		"negative minHold":                   {`{minHold: "-1s"}`, "spec.minHold", minHold},
		"minHold too long":                   {`{minHold: 24h1ms}`, "spec.minHold", minHold},
		"maxHold that is no duration":        {`{maxHold: never}`, "spec.maxHold", maxHold},
		"maxHold too short":                  {`{lease: 1s, maxHold: 999ms}`, "spec.maxHold", maxHold},
		"maxHold too long":                   {`{maxHold: 8785h}`, "spec.maxHold", maxHold},
		"maxHold shorter than lease":         {`{lease: 1m, maxHold: 59s}`, "spec.maxHold", "maxHold must be at least lease: lengthen maxHold or shorten lease"},
		"maxHold shorter than default lease": {`{maxHold: 29s}`, "spec.maxHold", "maxHold must be at least lease"},
		"maxHold shorter than minHold":       {`{minHold: 2m, maxHold: 1m}`, "spec.maxHold", "maxHold must be at least minHold: lengthen maxHold or shorten minHold"},
		"watchdog of two seconds":            {`{watchdog: 2s}`, "spec.watchdog", watchdog},
		"watchdog of nearly three seconds":   {`{watchdog: 2.999s}`, "spec.watchdog", watchdog},
		"watchdog of a millisecond":          {`{watchdog: 1ms}`, "spec.watchdog", watchdog},
		"watchdog too long":                  {`{watchdog: 25h}`, "spec.watchdog", watchdog},
		"negative watchdog":                  {`{watchdog: "-5m"}`, "spec.watchdog", watchdog},
		"watchdog switched off by a word":    {`{watchdog: "off"}`, "spec.watchdog", watchdog},
		"empty watchdog":                     {`{watchdog: ""}`, "spec.watchdog", watchdog},
		"maxWait of nothing":                 {`{maxWait: 0s}`, "spec.maxWait", maxWait},
		"maxWait too long":                   {`{maxWait: 9000h}`, "spec.maxWait", maxWait},
		"lostTicks that are none":            {`{lostTicks: Retry}`, "spec.lostTicks", `supported values: "Rerun", "Skip"`},
		"missedTicks that are none":          {`{missedTicks: RunAll}`, "spec.missedTicks", `supported values: "Skip", "RunLatest"`},
		"onLost that is none":                {`{onLost: Ignore}`, "spec.onLost", `supported values: "Suspend", "Delete"`},
		"preference on demand":               {`{hold: OnDemand, preferredClusters: [blue]}`, "spec.preferredClusters", always},
		"preferred cluster in capitals":      {`{preferredClusters: [Blue]}`, "spec.preferredClusters[0]", preferred},
		"preferred cluster without a name":   {`{preferredClusters: [""]}`, "spec.preferredClusters[0]", "at least 1 chars long"},
		"more preferred clusters than there is room for": {
			`{preferredClusters: [` + clusterNames(65) + `]}`, "spec.preferredClusters", "must have at most 64 items"},
		"failback without a unit":            {`{failbackAfter: "10"}`, "spec.failbackAfter", failback},
		"negative failback":                  {`{failbackAfter: "-1s"}`, "spec.failbackAfter", failback},
		"failback too long":                  {`{failbackAfter: 25h}`, "spec.failbackAfter", failback},
		"lease that is no duration":          {`{lease: soon}`, "spec.lease", lease},
		"lease without a unit":               {`{lease: "30"}`, "spec.lease", lease},
		"lease as a number":                  {`{lease: 30}`, "spec.lease", "must be of type string"},
		"lease in days":                      {`{lease: 1d}`, "spec.lease", lease},
		"lease in nanoseconds":               {`{lease: 2000000000ns}`, "spec.lease", lease},
		"lease with a space":                 {`{lease: "1m 30s"}`, "spec.lease", lease},
		"empty lease":                        {`{lease: ""}`, "spec.lease", lease},
		"negative lease":                     {`{lease: "-30s"}`, "spec.lease", lease},
		"lease too short":                    {`{lease: 999ms}`, "spec.lease", lease},
		"lease too long":                     {`{lease: 24h0.001s}`, "spec.lease", lease},
		"lease beyond what a duration holds": {`{lease: 9999999999h}`, "spec.lease", lease},
		"lease that is a novel":              {`{lease: "` + strings.Repeat("1", 33) + `s"}`, "spec.lease", "32"},
		"renewal that is no duration":        {`{renewEvery: often}`, "spec.renewEvery", renew},
		"renewal too often":                  {`{renewEvery: 99ms}`, "spec.renewEvery", renew},
		"negative renewal":                   {`{renewEvery: "-1s"}`, "spec.renewEvery", renew},
		"renewal later than half of lease":   {`{lease: 30s, renewEvery: 15.001s}`, "spec.renewEvery", half},
		"renewal as late as lease":           {`{lease: 30s, renewEvery: 30s}`, "spec.renewEvery", half},
		"renewal against the default lease":  {`{renewEvery: 16s}`, "spec.renewEvery", half},
		"lock delay without a unit":          {`{lockDelay: "0"}`, "spec.lockDelay", delay},
		"negative lock delay":                {`{lockDelay: "-1s"}`, "spec.lockDelay", delay},
		"lock delay too long":                {`{lockDelay: 25h}`, "spec.lockDelay", delay},
		"paused cluster in capitals":         {`{paused: [Blue]}`, "spec.paused[0]", cluster},
		"paused cluster with a dot":          {`{paused: [blue, eu.green]}`, "spec.paused[1]", cluster},
		"paused cluster without a name":      {`{paused: [""]}`, "spec.paused[0]", "at least 1 chars long"},
		"paused cluster named twice":         {`{paused: [blue, blue]}`, "spec.paused[1]", "Duplicate value"},
		"more paused clusters than there is room for": {
			`{paused: [` + clusterNames(65) + `]}`, "spec.paused", "must have at most 64 items"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantRefusal(t, c.Create(t.Context(), lock(t, test.spec), client.DryRunAll), test.field, test.advice)
		})
	}
}

func TestRefusalOfADurationDoesNotCrowdOutItsAdvice(t *testing.T) {
	t.Parallel()
	err := c.Create(t.Context(), lock(t, `{lease: soon, renewEvery: often}`), client.DryRunAll)
	wantRefusal(t, err, "spec.lease", "lease must be a duration")
	wantRefusal(t, err, "spec.renewEvery", "renewEvery must be a duration")
	if causes := refusal(t, err).ErrStatus.Details.Causes; len(causes) != 2 {
		t.Errorf("want the two causes and no more, got %d: %v", len(causes), causes)
	}
}

func TestNameFitsALabelValue(t *testing.T) {
	t.Parallel()
	fits := lock(t, `{}`)
	fits.SetGenerateName("")
	fits.SetName(strings.Repeat("n", 63))
	if err := c.Create(t.Context(), fits, client.DryRunAll); err != nil {
		t.Errorf("63 characters were refused: %v", err)
	}
	long := lock(t, `{}`)
	long.SetGenerateName("")
	long.SetName(strings.Repeat("n", 64))
	wantRefusal(t, c.Create(t.Context(), long, client.DryRunAll), "", "choose a shorter name")
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]string{"empty spec": `{}`, "no spec": `null`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			created := create(t, spec)
			var got v1alpha1.RedisLock
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(created), &got); err != nil {
				t.Fatal(err)
			}
			if got.Spec.Store != v1alpha1.DefaultStore || got.Spec.Hold != v1alpha1.DefaultHold {
				t.Errorf("store and hold are %q and %q", got.Spec.Store, got.Spec.Hold)
			}
			if got.Spec.Lease == nil || got.Spec.Lease.Duration != v1alpha1.DefaultLease {
				t.Errorf("lease is %v", got.Spec.Lease)
			}
			if got.Spec.LockDelay == nil || got.Spec.LockDelay.Duration != 0 {
				t.Errorf("lockDelay is %v", got.Spec.LockDelay)
			}
			if got.Spec.MinHold == nil || got.Spec.MinHold.Duration != 0 {
				t.Errorf("minHold is %v", got.Spec.MinHold)
			}
			if got.Spec.Watchdog == nil || got.Spec.Watchdog.Duration != v1alpha1.DefaultWatchdog {
				t.Errorf("watchdog is %v", got.Spec.Watchdog)
			}
			if got.Spec.FailbackAfter == nil || got.Spec.FailbackAfter.Duration != v1alpha1.DefaultFailbackAfter {
				t.Errorf("failbackAfter is %v", got.Spec.FailbackAfter)
			}
			if got.Spec.LostTicks != v1alpha1.DefaultLostTicks || got.Spec.MissedTicks != v1alpha1.DefaultMissedTicks || got.Spec.OnLost != v1alpha1.DefaultOnLost {
				t.Errorf("lostTicks, missedTicks and onLost are %q, %q and %q", got.Spec.LostTicks, got.Spec.MissedTicks, got.Spec.OnLost)
			}
			if got.Spec.MaxHold != nil || got.Spec.MaxWait != nil || got.Spec.PreferredClusters != nil {
				t.Errorf("there are bounds and a preference that nobody set: %v, %v, %v", got.Spec.MaxHold, got.Spec.MaxWait, got.Spec.PreferredClusters)
			}
			if got.Spec.Key != "" || got.Spec.RenewEvery != nil {
				t.Errorf("key and renewEvery are the controller's to choose, but are %q and %v", got.Spec.Key, got.Spec.RenewEvery)
			}
		})
	}
}

func TestWhatIdentifiesALockCannotChange(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ before, after, field, advice string }{
		"key changed":           {`{key: a}`, `{key: b}`, "spec.key", "delete this RedisLock and create one with the other key"},
		"key added":             {`{}`, `{key: b}`, "spec.key", "delete this RedisLock and create one with the other key"},
		"key removed":           {`{key: a}`, `{}`, "spec.key", "delete this RedisLock and create one with the other key"},
		"spec with key removed": {`{key: a}`, `null`, "spec.key", "delete this RedisLock and create one with the other key"},
		"store changed":         {`{store: a}`, `{store: b}`, "spec.store", "delete this RedisLock and create one with the other store"},
		"store added":           {`{}`, `{store: b}`, "spec.store", "delete this RedisLock and create one with the other store"},
		"store removed":         {`{store: a}`, `{}`, "spec.store", "delete this RedisLock and create one with the other store"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			object := create(t, test.before)
			setSpec(t, object, test.after)
			wantRefusal(t, c.Update(t.Context(), object), test.field, test.advice)
		})
	}
	t.Run("everything else may", func(t *testing.T) {
		t.Parallel()
		object := create(t, `{key: a, store: s}`)
		setSpec(t, object, `{key: a, store: s, lease: 1m, renewEvery: 5s, lockDelay: 10s, paused: [blue], hold: OnDemand, minHold: 1s, maxHold: 2m,
			watchdog: 0s, maxWait: 1m, lostTicks: Skip, missedTicks: RunLatest, onLost: Delete, failbackAfter: 1m}`)
		if err := c.Update(t.Context(), object); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatGoWritesIsAccepted(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{
		time.Second, 1500 * time.Millisecond, 1234567891 * time.Nanosecond, 90 * time.Second, time.Hour + time.Second, 24 * time.Hour,
	} {
		object := &v1alpha1.RedisLock{}
		object.SetGenerateName("go-")
		object.SetNamespace(namespace)
		object.Spec.Lease = &metav1.Duration{Duration: d}
		if err := c.Create(t.Context(), object, client.DryRunAll); err != nil {
			t.Errorf("lease %v was refused: %v", d, err)
		}
		if object.Spec.Lease.Duration != d {
			t.Errorf("lease %v came back as %v", d, object.Spec.Lease.Duration)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	full := func() *lockac.RedisLockStatusApplyConfiguration {
		return lockac.RedisLockStatus().
			WithObservedGeneration(1).
			WithState(v1alpha1.StateAcquired).
			WithKey("lock:default:status").
			WithHolder(lockac.LockHolder().WithCluster("blue").WithSince(now)).
			WithFencingToken(1<<53 - 1).
			WithAcquiredAt(now).
			WithTransitions(0).
			WithHistory(lockac.LockGrant().WithFencingToken(7).WithCluster("green").WithAcquiredAt(now)).
			WithConditions(metav1ac.Condition().
				WithType(string(v1alpha1.ConditionAcquired)).
				WithStatus(metav1.ConditionTrue).
				WithReason(string(v1alpha1.ReasonHeldHere)).
				WithMessage("").
				WithObservedGeneration(1).
				WithLastTransitionTime(now))
	}
	apply := func(t *testing.T, name string, status *lockac.RedisLockStatusApplyConfiguration) error {
		return c.Status().Apply(t.Context(), lockac.RedisLock(name, namespace).WithStatus(status), fieldOwner, client.ForceOwnership)
	}

	t.Run("of an operator is accepted", func(t *testing.T) {
		t.Parallel()
		object := create(t, `{}`)
		if err := apply(t, object.GetName(), full()); err != nil {
			t.Fatal(err)
		}
		var got v1alpha1.RedisLock
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), &got); err != nil {
			t.Fatal(err)
		}
		if got.Status.State != v1alpha1.StateAcquired || got.Status.FencingToken != 1<<53-1 || !got.Status.AcquiredAt.Equal(&now) {
			t.Errorf("status came back as %+v", got.Status)
		}
		if !meta.IsStatusConditionTrue(got.Status.Conditions, string(v1alpha1.ConditionAcquired)) {
			t.Errorf("conditions came back as %+v", got.Status.Conditions)
		}
	})
	for name, test := range map[string]struct {
		change        func(*lockac.RedisLockStatusApplyConfiguration)
		field, advice string
	}{
		"with another state is refused": {
			func(s *lockac.RedisLockStatusApplyConfiguration) { s.WithState("HELD") },
			"status.state", `supported values: "ACQUIRED", "FREE"`},
		"with a fencing token of zero is refused": {
			func(s *lockac.RedisLockStatusApplyConfiguration) { s.WithFencingToken(0) },
			"status.fencingToken", "greater than or equal to 1"},
		"with a long history is refused": {
			func(s *lockac.RedisLockStatusApplyConfiguration) {
				for range 10 {
					s.WithHistory(lockac.LockGrant().WithFencingToken(8))
				}
			},
			"status.history", "must have at most 10 items"},
		"with a grant without a fencing token is refused": {
			func(s *lockac.RedisLockStatusApplyConfiguration) {
				s.WithHistory(lockac.LockGrant().WithCluster("blue"))
			},
			"status.history[1].fencingToken", "Required value"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := full()
			test.change(status)
			wantRefusal(t, apply(t, create(t, `{}`).GetName(), status), test.field, test.advice)
		})
	}
}

func TestSamplesAreAccepted(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("..", "..", "config", "samples", "redislock_*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(content), "\n---\n") {
			object := &unstructured.Unstructured{}
			if err := yaml.UnmarshalStrict([]byte(document), &object.Object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			object.SetNamespace(namespace)
			strict := client.WithFieldValidation(c, client.FieldValidation(metav1.FieldValidationStrict))
			if err := strict.Create(t.Context(), object, client.DryRunAll); err != nil {
				t.Errorf("%s was refused: %v", file, err)
			}
		}
	}
}

func TestColumnsOfKubectlGet(t *testing.T) {
	t.Parallel()
	create(t, `{}`)
	createDebounce(t, restart)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"get", "rlock", "-n", namespace}, "NAME STATE HOLDER FENCE AGE"},
		{[]string{"get", "redislocks", "-n", namespace, "-o", "wide"}, "NAME STATE HOLDER FENCE AGE ACTIVE WAITING KEY STORE READY"},
		{[]string{"get", "debounces", "-n", namespace}, "NAME STATE RUNS LAST-RUN DUE AGE"},
		{[]string{"get", "debounce", "-n", namespace, "-o", "wide"}, "NAME STATE RUNS LAST-RUN DUE AGE OUTCOME CLUSTER CALLS KEY STORE READY"},
	} {
		out, err := apiserver.Kubectl(t.Context(), test.args...)
		if err != nil {
			t.Fatal(err)
		}
		header, _, _ := strings.Cut(out, "\n")
		if got := strings.Join(strings.Fields(header), " "); got != test.want {
			t.Errorf("kubectl %s has the columns %s, want %s", strings.Join(test.args, " "), got, test.want)
		}
	}
}

// lock is a RedisLock as a person writes it, with a name of its own.
func lock(t *testing.T, spec string) *unstructured.Unstructured {
	t.Helper()
	return object(t, "RedisLock", spec)
}

func object(t *testing.T, kind, spec string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(kind))
	object.SetNamespace(namespace)
	object.SetGenerateName(strings.ToLower(kind) + "-")
	setSpec(t, object, spec)
	return object
}

func setSpec(t *testing.T, object *unstructured.Unstructured, spec string) {
	t.Helper()
	var value any
	if err := yaml.Unmarshal([]byte(spec), &value); err != nil {
		t.Fatalf("the test's own YAML: %v", err)
	}
	if value == nil {
		delete(object.Object, "spec")
		return
	}
	object.Object["spec"] = value
}

// create stores a RedisLock until the end of the test.
func create(t *testing.T, spec string) *unstructured.Unstructured {
	t.Helper()
	return store(t, lock(t, spec))
}

func store(t *testing.T, object *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	if err := c.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := client.IgnoreNotFound(c.Delete(ctx, object)); err != nil {
			t.Error(err)
		}
	})
	return object
}

func refusal(t *testing.T, err error) *apierrors.StatusError {
	t.Helper()
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || !apierrors.IsInvalid(err) {
		t.Fatalf("want a refusal, got %v", err)
	}
	return status
}

// wantRefusal is satisfied by a refusal whose cause at the field gives the
// advice.
func wantRefusal(t *testing.T, err error, field, advice string) {
	t.Helper()
	causes := refusal(t, err).ErrStatus.Details.Causes
	for _, cause := range causes {
		if (field == "" || cause.Field == field) && strings.Contains(cause.Message, advice) {
			return
		}
	}
	t.Errorf("want %q at %q, got %v", advice, field, causes)
}

func clusterNames(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i)
	}
	return strings.Join(names, ", ")
}
