package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// An etcdEvent is one revision of one key.
type etcdEvent struct {
	Key     string
	Value   []byte // nil: deleted
	Version int64  // 1: created
	At      time.Time
}

// follow hands out every revision of the keys from first up to end, from the first
// there ever was, in order, until the context ends. It speaks etcd's JSON gateway, so
// that no client of etcd becomes a dependency. A broken stream is taken up where it
// broke; history that is gone is an error.
func follow(ctx context.Context, socket, first, end string, each func(etcdEvent)) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	next := int64(1)
	for ctx.Err() == nil {
		if err := followOnce(ctx, client, first, end, &next, each); errors.Is(err, errCompacted) {
			return err
		}
		sleep(ctx, 100*time.Millisecond)
	}
	return nil
}

var errCompacted = errors.New("etcd has compacted the history that is to be judged")

type watchRequest struct {
	Create watchCreate `json:"create_request"`
}

type watchCreate struct {
	Key           []byte `json:"key"`
	RangeEnd      []byte `json:"range_end"`
	StartRevision string `json:"start_revision"`
}

type watchReply struct {
	Result struct {
		CompactRevision string `json:"compact_revision"`
		Canceled        bool   `json:"canceled"`
		Events          []struct {
			Type string `json:"type"`
			KV   struct {
				Key         []byte `json:"key"`
				Value       []byte `json:"value"`
				Version     string `json:"version"`
				ModRevision string `json:"mod_revision"`
			} `json:"kv"`
		} `json:"events"`
	} `json:"result"`
	Error json.RawMessage `json:"error"`
}

func followOnce(ctx context.Context, client *http.Client, first, end string, next *int64, each func(etcdEvent)) error {
	body, err := json.Marshal(watchRequest{watchCreate{[]byte(first), []byte(end), strconv.FormatInt(*next, 10)}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://etcd/v3/watch", bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return fmt.Errorf("etcd: %s: %s", res.Status, text)
	}
	stream := json.NewDecoder(res.Body)
	for {
		var reply watchReply
		if err := stream.Decode(&reply); err != nil {
			return err
		}
		at := time.Now()
		switch {
		case reply.Error != nil:
			return fmt.Errorf("etcd: %s", reply.Error)
		case reply.Result.CompactRevision != "" && reply.Result.CompactRevision != "0":
			return errCompacted
		case reply.Result.Canceled:
			return errors.New("etcd ended the watch")
		}
		for _, e := range reply.Result.Events {
			revision, err := strconv.ParseInt(e.KV.ModRevision, 10, 64)
			if err != nil {
				return err
			}
			version, _ := strconv.ParseInt(e.KV.Version, 10, 64) // none: deleted
			// One revision may have several keys, and each message has it whole.
			*next = revision + 1
			event := etcdEvent{Key: string(e.KV.Key), Version: version, At: at}
			if e.Type != "DELETE" {
				event.Value = e.KV.Value
			}
			each(event)
		}
	}
}
