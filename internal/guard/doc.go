// Package guard decides what is to be done about the Jobs that a RedisLock guards:
// which may start, which must stop, whose outcome is to be recorded, which are no
// longer needed.
//
// Decide is a pure function of what was seen: of the Jobs and CronJobs in this
// cluster, of the runs recorded in Redis, and of the hold on the lock. It asks
// nobody and changes nothing, so a crash between any two steps leaves nothing behind
// that the next decision does not see. Whoever carries a step out does so with the
// resourceVersion that the decision was made on: a step that was overtaken conflicts.
package guard
