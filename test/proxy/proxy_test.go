package proxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/proxy"
	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// soon bounds what must happen; it is long because the machine may be busy.
const soon = 20 * time.Second

type setup struct {
	*WithT
	t      *testing.T
	ctx    context.Context
	server *redisserver.Server
	proxy  *proxy.Proxy
	direct *redis.Client
}

func start(t *testing.T) *setup {
	t.Helper()
	t.Parallel()
	s := &setup{WithT: NewWithT(t), t: t, ctx: t.Context()}
	s.server = redisserver.Start(t, redisserver.Options{Password: "secret"})
	s.proxy = proxy.Start(t, s.server.URL())
	s.direct = s.client(s.server.URL())
	return s
}

func (s *setup) client(rawURL string) *redis.Client {
	s.t.Helper()
	return redisserver.Connect(s.t, rawURL, func(o *redis.Options) {
		o.MaxRetries = -1
		o.ReadTimeout, o.DialTimeout = soon, soon
		o.DialerRetries = 1
	})
}

func (s *setup) proxied() *redis.Client { return s.client(s.proxy.URL()) }

// happened waits for a channel of the proxy.
func (s *setup) happened(c <-chan struct{}) {
	s.t.Helper()
	s.Eventually(c).WithTimeout(soon).Should(BeClosed())
}

