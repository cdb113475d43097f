package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/redislock-operator/redislock-operator/test/certs"
	"github.com/redislock-operator/redislock-operator/test/controlplane"
	"github.com/redislock-operator/redislock-operator/test/ports"
	"github.com/redislock-operator/redislock-operator/test/supervisor"
)

// ErrExternal means that something was asked of a cluster of
// REDISLOCK_KUBECONFIGS that only a cluster of our own can do.
var ErrExternal = errors.New("not possible with a cluster that was not started here (" + KubeconfigsEnv + " is set)")

// KubeconfigsEnv is the variable that names existing clusters.
const KubeconfigsEnv = "REDISLOCK_KUBECONFIGS"

const (
	// readyTimeout is for a busy machine: alone it takes some seconds.
	readyTimeout = 3 * time.Minute
	portAttempts = 5
	serviceCIDR  = "10.96.0.0/16"
)

// Nodes says what pods run on.
type Nodes int

const (
	// NodesNone is a cluster where nothing runs: pods stay pending.
	NodesNone Nodes = iota
	// NodesKwok is a node that kwok plays: pods run in name only. Pods of Jobs
	// complete at once; see RunForAnnotation and its neighbours.
	NodesKwok
	// NodesReal is a kubelet with containerd and runc on this machine. It needs
	// Linux and root.
	NodesReal
)

// Options say how a cluster is to be. The zero value will do.
type Options struct {
	// Name is for messages and the names of folders.
	Name string
	// DataDir is the folder for all that the cluster writes. It is made when
	// missing, and stays. A cluster that was in it before goes on. When empty, a
	// temporary folder is used and removed at the end.
	DataDir string
	// Log gets progress, such as that of the build.
	Log io.Writer
	// Audit keeps an audit log of writes; see Cluster.Audit.
	Audit bool
	// Nodes says what pods run on.
	Nodes Nodes
	// Bare leaves out the kube-controller-manager: no Jobs, no garbage
	// collection, namespaces do not end.
	Bare bool
	// FeatureGates are set in all components.
	FeatureGates map[string]bool
	// APIServerArgs and ControllerManagerArgs are further arguments, which win
	// over those that the package sets.
	APIServerArgs, ControllerManagerArgs []string
}

// Cluster is a running cluster.
type Cluster struct {
	// Etcd, APIServer and ControllerManager are always there. Scheduler, Kwok,
	// Containerd and Kubelet are nil unless Options.Nodes asks for them,
	// ControllerManager is nil when Options.Bare does.
	Etcd, APIServer, ControllerManager *Process
	Scheduler, Kwok                    *Process
	Containerd, Kubelet                *Process

	opts     Options
	dir      string
	sockets  string
	ownDir   bool
	assets   controlplane.Assets
	super    *supervisor.Supervisor
	ca       *certs.CA
	port     *ports.Port
	reserved []*ports.Port
	config   *rest.Config
	external string
	node     *realNode

	stop sync.Once
	err  error
}

// Start starts a cluster and returns when it is ready for use. The context
// bounds the start only.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if list := os.Getenv(KubeconfigsEnv); list != "" {
		return adopt(list, opts)
	}
	return start(ctx, opts, nil)
}

// start starts a cluster; prepare fills its folder before anything runs.
func start(ctx context.Context, opts Options, prepare func(*Cluster) error) (*Cluster, error) {
	if opts.Name == "" {
		opts.Name = "cluster"
	}
	if opts.Bare && opts.Nodes != NodesNone {
		return nil, fmt.Errorf("cluster %s: without a kube-controller-manager there can be no nodes", opts.Name)
	}
	assets, err := controlplane.Ensure(ctx, opts.Log)
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: opts, assets: assets}
	if err := c.checkPrograms(); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", opts.Name, err)
	}
	if err := c.makeFolder(); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", opts.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err = c.bringUp(ctx, prepare)
	if err != nil {
		err = fmt.Errorf("start cluster %s: %w", opts.Name, err)
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) bringUp(ctx context.Context, prepare func(*Cluster) error) error {
	var err error
	if c.super, err = supervisor.New(c.dir, c.ownDir); err != nil {
		return err
	}
	if err := c.makeSocketFolder(); err != nil {
		return err
	}
	if prepare != nil {
		if err := prepare(c); err != nil {
			return err
		}
	}
	if c.opts.Nodes == NodesReal {
		if c.node, err = newRealNode(ctx, c); err != nil {
			return err
		}
	}
	if err := c.makeKeys(); err != nil {
		return err
	}
	c.Etcd = c.newEtcd()
	if err := c.Etcd.Start(ctx); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx); err != nil {
		return err
	}
	if err := c.startControllers(ctx); err != nil {
		return err
	}
	switch c.opts.Nodes {
	case NodesKwok:
		return c.startKwok(ctx)
	case NodesReal:
		return c.node.start(ctx)
	}
	return nil
}

