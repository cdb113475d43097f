package supervisor_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/supervisor"
)

const (
	soon      = 20 * time.Second
	parentEnv = "TEST_SUPERVISOR_PARENT"
)

// TestMain is also the program that is killed in the tests: it starts a
// process, says so, and waits.
func TestMain(m *testing.M) {
	dir, ok := os.LookupEnv(parentEnv)
	if !ok {
		os.Exit(m.Run())
	}
	s, err := supervisor.New(dir, true)
	if err == nil {
		_, _, err = s.Start(shell(dir, "daemon", daemon))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	if os.Getenv("TEST_SUPERVISOR_PANIC") != "" {
		panic("as asked")
	}
	select {}
}

// daemon leaves a grandchild in a session of its own, as daemons do.
const daemon = `(setsid sh -c 'echo $$ >grandchild.tmp; mv grandchild.tmp grandchild; exec sleep 1000' &)
echo $$ >child.tmp; mv child.tmp child; exec sleep 1000`

func shell(dir, name, script string) supervisor.Command {
	return supervisor.Command{Name: name, Path: "/bin/sh", Args: []string{"-c", script}, Dir: dir, Log: filepath.Join(dir, name+".log")}
}

func pidIn(g *WithT, file string) int {
	var pid int
	g.Eventually(func(g Gomega) {
		b, err := os.ReadFile(file)
		g.Expect(err).NotTo(HaveOccurred())
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		g.Expect(err).NotTo(HaveOccurred())
	}).WithTimeout(soon).Should(Succeed())
	return pid
}

func exists(pid int) bool { return syscall.Kill(pid, 0) == nil }

func folder(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCloseEndsDaemonsAndRemovesTheFolder(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	dir := folder(t)
	s, err := supervisor.New(dir, true)
	g.Expect(err).NotTo(HaveOccurred())
	_, exited, err := s.Start(shell(dir, "daemon", daemon))
	g.Expect(err).NotTo(HaveOccurred())
	child, grandchild := pidIn(g, dir+"/child"), pidIn(g, dir+"/grandchild")
	_, alive := supervisor.Alive(dir)
	g.Expect(alive).To(BeTrue())

	g.Expect(s.Close()).To(Succeed())
	g.Expect(exited).To(BeClosed())
	g.Expect(exists(child)).To(BeFalse())
	g.Expect(exists(grandchild)).To(BeFalse())
	g.Expect(dir).NotTo(BeADirectory())
	g.Expect(s.Close()).To(Succeed(), "twice does no harm")
	_, _, err = s.Start(shell(dir, "late", "true"))
	g.Expect(err).To(MatchError(supervisor.ErrGone))
}

func TestNothingIsLeftOfAProgramThatDies(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		env    string
		signal syscall.Signal
	}{
		"killed": {signal: syscall.SIGKILL},
		"Ctrl-C": {signal: syscall.SIGINT},
		"panic":  {env: "TEST_SUPERVISOR_PANIC=yes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			dir := folder(t)
			self, err := os.Executable()
			g.Expect(err).NotTo(HaveOccurred())
			parent := exec.Command(self)
			parent.Env = append(os.Environ(), parentEnv+"="+dir, tc.env)
			parent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			out, err := parent.StdoutPipe()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(parent.Start()).To(Succeed())
			line, _ := bufio.NewReader(out).ReadString('\n')
			g.Expect(line).To(Equal("ready\n"))
			if tc.signal != 0 {
				child, grandchild := pidIn(g, dir+"/child"), pidIn(g, dir+"/grandchild")
				defer func() {
					g.Expect(exists(child)).To(BeFalse())
					g.Expect(exists(grandchild)).To(BeFalse())
				}()
				// The whole group, as a terminal does it.
				g.Expect(syscall.Kill(-parent.Process.Pid, tc.signal)).To(Succeed())
			}
			_ = parent.Wait()
			g.Eventually(dir).WithTimeout(soon).ShouldNot(BeADirectory())
		})
	}
}

func TestProcessesAreToldApart(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	dir := folder(t)
	s, err := supervisor.New(dir, true)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = s.Close() })

	_, first, err := s.Start(shell(dir, "first", "exec sleep 1000"))
	g.Expect(err).NotTo(HaveOccurred())
	_, second, err := s.Start(shell(dir, "second", "exec sleep 1000"))
	g.Expect(err).NotTo(HaveOccurred())
	_, _, err = s.Start(shell(dir, "first", "true"))
	g.Expect(err).To(MatchError(ContainSubstring("is running")))

	g.Expect(s.Signal("first", syscall.SIGKILL)).To(Succeed())
	g.Eventually(first).WithTimeout(soon).Should(BeClosed())
	g.Expect(second).NotTo(BeClosed())
	g.Expect(s.Signal("first", syscall.SIGKILL)).To(MatchError(supervisor.ErrNotRunning))

	_, again, err := s.Start(shell(dir, "first", "exit 3"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(again).WithTimeout(soon).Should(BeClosed())
	_, _, err = s.Start(supervisor.Command{Name: "none", Path: "/no/such", Log: dir + "/none.log"})
	g.Expect(err).To(MatchError(ContainSubstring("no such file")))
}

func TestDetachedProcessesStayUntilStop(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	dir := folder(t)
	s, err := supervisor.New(dir, true)
	g.Expect(err).NotTo(HaveOccurred())
	_, exited, err := s.Start(shell(dir, "daemon", daemon))
	g.Expect(err).NotTo(HaveOccurred())
	child := pidIn(g, dir+"/child")
	g.Expect(s.Detach()).To(Succeed())
	g.Expect(supervisor.Stop(dir)).To(Succeed())
	g.Eventually(exited).WithTimeout(soon).Should(BeClosed())
	g.Expect(exists(child)).To(BeFalse())
	g.Expect(dir).NotTo(BeADirectory())
	g.Expect(supervisor.Stop(dir)).To(Succeed(), "twice does no harm")
}

func TestFolderOfTheCallerStays(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	dir := folder(t)
	s, err := supervisor.New(dir, false)
	g.Expect(err).NotTo(HaveOccurred())
	_, _, err = s.Start(shell(dir, "careful", `trap 'echo bye >bye; exit' TERM; echo $$ >child; while :; do sleep 0.01; done`))
	g.Expect(err).NotTo(HaveOccurred())
	pidIn(g, dir+"/child")
	g.Expect(s.Close()).To(Succeed())
	g.Expect(os.ReadFile(dir+"/bye")).To(BeEquivalentTo("bye\n"), "it is left in order")
}
