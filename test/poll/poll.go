// Package poll waits for what nothing tells of.
package poll

import (
	"context"
	"fmt"
	"time"
)

// Until tries f, every so often, until it succeeds, and returns its last error when the
// time is up.
func Until(ctx context.Context, within, every time.Duration, f func() error) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	end := time.NewTimer(within)
	defer end.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-end.C:
			return err
		case <-ticker.C:
		}
	}
}
