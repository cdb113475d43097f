package cli_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// openTerminal returns both sides of a pseudo terminal.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	g := within(t)
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = keyboard.Close() })
	raw, err := keyboard.SyscallConn()
	g.Expect(err).NotTo(HaveOccurred())
	var number int
	var ioctl error
	g.Expect(raw.Control(func(fd uintptr) {
		if ioctl = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioctl == nil {
			number, ioctl = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})).To(Succeed())
	g.Expect(ioctl).NotTo(HaveOccurred())
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = terminal.Close() })
	return keyboard, terminal
}

// A program in a process group of its own may not read from the terminal unless it is
// the terminal's foreground, and neither may the second one that elect runs.
func TestTheProgramHasTheTerminal(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	keyboard, terminal := openTerminal(t)
	cmd := exec.Command(binary, "elect", "--lease", "3s", "shell", "--", "sh", "-c", `echo ready; read x; echo got $x; read x`)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = b.environ(), terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	b.Expect(cmd.Start()).To(Succeed())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	var screen lockedBuffer
	go func() { _, _ = io.Copy(&screen, keyboard) }()
	shows := func(text string, times int) {
		t.Helper()
		b.Eventually(func() int { return bytes.Count([]byte(screen.text()), []byte(text)) }).Should(Equal(times))
	}

	shows("ready", 1)
	_, err := keyboard.WriteString("one\n")
	b.Expect(err).NotTo(HaveOccurred())
	shows("got one", 1)
	b.Expect(b.rdb.Del(t.Context(), "lock:leader:shell").Err()).To(Succeed())
	shows("ready", 2)
	_, err = keyboard.WriteString("two\n")
	b.Expect(err).NotTo(HaveOccurred())
	shows("got two", 1)
	_, err = keyboard.Write([]byte{3}) // Ctrl-C
	b.Expect(err).NotTo(HaveOccurred())
	b.Eventually(ended).Should(BeClosed())
	b.Expect(cmd.ProcessState.ExitCode()).To(Equal(128 + 2))
}
