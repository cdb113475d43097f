package callapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"io"
	"math"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/redislock-operator/redislock-operator/test/certs"
	"github.com/redislock-operator/redislock-operator/test/ports"
)

func TestItSpeaksBothVersionsOfHTTPByTLSOnly(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	namespace, token := newCaller(t)
	for version, http2 := range map[int]bool{1: false, 2: true} {
		a := do(t, newClient(t, http2), newPost(t, s.url(namespace, "settings"), token, nil))
		g.Expect(a.Code).To(Equal(http.StatusAccepted), a.Raw)
		g.Expect(a.Proto).To(Equal(version))
	}
	_, err := tls.Dial("tcp", s.Address(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	g.Expect(err).To(HaveOccurred())

	conn, err := net.Dial("tcp", s.Address())
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "POST /v1/namespaces/a/debounces/b/call HTTP/1.1\r\nHost: calls\r\nAuthorization: Bearer "+token+"\r\n\r\n")
	g.Expect(err).NotTo(HaveOccurred())
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	g.Expect(err).NotTo(HaveOccurred())
	_ = response.Body.Close()
	g.Expect(response.StatusCode).To(Equal(http.StatusBadRequest))
}

func TestACertificateThatChangesIsReadAgain(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ca, err := certs.NewCA("calls")
	g.Expect(err).NotTo(HaveOccurred())
	dir := t.TempDir()
	write := func(name string) {
		pair, err := ca.Server(name, name, "127.0.0.1")
		g.Expect(err).NotTo(HaveOccurred())
		_, _, err = pair.Write(dir, "tls")
		g.Expect(err).NotTo(HaveOccurred())
	}
	write("first.example.com")
	s := serve(t, func(set *settings) { set.options.CertDir = dir })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Cert)
	verifies := func(name string) error {
		conn, err := tls.Dial("tcp", s.Address(), &tls.Config{RootCAs: roots, ServerName: name})
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	g.Expect(verifies("first.example.com")).To(Succeed())
	g.Expect(verifies("second.example.com")).NotTo(Succeed())
	write("second.example.com")
	g.Eventually(verifies).WithArguments("second.example.com").WithTimeout(patience).Should(Succeed())
}

func TestWhatCannotBeServedEndsTheManager(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = taken.Close() })
	for name, tc := range map[string]struct {
		options Options
		text    string
	}{
		"a folder without a certificate": {Options{BindAddress: "127.0.0.1:0", CertDir: t.TempDir()}, "--call-cert-dir"},
		"an address that is taken":       {Options{BindAddress: taken.Addr().String()}, "in use"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			tc.options.Audience, tc.options.Rate, tc.options.Burst = DefaultAudience, 1, 1
			server, err := New(&rest.Config{Host: "https://127.0.0.1:1"}, &recorder{}, tc.options, testr.New(t))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(server.Ready(nil)).NotTo(Succeed())
			g.Expect(server.Start(t.Context())).To(MatchError(ContainSubstring(tc.text)))
		})
	}
}

func TestWhatWasBegunIsFinishedWhenTheManagerEnds(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	hold := make(chan struct{})
	s := serve(t, func(set *settings) {
		set.calls.answer = func(ctx context.Context, _ Call) (Result, error) {
			select {
			case <-hold:
				return Result{Generation: 7}, nil
			case <-ctx.Done():
				return Result{}, ctx.Err()
			}
		}
	})
	namespace, token := newCaller(t)
	answers := make(chan answer, 1)
	go func() { answers <- s.post(t, namespace, "settings", token) }()
	g.Eventually(s.calls.got).WithTimeout(patience).Should(HaveLen(1))
	s.stop()
	g.Eventually(func() error {
		conn, err := net.Dial("tcp", s.Address())
		if err == nil {
			_ = conn.Close()
		}
		return err
	}).WithTimeout(patience).ShouldNot(Succeed(), "nothing new is begun")
	close(hold)
	g.Eventually(answers).WithTimeout(patience).Should(Receive(HaveField("Code", http.StatusAccepted)))
}

func TestACallThatDoesNotEndIsCutOffWhenTheManagerEnds(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t, func(set *settings) {
		set.limits.shutdown = 50 * time.Millisecond
		set.calls.answer = func(ctx context.Context, _ Call) (Result, error) {
			<-ctx.Done()
			return Result{}, ctx.Err()
		}
	})
	namespace, token := newCaller(t)
	failed := make(chan error, 1)
	go func() {
		response, err := s.client.Do(newPost(t, s.url(namespace, "settings"), token, nil))
		if err == nil {
			_ = response.Body.Close()
		}
		failed <- err
	}()
	g.Eventually(s.calls.got).WithTimeout(patience).Should(HaveLen(1))
	s.stop()
	g.Eventually(failed).WithTimeout(patience).Should(Receive(HaveOccurred()))
}

