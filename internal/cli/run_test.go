package cli_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/test/children"
)

// family is a program with a child of its own: it prints both process ids, and "term"
// when SIGTERM comes, which it survives.
const family = `trap 'echo term' TERM
sh -c 'trap "" TERM; while :; do sleep 0.02; done' &
echo $$ $!
while :; do sleep 0.02; done`

func TestRunHoldsTheLockWhileTheProgramRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	program := `echo "$REDISLOCK_KEY $REDISLOCK_TOKEN $REDISLOCK_FENCING_TOKEN $FROM_OUTSIDE"; read line; echo "$line" >&2; exec sleep 1000`
	p := b.start("run", "--identity", "blue", key, "--", "sh", "-c", program)
	fields := strings.Fields(b.line(p, 0))
	b.Expect(fields).To(HaveLen(4))
	b.Expect(fields[0]).To(Equal(key))
	b.Expect(b.value(key)).To(Equal(fields[1]))
	token, ok := redislock.ParseToken(fields[1])
	b.Expect(ok).To(BeTrue())
	b.Expect(token.Identity).To(Equal("blue"))
	b.Expect(fmt.Sprint(token.Fence)).To(Equal(fields[2]))
	b.Expect(fields[3]).To(Equal("kept"), "the environment")

	refused := b.redislock("run", "--no-wait", key, "--", "echo", "ran")
	b.Expect(refused.code).To(Equal(75))
	b.Expect(refused.stdout).To(BeEmpty())
	b.Expect(refused.stderr).To(And(ContainSubstring("blue"), ContainSubstring(key)))
	late := b.redislock("run", "--timeout", "50ms", key, "--", "echo", "ran")
	b.Expect(late.code).To(Equal(75))
	b.Expect(late.stderr).To(And(ContainSubstring("blue"), ContainSubstring("50ms")))
	b.Expect(late.stdout).To(BeEmpty())

	waiter := b.start("run", key, "--", "sh", "-c", "echo $REDISLOCK_FENCING_TOKEN")
	b.Expect(p.cmd.Process.Signal(syscall.SIGTERM)).To(Succeed())
	b.Expect(b.code(p)).To(Equal(128 + 15))
	b.Expect(b.code(waiter)).To(Equal(0))
	b.Expect(len(b.line(waiter, 0))).To(BeNumerically(">=", len(fields[2])))
	b.Expect(b.line(waiter, 0) > fields[2]).To(BeTrue(), "a higher fencing token")
	b.Expect(b.value(key)).To(BeEmpty())
}

func TestRunPassesOnStandardInputAndHowTheProgramEnded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	echo := execute(t, b.environ(), "from stdin", "run", key, "--", "sh", "-c", "cat; echo to stderr >&2; exit 7")
	b.Expect(echo).To(Equal(result{7, "from stdin", "to stderr\n"}))
	for program, code := range map[string]int{"true": 0, "exit 1": 1, "exit 125": 125, "kill -KILL $$": 137, "kill -USR1 $$": 128 + int(syscall.SIGUSR1)} {
		r := b.redislock("run", key, "--", "sh", "-c", program)
		b.Expect(r).To(Equal(result{code, "", ""}), program)
		b.Expect(b.value(key)).To(BeEmpty(), program)
	}
	// Flags may stand after the key, and what follows -- is the program's.
	b.Expect(b.redislock("run", key, "--no-wait", "--", "echo", "--", "--lease").stdout).To(Equal("-- --lease\n"))
}

func TestRunSaysThatAProgramCannotBeRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for program, code := range map[string]int{"no-such-program": 127, "/no/such/program": 127, "/etc/passwd": 126, "/": 126} {
		r := b.redislock("run", key, "--", program)
		b.Expect(r.code).To(Equal(code), program)
		b.Expect(r.stderr).To(ContainSubstring(program))
		b.Expect(b.value(key)).To(BeEmpty(), program)
	}
}

