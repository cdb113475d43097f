package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/callapi"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/operator"
)

// receiver is a server to which Debounces send requests; the first answers are these,
// and then 200.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	answers []int
	got     []*http.Request
	bodies  []string
}

func newReceiver(answers ...int) *receiver {
	r := &receiver{answers: answers}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got, r.bodies = append(r.got, req), append(r.bodies, string(body))
		code := http.StatusOK
		if len(r.answers) > 0 {
			code, r.answers = r.answers[0], r.answers[1:]
		}
		w.WriteHeader(code)
	}))
	DeferCleanup(r.Close)
	return r
}

func (r *receiver) requests() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got
}

// target is the configuration by which a stand's Debounces may send to it.
func (r *receiver) target(st *stand) string {
	GinkgoHelper()
	ca := filepath.Join(st.dir, "receiver.crt")
	Expect(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}), 0o600)).To(Succeed())
	return fmt.Sprintf("httpTargets:\n- {urlPrefix: %s/hooks, namespaces: ['e2e-*'], caFile: %s}\n", r.URL, ca)
}

func (st *stand) runWith(config string, sites ...*site) {
	GinkgoHelper()
	for _, s := range sites {
		st.managers[s] = st.manager(s, operator.Options{Config: st.config() + config})
		Expect(st.managers[s].Start()).To(Succeed())
	}
}

var _ = Describe("A Debounce that sends requests", func() {
	It("sends one for calls in two clusters, with the same key at each try", func(ctx context.Context) {
		st, r := newStand(ctx), newReceiver(http.StatusServiceUnavailable)
		st.runWith(r.target(st), blue, green)
		d := st.debounce("purge", v1alpha1.DebounceAction{HTTP: &v1alpha1.HTTPAction{URL: r.URL + "/hooks/purge"}}, withWait(time.Second))
		createDebounce(ctx, d, blue, green)
		generation := st.call(ctx, d, "one")
		annotate(ctx, blue, d, "two")
		annotate(ctx, green, d, "three")
		ended := st.eventuallyRan(ctx, d, generation)
		Expect(ended.Outcome).To(Equal(redislock.DebounceSucceeded))
		Expect(r.requests()).To(HaveLen(2))
		for i, req := range r.requests() {
			Expect(req.Header.Get("Idempotency-Key")).To(Equal(strconv.FormatUint(generation, 10)))
			Expect(req.Header.Get("Redislock-Debounce")).To(Equal(st.namespace + "/purge"))
			Expect(req.Header.Get("Redislock-Calls")).To(Equal(strconv.Itoa(ended.Calls)))
			Expect(r.bodies[i]).To(BeElementOf("two", "three"))
		}
	}, SpecTimeout(3*time.Minute))

	It("sends nothing where the administrator's list does not have the URL", func(ctx context.Context) {
		st, r := newStand(ctx), newReceiver()
		st.runWith(r.target(st), blue)
		d := st.debounce("purge", v1alpha1.DebounceAction{HTTP: &v1alpha1.HTTPAction{URL: r.URL + "/hooksandmore"}}, withWait(100*time.Millisecond))
		blue.make(ctx, d.DeepCopy())
		Eventually(func(g Gomega) {
			g.Expect(debounceReason(blue.debounceStatus(ctx, g, d), v1alpha1.ConditionReady)).To(Equal(v1alpha1.ReasonURLNotAllowed))
		}).WithContext(ctx).Should(Succeed())
		blue.eventuallyNote(ctx, d, "no HTTP target for namespace "+st.namespace)
		generation := st.call(ctx, d, "one")
		annotate(ctx, blue, d, "two")
		Consistently(r.requests).WithContext(ctx).WithTimeout(3 * time.Second).Should(BeEmpty())

		By("and sends what waited when it has")
		blue.respecify(ctx, d, func(spec *v1alpha1.DebounceSpec) { spec.Action.HTTP.URL = r.URL + "/hooks" })
		Expect(st.eventuallyRan(ctx, d, generation).Outcome).To(Equal(redislock.DebounceSucceeded))
		Eventually(func() []string { r.mu.Lock(); defer r.mu.Unlock(); return r.bodies }).WithContext(ctx).Should(ContainElement("two"))
	}, SpecTimeout(3*time.Minute))
})

// caller may call the Debounces of a namespace by HTTP.
type caller struct {
	token string
	http  *http.Client
}

// caller makes one in a cluster.
func (st *stand) caller(ctx context.Context, s *site) *caller {
	GinkgoHelper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: "caller"}}
	s.make(ctx, account)
	s.make(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: "caller"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "redislock-debounce-caller"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: st.namespace, Name: "caller"}},
	})
	Eventually(func(g Gomega) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:" + st.namespace + ":caller",
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "create", Group: "redislock.io", Resource: "debounces", Subresource: "call", Namespace: st.namespace, Name: "any",
			},
		}}
		g.Expect(s.Create(ctx, review)).To(Succeed())
		g.Expect(review.Status.Allowed).To(BeTrue())
	}).WithContext(ctx).Should(Succeed())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{callapi.DefaultAudience}}}
	Expect(s.SubResource("token").Create(ctx, account, request)).To(Succeed())
	// The certificate is one that the manager signed itself.
	return &caller{token: request.Status.Token, http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}}
}

// call calls by HTTP and returns the generation.
func (c *caller) call(ctx context.Context, m *operator.Manager, d client.Object, payload string, headers map[string]string) (uint64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.CallURL(d.GetNamespace(), d.GetName()), bytes.NewReader([]byte(payload)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	if res.StatusCode/100 != 2 {
		return 0, fmt.Errorf("%s: %s", res.Status, body)
	}
	var answer struct {
		Generation json.Number `json:"generation"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, err
	}
	return strconv.ParseUint(answer.Generation.String(), 10, 64)
}

var _ = Describe("A Debounce that is called by HTTP", func() {
	It("runs, for those who may call it", func(ctx context.Context) {
		st := newStand(ctx)
		st.run(blue, green)
		d := st.debounce("called", aJob(), withWait(time.Second))
		createDebounce(ctx, d, blue, green)
		may := st.caller(ctx, green)
		var generation uint64
		Eventually(func(g Gomega) {
			var err error
			generation, err = may.call(ctx, st.managers[green], d, "one", nil)
			g.Expect(err).NotTo(HaveOccurred())
		}).WithContext(ctx).Should(Succeed())
		st.eventuallyRan(ctx, d, generation)
		Expect(payloadOf(jobOfRun(ctx, Default, d, generation))).To(Equal("one"))

		_, err := may.call(ctx, st.managers[blue], d, "two", nil)
		Expect(err).To(MatchError(ContainSubstring("401")), "a token of another cluster")
		none := st.debounce("none", aJob())
		_, err = may.call(ctx, st.managers[green], none, "three", nil)
		Expect(err).To(MatchError(ContainSubstring("404")))
	}, SpecTimeout(3*time.Minute))
})
