package interop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	bsm "github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// lease outlives any turn, however loaded the machine: what overlaps does so though
// no lease has ended. retry keeps everybody at the door.
const (
	lease = time.Minute
	retry = time.Millisecond
)

// A contender takes turns inside until the register says stop.
type contender struct {
	name string
	run  func(ctx context.Context, name, redisAddr, key, registerPort string) error
	// least is the number of turns that it has to get. Who polls rarely gets few.
	least int
}

var contenders = []contender{
	{"ours", inGo(ours(redislock.WithRetry(1<<30, retry))), 600},
	{"ours-too", inGo(ours(redislock.WithRetry(1<<30, retry))), 600},
	{"ours-unfenced", inGo(ours(redislock.WithRetry(1<<30, retry), redislock.WithoutFence())), 600},
	{"ours-waiting", inGo(ours(redislock.WithWait())), 20},
	{"bsm", inGo(peerBSM), 600},
	{"redsync", inGo(peerRedsync), 600},
	{"upstash", program("node", "upstash.mjs"), 600},
	{"redis-py", program(python(), "redispy.py"), 600},
}

// python is the interpreter that has redis-py; PYTHON names another one.
func python() string {
	if p := os.Getenv("PYTHON"); p != "" {
		return p
	}
	return "/usr/bin/python3"
}

// program runs a contender in another language.
func program(name string, args ...string) func(ctx context.Context, name, redisAddr, key, registerPort string) error {
	return func(ctx context.Context, contender, redisAddr, key, registerPort string) error {
		_, port, err := net.SplitHostPort(redisAddr)
		if err != nil {
			return err
		}
		var output strings.Builder
		cmd := exec.CommandContext(ctx, name, append(args, port, key, registerPort, contender)...)
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w; it printed:\n%s", cmd, err, output.String())
		}
		return nil
	}
}

// A locker takes the lock and returns its fencing token, 0 where it has none, and
// how to give it back.
type locker func(ctx context.Context) (fence uint64, release func(context.Context) error, err error)

// inGo runs a contender of this process, with a connection of its own.
func inGo(open func(rdb *redis.Client, key string) (locker, func(), error)) func(ctx context.Context, name, redisAddr, key, registerPort string) error {
	return func(ctx context.Context, name, redisAddr, key, registerPort string) error {
		rdb := redis.NewClient(&redis.Options{Addr: redisAddr})
		defer func() { _ = rdb.Close() }()
		lock, done, err := open(rdb, key)
		if err != nil {
			return err
		}
		defer done()
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+registerPort)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		answers := bufio.NewScanner(conn)
		register := func(format string, args ...any) (string, error) {
			if _, err := fmt.Fprintf(conn, format+"\n", args...); err != nil {
				return "", err
			}
			if !answers.Scan() {
				return "", errors.Join(errors.New("the register has closed the connection"), answers.Err())
			}
			return answers.Text(), nil
		}
		for answer := "go"; answer == "go"; {
			fence, release, err := lock(ctx)
			if err != nil {
				return err
			}
			if _, err = register("enter %s %d", name, fence); err != nil {
				return err
			}
			if answer, err = register("leave %s", name); err != nil {
				return err
			}
			if err := release(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

func ours(opts ...redislock.LockOption) func(*redis.Client, string) (locker, func(), error) {
	opts = append(opts, redislock.WithLease(lease))
	return func(rdb *redis.Client, key string) (locker, func(), error) {
		client, err := redislock.New(rdb)
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context) (uint64, func(context.Context) error, error) {
			lock, err := client.Acquire(ctx, key, opts...)
			if err != nil {
				return 0, nil, err
			}
			return lock.Fence(), lock.Release, nil
		}, func() { _ = client.Close(context.Background()) }, nil
	}
}

func peerBSM(rdb *redis.Client, key string) (locker, func(), error) {
	client := bsm.New(rdb)
	return func(ctx context.Context) (uint64, func(context.Context) error, error) {
		lock, err := client.Obtain(ctx, key, lease, &bsm.Options{RetryStrategy: bsm.LinearBackoff(retry)})
		if err != nil {
			return 0, nil, err
		}
		return 0, lock.Release, nil
	}, func() {}, nil
}

func peerRedsync(rdb *redis.Client, key string) (locker, func(), error) {
	mutex := redsync.New(goredis.NewPool(rdb)).NewMutex(key, redsync.WithExpiry(lease), redsync.WithTries(1<<30), redsync.WithRetryDelay(retry))
	return func(ctx context.Context) (uint64, func(context.Context) error, error) {
		if err := mutex.LockContext(ctx); err != nil {
			return 0, nil, err
		}
		return 0, func(ctx context.Context) error {
			ok, err := mutex.UnlockContext(ctx)
			if err == nil && !ok {
				err = errors.New("the lock was not ours any more")
			}
			return err
		}, nil
	}, func() {}, nil
}

// oblivious takes no lock.
func oblivious(_ *redis.Client, _ string) (locker, func(), error) {
	return func(context.Context) (uint64, func(context.Context) error, error) {
		return 0, func(context.Context) error { return nil }, nil
	}, func() {}, nil
}

// contend has everybody take turns, and returns the register.
func contend(t *testing.T, redisAddr string, who []contender) *register {
	t.Helper()
	least := map[string]int{}
	for _, c := range who {
		least[c.name] = c.least
	}
	r := startRegister(t, least)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	ended := make(chan error)
	for _, c := range who {
		go func() {
			err := c.run(ctx, c.name, redisAddr, "lock:interop", r.port())
			if err != nil {
				err = fmt.Errorf("%s: %w", c.name, err)
				cancel() // the others would wait for its turns
			}
			ended <- err
		}()
	}
	for range who {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	return r
}
