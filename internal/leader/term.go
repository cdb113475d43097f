package leader

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// term is a lock that knows until when this process leads: nobody takes over before
// LeaseDuration has passed since he saw the last renewal, which is later than when
// that was sent.
type term struct {
	resourcelock.Interface

	mu      sync.Mutex
	renewed time.Time // when the last renewal was sent that succeeded; zero: none
}

func (t *term) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return t.write(ctx, record, t.Interface.Create)
}

func (t *term) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return t.write(ctx, record, t.Interface.Update)
}

func (t *term) write(ctx context.Context, record resourcelock.LeaderElectionRecord, do func(context.Context, resourcelock.LeaderElectionRecord) error) error {
	mine := record.HolderIdentity == t.Identity()
	if !mine {
		t.set(time.Time{}) // it is given up, whether or not the answer comes
	}
	sent := time.Now()
	err := do(ctx, record)
	if mine && err == nil {
		t.set(sent)
	}
	return err
}

func (t *term) set(renewed time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renewed = renewed
}

// sure goes by two clocks, for one stands still while the machine sleeps and the other
// can be set.
func (t *term) sure(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	passed := max(now.Sub(t.renewed), now.Round(0).Sub(t.renewed.Round(0)))
	return !t.renewed.IsZero() && passed < LeaseDuration
}
