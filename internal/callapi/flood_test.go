package callapi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/time/rate"
)

func TestWhoCallsTooOftenHindersNobodyElse(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t, func(set *settings) { set.options.Rate, set.options.Burst = 0.5, 3 })
	namespace, token := newCaller(t)
	others, other := newCaller(t)
	for range 3 {
		g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
	}
	a := s.post(t, namespace, "settings", token)
	g.Expect(a.Code).To(Equal(http.StatusTooManyRequests), a.Raw)
	g.Expect(a.Reason).To(Equal(reasonTooManyRequests))
	g.Expect(a.Header.Get("Retry-After")).To(Equal("2"))
	g.Expect(s.post(t, namespace, "settings", newToken(t, namespace, "caller", DefaultAudience)).Code).
		To(Equal(http.StatusTooManyRequests), "another token is no other user")
	g.Expect(s.post(t, others, "settings", other).Code).To(Equal(http.StatusAccepted))

	wait, err := strconv.Atoi(a.Header.Get("Retry-After"))
	g.Expect(err).NotTo(HaveOccurred())
	s.step(time.Duration(wait) * time.Second)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
}

func TestAFloodOfMadeUpTokensNeitherReachesTheAPIServerNorHindersWhoHasCalledBefore(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	const burst = 5
	s := serve(t, func(set *settings) { set.limits.reviewsOfOne, set.limits.reviewsOfOneBurst = rate.Limit(0.001), burst })
	namespace, token := newCaller(t)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
	codes := map[int]int{}
	for i := range 30 {
		a := s.post(t, namespace, "settings", fmt.Sprintf("made-up-%d", i))
		codes[a.Code]++
		if a.Code == http.StatusTooManyRequests {
			g.Expect(a.Header.Get("Retry-After")).NotTo(BeEmpty())
		}
	}
	g.Expect(codes).To(Equal(map[int]int{http.StatusUnauthorized: burst - 1, http.StatusTooManyRequests: 30 - burst + 1}))
	g.Expect(s.reviews.tokens()).To(Equal(burst))
	// All come from one address here, and nothing is remembered any more.
	s.step(remember + time.Second)
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
	g.Expect(s.reviews.tokens()).To(Equal(burst + 1))
}

func TestTheSameWrongTokenIsReviewedOnce(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace := newNamespace(t)
	for range 20 {
		g.Expect(s.post(t, namespace, "settings", "made-up").Code).To(Equal(http.StatusUnauthorized))
	}
	g.Expect(s.reviews.tokens()).To(Equal(1))
}

func TestRequestsWithoutATokenCostNoReview(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	for range 20 {
		g.Expect(s.post(t, "any", "settings", "").Code).To(Equal(http.StatusUnauthorized))
	}
	g.Expect(s.reviews.tokens()).To(BeZero())
}

func TestWhoCallsAllKindsOfNamesHindersNobodyElse(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	const burst = 5
	s := serve(t, func(set *settings) { set.limits.reviewsOfOne, set.limits.reviewsOfOneBurst = rate.Limit(0.001), burst })
	namespace := newNamespace(t)
	newAccount(t, namespace, "curious")
	newAccount(t, namespace, "second")
	curious, second := newToken(t, namespace, "curious", DefaultAudience), newToken(t, namespace, "second", DefaultAudience)
	others, other := newCaller(t)
	codes := map[int]int{}
	for i := range 20 {
		codes[s.post(t, namespace, fmt.Sprintf("settings-%d", i), curious).Code]++
	}
	g.Expect(codes).To(Equal(map[int]int{http.StatusForbidden: burst, http.StatusTooManyRequests: 20 - burst}))
	g.Expect(s.reviews.rights()).To(Equal(burst))
	g.Expect(s.post(t, namespace, "settings", second).Code).To(Equal(http.StatusTooManyRequests), "another account of the namespace is the same tenant")
	g.Expect(s.post(t, others, "settings", other).Code).To(Equal(http.StatusAccepted))
}

func TestWhatTheAPIServerIsAskedIsBoundedInAll(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t, func(set *settings) { set.limits.reviews, set.limits.reviewsBurst = rate.Limit(0.001), 2 })
	for i, want := range []int{http.StatusUnauthorized, http.StatusUnauthorized, http.StatusTooManyRequests} {
		g.Expect(s.post(t, "any", "settings", fmt.Sprintf("made-up-%d", i)).Code).To(Equal(want))
	}
	g.Expect(s.reviews.tokens()).To(Equal(2))
}

