package redislock

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

func TestKeyJoinsItsParts(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(Key("order", 7, "pay")).To(Equal("lock:order:7:pay"))
	g.Expect(Key("order")).To(Equal("lock:order"))
}

func TestCompanionsCarryTheWholeKey(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(fenceKey("a")).To(Equal("{a}:fence"))
	g.Expect(fenceKey("a{x}b")).To(Equal("{x}:a{x}b:fence"))
	g.Expect(historyKey("a{x}")).NotTo(Equal(historyKey("b{x}")))
}

// Any two keys that are valid have companions that are nobody else's, and each
// lives in the slot of its lock.
func FuzzValidateKey(f *testing.F) {
	for _, pair := range [][2]string{
		{"a{x}", "b{x}"}, {"x", "a{x}"}, {"a", "a:fence"}, {"a{x}", "a{x}:fence"}, {"{x}", "x"}, {"{x}y", "y{x}"},
		{"{x}:y", "y"}, {"a{}b", "{}x"}, {"foo}bar", "foo{bar"}, {"", " "}, {"fence", "a{x}:fence"}, {"\xff", "\xfe"},
		{strings.Repeat("k", maxKeyLength), strings.Repeat("k", maxKeyLength+1)},
	} {
		f.Add(pair[0], pair[1])
	}
	names := []func(string) string{fenceKey, historyKey, metadataKey, wakeChannel}
	f.Fuzz(func(t *testing.T, a, b string) {
		if ValidateKey(a) != nil {
			return
		}
		for _, name := range names {
			if slotOf(name(a)) != slotOf(a) {
				t.Fatalf("%q is not in the slot of %q", name(a), a)
			}
			if ValidateKey(name(a)) == nil {
				t.Fatalf("%q would itself be a lock", name(a))
			}
		}
		if a == b || ValidateKey(b) != nil {
			return
		}
		for _, ofA := range names {
			for _, ofB := range names {
				if ofA(a) == ofB(b) {
					t.Fatalf("%q and %q share %q", a, b, ofA(a))
				}
			}
		}
	})
}

// slotOf is the hash slot of a key by the specification of Redis Cluster.
func slotOf(key string) uint16 {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % 16384
}
