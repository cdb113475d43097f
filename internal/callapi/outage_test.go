package callapi

import (
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"

	"github.com/redislock-operator/redislock-operator/test/ports"
)

// It has the API server to itself, for it does not run in parallel.
func TestNobodyGetsThroughWhileTheAPIServerHangs(t *testing.T) {
	g := NewWithT(t)
	s := serve(t, func(set *settings) { set.limits.review = 500 * time.Millisecond })
	known := newKnown(t, s)
	second := newToken(t, known.namespace, "caller", DefaultAudience)

	g.Expect(shared.Get(t).APIServer.Pause(t.Context())).To(Succeed())
	t.Cleanup(func() { NewWithT(t).Expect(shared.Get(t).APIServer.Resume()).To(Succeed()) })
	a := s.post(t, known.namespace, "settings", second)
	g.Expect(a.Code).To(Equal(http.StatusServiceUnavailable), a.Raw)
	g.Expect(a.Reason).To(Equal(reasonAPIUnavailable))
	g.Expect(a.Header.Get("Retry-After")).To(Equal("1"))
	g.Expect(s.post(t, known.namespace, "settings", known.token).Code).To(Equal(http.StatusAccepted), "he was let in a moment ago")
	g.Expect(s.post(t, known.namespace, "other", known.token).Code).To(Equal(http.StatusServiceUnavailable), "this he was not asked about")
	s.step(remember + time.Second)
	g.Expect(s.post(t, known.namespace, "settings", known.token).Code).To(Equal(http.StatusServiceUnavailable))
	g.Expect(s.calls.got()).To(HaveLen(2))

	g.Expect(shared.Get(t).APIServer.Resume()).To(Succeed())
	g.Eventually(func() int { return s.post(t, known.namespace, "settings", second).Code }).WithTimeout(patience).Should(Equal(http.StatusAccepted))
}

func TestNobodyGetsThroughWithoutAnAPIServer(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	port, err := ports.Reserve()
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(port.Release)
	s := serve(t, func(set *settings) { set.config = &rest.Config{Host: "https://" + port.Addr()} })
	a := s.post(t, "any", "settings", "made-up")
	g.Expect(a.Code).To(Equal(http.StatusServiceUnavailable), a.Raw)
	g.Expect(a.Reason).To(Equal(reasonAPIUnavailable))
	g.Expect(a.Error).NotTo(ContainSubstring(port.String()))
}

func TestAnOperatorThatMayAskNothingLetsNobodyThrough(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	namespace, token := newCaller(t)
	s := serve(t, func(set *settings) {
		admin := shared.Get(t).RESTConfig()
		set.config = rest.AnonymousClientConfig(admin)
		set.config.BearerToken = newToken(t, namespace, "caller")
	})
	a := s.post(t, namespace, "settings", token)
	g.Expect(a.Code).To(Equal(http.StatusServiceUnavailable), a.Raw)
	g.Expect(s.calls.got()).To(BeEmpty())
}

type known struct{ namespace, token string }

func newKnown(t *testing.T, s *stand) known {
	t.Helper()
	namespace, token := newCaller(t)
	NewWithT(t).Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
	return known{namespace, token}
}
