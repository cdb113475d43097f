package leaderelection

import (
	"context"
	_ "embed"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
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

func (r reply) text(i int) string { return wire.At[string](r, i) }

func (r reply) number(i int) int64 { return wire.At[int64](r, i) }

// run plays a script and returns when ctx is done or the timeout over, whether or not
// the connection heeds them: client-go relies on it to stop leading in time.
func run(ctx context.Context, rdb redis.UniversalClient, timeout time.Duration, s *redis.Script, keys []string, args ...any) (reply, error) {
	return wire.Bounded(ctx, timeout, func(ctx context.Context) (reply, error) {
		return s.Run(ctx, rdb, keys, args...).Slice()
	})
}
