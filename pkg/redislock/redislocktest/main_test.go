package redislocktest_test

import (
	"os"
	"testing"

	"github.com/redis/go-redis/v9/logging"

	"github.com/redislock-operator/redislock-operator/test/parallel"
)

func TestMain(m *testing.M) {
	parallel.Many()
	logging.Disable() // of the servers that go down on purpose
	os.Exit(m.Run())
}
