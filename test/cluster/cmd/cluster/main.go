// Command cluster builds the programs of a Kubernetes cluster and runs clusters
// for the demo and for work by hand.
//
//	go run ./test/cluster/cmd/cluster build
//	go run ./test/cluster/cmd/cluster start -dir /tmp/west -nodes kwok
//	go run ./test/cluster/cmd/cluster stop -dir /tmp/west
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/redislock-operator/redislock-operator/test/cluster"
	"github.com/redislock-operator/redislock-operator/test/controlplane"
)

const usage = `usage: cluster COMMAND [FLAG...]

build   build etcd, Kubernetes, kubectl and kwok into bin/k8s, if they have
        changed; prints the folder, which may serve as KUBEBUILDER_ASSETS
start   start a cluster and leave it running; prints its kubeconfig
        -dir FOLDER      data folder (required; stays)
        -nodes KIND      none, kwok or real (default none)
        -audit           keep an audit log
        -foreground      run until Ctrl-C instead
stop    stop the cluster of a folder, whoever started it
        -dir FOLDER      data folder (required)
        -remove          remove the folder
`

var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp), errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.Usage = func() {}
	dir := flags.String("dir", "", "")
	nodes := flags.String("nodes", "none", "")
	audit := flags.Bool("audit", false, "")
	foreground := flags.Bool("foreground", false, "")
	remove := flags.Bool("remove", false, "")
	if err := flags.Parse(args[1:]); err != nil {
		return errors.Join(err, errUsage)
	}
	if flags.NArg() > 0 || (args[0] != "build" && *dir == "") {
		return errUsage
	}
	switch args[0] {
	case "build":
		assets, err := controlplane.Build(ctx, os.Stderr)
		if err != nil {
			return err
		}
		fmt.Println(assets.Dir)
		return nil
	case "start":
		return start(ctx, *dir, *nodes, *audit, *foreground)
	case "stop":
		if err := cluster.StopDetached(*dir); err != nil || !*remove {
			return err
		}
		return os.RemoveAll(*dir)
	default:
		return errUsage
	}
}

func start(ctx context.Context, dir, nodes string, audit, foreground bool) error {
	kinds := map[string]cluster.Nodes{"none": cluster.NodesNone, "kwok": cluster.NodesKwok, "real": cluster.NodesReal}
	kind, ok := kinds[nodes]
	if !ok {
		return errUsage
	}
	c, err := cluster.Start(ctx, cluster.Options{Name: filepath.Base(dir), DataDir: dir, Log: os.Stderr, Audit: audit, Nodes: kind})
	if err != nil {
		return err
	}
	fmt.Println(c.Kubeconfig())
	if !foreground {
		return c.Detach()
	}
	<-ctx.Done()
	return c.Stop()
}