func (c *Cluster) checkPrograms() error {
	need := []string{controlplane.Etcd, controlplane.APIServer, controlplane.Kubectl}
	if !c.opts.Bare {
		if !c.assets.Has(controlplane.ControllerManager) {
			return fmt.Errorf("%s=%s has no kube-controller-manager, without which no Job gets pods, no namespace ends and nothing is garbage collected: "+
				"add it, or unset %s and it is built from hack/controlplane",
				controlplane.AssetsEnv, c.assets.Dir, controlplane.AssetsEnv)
		}
	}
	switch c.opts.Nodes {
	case NodesKwok:
		need = append(need, controlplane.Scheduler, controlplane.Kwok)
	case NodesReal:
		need = append(need, controlplane.Scheduler, controlplane.Kubelet)
	}
	for _, program := range need {
		if _, err := c.assets.Path(program); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) makeFolder() (err error) {
	c.dir = c.opts.DataDir
	if c.dir == "" {
		c.ownDir = true
		c.dir, err = os.MkdirTemp("", "redislock-"+fileName(c.opts.Name, nil)+"-")
	} else {
		if c.dir, err = filepath.Abs(c.dir); err == nil {
			err = os.MkdirAll(c.dir, 0o700)
		}
	}
	if err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	for _, sub := range []string{"pki", "logs", "kubeconfigs"} {
		if err := os.MkdirAll(c.path(sub), 0o700); err != nil {
			return fmt.Errorf("make the data folder: %w", err)
		}
	}
	return nil
}

// makeSocketFolder finds a place for sockets, whose paths must be short.
func (c *Cluster) makeSocketFolder() error {
	const longest = 80
	c.sockets = c.dir
	if len(c.dir) <= longest {
		return nil
	}
	dir, err := os.MkdirTemp("/tmp", "redislock-")
	if err != nil {
		return fmt.Errorf("make a folder for sockets: %w", err)
	}
	c.sockets = dir
	return c.super.RemoveAtEnd(dir)
}

func (c *Cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

// makeKeys makes the keys and certificates, or reads those of before.
func (c *Cluster) makeKeys() error {
	cert, err := os.ReadFile(c.path("pki", "ca.crt"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if c.ca, err = certs.NewCA("redislock test cluster " + c.opts.Name); err != nil {
			return err
		}
		if _, _, err := c.ca.Write(c.path("pki"), "ca"); err != nil {
			return fmt.Errorf("write the CA: %w", err)
		}
		private, public, err := certs.NewKey()
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.path("pki", "sa.key"), private, 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(c.path("pki", "sa.pub"), public, 0o644); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		key, err := os.ReadFile(c.path("pki", "ca.key"))
		if err != nil {
			return err
		}
		if c.ca, err = certs.LoadCA(certs.Pair{Cert: cert, Key: key}); err != nil {
			return err
		}
	}
	hosts := []string{"127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1"}
	if c.node != nil {
		hosts = append(hosts, c.node.address, c.node.gateway)
	}
	server, err := c.ca.Server("kube-apiserver", hosts...)
	if err != nil {
		return err
	}
	if _, _, err := server.Write(c.path("pki"), "server"); err != nil {
		return fmt.Errorf("write the certificate of the servers: %w", err)
	}
	// Of the API server as a client of the kubelet.
	kubelet, err := c.ca.Client("kube-apiserver-kubelet-client", "system:masters")
	if err != nil {
		return err
	}
	_, _, err = kubelet.Write(c.path("pki"), "kubelet-client")
	return err
}

// startAPIServer finds a port for the API server. Another program may take it
// between the choice and the start, whatever one does.
func (c *Cluster) startAPIServer(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		port, err := c.reserve()
		if err != nil {
			return err
		}
		c.port = port
		if err := c.writeKubeconfigs(); err != nil {
			return err
		}
		c.APIServer = c.newAPIServer()
		if err = c.APIServer.Start(ctx); err == nil {
			return nil
		}
		if attempt == portAttempts || ctx.Err() != nil || !strings.Contains(c.APIServer.tail(), "address already in use") {
			return err
		}
	}
}

func (c *Cluster) reserve() (*ports.Port, error) {
	p, err := ports.Reserve()
	if err == nil {
		c.reserved = append(c.reserved, p)
	}
	return p, err
}

func (c *Cluster) startControllers(ctx context.Context) error {
	if c.opts.Bare {
		return nil
	}
	var err error
	if c.ControllerManager, err = c.newController(controlplane.ControllerManager, c.controllerManagerArgs()); err != nil {
		return err
	}
	wait := []func(context.Context) error{c.ControllerManager.Start}
	if c.opts.Nodes != NodesNone {
		if c.Scheduler, err = c.newController(controlplane.Scheduler, nil); err != nil {
			return err
		}
		wait = append(wait, c.Scheduler.Start)
	}
	errs := make(chan error, len(wait))
	for _, start := range wait {
		go func() { errs <- start(ctx) }()
	}
	for range wait {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	return c.waitForServiceAccounts(ctx)
}

// waitForServiceAccounts waits for what every pod needs, and for a sign that
// the controllers work: serving comes before working.
func (c *Cluster) waitForServiceAccounts(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	return poll(ctx, "the default service account", func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// Name is the name that the cluster was given.
func (c *Cluster) Name() string { return c.opts.Name }

// Dir is the data folder. It is empty for an external cluster.
func (c *Cluster) Dir() string { return c.dir }

// External tells that the cluster is one of REDISLOCK_KUBECONFIGS.
func (c *Cluster) External() bool { return c.external != "" }

// RESTConfig is the administrator's access, a copy that the caller may change.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.config) }

// Stop ends the cluster and removes its data folder, unless the caller gave it.
// It may be called more than once. An external cluster is only handed back.
func (c *Cluster) Stop() error {
	c.stop.Do(func() {
		if c.External() {
			handBack(c.external)
			return
		}
		switch {
		case c.super != nil:
			c.err = c.super.Close()
		case c.ownDir:
			c.err = os.RemoveAll(c.dir)
		}
		for _, p := range c.reserved {
			p.Release()
		}
		if c.err != nil {
			c.err = fmt.Errorf("stop cluster %s: %w", c.opts.Name, c.err)
		}
	})
	return c.err
}

// Detach lets the cluster outlive this program. StopDetached with its data
// folder (Dir), or another run of this package's command, ends it.
func (c *Cluster) Detach() error {
	if c.External() {
		return nil
	}
	if err := c.super.Detach(); err != nil {
		return fmt.Errorf("detach cluster %s: %w", c.opts.Name, err)
	}
	return nil
}

// StopDetached ends the cluster in a data folder, whoever started it. There need
// not be one.
func StopDetached(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	return supervisor.Stop(abs)
}

// external clusters that are in use.
var (
	adoptMu sync.Mutex
	adopted []string
)

func adopt(list string, opts Options) (*Cluster, error) {
	adoptMu.Lock()
	defer adoptMu.Unlock()
	files := slices.DeleteFunc(filepath.SplitList(list), func(f string) bool { return f == "" })
	for _, file := range files {
		if slices.Contains(adopted, file) {
			continue
		}
		config, err := loadKubeconfig(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", KubeconfigsEnv, err)
		}
		adopted = append(adopted, file)
		c := &Cluster{opts: opts, external: file, config: config}
		outside := &Process{cluster: c, name: "a process of an external cluster"}
		c.Etcd, c.APIServer, c.ControllerManager, c.Scheduler = outside, outside, outside, outside
		return c, nil
	}
	return nil, fmt.Errorf("%s names %d clusters, and one more is needed", KubeconfigsEnv, len(files))
}

func handBack(file string) {
	adoptMu.Lock()
	defer adoptMu.Unlock()
	adopted = slices.DeleteFunc(adopted, func(f string) bool { return f == file })
}

// poll calls f until it succeeds or the context ends.
func poll(ctx context.Context, what string, f func(context.Context) error) error {
	const interval = 25 * time.Millisecond
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last: %w)", what, ctx.Err(), err)
		case <-time.After(interval):
		}
	}
}
