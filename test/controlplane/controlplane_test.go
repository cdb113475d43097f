package controlplane

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	. "github.com/onsi/gomega"
)

// small is a builder of something that is built in a moment. The exclusion
// stands for the requirement that tells the version.
func small(t *testing.T, log *lockedLog) *builder {
	t.Helper()
	dir := t.TempDir()
	b := &builder{source: filepath.Join(dir, "src"), binary: filepath.Join(dir, "bin", "controlplane"), links: filepath.Join(dir, "bin", "k8s"), log: log}
	if err := os.MkdirAll(b.source, 0o755); err != nil {
		t.Fatal(err)
	}
	writeSource(t, b, "go.mod", "module small\n\ngo 1.26.0\n\nexclude (\n\tk8s.io/kubernetes v1.36.3\n)\n")
	writeSource(t, b, "main.go", "package main\n\nimport \"os\"\n\nfunc main() { println(os.Args[0]) }\n")
	return b
}

func writeSource(t *testing.T, b *builder, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.source, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// lockedLog is written by several builders.
type lockedLog struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) built() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), "built in")
}

func TestBuildsOnceForAllWhoWantIt(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	log := &lockedLog{}
	b := small(t, log)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := b.run(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	g.Expect(log.built()).To(Equal(1))
	for _, p := range Programs {
		out, err := exec.Command(filepath.Join(b.links, p)).CombinedOutput()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(out)).To(HaveSuffix(p + "\n"))
	}
}

func TestBuildsAgainWhenSomethingChanged(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	log := &lockedLog{}
	b := small(t, log)
	g.Expect(b.run(t.Context())).To(Succeed())
	g.Expect(b.run(t.Context())).To(Succeed())
	g.Expect(log.built()).To(Equal(1))

	writeSource(t, b, "main.go", "package main\n\nfunc main() {}\n")
	g.Expect(b.run(t.Context())).To(Succeed())
	g.Expect(log.built()).To(Equal(2))

	g.Expect(os.Remove(filepath.Join(b.links, Kubectl))).To(Succeed())
	g.Expect(b.run(t.Context())).To(Succeed())
	g.Expect(filepath.Join(b.links, Kubectl)).To(BeAnExistingFile())
}

func TestBuildThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	b := small(t, &lockedLog{})
	writeSource(t, b, "main.go", "package main\n\nfunc main() { nonsense() }\n")
	g.Expect(b.run(t.Context())).To(MatchError(ContainSubstring("undefined: nonsense")))
	g.Expect(b.binary).NotTo(BeAnExistingFile())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.Expect(b.run(ctx)).To(MatchError(context.Canceled))
}

func TestWithoutGoItSaysWhatToDo(t *testing.T) {
	g := NewWithT(t)
	b := small(t, &lockedLog{})
	t.Setenv("PATH", t.TempDir())
	g.Expect(b.run(t.Context())).To(MatchError(And(ContainSubstring("install Go"), ContainSubstring(AssetsEnv))))
}

func TestGivenAssetsAreHonoured(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	g.Expect(os.WriteFile(filepath.Join(dir, Etcd), nil, 0o755)).To(Succeed())
	t.Setenv(AssetsEnv, dir)
	assets, err := Ensure(t.Context(), nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(assets.Path(Etcd)).To(Equal(filepath.Join(dir, Etcd)))
	_, err = assets.Path(Kwok)
	g.Expect(err).To(And(MatchError(ErrMissing), MatchError(ContainSubstring("unset "+AssetsEnv))))
}

func TestRootIsFoundFromWithin(t *testing.T) {
	g := NewWithT(t)
	root, err := Root()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(filepath.Join(root, "hack", "controlplane", "main.go")).To(BeAnExistingFile())
	t.Chdir(t.TempDir())
	_, err = Root()
	g.Expect(err).To(MatchError(ContainSubstring(RootEnv)))
}
