module github.com/redislock-operator/redislock-operator/test/bench

go 1.26.0

replace github.com/redislock-operator/redislock-operator => ../..

// Only redsync's own tests import it, in a version that module proxies do not have;
// go mod tidy looks there too.
replace github.com/redis/rueidis/rueidiscompat => github.com/redis/rueidis/rueidiscompat v1.0.78

require (
	github.com/bsm/redislock v0.10.0
	github.com/go-redsync/redsync/v4 v4.18.1
	github.com/redis/go-redis/v9 v9.23.0
	github.com/redis/rueidis v1.0.79
	github.com/redislock-operator/redislock-operator v0.0.0-00010101000000-000000000000
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
