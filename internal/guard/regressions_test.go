package guard

import (
	"testing"

	. "github.com/onsi/gomega"
)

// This file has what once went wrong, or nearly.

// kinds are those of a plan's steps, in their order.
func kinds(p Plan) []Kind {
	list := []Kind{}
	for _, step := range p.Steps {
		list = append(list, step.Kind)
	}
	return list
}

func TestAJobWaitsForTheLockThoughRedisDoesNotAnswer(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	plan := Decide(onDemand(notHeld, noRuns, jobs(newBatchJob("a"))))
	g.Expect(plan.Compete).To(BeTrue(), "or the status would say that nothing waits, and hide that Redis is away")
	g.Expect(plan.Steps).To(BeEmpty())
}
