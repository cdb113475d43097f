package callapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/clock"
)

// stubReviewer knows two tokens: whose bearer may call what is in namespace shop, and
// whose may nothing. A fuzz test has no time for an API server.
type stubReviewer struct{}

func (stubReviewer) who(_ context.Context, token string) (*authenticationv1.UserInfo, error) {
	switch token {
	case "good", "other":
		return &authenticationv1.UserInfo{Username: token}, nil
	case "doubt":
		return nil, errors.New("no answer")
	}
	return nil, nil
}

func (stubReviewer) may(_ context.Context, user *authenticationv1.UserInfo, namespace, _ string) (bool, error) {
	return user.Username == "good" && namespace == "shop", nil
}

// FuzzRequest throws requests at the handler. Whatever they are, the answer is one of
// those that are documented, in JSON, and a call is made only for who may, of what the
// path says, with what the body says.
func FuzzRequest(f *testing.F) {
	const path = "/v1/namespaces/shop/debounces/settings/call"
	for _, seed := range []struct{ head, body string }{
		{"POST " + path + " HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\n", "payload"},
		{"POST " + path + " HTTP/1.1\r\nHost: a\r\nAuthorization: bearer  good\r\nRedislock-Source: a\r\nRedislock-Sequence: 1\r\n", ""},
		{"POST " + path + " HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer other\r\n", "x"},
		{"POST " + path + " HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer doubt\r\n", "x"},
		{"POST " + path + " HTTP/1.1\r\nHost: a\r\nAuthorization: Basic good\r\n", "x"},
		{"POST " + path + "?a=b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\n", "x"},
		{"POST http://b" + path + " HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\n", "x"},
		{"POST /v1/namespaces/shop/debounces/%2e%2e/call HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\n", "x"},
		{"GET " + path + " HTTP/1.1\r\nHost: a\r\n", ""},
		{"OPTIONS * HTTP/1.1\r\nHost: a\r\n", ""},
		{"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n", ""},
		{"POST " + path + " HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\nTransfer-Encoding: chunked\r\n", "7\r\npayload\r\n0\r\n\r\n"},
		{"POST " + path + " HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\nContent-Length: 65537\r\n", "x"},
	} {
		f.Add(seed.head, seed.body)
	}
	calls := &recorder{}
	options := Options{Audience: DefaultAudience, Rate: 1e9, Burst: 1e9}
	unlimited := defaultLimits
	unlimited.reviews, unlimited.reviewsOfOne = 1e9, 1e9
	unlimited.reviewsBurst, unlimited.reviewsOfOneBurst = 1e9, 1e9
	h := newHandler(calls, stubReviewer{}, options, unlimited, clock.RealClock{}, logr.Discard())
	codes := map[int]reason{
		202: "", 400: reasonBadRequest, 401: reasonUnauthorized, 403: reasonForbidden, 404: reasonNotFound,
		405: reasonMethodNotAllowed, 413: reasonTooLarge, 503: reasonAPIUnavailable,
	}
	f.Fuzz(func(t *testing.T, head, body string) {
		if !strings.Contains(strings.ToLower(head), "content-length") && !strings.Contains(strings.ToLower(head), "transfer-encoding") {
			head += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n"
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head + "\r\n" + body)))
		if err != nil {
			return
		}
		r.RemoteAddr = "192.0.2.1:1234"
		calls.mu.Lock()
		calls.calls = nil
		calls.mu.Unlock()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)

		var a answer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatalf("no JSON: %s", w.Body)
		}
		reason, known := codes[w.Code]
		if !known || a.Reason != reason || (a.Error == "") != (w.Code == http.StatusAccepted) {
			t.Fatalf("answered %d %s", w.Code, w.Body)
		}
		got := calls.got()
		if w.Code != http.StatusAccepted {
			if len(got) != 0 {
				t.Fatalf("answered %d, and called", w.Code)
			}
			return
		}
		if len(got) != 1 {
			t.Fatalf("accepted, and called %d times", len(got))
		}
		call := got[0]
		fields := strings.Fields(r.Header.Get("Authorization"))
		switch {
		case r.Method != http.MethodPost, len(fields) != 2, fields[1] != "good", call.Namespace != "shop":
			t.Fatalf("let in: %q", head)
		case validation.IsDNS1123Subdomain(call.Name) != nil, !slices.Contains(strings.Split(r.URL.Path, "/"), call.Name):
			t.Fatalf("called %q for %q", call.Name, r.URL.Path)
		case len(call.Payload) > MaxPayload, !strings.Contains(strings.ToLower(head), "transfer-encoding") && !bytes.HasPrefix([]byte(body), call.Payload):
			t.Fatalf("payload %q of body %q", call.Payload, body)
		case len(call.Source) > 512, (call.Source == "") != (call.Sequence == 0), call.Source != "" && !strings.HasPrefix(call.Source, "good/"), call.Sequence > maxSequence:
			t.Fatalf("source %q, sequence %d", call.Source, call.Sequence)
		}
	})
}
