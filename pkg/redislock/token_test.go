package redislock

import (
	"fmt"
	"math"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

func TestTokensAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	for _, written := range []token{
		{identity: "host", nonce: "0a", sequence: "1"},
		{identity: "host", nonce: "0a", sequence: "1", fence: 1<<53 - 1},
		{identity: "site-a/ns/name", nonce: "0a1b", sequence: fmt.Sprint(uint64(math.MaxUint64)), stopped: true, fence: 7},
		{identity: "with.dots.and~tilde", nonce: "x", sequence: "0", stopped: true},
	} {
		read, ok := parseToken(written.String())
		g.Expect(ok).To(BeTrue(), written.String())
		g.Expect(read).To(Equal(written))
		g.Expect(written.String()).To(HavePrefix(written.attempt()))
	}
}

func TestWhatIsNoTokenIsNotReadAsOne(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	for _, other := range []string{
		"", "theirs", "5e1f7a36-0000-4000-8000-000000000000", "#", "##", "###", "a#b#c", "host#n.1", "host#n.1#", "host#n.1#x",
		"host#n.1#01", "host#n.1#-1", "host#n.1#+1", "host#n.1#9007199254740992", "host#n#1", "host#.1#1", "host#n.#1", "host#n.x#1",
		"host#n.01#1", "host#n.1.stoppe#1", "host#n.1.stopped.stopped#1", "#n.1#1", "~host#n.1#1", "host#n.1#1#2", "host#n.1#1 ",
	} {
		_, ok := parseToken(other)
		g.Expect(ok).To(BeFalse(), "%q", other)
	}
}

func FuzzParseToken(f *testing.F) {
	for _, seed := range []string{"host#0a.1#7", "host#0a.1.stopped#7", "~host#0a.1#7", "theirs", "#0a.1#7", "a#b.1#c#7", "h#n.00#0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		parsed, ok := parseToken(value)
		if !ok {
			return
		}
		if parsed.String() != value {
			t.Fatalf("%q was read as %q", value, parsed.String())
		}
		if strings.HasPrefix(value, tombstone) {
			t.Fatalf("the tombstone %q was read as a token", value)
		}
		if parsed.fence >= 1<<53 {
			t.Fatalf("%q has a fence that Lua cannot count with", value)
		}
	})
}

func TestTokensOfOneClientAreAllDifferent(t *testing.T) {
	t.Parallel()
	c, twin := newClient(t, unreachable(t), WithIdentity("host")), newClient(t, unreachable(t), WithIdentity("host"))
	seen := map[string]bool{}
	for range 1000 {
		for _, client := range []*Client{c, twin} {
			attempt := client.nextToken("host").attempt()
			if seen[attempt] {
				t.Fatalf("%q was drawn twice", attempt)
			}
			seen[attempt] = true
		}
	}
}

func TestHashTokenHidesTheToken(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	g.Expect(HashToken("a")).To(HaveLen(12))
	g.Expect(HashToken("a")).To(Equal(HashToken("a")))
	g.Expect(HashToken("a")).NotTo(Equal(HashToken("b")))
}
