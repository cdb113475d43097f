package callapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/redislock-operator/redislock-operator/test/cluster"
)

// patience is for a busy machine.
const patience = time.Minute

// shared is the cluster of all tests; the workers of a fuzz test need none.
var shared = cluster.Shared{Options: cluster.Options{Name: "calls", Bare: true, Log: os.Stderr}}

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

func admin(t *testing.T) kubernetes.Interface {
	t.Helper()
	clientset, err := kubernetes.NewForConfig(shared.Get(t).RESTConfig())
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return clientset
}

func newNamespace(t *testing.T) string {
	t.Helper()
	namespace, err := admin(t).CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "calls-"}}, metav1.CreateOptions{})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return namespace.Name
}

func newAccount(t *testing.T, namespace, name string) *corev1.ServiceAccount {
	t.Helper()
	account, err := admin(t).CoreV1().ServiceAccounts(namespace).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return account
}

// newToken makes one of a service account; without audiences one for the API server.
func newToken(t *testing.T, namespace, account string, audiences ...string) string {
	t.Helper()
	request, err := admin(t).CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}, metav1.CreateOptions{})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return request.Status.Token
}

func userName(namespace, account string) string {
	return "system:serviceaccount:" + namespace + ":" + account
}

// grant gives a service account the right to call Debounces of its namespace, all or
// some, and waits until the API server knows.
func grant(t *testing.T, namespace, account string, names ...string) {
	t.Helper()
	g := NewWithT(t)
	rbac := admin(t).RbacV1()
	_, err := rbac.Roles(namespace).Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: account},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"redislock.io"}, Resources: []string{"debounces/call"}, Verbs: []string{"create"}, ResourceNames: names}},
	}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	_, err = rbac.RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
	}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	name := "any"
	if len(names) > 0 {
		name = names[0]
	}
	waitForRight(t, namespace, account, name, true)
}

func waitForRight(t *testing.T, namespace, account, name string, want bool) {
	t.Helper()
	reviews := admin(t).AuthorizationV1().SubjectAccessReviews()
	NewWithT(t).Eventually(func() (bool, error) {
		review, err := reviews.Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: userName(namespace, account),
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "create", Group: "redislock.io", Resource: "debounces", Subresource: "call", Namespace: namespace, Name: name,
			},
		}}, metav1.CreateOptions{})
		return err == nil && review.Status.Allowed, err
	}).WithTimeout(patience).Should(Equal(want))
}

// newCaller is somebody who may call all Debounces of a namespace of his own.
func newCaller(t *testing.T) (namespace, token string) {
	t.Helper()
	namespace = newNamespace(t)
	newAccount(t, namespace, "caller")
	grant(t, namespace, "caller")
	return namespace, newToken(t, namespace, "caller", DefaultAudience)
}

// recorder is a Caller that keeps what it gets.
type recorder struct {
	answer func(context.Context, Call) (Result, error)

	mu    sync.Mutex
	calls []Call
}

func (r *recorder) Call(ctx context.Context, call Call) (Result, error) {
	r.mu.Lock()
	r.calls = append(r.calls, call)
	n := len(r.calls)
	r.mu.Unlock()
	if r.answer != nil {
		return r.answer(ctx, call)
	}
	return Result{Generation: uint64(n)}, nil
}

func (r *recorder) got() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// stand is a server under test.
type stand struct {
	*Server
	clock   *clocktesting.FakePassiveClock
	calls   *recorder
	reviews *counter
	client  *http.Client
	stop    context.CancelFunc
	ended   chan error
}

type settings struct {
	config  *rest.Config
	options Options
	limits  limits
	calls   *recorder
}

// serve starts a server whose time stands still, so that what it remembers holds and what
// it bounds does not come back until the test says so.
func serve(t *testing.T, change ...func(*settings)) *stand {
	t.Helper()
	g := NewWithT(t)
	set := settings{
		options: Options{BindAddress: "127.0.0.1:0", Audience: DefaultAudience, Rate: 100, Burst: 200},
		limits:  defaultLimits,
		calls:   &recorder{},
	}
	// What is no test of a time that runs out must not be one on a slow machine.
	set.limits.readHeader, set.limits.read, set.limits.write = patience, patience, 2*patience
	set.limits.review, set.limits.call, set.limits.shutdown = patience, patience, patience
	for _, f := range change {
		f(&set)
	}
	if set.config == nil {
		set.config = shared.Get(t).RESTConfig()
	}
	s := &stand{clock: clocktesting.NewFakePassiveClock(time.Now()), calls: set.calls, reviews: &counter{}, client: newClient(t, true), ended: make(chan error, 1)}
	set.config.Wrap(s.reviews.wrap)
	server, err := newServer(set.config, set.calls, set.options, set.limits, s.clock, testr.NewWithOptions(t, testr.Options{}))
	g.Expect(err).NotTo(HaveOccurred())
	s.Server = server
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.ended <- server.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		NewWithT(t).Eventually(s.ended).WithTimeout(2 * patience).Should(Receive(BeNil()))
		s.ended <- nil
	})
	g.Eventually(server.Address).WithTimeout(patience).ShouldNot(BeEmpty())
	return s
}

func (s *stand) step(d time.Duration) { s.clock.SetTime(s.clock.Now().Add(d)) }

func (s *stand) url(namespace, name string) string {
	return "https://" + s.Address() + "/v1/namespaces/" + namespace + "/debounces/" + name + "/call"
}

// counter counts what the API server is asked.
type counter struct {
	mu    sync.Mutex
	paths map[string]int
}

func (c *counter) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		c.mu.Lock()
		if c.paths == nil {
			c.paths = map[string]int{}
		}
		c.paths[r.URL.Path]++
		c.mu.Unlock()
		return next.RoundTrip(r)
	})
}

func (c *counter) of(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paths[path]
}

func (c *counter) tokens() int { return c.of("/apis/authentication.k8s.io/v1/tokenreviews") }
func (c *counter) rights() int { return c.of("/apis/authorization.k8s.io/v1/subjectaccessreviews") }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// newClient speaks HTTP/1.1 or 2 and believes every certificate.
func newClient(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	protocols := &http.Protocols{}
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Protocols:       protocols,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 2 * patience}
}

// answer is one to a request.
type answer struct {
	Code   int
	Proto  int
	Header http.Header
	Raw    string

	Generation       string
	Opened, Repeated bool
	Error            string
	Reason           reason
}

func do(t *testing.T, client *http.Client, r *http.Request) answer {
	t.Helper()
	g := NewWithT(t)
	response, err := client.Do(r)
	g.Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	g.Expect(err).NotTo(HaveOccurred())
	a := answer{Code: response.StatusCode, Proto: response.ProtoMajor, Header: response.Header, Raw: string(body)}
	if r.Method == http.MethodHead {
		return a
	}
	g.Expect(response.Header.Get("Content-Type")).To(Equal("application/json"))
	g.Expect(json.Unmarshal(body, &a)).To(Succeed(), "%s", body)
	return a
}

func newPost(t *testing.T, url, token string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func (s *stand) post(t *testing.T, namespace, name, token string) answer {
	t.Helper()
	return do(t, s.client, newPost(t, s.url(namespace, name), token, bytes.NewReader([]byte("payload"))))
}
