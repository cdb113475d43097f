package callapi

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/util/cache"
)

// How long answers of the API server hold. A token or a right that is taken away is good
// for as long as remember says; who is given a right has not to wait for long.
const (
	remember   = 10 * time.Second
	rememberNo = 2 * time.Second
	// remembered bounds the answers. More than what may be asked in the time for which
	// they hold, so that nobody can push out another's.
	remembered = 8192
)

// memory keeps answers for a while, and asks once where many want the same.
type memory[V any] struct {
	answers *cache.LRUExpireCache
	flights singleflight.Group
	timeout time.Duration
}

func newMemory[V any](clock cache.Clock, timeout time.Duration) *memory[V] {
	return &memory[V]{answers: cache.NewLRUExpireCacheWithClock(remembered, clock), timeout: timeout}
}

// get returns the answer that is there, or asks. An answer comes with the time for which
// it holds; errors are not kept. ask goes on when a caller goes away, for others wait
// for it.
func (m *memory[V]) get(ctx context.Context, key string, ask func(context.Context) (V, time.Duration, error)) (V, error) {
	if v, ok := m.answers.Get(key); ok {
		return v.(V), nil
	}
	flight := m.flights.DoChan(key, func() (any, error) {
		if v, ok := m.answers.Get(key); ok {
			return v, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.timeout)
		defer cancel()
		v, holds, err := ask(ctx)
		if err == nil {
			m.answers.Add(key, v, holds)
		}
		return v, err
	})
	var none V
	select {
	case <-ctx.Done():
		return none, ctx.Err()
	case answer := <-flight:
		if answer.Err != nil {
			return none, answer.Err
		}
		return answer.Val.(V), nil
	}
}
