// Package stores connects the manager to the Redis deployments of its
// configuration and watches how they are set up.
package stores

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

const (
	// lookInterval is how often a store that answers is looked at.
	lookInterval = time.Minute
	// retryInterval is how often one that does not is.
	retryInterval = 5 * time.Second
)

// Store is one Redis deployment of the configuration.
type Store struct {
	Name string

	config config.Store

	mu     sync.Mutex
	rdb    *redis.Client
	client *redislock.Client
	state  State
}

// State is what is known of a store.
type State struct {
	// Invalid is what is wrong with its configuration or files; nil when it could be
	// used.
	Invalid error
	// Unreachable is why the last look failed; nil when it did not.
	Unreachable error
	// Looked: it has been looked at. Until then the rest says nothing.
	Looked bool
	// Report is what the last look found that succeeded.
	Report redislock.StoreReport
}

// Client returns the lock client; nil while the store's configuration is invalid.
func (s *Store) Client() *redislock.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

// State returns what is known of the store.
func (s *Store) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Stores is the manager's list of stores.
type Stores struct {
	byName map[string]*Store

	mu       sync.Mutex
	onChange []func(store string)
}

// New prepares the stores of a configuration. It dials nothing.
func New(cfg config.Config) *Stores {
	s := &Stores{byName: map[string]*Store{}}
	for _, c := range cfg.Stores {
		store := &Store{Name: c.Name, config: c}
		store.build()
		s.byName[c.Name] = store
	}
	return s
}

// Get returns the store of a name, or nil.
func (s *Stores) Get(name string) *Store { return s.byName[name] }

// Names returns the names of all stores, in no order.
func (s *Stores) Names() []string {
	names := make([]string, 0, len(s.byName))
	for name := range s.byName {
		names = append(names, name)
	}
	return names
}

// OnChange has f called when what is known of a store has changed, and at once for
// those that have been looked at already. It must not block.
func (s *Stores) OnChange(f func(store string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onChange = append(s.onChange, f)
	for name, store := range s.byName {
		if store.State().Looked {
			f(name)
		}
	}
}

// Start looks at all stores until ctx is done. It is a manager.Runnable.
func (s *Stores) Start(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, store := range s.byName {
		wg.Go(func() { s.watch(ctx, store) })
	}
	wg.Wait()
	return nil
}

// Close ends all clients and connections. Leases that are still held lapse.
func (s *Stores) Close(ctx context.Context) {
	for _, store := range s.byName {
		store.mu.Lock()
		client, rdb := store.client, store.rdb
		store.mu.Unlock()
		if client != nil {
			_ = client.Close(ctx)
			_ = rdb.Close()
		}
	}
}

func (s *Stores) watch(ctx context.Context, store *Store) {
	for {
		if store.look(ctx) {
			s.changed(store.Name)
		}
		pause := lookInterval
		if state := store.State(); state.Invalid != nil || state.Unreachable != nil {
			pause = retryInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (s *Stores) changed(store string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.onChange {
		f(store)
	}
}

// build makes the client if the configuration allows; files may come later.
func (s *Store) build() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return
	}
	rdb, err := connect(s.config)
	if err != nil {
		s.state.Invalid = err
		return
	}
	client, err := redislock.New(rdb, redislock.WithObserver(observer(s.Name)))
	if err != nil {
		s.state.Invalid = err
		return
	}
	s.rdb, s.client, s.state.Invalid = rdb, client, nil
}

// look asks the store how it is and says whether anything has changed.
func (s *Store) look(ctx context.Context) bool {
	before := s.State()
	s.build()
	after := s.State()
	after.Looked = true
	if client := s.Client(); client != nil {
		report, err := client.CheckStore(ctx)
		if ctx.Err() != nil {
			return false
		}
		after.Unreachable = err
		if err == nil {
			after.Report = report
		}
	}
	s.mu.Lock()
	s.state = after
	s.mu.Unlock()
	return !before.same(after)
}

func (s State) same(other State) bool {
	return text(s.Invalid) == text(other.Invalid) && text(s.Unreachable) == text(other.Unreachable) &&
		s.Looked == other.Looked && s.Report.Verdict() == other.Report.Verdict() &&
		s.Report.Message(redislock.Dangerous) == other.Report.Message(redislock.Dangerous) &&
		s.Report.Message(redislock.Unverified) == other.Report.Message(redislock.Unverified)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
