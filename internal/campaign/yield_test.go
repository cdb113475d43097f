package campaign

import (
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

func aside(reason v1alpha1.ConditionReason) func(*Spec) {
	return func(s *Spec) { s.Aside = Aside{reason, "because of " + string(reason)} }
}

func TestACampaignAsideDoesNotCompete(t *testing.T) {
	t.Parallel()
	g := expect(t)
	blue := newProcess(t, startRedis(t), "blue", leads)
	campaign := blue.compete(aside(v1alpha1.ReasonIdle))
	g.gives(campaign, v1alpha1.ReasonIdle)
	g.Expect(campaign.Grant()).To(BeNil())
	g.Expect(blue.value(g)).To(BeEmpty())
	g.Expect(campaign.Yield(t.Context())).To(Succeed(), "there is nothing to give back")

	blue.compete(aside(v1alpha1.ReasonDeferring))
	g.Expect(g.gives(campaign, v1alpha1.ReasonDeferring).Message).To(Equal("because of Deferring"))
	g.Expect(blue.value(g)).To(BeEmpty())
	blue.compete(paused(false))
	g.holds(campaign)
	g.Expect(campaign.Grant().Fence()).To(Equal(campaign.Observe().Fence))
}

func TestWhoYieldsCompetesAgain(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue, green := newProcess(t, server, "blue", leads), newProcess(t, server, "green", leads)
	mine := blue.compete()
	first := g.holds(mine)
	theirs := green.compete()
	g.gives(theirs, v1alpha1.ReasonHeldElsewhere)

	g.Expect(mine.Yield(t.Context())).To(Succeed())
	g.Expect(mine.Yield(t.Context())).To(Succeed(), "twice is as once")
	g.Eventually(func() bool {
		if !theirs.Observe().Held {
			g.Expect(mine.Yield(t.Context())).To(Succeed())
		}
		return theirs.Observe().Held
	}).WithPolling(20*time.Millisecond).Should(BeTrue(), "others have their turn")
	next := g.holds(theirs)
	g.Expect(next.Fence).To(BeNumerically(">", first.Fence))
	g.gives(mine, v1alpha1.ReasonHeldElsewhere)
	green.compete(paused(true))
	g.Expect(theirs.Yield(t.Context())).To(Succeed())
	g.Expect(g.holds(mine).Fence).To(BeNumerically(">", next.Fence))
}

func TestTermsMayChangeWhileItKeepsAGrantAside(t *testing.T) {
	t.Parallel()
	g := expect(t)
	blue := newProcess(t, startRedis(t), "blue", leads)
	campaign := blue.compete()
	first := g.holds(campaign)
	token := blue.value(g)
	blue.compete(paused(true), renewing(10*time.Minute, time.Minute))
	g.Eventually(func() string { return blue.value(g) }).ShouldNot(Equal(token), "gone on with under the new terms")
	g.Eventually(campaign.Observe).Should(And(HaveField("Held", true), HaveField("Fence", first.Fence), HaveField("QuietUntil", BeZero())), "Jobs may run under it")
	g.Eventually(campaign.Grant).ShouldNot(BeNil())
	g.Expect(campaign.Yield(t.Context())).To(Succeed())
	g.gives(campaign, v1alpha1.ReasonPaused)
	g.Expect(blue.value(g)).To(BeEmpty())
}

func TestALeaseOfAProcessThatCrashedIsGoneOnWithAside(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	old, next := newProcess(t, server, "blue", leads), newProcess(t, server, "blue", leads)
	first := g.holds(old.compete())
	old.crash()
	campaign := next.compete(aside(v1alpha1.ReasonDeleting))
	o := g.holds(campaign)
	g.Expect(o.Fence).To(Equal(first.Fence))
	g.Expect(o.QuietUntil).To(BeTemporally(">", time.Now()), "the one before may be alive")
	g.Expect(o.Adopted).To(BeTrue())
	g.Expect(campaign.Yield(t.Context())).To(Succeed())
	g.gives(campaign, v1alpha1.ReasonDeleting)
}

// lapse has a campaign lose its lease to a Redis that hangs, with a key that stands on
// for as long as a Job might run. It returns when that was.
func lapse(t *testing.T, g gomegaWith, server *redisserver.Server, p *process, delay time.Duration) (*Campaign, time.Time) {
	t.Helper()
	campaign := p.compete(renewing(2*time.Second, time.Second), func(s *Spec) { s.LockDelay = delay })
	g.holds(campaign)
	g.Eventually(func() error { return campaign.Grant().Cover(t.Context(), long) }).Should(Succeed())
	_, lapsed := campaign.Lapsed()
	g.Expect(lapsed).To(BeFalse())
	before := time.Now()
	g.Expect(server.Pause()).To(Succeed())
	g.Eventually(campaign.Observe).Should(HaveField("Held", false))
	g.Eventually(func() bool { _, is := campaign.Lapsed(); return is }).Should(BeTrue())
	g.Expect(campaign.Grant()).To(BeNil())
	return campaign, before
}

func TestALapsedGrantIsGivenBackWhenAllHasStopped(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue, green := newProcess(t, server, "blue", leads), newProcess(t, server, "green", leads)
	campaign, before := lapse(t, g, server, blue, 2*time.Second)
	from, _ := campaign.Lapsed()
	g.Expect(from).To(BeTemporally(">", before.Add(2*time.Second)), "not before the lock delay, which others than Jobs were promised")

	blue.compete(paused(true)) // or it would compete for what it gives back
	g.Expect(campaign.Stopped(t.Context())).NotTo(Succeed(), "Redis does not answer")
	_, lapsed := campaign.Lapsed()
	g.Expect(lapsed).To(BeTrue(), "so it is to be repeated")
	g.Expect(server.Resume()).To(Succeed())
	g.Eventually(func() string { return blue.value(g) }).ShouldNot(BeEmpty())
	g.Expect(blue.rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", long/2), "it stands for the watchdog's window")

	g.Eventually(func() error { return campaign.Stopped(t.Context()) }).Should(Succeed())
	_, lapsed = campaign.Lapsed()
	g.Expect(lapsed).To(BeFalse())
	g.Expect(campaign.Stopped(t.Context())).To(Succeed(), "nothing is left to give back")
	g.holds(green.compete())
}

func TestALapsedGrantThatAnotherHasIsLeftAlone(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue, green := newProcess(t, server, "blue", leads), newProcess(t, server, "green", leads)
	campaign, _ := lapse(t, g, server, blue, 0)
	blue.compete(paused(true))
	g.Expect(server.Resume()).To(Succeed())
	g.Eventually(func() error { return blue.rdb.Del(t.Context(), key).Err() }).Should(Succeed())
	g.holds(green.compete())
	token := green.value(g)
	g.Expect(campaign.Stopped(t.Context())).To(Succeed())
	_, lapsed := campaign.Lapsed()
	g.Expect(lapsed).To(BeFalse())
	g.Expect(green.value(g)).To(Equal(token))
}

func TestALapsedGrantIsForgottenWithTheNext(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue := newProcess(t, server, "blue", leads)
	campaign, _ := lapse(t, g, server, blue, 0)
	g.Expect(server.Resume()).To(Succeed())
	g.Eventually(func() error { return blue.rdb.Del(t.Context(), key).Err() }).Should(Succeed())
	blue.compete(renewing(long, long/3))
	g.holds(campaign)
	token := blue.value(g)
	_, lapsed := campaign.Lapsed()
	g.Expect(lapsed).To(BeFalse())
	g.Expect(campaign.Stopped(t.Context())).To(Succeed())
	g.Expect(blue.value(g)).To(Equal(token), "the new grant is not the one that lapsed")
}

func TestAGrantThatWasTakenAwayHasNotLapsed(t *testing.T) {
	t.Parallel()
	g := expect(t)
	blue := newProcess(t, startRedis(t), "blue", leads)
	campaign := blue.compete(renewing(time.Minute, 100*time.Millisecond))
	g.holds(campaign)
	g.Expect(blue.rdb.Set(t.Context(), key, "another's", long).Err()).To(Succeed())
	g.gives(campaign, v1alpha1.ReasonHeldElsewhere)
	_, lapsed := campaign.Lapsed()
	g.Expect(lapsed).To(BeFalse())
}

func TestYieldRacesWithLoss(t *testing.T) {
	t.Parallel()
	for range 10 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			g := expect(t)
			blue := newProcess(t, startRedis(t), "blue", leads)
			campaign := blue.compete(renewing(8*time.Second, time.Second))
			first := g.holds(campaign)
			var wg sync.WaitGroup
			wg.Go(func() { _ = blue.rdb.Del(t.Context(), key).Err() })
			wg.Go(func() { g.Expect(campaign.Yield(t.Context())).To(Succeed()) })
			wg.Wait()
			g.Eventually(campaign.Observe).Should(And(HaveField("Held", true), HaveField("Fence", BeNumerically(">", first.Fence))), "it goes on competing")
			// The deletion may have hit the next grant, which the next renewal finds.
			g.Eventually(func() bool {
				o := campaign.Observe()
				return o.Held && campaign.Grant() != nil && redislock.HashToken(blue.value(g)) == o.Holder.TokenHash
			}).Should(BeTrue())
		})
	}
}

