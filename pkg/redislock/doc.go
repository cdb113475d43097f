// Package redislock is a lock in Redis that several processes, hosts or Kubernetes
// clusters share.
//
//	client, err := redislock.New(redis.NewClient(&redis.Options{Addr: "localhost:6379"}))
//	...
//	err = client.WithLock(ctx, redislock.Key("invoices", customer), func(ctx context.Context, lock *redislock.Lock) error {
//		// ctx ends when the lease is lost. Hand lock.Fence() to what you write to.
//		return bill(ctx, customer, lock.Fence())
//	})
//
// # What it promises
//
// A lock is a lease: a key in Redis with an expiry, which this package renews while
// the lock is held. Whoever holds it is told when the lease ends, by Lock.Context
// and Lock.IsHeld, by the local clock and whether or not Redis answers. A request
// that is lost, repeated or delivered late changes nothing but, at worst, keeps the
// lock taken for one lease.
//
// # What it does not promise
//
// A process that is stopped between looking at its lock and acting acts too late,
// and a Redis that loses acknowledged writes (a flush, a restart without
// persistence, a replica promoted before it caught up) forgets who holds. So the
// lock makes work exclusive usually and efficient always; it is correct only where
// the work is idempotent or the resource behind the lock checks the fencing token:
// a number that rises with every grant. The resource remembers the highest it has
// seen and refuses any lower one. See Martin Kleppmann, "How to do distributed
// locking" (2016).
//
// The fencing token also tells this package when Redis has lost data: a caller that
// remembers a higher one than Redis waits a whole expiry before it acquires
// (QuarantineError), since somebody whom Redis forgot may still hold the lock.
//
// # Refusals
//
// That somebody else has the lock is an ErrNotAcquired, which says who in a
// *HeldError. WithRefusal puts it in words of the caller's, IfAcquired makes it a
// value that is no error.
//
// # Several locks
//
// Client.AcquireAll acquires several locks in one step, all or none, and they are
// then renewed, lost and released as one.
//
// # Runs
//
// Work that must be done once over all holders of a lock, such as a tick of a
// schedule that every cluster has, is claimed under the lock (Lock.Claim) and
// recorded when it is over (Client.FinishRun). Each claim has a fencing token of its
// own. A run that is done is never handed out again; what becomes of one whose
// holder was lost is the next holder's choice (ClaimRequest.Rerun).
//
// # Order, several holders, readers and writers
//
// WithFair acquires a lock in order of arrival. A Semaphore lets a fixed number hold a
// key at once; an RWLock any number of readers or one writer, and prefers writers. What
// each of them grants is a *Lock like any other: with a token and a fence of its own,
// renewed by the same goroutine in the same pipelines, and its loss is told alike.
//
// Who waits in order of arrival, and so each writer that waits, has a place in a queue
// in Redis. A place is a lease, too: whoever dies while he waits delays the others for
// at most 10 s. A program that ends should cancel the contexts of calls that wait
// before it calls Client.Close: they give their places back at once.
//
// A fence names the grant in each case. But only where one holds at a time does the
// guarded resource get to refuse lower ones than it has seen: two holders of permits
// both hold rightly, whoever writes first.
//
// # Elections
//
// An Elector is for work that somebody does all the time: it campaigns, yields each
// term that it wins, campaigns again after a loss, and tells everybody who leads
// (Elector.Terms, Elector.Leaders). Package leaderelection has managers of Kubernetes
// controllers elect through Redis.
//
// # Layout in Redis
//
// The lock's key is a plain string with an expiry, as in every lock built on SET NX
// PX, so that a lock of another library on the same key and one of this package
// exclude each other. Permits and read locks stand at the key itself, too, as a sorted
// set of tokens by when they lapse, so that they and any such lock exclude each other.
// What belongs to a lock beside it stands in the same hash slot: "{key}:fence",
// "{key}:history", "{key}:metadata", "{key}:runs", "{key}:candidates", "{key}:queue" and
// "{key}:places". Queues and shares need the Redis commands ZADD, ZREM,
// ZREMRANGEBYSCORE, ZSCORE, ZRANK, ZCARD, ZCOUNT, ZRANGE, ZRANGEBYSCORE and PEXPIREAT;
// nothing else does.
package redislock
