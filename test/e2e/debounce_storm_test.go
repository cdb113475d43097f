package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

var _ = Describe("A storm of calls, while managers are killed", func() {
	It("is all run, and counted once", func(ctx context.Context) {
		st := newStand(ctx)
		st.run(blue, green)
		d := st.debounce("storm", aJob(), withWait(300*time.Millisecond), func(spec *v1alpha1.DebounceSpec) {
			spec.MaxWait = &metav1.Duration{Duration: time.Second}
			spec.Action.Job.SuccessfulJobsHistoryLimit = new(int32(1000))
		})
		createDebounce(ctx, d, blue, green)

		storm, over := context.WithCancel(ctx)
		defer over()
		var killing sync.WaitGroup
		kills := 0
		killing.Go(func() {
			defer GinkgoRecover()
			for storm.Err() == nil {
				s := []*site{blue, green}[rand.N(2)]
				// On a slow machine managers take longer to start than they are left alone.
				if st.managers[other(s)].Ready(storm) != nil {
					time.Sleep(100 * time.Millisecond)
					continue
				}
				Expect(st.managers[s].Kill()).To(Succeed())
				kills++
				s.forgetLeader(ctx)
				Expect(st.managers[s].Start()).To(Succeed())
				select {
				case <-storm.Done():
				case <-time.After(time.Second + rand.N(4*time.Second)):
				}
			}
		})

		// Each caller names its calls, and makes them until they are answered.
		const callers, each = 20, 100
		called := make([][]uint64, callers)
		byHTTP := map[*site]*caller{blue: st.caller(ctx, blue), green: st.caller(ctx, green)}
		var calling sync.WaitGroup
		for n := range callers {
			calling.Go(func() {
				defer GinkgoRecover()
				debouncer := st.debouncer(d)
				s := []*site{blue, green}[n%2]
				for i := range each {
					payload := fmt.Sprintf("%d/%d", n, i)
					if n < callers/4 {
						call, err := debouncer.Call(ctx, []byte(payload))
						Expect(err).NotTo(HaveOccurred())
						called[n] = append(called[n], call.Generation)
					} else {
						identity := map[string]string{"Redislock-Source": "caller-" + strconv.Itoa(n), "Redislock-Sequence": strconv.Itoa(i + 1)}
						Eventually(func(g Gomega) {
							generation, err := byHTTP[s].call(ctx, st.managers[s], d, payload, identity)
							g.Expect(err).NotTo(HaveOccurred())
							called[n] = append(called[n], generation)
						}).WithContext(ctx).WithTimeout(patient).Should(Succeed())
					}
					if i%10 == 9 { // bursts
						time.Sleep(rand.N(5 * time.Second))
					}
				}
			})
		}
		calling.Wait()
		over()
		killing.Wait()

		generations := map[uint64]bool{}
		var last uint64
		for _, list := range called {
			Expect(list).To(HaveLen(each))
			for _, generation := range list {
				generations[generation] = true
				last = max(last, generation)
			}
		}
		st.eventuallyRan(ctx, d, last)
		state, err := st.debouncer(d).State(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(state.Calls).To(BeEquivalentTo(callers*each), "each call counts once")
		Expect(state.Runs).To(BeEquivalentTo(len(generations)))
		jobs := 0
		for generation := range generations {
			mine := 0
			for _, job := range jobsOf(ctx, Default, d, blue, green) {
				if job.Labels[v1alpha1.GenerationLabel] == strconv.FormatUint(generation, 10) {
					mine++
					Expect(job.Name).To(Equal("storm-" + strconv.FormatUint(generation, 36)))
				}
			}
			// Twice only where a cluster was without a manager for a whole lease.
			Expect(mine).To(BeNumerically(">=", 1), "Jobs of generation %d", generation)
			jobs += mine
		}
		AddReportEntry("storm", fmt.Sprintf("%d generations, %d Jobs, %d kills", len(generations), jobs, kills))
		Expect(jobsOf(ctx, Default, d, blue, green)).To(HaveLen(jobs), "no Job without calls")
		Expect(jobs).To(BeNumerically("<", callers*each/10))
	}, SpecTimeout(8*time.Minute))
})
