package leader

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

func TestOneFollowsTheOtherWithinADefaultLease(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	// What client-go demands of them.
	g.Expect(LeaseDuration).To(BeNumerically(">", RenewDeadline))
	g.Expect(RenewDeadline).To(BeNumerically(">", time.Duration(RetryPeriod.Seconds()*leaderelection.JitterFactor*float64(time.Second))))
	// The default lease was last renewed up to a third of it and 10 % of that ago.
	left := v1alpha1.DefaultLease - v1alpha1.DefaultLease/3*11/10
	retry := RetryPeriod.Seconds() * (1 + leaderelection.JitterFactor)
	takeover := LeaseDuration + time.Duration(retry*float64(time.Second))
	g.Expect(takeover).To(BeNumerically("<", left-5*time.Second), "5 s are for the controllers to start")
}

func TestWhoLeadsIsAskedOfTheAPIServer(t *testing.T) {
	t.Parallel()
	election, err := New(&rest.Config{Host: "127.0.0.1:1"}, "operators")
	if err != nil {
		t.Fatal(err)
	}
	lease := func(holder *string) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: "operators", Name: Name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: holder},
		}
	}
	for _, tc := range []struct {
		name  string
		lease *coordinationv1.Lease
		want  bool
		err   func(error) bool
	}{
		{name: "this process", lease: lease(new(election.Lock.Identity())), want: true},
		{name: "another", lease: lease(new("host_another"))},
		{name: "nobody", lease: lease(new(""))},
		{name: "nobody ever", lease: lease(nil)},
		{name: "no lease", err: apierrors.IsNotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			clientset := fake.NewClientset()
			if tc.lease != nil {
				clientset = fake.NewClientset(tc.lease)
			}
			e := &Election{Lock: election.Lock, leases: clientset.CoordinationV1(), namespace: "operators"}
			leads, err := e.Leads(t.Context())
			g.Expect(leads).To(Equal(tc.want))
			if tc.err == nil {
				g.Expect(err).NotTo(HaveOccurred())
			} else {
				g.Expect(tc.err(err)).To(BeTrue(), "%v", err)
			}
		})
	}
}

func TestEveryProcessHasAnIdentityOfItsOwn(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	one, err := New(&rest.Config{Host: "127.0.0.1:1"}, "operators")
	g.Expect(err).NotTo(HaveOccurred())
	two, err := New(&rest.Config{Host: "127.0.0.1:1"}, "operators")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(one.Lock.Identity()).NotTo(Equal(two.Lock.Identity()))
	g.Expect(one.Lock.Describe()).To(Equal("operators/" + Name))
}

func TestAnAPIServerThatHangsIsAnError(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	e, err := New(&rest.Config{Host: server.URL}, "operators")
	g.Expect(err).NotTo(HaveOccurred())
	asked := time.Now()
	leads, err := e.Leads(t.Context())
	g.Expect(err).To(HaveOccurred())
	g.Expect(leads).To(BeFalse())
	g.Expect(time.Since(asked)).To(BeNumerically("<", RenewDeadline))
}

func TestABadConfigurationIsAnError(t *testing.T) {
	t.Parallel()
	_, err := New(&rest.Config{Host: "::not an address::"}, "operators")
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("setting up leader election")))
}

func TestOutsideOfAClusterTheNamespaceIsTheOperatorsUsualOne(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	e, err := New(&rest.Config{Host: "127.0.0.1:1"}, "")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(e.namespace).To(Equal(outsideNamespace))
}
