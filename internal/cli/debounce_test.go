package cli_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const debounceKey = "debounce:report"

// tellRun is a program that prints what it is run for.
const tellRun = `echo "$REDISLOCK_DEBOUNCE_GENERATION $REDISLOCK_DEBOUNCE_CALLS $REDISLOCK_DEBOUNCE_PAYLOAD $FROM_OUTSIDE"`

// call records a call and returns its generation.
func (b *bench) call(args ...string) string {
	b.t.Helper()
	r := b.redislock(append([]string{"debounce", "call", debounceKey}, args...)...)
	b.Expect(r.code).To(Equal(0), r.stderr)
	return strings.Fields(r.stdout)[0]
}

// quick are flags of a runner with which a window ends at once.
var quick = []string{"--wait", "1ms"}

// runner starts one that goes on until the test ends it.
func (b *bench) runner(program []string, flags ...string) *process {
	b.t.Helper()
	return b.start(append(append([]string{"debounce", "run", debounceKey}, append(flags, "--")...), program...)...)
}

func (b *bench) runOnce(program []string, flags ...string) result {
	b.t.Helper()
	return b.redislock(append(append([]string{"debounce", "run", debounceKey, "--once"}, append(flags, "--")...), program...)...)
}

func shell(script string, args ...string) []string {
	return append([]string{"sh", "-c", script}, args...)
}

// state asks with the library.
func (b *bench) state() redislock.DebounceState {
	b.t.Helper()
	client, err := redislock.New(b.rdb)
	b.Expect(err).NotTo(HaveOccurred())
	defer func() { _ = client.Close(context.Background()) }()
	d, err := client.Debouncer(debounceKey, redislock.Debounce{})
	b.Expect(err).NotTo(HaveOccurred())
	state, err := d.State(context.Background())
	b.Expect(err).NotTo(HaveOccurred())
	return state
}

func TestCallsAreRecordedAndRunOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Expect(b.redislock("debounce", "status", debounceKey)).To(Equal(result{1, "FREE\n", ""}))
	first := b.redislock("debounce", "call", debounceKey, "--payload", "one")
	b.Expect(first.code).To(Equal(0), first.stderr)
	b.Expect(first.stdout).To(MatchRegexp(`^[1-9]\d{15} opened\n$`))
	generation := strings.Fields(first.stdout)[0]
	numbered := []string{"debounce", "call", debounceKey, "--source", "ci", "--sequence", "7", "--payload", "two"}
	b.Expect(b.redislock(numbered...)).To(Equal(result{0, generation + " joined\n", ""}))
	b.Expect(b.redislock(numbered...)).To(Equal(result{0, generation + " repeated\n", ""}))
	last := decode[map[string]any](b, execute(t, b.environ(), "three\nlines", "debounce", "call", debounceKey, "--payload-file", "-", "-o", "json"))
	b.Expect(last).To(And(HaveLen(5), HaveKeyWithValue("key", debounceKey), HaveKeyWithValue("opened", false), HaveKeyWithValue("repeated", false),
		HaveKeyWithValue("at", MatchRegexp(`^20.*Z$`))))
	b.Expect(fmt.Sprintf("%.0f", last["generation"])).To(Equal(generation))

	waiting := b.redislock("debounce", "status", debounceKey)
	b.Expect(waiting.code).To(Equal(0))
	b.Expect(waiting.stdout).To(MatchRegexp(`^ACQUIRED\nwaiting: 3 calls, window open since 20\S+\n$`))

	ran := b.runOnce(shell(tellRun+"; cat"), append(quick, "--identity", "blue")...)
	b.Expect(ran).To(Equal(result{0, generation + " 3 three\nlines kept\nthree\nlines", ""}))
	quiet := b.redislock("debounce", "status", debounceKey)
	b.Expect(quiet.code).To(Equal(1))
	b.Expect(quiet.stdout).To(MatchRegexp(`^FREE\nlast run: generation ` + generation + ` for 3 calls by blue#\S+, Succeeded at 20\S+\n$`))
	state := decode[map[string]any](b, b.redislock("debounce", "status", debounceKey, "--output", "json"))
	b.Expect(state).To(And(HaveKeyWithValue("state", "FREE"), HaveKeyWithValue("calls", 3.0), HaveKeyWithValue("runs", 1.0), HaveKeyWithValue("waiting", 0.0)))
	b.Expect(state).NotTo(Or(HaveKey("since"), HaveKey("running")))
	b.Expect(state["lastRun"]).To(And(HaveLen(7), HaveKeyWithValue("outcome", "Succeeded"), HaveKeyWithValue("calls", 3.0), HaveKeyWithValue("attempt", 1.0)))
}

