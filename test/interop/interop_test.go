package interop

import (
	"testing"

	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

func TestLocksOfAllLibrariesTakeTurns(t *testing.T) {
	t.Parallel()
	server := redisserver.Start(t, redisserver.Options{})
	overlaps, turns, total := contend(t, server.Addr(), contenders).report()
	t.Logf("%d turns: %v", total, turns)
	for _, overlap := range overlaps {
		t.Error(overlap)
	}
}

// One that takes no lock is seen, so others would be.
func TestTheRegisterSeesWhoDoesNotLock(t *testing.T) {
	t.Parallel()
	server := redisserver.Start(t, redisserver.Options{})
	intruder := contender{name: "intruder", run: inGo(oblivious), least: 200}
	overlaps, _, _ := contend(t, server.Addr(), append([]contender{intruder}, contenders[:2]...)).report()
	if len(overlaps) == 0 {
		t.Error("nobody was seen beside one that takes no lock")
	}
}
