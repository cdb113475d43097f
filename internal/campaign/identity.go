package campaign

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/types"
)

// Identity is who holds a lock, as the operator writes it into a token:
// "<cluster UID>/<cluster name>/<namespace>/<name>/<fingerprint>". The UID of the
// kube-system namespace is what a cluster is known by; its name is for people, who
// may change it.
type Identity struct {
	ClusterUID  string
	ClusterName string
	Object      types.NamespacedName
	// Fingerprint is of the settings on which all clusters must agree.
	Fingerprint string
}

func (i Identity) String() string {
	return strings.Join([]string{i.ClusterUID, i.ClusterName, i.Object.Namespace, i.Object.Name, i.Fingerprint}, "/")
}

// longestPart is what fits the fields of a status.
const longestPart = 253

// ParseIdentity reads an identity; it answers false for that of another program.
func ParseIdentity(s string) (Identity, bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 5 || slices.ContainsFunc(parts, func(part string) bool { return part == "" || len(part) > longestPart || !utf8.ValidString(part) }) {
		return Identity{}, false
	}
	return Identity{
		ClusterUID: parts[0], ClusterName: parts[1],
		Object:      types.NamespacedName{Namespace: parts[2], Name: parts[3]},
		Fingerprint: parts[4],
	}, true
}

// sameHolder says whether two identities are the same object of the same cluster.
func (i Identity) sameHolder(other Identity) bool {
	return i.ClusterUID == other.ClusterUID && i.Object == other.Object
}

// Fingerprint condenses settings on which all clusters must agree.
func Fingerprint(settings ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(settings, "\x00")))
	return hex.EncodeToString(sum[:4])
}
