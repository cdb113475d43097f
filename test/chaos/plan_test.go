package chaos

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/redislock-operator/redislock-operator/test/cluster"
)

// draw writes out the first epochs of a seed.
func draw(seed uint64, epochs int) []epoch {
	e := &Estate{sites: []*site{
		{Cluster: &cluster.Cluster{}, name: "blue", managers: []*keeper{{}, {}}},
		{Cluster: &cluster.Cluster{}, name: "green", managers: []*keeper{{}, {}}},
	}}
	p := &planner{estate: e, rng: rand.New(rand.NewPCG(seed, 0))}
	var plan []epoch
	for range epochs {
		plan = append(plan, p.next())
	}
	return plan
}

func text(plan []epoch) string {
	var b strings.Builder
	for _, ep := range plan {
		for _, target := range slices.Sorted(maps.Keys(ep.targets)) {
			for _, f := range ep.targets[target] {
				_, _ = fmt.Fprintln(&b, ep.name, target, f.kind, f.after, f.lasts)
			}
		}
	}
	return b.String()
}

func TestSeedGivesThePlan(t *testing.T) {
	plan, again, other := text(draw(7, 50)), text(draw(7, 50)), text(draw(8, 50))
	if plan != again {
		t.Error("one seed gave two plans")
	}
	if plan == other {
		t.Error("two seeds gave one plan")
	}
}

// What the guard does not claim to bear is not asked of it.
func TestPlanKeepsToWhatIsPromised(t *testing.T) {
	kinds := map[string]int{}
	for _, ep := range draw(1, 2000) {
		for target, faults := range ep.targets {
			for _, f := range faults {
				kinds[f.kind]++
				ofControlPlane := strings.HasPrefix(f.kind, "API server") || strings.HasPrefix(f.kind, "controller manager")
				switch {
				case f.kind == "controller manager blinks":
					if f.lasts > blink {
						t.Errorf("a blink of %s", f.lasts)
					}
				case ofControlPlane != (ep.name == "control planes"):
					t.Errorf("%s of %s in an epoch of %s", f.kind, target, ep.name)
				case ofControlPlane && f.lasts >= bears:
					t.Errorf("%s for %s", f.kind, f.lasts)
				}
			}
		}
	}
	for _, kind := range []string{
		"API server killed", "API server paused", "controller manager killed", "controller manager paused", "controller manager restarted",
		"Redis killed", "Redis paused", "Redis restarted", "all managers killed", "managers killed", "all managers paused", "managers paused",
		"managers restarted", "links cut", "links partitioned", "links slow", "drained",
	} {
		if kinds[kind] == 0 {
			t.Errorf("never: %s", kind)
		}
	}
}
