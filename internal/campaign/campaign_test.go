package campaign

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
	"k8s.io/apimachinery/pkg/types"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/parallel"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

func TestMain(m *testing.M) {
	parallel.Many()
	os.Exit(m.Run())
}

const (
	key = "lock:ns:name"
	// patience is for what happens by itself; a test that passes does not wait for it.
	patience = 30 * time.Second
	polling  = 5 * time.Millisecond
	// long is a lease that outlives the test: nothing changes hands by its end.
	long = 5 * time.Minute
)

var object = types.NamespacedName{Namespace: "ns", Name: "name"}

func leads(context.Context) (bool, error)    { return true, nil }
func leadsNot(context.Context) (bool, error) { return false, nil }

func within(t *testing.T) *WithT {
	t.Helper()
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(patience)
	g.SetDefaultEventuallyPollingInterval(polling)
	g.SetDefaultConsistentlyPollingInterval(polling)
	return g
}

func startRedis(t *testing.T) *redisserver.Server {
	t.Helper()
	return redisserver.Start(t, redisserver.Options{UnixSocket: true})
}

func connect(t *testing.T, server *redisserver.Server) *redis.Client {
	t.Helper()
	return redisserver.Connect(t, server.URL(), func(o *redis.Options) {
		o.ReadTimeout, o.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	})
}

// process is one manager process: its own client, and so its own nonce.
type process struct {
	*Registry
	rdb    *redis.Client
	client *redislock.Client
	spec   Spec
	told   chan types.NamespacedName
}

// newProcess prepares a manager process of a cluster.
func newProcess(t *testing.T, server *redisserver.Server, cluster string, leader func(context.Context) (bool, error)) *process {
	t.Helper()
	rdb := connect(t, server)
	client, err := redislock.New(rdb)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{
		Registry: NewRegistry(leader, logr.Discard()), rdb: rdb, client: client, told: make(chan types.NamespacedName, 1000),
		spec: Spec{
			Client: client, Key: key, Terms: Terms{Lease: long, Renew: long / 3},
			Identity: Identity{ClusterUID: cluster + "-uid", ClusterName: cluster, Object: object, Fingerprint: "f00d"},
		},
	}
	p.OnChange(func(o types.NamespacedName) { p.told <- o })
	t.Cleanup(p.crash)
	return p
}

// crash ends the process without a word to Redis.
func (p *process) crash() {
	p.mu.Lock()
	campaigns := p.campaigns
	p.campaigns, p.left = map[types.NamespacedName]*entry{}, true
	p.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.client.Close(ctx)
	for _, e := range campaigns {
		e.stop()
		<-e.ended
	}
}

// compete has the process's campaign run with its spec, changed for the test.
func (p *process) compete(change ...func(*Spec)) *Campaign {
	for _, f := range change {
		f(&p.spec)
	}
	return p.Ensure(object, "uid-1", p.spec, 0)
}

func renewing(lease, renew time.Duration) func(*Spec) {
	return func(s *Spec) { s.Lease, s.Renew = lease, renew }
}

// paused has a cluster stand aside. What it holds it keeps until Yield.
func paused(is bool) func(*Spec) {
	return func(s *Spec) {
		s.Aside = Aside{}
		if is {
			s.Aside = Aside{v1alpha1.ReasonPaused, "spec.paused names this cluster"}
		}
	}
}

// holds waits until a campaign has the lock, and returns what it then knows.
func (g gomegaWith) holds(c *Campaign) Observation {
	g.Eventually(func() Observation { return c.Observe() }).Should(HaveField("Held", true))
	return c.Observe()
}

// gives waits until a campaign is without the lock for a reason.
func (g gomegaWith) gives(c *Campaign, reason v1alpha1.ConditionReason) Observation {
	g.Eventually(func() Observation { return c.Observe() }).Should(
		And(HaveField("Held", false), HaveField("Known", true), HaveField("Reason", reason)))
	return c.Observe()
}

type gomegaWith struct{ *WithT }

func expect(t *testing.T) gomegaWith {
	t.Helper()
	return gomegaWith{within(t)}
}

// value is what stands at the lock's key.
func (p *process) value(g gomegaWith) string {
	v, err := p.rdb.Get(context.Background(), key).Result()
	if !errors.Is(err, redis.Nil) {
		g.Expect(err).NotTo(HaveOccurred())
	}
	return v
}

