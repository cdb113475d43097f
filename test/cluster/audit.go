package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// auditPolicy logs writes, each once, when it has been answered.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: None
`

// AuditEvent is a write that the API server has answered.
type AuditEvent struct {
	Verb string
	// User is who wrote; ImpersonatedUser is as whom, if it was not in their own
	// name.
	User, ImpersonatedUser string
	Groups                 []string
	UserAgent              string
	APIGroup, Resource     string
	Subresource            string
	Namespace, Name        string
	// Code is the HTTP status.
	Code int
	// Time is when the request came.
	Time time.Time
}

// AuditLog is the path of the audit log: JSON, one event a line.
func (c *Cluster) AuditLog() (string, error) {
	switch {
	case c.External():
		return "", fmt.Errorf("read the audit log: %w", ErrExternal)
	case !c.opts.Audit:
		return "", fmt.Errorf("cluster %s has no audit log: ask for it by Options.Audit", c.opts.Name)
	}
	return c.auditLog(), nil
}

func (c *Cluster) auditLog() string { return c.path("audit.log") }

// Audit is all writes so far, in the order in which they were answered. A write
// whose answer the caller has seen is among them.
func (c *Cluster) Audit() ([]AuditEvent, error) {
	path, err := c.AuditLog()
	if err != nil {
		return nil, err
	}
	return ReadAudit(path)
}

// ReadAudit reads an audit log. One that is not there yet has no events.
func ReadAudit(path string) ([]AuditEvent, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	var events []AuditEvent
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			// The server is writing it.
			break
		}
		var e struct {
			Stage string
			Verb  string
			User  struct {
				Username string
				Groups   []string
			}
			ImpersonatedUser struct{ Username string }
			UserAgent        string
			ObjectRef        struct {
				APIGroup, Resource, Subresource, Namespace, Name string
			}
			ResponseStatus           struct{ Code int }
			RequestReceivedTimestamp time.Time
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read the audit log: %w in %q", err, line)
		}
		if e.Stage != "ResponseComplete" && e.Stage != "Panic" {
			continue
		}
		events = append(events, AuditEvent{
			Verb: e.Verb,
			User: e.User.Username, ImpersonatedUser: e.ImpersonatedUser.Username, Groups: e.User.Groups,
			UserAgent: e.UserAgent,
			APIGroup:  e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource, Subresource: e.ObjectRef.Subresource,
			Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name,
			Code: e.ResponseStatus.Code,
			Time: e.RequestReceivedTimestamp,
		})
	}
	return events, nil
}
