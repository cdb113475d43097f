package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"k8s.io/client-go/kubernetes"

	"github.com/redislock-operator/redislock-operator/test/controlplane"
	"github.com/redislock-operator/redislock-operator/test/filelock"
	"github.com/redislock-operator/redislock-operator/test/ports"
	"github.com/redislock-operator/redislock-operator/test/supervisor"
)

// ErrNoRealNode means that this machine cannot run a kubelet.
var ErrNoRealNode = errors.New("a real node needs Linux and root; run this as root, for instance in a virtual machine or by sudo -E")

const pauseImage = "redislock.test/pause:1"

// realNode is a kubelet with containerd on this machine.
//
// Both run in a mount namespace in which /run, /var/lib and /var/log are folders
// of the cluster, so that they have the places that they know, several of them
// run side by side, and their mounts go with them. The same hides kernel settings
// from them that a kubelet would change for the whole machine.
type realNode struct {
	cluster *Cluster
	name    string
	// address is the machine's, by which the API server reaches the kubelet.
	address string
	// network is that of the pods, gateway this machine in it.
	network, gateway string
	port             *ports.Port
	dir              string
	programs         nodePrograms
}

type nodePrograms struct{ containerd, ctr, cni string }

// private are the folders that the node has to itself.
var private = []string{"/run", "/var/lib", "/var/log"}

// kernelSettings are what kubelet and CNI plugins would change for all.
var kernelSettings = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "net/ipv4/ip_forward",
}

func newRealNode(ctx context.Context, c *Cluster) (*realNode, error) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return nil, ErrNoRealNode
	}
	for _, dir := range private {
		if strings.HasPrefix(c.dir+"/", dir+"/") {
			return nil, fmt.Errorf("a cluster with a real node cannot have its data folder in %s: choose another than %s", dir, c.dir)
		}
	}
	programs, err := findNodePrograms(ctx, c)
	if err != nil {
		return nil, err
	}
	address, err := machineAddress()
	if err != nil {
		return nil, err
	}
	port, err := c.reserve()
	if err != nil {
		return nil, err
	}
	// The port is ours alone, and so is a network that is named after it.
	high, low := 64+port.Number()>>8, port.Number()&255
	return &realNode{
		cluster: c,
		name:    "node",
		address: address,
		network: fmt.Sprintf("10.%d.%d.0/24", high, low),
		gateway: fmt.Sprintf("10.%d.%d.1", high, low),
		port:    port,
		dir:     filepath.Join(c.sockets, "node"),

		programs: programs,
	}, nil
}

// Gateway is the address at which pods of a real node reach this machine, such
// as a Redis server that listens on all addresses. It is empty without a real
// node.
func (c *Cluster) Gateway() string {
	if c.node == nil {
		return ""
	}
	return c.node.gateway
}

// machineAddress is an address of the machine that is not a loopback one, which
// a kubelet would not take.
func machineAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && ip.IP.IsGlobalUnicast() {
			return ip.IP.String(), nil
		}
	}
	return "", errors.New("a real node needs an IPv4 address other than a loopback one, and this machine has none")
}

// packages are those of Debian and Ubuntu.
var packages = []string{"containerd", "runc", "containernetworking-plugins"}

// findNodePrograms looks for what is not built from Go modules, and installs it
// where that can be done.
func findNodePrograms(ctx context.Context, c *Cluster) (nodePrograms, error) {
	found, missing := lookForNodePrograms()
	if len(missing) == 0 {
		return found, nil
	}
	install := "apt-get install -y --no-install-recommends " + strings.Join(packages, " ")
	aptGet, err := exec.LookPath("apt-get")
	if err != nil {
		return found, fmt.Errorf("a real node needs %s: install containerd, runc and the CNI plugins (on Debian: %s)", strings.Join(missing, ", "), install)
	}
	if c.opts.Log != nil {
		_, _ = fmt.Fprintf(c.opts.Log, "cluster %s: a real node needs %s: running %s\n", c.opts.Name, strings.Join(missing, ", "), install)
	}
	// apt waits for its locks on packages, not for those on its lists.
	release, err := filelock.Acquire(ctx, filepath.Join(os.TempDir(), "redislock-install.lock"), func() {})
	if err != nil {
		return found, err
	}
	defer release()
	if found, missing = lookForNodePrograms(); len(missing) == 0 {
		return found, nil // somebody else was quicker
	}
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, packages...)} {
		cmd := exec.CommandContext(ctx, aptGet, append([]string{"-o", "DPkg::Lock::Timeout=300", "-q"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return found, fmt.Errorf("install what a real node needs (%s): %w\n%s", install, err, out)
		}
	}
	if found, missing = lookForNodePrograms(); len(missing) > 0 {
		return found, fmt.Errorf("a real node needs %s, which are missing even after: %s", strings.Join(missing, ", "), install)
	}
	return found, nil
}

func lookForNodePrograms() (found nodePrograms, missing []string) {
	for name, path := range map[string]*string{
		"containerd": &found.containerd, "ctr": &found.ctr, "runc": new(string), "containerd-shim-runc-v2": new(string),
	} {
		p, err := exec.LookPath(name)
		if err != nil {
			missing = append(missing, name)
		}
		*path = p
	}
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"} {
		if hasAll(dir, "ptp", "host-local", "loopback") {
			found.cni = dir
			return found, missing
		}
	}
	return found, append(missing, "CNI plugins (ptp, host-local, loopback)")
}

