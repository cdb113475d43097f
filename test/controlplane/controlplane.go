// Package controlplane finds the programs of a Kubernetes cluster, and builds
// them where there are none.
//
// KUBEBUILDER_ASSETS, when set, names a folder with etcd, kube-apiserver and
// kubectl, as everywhere with controller-runtime. Else the programs are built
// from hack/controlplane, which needs Go and a module proxy and nothing more:
// the first time takes minutes, during which it says how far it is; after that
// the binary in bin/ is used until its sources, or Go, change.
package controlplane

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redislock-operator/redislock-operator/test/filelock"
)

const (
	// AssetsEnv is the variable that names a folder of programs to be used.
	AssetsEnv = "KUBEBUILDER_ASSETS"
	// RootEnv is the variable that names the root of the repository, for
	// programs that run outside of it.
	RootEnv = "REDISLOCK_ROOT"

	module        = "github.com/redislock-operator/redislock-operator"
	progressEvery = 10 * time.Second
)

// The programs.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kubelet           = "kubelet"
	Kubectl           = "kubectl"
	Kwok              = "kwok"
)

// Programs are all that hack/controlplane builds.
var Programs = []string{Etcd, APIServer, ControllerManager, Scheduler, Kubelet, Kubectl, Kwok}

// ErrMissing means that a program is not in the folder that KUBEBUILDER_ASSETS
// names.
var ErrMissing = errors.New("program not found")

// Assets is a folder of programs.
type Assets struct {
	// Dir is the folder; it may serve as KUBEBUILDER_ASSETS.
	Dir string
	// Given tells that KUBEBUILDER_ASSETS named it.
	Given bool
}

// Path is the path of a program.
func (a Assets) Path(program string) (string, error) {
	path := filepath.Join(a.Dir, program)
	if _, err := os.Stat(path); err != nil {
		if a.Given {
			return "", fmt.Errorf("%w: %s=%s has no %s; add it, or unset %s and all programs are built from hack/controlplane",
				ErrMissing, AssetsEnv, a.Dir, program, AssetsEnv)
		}
		return "", fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return path, nil
}

// Has tells whether the program is there.
func (a Assets) Has(program string) bool {
	_, err := a.Path(program)
	return err == nil
}

// Ensure returns the programs, after building them if need be. Progress goes to
// the log.
func Ensure(ctx context.Context, log io.Writer) (Assets, error) {
	if dir := os.Getenv(AssetsEnv); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return Assets{}, fmt.Errorf("%s: %w", AssetsEnv, err)
		}
		return Assets{Dir: abs, Given: true}, nil
	}
	return Build(ctx, log)
}

// Build makes the programs from hack/controlplane, unless they are there and
// their sources have not changed since.
func Build(ctx context.Context, log io.Writer) (Assets, error) {
	root, err := Root()
	if err != nil {
		return Assets{}, err
	}
	b := builder{
		source: filepath.Join(root, "hack", "controlplane"),
		binary: filepath.Join(root, "bin", "controlplane"),
		links:  filepath.Join(root, "bin", "k8s"),
		log:    log,
	}
	return Assets{Dir: b.links}, b.run(ctx)
}

// Root is the root of the repository: RootEnv, or the folder above the current
// one that has this module.
func Root() (string, error) {
	if root := os.Getenv(RootEnv); root != "" {
		return filepath.Abs(root)
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && slices.Contains(strings.Split(string(b), "\n"), "module "+module) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside the repository of %s: run it there or set %s to its root", wd, module, RootEnv)
		}
	}
}

type builder struct {
	source, binary, links string
	log                   io.Writer
}

func (b *builder) say(format string, args ...any) {
	if b.log != nil {
		_, _ = fmt.Fprintf(b.log, "controlplane: "+format+"\n", args...)
	}
}

func (b *builder) run(ctx context.Context) error {
	goTool, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("the control plane has to be built and there is no `go` in PATH: "+
			"install Go %s or later (https://go.dev/dl), or set %s to a folder with etcd, kube-apiserver and kubectl",
			strings.TrimPrefix(runtime.Version(), "go"), AssetsEnv)
	}
	stamp, err := b.stamp(ctx, goTool)
	if err != nil {
		return err
	}
	if b.current(stamp) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(b.binary), 0o755); err != nil {
		return err
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if b.current(stamp) {
		return nil
	}
	if err := b.build(ctx, goTool); err != nil {
		return err
	}
	if err := b.link(); err != nil {
		return err
	}
	return os.WriteFile(b.stampFile(), []byte(stamp+"\n"), 0o644)
}

func (b *builder) stampFile() string { return b.binary + ".stamp" }

// current tells whether what is there was made from these sources.
func (b *builder) current(stamp string) bool {
	got, err := os.ReadFile(b.stampFile())
	if err != nil || strings.TrimSpace(string(got)) != stamp {
		return false
	}
	for _, p := range Programs {
		if _, err := os.Stat(filepath.Join(b.links, p)); err != nil {
			return false
		}
	}
	return true
}