func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, sig := range map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2} {
		p := b.start("run", key, "--", "sh", "-c", fmt.Sprintf(`trap 'echo got; exit 3' %s; echo ready; while :; do sleep 0.02; done`, name))
		b.line(p, 0)
		b.Expect(p.cmd.Process.Signal(sig)).To(Succeed())
		b.Expect(b.code(p)).To(Equal(3), name)
		b.Expect(b.line(p, 1)).To(Equal("got"))
		b.Expect(b.value(key)).To(BeEmpty())
	}
}

func TestASignalEndsTheWait(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Expect(b.rdb.Set(t.Context(), key, "somebody", 0).Err()).To(Succeed())
	subscribed := func() int64 {
		channel := "{" + key + "}:wake"
		return b.rdb.PubSubNumSub(context.Background(), channel).Val()[channel]
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		p := b.start("run", key, "--", "echo", "ran")
		b.Eventually(subscribed).Should(Equal(int64(1)), "it waits")
		b.Expect(p.cmd.Process.Signal(sig)).To(Succeed())
		b.Expect(b.code(p)).To(Equal(128 + int(sig)))
		b.Expect(p.output()).To(BeEmpty())
		b.Eventually(subscribed).Should(BeZero())
	}
}

func TestALostLeaseEndsTheProgramAndAllItStarted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.start("run", "--lease", "1s", "--grace", "300ms", key, "--", "sh", "-c", family)
	pids := b.pids(b.line(p, 0))
	b.Expect(b.server.Pause()).To(Succeed())
	b.Expect(b.code(p)).To(Equal(79))
	b.Expect(b.server.Resume()).To(Succeed())
	b.Expect(b.line(p, 1)).To(Equal("term"), "it had the grace to end")
	for _, pid := range pids {
		b.Expect(alive(pid)).To(BeFalse())
	}
	b.Expect(p.stderr.text()).To(And(ContainSubstring("lost"), ContainSubstring(key)))
}

func TestALostLockIsFreeOnceNothingRunsAnyMore(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	resumed := filepath.Join(t.TempDir(), "resumed")
	program := `trap 'echo term; while [ ! -e "$0" ]; do sleep 0.02; done; exit 0' TERM; echo; while :; do sleep 0.02; done`
	p := b.start("run", "--lease", "1s", "--grace", "1m", key, "--", "sh", "-c", program, resumed)
	b.line(p, 0)
	b.Expect(b.server.Pause()).To(Succeed())
	b.Expect(b.line(p, 1)).To(Equal("term"))
	b.Expect(b.server.Resume()).To(Succeed())
	b.Expect(os.WriteFile(resumed, nil, 0o600)).To(Succeed())
	b.Expect(b.code(p)).To(Equal(79))
	b.Expect(b.value(key)).To(BeEmpty(), "it need not lapse")
}

func TestTheKeyOutlivesTheProgramOfALostLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.start("run", "--grace", "1m", key, "--", "sh", "-c", "echo; sleep 1000")
	b.line(p, 0)
	b.Expect(b.rdb.PTTL(t.Context(), key).Val()).To(BeNumerically(">", time.Minute))
}

// A deleted key keeps nobody else away.
func TestADeletedKeyEndsTheProgramAtOnce(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*bench) error{
		"gone":        func(b *bench) error { return b.rdb.Del(context.Background(), key).Err() },
		"another has": func(b *bench) error { return b.rdb.Set(context.Background(), key, "x", time.Minute).Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			p := b.start("run", "--lease", "3s", "--grace", "20s", key, "--", "sh", "-c", family)
			pids := b.pids(b.line(p, 0))
			b.Expect(lose(b)).To(Succeed())
			b.Expect(b.code(p)).To(Equal(79))
			for _, pid := range pids {
				b.Expect(alive(pid)).To(BeFalse())
			}
			b.Expect(p.output()).To(HaveLen(1), "no SIGTERM before")
		})
	}
}

// What was released by force is kept taken for as long as its holder may act.
func TestAReleaseByForceLeavesTheProgramItsGrace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.start("run", "--lease", "3s", "--grace", "300ms", key, "--", "sh", "-c", family)
	pids := b.pids(b.line(p, 0))
	client, err := redislock.New(b.rdb)
	b.Expect(err).NotTo(HaveOccurred())
	_, err = client.ForceReleaseValue(t.Context(), key, b.value(key))
	b.Expect(err).NotTo(HaveOccurred())
	b.Expect(b.code(p)).To(Equal(79))
	b.Expect(b.line(p, 1)).To(Equal("term"))
	for _, pid := range pids {
		b.Expect(alive(pid)).To(BeFalse())
	}
}

