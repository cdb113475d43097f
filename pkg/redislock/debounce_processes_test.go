package redislock

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/children"
)

// debounceRole is the environment variable that makes this program a process of a test:
// "caller" or "runner". debounceTask says what it does.
const (
	debounceRole = "REDISLOCK_TEST_DEBOUNCE"
	debounceTask = "REDISLOCK_TEST_DEBOUNCE_TASK"
)

type debounceJob struct {
	URL, Name     string
	Seed          uint64
	Calls         int
	Every         time.Duration // between two calls; without it they come in bursts
	Wait, MaxWait time.Duration
	MinInterval   time.Duration
	Lease         time.Duration
	Edge          Edge
	Payload       PayloadChoice
	Claimant      string
	Longest       time.Duration // that a run takes
	Hang          bool          // each run does
}

func (j debounceJob) settings() Debounce {
	return Debounce{Wait: j.Wait, MaxWait: j.MaxWait, MinInterval: j.MinInterval, Lease: j.Lease, Edge: j.Edge, Payload: j.Payload, Claimant: j.Claimant}
}

// debounceProcess is what such a process does. It tells each call and each run on its
// standard output.
func debounceProcess(role string) int {
	var job debounceJob
	err := json.Unmarshal([]byte(os.Getenv(debounceTask)), &job)
	if err == nil {
		var options *redis.Options
		if options, err = redis.ParseURL(job.URL); err == nil {
			options.ContextTimeoutEnabled = true
			err = debounceRoles[role](redis.NewClient(options), job)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role, err)
		return 1
	}
	return 0
}

var debounceRoles = map[string]func(*redis.Client, debounceJob) error{"caller": debounceCaller, "runner": debounceRunner}

func debounceCaller(rdb *redis.Client, job debounceJob) error {
	c, err := New(rdb)
	if err != nil {
		return err
	}
	d, err := c.Debouncer(debounceKey, Debounce{})
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	random := rand.New(rand.NewPCG(job.Seed, 0))
	var mu sync.Mutex
	var failure error
	tell := func(payload string, call Call, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			err = out.Encode(madeCall{payload, call.Generation, call.At.UnixMicro()})
		}
		failure = errors.Join(failure, err)
	}
	named := func(i int) (Call, error) {
		call, err := d.Call(context.Background(), fmt.Appendf(nil, "%s/%d", job.Name, i), WithSequence(job.Name, uint64(i)))
		if err != nil {
			return call, err
		}
		again, err := d.Call(context.Background(), []byte("repeated"), WithSequence(job.Name, uint64(i)))
		if err == nil && (!again.Again || again.Generation != call.Generation) {
			err = fmt.Errorf("a repetition of %+v counts as %+v", call, again)
		}
		return call, err
	}
	for i := 1; i <= job.Calls && failure == nil; {
		if job.Every > 0 {
			payload := fmt.Sprintf("%s/%d", job.Name, i)
			call, err := d.Call(context.Background(), []byte(payload))
			tell(payload, call, err)
			i++
			time.Sleep(job.Every)
			continue
		}
		var burst sync.WaitGroup
		atOnce := random.IntN(2) == 0
		for range min(1+random.IntN(200), job.Calls-i+1) {
			n, payload := i, fmt.Sprintf("%s/%d", job.Name, i)
			i++
			switch {
			case atOnce:
				burst.Go(func() {
					call, err := d.Call(context.Background(), []byte(payload))
					tell(payload, call, err)
				})
			case random.IntN(10) == 0:
				call, err := named(n)
				tell(payload, call, err)
			default:
				call, err := d.Call(context.Background(), []byte(payload))
				tell(payload, call, err)
			}
		}
		burst.Wait()
		time.Sleep(time.Duration(random.Int64N(int64(2 * job.Wait))))
	}
	return failure
}

