package redislock

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/proxy"
)

// tryInVain returns what a refusal says.
func tryInVain(t *testing.T, c *Client, key string, opts ...LockOption) *HeldError {
	t.Helper()
	_, err := c.TryAcquire(t.Context(), key, opts...)
	var held *HeldError
	if !errors.As(err, &held) {
		t.Fatalf("it is held, and this said: %v", err)
	}
	return held
}

func TestMetadataIsShownToWhoeverAsks(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"words": "build 42, run by ci", "empty": "", "one space": " ", "binary": "\x00\xff #~\r\n", "longest": strings.Repeat("é", MaxMetadata/2),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := within(t)
			server := startRedis(t)
			rdb := connect(t, server.URL())
			c, other := dial(t, server.URL()), dial(t, server.URL())
			l := mustAcquire(t, c, key, patient(), WithMetadata(text))
			g.Expect(value(t, rdb, key)).To(Equal(l.Token()), "the key itself holds the token alone")
			g.Expect(tryInVain(t, other, key).Metadata).To(Equal(text))
			g.Expect(tryInVain(t, other, key, WithoutFence()).Metadata).To(Equal(text))
			info, err := other.Inspect(t.Context(), key)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(info.Metadata).To(Equal(text))
			if text != "" {
				g.Expect(rdb.PTTL(t.Context(), metadataKey(key)).Val()).To(about(DefaultFenceRetention))
			}
		})
	}
}

// Whoever waits in order of arrival, or to read, sees it too, and may have some himself.
func TestMetadataIsShownBesideTheQueue(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	c, other := dial(t, server.URL()), dial(t, server.URL())
	rw, err := other.RWLock(key, patient())
	g.Expect(err).NotTo(HaveOccurred())
	l := mustAcquire(t, c, key, patient(), WithFair(), WithMetadata("first"), WithHistory(1))
	for name, held := range map[string]*HeldError{
		"plain": tryInVain(t, other, key), "fair": tryInVain(t, other, key, WithFair()), "reader": refusalOf(t, rw.TryRLock),
	} {
		g.Expect(held.Metadata).To(Equal("first"), name)
		g.Expect(held.Fence).To(Equal(l.Fence()), name)
		g.Expect(held.Ahead).To(BeZero(), name)
	}
	info, err := other.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Metadata).To(Equal("first"))
	g.Expect(info.History).To(HaveLen(1))
	g.Expect(connect(t, server.URL()).PTTL(t.Context(), metadataKey(key)).Val()).To(about(DefaultFenceRetention))

	g.Expect(l.Release(t.Context())).To(Succeed())
	mustAcquire(t, c, key, patient(), WithFair())
	g.Expect(refusalOf(t, rw.TryRLock).Metadata).To(BeEmpty(), "a grant that has none")
	g.Expect(tryInVain(t, other, key, WithFair()).Metadata).To(BeEmpty())
}

func TestMetadataIsNeverShownForAnotherGrant(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c, other := dial(t, server.URL()), dial(t, server.URL())
	shown := func() []string {
		t.Helper()
		info, err := other.Inspect(t.Context(), key)
		g.Expect(err).NotTo(HaveOccurred())
		return []string{tryInVain(t, other, key).Metadata, info.Metadata}
	}
	nothing := HaveEach("")

	l := mustAcquire(t, c, key, patient(), WithMetadata("first"), WithMinHold(time.Hour))
	g.Expect(shown()).To(HaveEach("first"))
	g.Expect(l.Release(t.Context())).To(Succeed())
	g.Expect(shown()).To(nothing, "a key that nobody holds")
	g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())

	l = mustAcquire(t, c, key, patient())
	g.Expect(value(t, rdb, metadataKey(key))).To(HaveSuffix(" first"), "what is stale is still there")
	g.Expect(shown()).To(nothing, "a grant that has none")
	g.Expect(l.Release(t.Context())).To(Succeed())

	l = mustAcquire(t, c, key, patient(), WithoutFence())
	g.Expect(shown()).To(nothing, "a lock without a fence")
	g.Expect(l.Release(t.Context())).To(Succeed())

	g.Expect(rdb.Set(t.Context(), key, "theirs", time.Hour).Err()).To(Succeed())
	g.Expect(shown()).To(nothing, "another library's")
	g.Expect(rdb.Del(t.Context(), key).Err()).To(Succeed())

	l = mustAcquire(t, c, key, patient(), WithMetadata("second"))
	g.Expect(shown()).To(HaveEach("second"))
	g.Expect(rdb.Del(t.Context(), metadataKey(key)).Err()).To(Succeed())
	g.Expect(rdb.HSet(t.Context(), metadataKey(key), "f", "v").Err()).To(Succeed())
	g.Expect(shown()).To(nothing, "a key that is no string is no metadata, and no error")
	g.Expect(l.Release(t.Context())).To(Succeed())
	mustAcquire(t, c, key, patient(), WithMetadata("third"))
	g.Expect(shown()).To(HaveEach("third"))
}

