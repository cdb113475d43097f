package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Clone starts a second, independent cluster from a copy of this one's data, as
// somebody does who restores a backup beside the original: the same objects with
// the same UIDs, kube-system included, the same CA and the same keys for service
// accounts, and so the same tokens.
//
// The copy is of one moment. The original's etcd stands still while it is made,
// a fraction of a second; nothing is restarted.
func (c *Cluster) Clone(ctx context.Context, opts Options) (*Cluster, error) {
	if c.External() {
		return nil, fmt.Errorf("clone a cluster: %w", ErrExternal)
	}
	clone, err := start(ctx, opts, func(clone *Cluster) error { return c.copyTo(ctx, clone) })
	if err != nil {
		return nil, fmt.Errorf("clone cluster %s: %w", c.opts.Name, err)
	}
	return clone, nil
}

// copyTo copies data and keys. What a stopped etcd has written is what is left
// of one that was killed, and from that etcd starts: its log is made for it. The
// files are read through the same cache by which they were written, so that it
// does not matter what has reached the disk.
func (c *Cluster) copyTo(ctx context.Context, clone *Cluster) (err error) {
	for _, name := range []string{"ca.crt", "ca.key", "sa.key", "sa.pub"} {
		if err := copyFile(c.path("pki", name), clone.path("pki", name)); err != nil {
			return err
		}
	}
	if _, err := os.Stat(clone.path("etcd")); err == nil {
		return fmt.Errorf("the data folder %s has a cluster in it", clone.dir)
	}
	if c.Etcd.Running() {
		if err := c.Etcd.Pause(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Etcd.Resume()) }()
	}
	return filepath.WalkDir(c.path("etcd"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(c.path("etcd"), path)
		if err != nil {
			return err
		}
		target := clone.path("etcd", relative)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case strings.HasSuffix(path, ".tmp"):
			// Room that etcd has set aside, 64 MB of it.
			return nil
		default:
			return copyFile(path, target)
		}
	})
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
