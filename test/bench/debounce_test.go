package bench

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// debounceWait is short so that the benchmark ends; nothing but the rate of callers that
// are blocked for it depends on it.
const debounceWait = 20 * time.Millisecond

// A debouncer has ran called once for many calls. Its calls go through the client with
// the number that they are given; settle waits for what they have left behind.
type debouncer struct {
	name  string
	start func(b *testing.B, key string, clients []*redis.Client, ran func()) (call func(client int) error, settle func())
}

var debouncers = []debouncer{{"ours", ourDebounce}, {"typescript", typescript}, {"typescript-unawaited", typescriptUnawaited}}

func ourDebounce(b *testing.B, key string, clients []*redis.Client, ran func()) (func(int) error, func()) {
	var callers []*redislock.Debouncer
	// The last is the runner, as in a process of its own.
	for _, rdb := range append(slices.Clip(clients), sibling(b, clients[0])) {
		client, err := redislock.New(rdb)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = client.Close(context.Background()) })
		d, err := client.Debouncer(key, redislock.Debounce{Wait: debounceWait})
		if err != nil {
			b.Fatal(err)
		}
		callers = append(callers, d)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var runner sync.WaitGroup
	runner.Go(func() {
		if err := callers[len(clients)].Run(ctx, func(context.Context, redislock.DebounceRun) error {
			ran()
			return nil
		}); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(func() {
		cancel()
		runner.Wait()
	})
	return func(client int) error {
		_, err := callers[client].Call(b.Context(), nil)
		return err
	}, func() {}
}

// typescript is what the debounce of @upstash/lock does: each caller counts, waits, and
// runs if nobody has counted since.
func typescript(b *testing.B, key string, clients []*redis.Client, ran func()) (func(int) error, func()) {
	return func(client int) error {
		mine, err := clients[client].Incr(b.Context(), key).Result()
		if err != nil {
			return err
		}
		return runIfLast(b.Context(), clients[client], key, mine, ran)
	}, func() {}
}

// typescriptUnawaited is the same for callers that go on once they have counted.
func typescriptUnawaited(b *testing.B, key string, clients []*redis.Client, ran func()) (func(int) error, func()) {
	var waiting sync.WaitGroup
	return func(client int) error {
		mine, err := clients[client].Incr(b.Context(), key).Result()
		if err != nil {
			return err
		}
		waiting.Go(func() {
			if err := runIfLast(b.Context(), clients[client], key, mine, ran); err != nil {
				b.Error(err)
			}
		})
		return nil
	}, waiting.Wait
}

func runIfLast(ctx context.Context, rdb *redis.Client, key string, mine int64, ran func()) error {
	time.Sleep(debounceWait)
	last, err := rdb.Get(ctx, key).Int64()
	if err == nil && last == mine {
		ran()
	}
	return err
}

// BenchmarkDebounce is how many calls get through, and what each costs Redis, the
// requests of those who run included: one caller after the other, 64 at once, and 64 at
// once in eight processes.
func BenchmarkDebounce(b *testing.B) {
	const span = 500 * time.Millisecond
	rdb := start(b)
	for _, shape := range []struct {
		name             string
		clients, callers int
	}{{"1-caller", 1, 1}, {"64-callers", 1, 64}, {"8-clients-of-8", 8, 64}} {
		for _, d := range debouncers {
			b.Run("calls="+shape.name+"/lock="+d.name, func(b *testing.B) {
				for b.Loop() {
					clients := []*redis.Client{rdb}
					for len(clients) < shape.clients {
						clients = append(clients, sibling(b, rdb))
					}
					var calls atomic.Int64
					call, settle := d.start(b, "debounce:"+b.Name(), clients, func() {})
					before := asked(b, rdb)
					began := time.Now()
					var callers sync.WaitGroup
					for i := range shape.callers {
						callers.Go(func() {
							for time.Since(began) < span {
								if err := call(i % shape.clients); err != nil {
									b.Error(err)
									return
								}
								calls.Add(1)
							}
						})
					}
					callers.Wait()
					settle()
					took := time.Since(began)
					after := asked(b, rdb)
					n := float64(calls.Load())
					b.ReportMetric(n/took.Seconds(), "calls/s")
					b.ReportMetric(float64(after.requests-before.requests)/n, "requests/call")
					b.ReportMetric(float64(after.micros-before.micros)/n, "server-µs/call")
					b.ReportMetric(0, "ns/op")
				}
			})
		}
	}
}

// BenchmarkDebounceDelay is how much later than it is due a run begins: from before its
// only call until it begins, less the wait. The debouncers take turns, call by call.
func BenchmarkDebounceDelay(b *testing.B) {
	const turns = 150
	rdb, both := start(b), debouncers[:2]
	type delayed struct {
		call func(int) error
		ran  chan time.Time
	}
	var ends []delayed
	for _, d := range both {
		ran := make(chan time.Time, 1)
		call, _ := d.start(b, "debounce:delay:"+d.name, []*redis.Client{rdb}, func() { ran <- time.Now() })
		ends = append(ends, delayed{call, ran})
	}
	measure := func() [][]time.Duration {
		late := make([][]time.Duration, len(ends))
		for range turns {
			for i, end := range ends {
				began := time.Now()
				if err := end.call(0); err != nil {
					b.Fatal(err)
				}
				late[i] = append(late[i], (<-end.ran).Sub(began)-debounceWait)
			}
		}
		for i := range late {
			slices.Sort(late[i])
		}
		return late
	}
	var rounds [][][]time.Duration
	for i, d := range both {
		round := 0
		b.Run("lock="+d.name, func(b *testing.B) {
			for b.Loop() {
				if round == len(rounds) {
					rounds = append(rounds, measure())
				}
				late := rounds[round][i]
				round++
				b.ReportMetric(float64(late[turns/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(late[turns*99/100].Microseconds()), "p99-µs")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// BenchmarkDebounceStream has calls come without cease, four times in each wait: how many
// runs there are before it ends, and in all.
func BenchmarkDebounceStream(b *testing.B) {
	const span = 2 * time.Second
	rdb := start(b)
	for _, d := range debouncers[:2] {
		b.Run("lock="+d.name, func(b *testing.B) {
			for b.Loop() {
				var runs atomic.Int64
				call, _ := d.start(b, "debounce:"+b.Name(), []*redis.Client{rdb}, func() { runs.Add(1) })
				every := time.NewTicker(debounceWait / 4)
				var calls sync.WaitGroup
				for began := time.Now(); time.Since(began) < span; <-every.C {
					calls.Go(func() {
						if err := call(0); err != nil {
							b.Error(err)
						}
					})
				}
				every.Stop()
				during := runs.Load()
				calls.Wait()
				time.Sleep(redislock.DebounceMaxWaitFactor * debounceWait) // what is due then
				b.ReportMetric(float64(during), "runs-during-it")
				b.ReportMetric(float64(runs.Load()), "runs")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// sibling is a client as of another process.
func sibling(b *testing.B, rdb *redis.Client) *redis.Client {
	b.Helper()
	options := *rdb.Options()
	other := redis.NewClient(&options)
	b.Cleanup(func() { _ = other.Close() })
	return other
}

// load is what clients had a server do.
type load struct{ requests, micros int }

var debounceStat = regexp.MustCompile(`(?m)^cmdstat_(?:eval|evalsha|incr|get):calls=(\d+),usec=(\d+),`)

// asked counts the requests of debouncers. What a script does is not counted again: it
// uses none of these commands.
func asked(b *testing.B, rdb *redis.Client) load {
	b.Helper()
	info, err := rdb.Info(b.Context(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	var l load
	for _, stat := range debounceStat.FindAllStringSubmatch(info, -1) {
		calls, _ := strconv.Atoi(stat[1])
		micros, _ := strconv.Atoi(stat[2])
		l.requests, l.micros = l.requests+calls, l.micros+micros
	}
	return l
}
