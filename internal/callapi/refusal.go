package callapi

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// reason is a refusal's for programs.
type reason string

const (
	reasonBadRequest       reason = "BadRequest"
	reasonUnauthorized     reason = "Unauthorized"
	reasonForbidden        reason = "Forbidden"
	reasonNotFound         reason = "NotFound"
	reasonMethodNotAllowed reason = "MethodNotAllowed"
	reasonTimeout          reason = "RequestTimeout"
	reasonTooLarge         reason = "TooLarge"
	reasonTooManyRequests  reason = "TooManyRequests"
	reasonInternal         reason = "InternalError"
	reasonAPIUnavailable   reason = "APIServerUnavailable"
	reasonStoreUnreachable reason = "StoreUnreachable"
)

// codeGone counts requests whose caller went away before the answer; nothing is sent.
const codeGone = 499

// refusal is an answer that is none of success. Its text says what to change.
type refusal struct {
	code       int
	reason     reason
	text       string
	header     http.Header
	retryAfter time.Duration
}

func (r *refusal) Error() string { return r.text }

func refuse(code int, reason reason, format string, args ...any) *refusal {
	return &refusal{code: code, reason: reason, text: fmt.Sprintf(format, args...)}
}

func (r *refusal) with(name, value string) *refusal {
	if r.header == nil {
		r.header = http.Header{}
	}
	r.header.Set(name, value)
	return r
}

// after tells when to try again.
func (r *refusal) after(wait time.Duration) *refusal {
	r.retryAfter = max(wait, time.Second)
	// Rounded up: earlier is in vain.
	seconds := int64((r.retryAfter + time.Second - 1) / time.Second)
	return r.with("Retry-After", strconv.FormatInt(seconds, 10))
}

func tooMany(wait time.Duration, format string, args ...any) *refusal {
	return refuse(http.StatusTooManyRequests, reasonTooManyRequests, format, args...).after(wait)
}

func badRequest(format string, args ...any) *refusal {
	return refuse(http.StatusBadRequest, reasonBadRequest, format, args...)
}