func TestTheProgramEndsWhenRedislockIsKilled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.start("run", "--grace", "300ms", key, "--", "sh", "-c", family)
	pids := b.pids(b.line(p, 0))
	b.Expect(p.cmd.Process.Kill()).To(Succeed())
	for _, pid := range pids {
		b.Eventually(func() bool { return alive(pid) }).Should(BeFalse())
	}
	b.Expect(b.line(p, 1)).To(Equal("term"))
	b.Expect(b.value(key)).NotTo(BeEmpty(), "nobody else has it while they end")
}

func TestTheLockIsGivenBackWhenNothingRunsAnyMore(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.redislock("run", "--grace", "300ms", key, "--", "sh", "-c", `sh -c 'trap "" TERM; while :; do sleep 0.02; done' >/dev/null 2>&1 & echo $!; exit 4`)
	b.Expect(r.code).To(Equal(4))
	for _, pid := range b.pids(r.stdout) {
		b.Expect(alive(pid)).To(BeFalse())
	}
	b.Expect(b.value(key)).To(BeEmpty())
}

// Nothing tells a process that is stopped that its lease is over; the fencing token is
// for that. When it goes on it has no grace to give.
func TestAStoppedRedislockEndsTheProgramWhenItGoesOn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.start("run", "--lease", "2s", "--grace", "300ms", key, "--", "sh", "-c", family)
	pids := b.pids(b.line(p, 0))
	b.Expect(children.Pause(t.Context(), p.cmd.Process.Pid)).To(Succeed())
	b.Eventually(func() string { return b.value(key) }).Should(BeEmpty())
	b.Expect(b.rdb.Set(t.Context(), key, "x", time.Minute).Err()).To(Succeed())
	b.Expect(children.Resume(p.cmd.Process.Pid)).To(Succeed())
	b.Expect(b.code(p)).To(Equal(79))
	for _, pid := range pids {
		b.Expect(alive(pid)).To(BeFalse())
	}
	b.Expect(p.output()).To(HaveLen(1), "no SIGTERM, for another has the lock")
	b.Expect(b.value(key)).To(Equal("x"))
}

func TestElectRunsTheProgramWhileItLeads(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const key = "lock:leader:payments"
	program := `echo $REDISLOCK_FENCING_TOKEN; trap 'exit 5' TERM; while :; do sleep 0.02; done`
	blue := b.start("elect", "--identity", "blue", "--lease", "3s", "--grace", "100ms", "payments", "--", "sh", "-c", program)
	first := b.line(blue, 0)
	b.Expect(b.redislock("status", key).stdout).To(And(ContainSubstring("blue"), ContainSubstring(first)))

	b.Expect(b.rdb.Del(t.Context(), key).Err()).To(Succeed())
	second := b.line(blue, 1)
	b.Expect(second > first).To(BeTrue(), "it leads again, in another term")
	b.Expect(blue.stderr.text()).To(ContainSubstring("lost"))

	green := b.start("elect", "payments", "--", "sh", "-c", program)
	b.Expect(blue.cmd.Process.Signal(syscall.SIGTERM)).To(Succeed())
	b.Expect(b.code(blue)).To(Equal(5), "the program ended by itself")
	b.Expect(b.line(green, 0) > second).To(BeTrue())

	waiting := b.start("elect", "payments", "--", "echo", "ran")
	b.Eventually(func() int64 {
		channel := "{" + key + "}:wake"
		return b.rdb.PubSubNumSub(context.Background(), channel).Val()[channel]
	}).Should(Equal(int64(1)))
	b.Expect(waiting.cmd.Process.Signal(syscall.SIGTERM)).To(Succeed())
	b.Expect(b.code(waiting)).To(Equal(128 + 15))
	b.Expect(waiting.output()).To(BeEmpty())
}
