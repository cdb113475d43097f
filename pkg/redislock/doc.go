// Package redislock is a lock in Redis that several processes, hosts or Kubernetes
// clusters share.
//
//	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
//	client, err := redislock.New(rdb)
//	...
//	err = client.WithLock(ctx, redislock.Key("invoices", customer), func(ctx context.Context, lock *redislock.Lock) error {
//		// ctx ends when the lease is lost. Hand lock.Fence() to what you write to.
//		return bill(ctx, customer, lock.Fence())
//	})
//
// # What it promises
//
// A lock is a lease: a key in Redis with an expiry, which this package renews while
// the lock is held. While Redis keeps the writes that it acknowledged, and clocks run
// evenly:
//
//   - At most one holder has a valid lease. Its holder counts validity from before it
//     asked, keeps back 1 % and 2 ms, and so ends before the key expires.
//   - Whoever holds it is told when the lease ends, by Lock.Context and Lock.IsHeld, by
//     the local clock and whether or not Redis answers. After a loss nothing is renewed,
//     released or acquired again behind the caller's back.
//   - Each grant has a fencing token, Lock.Fence, higher than that of every grant before.
//   - A request that is lost, repeated or delivered late changes nothing but, at worst,
//     keeps the lock taken for one expiry. A call that is cancelled though Redis granted
//     it gives the lock back in the background.
//
// # What it does not promise
//
// A process that is stopped between looking at its lock and acting acts too late,
// and a Redis that loses acknowledged writes (a flush, a restart without
// persistence, a replica promoted before it caught up) forgets who holds. Redis counts
// expiry by its wall clock: set ahead, it frees locks early. And this package tells
// of a loss; it cannot stop work that does not heed its context. So the
// lock makes work exclusive usually and efficient always; it is correct only where
// the work is idempotent or the resource behind the lock checks the fencing token.
// See Martin Kleppmann, "How to do distributed locking" (2016).
//
// The fencing token also tells this package when Redis has lost data: a caller that
// remembers a higher one than Redis waits a whole expiry before it acquires
// (QuarantineError), since somebody whom Redis forgot may still hold the lock. A client
// remembers what it saw while it lives; WithSeen brings what a caller wrote down.
//
// A lock is not re-entrant: its holder is refused like anybody else.
//
// # The fencing token
//
// The resource that the lock guards remembers the highest token that it has seen, and
// refuses whatever comes with a lower one. That must be one step in the resource: a check
// by the client is only another look at the lock. In SQL it is one statement,
//
//	UPDATE report SET body = $3, fence = $2 WHERE name = $1 AND fence <= $2
//
// and no row means that somebody with a higher token was there: stop. Work on many rows
// does this to one row first, in its transaction. An object store that writes on
// condition is a resource, too: keep the token in the object's metadata, read it with the
// object's version, stop if it is higher than yours, and write on condition that the
// version is still the same. What can check nothing, such as a payment service, gets an
// idempotency key that names the work and is the same on each try; a token is not, for it
// differs with each grant.
//
// Where runs are claimed (below) the resource gets Claim.Fence and never Lock.Fence,
// which is lower than each of the claims under it.
//
// # Which options for which job
//
//   - A short critical section: WithLock as it is. Lease 10 s, three tries 100 ms apart.
//   - No time to wait: TryAcquire, and IfAcquired where "somebody else has it" is no error.
//   - Everybody gets a turn: WithWait, and a context with a deadline. A release wakes one
//     waiter in each process. Or WithRetry, and WithBackoff where many are refused at once.
//   - A long job: it is renewed. WithLease bounds how long the next one waits for a holder
//     that died, and how long an outage of Redis a holder survives; WithMaxHold ends the
//     hold of one that hangs.
//   - Work that takes a while to stop: WithLockDelay keeps the key taken for so long after
//     a lease that was not released; Lock.Cover does so for work that outlives its holder.
//   - A schedule that several clusters have: Lock.Claim and Client.FinishRun. A tick runs
//     one at a time, and never again once it is recorded as done. Or WithMinHold, where it
//     is enough that whoever is late by less than that finds the lock taken.
//   - Many triggers for one piece of work: Client.Debouncer.
//   - A leader: Client.Elector, or package leaderelection for Kubernetes managers.
//   - Another process goes on with the work: Lock.Detach there, Client.Adopt here.
//   - A lease that is as long as there is progress: WithoutRenewal and Lock.Extend.
//   - Several resources at once: Client.AcquireAll.
//   - First come, first served: WithFair. So many at a time: Client.Semaphore. Many who
//     read or one who writes: Client.RWLock.
//   - Efficiency alone, and nothing behind the lock checks tokens: WithoutFence, which
//     acquires by one SET NX PX and does not notice that Redis lost data.
//   - People want to know: WithIdentity, WithMetadata, WithHistory and Client.Inspect;
//     WithObserver for metrics; Client.CheckStore for what is dangerous in Redis' settings.
//   - A holder that hangs for good: Client.ForceRelease, which names its fencing token.
//
// # Connections
//
// Set ContextTimeoutEnabled in the options of go-redis. Each operation here has a
// deadline, and only with this option go-redis keeps it. Without it all works the same,
// but each command runs in a goroutine of its own, to be given up on when it takes too
// long, and callers at the same time never share a pipeline; see New.
//
// A *redis.Client may be that of one server or one of Sentinel's
// (redis.NewFailoverClient); a *redis.ClusterClient is a Cluster, where all keys of a
// lock are in one slot. A *redis.Ring is refused: its shards move without a handover. Have
// one Client for each Redis: its waiters share one subscription, and its renewals share
// pipelines, a node at a time. go-redis may repeat commands (MaxRetries): a repeated
// acquire knows its own grant.
//
// # Errors
//
//   - ErrNotAcquired: a refusal, and no failure. *HeldError says who has the lock and for
//     how long unless it is renewed; *QuarantineError, how long nobody gets it because
//     Redis lost data. WithRefusal puts it in the caller's words, IfAcquired makes it a
//     value.
//   - The context's error, where that ended first. A call that was refused until then is
//     both this and an ErrNotAcquired: ask for the context's first.
//   - ErrLost, a *LostError: the lease has ended. It is the cause of Lock.Context, and what
//     Release, Extend, Cover, Claim and WithLock return from then on.
//   - *DebounceLostError, an ErrLost too: the claim of a debounce's run is gone. It is the
//     cause of the run's context.
//   - ErrReleased: the same after Release and Detach, of which another Release is nil.
//   - ErrLimit, a *LimitError: a semaphore is in use with another number of permits. It is
//     a refusal, but not one that waiting helps.
//   - ErrNotClaimed, a *ClaimError: why a run may not be had.
//   - ErrMismatch, a *MismatchError: Adopt or ForceRelease named what does not stand there.
//   - ErrInvalid: an argument is wrong; nothing was sent. ErrClosed: the Client is.
//   - ErrCorrupt: a companion key holds what this package never writes; the message says
//     which.
//   - All else comes from Redis or the way to it. Refused says whether Redis denies this
//     client a command or key, so that trying again does not help.
//
// # Tests
//
// Package redislocktest is a Redis inside the tests of programs that lock: it goes down,
// hangs and loses answers when the test says so, and its time can be that of a
// testing/synctest bubble.
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
// # Many calls, one run
//
// A Debouncer turns many calls into one run, over all processes and clusters that share
// its key. Debouncer.Call records a call and returns; some process that has Debouncer.Run
// runs once calls have ceased for Debounce.Wait, or Debounce.MaxWait after the first of
// them. Who only calls needs no settings. While Redis keeps the writes that it
// acknowledged:
//
//   - A call that was recorded is run, whatever becomes of its caller. Calls that come
//     during a run are run after it. The runs of one key never overlap while leases last.
//   - Calls of one window have one generation, and so does their run: higher than all
//     before it, also where the key was deleted. Whoever takes over from a runner that died
//     gets the same generation, payload and number of calls.
//   - A request that is repeated or comes late counts once. So does a call that its caller
//     makes again within ten minutes, where WithSequence names it.
//   - Calls that never cease run all the same. Only Debounce.MinInterval, a run that goes
//     on, and the want of a runner put a run off beyond MaxWait.
//
// It does not promise that a generation is run once: a runner may die, or lose its lease,
// after its work and before that was recorded. Make the work idempotent by
// DebounceRun.Generation. A run that failed is recorded and not repeated. With
// the Leading edge the calls in the rest of a window have no run of their own: what they
// announce may be newer than what the run saw.
//
// A Redis that loses acknowledged writes loses calls with them. A runner that saw the
// window says so once, DebounceState.Lost; a window that no runner saw is lost unheard.
// Nothing is stuck after that, and generations still rise. CallAndWait records its call
// again. What must not be lost has a source of truth besides: have the run look at that, and
// make a call now and then that nobody asked for.
//
// Runners sleep until a window is due or is opened, which is published on a channel. Where
// an ACL denies them that channel they ask every second; where it denies the callers only,
// a run may be a minute late.
//
// Debouncer.CallAndWait is for programs without a process that always runs: each caller
// waits, and one of them runs.
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
// "{key}:places". A debounce is a hash at a key of its own, with "{key}:sources" and
// "{key}:heard". Queues and shares need the Redis commands ZADD, ZREM,
// ZREMRANGEBYSCORE, ZSCORE, ZRANK, ZCARD, ZCOUNT, ZRANGE, ZRANGEBYSCORE and PEXPIREAT;
// a debounce needs HGET, HMGET, HSET, HDEL, HINCRBY, TYPE, EXISTS, ZADD, ZREM and
// ZRANGEBYSCORE. Nothing else does.
package redislock
