// Package interop has this project's lock contend for one key with locks of other
// libraries that are built on SET NX PX: the npm package @upstash/lock, redis-py,
// and the Go packages bsm/redislock and redsync. At most one of them may be inside
// at a time. It also compiles the code of docs/migration.md.
//
//	make test-interop
//
// It is a module of its own, so that who imports the lock does not inherit its
// peers.
package interop