func hasAll(dir string, names ...string) bool {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

func (n *realNode) start(ctx context.Context) error {
	if err := n.prepare(); err != nil {
		return fmt.Errorf("prepare the node: %w", err)
	}
	if err := n.startContainerd(ctx); err != nil {
		return err
	}
	if err := n.loadPause(ctx); err != nil {
		return err
	}
	return n.startKubelet(ctx)
}

// prepare makes the node's folders and its mount namespace.
func (n *realNode) prepare() error {
	c := n.cluster
	var binds []supervisor.Bind
	for _, target := range private {
		source := filepath.Join(n.dir, strings.ReplaceAll(strings.Trim(target, "/"), "/", "-"))
		if err := os.MkdirAll(source, 0o755); err != nil {
			return err
		}
		binds = append(binds, supervisor.Bind{Source: source, Target: target})
	}
	for _, setting := range kernelSettings {
		target := filepath.Join("/proc/sys", setting)
		value, err := os.ReadFile(target)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		source := filepath.Join(n.dir, "kernel-"+strings.ReplaceAll(setting, "/", "-"))
		if err := os.WriteFile(source, value, 0o600); err != nil {
			return err
		}
		binds = append(binds, supervisor.Bind{Source: source, Target: target})
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(n.path("resolv.conf"), resolv, 0o644); err != nil {
		return err
	}
	// Other nodes have the same parents for the control groups of their
	// containers; which of them are ours containerd's folder of bundles says.
	var parents []string
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		parents = append(parents, filepath.Join(m, "k8s.io"))
	}
	if err := c.super.RemoveCgroupsAtEnd(n.path("run/containerd/io.containerd.runtime.v2.task/k8s.io"), parents...); err != nil {
		return err
	}
	if n.dir != c.path("node") || !c.ownDir {
		// What the containers were has no meaning for the next run.
		if err := c.super.RemoveAtEnd(n.dir); err != nil {
			return err
		}
	}
	return c.super.PrivateMounts(binds...)
}

func (n *realNode) path(name string) string { return filepath.Join(n.dir, name) }

// cgroupMounts are the hierarchies of control groups, one with version 2 and
// several with version 1.
func cgroupMounts() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var mounts []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && (f[2] == "cgroup" || f[2] == "cgroup2") {
			mounts = append(mounts, f[1])
		}
	}
	return mounts, nil
}

const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
# Those that look for devices, or write outside of their folders.
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%s"
  # Lowering the score takes a capability that root in a container may lack.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    # Copies files, which works on every file system.
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%s"
    conf_dir = "%s"
`

const cniConfig = `{
  "cniVersion": "0.4.0",
  "name": "redislock",
  "plugins": [{
    "type": "ptp",
    "ipMasq": false,
    "ipam": {
      "type": "host-local",
      "dataDir": "/run/cni-addresses",
      "ranges": [[{"subnet": "%s"}]],
      "routes": [{"dst": "0.0.0.0/0"}]
    }
  }]
}
`

func (n *realNode) startContainerd(ctx context.Context) error {
	c := n.cluster
	if err := os.MkdirAll(n.path("cni"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(n.path("cni/10-redislock.conflist"), fmt.Appendf(nil, cniConfig, n.network), 0o644); err != nil {
		return err
	}
	config := fmt.Appendf(nil, containerdConfig, pauseImage, n.programs.cni, n.path("cni"))
	if err := os.WriteFile(n.path("containerd.toml"), config, 0o644); err != nil {
		return err
	}
	c.Containerd = c.process("containerd", "--config", n.path("containerd.toml"))
	c.Containerd.command.Path = n.programs.containerd
	c.Containerd.ready = func(ctx context.Context) error { return n.ctr(ctx, "version") }
	return c.Containerd.Start(ctx)
}

// ctr talks to containerd from outside of its mount namespace, so by another
// path of the same socket.
func (n *realNode) ctr(ctx context.Context, args ...string) error {
	args = append([]string{"--address", n.path("run/containerd/containerd.sock"), "--namespace", "k8s.io"}, args...)
	if out, err := exec.CommandContext(ctx, n.programs.ctr, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (n *realNode) importImage(ctx context.Context, name, file string) error {
	if err := n.ctr(ctx, "images", "import", "--snapshotter", "native", file); err != nil {
		return fmt.Errorf("load image %s: %w", name, err)
	}
	return nil
}

func (n *realNode) loadPause(ctx context.Context) error {
	return n.cluster.LoadGo(ctx, pauseImage, "./test/cluster/internal/pause")
}

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
port: %s
healthzPort: 0
readOnlyPort: 0
tlsCertFile: %q
tlsPrivateKeyFile: %q
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: %q}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: %q
# The machine is not the kubelet's own: it takes what it is given.
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
failSwapOn: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
evictionHard: {memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi, nodefs.inodesFree: "1", imagefs.inodesFree: "1"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
# Tests wait for what it says.
nodeStatusUpdateFrequency: 2s
eventRecordQPS: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
`

func (n *realNode) startKubelet(ctx context.Context) error {
	c := n.cluster
	kubeconfig, err := c.UserKubeconfig("system:node:"+n.name, "system:nodes")
	if err != nil {
		return err
	}
	config := fmt.Appendf(nil, kubeletConfig, n.port, c.path("pki", "server.crt"), c.path("pki", "server.key"), c.path("pki", "ca.crt"), n.path("resolv.conf"))
	if err := os.WriteFile(n.path("kubelet.yaml"), config, 0o644); err != nil {
		return err
	}
	c.Kubelet = c.process(controlplane.Kubelet,
		"--config="+n.path("kubelet.yaml"),
		"--kubeconfig="+kubeconfig,
		"--hostname-override="+n.name,
		"--node-ip="+n.address,
		"--v=2",
	)
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	c.Kubelet.ready = func(ctx context.Context) error { return c.nodeReady(ctx, client) }
	return c.Kubelet.Start(ctx)
}
