package main

import (
	"reflect"
	"testing"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/internal/config"
)

// byKind is what the options say of objects of a kind.
func byKind(o cache.Options, kind client.Object) cache.ByObject {
	for object, by := range o.ByObject {
		if reflect.TypeOf(object) == reflect.TypeOf(kind) {
			return by
		}
	}
	return cache.ByObject{}
}

func TestTheCacheHasGuardedJobsAlone(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	selector := byKind(cacheOptions(config.Config{}, "redislock-system"), &batchv1.Job{}).Label
	g.Expect(selector.Matches(labels.Set{"redislock.io/lock": "any"})).To(BeTrue())
	g.Expect(selector.Matches(labels.Set{"redislock.io/lock": ""})).To(BeTrue(), "a policy refuses it, but it has the label")
	g.Expect(selector.Matches(labels.Set{"app": "any"})).To(BeFalse())
	g.Expect(selector.Matches(labels.Set{})).To(BeFalse())
}

func TestTheCacheHasAllCronJobs(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(byKind(cacheOptions(config.Config{}, "redislock-system"), &batchv1.CronJob{})).To(BeZero(), "their label is within the template, where no selector looks")
}

func TestTheCacheHasOneConfigMap(t *testing.T) {
	t.Parallel()
	for _, watched := range [][]string{nil, {"billing"}} {
		g := NewWithT(t)
		o := cacheOptions(config.Config{WatchNamespaces: watched}, "redislock-system")
		by := byKind(o, &corev1.ConfigMap{})
		g.Expect(by.Namespaces).To(HaveLen(1), "also where other namespaces are watched")
		selector := by.Namespaces["redislock-system"].FieldSelector
		g.Expect(selector.Matches(fields.Set{"metadata.name": "redislock-drain"})).To(BeTrue())
		g.Expect(selector.Matches(fields.Set{"metadata.name": "kube-root-ca.crt"})).To(BeFalse())
	}
}

func TestTheCacheHasTheNamespacesThatAreWatched(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(cacheOptions(config.Config{}, "redislock-system").DefaultNamespaces).To(BeEmpty(), "all")
	g.Expect(cacheOptions(config.Config{WatchNamespaces: []string{"a", "b"}}, "redislock-system").DefaultNamespaces).To(And(HaveLen(2), HaveKey("a"), HaveKey("b")))
}
