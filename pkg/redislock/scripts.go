package redislock

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

var (
	//go:embed scripts/acquire.lua
	acquireSource string
	//go:embed scripts/renew.lua
	renewSource string
	//go:embed scripts/release.lua
	releaseSource string
	//go:embed scripts/adopt.lua
	adoptSource string
	//go:embed scripts/forcerelease.lua
	forceReleaseSource string
	//go:embed scripts/inspect.lua
	inspectSource string
	//go:embed scripts/claim.lua
	claimSource string
	//go:embed scripts/ending.lua
	endingSource string
	//go:embed scripts/finish.lua
	finishSource string
	//go:embed scripts/reopen.lua
	reopenSource string
	//go:embed scripts/runs.lua
	runsSource string
	//go:embed scripts/announce.lua
	announceSource string
	//go:embed scripts/acquireall.lua
	acquireAllSource string
	//go:embed scripts/releaseall.lua
	releaseAllSource string
	//go:embed scripts/common.lua
	commonSource string
	//go:embed scripts/queued.lua
	queuedSource string
	//go:embed scripts/abandon.lua
	abandonSource string
	//go:embed scripts/enter.lua
	enterSource string
	//go:embed scripts/prolong.lua
	prolongSource string
	//go:embed scripts/leave.lua
	leaveSource string
	//go:embed scripts/occupancy.lua
	occupancySource string
	//go:embed scripts/debounce.lua
	debounceSource string
	//go:embed scripts/debounce_call.lua
	debounceCallSource string
	//go:embed scripts/debounce_claim.lua
	debounceClaimSource string
	//go:embed scripts/debounce_extend.lua
	debounceExtendSource string
	//go:embed scripts/debounce_finish.lua
	debounceFinishSource string
	//go:embed scripts/debounce_state.lua
	debounceStateSource string

	acquireScript      = newScript(acquireSource)
	renewScript        = newScript(renewSource)
	releaseScript      = newScript(releaseSource)
	adoptScript        = newScript(adoptSource)
	forceReleaseScript = newScript(forceReleaseSource)
	inspectScript      = newScript(inspectSource)
	claimScript        = newScript(claimSource)
	finishScript       = newScript(endingSource + finishSource)
	reopenScript       = newScript(endingSource + reopenSource)
	runsScript         = newScript(runsSource)
	announceScript     = newScript(announceSource)
	acquireAllScript   = newScript(acquireAllSource)
	releaseAllScript   = newScript(releaseAllSource)
	queuedScript       = newScript(commonSource + queuedSource)
	abandonScript      = newScript(abandonSource)
	enterScript        = newScript(commonSource + enterSource)
	prolongScript      = newScript(prolongSource)
	leaveScript        = newScript(leaveSource)
	occupancyScript    = newScript(occupancySource)

	debounceCallScript   = newScript(debounceSource + debounceCallSource)
	debounceClaimScript  = newScript(debounceSource + debounceClaimSource)
	debounceExtendScript = newScript(debounceSource + debounceExtendSource)
	debounceFinishScript = newScript(debounceSource + debounceFinishSource)
	debounceStateScript  = newScript(debounceSource + debounceStateSource)
)

// reply is what a script of ours answers: a word and what belongs to it. Where only
// the word is to be said a script may answer its number, which costs less; and a grant
// at the server's time may be told by that time alone, which is its fencing token too.
type reply []any

var numbered = [...]reply{{"gone"}, {"done"}, {"ok"}}

// earliest is a time that no server's clock shows, µs since 1970: it is still 1970.
const earliest = 1e12

func parseReply(answer any) (reply, error) {
	switch r := answer.(type) {
	case []any:
		return r, nil
	case int64:
		switch {
		case r >= 0 && r < int64(len(numbered)):
			return numbered[r], nil
		case r >= earliest:
			return reply{"granted", answer, nil, answer}, nil
		}
	}
	return nil, fmt.Errorf("redislock: unexpected reply %v", answer)
}

func (r reply) word() string { return r.text(0) }

func (r reply) text(i int) string { return wire.At[string](r, i) }

func (r reply) number(i int) int64 { return wire.At[int64](r, i) }

func (r reply) list(i int) reply { return wire.At[[]any](r, i) }

func (r reply) duration(i int) time.Duration {
	return time.Duration(r.number(i)) * time.Millisecond
}

// unexpected is returned for a reply that no script of ours gives: a proxy that
// does not speak Redis, say.
func (r reply) unexpected(operation, key string) error {
	return fmt.Errorf("redislock: %s %q: unexpected reply %v", operation, key, []any(r))
}

// A script is one of ours, on its way to the server by its digest.
type script struct{ source, digest string }

func newScript(source string) *script {
	return &script{source, redis.NewScript(source).Hash()}
}

// The commands' names, in an interface once and for all.
var (
	evalName    any = "eval"
	evalshaName any = "evalsha"
)

// run sends one script and gives up on the answer after timeout. The server may
// carry it out all the same, then or later. Arguments may be pointers, which cost no
// copy.
func (c *Client) run(ctx context.Context, timeout time.Duration, s *script, keys []string, args ...any) (reply, error) {
	answer, err := c.eval(ctx, timeout, evalshaName, &s.digest, keys, args)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		answer, err = c.eval(ctx, timeout, evalName, &s.source, keys, args)
	}
	return answer, err
}

func (c *Client) eval(ctx context.Context, timeout time.Duration, name any, what *string, keys []string, args []any) (reply, error) {
	m := newCommand(ctx, timeout)
	all := append(m.args[:0], name, what, len(keys))
	for _, key := range keys { // no pointers: tracing hooks print them
		all = append(all, key)
	}
	cmd := redis.NewCmd(m, append(all, args...)...)
	cmd.SetFirstKeyPos(3)
	m.cmd = cmd
	if err := c.line.do(m); err != nil {
		return nil, err
	}
	return parseReply(cmd.Val())
}