// async runs a command beside the test and hands its error over.
func async(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

func TestPassesCommandsAndReplies(t *testing.T) {
	s := start(t)
	for _, protocol := range []int{2, 3} {
		c := redisserver.Connect(t, s.proxy.URL(), func(o *redis.Options) { o.Protocol = protocol })
		big := strings.Repeat("x\r\n", 100_000)
		s.Expect(c.Set(s.ctx, "big", big, 0).Err()).To(Succeed())
		s.Expect(c.Get(s.ctx, "big").Val()).To(Equal(big))
		s.Expect(c.Get(s.ctx, "none").Err()).To(MatchError(redis.Nil))
		s.Expect(c.Do(s.ctx, "nonsense").Err()).To(MatchError(ContainSubstring("unknown command")))
		s.Expect(c.HSet(s.ctx, "h", "f", 1, "g", 2).Err()).To(Succeed())
		s.Expect(c.HGetAll(s.ctx, "h").Val()).To(HaveLen(2))
		s.Expect(c.Eval(s.ctx, "return {1, {2, ARGV[1]}, false}", nil, "x").Val()).To(HaveLen(3))
		cmds, err := c.TxPipelined(s.ctx, func(p redis.Pipeliner) error {
			for i := range 50 {
				p.Set(s.ctx, strconv.Itoa(i), i, 0)
			}
			return nil
		})
		s.Expect(err).NotTo(HaveOccurred())
		s.Expect(cmds).To(HaveLen(50))
	}
	s.Expect(s.proxy.Count(proxy.Command("hgetall"))).To(Equal(2))
}

func TestSubscriptionsPass(t *testing.T) {
	s := start(t)
	for _, protocol := range []string{"2", "3"} {
		sub := s.client(s.proxy.URL()+"?protocol="+protocol).Subscribe(s.ctx, "a"+protocol, "b"+protocol)
		t.Cleanup(func() { _ = sub.Close() })
		for range 2 {
			_, err := sub.Receive(s.ctx)
			s.Expect(err).NotTo(HaveOccurred())
		}
		s.Expect(s.direct.Publish(s.ctx, "b"+protocol, "hello").Val()).To(BeEquivalentTo(1))
		m, err := sub.ReceiveMessage(s.ctx)
		s.Expect(err).NotTo(HaveOccurred())
		s.Expect(m.Payload).To(Equal("hello"))
	}
}

func TestHeldRequestIsDeliveredAfterItsClientLeft(t *testing.T) {
	s := start(t)
	c := s.proxied()
	s.Expect(c.Ping(s.ctx).Err()).To(Succeed())
	held := s.proxy.Hold(proxy.All(proxy.Command("set"), proxy.With("k", "late")))
	_, err := held.Deliver()
	s.Expect(err).To(MatchError(proxy.ErrNothingHeld))

	result := async(func() error { return c.Set(s.ctx, "k", "late", 0).Err() })
	s.happened(held.Arrived)
	s.Expect(held.Request().Args).To(Equal([]string{"set", "k", "late"}))
	s.Expect(s.direct.Exists(s.ctx, "k").Val()).To(BeZero())

	s.Expect(c.Close()).To(Succeed())
	s.Eventually(result).WithTimeout(soon).Should(Receive(HaveOccurred()))
	s.Expect(s.direct.Set(s.ctx, "k", "early", 0).Err()).To(Succeed())

	s.Expect(held.Deliver()).To(Equal("+OK\r\n"))
	s.Expect(s.direct.Get(s.ctx, "k").Val()).To(Equal("late"))
}

func TestHeldRequestSurvivesACutOfAllConnections(t *testing.T) {
	s := start(t)
	c := s.proxied()
	held := s.proxy.Hold(proxy.Command("incr"))
	result := async(func() error { return c.Incr(s.ctx, "n").Err() })
	s.happened(held.Arrived)
	s.proxy.Cut()
	s.Eventually(result).WithTimeout(soon).Should(Receive(HaveOccurred()))
	s.Expect(held.Deliver()).To(Equal(":1\r\n"))
	s.Expect(held.Deliver()).To(Equal(":1\r\n"), "it is delivered once")
	s.Expect(s.direct.Get(s.ctx, "n").Val()).To(Equal("1"))
}

func TestClientThatWaitedGetsTheReply(t *testing.T) {
	s := start(t)
	c := s.proxied()
	held := s.proxy.Hold(proxy.Command("incr"))
	result := async(func() error { return c.Incr(s.ctx, "n").Err() })
	s.happened(held.Arrived)
	s.Expect(held.Deliver()).To(Equal(":1\r\n"))
	s.Eventually(result).WithTimeout(soon).Should(Receive(BeNil()))
}

func TestHeldRequestCanBeLost(t *testing.T) {
	s := start(t)
	c := s.proxied()
	held := s.proxy.Hold(proxy.Command("incr"))
	result := async(func() error { return c.Incr(s.ctx, "n").Err() })
	s.happened(held.Arrived)
	s.Expect(held.Cut()).To(Succeed())
	s.Eventually(result).WithTimeout(soon).Should(Receive(HaveOccurred()))
	s.Expect(s.direct.Exists(s.ctx, "n").Val()).To(BeZero())
	_, err := held.Deliver()
	s.Expect(err).To(MatchError(proxy.ErrCut))
}

func TestRulesCatchOneRequestEachInTheirOrder(t *testing.T) {
	s := start(t)
	first, second := s.proxy.Hold(proxy.Command("incr")), s.proxy.Hold(proxy.Command("incr"))
	a, b := s.proxied(), s.proxied()
	one := async(func() error { return a.Incr(s.ctx, "n").Err() })
	s.happened(first.Arrived)
	s.Expect(second.Arrived).NotTo(BeClosed())
	two := async(func() error { return b.Incr(s.ctx, "n").Err() })
	s.happened(second.Arrived)
	s.Expect(s.proxied().Incr(s.ctx, "n").Val()).To(BeEquivalentTo(1), "the third passes")
	s.Expect(second.Deliver()).To(Equal(":2\r\n"))
	s.Expect(first.Deliver()).To(Equal(":3\r\n"))
	s.Eventually(one).WithTimeout(soon).Should(Receive(BeNil()))
	s.Eventually(two).WithTimeout(soon).Should(Receive(BeNil()))
}

func TestHeldInTheMiddleOfAPipeline(t *testing.T) {
	s := start(t)
	c := s.proxied()
	held := s.proxy.Hold(proxy.With("b"))
	result := async(func() error {
		_, err := c.Pipelined(s.ctx, func(p redis.Pipeliner) error {
			p.Set(s.ctx, "a", 1, 0)
			p.Set(s.ctx, "b", 1, 0)
			p.Set(s.ctx, "c", 1, 0)
			return nil
		})
		return err
	})
	s.happened(held.Arrived)
	s.Eventually(func() int64 { return s.direct.Exists(s.ctx, "a").Val() }).WithTimeout(soon).Should(BeEquivalentTo(1))
	s.Expect(s.direct.Exists(s.ctx, "b", "c").Val()).To(BeZero())
	_, err := held.Deliver()
	s.Expect(err).NotTo(HaveOccurred())
	s.Eventually(result).WithTimeout(soon).Should(Receive(BeNil()))
	s.Expect(s.direct.Exists(s.ctx, "a", "b", "c").Val()).To(BeEquivalentTo(3))
}

func TestHeldReply(t *testing.T) {
	s := start(t)
	c := s.proxied()
	held := s.proxy.HoldReply(proxy.Command("incr"))
	result := async(func() error { return c.Incr(s.ctx, "n").Err() })
	s.happened(held.Arrived)
	s.Expect(s.direct.Get(s.ctx, "n").Val()).To(Equal("1"), "the server has done it")
	s.Expect(result).NotTo(Receive())
	s.Expect(held.Deliver()).To(Equal(":1\r\n"))
	s.Eventually(result).WithTimeout(soon).Should(Receive(BeNil()))
}

func TestHeldReplyCanBeLost(t *testing.T) {
	s := start(t)
	c := s.proxied()
	held := s.proxy.HoldReply(proxy.Command("incr"))
	result := async(func() error { return c.Incr(s.ctx, "n").Err() })
	s.happened(held.Arrived)
	s.Expect(held.Cut()).To(Succeed())
	s.Eventually(result).WithTimeout(soon).Should(Receive(HaveOccurred()))
	s.Expect(s.direct.Get(s.ctx, "n").Val()).To(Equal("1"))
}

func TestDroppedReplyLeavesTheConnectionHanging(t *testing.T) {
	s := start(t)
	c := redisserver.Connect(t, s.proxy.URL(), func(o *redis.Options) { o.MaxRetries, o.ReadTimeout, o.PoolSize = -1, soon, 1 })
	dropped := s.proxy.DropReply(proxy.Command("incr"))
	result := async(func() error { return c.Incr(s.ctx, "n").Err() })
	s.happened(dropped.Done)
	s.Expect(dropped.Reply()).To(Equal(":1\r\n"))
	s.Expect(s.direct.Get(s.ctx, "n").Val()).To(Equal("1"))
	s.Expect(result).NotTo(Receive())
	s.Expect(dropped.Cut()).To(Succeed())
	s.Eventually(result).WithTimeout(soon).Should(Receive(HaveOccurred()))
	s.Expect(c.Incr(s.ctx, "n").Val()).To(BeEquivalentTo(2), "a new connection works")
}

func TestNoReplyTakesThePlaceOfADroppedOne(t *testing.T) {
	s := start(t)
	s.Expect(s.direct.ConfigSet(s.ctx, "requirepass", "").Err()).To(Succeed())
	dropped := s.proxy.DropReply(proxy.With("a"))
	conn, err := net.Dial("tcp", s.proxy.Addr())
	s.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "INCR first\r\nINCR a\r\nINCR b\r\n")
	s.Expect(err).NotTo(HaveOccurred())
	s.happened(dropped.Done)
	s.Eventually(func() string { return s.direct.Get(s.ctx, "b").Val() }).WithTimeout(soon).Should(Equal("1"))
	s.Expect(dropped.Cut()).To(Succeed())
	got, _ := io.ReadAll(bufio.NewReader(conn))
	s.Expect(string(got)).To(Equal(":1\r\n"), "the first only")
}

