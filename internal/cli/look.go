package cli

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

var statusCommand = command{
	name: "status", arguments: "KEY", summary: "Say who holds a lock; the exit code says whether anybody does",
	details: `JSON: {"key", "state", "holder", "fencingToken", "expiresInMs", "keptTaken", "tokenHash", "holders", "permits"}
  state         ACQUIRED or FREE
  holder        identity of the holder; "" for a lock of another library
  holders       identities of those who share it: who has permits, or reads
  permits       how many a semaphore has; 0 for anything else
  fencingToken  0 for a lock without one
  expiresInMs   until the key expires unless it is renewed; -1 where it does not
  keptTaken     nobody holds the lock, but nobody gets it either for expiresInMs
  tokenHash     tells one holder from another; the token itself is the right to release`,
	positional: [2]int{1, 1},
	do:         (*App).status,
}

// lockState is one lock as status and ls show it.
type lockState struct {
	Key          string           `json:"key"`
	State        redislock.Status `json:"state"`
	Holder       string           `json:"holder"`
	FencingToken uint64           `json:"fencingToken"`
	ExpiresInMs  int64            `json:"expiresInMs"`
	KeptTaken    bool             `json:"keptTaken"`
	TokenHash    string           `json:"tokenHash,omitempty"`
	Holders      []string         `json:"holders,omitempty"`
	Permits      int              `json:"permits,omitempty"`
}

func stateOf(info redislock.Info) lockState {
	s := lockState{Key: info.Key, State: info.Status, Holder: info.Holder, FencingToken: info.Fence, ExpiresInMs: info.TTL.Milliseconds(), KeptTaken: info.Kept}
	if info.TTL < 0 {
		s.ExpiresInMs = -1
	}
	if info.Value != "" && !info.Kept {
		s.TokenHash = redislock.HashToken(info.Value)
	}
	s.Permits = info.Permits
	for _, h := range info.Holders {
		s.Holders = append(s.Holders, h.Identity)
	}
	return s
}

// who is the holder in words.
func (s lockState) who() string {
	switch {
	case s.KeptTaken:
		return "(nobody)"
	case s.State == redislock.Free:
		return ""
	case s.Permits > 0:
		return fmt.Sprintf("%d of %d permits: %s", len(s.Holders), s.Permits, strings.Join(s.Holders, ", "))
	case len(s.Holders) > 0:
		return fmt.Sprintf("%d who read: %s", len(s.Holders), strings.Join(s.Holders, ", "))
	case s.Holder == "":
		return "(another library)"
	}
	return s.Holder
}

// expires is how long the key still stands in words.
func (s lockState) expires() string {
	if s.ExpiresInMs < 0 {
		return "never"
	}
	return (time.Duration(s.ExpiresInMs) * time.Millisecond).String()
}

func (s lockState) text() string {
	switch {
	case s.KeptTaken:
		return fmt.Sprintf("FREE, but nobody gets it for %s\n", s.expires())
	case s.State == redislock.Free:
		return "FREE\n"
	case s.FencingToken == 0:
		return fmt.Sprintf("ACQUIRED by %s, expires in %s\n", s.who(), s.expires())
	}
	return fmt.Sprintf("ACQUIRED by %s, fencing token %d, expires in %s\n", s.who(), s.FencingToken, s.expires())
}

func (a *App) status(ctx context.Context, o *options) error {
	info, err := a.inspect(ctx, o)
	if err != nil {
		return err
	}
	state := stateOf(info)
	if err := a.print(o, state, state.text); err != nil {
		return err
	}
	if state.State == redislock.Free {
		return &exitError{code: exitFalse}
	}
	return nil
}

func (a *App) inspect(ctx context.Context, o *options) (redislock.Info, error) {
	key, err := o.key()
	if err != nil {
		return redislock.Info{}, err
	}
	s, err := a.connect(o)
	if err != nil {
		return redislock.Info{}, err
	}
	defer s.close()
	info, err := s.Inspect(ctx, key)
	if err != nil {
		return redislock.Info{}, err
	}
	if s.isDebounce(ctx, info) {
		return redislock.Info{}, &exitError{code: exitUnavailable, err: fmt.Errorf("%s is a debounce, not a lock: ask redislock debounce status %[1]s", key)}
	}
	return info, nil
}

// isDebounce reports whether what stands at the key is no lock, but a debounce.
func (s *store) isDebounce(ctx context.Context, info redislock.Info) bool {
	if info.Status == redislock.Free || info.Value != "" || len(info.Holders) > 0 {
		return false
	}
	d, err := s.Debouncer(info.Key, redislock.Debounce{})
	if err != nil {
		return false
	}
	state, err := d.State(ctx) // refuses what is none
	return err == nil && state.Calls > 0
}

var historyCommand = command{
	name: "history", arguments: "KEY", summary: "List who held a lock before, newest first",
	details: `Locks keep it where they were told to, as run, acquire and elect do for the last ten.

JSON: [{"holder", "fencingToken", "at"}], at in RFC 3339 by the server's clock`,
	positional: [2]int{1, 1},
	do:         (*App).history,
}

