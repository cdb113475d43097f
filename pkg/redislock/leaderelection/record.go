package leaderelection

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// Holders where the key is taken by what is no token of ours.
const (
	anotherLibrary = "(a lock of another library)"
	// keptTaken: package redislock keeps the key for what remains of the expiry of a
	// term that was released by force.
	keptTaken = "(nobody, for a while)"
)

// record is what stands in {K}:record: client-go's, whose times have whole seconds,
// and what makes each write of it another.
type record struct {
	resourcelock.LeaderElectionRecord
	// Attempt is the token of the term that wrote it, without its fence.
	Attempt string `json:"attempt"`
	Write   uint64 `json:"write"`
}

func (r record) encode() (string, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("leaderelection: encoding the record: %w", err)
	}
	return string(data), nil
}

// view is what one look at the election saw.
type view struct {
	kind, token, record string
	ttl                 time.Duration
}

// exists says whether there is anything to see.
func (v view) exists() bool { return v.kind != "none" || v.record != "" }

// raw is what client-go compares to see whether anything has changed.
func (v view) raw() []byte { return []byte(v.token + "\n" + v.record) }

// interpret says what client-go is to make of it. A record counts while the term
// that wrote it stands at the key. Where nothing stands there it is one without a
// holder, which is client-go's way of saying that everybody may lead; where something
// else does, its holder leads.
func (v view) interpret() (*resourcelock.LeaderElectionRecord, error) {
	var r record
	if v.record != "" {
		if err := json.Unmarshal([]byte(v.record), &r); err != nil {
			return nil, err
		}
	}
	switch {
	case v.kind == "none":
		r.HolderIdentity = ""
	case r.Attempt == "" || !strings.HasPrefix(v.token, r.Attempt):
		r.HolderIdentity = anotherLibrary
		if token, ok := redislock.ParseToken(v.token); ok {
			r.HolderIdentity = token.Identity
		} else if strings.HasPrefix(v.token, "~") {
			r.HolderIdentity = keptTaken
		}
		r.LeaseDurationSeconds = int(max(v.ttl, time.Second) / time.Second)
	}
	return &r.LeaderElectionRecord, nil
}
