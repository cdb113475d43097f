package controllers

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/redisconn"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	firstPostPause   = time.Second
	longestPostPause = time.Minute
	// mostOfAnswer is what of an answer's body is read, for the connection to be used
	// again.
	mostOfAnswer = 64 << 10
)

// post sends a run's payload to a URL. The generation is the idempotency key of all
// tries, whoever makes them.
func (r *DebounceReconciler) post(ctx context.Context, d *v1alpha1.Debounce, a *v1alpha1.HTTPAction, run redislock.DebounceRun) (string, error) {
	target, ok := r.Config.HTTPTarget(d.Namespace, a.URL)
	if !ok {
		return "", errors.New("the operator's configuration has no HTTP target under which the URL lies")
	}
	transport, err := transportTo(target)
	if err != nil {
		return "", err
	}
	defer transport.CloseIdleConnections()
	sender := &http.Client{
		Transport: transport, Timeout: duration(a.Timeout, v1alpha1.DefaultHTTPTimeout),
		// A redirection may lead where the administrator allowed nobody to go.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	attempts := int(a.Attempts)
	if attempts == 0 {
		attempts = v1alpha1.DefaultHTTPAttempts
	}
	pause := firstPostPause
	for n := 1; ; n++ {
		code, after, err := postOnce(ctx, sender, target, d, a, run)
		switch {
		case err == nil && code/100 == 2:
			return fmt.Sprintf("answered with %d at try %d", code, n), nil
		case err == nil && !worthAnother(code):
			return "", fmt.Errorf("answered with %d %s", code, http.StatusText(code))
		case err == nil:
			err = fmt.Errorf("answered with %d %s", code, http.StatusText(code))
		}
		if n == attempts || ctx.Err() != nil {
			return "", fmt.Errorf("%w, at try %d", err, n)
		}
		if err := sleep(ctx, max(pause, min(after, longestPostPause))); err != nil {
			return "", err
		}
		pause = min(2*pause, longestPostPause)
	}
}

// postOnce returns the code of the answer, and after what time it asks to be tried again.
func postOnce(ctx context.Context, sender *http.Client, target *config.HTTPTarget, d *v1alpha1.Debounce, a *v1alpha1.HTTPAction, run redislock.DebounceRun) (int, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.URL, bytes.NewReader(run.Payload))
	if err != nil {
		return 0, 0, err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("User-Agent", "redislock-operator")
	for name, file := range target.HeaderFiles {
		value, err := redisconn.Named("headerFiles: "+name, file).ReadLine()
		if err != nil {
			return 0, 0, err
		}
		req.Header.Set(name, value)
	}
	req.Header.Set("Idempotency-Key", strconv.FormatUint(run.Generation, 10))
	req.Header.Set(v1alpha1.DebounceHeader, d.Namespace+"/"+d.Name)
	req.Header.Set(v1alpha1.DebounceCallsHeader, strconv.Itoa(run.Calls))
	res, err := sender.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.CopyN(io.Discard, res.Body, mostOfAnswer)
	return res.StatusCode, retryAfter(res.Header.Get("Retry-After"), time.Now()), nil
}

// retryAfter reads the header of this name, seconds or a date.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

func transportTo(target *config.HTTPTarget) (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if target.CAFile != "" {
		if err := (redisconn.TLS{CA: redisconn.Named("caFile", target.CAFile)}).Apply(transport.TLSClientConfig); err != nil {
			return nil, err
		}
	}
	return transport, nil
}

// worthAnother says whether another try may be answered otherwise.
func worthAnother(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return code >= 500
}
