// Package devstore is a Redis inside the process, for a trial of the operator
// without any server. It is gone with the process and shared with nobody.
package devstore

import (
	"context"
	"fmt"

	"github.com/alicebob/miniredis/v2"
)

// Start serves a Redis on a free port of the loopback address until ctx is done,
// and returns its URL.
func Start(ctx context.Context) (string, error) {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		return "", fmt.Errorf("starting the in-process Redis: %w", err)
	}
	server.ClockTTL(true)
	context.AfterFunc(ctx, server.Close)
	return "redis://" + server.Addr(), nil
}
