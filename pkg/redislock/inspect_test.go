package redislock

import (
	"errors"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

func TestInspectTellsWhoHoldsAndWhoDid(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	a, b := dial(t, server.URL(), WithIdentity("site-a")), dial(t, server.URL(), WithIdentity("site-b"))

	info, err := a.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info).To(Equal(Info{Key: key, Status: Free, History: []Grant{}}))

	started := time.Now()
	var fences []uint64
	for i := range 6 {
		l := mustAcquire(t, []*Client{a, b}[i%2], key, patient(), WithHistory(4))
		fences = append(fences, l.Fence())
		g.Expect(l.Release(t.Context())).To(Succeed())
	}
	l := mustAcquire(t, a, key, patient(), WithHistory(4), LockIdentity("site-a/ns/name"))
	info, err = b.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Status).To(Equal(Acquired))
	g.Expect(info.Holder).To(Equal("site-a/ns/name"))
	g.Expect(info.Nonce).To(Equal(a.Nonce()))
	g.Expect(info.Value).To(Equal(l.Token()))
	g.Expect(info.Fence).To(Equal(l.Fence()))
	g.Expect(info.HighestFence).To(Equal(l.Fence()))
	g.Expect(info.TTL).To(about(5 * time.Minute))
	g.Expect(info.History).To(HaveLen(4), "no more than was asked for")
	g.Expect(info.History[0]).To(And(HaveField("Holder", "site-a/ns/name"), HaveField("Fence", l.Fence())), "newest first")
	g.Expect(info.History[3]).To(And(HaveField("Holder", "site-b"), HaveField("Fence", fences[3])))
	g.Expect(info.History[0].At).To(BeTemporally("~", started, time.Minute))

	g.Expect(rdb.Set(t.Context(), "lock:theirs", "theirs", 0).Err()).To(Succeed())
	info, err = a.Inspect(t.Context(), "lock:theirs")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info).To(Equal(Info{Key: "lock:theirs", Status: Acquired, Value: "theirs", Kind: KindLock, TTL: -1, History: []Grant{}}))

	g.Expect(rdb.HSet(t.Context(), "lock:hash", "f", "v").Err()).To(Succeed())
	info, err = a.Inspect(t.Context(), "lock:hash")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info).To(Equal(Info{Key: "lock:hash", Status: Acquired, Kind: KindOther, TTL: -1, History: []Grant{}}))
}

func TestInspectIsAWitness(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	l := mustAcquire(t, dial(t, server.URL()), key, patient())
	witness := dial(t, server.URL())
	_, err := witness.Inspect(t.Context(), key)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(connect(t, server.URL()).FlushAll(t.Context()).Err()).To(Succeed())
	_, err = witness.TryAcquire(t.Context(), key)
	var quarantine *QuarantineError
	g.Expect(errors.As(err, &quarantine)).To(BeTrue(), "%v", err)
	g.Expect(quarantine.Seen).To(Equal(l.Fence()))
}

func TestForceReleaseTakesTheLockFromItsHolder(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	admin := dial(t, server.URL())
	c := dial(t, server.URL())

	g.Expect(admin.ForceRelease(t.Context(), key, 7)).To(BeFalse(), "it is free")
	l := renewOften(t, mustAcquire(t, c, key, patient()))
	_, err := admin.ForceRelease(t.Context(), key, l.Fence()-1)
	g.Expect(err).To(MatchError(ErrMismatch))
	g.Expect(l.Status(t.Context())).To(Equal(Acquired))

	g.Expect(admin.ForceRelease(t.Context(), key, l.Fence())).To(BeTrue())
	g.Expect(value(t, rdb, key)).To(Equal(tombstone+l.Token()), "the holder may act until its lease ends")
	g.Expect(rdb.PTTL(t.Context(), key).Val()).To(about(5 * time.Minute))
	_, err = admin.TryAcquire(t.Context(), key)
	g.Expect(err).To(MatchError(ErrNotAcquired))
	g.Eventually(l.Context().Done()).Should(BeClosed(), "its renewal tells it")
	g.Expect(l.Release(t.Context())).To(MatchError(ErrLost))
	g.Expect(value(t, rdb, key)).To(Equal(tombstone + l.Token()))

	l = mustAcquire(t, c, "lock:b", patient())
	g.Expect(admin.ForceRelease(t.Context(), "lock:b", l.Fence(), Immediately())).To(BeTrue())
	g.Expect(value(t, rdb, "lock:b")).To(BeEmpty())
	next := mustAcquire(t, admin, "lock:b", patient())
	g.Expect(l.Release(t.Context())).To(MatchError(ErrLost))
	g.Expect(value(t, rdb, "lock:b")).To(Equal(next.Token()))
}

func TestForceReleaseValueTakesALockWithoutAFence(t *testing.T) {
	t.Parallel()
	g := within(t)
	server := startRedis(t)
	rdb := connect(t, server.URL())
	c := dial(t, server.URL())
	g.Expect(rdb.Set(t.Context(), key, "theirs", time.Minute).Err()).To(Succeed())
	_, err := c.ForceReleaseValue(t.Context(), key, "their")
	g.Expect(err).To(MatchError(ErrMismatch))
	g.Expect(c.ForceReleaseValue(t.Context(), key, "theirs")).To(BeTrue())
	g.Expect(value(t, rdb, key)).To(Equal(tombstone + "theirs"))
	g.Expect(c.ForceReleaseValue(t.Context(), key, tombstone+"theirs", Immediately())).To(BeTrue())
	g.Expect(c.ForceReleaseValue(t.Context(), key, "theirs")).To(BeFalse())
	mustAcquire(t, c, key, patient())
}
