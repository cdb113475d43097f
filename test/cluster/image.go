package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/redislock-operator/redislock-operator/test/controlplane"
)

// Image is a container image of one layer, made by hand: there is no registry
// and no docker here.
type Image struct {
	// Name is what pods call it, with registry and tag: "redislock.test/app:1".
	// They have to ask for imagePullPolicy Never or IfNotPresent.
	Name string
	// Files are the files in the image and where they come from. They are
	// executable.
	Files map[string]string
	// Entrypoint is what runs.
	Entrypoint []string
	// User is "uid" or "uid:gid"; root when empty.
	User string
}

// BuildGo builds a package of this repository, such as "./cmd/redislock", to a
// static binary for a container on this machine.
func BuildGo(ctx context.Context, pkg, out string) error {
	root, err := controlplane.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=-buildvcs=false")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s for a container: %w\n%s", pkg, err, text)
	}
	return nil
}

// LoadImage gives an image to the real node of the cluster.
func (c *Cluster) LoadImage(ctx context.Context, image Image) error {
	if c.node == nil {
		return fmt.Errorf("load image %s: cluster %s has no real node", image.Name, c.opts.Name)
	}
	f, err := os.CreateTemp(c.dir, "image-*.tar")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := errors.Join(image.write(f), f.Close()); err != nil {
		return fmt.Errorf("write image %s: %w", image.Name, err)
	}
	return c.node.importImage(ctx, image.Name, f.Name())
}

// LoadGo builds a package of this repository and gives it to the real node as an
// image that runs it.
func (c *Cluster) LoadGo(ctx context.Context, name, pkg string) error {
	dir, err := os.MkdirTemp(c.dir, "build-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "main")
	if err := BuildGo(ctx, pkg, binary); err != nil {
		return err
	}
	return c.LoadImage(ctx, Image{Name: name, Files: map[string]string{"/main": binary}, Entrypoint: []string{"/main"}})
}

// write writes the image as `docker save` does.
func (i Image) write(to io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": i.Entrypoint, "User": i.User, "Env": []string{"PATH=/"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(to)
	for _, f := range []struct {
		name    string
		content []byte
	}{{"config.json", config}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		if err := addFile(t, f.name, 0o644, f.content); err != nil {
			return err
		}
	}
	return t.Close()
}

func (i Image) layer() ([]byte, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	folders := map[string]bool{"tmp": true}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return nil, err
	}
	var names []string
	for name := range i.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		inImage := strings.TrimPrefix(path.Clean("/"+name), "/")
		for dir := path.Dir(inImage); dir != "." && !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		content, err := os.ReadFile(i.Files[name])
		if err != nil {
			return nil, err
		}
		if err := addFile(t, inImage, 0o755, content); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), t.Close()
}

func addFile(t *tar.Writer, name string, mode int64, content []byte) error {
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0)})
	if err != nil {
		return err
	}
	_, err = t.Write(content)
	return err
}