func TestACampaignAcquiresAndTells(t *testing.T) {
	t.Parallel()
	g := expect(t)
	blue := newProcess(t, startRedis(t), "blue", leads)
	before := time.Now().Add(-time.Second)
	o := g.holds(blue.compete())
	g.Expect(o.Known).To(BeTrue())
	g.Expect(o.Reason).To(Equal(v1alpha1.ReasonHeldHere))
	g.Expect(o.Fence).NotTo(BeZero())
	g.Expect(o.Message).To(ContainSubstring("fencing token"))
	g.Expect(o.QuietUntil).To(BeZero())
	g.Expect(o.AcquiredAt).To(BeTemporally(">", before))
	g.Expect(o.Holder.Ours).To(BeTrue())
	g.Expect(o.Holder.Identity).To(HaveValue(Equal(blue.spec.Identity)))
	g.Expect(o.Holder.Fence).To(Equal(o.Fence))
	g.Expect(o.Holder.Since).To(Equal(o.AcquiredAt))
	g.Expect(o.Holder.TokenHash).To(Equal(redislock.HashToken(blue.value(g))))
	g.Expect(o.History).To(HaveLen(1))
	g.Expect(o.History[0].Holder).To(Equal(blue.spec.Identity.String()))
	g.Expect(o.History[0].At).To(Equal(o.AcquiredAt))
	g.Eventually(blue.told).Should(Receive(Equal(object)))
	g.Expect(blue.compete()).To(BeIdenticalTo(blue.Ensure(object, "uid-1", blue.spec, 0)), "the same object has the same campaign")
}

func TestAnotherClusterSeesTheHolderAndFollowsItsRelease(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue, green := newProcess(t, server, "blue", leads), newProcess(t, server, "green", leads)
	first := g.holds(blue.compete())
	second := green.compete(func(s *Spec) { s.Identity.Fingerprint = "beef" })
	o := g.gives(second, v1alpha1.ReasonHeldElsewhere)
	g.Expect(o.Message).To(Equal(`cluster "blue" (RedisLock ns/name) holds the lock`))
	g.Expect(o.Holder.Ours).To(BeFalse())
	g.Expect(o.Holder.Identity).To(HaveValue(Equal(blue.spec.Identity)))
	g.Expect(o.Holder.Since).To(Equal(first.AcquiredAt))
	g.Expect(o.Fence).To(Equal(first.Fence))
	g.Expect(o.History).To(HaveLen(1))

	g.Expect(blue.Release(t.Context(), object)).To(Succeed())
	next := g.holds(second)
	g.Expect(next.Fence).To(BeNumerically(">", first.Fence))
	g.Expect(next.History).To(HaveLen(2))
	g.Expect(next.History[0].Fence).To(Equal(next.Fence))
	g.Expect(next.History[1].Fence).To(Equal(first.Fence))
	g.Expect(blue.Release(t.Context(), object)).To(Succeed(), "there is none any more")
}

func TestALeaseThatWasLeftIsGoneOnWithAtOnce(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	old, next := newProcess(t, server, "blue", leads), newProcess(t, server, "blue", leads)
	first := g.holds(old.compete())
	g.Expect(old.Leave(t.Context())).To(Succeed())
	g.Expect(old.compete()).To(BeNil(), "a process that has left begins nothing")
	token, ok := redislock.ParseToken(old.value(g))
	g.Expect(ok).To(BeTrue())
	g.Expect(token.Stopped).To(BeTrue())

	o := g.holds(next.compete())
	g.Expect(o.Fence).To(Equal(first.Fence))
	g.Expect(o.AcquiredAt).To(Equal(first.AcquiredAt))
	g.Expect(o.QuietUntil).To(BeZero())
	g.Expect(o.History).To(HaveLen(1), "going on is no new grant")
}

func TestALeaseOfAProcessThatCrashedIsGoneOnWithQuietly(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	old, next := newProcess(t, server, "blue", leads), newProcess(t, server, "blue", leads)
	first := g.holds(old.compete())
	old.crash()
	before := time.Now()
	o := g.holds(next.compete())
	g.Expect(o.Fence).To(Equal(first.Fence))
	g.Expect(o.AcquiredAt).To(Equal(first.AcquiredAt))
	g.Expect(o.QuietUntil).To(BeTemporally("~", before.Add(long), patience))
	g.Expect(o.Message).To(ContainSubstring("nothing new starts under it before"))
}