func TestYieldRacesWithTheEnd(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	for name, end := range map[string]func(*process) error{
		"by release": func(p *process) error { return p.Release(t.Context(), object) },
		"by leaving": func(p *process) error { return p.Leave(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range 5 {
				g := expect(t)
				blue := newProcess(t, server, "blue", leads)
				other := key + name + string(rune('0'+i))
				campaign := blue.compete(func(s *Spec) { s.Key = other })
				g.holds(campaign)
				var wg sync.WaitGroup
				wg.Go(func() { _ = campaign.Yield(t.Context()) })
				wg.Go(func() { g.Expect(end(blue)).To(Succeed()) })
				wg.Wait()
				g.Expect(campaign.Grant()).To(BeNil())
				left, err := blue.client.Inspect(t.Context(), other)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(left.Status == redislock.Free || name == "by leaving" && left.Stopped).To(BeTrue(), "nothing is left that nobody renews: %+v", left)
			}
		})
	}
}

func TestTurnsGoRound(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	turns := map[string]int{}
	campaigns := map[string]*Campaign{}
	for _, cluster := range []string{"blue", "green"} {
		campaigns[cluster] = newProcess(t, server, cluster, leads).compete()
	}
	var last uint64
	for range 12 {
		var holder string
		g.Eventually(func() string {
			for cluster, campaign := range campaigns {
				if o := campaign.Observe(); o.Held && o.Fence > last {
					holder, last = cluster, o.Fence
				}
			}
			return holder
		}).ShouldNot(BeEmpty())
		turns[holder]++
		g.Expect(campaigns[holder].Yield(t.Context())).To(Succeed())
	}
	g.Expect(turns).To(And(HaveKeyWithValue("blue", BeNumerically(">=", 2)), HaveKeyWithValue("green", BeNumerically(">=", 2))), "nobody waits for as long as the other has something to do")
}
