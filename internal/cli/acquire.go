package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var acquireCommand = command{
	name: "acquire", arguments: "KEY", summary: "Take a lock for one lease and print its token",
	details: `It prints "TOKEN FENCE" and ends. Nobody renews the lock: it is free after --lease, or
after redislock release. The token is the right to release it.

JSON: {"key", "token", "fencingToken", "validForMs"}`,
	positional: [2]int{1, 1},
	bind: func(o *options, fs *flag.FlagSet) {
		o.lock.bindLease(fs)
		o.lock.bindWait(fs)
	},
	do: (*App).acquire,
}

type acquired struct {
	Key          string `json:"key"`
	Token        string `json:"token"`
	FencingToken uint64 `json:"fencingToken"`
	ValidForMs   int64  `json:"validForMs"`
}

func (a *App) acquire(ctx context.Context, o *options) error {
	return a.underLock(ctx, o, redislock.WithoutRenewal(), func(_ *signals, lock *redislock.Lock) error {
		result := acquired{lock.Key(), lock.Token(), lock.Fence(), time.Until(lock.ValidUntil()).Milliseconds()}
		err := a.print(o, result, func() string { return fmt.Sprintf("%s %d\n", result.Token, result.FencingToken) })
		if err != nil {
			// Nobody heard the token.
			return errors.Join(err, lock.Release(context.Background()))
		}
		return nil
	})
}

var releaseCommand = command{
	name: "release", arguments: "KEY [TOKEN]", summary: "Give a lock back by its token",
	details: `Without TOKEN it is $` + tokenVariable + `, which others cannot read in the list of processes.

JSON: {"key", "released"}`,
	positional: [2]int{1, 2},
	do:         (*App).release,
}

type releasing struct {
	Key      string `json:"key"`
	Released bool   `json:"released"`
}

func (a *App) release(ctx context.Context, o *options) error {
	key, err := o.key()
	if err != nil {
		return err
	}
	token := a.getenv(tokenVariable)
	if len(o.arguments) == 2 {
		token = o.arguments[1]
	}
	if token == "" {
		return usage("release: no token: write redislock release KEY TOKEN, or set %s", tokenVariable)
	}
	s, err := a.connect(o)
	if err != nil {
		return err
	}
	defer s.close()
	done, err := s.ForceReleaseValue(ctx, key, token, redislock.Immediately())
	if err != nil && !errors.Is(err, redislock.ErrMismatch) {
		return err
	}
	say := fmt.Sprintf("released %s\n", key)
	if !done {
		say = fmt.Sprintf("not released: %s is free\n", key)
		if err != nil {
			say = fmt.Sprintf("not released: %s is somebody else's by now\n", key)
		}
	}
	if err := a.print(o, releasing{key, done}, func() string { return say }); err != nil || done {
		return err
	}
	return &exitError{code: exitFalse}
}