func TestALeaseOfAnotherClusterOrObjectIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Spec){
		"another cluster of the same name": func(s *Spec) { s.Identity.ClusterUID = "other-uid" },
		"another object":                   func(s *Spec) { s.Identity.Object.Name = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := expect(t)
			server := startRedis(t)
			one, two := newProcess(t, server, "blue", leads), newProcess(t, server, "blue", leads)
			g.holds(one.compete())
			g.Expect(one.Leave(t.Context())).To(Succeed())
			token := one.value(g)
			g.gives(two.compete(change), v1alpha1.ReasonHeldElsewhere)
			g.Expect(one.value(g)).To(Equal(token))
		})
	}
}

func TestALeaseThatItLostIsNotTakenForATwins(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue := newProcess(t, server, "blue", leads)
	// The key outlives the lease by far, so that the lease lost is still there.
	campaign := blue.compete(renewing(time.Second, 300*time.Millisecond), func(s *Spec) { s.LockDelay = long })
	g.holds(campaign)
	g.Expect(server.Pause()).To(Succeed())
	g.gives(campaign, v1alpha1.ReasonStoreUnreachable)
	g.Expect(server.Resume()).To(Succeed())
	o := g.gives(campaign, v1alpha1.ReasonCompeting)
	g.Expect(o.Message).To(ContainSubstring("it waits for its end like everybody"))
	g.Consistently(func() bool { return campaign.Observe().Held }).Should(BeFalse(), "it waits like everybody")
}

func TestTheOlderOfTwoTwinsStepsDownAndDoesNotSwapBack(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	older, newer := newProcess(t, server, "blue", leads), newProcess(t, server, "blue", leads)
	first := older.compete(renewing(long, 100*time.Millisecond))
	fence := g.holds(first).Fence
	g.holds(newer.compete())

	o := g.gives(first, v1alpha1.ReasonDuplicateIdentity)
	g.Expect(o.Message).To(ContainSubstring("Was this cluster cloned"))
	g.Expect(o.Fence).To(Equal(fence))
	token := newer.value(g)
	g.Expect(token).To(ContainSubstring("#" + newer.client.Nonce() + "."))
	stays := func(because string) {
		g.Consistently(func() string { return newer.value(g) }).Should(Equal(token), because)
		g.gives(first, v1alpha1.ReasonDuplicateIdentity)
	}
	stays("it does not swap back")
	older.compete(renewing(long, 200*time.Millisecond))
	stays("nor when its spec changes")
}

func TestATwinThatTurnsUpLaterIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(gomegaWith, *process){
		"when the spec changes": func(_ gomegaWith, p *process) { p.compete(renewing(long, time.Minute)) },
		"after a pause": func(g gomegaWith, p *process) {
			campaign := p.compete(paused(true))
			g.Expect(campaign.Yield(t.Context())).To(Succeed())
			g.gives(campaign, v1alpha1.ReasonPaused)
			p.compete(paused(false))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := expect(t)
			server := startRedis(t)
			green := newProcess(t, server, "green", leads)
			g.holds(green.compete())
			waiting, twin := newProcess(t, server, "blue", leads), newProcess(t, server, "blue", leads)
			campaign := waiting.compete()
			g.gives(campaign, v1alpha1.ReasonHeldElsewhere)
			// The twin gets the lock next.
			lock := g.takeOver(t, green, twin)
			g.gives(campaign, v1alpha1.ReasonDuplicateIdentity)

			between(g, waiting)
			g.Consistently(func() string { return twin.value(g) }).Should(Equal(lock), "the twin's lease was taken")
			g.gives(campaign, v1alpha1.ReasonDuplicateIdentity)
		})
	}
}

// takeOver puts a grant of the next process in the place of the present holder's.
func (g gomegaWith) takeOver(t *testing.T, from, to *process) string {
	t.Helper()
	info, err := from.client.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	lock, err := to.client.Adopt(t.Context(), key, info.Value, to.spec.options(0)...)
	g.Expect(err).NotTo(HaveOccurred())
	from.crash()
	// A waiter looks at its time; this wakes it.
	g.Expect(to.rdb.Publish(t.Context(), "{"+key+"}:wake", "").Err()).To(Succeed())
	return lock.Token()
}

