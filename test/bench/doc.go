// Package bench compares this project's lock with its peers and with the least
// that a lock in Redis can cost, all in one run against one server. Only ratios
// within a run mean anything.
//
//	go test -bench . -benchmem ./...
//
// It is a module of its own, so that who imports the lock does not inherit its
// peers.
package bench
