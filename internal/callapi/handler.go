package callapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/util/cache"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// handler answers requests.
type handler struct {
	caller   Caller
	reviewer reviewer
	audience string
	limits   limits
	clock    cache.Clock
	log      logr.Logger

	requests  atomic.Int64
	users     *rates
	reviews   *budget
	tokens    *memory[*authenticationv1.UserInfo]
	rights    *memory[bool]
	doubtsLog rate.Sometimes
}

func newHandler(caller Caller, reviewer reviewer, o Options, l limits, clock cache.Clock, log logr.Logger) *handler {
	return &handler{
		caller: caller, reviewer: reviewer, audience: o.Audience, limits: l, clock: clock, log: log,
		users:     newRates(rate.Limit(o.Rate), o.Burst),
		reviews:   newBudget(l, clock),
		tokens:    newMemory[*authenticationv1.UserInfo](clock, l.review),
		rights:    newMemory[bool](clock, l.review),
		doubtsLog: rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	result, err := h.serve(w, r)
	code := h.answer(w, r, result, err)
	measure(code, time.Since(start))
}

// serve asks in the order of what it costs, and nothing about the Debounce before it is
// known that the caller may call it.
func (h *handler) serve(w http.ResponseWriter, r *http.Request) (result Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = h.failed(fmt.Errorf("panic: %v\n%s", p, debug.Stack()), r)
		}
	}()
	defer h.requests.Add(-1)
	if h.requests.Add(1) > int64(h.limits.requests) {
		return Result{}, tooMany(time.Second, "too many calls are being served: try again")
	}
	namespace, name, err := target(r)
	if err != nil {
		return Result{}, err
	}
	source, sequence, err := identity(r.Header)
	if err != nil {
		return Result{}, err
	}
	token, err := bearer(r.Header)
	if err != nil {
		return Result{}, err
	}
	sum := sha256.Sum256([]byte(token))
	tokenKey := string(sum[:])
	user, err := h.authenticate(r.Context(), origin(r.RemoteAddr), tokenKey, token)
	if err != nil {
		return Result{}, err
	}

	party := h.users.of(user.Username)
	if wait, ok := take(party.limiter, h.clock.Now()); !ok {
		return Result{}, tooMany(wait, "user %q calls more than %v times a second: call less often, or ask the administrator for a higher --call-rate", user.Username, float64(party.limiter.Limit()))
	}
	defer party.requests.Add(-1)
	if party.requests.Add(1) > int64(h.limits.requestsOfOne) {
		return Result{}, tooMany(time.Second, "user %q makes more than %d calls at the same time: wait for their answers", user.Username, h.limits.requestsOfOne)
	}
	if err := h.authorize(r.Context(), tokenKey, user, namespace, name); err != nil {
		return Result{}, err
	}

	body, err := payload(w, r)
	if err != nil {
		return Result{}, err
	}
	call := Call{Namespace: namespace, Name: name, Payload: body, Sequence: sequence}
	if source != "" {
		call.Source = sourceOf(user.Username, source)
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.limits.call)
	defer cancel()
	result, err = h.caller.Call(ctx, call)
	return result, h.explain(ctx, err, call)
}

func (h *handler) authenticate(ctx context.Context, from, key, token string) (*authenticationv1.UserInfo, error) {
	user, err := h.tokens.get(ctx, key, func(ctx context.Context) (*authenticationv1.UserInfo, time.Duration, error) {
		if err := h.reviews.spendOnToken(from, key); err != nil {
			return nil, 0, err
		}
		user, err := h.reviewer.who(ctx, token)
		if user == nil {
			return nil, rememberNo, err
		}
		h.reviews.meet(key)
		return user, remember, err
	})
	switch {
	case err != nil:
		return nil, h.doubt(err)
	case user == nil:
		return nil, unauthorized(h.audience)
	}
	return user, nil
}

// authorize keeps rights by token, not by user: what a token says about its bearer
// besides his name may matter, too.
func (h *handler) authorize(ctx context.Context, tokenKey string, user *authenticationv1.UserInfo, namespace, name string) error {
	may, err := h.rights.get(ctx, tokenKey+namespace+"/"+name, func(ctx context.Context) (bool, time.Duration, error) {
		if err := h.reviews.spendOnRight(user.Username); err != nil {
			return false, 0, err
		}
		may, err := h.reviewer.may(ctx, user, namespace, name)
		if !may {
			return false, rememberNo, err
		}
		return true, remember, err
	})
	switch {
	case err != nil:
		return h.doubt(err)
	case !may:
		return refuse(http.StatusForbidden, reasonForbidden,
			"user %q has not the right to call Debounce %q in namespace %q: it needs a Role there, or a ClusterRole, with verb %q on resource %q of API group %q",
			user.Username, name, namespace, callVerb, callResource+"/"+callSubresource, v1alpha1.GroupName)
	}
	return nil
}

// doubt refuses where it could not be found out who calls, or what he may.
func (h *handler) doubt(err error) error {
	var refused *refusal
	if errors.As(err, &refused) || errors.Is(err, context.Canceled) {
		return err
	}
	h.doubtsLog.Do(func() {
		h.log.Error(err, "Calls are refused: the API server does not say who calls, or whether he may")
	})
	return refuse(http.StatusServiceUnavailable, reasonAPIUnavailable,
		"the API server, which has to say who calls and whether he may, does not answer: try again").after(time.Second)
}

// explain makes an answer of a Caller's error.
func (h *handler) explain(ctx context.Context, err error, call Call) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNotFound):
		return refuse(http.StatusNotFound, reasonNotFound, "there is no Debounce %q in namespace %q", call.Name, call.Namespace)
	case errors.Is(err, ErrInvalid):
		return badRequest("%v", err)
	case errors.Is(err, ErrUnreachable), errors.Is(ctx.Err(), context.DeadlineExceeded):
		h.log.V(1).Info("The store did not answer a call", "namespace", call.Namespace, "name", call.Name, "error", err.Error())
		return refuse(http.StatusServiceUnavailable, reasonStoreUnreachable,
			"the store of this Debounce does not answer, and the call may have been recorded or not: repeat it, with the same %s and %s for it to count once", sourceHeader, sequenceHeader).
			after(time.Second)
	}
	return err
}

// answer writes what became of a request, and returns the status.
func (h *handler) answer(w http.ResponseWriter, r *http.Request, result Result, err error) int {
	var refused *refusal
	switch {
	case err == nil:
		h.write(w, http.StatusAccepted, struct {
			Generation string `json:"generation"`
			Opened     bool   `json:"opened"`
			Repeated   bool   `json:"repeated"`
		}{strconv.FormatUint(result.Generation, 10), result.Opened, result.Repeated})
		return http.StatusAccepted
	case errors.As(err, &refused):
	case r.Context().Err() != nil:
		return codeGone
	default:
		refused = h.failed(err, r)
	}
	maps.Copy(w.Header(), refused.header)
	h.write(w, refused.code, struct {
		Error  string `json:"error"`
		Reason reason `json:"reason"`
	}{refused.text, refused.reason})
	return refused.code
}

// failed keeps to the log what callers cannot help.
func (h *handler) failed(err error, r *http.Request) *refusal {
	h.log.Error(err, "A call failed", "path", r.URL.Path)
	return refuse(http.StatusInternalServerError, reasonInternal, "the call failed; the log of the operator says why")
}

func (h *handler) write(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		h.log.V(1).Info("An answer did not reach its caller", "error", err.Error())
	}
}