func TestWhoIsNoLongerTheLeaderEndsSilently(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	old, successor := newProcess(t, server, "blue", leadsNot), newProcess(t, server, "blue", leads)
	campaign := old.compete(renewing(long, 100*time.Millisecond))
	before := g.holds(campaign)
	g.holds(successor.compete())
	token := successor.value(g)
	for len(old.told) > 0 {
		<-old.told
	}
	g.Eventually(campaign.ended).Should(BeClosed())
	g.Expect(old.told).NotTo(Receive(), "it tells nobody")
	g.Expect(campaign.Observe()).To(Equal(before), "what it knew stays")
	g.Expect(old.Release(t.Context(), object)).To(Succeed())
	g.Expect(old.Leave(t.Context())).To(Succeed())
	g.Expect(successor.value(g)).To(Equal(token), "it touches nothing")
}

func TestWhetherItLeadsIsAskedUntilThereIsAnAnswer(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	asked := make(chan struct{}, 1)
	answers := make(chan error, 1)
	older := newProcess(t, server, "blue", func(ctx context.Context) (bool, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		select {
		case err := <-answers:
			return err == nil, err
		case <-ctx.Done():
			return false, ctx.Err()
		}
	})
	newer := newProcess(t, server, "blue", leads)
	campaign := older.compete(renewing(long, 100*time.Millisecond))
	g.holds(campaign)
	g.holds(newer.compete())
	g.Eventually(asked).Should(Receive())
	answers <- errors.New("the API server is away")
	g.Eventually(asked).Should(Receive(), "an error is no answer")
	answers <- nil
	g.gives(campaign, v1alpha1.ReasonDuplicateIdentity)
}

func TestPausedGivesTheLockBackAndLooksOn(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue, green := newProcess(t, server, "blue", leads), newProcess(t, server, "green", leads)
	campaign := blue.compete()
	first := g.holds(campaign)
	other := green.compete()
	g.gives(other, v1alpha1.ReasonHeldElsewhere)

	blue.compete(paused(true))
	g.Consistently(func() bool { return campaign.Observe().Held && campaign.Grant() != nil }).WithTimeout(200 * time.Millisecond).Should(BeTrue())
	g.Expect(campaign.Yield(t.Context())).To(Succeed())
	g.Expect(campaign.Grant()).To(BeNil())
	g.Expect(campaign.Observe().Held).To(BeFalse(), "it is known when Yield returns")
	next := g.holds(other)
	o := g.gives(campaign, v1alpha1.ReasonPaused)
	g.Expect(o.Fence).To(BeNumerically(">=", first.Fence))
	g.Expect(o.Message).To(ContainSubstring("spec.paused"))
	g.Expect(blue.value(g)).To(HavePrefix(green.spec.Identity.String() + "#"))

	// It looks when it begins to be paused, and now and then.
	blue.compete(func(s *Spec) { s.Lease += time.Second })
	g.Eventually(func() *Holder { return campaign.Observe().Holder }).Should(HaveValue(HaveField("TokenHash", next.Holder.TokenHash)))
	g.Expect(campaign.Observe().Fence).To(Equal(next.Fence))
	g.Expect(campaign.Observe().Holder.Since).To(Equal(next.AcquiredAt))

	g.Expect(green.compete(paused(true)).Yield(t.Context())).To(Succeed())
	blue.compete(paused(false))
	g.Expect(g.holds(campaign).Fence).To(BeNumerically(">", next.Fence))
}

func TestAProcessThatBeginsPausedGoesOnWithWhatItsPredecessorLeft(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	old, next := newProcess(t, server, "blue", leads), newProcess(t, server, "blue", leads)
	g.holds(old.compete())
	g.Expect(old.Leave(t.Context())).To(Succeed())
	campaign := next.compete(paused(true))
	g.holds(campaign) // Jobs may run under it
	g.Expect(campaign.Yield(t.Context())).To(Succeed())
	g.gives(campaign, v1alpha1.ReasonPaused)
	g.Expect(next.value(g)).To(BeEmpty())
}

