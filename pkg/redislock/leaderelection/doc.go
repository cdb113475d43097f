// Package leaderelection elects one of several Kubernetes controllers through Redis,
// so that managers in different clusters, which share no API server, have one leader
// between them.
//
//	lock, err := leaderelection.New(rdb, redislock.Key("leader", "payments"))
//	...
//	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
//		LeaderElection:                      true,
//		LeaderElectionResourceLockInterface: lock,
//	})
//
// It implements client-go's resourcelock.Interface. A manager whose LeaseDuration,
// RenewDeadline and RetryPeriod are not the defaults has to give the same ones to
// New, by WithTimings.
//
// # What stands in Redis
//
// The term of a leader is a lock of package redislock: its token stands at the key,
// with an expiry by the server's clock. So an Elector, the command line and locks of
// other libraries on that key see the leader, and exclude it. client-go's record
// stands beside it, in "{key}:record"; its times are those of the leader's clock, and
// nothing but client-go's logs and its IsLeader depends on them.
//
// # What it promises
//
// Somebody else can lead only once the key is gone: released, or expired. The expiry
// covers the longest that client-go goes on leading after its last renewal, which is
// RetryPeriod + RenewDeadline. A term that is lost is not begun again behind the back
// of those who work in it, as client-go would: it ends, for good. After a loss nothing
// is released.
//
// client-go notices a lost term late. It goes on for up to RenewDeadline after it
// was told, and a process that was paused for longer than its lease does so when
// it wakes. OnLost tells at once, and Lock.Fence is the term's fencing token: it
// rises with each change of leader, for what the leader writes to to refuse the former
// one. See package redislock.
package leaderelection
