package controllers

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// posted is a request that came.
type posted struct {
	method, path, body string
	header             http.Header
}

// receiver is a TLS server that keeps the requests that come, and answers them in turn;
// the last answer stays.
type receiver struct {
	*httptest.Server
	ca string

	mu      sync.Mutex
	got     []posted
	answers []http.HandlerFunc
}

func newReceiver(t *testing.T, answers ...http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{answers: answers, ca: filepath.Join(t.TempDir(), "ca.crt")}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.got = append(r.got, posted{req.Method, req.URL.Path, string(body), req.Header})
		answer := r.answers[0]
		if len(r.answers) > 1 {
			r.answers = r.answers[1:]
		}
		r.mu.Unlock()
		answer(w, req)
	}))
	t.Cleanup(r.Close)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	NewWithT(t).Expect(os.WriteFile(r.ca, certificate, 0o600)).To(Succeed())
	return r
}

func (r *receiver) requests() []posted {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got
}

func code(n int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(n)
	}
}

var postedRun = redislock.DebounceRun{Generation: 42, Payload: []byte("\x00 bytes"), Calls: 3}

func (r *receiver) post(t *testing.T, change ...func(*config.HTTPTarget, *v1alpha1.HTTPAction)) (string, error) {
	t.Helper()
	target := config.HTTPTarget{URLPrefix: r.URL, CAFile: r.ca}
	action := &v1alpha1.HTTPAction{URL: r.URL + "/purge?all=1", Attempts: 3, Timeout: &metav1.Duration{Duration: 5 * time.Second}}
	for _, f := range change {
		f(&target, action)
	}
	reconciler := &DebounceReconciler{Config: config.Config{HTTPTargets: []config.HTTPTarget{target}}}
	d := &v1alpha1.Debounce{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "name"}}
	return reconciler.post(t.Context(), d, action, postedRun)
}

func TestAPostHasPayloadAndIdempotencyKey(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	r := newReceiver(t, code(http.StatusAccepted))
	token := filepath.Join(t.TempDir(), "token")
	g.Expect(os.WriteFile(token, []byte("Bearer secret\n"), 0o600)).To(Succeed())
	message, err := r.post(t, func(target *config.HTTPTarget, _ *v1alpha1.HTTPAction) {
		target.HeaderFiles = map[string]string{"Authorization": token}
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(message).To(Equal("answered with 202 at try 1"))
	g.Expect(r.requests()).To(HaveLen(1))
	got := r.requests()[0]
	g.Expect(got.method + " " + got.path + " " + got.body).To(Equal("POST /purge \x00 bytes"))
	for name, value := range map[string]string{
		"Idempotency-Key": "42", "Redislock-Debounce": "ns/name", "Redislock-Calls": "3",
		"Authorization": "Bearer secret", "Content-Type": "application/octet-stream", "User-Agent": "redislock-operator",
	} {
		g.Expect(got.header.Get(name)).To(Equal(value), name)
	}
}

func TestAnswersToAPost(t *testing.T) {
	t.Parallel()
	elsewhere := newReceiver(t, code(http.StatusOK))
	for name, tc := range map[string]struct {
		answers  []http.HandlerFunc
		requests int
		failure  string
	}{
		"unavailable, then done":  {[]http.HandlerFunc{code(503), code(200)}, 2, ""},
		"too many, then done":     {[]http.HandlerFunc{code(429, "Retry-After", "2"), code(204)}, 2, ""},
		"too early, then done":    {[]http.HandlerFunc{code(425), code(200)}, 2, ""},
		"always failing":          {[]http.HandlerFunc{code(500)}, 3, "answered with 500 Internal Server Error, at try 3"},
		"refused":                 {[]http.HandlerFunc{code(403)}, 1, "answered with 403 Forbidden"},
		"a redirection elsewhere": {[]http.HandlerFunc{code(307, "Location", elsewhere.URL)}, 1, "answered with 307 Temporary Redirect"},
		"a huge answer": {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			for range 10 * mostOfAnswer / 1024 {
				_, _ = w.Write(make([]byte, 1024))
			}
		}}, 1, ""},
		"a connection that breaks": {[]http.HandlerFunc{func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, code(200)}, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			r := newReceiver(t, tc.answers...)
			began := time.Now()
			_, err := r.post(t)
			if tc.failure == "" {
				g.Expect(err).NotTo(HaveOccurred())
			} else {
				g.Expect(err).To(MatchError(tc.failure))
			}
			g.Expect(r.requests()).To(HaveLen(tc.requests))
			for _, got := range r.requests() {
				g.Expect(got.header.Get("Idempotency-Key")).To(Equal("42"), "the same at each try")
			}
			if name == "too many, then done" {
				g.Expect(time.Since(began)).To(BeNumerically(">=", 2*time.Second), "as the server asked")
			}
		})
	}
	t.Cleanup(func() { NewWithT(t).Expect(elsewhere.requests()).To(BeEmpty()) })
}