func TestCallsAtTheSameTimeAreBounded(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	hold := make(chan struct{})
	s := serve(t, func(set *settings) {
		set.limits.requests, set.limits.requestsOfOne = 3, 2
		set.calls.answer = func(ctx context.Context, call Call) (Result, error) {
			if call.Name != "slow" {
				return Result{Generation: 1}, nil
			}
			select {
			case <-hold:
				return Result{Generation: 1}, nil
			case <-ctx.Done():
				return Result{}, ctx.Err()
			}
		}
	})
	namespace, token := newCaller(t)
	others, other := newCaller(t)
	var wg sync.WaitGroup
	slow := func(namespace, token string) {
		wg.Go(func() {
			if a := s.post(t, namespace, "slow", token); a.Code != http.StatusAccepted {
				t.Errorf("a call that was begun was answered %d: %s", a.Code, a.Raw)
			}
		})
	}
	slow(namespace, token)
	slow(namespace, token)
	g.Eventually(s.calls.got).WithTimeout(patience).Should(HaveLen(2))
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusTooManyRequests))
	g.Expect(s.post(t, others, "settings", other).Code).To(Equal(http.StatusAccepted))

	slow(others, other)
	g.Eventually(func() int { return len(s.calls.got()) }).WithTimeout(patience).Should(Equal(4))
	a := s.post(t, others, "settings", other)
	g.Expect(a.Code).To(Equal(http.StatusTooManyRequests), "the server serves as many as it may")
	g.Expect(a.Header.Get("Retry-After")).To(Equal("1"))
	close(hold)
	wg.Wait()
	g.Expect(s.post(t, namespace, "settings", token).Code).To(Equal(http.StatusAccepted))
}

func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t, func(set *settings) { set.limits.connectionsOfOne = 2 })
	first, second := dial(t, s), dial(t, s)
	_, err := net.DialTimeout("tcp", s.Address(), patience)
	g.Expect(err).NotTo(HaveOccurred(), "it is accepted, and closed")
	client := newClient(t, false)
	_, err = client.Do(newPost(t, s.url("any", "settings"), "", nil))
	g.Expect(err).To(HaveOccurred())
	g.Expect(first.Close()).To(Succeed())
	g.Expect(second.Close()).To(Succeed())
	g.Eventually(func() error {
		response, err := client.Do(newPost(t, s.url("any", "settings"), "", nil))
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	}).WithTimeout(patience).Should(Succeed())
}

func TestTheGateCountsAddressesAndAll(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	gate := newGate(nil, 3, 2)
	g.Expect([]bool{gate.enter("a"), gate.enter("a"), gate.enter("a")}).To(Equal([]bool{true, true, false}))
	g.Expect([]bool{gate.enter("b"), gate.enter("b")}).To(Equal([]bool{true, false}))
	gate.leave("a")
	g.Expect([]bool{gate.enter("c"), gate.enter("d")}).To(Equal([]bool{true, false}))
	gate.leave("a")
	gate.leave("b")
	gate.leave("c")
	g.Expect(gate.of).To(BeEmpty())
	g.Expect(gate.open).To(BeZero())
}

func TestWhoHasOneAddressOfIPv6HasMany(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(origin("[2001:db8::1]:80")).To(Equal(origin("[2001:db8::ffff]:81")))
	g.Expect(origin("[2001:db8::1]:80")).NotTo(Equal(origin("[2001:db8:0:1::1]:80")))
	g.Expect(origin("10.0.0.1:80")).To(Equal(origin("10.0.0.1:81")))
	g.Expect(origin("10.0.0.1:80")).To(Equal(origin("[::ffff:10.0.0.1]:80")))
	g.Expect(origin("10.0.0.1:80")).NotTo(Equal(origin("10.0.0.2:80")))
	g.Expect(origin("@")).To(Equal("@"))
}

func TestPartiesAreBounded(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	rates := newRates(1, 1)
	one := rates.of("one")
	for i := range 2 * parties {
		rates.of(strconv.Itoa(i))
		g.Expect(rates.of("one")).To(BeIdenticalTo(one), "who calls is not forgotten")
	}
	g.Expect(rates.known.Len()).To(Equal(parties))
}
