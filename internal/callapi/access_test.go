package callapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWhoMayCallsADebounce(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t, func(set *settings) {
		set.calls.answer = func(context.Context, Call) (Result, error) {
			return Result{Generation: 1234567890123456789, Opened: true}, nil
		}
	})
	namespace, token := newCaller(t)
	r := newPost(t, s.url(namespace, "settings.v1"), token, strings.NewReader("a\x00b"))
	r.Header.Set("Redislock-Source", "shop/1")
	r.Header.Set("Redislock-Sequence", "7")
	a := do(t, s.client, r)
	g.Expect(a.Code).To(Equal(http.StatusAccepted), a.Raw)
	g.Expect(a.Raw).To(MatchJSON(`{"generation": "1234567890123456789", "opened": true, "repeated": false}`))
	g.Expect(s.calls.got()).To(Equal([]Call{{
		Namespace: namespace, Name: "settings.v1", Payload: []byte("a\x00b"),
		Source: userName(namespace, "caller") + "/shop/1", Sequence: 7,
	}}))
}

func TestWhoCannotSayWhoHeIsIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	namespace, good := newCaller(t)
	account, err := admin(t).CoreV1().ServiceAccounts(namespace).Get(t.Context(), "caller", metav1.GetOptions{})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	for name, tc := range map[string]struct {
		authorization string
		invalid       bool
	}{
		"nothing":                     {},
		"another scheme":              {authorization: "Basic Y2FsbGVyOmNhbGxlcg=="},
		"no token":                    {authorization: "Bearer"},
		"an empty token":              {authorization: "Bearer "},
		"two tokens":                  {authorization: "Bearer " + good + ", Bearer " + good},
		"a token that was made up":    {authorization: "Bearer made-up", invalid: true},
		"a token for the API server":  {authorization: "Bearer " + newToken(t, namespace, "caller"), invalid: true},
		"a token for another service": {authorization: "Bearer " + newToken(t, namespace, "caller", "vault"), invalid: true},
		"a token that has expired":    {authorization: "Bearer " + signToken(t, account, time.Now().Add(-time.Minute)), invalid: true},
		"a token with another signature": {
			authorization: "Bearer " + good[:strings.LastIndexByte(good, '.')+1] + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), invalid: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			r := newPost(t, s.url(namespace, "settings"), "", nil)
			if tc.authorization != "" {
				r.Header.Set("Authorization", tc.authorization)
			}
			a := do(t, s.client, r)
			g.Expect(a.Code).To(Equal(http.StatusUnauthorized), a.Raw)
			g.Expect(a.Reason).To(Equal(reasonUnauthorized))
			g.Expect(a.Header.Get("WWW-Authenticate")).To(HavePrefix("Bearer "))
			if tc.invalid {
				g.Expect(a.Header.Get("WWW-Authenticate")).To(ContainSubstring("invalid_token"))
				g.Expect(a.Error).To(ContainSubstring(DefaultAudience))
			}
			g.Expect(s.calls.got()).To(BeEmpty())
		})
	}
	t.Run("and the same in order is not", func(t *testing.T) {
		t.Parallel()
		other := serve(t)
		NewWithT(t).Expect(other.post(t, namespace, "settings", signToken(t, account, time.Now().Add(time.Hour))).Code).To(Equal(http.StatusAccepted))
	})
}

func TestTheAudienceIsTheAdministrators(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t, func(set *settings) { set.options.Audience = "calls.example.com" })
	namespace, token := newCaller(t)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusUnauthorized))
	both := newToken(t, namespace, "caller", "calls.example.com", DefaultAudience)
	g.Expect(s.post(t, namespace, "settings", both).Code).To(Equal(http.StatusAccepted))
}

func TestTwoAuthorizationHeadersAreRefused(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace, token := newCaller(t)
	r := newPost(t, s.url(namespace, "settings"), token, nil)
	r.Header.Add("Authorization", "Bearer made-up")
	a := do(t, s.client, r)
	g.Expect(a.Code).To(Equal(http.StatusBadRequest), a.Raw)
}

