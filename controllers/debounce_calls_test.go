package controllers

import (
	"testing"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

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
	d := newDebounce("called")
	d.Spec.Store = "one"
	kube := acting(t, interceptor.Funcs{}, d)
	caller := &DebounceCaller{Reader: kube, Config: cfg, Stores: list, ClusterUID: "uid"}
	call := callapi.Call{Namespace: "ns", Name: "called", Payload: []byte("payload"), Source: "user/source", Sequence: 1}
	result, err := caller.Call(t.Context(), call)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(result.Repeated).To(BeFalse())
	again, err := caller.Call(t.Context(), call)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again.Repeated).To(BeTrue())
	g.Expect(again.Generation).To(Equal(result.Generation))
	g.Expect(redisserver.Connect(t, one.URL()).TTL(t.Context(), "debounce:ns:called").Val().Hours()).To(BeNumerically(">", 100),
		"as long as the runners remember it")

	g.Expect(kube.Live.Delete(t.Context(), d)).To(Succeed())
	anew := newDebounce("called")
	anew.Spec.Store = "two"
	g.Expect(kube.Live.Create(t.Context(), anew)).To(Succeed())
	_, err = caller.Call(t.Context(), call)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(redisserver.Connect(t, two.URL()).Exists(t.Context(), "debounce:ns:called").Val()).To(BeEquivalentTo(1))

	call.Name = "none"
	_, err = caller.Call(t.Context(), call)
	g.Expect(err).To(MatchError(callapi.ErrNotFound))
	anew.Spec.Store = "three"
	g.Expect(kube.Live.Update(t.Context(), anew)).To(Succeed())
	call.Name = "called"
	_, err = caller.Call(t.Context(), call)
	g.Expect(err).To(MatchError(callapi.ErrInvalid))
	g.Expect(one.Kill()).To(Succeed())
	anew.Spec.Store = "one"
	g.Expect(kube.Live.Update(t.Context(), anew)).To(Succeed())
	_, err = caller.Call(t.Context(), call)
	g.Expect(err).To(MatchError(callapi.ErrUnreachable))
}
