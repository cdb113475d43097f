package leaderelection

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// retention is how long the record and the highest fencing token are remembered of an
// election in which nobody takes part any more.
const retention = redislock.DefaultFenceRetention

// stoppedLeading is how client-go's elector says that a term is over.
const stoppedLeading = "stopped leading"

// resource is what errors call an election: there is none in an API server.
var resource = schema.GroupResource{Group: "redislock.io", Resource: "elections"}

// A Lock is one candidate's part in an election, for one client-go elector or one
// manager. It is safe for concurrent use.
type Lock struct {
	rdb   redis.UniversalClient
	key   string
	cfg   config
	nonce string

	mu       sync.Mutex
	sequence uint64
	// attempt is the token, without its fence, with which this candidate tries to
	// begin a term: the same for all tries, so that one whose answer was lost is
	// recognised; "" where the next try draws another.
	attempt string
	writes  uint64
	// last is what was seen of the election, or written to it, last.
	last view
	term *term // nil while this candidate does not lead
	// server is the server's time when a request was sent, or somewhat later.
	server serverTime
	memory memory
}

var _ resourcelock.Interface = (*Lock)(nil)

// term is the time from one beginning to lead to the end of it.
type term struct {
	token string
	fence uint64
	sent  time.Time // of the last request that is known to have prolonged it
	over  error     // why Redis holds it ended; nil while it does not
}

type serverTime struct {
	micros int64
	sent   time.Time
}

// New returns a candidate for the election at a key of rdb: one of redislock.Key, or
// any other that redislock.ValidateKey allows. It sends nothing yet.
func New(rdb redis.UniversalClient, key string, opts ...Option) (*Lock, error) {
	cfg := config{
		identity:      defaultIdentity(),
		leaseDuration: DefaultLeaseDuration,
		renewDeadline: DefaultRenewDeadline,
		retryPeriod:   DefaultRetryPeriod,
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	if err := redislock.ValidateKey(key); err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	// It knows which connections and identities will do, and draws the nonce.
	client, err := redislock.New(rdb, redislock.WithIdentity(cfg.identity))
	if err != nil {
		return nil, err
	}
	return &Lock{rdb: rdb, key: key, cfg: cfg, nonce: client.Nonce(), last: view{kind: "none"}}, nil
}

func defaultIdentity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "_" + uuid.NewString()
}

// Identity returns the candidate's name.
func (l *Lock) Identity() string { return l.cfg.identity }

// Describe names the election for logs.
func (l *Lock) Describe() string { return l.key }

// Fence returns the fencing token of this candidate's term: higher than that of every
// term before it. It is 0 while there is none, and after Redis said that it is over.
//
// Read it once, where OnStartedLeading or a manager's runnable begins: later it may be
// that of another term.
func (l *Lock) Fence() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term == nil || l.term.over != nil {
		return 0
	}
	return l.term.fence
}