func TestReplicasThatDoNotLeadServeCalls(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	namespace, token := newCaller(t)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "led-by-another"},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: new("another"), LeaseDurationSeconds: new(int32(3600)),
			AcquireTime: new(metav1.NowMicro()), RenewTime: new(metav1.NowMicro()),
		},
	}
	_, err := admin(t).CoordinationV1().Leases(namespace).Create(t.Context(), lease, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	var reserved [2]*ports.Port
	for i := range reserved {
		reserved[i], err = ports.Reserve()
		g.Expect(err).NotTo(HaveOccurred())
		t.Cleanup(reserved[i].Release)
	}
	mgr, err := ctrl.NewManager(shared.Get(t).RESTConfig(), manager.Options{
		Logger: testr.New(t), Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: reserved[1].Addr(),
		LeaderElection: true, LeaderElectionID: lease.Name, LeaderElectionNamespace: namespace,
	})
	g.Expect(err).NotTo(HaveOccurred())
	calls := &recorder{}
	o := Options{BindAddress: reserved[0].Addr(), Audience: DefaultAudience, Rate: 1, Burst: 1}
	g.Expect(AddToManager(mgr, calls, o)).To(Succeed())
	o.BindAddress = "0"
	g.Expect(AddToManager(mgr, calls, o)).To(Succeed(), "which adds nothing")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		NewWithT(t).Eventually(ended).WithTimeout(patience).Should(Receive(BeNil()))
	})
	g.Eventually(func() (int, error) {
		response, err := http.Get("http://" + reserved[1].Addr() + "/readyz/calls")
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}).WithTimeout(patience).Should(Equal(http.StatusOK))
	a := do(t, newClient(t, true), newPost(t, "https://"+reserved[0].Addr()+"/v1/namespaces/"+namespace+"/debounces/settings/call", token, nil))
	g.Expect(a.Code).To(Equal(http.StatusAccepted), a.Raw)
	g.Expect(mgr.Elected()).NotTo(BeClosed())
}

func TestRequestsAreMeasured(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t)
	refused := requestsMetric.WithLabelValues("404")
	before, took := count(g, refused), observations(g)
	g.Expect(do(t, s.client, newPost(t, "https://"+s.Address()+"/", "", nil)).Code).To(Equal(http.StatusNotFound))
	// It is measured after the answer is on its way.
	g.Eventually(func() float64 { return count(g, refused) }).WithTimeout(patience).Should(BeNumerically(">", before))
	g.Eventually(func() uint64 { return observations(g) }).WithTimeout(patience).Should(BeNumerically(">", took))
}

func observations(g *WithT) uint64 {
	var m dto.Metric
	g.Expect(durationMetric.Write(&m)).To(Succeed())
	return m.GetHistogram().GetSampleCount()
}

func count(g *WithT, c prometheus.Counter) float64 {
	var m dto.Metric
	g.Expect(c.Write(&m)).To(Succeed())
	return m.GetCounter().GetValue()
}

func TestACallerWhoGoesAwayIsCounted(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := serve(t, func(set *settings) {
		set.calls.answer = func(ctx context.Context, _ Call) (Result, error) {
			<-ctx.Done()
			return Result{}, ctx.Err()
		}
	})
	namespace, token := newCaller(t)
	gone := requestsMetric.WithLabelValues("499")
	before := count(g, gone)
	ctx, leave := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		response, err := s.client.Do(newPost(t, s.url(namespace, "settings"), token, nil).WithContext(ctx))
		if err == nil {
			_ = response.Body.Close()
		}
		failed <- err
	}()
	g.Eventually(s.calls.got).WithTimeout(patience).Should(HaveLen(1))
	leave()
	g.Eventually(failed).WithTimeout(patience).Should(Receive(MatchError(context.Canceled)))
	g.Eventually(func() float64 { return count(g, gone) }).WithTimeout(patience).Should(BeNumerically(">", before))
}

func TestOptionsThatCannotBeRightAreRefused(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var o Options
	flags := flag.NewFlagSet("manager", flag.ContinueOnError)
	o.Bind(flags)
	g.Expect(flags.Parse(nil)).To(Succeed())
	g.Expect(o.validate()).To(Succeed())
	g.Expect(o).To(Equal(Options{BindAddress: ":8444", Audience: "redislock.io", Rate: 100, Burst: 200}))
	g.Expect(o.Enabled()).To(BeTrue())
	for flag, change := range map[string]func(*Options){
		"--call-bind-address": func(o *Options) { o.BindAddress = "" },
		"--call-audience":     func(o *Options) { o.Audience = "" },
		"--call-rate":         func(o *Options) { o.Rate = math.NaN() },
		"--call-burst":        func(o *Options) { o.Burst = 0 },
	} {
		wrong := o
		change(&wrong)
		g.Expect(wrong.validate()).To(MatchError(ContainSubstring(flag)))
	}
}