func debounceRunner(rdb *redis.Client, job debounceJob) error {
	c, err := New(rdb, WithIdentity(job.Name))
	if err != nil {
		return err
	}
	d, err := c.Debouncer(debounceKey, job.settings())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() { // until the test closes its end
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	out := json.NewEncoder(os.Stdout)
	return d.Run(ctx, func(ctx context.Context, r DebounceRun) error {
		if err := out.Encode(madeRun{
			Generation: r.Generation, Payload: string(r.Payload), Calls: r.Calls, Attempt: r.Attempt, Resumed: r.Resumed,
			First: r.First.UnixMicro(), Last: r.Last.UnixMicro(), Claimed: r.Claimed.UnixMicro(),
		}); err != nil {
			return err
		}
		if job.Hang {
			<-ctx.Done()
			return ctx.Err()
		}
		if job.Longest > 0 {
			time.Sleep(rand.N(job.Longest))
		}
		return nil
	})
}

// A child is such a process, and what it has told so far.
type child[T any] struct {
	cmd  *exec.Cmd
	stop io.Closer
	done chan struct{}
	mu   sync.Mutex
	told []T
}

func startChild[T any](t *testing.T, role string, job debounceJob) *child[T] {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	task, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	c := &child[T]{cmd: exec.Command(exe), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), debounceRole+"="+role, debounceTask+"="+string(task))
	c.cmd.Stderr = os.Stderr
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stop = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := children.Start(c.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var told T
			if json.Unmarshal(lines.Bytes(), &told) == nil { // one that was killed may leave half a line
				c.mu.Lock()
				c.told = append(c.told, told)
				c.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { c.kill() })
	return c
}

func (c *child[T]) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
	_ = c.cmd.Wait()
}

// end has it stop by itself, and says how it did.
func (c *child[T]) end() error {
	_ = c.stop.Close()
	<-c.done
	return c.cmd.Wait()
}

func (c *child[T]) all() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.told)
}

func TestProcessesOfTwoClustersRunExactlyAsTheRulesSay(t *testing.T) {
	t.Parallel()
	const (
		callers = 4
		wait    = 40 * time.Millisecond
	)
	calls := 10_000
	if testing.Short() {
		calls = 2_000
	}
	for name, rules := range map[string]Debounce{
		"trailing":                       {},
		"trailing, first, with interval": {Payload: FirstPayload, MinInterval: 3 * wait},
		"leading":                        {Edge: Leading},
		"both":                           {Edge: Both},
		"both, first, with interval":     {Edge: Both, Payload: FirstPayload, MinInterval: 2 * wait},
	} {
		rules.Wait, rules.MaxWait = wait, 4*wait
		rules.Edge, rules.Payload = orDefault(rules.Edge, Trailing), orDefault(rules.Payload, LastPayload)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			g.SetDefaultEventuallyTimeout(2 * patience)
			server := startRedis(t)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			job := debounceJob{
				URL: server.URL(), Seed: seed, Wait: wait, MaxWait: rules.MaxWait, MinInterval: rules.MinInterval, Edge: rules.Edge, Payload: rules.Payload,
				Lease: 2 * patience, Longest: wait / 2,
			}
			var runners []*child[madeRun]
			for _, cluster := range []string{"blue", "green"} {
				for i := range 2 {
					job.Name = fmt.Sprint(cluster, i)
					runners = append(runners, startChild[madeRun](t, "runner", job))
				}
			}
			var making []*child[madeCall]
			for i := range callers {
				job.Name, job.Seed, job.Calls = fmt.Sprint("caller", i), seed+uint64(i), calls/callers
				making = append(making, startChild[madeCall](t, "caller", job))
			}
			var made []madeCall
			for _, c := range making {
				g.Expect(c.end()).To(Succeed())
				made = append(made, c.all()...)
			}
			g.Expect(made).To(HaveLen(calls))
			d := debouncer(t, dial(t, server.URL()), Debounce{})
			g.Eventually(func() DebounceState { return stateOf(t, d) }).Should(And(HaveField("Running", BeNil()), HaveField("Pending", uint64(0))))
			var runs []madeRun
			busy := 0
			for _, r := range runners {
				g.Expect(r.end()).To(Succeed())
				g.Expect(r.all()).To(HaveEach(And(HaveField("Attempt", 1), HaveField("Resumed", false))))
				runs = append(runs, r.all()...)
				if len(r.all()) > 0 {
					busy++
				}
			}
			m := judgeDebounce(rules, made, runs)
			t.Logf("%d runs by %d processes; the latest was claimed %s after it was due", len(runs), busy, m.longestDelay)
			g.Expect(m.wrong).To(BeEmpty())
			g.Expect(m.calls).To(Equal(calls))
			g.Expect(len(runs)).To(BeNumerically(">", 5))
			g.Expect(stateOf(t, d)).To(And(HaveField("Runs", int64(len(runs))), HaveField("Calls", int64(calls))))
		})
	}
}

