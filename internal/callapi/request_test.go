package callapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

var protocols = map[string]bool{"HTTP/1.1": false, "HTTP/2": true}

func TestThePayloadIsBounded(t *testing.T) {
	t.Parallel()
	s := serve(t)
	namespace, token := newCaller(t)
	for protocol, http2 := range protocols {
		for name, tc := range map[string]struct {
			size int
			code int
		}{
			"nothing":              {size: 0, code: http.StatusAccepted},
			"as much as there may": {size: MaxPayload, code: http.StatusAccepted},
			"a byte more":          {size: MaxPayload + 1, code: http.StatusRequestEntityTooLarge},
			"a megabyte":           {size: 1 << 20, code: http.StatusRequestEntityTooLarge},
		} {
			for _, declared := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %s, declared %v", protocol, name, declared), func(t *testing.T) {
					t.Parallel()
					g := NewWithT(t)
					var body io.Reader = bytes.NewReader(make([]byte, tc.size))
					if !declared {
						body = io.MultiReader(body) // a reader whose length is not known
					}
					a := do(t, newClient(t, http2), newPost(t, s.url(namespace, "settings"), token, body))
					g.Expect(a.Code).To(Equal(tc.code), a.Raw)
					if tc.code == http.StatusRequestEntityTooLarge {
						g.Expect(a.Reason).To(Equal(reasonTooLarge))
						g.Expect(a.Error).To(ContainSubstring(strconv.Itoa(MaxPayload)))
					}
				})
			}
		}
	}
}

func TestAPayloadThatIsDeclaredTooLargeIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace, token := newCaller(t)
	conn := dial(t, s)
	_, err := fmt.Fprintf(conn, "POST /v1/namespaces/%s/debounces/settings/call HTTP/1.1\r\nHost: calls\r\nAuthorization: Bearer %s\r\nContent-Length: 1099511627776\r\n\r\n", namespace, token)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(statusLine(t, conn)).To(HavePrefix("HTTP/1.1 413 "))
}

func TestAPayloadThatIsCutOffIsNoCall(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace, token := newCaller(t)
	conn := dial(t, s)
	_, err := fmt.Fprintf(conn, "POST /v1/namespaces/%s/debounces/settings/call HTTP/1.1\r\nHost: calls\r\nAuthorization: Bearer %s\r\nContent-Length: 10\r\n\r\nhalf", namespace, token)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(conn.CloseWrite()).To(Succeed())
	g.Expect(statusLine(t, conn)).To(HavePrefix("HTTP/1.1 400 "))
	g.Expect(s.calls.got()).To(BeEmpty())
}

func TestAPayloadThatDoesNotEndIsGivenUp(t *testing.T) {
	t.Parallel()
	s := serve(t, func(set *settings) { set.limits.read = 2 * time.Second })
	namespace, token := newCaller(t)
	for protocol, http2 := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			body, more := io.Pipe()
			t.Cleanup(func() { _ = more.Close() })
			go func() { _, _ = more.Write([]byte("half")) }()
			a := do(t, newClient(t, http2), newPost(t, s.url(namespace, "settings"), token, body))
			g.Expect(a.Code).To(Equal(http.StatusRequestTimeout), a.Raw)
			g.Expect(a.Reason).To(Equal(reasonTimeout))
			g.Expect(s.calls.got()).To(BeEmpty())
		})
	}
}

func TestHeadersThatDoNotEndAreGivenUp(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t, func(set *settings) { set.limits.readHeader = 2 * time.Second })
	conn := dial(t, s)
	_, err := io.WriteString(conn, "POST /v1/namespaces/a/debounces/b/call HTTP/1.1\r\nHost: ca")
	g.Expect(err).NotTo(HaveOccurred())
	// It closes the connection, after an answer or without.
	g.Expect(conn.SetReadDeadline(time.Now().Add(patience))).To(Succeed())
	_, err = io.ReadAll(conn)
	g.Expect(err).NotTo(HaveOccurred())
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	conn := dial(t, s)
	_, err := io.WriteString(conn, "POST /v1/namespaces/a/debounces/b/call HTTP/1.1\r\nHost: calls\r\nAuthorization: Bearer "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(statusLine(t, conn)).To(HavePrefix("HTTP/1.1 431 "))
}

func TestWhatIsNoCallIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	namespace, token := newCaller(t)
	good := "/v1/namespaces/" + namespace + "/debounces/settings/call"
	for name, tc := range map[string]struct {
		method, path string
		header       http.Header
		code         int
		reason       reason
	}{
		"the root":                      {path: "/", code: 404, reason: reasonNotFound},
		"another version":               {path: "/v2/namespaces/a/debounces/b/call", code: 404, reason: reasonNotFound},
		"another kind":                  {path: "/v1/namespaces/a/redislocks/b/call", code: 404, reason: reasonNotFound},
		"another verb":                  {path: "/v1/namespaces/a/debounces/b/run", code: 404, reason: reasonNotFound},
		"a slash at the end":            {path: good + "/", code: 404, reason: reasonNotFound},
		"a slash too many":              {path: "/" + good, code: 404, reason: reasonNotFound},
		"an escaped slash in the name":  {path: "/v1/namespaces/" + namespace + "/debounces/a%2Fcall", code: 404, reason: reasonNotFound},
		"a folder upwards":              {path: "/v1/namespaces/x/../" + namespace + "/debounces/settings/call", code: 404, reason: reasonNotFound},
		"no namespace":                  {path: "/v1/namespaces//debounces/settings/call", code: 400, reason: reasonBadRequest},
		"a namespace with a dot":        {path: "/v1/namespaces/a.b/debounces/settings/call", code: 400, reason: reasonBadRequest},
		"a namespace that goes upwards": {path: "/v1/namespaces/../debounces/settings/call", code: 400, reason: reasonBadRequest},
		"no name":                       {path: "/v1/namespaces/" + namespace + "/debounces//call", code: 400, reason: reasonBadRequest},
		"a name in capitals":            {path: "/v1/namespaces/" + namespace + "/debounces/Settings/call", code: 400, reason: reasonBadRequest},
		"a name with a line break":      {path: "/v1/namespaces/" + namespace + "/debounces/a%0Ab/call", code: 400, reason: reasonBadRequest},
		"a name that is too long":       {path: "/v1/namespaces/" + namespace + "/debounces/" + strings.Repeat("a", 254) + "/call", code: 400, reason: reasonBadRequest},
		"a payload in the query":        {path: good + "?payload=x", code: 400, reason: reasonBadRequest},
		"a GET":                         {method: http.MethodGet, path: good, code: 405, reason: reasonMethodNotAllowed},
		"a PUT":                         {method: http.MethodPut, path: good, code: 405, reason: reasonMethodNotAllowed},
		"a HEAD":                        {method: http.MethodHead, path: good, code: 405},
		"the OPTIONS of a browser":      {method: http.MethodOptions, path: good, code: 405, reason: reasonMethodNotAllowed},
		"a source alone":                {path: good, header: http.Header{sourceHeader: {"a"}}, code: 400, reason: reasonBadRequest},
		"a sequence alone":              {path: good, header: http.Header{sequenceHeader: {"1"}}, code: 400, reason: reasonBadRequest},
		"an empty source":               {path: good, header: http.Header{sourceHeader: {""}, sequenceHeader: {"1"}}, code: 400, reason: reasonBadRequest},
		"two sources":                   {path: good, header: http.Header{sourceHeader: {"a", "b"}, sequenceHeader: {"1"}}, code: 400, reason: reasonBadRequest},
		"two sequences":                 {path: good, header: http.Header{sourceHeader: {"a"}, sequenceHeader: {"1", "2"}}, code: 400, reason: reasonBadRequest},
		"a source that is too long":     {path: good, header: http.Header{sourceHeader: {strings.Repeat("a", maxSource+1)}, sequenceHeader: {"1"}}, code: 400, reason: reasonBadRequest},
		"a source that is no UTF-8":     {path: good, header: http.Header{sourceHeader: {"\xff"}, sequenceHeader: {"1"}}, code: 400, reason: reasonBadRequest},
		"sequence 0":                    {path: good, header: http.Header{sourceHeader: {"a"}, sequenceHeader: {"0"}}, code: 400, reason: reasonBadRequest},
		"a negative sequence":           {path: good, header: http.Header{sourceHeader: {"a"}, sequenceHeader: {"-1"}}, code: 400, reason: reasonBadRequest},
		"a sequence in words":           {path: good, header: http.Header{sourceHeader: {"a"}, sequenceHeader: {"one"}}, code: 400, reason: reasonBadRequest},
		"a sequence Redis cannot count": {path: good, header: http.Header{sourceHeader: {"a"}, sequenceHeader: {"9007199254740992"}}, code: 400, reason: reasonBadRequest},
		"the largest sequence":          {path: good, header: http.Header{sourceHeader: {"a"}, sequenceHeader: {"9007199254740991"}}, code: 202},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			r := newPost(t, "https://"+s.Address()+tc.path, token, nil)
			maps.Copy(r.Header, tc.header)
			if tc.method != "" {
				r.Method = tc.method
			}
			a := do(t, s.client, r)
			g.Expect(a.Code).To(Equal(tc.code), a.Raw)
			g.Expect(a.Reason).To(Equal(tc.reason))
			if tc.code == http.StatusMethodNotAllowed {
				g.Expect(a.Header.Get("Allow")).To(Equal("POST"))
			}
			if tc.code >= 400 && tc.method != http.MethodHead {
				g.Expect(a.Error).NotTo(BeEmpty())
			}
		})
	}
}