func TestTheRunGetsThePayloadWhateverItIs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "payload")
	big := strings.Repeat("x", redislock.MaxPayload)
	for _, payload := range []string{"", big, "a\x00b\xff"} {
		b.Expect(os.WriteFile(file, []byte(payload), 0o600)).To(Succeed())
		b.call("--payload-file", file)
		variable := payload
		if strings.Contains(payload, "\x00") {
			variable = "" // no variable can have that
		}
		r := b.runOnce(shell(`printf %s "$REDISLOCK_DEBOUNCE_PAYLOAD"; printf '|'; cat`), quick...)
		b.Expect(r).To(Equal(result{0, variable + "|" + payload, ""}))
	}
	b.call("--payload-file", file)
	b.Expect(b.runOnce([]string{"true"}, quick...).code).To(Equal(0), "nobody has to read it")

	b.call("--payload", "first")
	b.call("--payload", "last")
	b.Expect(b.runOnce([]string{"cat"}, append(quick, "--payload-choice", "first")...).stdout).To(Equal("first"))
}

func TestTheFlagsSayWhenToRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	generation := b.call()
	b.Expect(b.runOnce(shell(tellRun), "--wait", "1h", "--max-wait", "1h", "--edge", "leading").stdout).To(HavePrefix(generation + " 1 "))
	b.Expect(b.redislock("debounce", "call", debounceKey).stdout).To(Equal(generation+" joined\n"), "that run covers it")
	b.Expect(b.rdb.Del(t.Context(), debounceKey).Err()).To(Succeed())

	b.call()
	b.Expect(b.runOnce([]string{"true"}, "--wait", "1h", "--max-wait", "1h", "--edge", "both").code).To(Equal(0))
	next := b.call()
	state := b.state()
	b.Expect(fmt.Sprint(state.Pending)).To(Equal(next), "a run at the end of the window")
	b.Expect(b.rdb.Del(t.Context(), debounceKey).Err()).To(Succeed())

	b.call()
	b.Expect(b.runOnce([]string{"true"}, "--wait", "1ms", "--max-wait", "2ms").code).To(Equal(0))
	started := b.state().LastRun.Started
	b.call()
	b.Expect(b.runOnce([]string{"true"}, "--wait", "1ms", "--min-interval", "700ms").code).To(Equal(0))
	b.Expect(b.state().LastRun.Started.Sub(started).Milliseconds()).To(BeNumerically(">=", 700))
}

func TestManyWhoRunAreOneRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var runners []*process
	for range 3 {
		runners = append(runners, b.runner(shell(tellRun), quick...))
	}
	printed := func() (lines []string) {
		for _, p := range runners {
			lines = append(lines, p.output()...)
		}
		return lines
	}
	for _, payload := range []string{"a", "b"} {
		generation := b.call("--payload", payload)
		b.Eventually(b.state).Should(HaveField("Quiet()", true))
		b.Eventually(printed).Should(ContainElement(generation + " 1 " + payload + " kept"))
	}
	b.Expect(printed()).To(HaveLen(2))
	b.Expect(b.state().Runs).To(Equal(int64(2)))
	for _, p := range runners {
		b.Expect(p.cmd.Process.Signal(syscall.SIGTERM)).To(Succeed())
		b.Expect(b.code(p)).To(Equal(128 + 15))
	}
}

func TestAProgramThatFailsIsAFailedRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	generation := b.call()
	r := b.runOnce(shell("exit 7"), quick...)
	b.Expect(r.code).To(Equal(7))
	b.Expect(r.stderr).To(And(ContainSubstring("exit code 7"), ContainSubstring(generation)))
	b.Expect(b.redislock("debounce", "status", debounceKey).stdout).To(MatchRegexp(`, Failed at 20\S+: exit code 7\n$`))

	p := b.runner(shell(`echo "$REDISLOCK_DEBOUNCE_GENERATION"; exit 1`), quick...)
	for i := range 2 {
		generation := b.call()
		b.Expect(b.line(p, i)).To(Equal(generation), "the next call is run")
		b.Eventually(b.state).Should(And(HaveField("Quiet()", true), HaveField("LastRun.Outcome", redislock.DebounceFailed)))
	}
}

func TestWhoCannotRunDoesNotClaim(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.call()
	for program, code := range map[string]int{"no-such-program": 127, "/etc/passwd": 126} {
		r := b.runOnce([]string{program}, quick...)
		b.Expect(r.code).To(Equal(code))
		b.Expect(r.stderr).To(ContainSubstring(program))
	}
	// It is found, but cannot be run: nobody has run it, and another can at once.
	broken := filepath.Join(t.TempDir(), "broken")
	b.Expect(os.WriteFile(broken, []byte("#!/no/such/interpreter\n"), 0o700)).To(Succeed())
	b.Expect(b.runOnce([]string{broken}, append(quick, "--lease", "1h")...).code).To(Equal(127))
	b.Expect(b.state()).To(And(HaveField("LastRun", BeNil()), HaveField("Quiet()", false)))
	b.Expect(b.runOnce([]string{"true"}, quick...).code).To(Equal(0))
	b.Expect(b.state().LastRun.Attempt).To(Equal(2), "after one that was given back")

	b.Expect(b.rdb.Set(t.Context(), debounceKey, "x", 0).Err()).To(Succeed())
	for _, r := range []result{b.redislock("debounce", "call", debounceKey), b.redislock("debounce", "status", debounceKey), b.runOnce([]string{"true"})} {
		b.Expect(r.code).To(Equal(69))
		b.Expect(r.stderr).To(ContainSubstring("no debounce"))
		b.Expect(strings.Count(r.stderr, "\n")).To(Equal(1))
	}
}

func TestALostClaimEndsTheProgramAtOnce(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*bench) error{
		"gone":     func(b *bench) error { return b.rdb.Del(context.Background(), debounceKey).Err() },
		"no Redis": func(b *bench) error { return b.server.Pause() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.call()
			p := b.runner(shell(family), append(quick, "--once", "--lease", "2s", "--grace", "1m")...)
			pids := b.pids(b.line(p, 0))
			b.Expect(lose(b)).To(Succeed())
			b.Expect(b.code(p)).To(Equal(79))
			for _, pid := range pids {
				b.Expect(alive(pid)).To(BeFalse())
			}
			b.Expect(p.output()).To(HaveLen(1), "no SIGTERM before")
			b.Expect(p.stderr.text()).To(And(ContainSubstring("claim"), ContainSubstring(debounceKey)))
			b.Expect(b.server.Resume()).To(Succeed())
		})
	}
}

func TestARunnerGoesOnAfterALostClaim(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.runner(shell(`echo "$REDISLOCK_DEBOUNCE_GENERATION"; exec sleep 1000`), append(quick, "--lease", "2s")...)
	first := b.call()
	b.Expect(b.line(p, 0)).To(Equal(first))
	b.Expect(b.rdb.Del(t.Context(), debounceKey).Err()).To(Succeed())
	b.Eventually(p.stderr.text).Should(ContainSubstring("lost"))
	second := b.call()
	b.Expect(b.line(p, 1)).To(Equal(second))
}

