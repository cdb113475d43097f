package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/internal/callapi"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/debounce"
	"github.com/redislock-operator/redislock-operator/internal/stores"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// DebounceCaller records the calls that come by HTTP, on every replica.
type DebounceCaller struct {
	// Reader is the cache.
	Reader     client.Reader
	Config     config.Config
	Stores     *stores.Stores
	ClusterUID string

	mu         sync.Mutex
	debouncers map[types.NamespacedName]knownDebouncer
}

// knownDebouncer is one, and the store that it is of.
type knownDebouncer struct {
	*redislock.Debouncer
	store *redislock.Client
}

var _ callapi.Caller = (*DebounceCaller)(nil)

// Call records a call.
func (c *DebounceCaller) Call(ctx context.Context, call callapi.Call) (callapi.Result, error) {
	object := types.NamespacedName{Namespace: call.Namespace, Name: call.Name}
	debouncer, err := c.debouncer(ctx, object)
	if err != nil {
		return callapi.Result{}, err
	}
	var opts []redislock.CallOption
	if call.Source != "" {
		opts = append(opts, redislock.WithSequence(call.Source, call.Sequence))
	}
	recorded, err := debouncer.Call(ctx, call.Payload, opts...)
	switch {
	case errors.Is(err, redislock.ErrInvalid), errors.Is(err, redislock.ErrCorrupt):
		return callapi.Result{}, fmt.Errorf("%w: %w", callapi.ErrInvalid, err)
	case err != nil:
		return callapi.Result{}, fmt.Errorf("%w: %w", callapi.ErrUnreachable, err)
	}
	if !recorded.Again {
		measureDebounceCall(object, "http")
	}
	return callapi.Result{Generation: recorded.Generation, Opened: recorded.Opened, Repeated: recorded.Again}, nil
}

// debouncer is the one of an object, always the same while key and store are, for calls at the
// same time share requests.
func (c *DebounceCaller) debouncer(ctx context.Context, object types.NamespacedName) (*redislock.Debouncer, error) {
	d := &v1alpha1.Debounce{}
	err := c.Reader.Get(ctx, object, d)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case apierrors.IsNotFound(err):
		delete(c.debouncers, object)
		return nil, callapi.ErrNotFound
	case err != nil:
		return nil, err
	}
	store, p := debounceClient(d, c.Config, c.Stores)
	if p != nil {
		return nil, fmt.Errorf("%w: %s: %s", callapi.ErrInvalid, p.reason, p.message)
	}
	key := debounceKey(d, c.ClusterUID)
	if known, ok := c.debouncers[object]; ok && known.store == store && known.Key() == key {
		return known.Debouncer, nil
	}
	debouncer, err := store.Debouncer(key, redislock.Debounce{Retention: debounce.Retention})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", callapi.ErrInvalid, err)
	}
	if c.debouncers == nil {
		c.debouncers = map[types.NamespacedName]knownDebouncer{}
	}
	c.debouncers[object] = knownDebouncer{debouncer, store}
	return debouncer, nil
}