type grant struct {
	Holder       string    `json:"holder"`
	FencingToken uint64    `json:"fencingToken"`
	At           time.Time `json:"at"`
}

func (a *App) history(ctx context.Context, o *options) error {
	info, err := a.inspect(ctx, o)
	if err != nil {
		return err
	}
	grants := make([]grant, 0, len(info.History))
	for _, g := range info.History {
		grants = append(grants, grant{g.Holder, g.Fence, g.At.UTC()})
	}
	return a.print(o, grants, func() string {
		return table("AT\tFENCING TOKEN\tHOLDER", grants, func(g grant) string {
			return fmt.Sprintf("%s\t%d\t%s", g.At.Format(time.RFC3339), g.FencingToken, g.Holder)
		})
	})
}

var listCommand = command{
	name: "ls", arguments: "[PREFIX]", summary: "List the locks that are held",
	details: `PREFIX is what their keys begin with, lock: unless it is given. It looks through all
keys of Redis, in a Cluster of all its primaries, a few hundred at a time.

JSON: a list of what status prints`,
	positional: [2]int{0, 1},
	do:         (*App).list,
}

// scanCount is how many keys Redis looks at in one step.
const scanCount = 500

func (a *App) list(ctx context.Context, o *options) error {
	prefix := "lock:"
	if len(o.arguments) == 1 {
		prefix = o.arguments[0]
	}
	s, err := a.connect(o)
	if err != nil {
		return err
	}
	defer s.close()
	var mu sync.Mutex
	found := map[string]lockState{} // SCAN may tell of a key twice
	add := func(states []lockState) {
		mu.Lock()
		defer mu.Unlock()
		for _, state := range states {
			found[state.Key] = state
		}
	}
	if cluster, ok := s.rdb.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			return scan(ctx, node, prefix, add)
		})
	} else {
		err = scan(ctx, s.rdb, prefix, add)
	}
	if err != nil {
		return fmt.Errorf("ls: %w", err)
	}
	states := make([]lockState, 0, len(found))
	for key, state := range found {
		// Of what is no plain lock more has to be asked.
		if state.State == redislock.Acquired && state.TokenHash == "" {
			info, err := s.Inspect(ctx, key)
			if err != nil {
				return fmt.Errorf("ls: %w", err)
			}
			if s.isDebounce(ctx, info) {
				continue
			}
			state = stateOf(info)
		}
		states = append(states, state)
	}
	sort.Slice(states, func(i, j int) bool { return states[i].Key < states[j].Key })
	return a.print(o, states, func() string {
		return table("KEY\tHOLDER\tFENCING TOKEN\tEXPIRES IN", states, func(s lockState) string {
			return fmt.Sprintf("%s\t%s\t%d\t%s", s.Key, s.who(), s.FencingToken, s.expires())
		})
	})
}

// scan finds the locks on one node.
func scan(ctx context.Context, node redis.Cmdable, prefix string, add func([]lockState)) error {
	pattern := globEscape.Replace(prefix) + "*"
	for cursor := uint64(0); ; {
		keys, next, err := node.Scan(ctx, cursor, pattern, scanCount).Result()
		if err != nil {
			return err
		}
		states, err := read(ctx, node, keys)
		if err != nil {
			return err
		}
		add(states)
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// read looks at keys in one pipeline, and leaves out what stands beside a lock and what
// has gone meanwhile.
func read(ctx context.Context, node redis.Cmdable, keys []string) ([]lockState, error) {
	pipe := node.Pipeline()
	values, ttls := map[string]*redis.StringCmd{}, map[string]*redis.DurationCmd{}
	for _, key := range keys {
		if redislock.ValidateKey(key) == nil {
			values[key], ttls[key] = pipe.Get(ctx, key), pipe.PTTL(ctx, key)
		}
	}
	if len(values) == 0 {
		return nil, nil
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	states := make([]lockState, 0, len(values))
	for key, get := range values {
		value, err := get.Result()
		switch {
		case errors.Is(err, redis.Nil):
			continue
		case redis.HasErrorPrefix(err, "WRONGTYPE"):
			value = "" // a lock that is no plain one
		case err != nil:
			return nil, err
		}
		ttl, err := ttls[key].Result()
		if err != nil {
			return nil, err
		}
		info := redislock.Info{Key: key, Status: redislock.Acquired, Value: value, TTL: ttl}
		if token, ok := redislock.ParseToken(value); ok {
			info.Holder, info.Fence = token.Identity, token.Fence
		} else if strings.HasPrefix(value, "~") {
			info.Status, info.Kept = redislock.Free, true
		}
		states = append(states, stateOf(info))
	}
	return states, nil
}

// table aligns columns that are separated by tabs.
func table[T any](header string, rows []T, format func(T) string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, header)
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, format(row))
	}
	_ = w.Flush()
	return b.String()
}