func TestAChangeOfSpecKeepsTheGrant(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue := newProcess(t, server, "blue", leads)
	campaign := blue.compete()
	first := g.holds(campaign)
	token := blue.value(g)
	blue.compete(renewing(10*time.Minute, time.Minute), func(s *Spec) { s.Identity.Fingerprint = "beef" })
	g.Eventually(func() string { return blue.value(g) }).Should(ContainSubstring("/beef#"))
	g.Eventually(campaign.Observe).Should(And(
		HaveField("Held", true), HaveField("Fence", first.Fence), HaveField("AcquiredAt", first.AcquiredAt),
		HaveField("QuietUntil", BeZero()), HaveField("Holder.Identity.Fingerprint", "beef")))
	g.Expect(blue.value(g)).NotTo(Equal(token))
	g.Expect(blue.rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", long), "the new lease counts")
}

func TestAnObjectThatWasMadeAnewHasACampaignOfItsOwn(t *testing.T) {
	t.Parallel()
	g := expect(t)
	blue := newProcess(t, startRedis(t), "blue", leads)
	one := blue.compete()
	g.holds(one)
	g.Expect(blue.Release(t.Context(), object)).To(Succeed())
	two := blue.Ensure(object, "uid-2", blue.spec, 0)
	g.Expect(two).NotTo(BeIdenticalTo(one))
	g.holds(two)
}

func TestReleaseSaysThatRedisDidNotConfirmIt(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue := newProcess(t, server, "blue", leads)
	g.holds(blue.compete(renewing(long, time.Second)))
	g.Expect(server.Kill()).To(Succeed())
	g.Expect(blue.Release(t.Context(), object)).NotTo(Succeed())
	g.Expect(blue.Release(t.Context(), object)).To(Succeed(), "the campaign is over all the same")
}

func TestLeaveNamesTheLeasesThatItCouldNotLeave(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue := newProcess(t, server, "blue", leads)
	g.holds(blue.compete(renewing(long, time.Second)))
	g.Expect(server.Kill()).To(Succeed())
	g.Expect(blue.Leave(t.Context())).To(MatchError(ContainSubstring("leaving the lease of ns/name")))
}

func TestClear(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		leave func(gomegaWith, *process)
		who   string
		gone  bool
	}{
		{"after a crash, for its process may be alive", func(_ gomegaWith, p *process) { p.crash() }, "blue", false},
		{"after a stop", func(g gomegaWith, p *process) { g.Expect(p.Leave(context.Background())).To(Succeed()) }, "blue", true},
		{"after a release", func(g gomegaWith, p *process) { g.Expect(p.Release(context.Background(), object)).To(Succeed()) }, "blue", true},
		{"of another cluster's lock", func(_ gomegaWith, p *process) { p.crash() }, "green", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := expect(t)
			server := startRedis(t)
			old, next := newProcess(t, server, "blue", leads), newProcess(t, server, tc.who, leads)
			g.holds(old.compete())
			tc.leave(g, old)
			before := next.value(g)
			g.Expect(Clear(t.Context(), next.spec)).To(Succeed())
			if tc.gone {
				g.Expect(next.value(g)).To(BeEmpty())
			} else {
				g.Expect(next.value(g)).To(Equal(before))
			}
		})
	}
}

func TestClearSaysThatRedisDoesNotAnswer(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	blue := newProcess(t, server, "blue", leads)
	g.Expect(server.Kill()).To(Succeed())
	g.Expect(Clear(t.Context(), blue.spec)).NotTo(Succeed())
}

func TestALossSaysWhatHappened(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		meddle  func(context.Context, *redis.Client) error
		reason  v1alpha1.ConditionReason
		message string
		holder  string
	}{
		{
			"another program took it", func(ctx context.Context, rdb *redis.Client) error { return rdb.Set(ctx, key, "other", long).Err() },
			v1alpha1.ReasonHeldElsewhere, "another program (token hash " + redislock.HashToken("other"), redislock.HashToken("other"),
		},
		{
			"it was released by force", func(ctx context.Context, rdb *redis.Client) error {
				return rdb.Set(ctx, key, "~"+rdb.Get(ctx, key).Val(), long).Err()
			},
			v1alpha1.ReasonCompeting, "", "",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := expect(t)
			blue := newProcess(t, startRedis(t), "blue", leads)
			campaign := blue.compete(renewing(long, 100*time.Millisecond))
			fence := g.holds(campaign).Fence
			g.Expect(tc.meddle(t.Context(), blue.rdb)).To(Succeed())
			o := g.gives(campaign, tc.reason)
			g.Expect(o.Message).To(ContainSubstring(tc.message))
			g.Expect(o.Fence).To(Equal(fence), "what was seen is remembered")
			if tc.holder != "" {
				g.Expect(o.Holder.TokenHash).To(Equal(tc.holder))
			} else {
				g.Expect(o.Holder).To(BeNil())
			}
		})
	}
}

func TestAKeyThatIsGoneIsAcquiredAnewWithAHigherFence(t *testing.T) {
	t.Parallel()
	g := expect(t)
	blue := newProcess(t, startRedis(t), "blue", leads)
	campaign := blue.compete(renewing(long, 100*time.Millisecond))
	first := g.holds(campaign)
	g.Expect(blue.rdb.Del(t.Context(), key).Err()).To(Succeed())
	g.Eventually(func() uint64 { return campaign.Observe().Fence }).Should(BeNumerically(">", first.Fence))
	g.Expect(campaign.Observe().Held).To(BeTrue())
}

