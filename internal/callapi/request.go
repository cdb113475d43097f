package callapi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	sourceHeader   = "Redislock-Source"
	sequenceHeader = "Redislock-Sequence"

	pathForm = "/v1/namespaces/{namespace}/debounces/{name}/call"

	// maxSource and maxUser keep what a Caller gets as the source below 512 bytes. The
	// names of all service accounts are shorter than maxUser.
	maxSource = 128
	maxUser   = 360
	// maxSequence is the largest number that Redis' scripts count to exactly.
	maxSequence = 1<<53 - 1
)

// target reads what is called from the path. Nothing is decoded: no valid name has a
// character that needs to be.
func target(r *http.Request) (namespace, name string, err error) {
	parts := strings.Split(r.URL.EscapedPath(), "/")
	if len(parts) != 7 || parts[0] != "" || parts[1] != "v1" || parts[2] != "namespaces" || parts[4] != "debounces" || parts[6] != "call" {
		return "", "", refuse(http.StatusNotFound, reasonNotFound, "nothing is served here: the path of a call is %s", pathForm)
	}
	if r.Method != http.MethodPost {
		return "", "", refuse(http.StatusMethodNotAllowed, reasonMethodNotAllowed, "a call is a POST").with("Allow", http.MethodPost)
	}
	namespace, name = parts[3], parts[5]
	if problems := validation.IsDNS1123Label(namespace); problems != nil {
		return "", "", badRequest("the path %s has no valid namespace: %s", pathForm, problems[0])
	}
	if problems := validation.IsDNS1123Subdomain(name); problems != nil {
		return "", "", badRequest("the path %s has no valid name of a Debounce: %s", pathForm, problems[0])
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return "", "", badRequest("a call has no query parameters: its payload is the body")
	}
	return namespace, name, nil
}

// identity reads the caller's own identity of the call, if he gave one.
func identity(h http.Header) (source string, sequence uint64, err error) {
	sources, sequences := h.Values(sourceHeader), h.Values(sequenceHeader)
	switch {
	case len(sources) == 0 && len(sequences) == 0:
		return "", 0, nil
	case len(sources) != 1 || len(sequences) != 1:
		return "", 0, badRequest("give %s and %s once each, or neither", sourceHeader, sequenceHeader)
	}
	source = sources[0]
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	if source == "" || len(source) > maxSource || !utf8.ValidString(source) || strings.ContainsFunc(source, unprintable) {
		return "", 0, badRequest("%s must be 1 to %d bytes of printable UTF-8", sourceHeader, maxSource)
	}
	sequence, err = strconv.ParseUint(sequences[0], 10, 64)
	if err != nil || sequence == 0 || sequence > maxSequence {
		return "", 0, badRequest("%s must be a number from 1 to %d, higher for each new call of the source", sequenceHeader, uint64(maxSequence))
	}
	return source, sequence, nil
}

// sourceOf names a source of a user. Those of others cannot be guessed into it: a user
// who knew what another calls his source could otherwise have his calls dropped as
// repeated.
func sourceOf(user, source string) string {
	if len(user) > maxUser {
		sum := sha256.Sum256([]byte(user))
		user = "sha256:" + hex.EncodeToString(sum[:])
	}
	return user + "/" + source
}

// payload reads the body.
func payload(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := refuse(http.StatusRequestEntityTooLarge, reasonTooLarge, "the payload is larger than %d bytes: send less, such as the name of what changed", MaxPayload)
	if r.ContentLength > MaxPayload {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxPayload))
	var larger *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &larger):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(http.StatusRequestTimeout, reasonTimeout, "the payload took too long to arrive").with("Connection", "close")
	}
	return nil, badRequest("the payload did not arrive: %v", err)
}

// bearer reads the token.
func bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	switch len(values) {
	case 0:
		return "", unauthorized("")
	case 1:
	default:
		return "", badRequest("there is more than one Authorization header")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.TrimLeft(token, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" || strings.ContainsAny(token, " \t,") {
		return "", unauthorized("")
	}
	return token, nil
}

func unauthorized(audience string) *refusal {
	const challenge = `Bearer realm="redislock"`
	if audience == "" {
		return refuse(http.StatusUnauthorized, reasonUnauthorized, "send a token of this cluster, as the header \"Authorization: Bearer TOKEN\"").
			with("WWW-Authenticate", challenge)
	}
	return refuse(http.StatusUnauthorized, reasonUnauthorized,
		"the token is not one of this cluster, has expired, or was not made for the audience %q: "+
			"mount one by a projected serviceAccountToken volume with that audience, or make one with kubectl create token --audience=%s", audience, audience).
		with("WWW-Authenticate", challenge+`, error="invalid_token"`)
}