// RecordEvent is how client-go tells that it begins and stops leading.
func (l *Lock) RecordEvent(event string) {
	if event != stoppedLeading {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term = nil
}

// Get returns the record of the election. It is NotFound where nobody ever led, or not
// for a day. Where the key is gone, because it expired or was released, the record has
// no holder.
func (l *Lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	sent := time.Now()
	r, err := l.run(ctx, getScript, []string{l.key, recordKey(l.key)})
	if err != nil {
		return nil, nil, fmt.Errorf("leaderelection: get %q: %w", l.key, err)
	}
	v := view{kind: r.text(0), token: r.text(1), record: r.text(2), ttl: time.Duration(r.number(3)) * time.Millisecond}
	l.saw(sent, v, r.number(4))
	if !v.exists() {
		return nil, nil, apierrors.NewNotFound(resource, l.key)
	}
	ler, err := v.interpret()
	if err != nil {
		return nil, nil, fmt.Errorf("leaderelection: %q: %w: %q holds no record (%w); delete it", l.key, redislock.ErrCorrupt, recordKey(l.key), err)
	}
	return ler, v.raw(), nil
}

// Create begins a term where there is no record.
func (l *Lock) Create(ctx context.Context, ler resourcelock.LeaderElectionRecord) error {
	l.mu.Lock()
	if l.term == nil {
		l.last = view{kind: "none"}
	}
	l.mu.Unlock()
	return l.Update(ctx, ler)
}

// Update writes a record over the one that was seen last: it prolongs the term of
// this candidate, ends it where the record has no holder, or begins one where nobody
// leads. Where another record stands there, or somebody leads, it is a Conflict.
func (l *Lock) Update(ctx context.Context, ler resourcelock.LeaderElectionRecord) error {
	if ler.HolderIdentity == "" {
		return l.release(ctx, ler)
	}
	if lease := time.Duration(ler.LeaseDurationSeconds) * time.Second; lease != l.cfg.leaseDuration {
		return invalid("LeaseDuration", lease, fmt.Sprintf(
			"is not that of the lock, %s; give WithTimings the same as the manager or elector", l.cfg.leaseDuration))
	}
	l.mu.Lock()
	current := l.term
	l.mu.Unlock()
	if current == nil {
		return l.take(ctx, ler)
	}
	return l.renew(ctx, current, ler)
}

// take begins a term.
func (l *Lock) take(ctx context.Context, ler resourcelock.LeaderElectionRecord) error {
	sent := time.Now()
	l.mu.Lock()
	if left := l.memory.remaining(sent); left > 0 {
		defer l.mu.Unlock()
		return l.conflict(l.memory.refusal(l.key, left))
	}
	if l.attempt == "" {
		l.sequence++
		l.attempt = l.cfg.identity + "#" + l.nonce + "." + strconv.FormatUint(l.sequence, 10) + "#"
	}
	attempt, observed := l.attempt, l.last.record
	text, err := l.encode(ler, attempt)
	notAfter, known := l.server.after(sent, l.cfg.operationTimeout()), l.memory
	l.mu.Unlock()
	if err != nil {
		return err
	}

	r, err := l.run(ctx, takeScript, []string{l.key, recordKey(l.key), fenceKey(l.key)},
		attempt, observed, text, wire.Milliseconds(l.cfg.expiry()), wire.Milliseconds(retention), notAfter, known.seen, known.forgiven, wakeChannel(l.key))
	if err != nil {
		if ctx.Err() != nil {
			l.abandon(attempt)
		}
		return fmt.Errorf("leaderelection: take %q: %w", l.key, err)
	}
	switch r.text(0) {
	case "granted":
		l.begin(attempt, uint64(r.number(1)), sent, text)
		return nil
	case "again":
		// Granted to an earlier try whose answer was lost. Its expiry runs since then, so
		// it counts once it is renewed.
		return l.renew(ctx, l.begin(attempt, uint64(r.number(1)), sent, r.text(3)), ler)
	case "held":
		return l.conflict(redislock.ErrNotAcquired)
	case "changed":
		return l.conflict(errChanged)
	case "late":
		return fmt.Errorf("leaderelection: take %q: the request reached Redis too late to count", l.key)
	case "corrupt":
		return fmt.Errorf("leaderelection: take %q: %w: %s", l.key, redislock.ErrCorrupt, l.corrupt(r.text(1)))
	case "amnesia":
		l.mu.Lock()
		defer l.mu.Unlock()
		l.memory.quarantine(time.Now(), l.cfg.expiry(), known.seen, uint64(r.number(1)))
		return l.conflict(l.memory.refusal(l.key, l.cfg.expiry()))
	}
	return l.unexpected("take", r)
}

// begin notes that a term has begun, and the record that stands there.
func (l *Lock) begin(attempt string, fence uint64, sent time.Time, record string) *term {
	t := &term{token: attempt + strconv.FormatUint(fence, 10), fence: fence, sent: sent}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term, l.attempt = t, ""
	l.last = view{kind: "string", token: t.token, record: record}
	l.memory.saw(fence)
	return t
}

// renew prolongs a term, unless Redis said before that it is over: client-go would
// begin another one without telling those who work in this one.
func (l *Lock) renew(ctx context.Context, t *term, ler resourcelock.LeaderElectionRecord) error {
	sent := time.Now()
	l.mu.Lock()
	over, observed := t.over, l.last.record
	text, err := l.encode(ler, strings.TrimRight(t.token, "0123456789"))
	l.mu.Unlock()
	if over != nil {
		return l.conflict(over)
	}
	if err != nil {
		return err
	}
	r, err := l.run(ctx, renewScript, []string{l.key, recordKey(l.key)},
		t.token, observed, text, wire.Milliseconds(l.cfg.expiry()), wire.Milliseconds(retention))
	if err != nil {
		return fmt.Errorf("leaderelection: renew %q: %w", l.key, err)
	}
	switch r.text(0) {
	case "ok":
		l.mu.Lock()
		defer l.mu.Unlock()
		t.sent = sent
		l.last = view{kind: "string", token: t.token, record: text}
		return nil
	case "changed":
		return l.conflict(errChanged)
	case "lost":
		return l.conflict(l.lose(t))
	}
	return l.unexpected("renew", r)
}

// lose ends a term because Redis said so.
func (l *Lock) lose(t *term) error {
	lost := &redislock.LostError{Key: l.key, Token: t.token}
	l.mu.Lock()
	first := t.over == nil
	t.over = lost
	l.mu.Unlock()
	if first && l.cfg.onLost != nil {
		l.cfg.onLost(lost)
	}
	return lost
}

// release ends the term of this candidate. client-go calls it also when it could not
// renew for RenewDeadline, and before it tells those who work in the term: then
// nothing is released, for what remains of the expiry is what they have to stop in.
func (l *Lock) release(ctx context.Context, ler resourcelock.LeaderElectionRecord) error {
	l.mu.Lock()
	t := l.term
	if t == nil {
		l.mu.Unlock()
		return nil
	}
	over, age := t.over, elapsed(t.sent)
	text, err := l.encode(ler, strings.TrimRight(t.token, "0123456789"))
	l.mu.Unlock()
	switch {
	case over != nil:
		return over
	case age > l.cfg.renewDeadline:
		return &redislock.LostError{Key: l.key, Token: t.token, Err: errNotRenewed}
	case err != nil:
		return err
	}
	r, err := l.run(ctx, releaseScript, []string{l.key, recordKey(l.key)},
		t.token, text, wire.Milliseconds(retention), wakeChannel(l.key), "token")
	if err != nil {
		return fmt.Errorf("leaderelection: release %q: %w", l.key, err)
	}
	switch r.text(0) {
	case "done":
		l.mu.Lock()
		defer l.mu.Unlock()
		l.term, l.last = nil, view{kind: "none", record: text}
		return nil
	case "gone", "mismatch":
		// No Conflict: client-go would try again at once, over and over.
		return l.lose(t)
	}
	return l.unexpected("release", r)
}

// abandon gives back in the background what a take may have been granted unheard whose
// caller has left: at once, and again when the request is void.
func (l *Lock) abandon(attempt string) {
	l.mu.Lock()
	if l.attempt == attempt {
		l.attempt = ""
	}
	l.mu.Unlock()
	giveBack := func() {
		_, _ = l.run(context.Background(), releaseScript, []string{l.key, recordKey(l.key)},
			attempt, "", wire.Milliseconds(retention), wakeChannel(l.key), "attempt")
	}
	go func() {
		giveBack()
		time.Sleep(l.cfg.operationTimeout())
		giveBack()
	}()
}

// saw takes in what was seen of the election.
func (l *Lock) saw(sent time.Time, v view, micros int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server = serverTime{micros, sent}
	l.last = v
	if token, ok := redislock.ParseToken(v.token); ok && plausible(token.Fence, micros) {
		l.memory.saw(token.Fence)
	}
}

// encode is the record to write, different from every other. The caller holds mu.
func (l *Lock) encode(ler resourcelock.LeaderElectionRecord, attempt string) (string, error) {
	l.writes++
	return record{LeaderElectionRecord: ler, Attempt: attempt, Write: l.writes}.encode()
}

func (l *Lock) run(ctx context.Context, s *redis.Script, keys []string, args ...any) (reply, error) {
	return run(ctx, l.rdb, l.cfg.operationTimeout(), s, keys, args...)
}

// after is the server's time, in µs, at which a request is void that is sent now and
// given up on after timeout; 0 where the server's time is not known.
func (s serverTime) after(now time.Time, timeout time.Duration) int64 {
	if s.micros == 0 {
		return 0
	}
	return s.micros + now.Sub(s.sent).Microseconds() + timeout.Microseconds()
}

// elapsed is the time since t by the clock that saw more of it: the monotonic one
// stands still while a machine sleeps.
func elapsed(t time.Time) time.Duration {
	return max(time.Since(t), time.Now().Round(0).Sub(t.Round(0)))
}
