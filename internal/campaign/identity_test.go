package campaign

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
)

func TestIdentitiesAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	want := Identity{ClusterUID: "uid", ClusterName: "blue", Object: types.NamespacedName{Namespace: "ns", Name: "name"}, Fingerprint: "f00d"}
	g.Expect(want.String()).To(Equal("uid/blue/ns/name/f00d"))
	got, ok := ParseIdentity(want.String())
	g.Expect(ok).To(BeTrue())
	g.Expect(got).To(Equal(want))
}

func TestIdentitiesOfOtherProgramsAreNotReadAsOurs(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "host", "/", "a/b/c/d", "a/b/c/d/e/f", "////", "/blue/ns/name/f00d", "uid//ns/name/f00d",
		"uid/blue//name/f00d", "uid/blue/ns//f00d", "uid/blue/ns/name/", "uid/" + strings.Repeat("b", 254) + "/ns/name/f00d",
	} {
		t.Run(s, func(t *testing.T) {
			t.Parallel()
			_, ok := ParseIdentity(s)
			NewWithT(t).Expect(ok).To(BeFalse())
		})
	}
}

func TestTheSameHolderIsTheSameObjectOfTheSameCluster(t *testing.T) {
	t.Parallel()
	me := Identity{ClusterUID: "uid", ClusterName: "blue", Object: types.NamespacedName{Namespace: "ns", Name: "name"}, Fingerprint: "f00d"}
	for _, tc := range []struct {
		name   string
		change func(*Identity)
		want   bool
	}{
		{"itself", func(*Identity) {}, true},
		{"after the cluster was renamed", func(i *Identity) { i.ClusterName = "azure" }, true},
		{"after the spec was changed", func(i *Identity) { i.Fingerprint = "beef" }, true},
		{"another cluster of that name", func(i *Identity) { i.ClusterUID = "other" }, false},
		{"another object", func(i *Identity) { i.Object.Name = "other" }, false},
		{"an object of another namespace", func(i *Identity) { i.Object.Namespace = "other" }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			other := me
			tc.change(&other)
			NewWithT(t).Expect(me.sameHolder(other)).To(Equal(tc.want))
		})
	}
}

func TestFingerprintsTellSettingsApart(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(Fingerprint("Always", "30s", "0s")).To(Equal(Fingerprint("Always", "30s", "0s")))
	g.Expect(Fingerprint("Always", "30s", "0s")).NotTo(Equal(Fingerprint("Always", "0s", "30s")))
	g.Expect(Fingerprint("a", "bc")).NotTo(Equal(Fingerprint("ab", "c")))
}

// FuzzParseIdentity: what is read as an identity is written as it was, and nothing
// makes it panic.
func FuzzParseIdentity(f *testing.F) {
	f.Add("uid/blue/ns/name/f00d")
	f.Add("a/b/c/d")
	f.Add("////")
	f.Fuzz(func(t *testing.T, s string) {
		identity, ok := ParseIdentity(s)
		if !ok {
			if identity != (Identity{}) {
				t.Errorf("%q: refused, but %+v was read", s, identity)
			}
			return
		}
		if identity.String() != s {
			t.Errorf("%q was read and written as %q", s, identity)
		}
		if identity.ClusterName == "" || len(identity.ClusterName) > 253 {
			t.Errorf("%q: its cluster name does not fit a status", s)
		}
		if again := newHolder(s+"#nonce.1#7", 7, identity); strings.ContainsAny(s, "#~") == again.Ours {
			t.Errorf("%q: as the holder of a token it is %+v", s, again)
		}
	})
}