// stamp is a hash of all that the binary depends on.
func (b *builder) stamp(ctx context.Context, goTool string) (string, error) {
	version, err := b.goCommand(ctx, goTool, "env", "GOVERSION", "GOOS", "GOARCH").Output()
	if err != nil {
		return "", fmt.Errorf("ask `go` for its version: %w", err)
	}
	h := sha256.New()
	h.Write(version)
	args, err := b.buildArgs("")
	if err != nil {
		return "", err
	}
	_, _ = fmt.Fprintln(h, args)
	entries, err := os.ReadDir(b.source)
	if err != nil {
		return "", fmt.Errorf("the sources of the control plane: %w", err)
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".go") || name == "go.mod" || name == "go.sum" {
			content, err := os.ReadFile(filepath.Join(b.source, name))
			if err != nil {
				return "", err
			}
			_, _ = fmt.Fprintf(h, "%s %d\n", name, len(content))
			h.Write(content)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// lock keeps other processes from building at the same time.
func (b *builder) lock(ctx context.Context) (unlock func(), err error) {
	return filelock.Acquire(ctx, b.binary+".lock", func() {
		b.say("another process is building the control plane, waiting for it")
	})
}

var kubernetesVersion = regexp.MustCompile(`(?m)^\s*(?:require )?k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)`)

// buildArgs are the arguments of `go build`. The version has to be set: without
// it the servers call themselves v0.0.0-master, which kubectl cannot read.
func (b *builder) buildArgs(out string) ([]string, error) {
	mod, err := os.ReadFile(filepath.Join(b.source, "go.mod"))
	if err != nil {
		return nil, fmt.Errorf("the sources of the control plane: %w", err)
	}
	m := kubernetesVersion.FindStringSubmatch(string(mod))
	if m == nil {
		return nil, fmt.Errorf("%s requires no k8s.io/kubernetes", filepath.Join(b.source, "go.mod"))
	}
	flags := []string{"-s", "-w"}
	for _, kv := range []string{"gitVersion=" + m[1], "gitMajor=" + m[2], "gitMinor=" + m[3], "gitTreeState=archive", "buildDate=1970-01-01T00:00:00Z"} {
		flags = append(flags, "-X", "k8s.io/component-base/version."+kv)
	}
	return []string{"build", "-v", "-trimpath", "-ldflags", strings.Join(flags, " "), "-o", out, "."}, nil
}

func (b *builder) goCommand(ctx context.Context, goTool string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, goTool, args...)
	cmd.Dir = b.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly -buildvcs=false")
	// A gentle end: go removes its temporary folder.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func (b *builder) build(ctx context.Context, goTool string) error {
	temporary := b.binary + ".tmp"
	defer func() { _ = os.Remove(temporary) }()
	args, err := b.buildArgs(temporary)
	if err != nil {
		return err
	}
	b.say("building etcd, Kubernetes and kwok from Go modules into %s; the first time this takes about 10 minutes on 2 cores", b.binary)
	start := time.Now()
	cmd := b.goCommand(ctx, goTool, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build the control plane: %w", err)
	}
	var compiled, downloaded atomic.Int64
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.progress(ctx, goTool, start, &compiled, &downloaded, stop)
	}()
	var rest bytes.Buffer
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "go: downloading "):
			downloaded.Add(1)
		case packageLine.MatchString(line):
			compiled.Add(1)
		default:
			rest.WriteString(line + "\n")
		}
	}
	err = cmd.Wait()
	close(stop)
	<-done
	if ctx.Err() != nil {
		return fmt.Errorf("build the control plane: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("build the control plane in %s: %w\n%s%s", b.source, err, rest.String(), hint(rest.String()))
	}
	b.say("built in %v", time.Since(start).Round(time.Second))
	return os.Rename(temporary, b.binary)
}

// packageLine is what `go build -v` prints for a package: its path alone.
var packageLine = regexp.MustCompile(`^[\w./~-]+$`)

// hint says what to do about errors whose cause is not in this repository.
func hint(output string) string {
	switch {
	case strings.Contains(output, "no space left"):
		return "the build needs about 6 GB for modules, build cache and temporary files: make room, or point GOCACHE, GOMODCACHE and GOTMPDIR elsewhere\n"
	case strings.Contains(output, "dial tcp"), strings.Contains(output, "i/o timeout"), strings.Contains(output, "no such host"):
		return "a module could not be fetched: set GOPROXY to a module proxy that this machine reaches\n"
	}
	return ""
}

func (b *builder) progress(ctx context.Context, goTool string, start time.Time, compiled, downloaded *atomic.Int64, stop <-chan struct{}) {
	total := 0
	counted := make(chan int, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		out, err := b.goCommand(ctx, goTool, "list", "-deps", ".").Output()
		if err == nil {
			counted <- bytes.Count(out, []byte("\n"))
		}
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case total = <-counted:
		case <-tick.C:
			elapsed := time.Since(start).Round(time.Second)
			switch n := compiled.Load(); {
			case n == 0 && downloaded.Load() > 0:
				b.say("%d modules fetched, %v", downloaded.Load(), elapsed)
			case total > 0:
				b.say("%d packages compiled, of at most %d, %v", n, total, elapsed)
			default:
				b.say("%d packages compiled, %v", n, elapsed)
			}
		}
	}
}

// link gives the binary the names of its programs.
func (b *builder) link() error {
	if err := os.MkdirAll(b.links, 0o755); err != nil {
		return err
	}
	target, err := filepath.Rel(b.links, b.binary)
	if err != nil {
		return err
	}
	for _, p := range Programs {
		link := filepath.Join(b.links, p)
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	return nil
}
