package e2e

import (
	"context"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

// client connects to the stand's Redis, past the operator.
func (st *stand) client() *redis.Client {
	GinkgoHelper()
	return redisserver.Connect(GinkgoTB(), st.redis.URL())
}

// renewalCommands counts the scripts that Redis has run.
func renewalCommands(ctx context.Context, st *stand) int {
	GinkgoHelper()
	stats, err := st.client().Info(ctx, "commandstats").Result()
	Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(stats) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_evalsha:calls="); ok {
			n, err := strconv.Atoi(strings.SplitN(rest, ",", 2)[0])
			Expect(err).NotTo(HaveOccurred())
			return n
		}
	}
	return 0
}
