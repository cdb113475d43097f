package redisserver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/test/redisserver"
)

const parentEnv = "TEST_REDISSERVER_PARENT"

// TestMain is also the program that is killed in a test.
func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		s, err := redisserver.New(context.Background(), redisserver.Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.PID(), s.Dir())
		select {}
	}
	os.Exit(m.Run())
}

func TestNothingIsLeftOfAKilledProgram(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	self, err := os.Executable()
	g.Expect(err).NotTo(HaveOccurred())
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), parentEnv+"=yes")
	out, err := parent.StdoutPipe()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(parent.Start()).To(Succeed())
	var pid int
	var dir string
	_, err = fmt.Fscan(out, &pid, &dir)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(dir).To(BeADirectory())
	g.Expect(parent.Process.Kill()).To(Succeed())
	_ = parent.Wait()
	g.Eventually(func() error { return syscall.Kill(pid, 0) }).WithTimeout(20 * time.Second).Should(MatchError(syscall.ESRCH))
	folder := filepath.Dir(dir)
	g.Eventually(folder).WithTimeout(20 * time.Second).ShouldNot(BeADirectory())
}

func client(t *testing.T, s *redisserver.Server, rawURL string) *redis.Client {
	t.Helper()
	return redisserver.Connect(t, rawURL, func(o *redis.Options) {
		if c := s.TLSConfig(); c != nil {
			o.TLSConfig = c
		}
		o.MaxRetries = -1
	})
}

func TestServersSideBySide(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ctx := t.Context()
	a := redisserver.Start(t, redisserver.Options{})
	b := redisserver.Start(t, redisserver.Options{})
	g.Expect(client(t, a, a.URL()).Set(ctx, "k", "a", 0).Err()).To(Succeed())
	g.Expect(client(t, b, b.URL()).Get(ctx, "k").Err()).To(MatchError(redis.Nil))
}

func TestKindsOfServers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts redisserver.Options
		url  func(*redisserver.Server) string
	}{
		"password": {opts: redisserver.Options{Password: "pass word"}},
		"TLS":      {opts: redisserver.Options{TLS: true, Password: "secret"}},
		"socket":   {opts: redisserver.Options{UnixSocket: true}},
		"ACL": {
			opts: redisserver.Options{Password: "admin", ACL: []string{"user app on >secret ~* +@all"}},
			url:  func(s *redisserver.Server) string { return s.UserURL("app", "secret") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			s := redisserver.Start(t, tc.opts)
			u := s.URL()
			if tc.url != nil {
				u = tc.url(s)
			}
			g.Expect(client(t, s, u).Ping(t.Context()).Err()).To(Succeed())
		})
	}
}

func TestRestartKeepsOrEmptiesTheData(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	ctx := t.Context()
	s := redisserver.Start(t, redisserver.Options{AppendOnly: true})
	addr := s.Addr()
	c := client(t, s, s.URL())
	g.Expect(c.Set(ctx, "k", "v", 0).Err()).To(Succeed())

	g.Expect(s.Kill()).To(Succeed())
	g.Expect(s.Running()).To(BeFalse())
	g.Expect(c.Get(ctx, "k").Err()).To(HaveOccurred())
	g.Expect(s.Start()).To(Succeed())
	g.Expect(s.Addr()).To(Equal(addr))
	g.Expect(client(t, s, s.URL()).Get(ctx, "k").Val()).To(Equal("v"))

	g.Expect(s.Restart(redisserver.KeepData)).To(Succeed())
	g.Expect(client(t, s, s.URL()).Get(ctx, "k").Val()).To(Equal("v"))

	g.Expect(s.Restart(redisserver.EmptyData)).To(Succeed())
	g.Expect(client(t, s, s.URL()).Get(ctx, "k").Err()).To(MatchError(redis.Nil))
}

func TestPausedServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := redisserver.Start(t, redisserver.Options{})
	c := client(t, s, s.URL())
	g.Expect(c.Ping(t.Context()).Err()).To(Succeed())

	g.Expect(s.Pause()).To(Succeed())
	var timeout net.Error
	g.Expect(errors.As(client(t, s, s.URL()+"?read_timeout=50ms").Ping(t.Context()).Err(), &timeout)).To(BeTrue())
	g.Expect(timeout.Timeout()).To(BeTrue())

	g.Expect(s.Resume()).To(Succeed())
	g.Expect(client(t, s, s.URL()).Ping(t.Context()).Err()).To(Succeed())

	g.Expect(s.Pause()).To(Succeed())
	g.Expect(s.Stop()).To(Succeed(), "a paused server can be stopped")
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s, err := redisserver.New(t.Context(), redisserver.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	pid := s.PID()
	g.Expect(s.Close()).To(Succeed())
	g.Expect(s.Dir()).NotTo(BeADirectory())
	g.Expect(s.PID()).To(BeZero())
	g.Expect(syscall.Kill(pid, 0)).To(MatchError(syscall.ESRCH))
	g.Expect(s.Close()).To(Succeed(), "twice does no harm")
}

func TestWrongArgumentsAreReported(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	_, err := redisserver.New(t.Context(), redisserver.Options{Args: []string{"--no-such-option", "1"}})
	g.Expect(err).To(MatchError(ContainSubstring("no-such-option")))
}
