package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

var _ = Describe("smoke", func() {
	It("lets a guarded Job go", func(ctx context.Context) {
		st := newStand(ctx)
		st.run(blue, green)
		lock := st.lock("nightly", func(s *v1alpha1.RedisLockSpec) { s.Hold = v1alpha1.HoldOnDemand })
		create(ctx, lock, blue, green)
		for _, s := range []*site{blue, green} {
			job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: st.namespace, Name: "one", Labels: map[string]string{v1alpha1.LockLabel: "nightly"}},
				Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "x"}}}}}}
			Expect(s.Create(ctx, job)).To(Succeed())
		}
		Eventually(func(g Gomega) {
			for _, s := range []*site{blue, green} {
				job := &batchv1.Job{}
				g.Expect(s.Get(ctx, client.ObjectKey{Namespace: st.namespace, Name: "one"}, job)).To(Succeed())
				GinkgoWriter.Println(s.name, *job.Spec.Suspend, job.Annotations, job.Status.Conditions)
				g.Expect(job.Status.Succeeded).To(BeEquivalentTo(1))
			}
		}).WithContext(ctx).WithTimeout(40 * time.Second).Should(Succeed())
	}, NodeTimeout(3*time.Minute))
})
