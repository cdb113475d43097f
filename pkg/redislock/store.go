package redislock

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock/internal/wire"
)

// Verdict is what a look at one property of a store came to.
type Verdict string

// The verdicts. What may not be read is Unverified, which is not Safe.
const (
	Safe       Verdict = "Safe"
	Dangerous  Verdict = "Dangerous"
	Unverified Verdict = "Unverified"
)

// Finding is one property of a store that matters to locks.
type Finding struct {
	// Check names the property: Version, Eviction, Persistence, Replication or Clock.
	Check   string
	Verdict Verdict
	// Message says what was found, what it can cost, and what to change.
	Message string
}

// StoreReport is what CheckStore found, one Finding for each property.
type StoreReport struct {
	Version  string
	Findings []Finding
}

// Verdict is the worst of the findings.
func (r StoreReport) Verdict() Verdict {
	worst := Safe
	for _, f := range r.Findings {
		switch f.Verdict {
		case Dangerous:
			return Dangerous
		case Unverified:
			worst = Unverified
		case Safe:
		}
	}
	return worst
}

// Message joins the messages of all findings with the verdict v.
func (r StoreReport) Message(v Verdict) string {
	var messages []string
	for _, f := range r.Findings {
		if f.Verdict == v {
			messages = append(messages, f.Message)
		}
	}
	return strings.Join(messages, "; ")
}

// CheckStore looks at how Redis is set up, for much of what a lock promises hangs
// on it. An error means that Redis did not answer at all; what its ACL denies is
// Unverified. It is worth repeating now and then: settings change, and a step of
// the server's clock, by which every expiry moves, shows only over time.
func (c *Client) CheckStore(ctx context.Context) (StoreReport, error) {
	if c.isClosed() {
		return StoreReport{}, ErrClosed
	}
	if err := c.askTime(ctx, operationTimeout); err != nil {
		return StoreReport{}, fmt.Errorf("redislock: looking at the store: %w", err)
	}
	info := map[string]string{}
	if text, err := wire.Bounded(ctx, operationTimeout, func(ctx context.Context) (string, error) {
		return c.rdb.Info(ctx).Result()
	}); err == nil {
		info = parseInfo(text)
	} else if ctx.Err() != nil {
		return StoreReport{}, ctx.Err()
	}
	snapshots, err := wire.Bounded(ctx, operationTimeout, func(ctx context.Context) (map[string]string, error) {
		return c.rdb.ConfigGet(ctx, "save").Result()
	})
	if err != nil {
		snapshots = nil
	}
	return StoreReport{
		Version: info["redis_version"],
		Findings: []Finding{
			checkVersion(info), checkEviction(info), checkPersistence(info, snapshots),
			checkReplication(info), c.checkClock(),
		},
	}, nil
}

// parseInfo reads the "name:value" lines of INFO.
func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

func checkVersion(info map[string]string) Finding {
	version, ok := info["redis_version"]
	major, err := strconv.Atoi(strings.SplitN(version, ".", 2)[0])
	switch {
	case !ok || err != nil:
		return Finding{"Version", Unverified, "the version of Redis may not be read: allow INFO"}
	case major < 5:
		return Finding{"Version", Dangerous, "Redis " + version + " cannot replicate the lock scripts faithfully: use 5.0 or later"}
	}
	return Finding{"Version", Safe, "Redis " + version}
}

func checkEviction(info map[string]string) Finding {
	policy, ok := info["maxmemory_policy"]
	switch {
	case !ok:
		return Finding{"Eviction", Unverified, "the eviction policy may not be read: allow INFO, and see that maxmemory-policy is noeviction"}
	case policy != "noeviction" && info["maxmemory"] != "0":
		return Finding{"Eviction", Dangerous, "maxmemory-policy " + policy + " evicts locks that are held, and their fencing counters: set noeviction"}
	}
	return Finding{"Eviction", Safe, "no key is evicted"}
}

func checkPersistence(info, snapshots map[string]string) Finding {
	aof, ok := info["aof_enabled"]
	switch {
	case !ok:
		return Finding{"Persistence", Unverified, "persistence may not be read: allow INFO, and see that appendonly is yes"}
	case aof == "1":
		return Finding{"Persistence", Safe, "writes go to the append-only file"}
	case snapshots == nil:
		return Finding{"Persistence", Unverified, "appendonly is no, and whether snapshots are taken may not be read: a restart can forget who holds"}
	case snapshots["save"] != "":
		return Finding{"Persistence", Dangerous, "only snapshots are kept: a restart forgets every lock granted since the last one; set appendonly yes"}
	}
	return Finding{"Persistence", Dangerous, "nothing is kept on disk: a restart forgets every lock; set appendonly yes"}
}

func checkReplication(info map[string]string) Finding {
	role, ok := info["role"]
	if !ok {
		return Finding{"Replication", Unverified, "replication may not be read: allow INFO"}
	}
	if role != "master" {
		return Finding{"Replication", Dangerous, "this is a replica, which grants nothing: give the address of the primary"}
	}
	if replicas := info["connected_slaves"]; replicas != "0" && info["min_slaves_good_slaves"] == "" {
		return Finding{"Replication", Dangerous, fmt.Sprintf(
			"min-replicas-to-write is 0 with %s replicas: a primary that is cut off from them goes on granting locks; set it to 1 or more", replicas)}
	}
	return Finding{"Replication", Safe, "no write is acknowledged that replicas are known to miss for long"}
}

func (c *Client) checkClock() Finding {
	steps, last := c.server.stepped()
	if steps == 0 {
		return Finding{"Clock", Safe, "the server's clock runs evenly"}
	}
	return Finding{"Clock", Dangerous, fmt.Sprintf(
		"the server's clock was stepped %d times since this process began, last by %s, which moves every expiry: have it slewed", steps, last.Round(time.Millisecond))}
}
