// Package operator installs the operator into clusters of package cluster and runs
// its managers as processes there, for tests and the demo.
//
// The manager runs with the rights of its service account and no more, from the
// same manifests that a user applies.
package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/redislock-operator/redislock-operator/internal/policies"
	"github.com/redislock-operator/redislock-operator/test/children"
	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/controlplane"
	"github.com/redislock-operator/redislock-operator/test/ports"
)

const (
	// Namespace is where the operator is installed.
	Namespace = "redislock-system"
	// User is the operator's service account, as the API server knows it.
	User = "system:serviceaccount:" + Namespace + ":redislock-controller-manager"
)

// Groups are those that its account is in.
var Groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + Namespace, "system:authenticated"}

// Build compiles the manager and returns its path.
func Build(ctx context.Context) (string, error) { return build(ctx, "manager") }

// BuildFaults compiles a manager that dies or stands still where its environment says
// so, and returns its path; see package fault.
func BuildFaults(ctx context.Context) (string, error) {
	return build(ctx, "manager-faults", "-tags=faults")
}

func build(ctx context.Context, name string, args ...string) (string, error) {
	root, err := controlplane.Root()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(root, "bin", name)
	return binary, BuildTo(ctx, binary, args...)
}

// BuildTo compiles a manager to a path, with further arguments for go build.
func BuildTo(ctx context.Context, binary string, args ...string) error {
	root, err := controlplane.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-o", binary}, args, []string{"./cmd/manager"})...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the manager: %w\n%s", err, out)
	}
	return nil
}

// Install applies config/default: the CRD, the roles, the policies, and a Deployment
// that has no node to run on, for the managers are started as processes instead. A
// cluster that does not know MutatingAdmissionPolicy gets none.
func Install(ctx context.Context, c *cluster.Cluster) error {
	root, err := controlplane.Root()
	if err != nil {
		return err
	}
	manifests, err := c.Kubectl(ctx, "kustomize", filepath.Join(root, "config", "default"))
	if err != nil {
		return err
	}
	served, err := c.Kubectl(ctx, "get", "--raw", "/apis/admissionregistration.k8s.io/v1")
	if err != nil {
		return err
	}
	if !strings.Contains(served, `"mutatingadmissionpolicies"`) {
		const between = "\n---\n"
		manifests = strings.Join(slices.DeleteFunc(strings.Split(manifests, between), func(document string) bool {
			return strings.Contains(document, "\nkind: MutatingAdmissionPolicy")
		}), between)
	}
	if _, err := c.KubectlInput(ctx, manifests, "apply", "--server-side", "-f", "-"); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=30s", "crd/redislocks.redislock.io", "crd/debounces.redislock.io"); err != nil {
		return err
	}
	kube, err := NewClient(c.RESTConfig())
	if err != nil {
		return err
	}
	return WaitForPolicies(ctx, kube)
}

// WaitForPolicies waits until the policies are in force, which takes the API server a
// moment: a guarded Job that was created before would start.
func WaitForPolicies(ctx context.Context, kube client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	checker := policies.New(kube, Namespace, logr.Discard())
	inForce := make(chan struct{}, 1)
	checker.OnChange(func(s policies.State) {
		if s.Checked && len(s.Missing) == 0 {
			inForce <- struct{}{}
			cancel()
		}
	})
	if err := checker.Start(ctx); err != nil {
		return err
	}
	select {
	case <-inForce:
		return nil
	default:
		return fmt.Errorf("the policies did not come into force: %w", errors.Join(checker.ReadyzCheck(nil), context.Cause(ctx)))
	}
}

// StoreAt is a manager's configuration with one Redis as its one store.
func StoreAt(url string) string { return fmt.Sprintf("stores:\n- name: default\n  url: %s\n", url) }

// Options say how a manager is to run.
type Options struct {
	// Binary is the manager, from Build.
	Binary string
	// Dir is the folder for its configuration and log.
	Dir string
	// Name tells managers of one cluster apart in messages.
	Name string
	// Config is the configuration file's content.
	Config string
	// ClusterName is --cluster-name.
	ClusterName string
	// Args are further arguments.
	Args []string
	// Env are further environment variables, as NAME=value.
	Env []string
}