func TestDuplicate(t *testing.T) {
	s := start(t)
	c := s.client(s.proxy.URL()[:len(s.proxy.URL())-1] + "3") // database 3: a copy has to select it too
	dup := s.proxy.Duplicate(proxy.Command("incr"))
	s.Expect(c.Incr(s.ctx, "n").Val()).To(BeEquivalentTo(1))
	s.happened(dup.Arrived)
	s.Expect(c.Get(s.ctx, "n").Val()).To(Equal("1"))
	s.Expect(c.Close()).To(Succeed())
	s.Expect(dup.Deliver()).To(Equal(":2\r\n"))
	s.Expect(dup.Deliver()).To(Equal(":3\r\n"))
}

func TestCutOnRequest(t *testing.T) {
	s := start(t)
	c := s.proxied()
	cut := s.proxy.CutOn(proxy.Command("incr"))
	s.Expect(c.Incr(s.ctx, "n").Err()).To(HaveOccurred())
	s.happened(cut.Done)
	s.Expect(cut.Request().Args).To(Equal([]string{"incr", "n"}))
	s.Expect(s.direct.Exists(s.ctx, "n").Val()).To(BeZero())
	s.Expect(c.Incr(s.ctx, "n").Val()).To(BeEquivalentTo(1))
}

func TestRefuseAndAccept(t *testing.T) {
	s := start(t)
	c := s.proxied()
	s.Expect(c.Ping(s.ctx).Err()).To(Succeed())
	s.proxy.Refuse()
	s.Expect(c.Ping(s.ctx).Err()).To(Succeed(), "open connections stay")
	s.Expect(s.proxied().Ping(s.ctx).Err()).To(MatchError(ContainSubstring("refused")))
	s.proxy.Cut()
	s.Expect(c.Ping(s.ctx).Err()).To(HaveOccurred())
	s.Expect(s.proxy.Accept()).To(Succeed())
	s.Expect(s.proxied().Ping(s.ctx).Err()).To(Succeed())
}