func TestAPostThatIsNotAnsweredIsGivenUp(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	hang := make(chan struct{})
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-hang // its body never ends
	}, func(http.ResponseWriter, *http.Request) { <-hang })
	t.Cleanup(func() { close(hang) })
	began := time.Now()
	_, err := r.post(t, func(_ *config.HTTPTarget, a *v1alpha1.HTTPAction) { a.Timeout.Duration = time.Second })
	g.Expect(err).NotTo(HaveOccurred(), "the answer's head is an answer")
	g.Expect(time.Since(began)).To(BeNumerically(">=", time.Second))

	_, err = r.post(t, func(_ *config.HTTPTarget, a *v1alpha1.HTTPAction) { a.Timeout.Duration, a.Attempts = time.Second, 1 })
	g.Expect(err).To(MatchError(ContainSubstring("Client.Timeout")))
}

func TestWhereAPostDoesNotGo(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, code(200))
	for name, tc := range map[string]struct {
		change func(*config.HTTPTarget, *v1alpha1.HTTPAction)
		want   string
	}{
		"a URL under no target": {func(target *config.HTTPTarget, _ *v1alpha1.HTTPAction) { target.URLPrefix = r.URL + "/other" }, "no HTTP target"},
		"another namespace's":   {func(target *config.HTTPTarget, _ *v1alpha1.HTTPAction) { target.Namespaces = []string{"others"} }, "no HTTP target"},
		"a server of whom it is not known who he is": {func(target *config.HTTPTarget, a *v1alpha1.HTTPAction) {
			target.CAFile, a.Attempts = "", 1
		}, "certificate"},
		"without its headers": {func(target *config.HTTPTarget, a *v1alpha1.HTTPAction) {
			target.HeaderFiles, a.Attempts = map[string]string{"Authorization": "/nowhere"}, 1
		}, "headerFiles: Authorization"},
		"without its authority": {func(target *config.HTTPTarget, _ *v1alpha1.HTTPAction) { target.CAFile = "/nowhere" }, "caFile"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := r.post(t, tc.change)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(tc.want)))
		})
	}
	t.Cleanup(func() { NewWithT(t).Expect(r.requests()).To(BeEmpty()) })
}

func TestHeadersOfThePostCanBeTheAdministrators(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	r := newReceiver(t, code(200))
	kind := filepath.Join(t.TempDir(), "kind")
	g.Expect(os.WriteFile(kind, []byte("application/json"), 0o600)).To(Succeed())
	_, err := r.post(t, func(target *config.HTTPTarget, _ *v1alpha1.HTTPAction) {
		target.HeaderFiles = map[string]string{"Content-Type": kind}
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(r.requests()[0].header.Get("Content-Type")).To(Equal("application/json"))

	secret := filepath.Join(t.TempDir(), "secret")
	g.Expect(os.WriteFile(secret, []byte("two\nlines"), 0o600)).To(Succeed())
	_, err = r.post(t, func(target *config.HTTPTarget, a *v1alpha1.HTTPAction) {
		target.HeaderFiles, a.Attempts = map[string]string{"Authorization": secret}, 1
	})
	g.Expect(err).To(HaveOccurred())
	g.Expect(err.Error()).NotTo(ContainSubstring("lines"), "what is in a file is not told")
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "0": 0, "-1": 0, "soon": 0, "1e3": 0, "99999999999999999999": 0,
		at.Add(time.Minute).Format(http.TimeFormat): time.Minute, at.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		NewWithT(t).Expect(retryAfter(value, at)).To(Equal(want), fmt.Sprintf("%q", value))
	}
}

func TestLongMessagesFitAnEvent(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(cut("short", longestNote)).To(Equal("short"))
	note := fmt.Sprintf("generation %d: %s", uint64(1)<<53, cut(strings.Repeat("ä", 2000), longestNote))
	g.Expect(len(note)).To(BeNumerically("<=", 1024))
	g.Expect(strings.ToValidUTF8(note, "?")).To(Equal(note))
}