func TestWhoMayNotCallLearnsWhichRightHeNeedsAndNothingElse(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t, func(set *settings) {
		set.calls.answer = func(context.Context, Call) (Result, error) { return Result{}, ErrNotFound }
	})
	namespace := newNamespace(t)
	newAccount(t, namespace, "stranger")
	token := newToken(t, namespace, "stranger", DefaultAudience)
	a := s.post(t, namespace, "settings", token)
	g.Expect(a.Code).To(Equal(http.StatusForbidden), a.Raw)
	g.Expect(a.Reason).To(Equal(reasonForbidden))
	for _, part := range []string{userName(namespace, "stranger"), `verb "create"`, `"debounces/call"`, `"redislock.io"`, `"settings"`, namespace} {
		g.Expect(a.Error).To(ContainSubstring(part))
	}
	g.Expect(s.calls.got()).To(BeEmpty(), "whether the Debounce exists must not matter")

	_, other := newCaller(t)
	g.Expect(s.post(t, namespace, "settings", other).Code).To(Equal(http.StatusForbidden), "the right is one in another namespace")
}

func TestARightMayBeForOneDebounceOnly(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace := newNamespace(t)
	newAccount(t, namespace, "limited")
	grant(t, namespace, "limited", "settings")
	token := newToken(t, namespace, "limited", DefaultAudience)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
	g.Expect(s.post(t, namespace, "settings2", token).Code).To(Equal(http.StatusForbidden))
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
}

func TestARightThatIsTakenAwayHoldsForSecondsOnly(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace, token := newCaller(t)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
	g.Expect(admin(t).RbacV1().RoleBindings(namespace).Delete(t.Context(), "caller", metav1.DeleteOptions{})).To(Succeed())
	waitForRight(t, namespace, "caller", "settings", false)
	s.step(remember - time.Second)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
	s.step(2 * time.Second)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusForbidden))
}

func TestATokenOfAnAccountThatIsGoneHoldsForSecondsOnly(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace, token := newCaller(t)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
	g.Expect(admin(t).CoreV1().ServiceAccounts(namespace).Delete(t.Context(), "caller", metav1.DeleteOptions{})).To(Succeed())
	// The API server has a memory of its own.
	g.Eventually(func() int {
		s.step(remember + time.Second)
		return s.post(t, namespace, "settings", token).Code
	}).WithTimeout(patience).Should(Equal(http.StatusUnauthorized))
}

func TestARefusalHoldsForLessLongThanARight(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace := newNamespace(t)
	newAccount(t, namespace, "late")
	token := newToken(t, namespace, "late", DefaultAudience)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusForbidden))
	grant(t, namespace, "late")
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusForbidden))
	s.step(rememberNo + time.Millisecond)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
}

func TestManyCallsAskTheAPIServerOnce(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace, token := newCaller(t)
	var wg sync.WaitGroup
	codes := make(chan int, 50)
	for range cap(codes) {
		wg.Go(func() {
			codes <- do(t, s.client, newPost(t, s.url(namespace, "settings"), token, nil)).Code
		})
	}
	wg.Wait()
	close(codes)
	for code := range codes {
		g.Expect(code).To(Equal(http.StatusAccepted))
	}
	g.Expect(s.reviews.tokens()).To(Equal(1))
	g.Expect(s.reviews.rights()).To(Equal(1))
	g.Expect(s.calls.got()).To(HaveLen(50))
}

// signToken makes a token as the API server does, which makes none for a time that is
// over.
func signToken(t *testing.T, account *corev1.ServiceAccount, expires time.Time) string {
	t.Helper()
	g := NewWithT(t)
	data, err := os.ReadFile(filepath.Join(shared.Get(t).Dir(), "pki", "sa.key"))
	g.Expect(err).NotTo(HaveOccurred())
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	g.Expect(err).NotTo(HaveOccurred())
	part := func(v any) string {
		data, err := json.Marshal(v)
		g.Expect(err).NotTo(HaveOccurred())
		return base64.RawURLEncoding.EncodeToString(data)
	}
	begin := expires.Add(-time.Hour).Unix()
	signed := part(map[string]string{"alg": "ES256", "typ": "JWT"}) + "." + part(map[string]any{
		"iss": "https://kubernetes.default.svc.cluster.local", "aud": []string{DefaultAudience}, "sub": userName(account.Namespace, account.Name),
		"iat": begin, "nbf": begin, "exp": expires.Unix(),
		"kubernetes.io": map[string]any{
			"namespace": account.Namespace, "serviceaccount": map[string]string{"name": account.Name, "uid": string(account.UID)},
		},
	})
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), sum[:])
	g.Expect(err).NotTo(HaveOccurred())
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}
