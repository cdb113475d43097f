package controllers

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/callapi"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/stores"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

func TestACallGoesIntoTheStoreThatTheDebounceHasNow(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	one, two := redisserver.Start(t, redisserver.Options{}), redisserver.Start(t, redisserver.Options{})
	cfg := config.Config{Stores: []config.Store{{Name: "one", URL: one.URL()}, {Name: "two", URL: two.URL()}}}
	list := stores.New(cfg)
	t.Cleanup(func() { list.Close(t.Context()) })
	kube := newKube(t)
	namespace := newNamespace(t, kube)
	in := func(store string) *v1alpha1.Debounce {
		return newDebounce(t, kube, namespace, "called", func(spec *v1alpha1.DebounceSpec) { spec.Store = store })
	}
	key := "debounce:" + namespace + ":called"
	d := in("one")
	caller := &DebounceCaller{Reader: kube, Config: cfg, Stores: list, ClusterUID: "uid"}
	call := callapi.Call{Namespace: namespace, Name: "called", Payload: []byte("payload"), Source: "user/source", Sequence: 1}
	result, err := caller.Call(t.Context(), call)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(result.Repeated).To(BeFalse())
	again, err := caller.Call(t.Context(), call)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again.Repeated).To(BeTrue())
	g.Expect(again.Generation).To(Equal(result.Generation))
	g.Expect(redisserver.Connect(t, one.URL()).TTL(t.Context(), key).Val().Hours()).To(BeNumerically(">", 100),
		"as long as the runners remember it")

	// A store cannot be changed: the Debounce is made anew.
	g.Expect(kube.Delete(t.Context(), d)).To(Succeed())
	d = in("two")
	_, err = caller.Call(t.Context(), call)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(redisserver.Connect(t, two.URL()).Exists(t.Context(), key).Val()).To(BeEquivalentTo(1))

	g.Expect(kube.Delete(t.Context(), d)).To(Succeed())
	_, err = caller.Call(t.Context(), call)
	g.Expect(err).To(MatchError(callapi.ErrNotFound))
	d = in("three")
	_, err = caller.Call(t.Context(), call)
	g.Expect(err).To(MatchError(callapi.ErrInvalid))

	g.Expect(one.Kill()).To(Succeed())
	g.Expect(kube.Delete(t.Context(), d)).To(Succeed())
	in("one")
	_, err = caller.Call(t.Context(), call)
	g.Expect(err).To(MatchError(callapi.ErrUnreachable))
}