func TestMetadataStaysWithAGrantThatIsAdopted(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := mustAcquire(t, dial(t, server.URL()), key, patient(), WithMetadata("of the grant"))
	token, err := l.Detach(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	other := dial(t, server.URL())
	g.Expect(tryInVain(t, other, key).Metadata).To(Equal("of the grant"))
	_, err = dial(t, server.URL()).Adopt(t.Context(), key, token, patient(), WithMetadata("ignored"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(tryInVain(t, other, key).Metadata).To(Equal("of the grant"))
}

func TestATryThatIsRepeatedKeepsItsMetadata(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	p := proxy.Start(t, server.URL())
	c := newClient(t, connect(t, p.URL(), impatient, singleShot))
	acquaint(t, c)
	lost := p.DropReply(acquireOf(key))
	l := mustAcquire(t, c, key, patient(), WithMetadata("mine"), WithRetry(100, 10*time.Millisecond))
	<-lost.Done
	g.Expect(lost.Reply()).To(ContainSubstring(":"+value(t, connect(t, server.URL()), fenceKey(key))), "granted once")
	held := tryInVain(t, dial(t, server.URL()), key)
	g.Expect(held.Fence).To(Equal(l.Fence()))
	g.Expect(held.Metadata).To(Equal("mine"))
}

func TestAcquireScriptWritesMetadataWithItsFence(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	keys := acquireKeys[:3]
	play := func(attempt, metadata string) reply {
		return s.play(acquireScript, keys, attempt, minute, 0, 0, 0, 2*minute, 0, metadata)
	}
	granted := play(mine, "a b")
	s.Expect(granted).To(HaveLen(4))
	written := fmt.Sprint(granted.number(1)) + " a b"
	s.expects(metadataKey(key), written, about(2*time.Minute))
	s.Expect(play(mine, "other").word()).To(Equal("again"))
	s.expects(metadataKey(key), written, about(2*time.Minute))
	held := play("other#0a.1#", "other")
	s.Expect(held.word()).To(Equal("held"))
	s.Expect(held.text(4)).To(Equal(written))
	s.expects(metadataKey(key), written, about(2*time.Minute))

	s.Expect(s.rdb.Del(t.Context(), key).Err()).To(Succeed())
	s.Expect(s.play(acquireScript, keys, mine, minute, 1, 0, 0, 2*minute, 0, "late").word()).To(Equal("late"))
	s.expects(metadataKey(key), written, about(2*time.Minute))
	s.Expect(play(mine, "").word()).To(Equal("granted"))
	s.expects(metadataKey(key), written, about(2*time.Minute))
	inspected := s.play(inspectScript, []string{key, fenceKey(key), metadataKey(key)})
	s.Expect(inspected.text(5)).To(Equal(written))
	s.hash(metadataKey(key))
	s.Expect(s.play(inspectScript, []string{key, fenceKey(key), metadataKey(key)})).To(HaveLen(5))
	s.Expect(play("other#0a.1#", "")).To(HaveLen(4))
}

func TestTheCompanionsOfAGrantAreThoseOfItsKey(t *testing.T) {
	t.Parallel()
	for _, k := range []string{"a", "lock:a:b", "a{x}", "{x}", "ключ {замка}"} {
		fence, metadata := grantCompanions(k)
		NewWithT(t).Expect([]string{fence, metadata}).To(Equal([]string{fenceKey(k), metadataKey(k)}))
	}
}