func TestARefusalHasItsReason(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		prepare func(gomegaWith, context.Context, *redisserver.Server, *redis.Client)
		fence   uint64
		reason  v1alpha1.ConditionReason
		message string
	}{
		{
			"Redis lost its data", func(gomegaWith, context.Context, *redisserver.Server, *redis.Client) {}, 7,
			v1alpha1.ReasonQuarantined, "Redis has lost acknowledged writes: it knows fencing token 0, but 7 was granted",
		},
		{
			"a counter that cannot be true", func(g gomegaWith, ctx context.Context, _ *redisserver.Server, rdb *redis.Client) {
				g.Expect(rdb.Set(ctx, "{"+key+"}:fence", "nonsense", long).Err()).To(Succeed())
			}, 0, v1alpha1.ReasonCorruptFence, "delete it",
		},
		{
			"Redis is away", func(g gomegaWith, _ context.Context, server *redisserver.Server, _ *redis.Client) {
				g.Expect(server.Kill()).To(Succeed())
			}, 0, v1alpha1.ReasonStoreUnreachable, "",
		},
		{
			"Redis wants a password", func(g gomegaWith, ctx context.Context, _ *redisserver.Server, rdb *redis.Client) {
				g.Expect(rdb.ConfigSet(ctx, "requirepass", "secret").Err()).To(Succeed())
			}, 0, v1alpha1.ReasonStoreRefused, "NOAUTH",
		},
		{
			"another library has it", func(g gomegaWith, ctx context.Context, _ *redisserver.Server, rdb *redis.Client) {
				g.Expect(rdb.Set(ctx, key, "other", long).Err()).To(Succeed())
			}, 0, v1alpha1.ReasonHeldElsewhere, "another program",
		},
		{
			"a program with this library has it", func(g gomegaWith, ctx context.Context, _ *redisserver.Server, rdb *redis.Client) {
				g.Expect(rdb.Set(ctx, key, "billing#nonce.1#7", long).Err()).To(Succeed())
			}, 0, v1alpha1.ReasonHeldElsewhere, `the program "billing" holds the lock`,
		},
		{
			"something has it that is no string", func(g gomegaWith, ctx context.Context, _ *redisserver.Server, rdb *redis.Client) {
				g.Expect(rdb.HSet(ctx, key, "a", "b").Err()).To(Succeed())
			}, 0, v1alpha1.ReasonHeldElsewhere, "another program",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := expect(t)
			server := redisserver.Start(t, redisserver.Options{})
			rdb := connect(t, server)
			tc.prepare(g, t.Context(), server, rdb)
			blue := newProcess(t, server, "blue", leads)
			campaign := blue.Ensure(object, "uid", blue.spec, tc.fence)
			o := g.gives(campaign, tc.reason)
			g.Expect(o.Message).To(ContainSubstring(tc.message))
			g.Expect(o.Fence).To(BeNumerically(">=", tc.fence))
		})
	}
}

func TestAnImplausibleFenceOfAnotherProgramIsNotRemembered(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]bool{"competing": false, "paused": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := expect(t)
			blue := newProcess(t, startRedis(t), "blue", leads)
			g.Expect(blue.rdb.Set(t.Context(), key, "other#nonce.1#9007199254740991", 0).Err()).To(Succeed())
			campaign := blue.compete(paused(pause))
			g.Eventually(func() *Holder { return campaign.Observe().Holder }).ShouldNot(BeNil())
			g.Expect(campaign.Observe().Fence).To(BeZero())

			g.Expect(blue.rdb.Del(t.Context(), key).Err()).To(Succeed())
			blue.compete(paused(false))
			g.holds(campaign)
		})
	}
}

func TestTokensAreNotTold(t *testing.T) {
	t.Parallel()
	g := expect(t)
	server := startRedis(t)
	green := newProcess(t, server, "green", leads)
	g.Expect(green.rdb.Set(t.Context(), key, "the-right-to-release", long).Err()).To(Succeed())
	o := g.gives(green.compete(), v1alpha1.ReasonHeldElsewhere)
	g.Expect(strings.Join([]string{o.Message, o.Holder.String(), o.Holder.Name, o.Holder.TokenHash}, " ")).
		NotTo(ContainSubstring("the-right-to-release"))
}
