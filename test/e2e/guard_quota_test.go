package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/internal/guard"
	"github.com/redislock-operator/redislock-operator/test/wrappers"
)

var _ = Describe("A lost tick whose Job cannot be made in a cluster", func() {
	It("leaves the lock to a cluster where it can", func(ctx context.Context) {
		st := newStand(ctx)
		st.run(blue, green)
		lock := st.lock("quota", onDemand)
		at := wrappers.Tick(1)
		// Quotas count for what is made after their controller has seen them.
		quota := &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: "quota"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
		}
		blue.make(ctx, quota)
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(blue.Delete(ctx, quota))).To(Succeed()) }, NodeTimeout(time.Minute))
		Eventually(func(g Gomega) {
			g.Expect(blue.Get(ctx, client.ObjectKeyFromObject(quota), quota)).To(Succeed())
			g.Expect(quota.Status.Hard).NotTo(BeEmpty())
		}).WithContext(ctx).Should(Succeed())
		mine := blue.makeCronJob(ctx, st.cronJob("quota", lock).Obj())
		st.lostRunner(ctx, lock, guard.Series(mine), at)
		create(ctx, lock, blue)
		blue.eventuallyNote(ctx, mine, "its Job cannot be made")

		theirs := green.makeCronJob(ctx, st.cronJob("quota", lock).Obj())
		create(ctx, lock, green)
		st.eventuallyRecorded(ctx, lock, at, "Complete")
		green.eventually(ctx, wrappers.TickJob(theirs, at), isComplete)
	}, SpecTimeout(3*time.Minute))
})
