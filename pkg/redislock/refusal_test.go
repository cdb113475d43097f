package redislock

import (
	"context"
	"errors"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
)

var errBusy = errors.New("operation in progress, please try again later")

func TestARefusalInTheCallersWords(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := mustAcquire(t, dial(t, server.URL()), key, patient())
	c := dial(t, server.URL())
	busy := WithRefusal(errBusy)
	for name, call := range map[string]func() error{
		"TryAcquire": func() error { _, err := c.TryAcquire(t.Context(), key, patient(), busy); return err },
		"Acquire":    func() error { _, err := c.Acquire(t.Context(), key, patient(), once(), busy); return err },
		"AcquireAll": func() error {
			_, err := c.AcquireAll(t.Context(), []string{"lock:b", key}, patient(), once(), busy)
			return err
		},
		"WithLock": func() error {
			return c.WithLock(t.Context(), key, func(context.Context, *Lock) error { return nil }, patient(), once(), busy)
		},
		"waiting": func() error {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := c.Acquire(ctx, key, patient(), WithWait(), busy, OnRefusal(func(error) { cancel() }))
			g.Expect(err).To(MatchError(context.Canceled))
			return err
		},
	} {
		err := call()
		g.Expect(err).To(MatchError("operation in progress, please try again later"), name)
		g.Expect(err).To(MatchError(errBusy), name)
		g.Expect(err).To(MatchError(ErrNotAcquired), name)
		var held *HeldError
		g.Expect(errors.As(err, &held)).To(BeTrue(), name)
		g.Expect(held.Fence).To(Equal(l.Fence()), name)
	}

	// What is no refusal of this call stays as it is.
	g.Expect(mustAcquire(t, c, "lock:free", patient(), busy).IsHeld()).To(BeTrue())
	nested := &HeldError{Key: "lock:nested"}
	err := c.WithLock(t.Context(), "lock:c", func(context.Context, *Lock) error { return nested }, patient(), busy)
	g.Expect(err).To(MatchError(ErrNotAcquired))
	g.Expect(err).NotTo(MatchError(errBusy))
	_, err = c.TryAcquire(t.Context(), key, WithLease(0), busy)
	g.Expect(err).To(MatchError(ErrInvalid))
	g.Expect(err).NotTo(MatchError(errBusy))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.TryAcquire(cancelled, key, busy)
	g.Expect(err).To(MatchError(context.Canceled))
	g.Expect(err).NotTo(MatchError(errBusy))
	_, err = c.TryAcquire(t.Context(), key, patient(), WithRefusal(nil))
	g.Expect(err).To(MatchError(ErrNotAcquired))
}

func TestARefusalAsAValue(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c, other := dial(t, server.URL()), dial(t, server.URL())
	l, ok, err := IfAcquired(c.TryAcquire(t.Context(), key, patient()))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ok).To(BeTrue())
	g.Expect(l.IsHeld()).To(BeTrue())

	l, ok, err = IfAcquired(other.TryAcquire(t.Context(), key, patient()))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ok).To(BeFalse())
	g.Expect(l).To(BeNil())
	_, ok, err = IfAcquired(other.Acquire(t.Context(), key, patient(), once(), WithRefusal(errBusy)))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ok).To(BeFalse())
	ls, ok, err := IfAcquired(other.AcquireAll(t.Context(), []string{"lock:b", key}, patient(), once()))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ok).To(BeFalse())
	g.Expect(ls).To(BeNil())
	ls, ok, err = IfAcquired(other.AcquireAll(t.Context(), []string{"lock:b", "lock:c"}, patient()))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ok).To(BeTrue())
	g.Expect(ls.IsHeld()).To(BeTrue())
}

func TestWhatIsNoRefusalStaysAnError(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	mustAcquire(t, dial(t, server.URL()), key, patient())
	c := dial(t, server.URL())
	ctx, cancel := context.WithCancel(t.Context())
	_, ok, err := IfAcquired(c.Acquire(ctx, key, patient(), WithWait(), OnRefusal(func(error) { cancel() })))
	g.Expect(err).To(MatchError(context.Canceled))
	g.Expect(ok).To(BeFalse())
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, ok, err = IfAcquired(c.Acquire(ctx, key, patient(), WithWait()))
	g.Expect(err).To(MatchError(context.DeadlineExceeded))
	g.Expect(ok).To(BeFalse())
	_, ok, err = IfAcquired(c.TryAcquire(t.Context(), "", patient()))
	g.Expect(err).To(MatchError(ErrInvalid))
	g.Expect(ok).To(BeFalse())

	waiting := make(chan error, 1)
	refused := make(chan struct{}, 100)
	go func() {
		_, _, err := IfAcquired(c.Acquire(t.Context(), key, patient(), WithWait(), WithRefusal(errBusy), OnRefusal(func(error) { refused <- struct{}{} })))
		waiting <- err
	}()
	<-refused
	g.Expect(c.Close(t.Context())).To(Succeed())
	g.Eventually(waiting).Should(Receive(And(MatchError(ErrClosed), Not(MatchError(errBusy)))))

	rdb := redis.NewClient(&redis.Options{})
	c = newClient(t, rdb)
	g.Expect(rdb.Close()).To(Succeed())
	_, ok, err = IfAcquired(c.TryAcquire(t.Context(), key))
	g.Expect(err).To(MatchError(redis.ErrClosed))
	g.Expect(ok).To(BeFalse())
}
