package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// Images are made here, since none can be pulled: a static busybox and the test program, as one
// layer. Each run has its own, named after its work directory: a shared one would be removed under
// another run's feet.
type Images struct {
	// App runs as root and has neither entrypoint nor command.
	App string
	// Pause holds a group's network namespace.
	Pause string

	layer []byte
	run   string
}

// imagePasswd is /etc/passwd of the images; `app` is the user for images and jobs with one.
const imagePasswd = `root:x:0:0:root:/:/bin/sh
app:x:1000:1000:app:/:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
`

const imageGroup = "root:x:0:\napp:x:1000:\nnogroup:x:65534:\n"

func makeImages(ctx context.Context, run, testapp string) (*Images, error) {
	busybox, err := tool("busybox", "busybox-static")
	if err != nil {
		return nil, err
	}
	layer, err := imageLayer(ctx, busybox, testapp)
	if err != nil {
		return nil, err
	}
	i := &Images{layer: layer, run: run}
	if i.App, err = i.Variant(ctx, "app"); err != nil {
		return i, err
	}
	i.Pause, err = i.Variant(ctx, "pause", `ENTRYPOINT ["/bin/testapp", "sleep"]`)
	return i, err
}

// Variant makes an image of the same content with Dockerfile instructions applied, such as
// `USER app` or `ENTRYPOINT ["/bin/testapp"]`. It returns the image's reference.
func (i *Images) Variant(ctx context.Context, name string, changes ...string) (string, error) {
	docker, err := dockerClient()
	if err != nil {
		return "", err
	}
	defer docker.Close()
	changes = append([]string{"ENV PATH=/bin"}, changes...)
	sum := sha256.Sum256([]byte(strings.Join(changes, "\n")))
	ref := fmt.Sprintf("%s/%s:%x", i.run, name, sum[:6])
	return ref, i.make(ctx, docker, ref, changes)
}

// Named makes an image of this name, the same as App, unless there is one. It stays: other runs on
// this machine may be using it.
func (i *Images) Named(ctx context.Context, ref string) error {
	docker, err := dockerClient()
	if err != nil {
		return err
	}
	defer docker.Close()
	return i.make(ctx, docker, ref, []string{"ENV PATH=/bin"})
}

// Move makes a name mean another image. Whoever made the name removes it.
func (i *Images) Move(ctx context.Context, name, to string) error {
	docker, err := dockerClient()
	if err != nil {
		return err
	}
	defer docker.Close()
	return docker.ImageTag(ctx, to, name)
}

// ID is the id of the image that a name means.
func (i *Images) ID(ctx context.Context, name string) (string, error) {
	docker, err := dockerClient()
	if err != nil {
		return "", err
	}
	defer docker.Close()
	inspect, err := docker.ImageInspect(ctx, name)
	return inspect.ID, err
}

// make imports the layer as ref, unless that is there.
func (i *Images) make(ctx context.Context, docker *client.Client, ref string, changes []string) error {
	return importImage(ctx, docker, ref, i.layer, changes)
}

// importImage makes an image of one layer, unless there is one of this name.
func importImage(ctx context.Context, docker *client.Client, ref string, layer []byte, changes []string) error {
	if _, err := docker.ImageInspect(ctx, ref); err == nil {
		return nil
	}
	out, err := docker.ImageImport(ctx,
		image.ImportSource{Source: bytes.NewReader(layer), SourceName: "-"},
		ref, image.ImportOptions{Changes: changes})
	if err != nil {
		return fmt.Errorf("import image %s: %w", ref, err)
	}
	if err := drain(out); err != nil {
		return fmt.Errorf("import image %s: %w", ref, err)
	}
	return nil
}

// removeImages removes the images of a run.
func removeImages(ctx context.Context, run string) error {
	docker, err := dockerClient()
	if err != nil {
		return err
	}
	defer docker.Close()
	list, err := docker.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", run+"/*"))})
	if err != nil {
		return err
	}
	var errs []error
	for _, img := range list {
		for _, ref := range img.RepoTags {
			if _, err := docker.ImageRemove(ctx, ref, image.RemoveOptions{Force: true}); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// imageLayer is the tar of a root file system. Busybox's applets are links; the test program stays
// a file of its own.
func imageLayer(ctx context.Context, busybox, testapp string) ([]byte, error) {
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	l := newLayer()
	l.dirs(0o755, "bin", "etc", "proc", "sys", "dev", "root")
	l.dirs(0o1777, "tmp", "run")
	for _, program := range []string{busybox, testapp} {
		l.copy(program, "bin/"+filepath.Base(program))
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			l.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}, nil)
		}
	}
	l.accounts()
	return l.bytes()
}

// layer is a tar that is being made. Its first error is that of bytes.
type layer struct {
	buf bytes.Buffer
	w   *tar.Writer
	err error
}

func newLayer() *layer {
	l := new(layer)
	l.w = tar.NewWriter(&l.buf)
	return l
}

func (l *layer) add(h tar.Header, content []byte) {
	h.Size = int64(len(content))
	if l.err == nil {
		l.err = l.w.WriteHeader(&h)
	}
	if l.err == nil {
		_, l.err = l.w.Write(content)
	}
}

func (l *layer) dirs(mode int64, names ...string) {
	for _, name := range names {
		l.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
	}
}

// copy adds a program or a library of this machine.
func (l *layer) copy(file, name string) {
	content, err := os.ReadFile(file)
	l.err = errors.Join(l.err, err)
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}, content)
}

func (l *layer) accounts() {
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte(imagePasswd))
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte(imageGroup))
}

func (l *layer) bytes() ([]byte, error) {
	if err := errors.Join(l.err, l.w.Close()); err != nil {
		return nil, fmt.Errorf("image layer: %w", err)
	}
	return l.buf.Bytes(), nil
}

// buildTestApp builds the program that tasks run, for images and for raw_exec, into dir.
func buildTestApp(ctx context.Context, dir string) (string, error) {
	root, err := RepoRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "testapp")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./e2e/testapp")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build e2e/testapp: %w\n%s", err, out)
	}
	return path, nil
}

func dockerClient() (*client.Client, error) {
	return client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
}

// drain reads the engine's answer to its end, where its errors are.
func drain(out io.ReadCloser) error {
	defer out.Close()
	for dec := json.NewDecoder(out); ; {
		var line struct {
			Error string `json:"error"`
		}
		if err := dec.Decode(&line); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
	}
}