// Manager is one process of the operator.
type Manager struct {
	opts    Options
	args    []string
	health  *ports.Port
	metrics *ports.Port
	calls   *ports.Port

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// NewManager prepares a manager for a cluster. It runs from Start on, until it is
// ended or this program is.
func NewManager(c *cluster.Cluster, opts Options) (*Manager, error) {
	kubeconfig, err := c.UserKubeconfig(User, Groups...)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, err
	}
	health, err := ports.Reserve()
	if err != nil {
		return nil, err
	}
	metrics, err := ports.Reserve()
	if err != nil {
		return nil, err
	}
	calls, err := ports.Reserve()
	if err != nil {
		return nil, err
	}
	m := &Manager{opts: opts, health: health, metrics: metrics, calls: calls, args: []string{
		"--kubeconfig=" + kubeconfig,
		"--leader-election-namespace=" + Namespace,
		"--health-probe-bind-address=" + health.Addr(),
		"--metrics-bind-address=" + metrics.Addr(),
		"--metrics-secure=false",
		"--call-bind-address=" + calls.Addr(),
	}}
	if opts.ClusterName != "" {
		m.args = append(m.args, "--cluster-name="+opts.ClusterName)
	}
	if opts.Config != "" {
		file := filepath.Join(opts.Dir, opts.Name+".yaml")
		if err := os.WriteFile(file, []byte(opts.Config), 0o600); err != nil {
			return nil, err
		}
		m.args = append(m.args, "--config="+file)
	}
	m.args = append(m.args, opts.Args...)
	return m, nil
}

// LogFile is where the manager's output goes, that of all its runs.
func (m *Manager) LogFile() string { return filepath.Join(m.opts.Dir, m.opts.Name+".log") }

// Start runs the manager and returns at once.
func (m *Manager) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd != nil {
		return fmt.Errorf("manager %s runs already", m.opts.Name)
	}
	log, err := os.OpenFile(m.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own handle
	cmd := exec.Command(m.opts.Binary, m.args...)
	cmd.Env = append(os.Environ(), m.opts.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := children.Start(cmd); err != nil {
		return fmt.Errorf("starting manager %s: %w", m.opts.Name, err)
	}
	ended := make(chan struct{})
	m.cmd, m.ended = cmd, ended
	go func() {
		_ = cmd.Wait()
		m.mu.Lock()
		if m.cmd == cmd {
			m.cmd = nil
		}
		m.mu.Unlock()
		close(ended)
	}()
	return nil
}

// Running says whether the process is there.
func (m *Manager) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cmd != nil
}

// Ready asks /readyz.
func (m *Manager) Ready(ctx context.Context) error {
	_, err := get(ctx, "http://"+m.health.Addr()+"/readyz")
	return err
}

// Metrics returns what the manager exposes to Prometheus.
func (m *Manager) Metrics(ctx context.Context) (string, error) {
	return get(ctx, "http://"+m.metrics.Addr()+"/metrics")
}

// CallURL is where a Debounce is called by HTTPS.
func (m *Manager) CallURL(namespace, name string) string {
	return "https://" + m.calls.Addr() + "/v1/namespaces/" + namespace + "/debounces/" + name + "/call"
}

// Stop ends the manager as Kubernetes does, by SIGTERM, and waits for it.
func (m *Manager) Stop() error { return m.end(syscall.SIGTERM) }

// Kill ends the manager by SIGKILL.
func (m *Manager) Kill() error { return m.end(syscall.SIGKILL) }

func (m *Manager) end(signal syscall.Signal) error {
	m.mu.Lock()
	cmd, ended := m.cmd, m.ended
	m.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending manager %s: %w", m.opts.Name, err)
	}
	select {
	case <-ended:
		return nil
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		<-ended
		return fmt.Errorf("manager %s did not end within a minute of %s", m.opts.Name, signal)
	}
}

// Close ends the manager and gives back its ports.
func (m *Manager) Close() error {
	defer m.health.Release()
	defer m.metrics.Release()
	defer m.calls.Release()
	return m.Kill()
}

// Pause stops the process by SIGSTOP.
func (m *Manager) Pause(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return fmt.Errorf("manager %s does not run", m.opts.Name)
	}
	return children.Pause(ctx, m.cmd.Process.Pid)
}

// Resume lets a paused process go on.
func (m *Manager) Resume() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return fmt.Errorf("manager %s does not run", m.opts.Name)
	}
	return children.Resume(m.cmd.Process.Pid)
}

// Tail returns the last lines of the log, for messages.
func (m *Manager) Tail() string {
	data, err := os.ReadFile(m.LogFile())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return strings.TrimSpace(string(bytes.Join(lines[max(0, len(lines)-30):], []byte("\n"))))
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", url, res.Status, body)
	}
	return string(body), nil
}
