package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redislock-operator/redislock-operator/test/controlplane"
	"github.com/redislock-operator/redislock-operator/test/supervisor"
)

// probeTimeout bounds one question whether a component is ready.
const probeTimeout = 5 * time.Second

func (c *Cluster) process(name string, args ...string) *Process {
	return &Process{
		cluster: c,
		name:    name,
		command: supervisor.Command{
			Name: name,
			Path: filepath.Join(c.assets.Dir, name),
			Args: args,
			Dir:  c.dir,
			Log:  c.path("logs", name+".log"),
		},
	}
}

func (c *Cluster) etcdSocket() string { return filepath.Join(c.sockets, "etcd.sock") }

// EtcdSocket is where etcd serves, for a look at the history behind the API server.
// It is empty for an external cluster.
func (c *Cluster) EtcdSocket() string {
	if c.External() {
		return ""
	}
	return c.etcdSocket()
}

func (c *Cluster) newEtcd() *Process {
	// Nobody is to reach etcd by these addresses, but it wants some.
	const nowhere = "http://127.0.0.1:1"
	p := c.process(controlplane.Etcd,
		"--name=default",
		"--data-dir="+c.path("etcd"),
		"--listen-client-urls=unix://"+c.etcdSocket(),
		"--advertise-client-urls="+nowhere,
		"--listen-peer-urls=unix://"+filepath.Join(c.sockets, "peer.sock"),
		"--initial-advertise-peer-urls="+nowhere,
		"--initial-cluster=default="+nowhere,
		// The data is to survive a crash of etcd, not one of the machine.
		"--unsafe-no-fsync",
		"--log-level=warn",
	)
	client := &http.Client{Timeout: probeTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.etcdSocket())
		},
	}}
	p.ready = func(ctx context.Context) error { return get(ctx, client, "http://etcd/health") }
	return p
}

func (c *Cluster) newAPIServer() *Process {
	bind := "127.0.0.1"
	authorization := "RBAC"
	if c.opts.Nodes == NodesReal {
		// Pods come from another interface.
		bind, authorization = "0.0.0.0", "Node,RBAC"
	}
	args := []string{
		"--etcd-servers=unix://" + c.etcdSocket(),
		"--bind-address=" + bind,
		"--secure-port=" + c.port.String(),
		"--advertise-address=127.0.0.1",
		// A loopback address cannot be an endpoint of a service.
		"--endpoint-reconciler-type=none",
		"--authorization-mode=" + authorization,
		"--tls-cert-file=" + c.path("pki", "server.crt"),
		"--tls-private-key-file=" + c.path("pki", "server.key"),
		"--client-ca-file=" + c.path("pki", "ca.crt"),
		// The name of a node means nothing to the resolver.
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + c.path("pki", "kubelet-client.crt"),
		"--kubelet-client-key=" + c.path("pki", "kubelet-client.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file=" + c.path("pki", "sa.key"),
		"--service-account-key-file=" + c.path("pki", "sa.pub"),
		"--service-cluster-ip-range=" + serviceCIDR,
		"--allow-privileged=true",
		"--profiling=false",
		// Else a server that is told to end waits a minute for its watches to.
		"--shutdown-send-retry-after=true",
		"--shutdown-watch-termination-grace-period=2s",
		"--v=1",
	}
	if c.opts.Audit {
		args = append(args,
			"--audit-policy-file="+c.path("audit-policy.yaml"),
			"--audit-log-path="+c.auditLog(),
			// Written before the client has its answer, so that a test can count.
			"--audit-log-mode=blocking",
		)
	}
	p := c.process(controlplane.APIServer, slices.Concat(args, c.featureGates(), c.opts.APIServerArgs)...)
	client, err := c.httpClient()
	url := "https://" + c.port.Addr() + "/readyz"
	p.ready = func(ctx context.Context) error {
		if err != nil {
			return err
		}
		return get(ctx, client, url)
	}
	return p
}

func (c *Cluster) controllerManagerArgs() []string {
	// Without these nothing is missed here, and each costs watches and memory.
	off := []string{
		"-cloud-node-lifecycle-controller", "-node-route-controller", "-service-lb-controller",
		"-horizontal-pod-autoscaler-controller", "-persistentvolume-attach-detach-controller",
		"-persistentvolume-expander-controller", "-node-ipam-controller",
	}
	return append([]string{
		"--controllers=*," + strings.Join(off, ","),
		// Each controller as a user of its own, as in a cluster of kubeadm: the
		// audit log tells them apart, and RBAC applies.
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + c.path("pki", "sa.key"),
		"--root-ca-file=" + c.path("pki", "ca.crt"),
		"--cluster-signing-cert-file=" + c.path("pki", "ca.crt"),
		"--cluster-signing-key-file=" + c.path("pki", "ca.key"),
		"--kube-api-qps=300",
		"--kube-api-burst=600",
		"--profiling=false",
	}, c.opts.ControllerManagerArgs...)
}

// newController is a kube-controller-manager or a kube-scheduler.
func (c *Cluster) newController(name string, more []string) (*Process, error) {
	port, err := c.reserve()
	if err != nil {
		return nil, err
	}
	kubeconfig, err := c.UserKubeconfig("system:" + name)
	if err != nil {
		return nil, err
	}
	args := []string{
		"--kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--secure-port=" + port.String(),
		"--tls-cert-file=" + c.path("pki", "server.crt"),
		"--tls-private-key-file=" + c.path("pki", "server.key"),
		// Alone it need not elect itself, and it starts at once.
		"--leader-elect=false",
		"--v=1",
	}
	p := c.process(name, slices.Concat(args, c.featureGates(), more)...)
	client, err := c.httpClient()
	if err != nil {
		return nil, err
	}
	p.ready = func(ctx context.Context) error { return get(ctx, client, "https://"+port.Addr()+"/healthz") }
	return p, nil
}

func (c *Cluster) featureGates() []string {
	if len(c.opts.FeatureGates) == 0 {
		return nil
	}
	var gates []string
	for name, on := range c.opts.FeatureGates {
		gates = append(gates, name+"="+strconv.FormatBool(on))
	}
	slices.Sort(gates)
	return []string{"--feature-gates=" + strings.Join(gates, ",")}
}

// httpClient is the administrator's, for the probes.
func (c *Cluster) httpClient() (*http.Client, error) {
	admin, err := c.ca.Client("admin", "system:masters")
	if err != nil {
		return nil, err
	}
	pair, err := admin.TLS()
	if err != nil {
		return nil, err
	}
	return &http.Client{Timeout: probeTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: c.ca.Pool(), Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}}, nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s\n%s", url, resp.Status, body)
	}
	return nil
}

// writeFile writes a file of the data folder.
func (c *Cluster) writeFile(name, content string) (string, error) {
	path := c.path(name)
	return path, os.WriteFile(path, []byte(content), 0o600)
}
