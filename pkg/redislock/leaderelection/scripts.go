package leaderelection

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed scripts/get.lua
	getSource string
	//go:embed scripts/take.lua
	takeSource string
	//go:embed scripts/renew.lua
	renewSource string
	//go:embed scripts/release.lua
	releaseSource string

	getScript     = redis.NewScript(getSource)
	takeScript    = redis.NewScript(takeSource)
	renewScript   = redis.NewScript(renewSource)
	releaseScript = redis.NewScript(releaseSource)
)

// reply is what a script answers: a word and what belongs to it.
type reply []any

func (r reply) text(i int) string {
	if i < len(r) {
		if s, ok := r[i].(string); ok {
			return s
		}
	}
	return ""
}

func (r reply) number(i int) int64 {
	if i < len(r) {
		if n, ok := r[i].(int64); ok {
			return n
		}
	}
	return 0
}

// A timeoutError is not the caller's context that ended, so it must not look like
// context.DeadlineExceeded.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("no answer from Redis within %s", e.after) }
func (e *timeoutError) Timeout() bool { return true }

// run plays a script and returns when ctx is done or the timeout over, whether or not
// the connection heeds them: client-go relies on it to stop leading in time.
func run(ctx context.Context, rdb redis.UniversalClient, timeout time.Duration, s *redis.Script, keys []string, args ...any) (reply, error) {
	type outcome struct {
		reply reply
		err   error
	}
	inner, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := s.Run(inner, rdb, keys, args...).Slice()
		done <- outcome{r, err}
	}()
	select {
	case o := <-done:
		if o.err == nil || inner.Err() == nil {
			return o.reply, o.err
		}
	case <-inner.Done():
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, &timeoutError{timeout}
}

// milliseconds rounds up: an expiry must never be shorter than what was asked for.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