func TestOptionsOfTheWholeServerAreNone(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	conn := dial(t, s)
	_, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: calls\r\n\r\n")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(statusLine(t, conn)).To(HavePrefix("HTTP/1.1 404 "))
}

func TestWhatACallerFailsWithIsToldAsFarAsItConcernsTheCaller(t *testing.T) {
	t.Parallel()
	namespace, token := newCaller(t)
	for name, tc := range map[string]struct {
		err    error
		panics any
		code   int
		reason reason
		text   string
		retry  bool
	}{
		"no such Debounce":   {err: fmt.Errorf("looking: %w", ErrNotFound), code: 404, reason: reasonNotFound, text: `no Debounce "settings"`},
		"an invalid call":    {err: fmt.Errorf("%w: the key is not allowed here", ErrInvalid), code: 400, reason: reasonBadRequest, text: "the key is not allowed here"},
		"no store":           {err: fmt.Errorf("%w: dial tcp 10.1.2.3", ErrUnreachable), code: 503, reason: reasonStoreUnreachable, text: "repeat it", retry: true},
		"something else":     {err: errors.New("10.1.2.3 is wrong"), code: 500, reason: reasonInternal, text: "log of the operator"},
		"a defect":           {panics: "10.1.2.3 is nil", code: 500, reason: reasonInternal, text: "log of the operator"},
		"a call that hangs":  {code: 503, reason: reasonStoreUnreachable, text: "repeat it", retry: true},
		"an own bound of it": {err: context.DeadlineExceeded, code: 500, reason: reasonInternal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			s := serve(t, func(set *settings) {
				if tc.err == nil && tc.panics == nil {
					set.limits.call = 50 * time.Millisecond
				}
				set.calls.answer = func(ctx context.Context, _ Call) (Result, error) {
					if tc.panics != nil {
						panic(tc.panics)
					}
					if tc.err != nil {
						return Result{}, tc.err
					}
					<-ctx.Done()
					return Result{}, ctx.Err()
				}
			})
			a := s.post(t, namespace, "settings", token)
			g.Expect(a.Code).To(Equal(tc.code), a.Raw)
			g.Expect(a.Reason).To(Equal(tc.reason))
			g.Expect(a.Error).To(ContainSubstring(tc.text))
			g.Expect(a.Error).NotTo(ContainSubstring("10.1.2.3"), "addresses of stores are nobody's business")
			if tc.retry {
				g.Expect(a.Header).To(HaveKey("Retry-After"))
			} else {
				g.Expect(a.Header).NotTo(HaveKey("Retry-After"))
			}
		})
	}
}

func TestSourcesOfUsersAreApart(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(sourceOf("alice", "ci")).To(Equal("alice/ci"))
	long := strings.Repeat("u", 5000)
	g.Expect(sourceOf(long+"1", "ci")).NotTo(Equal(sourceOf(long+"2", "ci")))
	g.Expect(len(sourceOf(long, strings.Repeat("s", maxSource)))).To(BeNumerically("<=", 512))
	account := userName(strings.Repeat("n", 63), strings.Repeat("a", 253))
	g.Expect(sourceOf(account, "ci")).To(HavePrefix(account))
	g.Expect(len(sourceOf(account, strings.Repeat("s", maxSource)))).To(BeNumerically("<=", 512))
}

// dial opens a connection of HTTP/1.1 to write into by hand.
func dial(t *testing.T, s *stand) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Address(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func statusLine(t *testing.T, conn *tls.Conn) string {
	t.Helper()
	g := NewWithT(t)
	g.Expect(conn.SetReadDeadline(time.Now().Add(patience))).To(Succeed())
	line := make([]byte, len("HTTP/1.1 200 "))
	_, err := io.ReadFull(conn, line)
	g.Expect(err).NotTo(HaveOccurred())
	return string(line)
}
