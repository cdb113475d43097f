package campaign

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
)

// Registry has the campaigns of a process, one for each RedisLock.
type Registry struct {
	log    logr.Logger
	leader func(context.Context) (bool, error)

	mu        sync.Mutex
	campaigns map[types.NamespacedName]*entry
	onChange  func(types.NamespacedName)
	left      bool
}

type entry struct {
	*Campaign
	uid types.UID
}

// NewRegistry returns an empty registry. leader asks the API server, live, whether
// this process is still the manager's leader.
func NewRegistry(leader func(context.Context) (bool, error), log logr.Logger) *Registry {
	return &Registry{log: log, leader: leader, campaigns: map[types.NamespacedName]*entry{}, onChange: func(types.NamespacedName) {}}
}

// OnChange has f called when what a campaign knows has changed. It must not block.
func (r *Registry) OnChange(f func(types.NamespacedName)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onChange = f
}

func (r *Registry) changed(object types.NamespacedName) {
	r.mu.Lock()
	f := r.onChange
	r.mu.Unlock()
	f(object)
}

// Ensure has a campaign run for an object with this spec, and returns it. fence is
// the highest fencing token that the object's status remembers. It returns nil
// after Leave.
func (r *Registry) Ensure(object types.NamespacedName, uid types.UID, spec Spec, fence uint64) *Campaign {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left {
		return nil
	}
	if e, ok := r.campaigns[object]; ok && e.uid == uid {
		e.update(spec)
		return e.Campaign
	}
	e := &entry{uid: uid, Campaign: start(spec, fence, r.leader,
		func() { r.changed(object) }, r.log.WithValues("redislock", object.String(), "key", spec.Key))}
	r.campaigns[object] = e
	return e.Campaign
}

// Get returns the campaign of an object; nil where none runs.
func (r *Registry) Get(object types.NamespacedName, uid types.UID) *Campaign {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.campaigns[object]; ok && e.uid == uid {
		return e.Campaign
	}
	return nil
}

// Release ends the campaign of an object, if there is one, and gives its lock back.
// An error means that Redis did not confirm it; the campaign is over all the same.
func (r *Registry) Release(ctx context.Context, object types.NamespacedName) error {
	r.mu.Lock()
	e := r.campaigns[object]
	delete(r.campaigns, object)
	r.mu.Unlock()
	if e == nil {
		return nil
	}
	return e.release(ctx)
}

// Leave ends all campaigns and leaves their leases behind for the next process of
// this cluster.
func (r *Registry) Leave(ctx context.Context) error {
	r.mu.Lock()
	r.left = true
	campaigns := r.campaigns
	r.campaigns = map[types.NamespacedName]*entry{}
	r.mu.Unlock()

	var wg sync.WaitGroup
	errs := make(chan error, len(campaigns))
	for object, e := range campaigns {
		wg.Go(func() {
			if err := e.leave(ctx); err != nil {
				errs <- fmt.Errorf("leaving the lease of %s: %w", object, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}
