package leaderelection

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

var (
	errChanged    = errors.New("the record is another than the one that was seen last")
	errNotRenewed = errors.New("it was not renewed for RenewDeadline")
)

// conflict is what client-go answers by looking again. It can be told from what
// prevented asking, which is never a Conflict and never NotFound.
func (l *Lock) conflict(why error) error {
	return &conflictError{apierrors.NewConflict(resource, l.key, why), why}
}

// conflictError keeps why, which an API server's error flattens into its message.
type conflictError struct {
	*apierrors.StatusError
	why error
}

func (e *conflictError) Unwrap() []error { return []error{e.StatusError, e.why} }

func (l *Lock) corrupt(which string) string {
	switch which {
	case "seen":
		return "this candidate remembers a fencing token more than a year ahead of Redis' clock"
	case "record":
		return fmt.Sprintf("%q is no string; delete it", recordKey(l.key))
	}
	return fmt.Sprintf("%q holds no number, or one more than a year ahead of Redis' clock; delete it", fenceKey(l.key))
}

func (l *Lock) unexpected(operation string, r reply) error {
	return fmt.Errorf("leaderelection: %s %q: unexpected reply %v", operation, l.key, []any(r))
}