func TestRunnersThatAreKilledLoseNoCall(t *testing.T) {
	t.Parallel()
	g := within(t)
	g.SetDefaultEventuallyTimeout(3 * patience)
	server := startRedis(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	const (
		wait    = 50 * time.Millisecond
		maxWait = 200 * time.Millisecond
		lease   = 500 * time.Millisecond
		slack   = patience / 2 // of the machine, which starts processes and shares its two processors
	)
	job := debounceJob{URL: server.URL(), Seed: seed, Wait: wait, MaxWait: maxWait, Lease: lease, Longest: 2 * wait}
	var runners []*child[madeRun]
	start := func(i int) *child[madeRun] {
		job.Name, job.Claimant = fmt.Sprint("runner", i), ""
		if i%2 == 0 {
			job.Claimant = job.Name // who comes back goes on with its run
		}
		c := startChild[madeRun](t, "runner", job)
		runners = append(runners, c)
		return c
	}
	current := []*child[madeRun]{start(0), start(1), start(2)}
	const callers, calls = 2, 3000
	var making []*child[madeCall]
	for i := range callers {
		caller := job
		caller.Name, caller.Seed, caller.Calls, caller.Wait = fmt.Sprint("caller", i), seed+uint64(i), calls/callers, 5*wait
		making = append(making, startChild[madeCall](t, "caller", caller))
	}
	// Whoever has just been given a run is killed, now and then, in the middle of it.
	kills, seen := 0, map[*child[madeRun]]int{}
	finished := func() bool {
		return !slices.ContainsFunc(making, func(c *child[madeCall]) bool {
			select {
			case <-c.done:
				return false
			default:
				return true
			}
		})
	}
	for !finished() {
		for i, r := range current {
			if n := len(r.all()); n > seen[r] {
				seen[r] = n
				if random.IntN(2) == 0 {
					time.Sleep(time.Duration(random.Int64N(int64(wait))))
					r.kill()
					kills++
					current[i] = start(i)
				}
			}
		}
		time.Sleep(time.Millisecond)
	}
	var made []madeCall
	for _, c := range making {
		g.Expect(c.end()).To(Succeed())
		made = append(made, c.all()...)
	}
	g.Expect(made).To(HaveLen(calls))
	d := debouncer(t, dial(t, server.URL()), Debounce{})
	g.Eventually(func() DebounceState { return stateOf(t, d) }).Should(HaveField("Quiet()", true))
	var given []madeRun
	for _, r := range runners {
		if slices.Contains(current, r) {
			g.Expect(r.end()).To(Succeed())
		}
		given = append(given, r.all()...)
	}
	slices.SortStableFunc(given, func(a, b madeRun) int { return int(a.Claimed - b.Claimed) })

	// Each generation is the same whoever had it, and was claimed in time.
	var runs []madeRun
	first := map[uint64]madeRun{}
	var takeovers, resumed int
	var ended int64
	for i, r := range given {
		if i > 0 && r.Generation < given[i-1].Generation {
			t.Errorf("%+v after %+v", r, given[i-1])
		}
		known, again := first[r.Generation]
		if again {
			same := r
			same.Claimed, same.Attempt, same.Resumed = known.Claimed, known.Attempt, known.Resumed
			g.Expect(same).To(Equal(known))
			if r.Resumed {
				resumed++
			} else {
				takeovers++
			}
		}
		latest := max(r.First+maxWait.Microseconds(), ended) + int64(r.Attempt)*lease.Microseconds() + slack.Microseconds()
		if r.Claimed > latest {
			t.Errorf("%+v was claimed %s too late", r, time.Duration(r.Claimed-latest)*time.Microsecond)
		}
		if !again {
			// Its first claimant may have died before it said so.
			first[r.Generation] = r
			runs = append(runs, r)
		}
		ended = r.Claimed + (2 * wait).Microseconds()
	}
	t.Logf("%d runs, %d kills, %d takeovers, %d resumed", len(runs), kills, takeovers, resumed)
	g.Expect(kills).To(BeNumerically(">=", 3))
	g.Expect(takeovers + resumed).To(BeNumerically(">=", 1))
	g.Expect(stateOf(t, d)).To(And(HaveField("Runs", int64(len(runs))), HaveField("Calls", int64(calls))))
	byGeneration := map[uint64]int{}
	for _, c := range made {
		byGeneration[c.Generation]++
	}
	g.Expect(byGeneration).To(HaveLen(len(runs)))
	for _, r := range runs {
		g.Expect(byGeneration[r.Generation]).To(Equal(r.Calls), "generation %d", r.Generation)
	}
}

// A steady stream neither puts a run off for ever nor splits it, though its runner is
// killed.
func TestASteadyStreamRunsInTimeThoughTheRunnerIsKilled(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	const (
		wait    = 400 * time.Millisecond
		maxWait = 1200 * time.Millisecond
		lease   = time.Second
		slack   = patience / 2
	)
	job := debounceJob{URL: server.URL(), Wait: wait, MaxWait: maxWait, Lease: lease, Name: "blue", Hang: true}
	dies := startChild[madeRun](t, "runner", job)
	stream := job
	stream.Name, stream.Calls, stream.Every = "caller", 30, wait/2
	caller := startChild[madeCall](t, "caller", stream)
	g.Eventually(dies.all).ShouldNot(BeEmpty())
	dies.kill()
	job.Name, job.Hang = "green", false
	takes := startChild[madeRun](t, "runner", job)
	g.Expect(caller.end()).To(Succeed())
	d := debouncer(t, dial(t, server.URL()), Debounce{})
	g.Eventually(func() DebounceState { return stateOf(t, d) }).Should(HaveField("Quiet()", true))
	g.Expect(takes.end()).To(Succeed())

	begun, runs := dies.all(), takes.all()
	g.Expect(begun).To(HaveLen(1))
	g.Expect(runs[0]).To(And(HaveField("Generation", begun[0].Generation), HaveField("Attempt", 2), HaveField("Payload", begun[0].Payload),
		HaveField("Calls", begun[0].Calls), HaveField("First", begun[0].First), HaveField("Last", begun[0].Last)))
	g.Expect(begun[0].Claimed - begun[0].First).To(BeNumerically("<", (maxWait + slack).Microseconds()))
	g.Expect(runs[0].Claimed - begun[0].First).To(BeNumerically("<", (maxWait + lease + slack).Microseconds()))
	runs[0] = begun[0]
	m := judgeDebounce(Debounce{Wait: wait, MaxWait: maxWait, Edge: Trailing, Payload: LastPayload}, caller.all(), runs)
	g.Expect(m.wrong).To(BeEmpty())
	g.Expect(m.calls).To(Equal(30))
	g.Expect(len(runs)).To(BeNumerically(">=", 2))
}