func TestAnotherTakesTheRunOverFromOneThatWasKilled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	generation := b.call("--payload", "kept through it")
	p := b.runner(shell(family), append(quick, "--lease", "2s", "--grace", "200ms")...)
	pids := b.pids(b.line(p, 0))
	running := b.redislock("debounce", "status", debounceKey)
	b.Expect(running.code).To(Equal(0))
	b.Expect(running.stdout).To(MatchRegexp(`^ACQUIRED\nrunning: generation ` + generation + ` for 1 call by \S+ since 20\S+, attempt 1, lease ends at 20\S+\n$`))
	b.Expect(p.cmd.Process.Kill()).To(Succeed())
	r := b.runOnce(shell(tellRun), quick...)
	b.Expect(r).To(Equal(result{0, generation + " 1 kept through it kept\n", ""}))
	b.Expect(b.state().LastRun.Attempt).To(Equal(2))
	for _, pid := range pids {
		b.Eventually(func() bool { return alive(pid) }).Should(BeFalse())
	}
}

func TestASignalEndsTheProgramAndThenTheRunner(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, c := range []struct {
		program string
		outcome bool
	}{
		{`trap 'exit 0' TERM`, true},
		{`trap 'exit 3' TERM`, false},
	} {
		generation := b.call()
		p := b.runner(shell(`trap 'echo usr1' USR1; `+c.program+`; echo ready; while :; do sleep 0.02; done`), append(quick, "--lease", "1h")...)
		b.Expect(b.line(p, 0)).To(Equal("ready"))
		b.Expect(p.cmd.Process.Signal(syscall.SIGUSR1)).To(Succeed())
		b.Expect(b.line(p, 1)).To(Equal("usr1"))
		b.Expect(p.cmd.Process.Signal(syscall.SIGTERM)).To(Succeed())
		b.Expect(b.code(p)).To(Equal(128 + 15))
		b.Expect(b.state().Quiet()).To(Equal(c.outcome))
		if !c.outcome {
			b.Expect(b.runOnce(shell(tellRun), quick...).stdout).To(HavePrefix(generation), "another has it at once")
		}
	}
}

// The program has run, and is not to run again because Redis could not be told.
func TestARunWhoseEndCouldNotBeRecordedIsNotRepeated(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	end := filepath.Join(t.TempDir(), "end")
	b.call()
	p := b.runner(shell(`echo ran; while [ ! -e "$0" ]; do sleep 0.02; done; echo ended; exit 4`, end), append(quick, "--once", "--lease", "5s")...)
	b.line(p, 0)
	b.Expect(b.rdb.ConfigSet(t.Context(), "maxmemory", "1").Err()).To(Succeed())
	b.Expect(os.WriteFile(end, nil, 0o600)).To(Succeed())
	b.Expect(b.line(p, 1)).To(Equal("ended"))
	b.Eventually(func() bool {
		s := b.state()
		return s.At.After(s.Running.Till)
	}).Should(BeTrue())
	b.Expect(b.rdb.ConfigSet(t.Context(), "maxmemory", "0").Err()).To(Succeed())
	b.Expect(b.code(p)).To(Equal(4))
	b.Expect(p.output()).To(Equal([]string{"ran", "ended"}))
	b.Expect(b.state().LastRun.Message).To(Equal("exit code 4"))
}

func TestARunnerSaysWhyItWaits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Expect(b.server.Kill()).To(Succeed())
	p := b.runner(shell(tellRun), quick...)
	b.Eventually(p.stderr.text).Should(ContainSubstring("connect"))
	b.Expect(b.server.Start()).To(Succeed())
	generation := b.call()
	b.Expect(b.line(p, 0)).To(HavePrefix(generation))
}