func TestSwallow(t *testing.T) {
	for name, tc := range map[string]struct {
		dir  proxy.Direction
		done int64
	}{
		"requests": {proxy.ToServer, 0},
		"replies":  {proxy.ToClient, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			c := s.proxied()
			s.Expect(c.Ping(s.ctx).Err()).To(Succeed())
			swallowed := s.proxy.Swallow(tc.dir)
			result := async(func() error { return c.Incr(s.ctx, "n").Err() })
			s.happened(swallowed.First)
			s.Expect(s.direct.Exists(s.ctx, "n").Val()).To(Equal(tc.done))
			swallowed.Stop()
			s.Expect(s.proxied().Ping(s.ctx).Err()).To(Succeed(), "new connections work")
			s.Expect(result).NotTo(Receive())
			s.proxy.Cut()
			s.Eventually(result).WithTimeout(soon).Should(Receive(HaveOccurred()))
			s.Expect(s.direct.Exists(s.ctx, "n").Val()).To(Equal(tc.done))
		})
	}
}

func TestPartitionDelaysAndLosesNothing(t *testing.T) {
	s := start(t)
	c := s.proxied()
	s.Expect(c.Ping(s.ctx).Err()).To(Succeed())
	s.proxy.Partition()
	var results []<-chan error
	for range 5 {
		results = append(results, async(func() error { return c.Incr(s.ctx, "n").Err() }))
	}
	s.Expect(s.direct.Exists(s.ctx, "n").Val()).To(BeZero())
	s.proxy.Heal()
	for _, r := range results {
		s.Eventually(r).WithTimeout(soon).Should(Receive(BeNil()))
	}
	s.Expect(s.direct.Get(s.ctx, "n").Val()).To(Equal("5"))
}

func TestSlowDelaysEachRequest(t *testing.T) {
	s := start(t)
	c := s.proxied()
	s.Expect(c.Ping(s.ctx).Err()).To(Succeed())
	s.proxy.Forget()
	s.Expect(s.proxy.Requests()).To(BeEmpty())
	const delay = 200 * time.Millisecond
	s.proxy.Slow(delay)
	began := time.Now()
	s.Expect(c.Incr(s.ctx, "n").Err()).To(Succeed())
	s.Expect(time.Since(began)).To(BeNumerically(">=", delay))
	s.proxy.Slow(0)
	s.Expect(c.Incr(s.ctx, "n").Val()).To(BeEquivalentTo(2))
	s.Expect(s.proxy.Requests()).To(HaveLen(2))
}

func TestServerThatIsGoneEndsConnections(t *testing.T) {
	s := start(t)
	c := s.proxied()
	held := s.proxy.Hold(proxy.Command("incr"))
	result := async(func() error { return c.Incr(s.ctx, "n").Err() })
	s.happened(held.Arrived)
	s.Expect(s.server.Kill()).To(Succeed())
	s.Eventually(result).WithTimeout(soon).Should(Receive(HaveOccurred()))
	_, err := held.Deliver()
	s.Expect(err).To(HaveOccurred())
	s.Expect(s.server.Start()).To(Succeed())
	s.Expect(s.proxied().Ping(s.ctx).Err()).To(Succeed())
	s.Expect(s.proxy.Connections()).To(Equal(1))
}

func TestCloseEndsWhatIsHeld(t *testing.T) {
	s := start(t)
	c := s.proxied()
	held := s.proxy.Hold(proxy.Command("incr"))
	result := async(func() error { return c.Incr(s.ctx, "n").Err() })
	s.happened(held.Arrived)
	s.proxy.Close()
	s.Eventually(result).WithTimeout(soon).Should(Receive(HaveOccurred()))
	_, err := held.Deliver()
	s.Expect(err).To(MatchError(proxy.ErrClosed))
	s.Expect(s.proxy.Accept()).To(MatchError(proxy.ErrClosed))
}

func TestManyClientsAtOnce(t *testing.T) {
	s := start(t)
	c := s.proxied()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 50 {
				if err := c.Incr(s.ctx, "n").Err(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s.Expect(s.direct.Get(s.ctx, "n").Val()).To(Equal("1000"))
}

func TestTLSIsRefused(t *testing.T) {
	t.Parallel()
	_, err := proxy.New("rediss://127.0.0.1:1")
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("rediss://")))
}
