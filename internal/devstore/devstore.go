// Package devstore is a Redis inside the process, for a trial of the operator
// without any server. It is gone with the process and shared with nobody.
package devstore

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// tick is how often keys are aged: miniredis has no clock of its own.
const tick = 10 * time.Millisecond

// Start serves a Redis on a free port of the loopback address until ctx is done,
// and returns its URL.
func Start(ctx context.Context) (string, error) {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		return "", fmt.Errorf("starting the in-process Redis: %w", err)
	}
	go func() {
		defer server.Close()
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		last := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-ticker.C:
				server.FastForward(now.Sub(last))
				last = now
			}
		}
	}()
	return "redis://" + server.Addr(), nil
}
