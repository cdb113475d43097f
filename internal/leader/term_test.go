package leader

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// slowLock takes a while to write, and fails where it has to.
type slowLock struct {
	resourcelock.Interface
	takes time.Duration
	fails error
}

func (slowLock) Identity() string { return "me" }

func (l *slowLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.Update(ctx, r)
}

func (l *slowLock) Update(context.Context, resourcelock.LeaderElectionRecord) error {
	time.Sleep(l.takes)
	return l.fails
}

func TestALeaderIsSureUntilAnotherMayHaveFollowed(t *testing.T) {
	t.Parallel()
	mine, given := resourcelock.LeaderElectionRecord{HolderIdentity: "me"}, resourcelock.LeaderElectionRecord{}
	for name, test := range map[string]func(g Gomega, e *Election, l *slowLock){
		"before it was elected": func(g Gomega, e *Election, _ *slowLock) {
			g.Expect(e.Sure()).To(BeFalse())
		},
		"elected first of all": func(g Gomega, e *Election, _ *slowLock) {
			g.Expect(e.Lock.Create(context.Background(), mine)).To(Succeed())
			g.Expect(e.Sure()).To(BeTrue())
		},
		"paused": func(g Gomega, e *Election, _ *slowLock) {
			g.Expect(e.Lock.Update(context.Background(), mine)).To(Succeed())
			time.Sleep(LeaseDuration - time.Nanosecond)
			g.Expect(e.Sure()).To(BeTrue())
			time.Sleep(time.Nanosecond)
			g.Expect(e.Sure()).To(BeFalse(), "whatever client-go says")
			g.Expect(e.Lock.Update(context.Background(), mine)).To(Succeed())
			g.Expect(e.Sure()).To(BeTrue(), "nobody had followed")
		},
		"counted from when the renewal was sent": func(g Gomega, e *Election, l *slowLock) {
			l.takes = 3 * time.Second
			g.Expect(e.Lock.Update(context.Background(), mine)).To(Succeed())
			time.Sleep(LeaseDuration - l.takes)
			g.Expect(e.Sure()).To(BeFalse())
		},
		"a renewal that failed changes nothing": func(g Gomega, e *Election, l *slowLock) {
			g.Expect(e.Lock.Update(context.Background(), mine)).To(Succeed())
			l.takes, l.fails = RetryPeriod, errors.New("conflict")
			g.Expect(e.Lock.Update(context.Background(), mine)).To(MatchError(l.fails))
			g.Expect(e.Sure()).To(BeTrue())
			time.Sleep(LeaseDuration - l.takes)
			g.Expect(e.Sure()).To(BeFalse())
		},
		"given up, though no answer came": func(g Gomega, e *Election, l *slowLock) {
			g.Expect(e.Lock.Update(context.Background(), mine)).To(Succeed())
			l.fails = context.DeadlineExceeded
			g.Expect(e.Lock.Update(context.Background(), given)).To(MatchError(l.fails))
			g.Expect(e.Sure()).To(BeFalse())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				inner := &slowLock{}
				lock := &term{Interface: inner}
				test(NewWithT(t), &Election{Lock: lock, term: lock}, inner)
			})
		})
	}
}

func TestEitherClockEndsATerm(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	now := time.Now()
	lock := &term{}
	lock.set(now)
	g.Expect(lock.sure(now)).To(BeTrue())
	g.Expect(lock.sure(now.Round(0).Add(LeaseDuration))).To(BeFalse(), "the wall clock alone, as when the machine slept")
	g.Expect(lock.sure(now.Add(LeaseDuration))).To(BeFalse())
}
