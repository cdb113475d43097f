package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/redislock-operator/redislock-operator/test/controlplane"
)

// admin is the user of RESTConfig and Kubeconfig, one that RBAC does not limit.
const (
	admin      = "admin"
	adminGroup = "system:masters"
)

// writeKubeconfigs writes what depends on the port of the API server.
func (c *Cluster) writeKubeconfigs() error {
	if c.opts.Audit {
		if _, err := c.writeFile("audit-policy.yaml", auditPolicy); err != nil {
			return err
		}
	}
	if err := c.writeKubeconfig(c.Kubeconfig(), admin, adminGroup); err != nil {
		return err
	}
	config, err := loadKubeconfig(c.Kubeconfig())
	if err != nil {
		return err
	}
	c.config = config
	return nil
}

// loadKubeconfig is access without the client's own limit on requests: the
// limits that matter in a test are those of what it tests.
func loadKubeconfig(file string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig %s: %w", file, err)
	}
	config.QPS = -1
	return config, nil
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string {
	if c.External() {
		return c.external
	}
	return c.path("admin.kubeconfig")
}

// UserKubeconfig is the path of a kubeconfig for a user who is a member of these
// groups, with a client certificate. What the user may do is for RBAC to say.
// With an external cluster the administrator impersonates the user.
func (c *Cluster) UserKubeconfig(user string, groups ...string) (string, error) {
	if c.External() {
		return c.impersonate(user, groups)
	}
	path := c.path("kubeconfigs", fileName(user, groups)+".kubeconfig")
	return path, c.writeKubeconfig(path, user, groups...)
}

// fileName tells users apart whose names differ only in what a file name cannot
// hold.
func fileName(user string, groups []string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(user + "\x00" + strings.Join(groups, "\x00")))
	clean := strings.Map(func(r rune) rune {
		if strings.ContainsRune("/:\\ \x00", r) {
			return '-'
		}
		return r
	}, user)
	return clean + "-" + hex.EncodeToString(h.Sum(nil))
}

func (c *Cluster) writeKubeconfig(path, user string, groups ...string) error {
	pair, err := c.ca.Client(user, groups...)
	if err != nil {
		return err
	}
	return write(path, c.opts.Name, &clientcmdapi.Cluster{
		Server:                   "https://" + c.port.Addr(),
		CertificateAuthorityData: c.ca.Cert,
	}, user, &clientcmdapi.AuthInfo{ClientCertificateData: pair.Cert, ClientKeyData: pair.Key})
}

func write(path, clusterName string, cluster *clientcmdapi.Cluster, user string, auth *clientcmdapi.AuthInfo) error {
	config := clientcmdapi.NewConfig()
	config.Clusters[clusterName] = cluster
	config.AuthInfos[user] = auth
	config.Contexts[clusterName] = &clientcmdapi.Context{Cluster: clusterName, AuthInfo: user}
	config.CurrentContext = clusterName
	if err := replace(path, config); err != nil {
		return fmt.Errorf("write the kubeconfig of %s: %w", user, err)
	}
	return nil
}

// replace writes beside a file and puts the whole in its place, for somebody who asked
// for the same user may be reading it.
func replace(path string, config *clientcmdapi.Config) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // not there any more, if all went well
	if err := errors.Join(f.Close(), clientcmd.WriteToFile(*config, f.Name())); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (c *Cluster) impersonate(user string, groups []string) (string, error) {
	config, err := clientcmd.LoadFromFile(c.external)
	if err != nil {
		return "", fmt.Errorf("read the kubeconfig %s: %w", c.external, err)
	}
	if err := clientcmdapi.MinifyConfig(config); err != nil {
		return "", err
	}
	if err := clientcmdapi.FlattenConfig(config); err != nil {
		return "", err
	}
	for _, auth := range config.AuthInfos {
		auth.Impersonate, auth.ImpersonateGroups = user, groups
	}
	f, err := os.CreateTemp("", "redislock-"+fileName(user, groups)+"-*.kubeconfig")
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	return f.Name(), clientcmd.WriteToFile(*config, f.Name())
}

// Kubectl runs kubectl as the administrator and returns what it prints. The
// error has what it says about a failure.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlInput(ctx, "", args...)
}

// KubectlInput is Kubectl with something to read, for `apply -f -`.
func (c *Cluster) KubectlInput(ctx context.Context, input string, args ...string) (string, error) {
	cmd, err := c.KubectlCommand(ctx, args...)
	if err != nil {
		return "", err
	}
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// KubectlCommand is a kubectl that the caller runs, as the administrator.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path := filepath.Join(c.assets.Dir, controlplane.Kubectl)
	if c.External() {
		var err error
		if path, err = exec.LookPath(controlplane.Kubectl); err != nil {
			assets, err := controlplane.Ensure(ctx, c.opts.Log)
			if err != nil {
				return nil, err
			}
			path = filepath.Join(assets.Dir, controlplane.Kubectl)
		}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "KUBERC=off")
	if !c.External() { // which has no folder of ours
		cmd.Env = append(cmd.Env, "KUBECACHEDIR="+c.path("kubectl-cache"))
	}
	return cmd, nil
}
