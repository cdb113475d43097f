package redislock

import (
	"errors"
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

func TestMemoryIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var m memory
	m.saw("used", 42)
	for i := range 10 * memoryGeneration {
		m.saw(fmt.Sprint(i), uint64(i+1))
		if i%1000 == 0 {
			m.saw("used", 7)
		}
		if n := len(m.young) + len(m.old); n > 2*memoryGeneration {
			t.Fatalf("%d keys are remembered", n)
		}
	}
	g.Expect(m.recall("used").seen).To(BeEquivalentTo(42), "the highest, however old")
	g.Expect(m.recall("0").seen).To(BeZero(), "forgotten")
	last := 10*memoryGeneration - 1
	g.Expect(m.recall(fmt.Sprint(last)).seen).To(BeEquivalentTo(last + 1))
	m.saw("none", 0)
	g.Expect(m.young).NotTo(HaveKey("none"), "no fence is nothing to remember")
}

func TestAQuarantineLastsByTheClockThatCannotBeSet(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	clk := &bentClock{}
	var m memory
	m.saw("k", 9)
	m.beginQuarantine("k", 9, 5, clk.now(), time.Hour)
	clk.setWall(24 * time.Hour)
	r, left := m.quarantineRemaining("k", clk.now())
	g.Expect(left).To(BeNumerically("~", time.Hour, time.Minute))
	g.Expect(r.quarantined).To(BeEquivalentTo(9))
	g.Expect(r.found).To(BeEquivalentTo(5))
	g.Expect(r.forgiven).To(BeZero())
	clk.pass(time.Hour)
	r, left = m.quarantineRemaining("k", clk.now())
	g.Expect(left).To(BeZero())
	g.Expect(r.forgiven).To(BeEquivalentTo(9))
	g.Expect(r.seen).To(BeEquivalentTo(9))
}

func TestServerTimeIsNeverTooEarly(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var s serverTime
	at := func(boot time.Duration) instant { return instant{t: processStart.Add(boot), boot: boot} }
	g.Expect(s.micros(at(0))).To(BeZero(), "unknown")
	s.learn(at(0), at(0), 0)
	g.Expect(s.micros(at(0))).To(BeZero(), "an empty reply tells nothing")

	// The server said 1000 s at some time between 10 s and 12 s of ours.
	s.learn(at(10*time.Second), at(12*time.Second), 1_000_000_000)
	g.Expect(s.micros(at(10 * time.Second))).To(BeEquivalentTo(1_000_000_000))
	g.Expect(s.micros(at(15 * time.Second))).To(BeEquivalentTo(1_005_000_000))
	g.Expect(s.uncertainty()).To(Equal(2 * time.Second))
}

func TestStepsOfTheServersClockAreNoticed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		second   time.Duration // the server's time at 1 h of ours, beside what it should be
		steps    int
		expected time.Duration
	}{
		"none":           {0, 0, 0},
		"within bounds":  {400 * time.Millisecond, 0, 0},
		"drift":          {2 * time.Second, 0, 0}, // 0.05 % of an hour
		"ahead":          {time.Minute, 1, time.Minute},
		"behind":         {-time.Minute, 1, -time.Minute},
		"a little ahead": {5 * time.Second, 1, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			var s serverTime
			at := func(boot time.Duration) instant { return instant{t: processStart.Add(boot), boot: boot} }
			const epoch = 1000 * time.Hour
			s.learn(at(0), at(time.Millisecond), epoch.Microseconds())
			s.learn(at(time.Hour), at(time.Hour+time.Millisecond), (epoch + time.Hour + test.second).Microseconds())
			steps, step := s.stepped()
			g.Expect(steps).To(Equal(test.steps))
			g.Expect(step).To(BeNumerically("~", test.expected, 2*time.Millisecond))
			g.Expect(s.micros(at(time.Hour))).To(Equal((epoch + time.Hour + test.second).Microseconds()), "the last reply counts")
		})
	}
}

func TestAQuarantineCanBeMadeLongerAndNotShorter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ asked, expected time.Duration }{
		"longer":  {time.Hour, time.Hour},
		"shorter": {time.Minute, 6 * time.Minute},
		"none":    {0, 6 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			clk := &bentClock{}
			c := newClient(t, connect(t, startRedis(t).URL()), withClock(clk))
			opts := []LockOption{
				WithLease(5 * time.Minute), WithLockDelay(time.Minute), WithQuarantine(test.asked),
				WithSeen(uint64(time.Now().Add(time.Minute).UnixMicro())),
			}
			for _, left := range []time.Duration{test.expected, time.Second} {
				_, err := c.TryAcquire(t.Context(), key, opts...)
				var quarantine *QuarantineError
				g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
				g.Expect(quarantine.Remaining).To(BeNumerically("<=", left))
				g.Expect(quarantine.Remaining).To(BeNumerically(">", left*9/10-time.Second))
				clk.pass(test.expected - time.Second)
			}
			mustAcquire(t, c, key, opts...)
		})
	}
}
