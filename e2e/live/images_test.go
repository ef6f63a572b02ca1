package live

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// readerProgram is where the reader is on this machine.
func readerProgram() string { return filepath.Join(lab.Dir(), "bin", "reader") }

func buildReader(ctx context.Context) error {
	root, err := harness.RepoRoot()
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", readerProgram(), "./e2e/live/reader")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the reader: %w\n%s", err, out)
	}
	return nil
}

// Images of busybox, and of this machine's own glibc programs, both with the reader; and the same with USER app.
const (
	busyboxImage, busyboxAppImage = "live/busybox", "live/busybox-app"
	glibcImage, glibcAppImage     = "live/glibc", "live/glibc-app"
)

// makeBusybox makes the images of busybox in an engine.
func makeBusybox(ctx context.Context, host string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return err
	}
	files := map[string]string{readerProgram(): "/bin/reader", busybox: "/bin/busybox"}
	if err := importImage(ctx, host, busyboxImage, files, strings.Fields(string(applets)), nil); err != nil {
		return err
	}
	return asApp(ctx, host, busyboxImage, busyboxAppImage)
}

// makeGlibc makes the images of this machine's programs.
func makeGlibc(ctx context.Context, host string) error {
	files, err := glibcFiles(ctx, "bash", "cat", "cp", "dd", "find", "head", "id", "ln", "ls", "mkdir", "mount", "mv", "rm", "sha256sum", "sleep", "tail", "tar", "touch", "truncate", "chmod", "umount")
	if err != nil {
		return err
	}
	files[readerProgram()] = "/bin/reader"
	if err := importImage(ctx, host, glibcImage, files, nil, map[string]string{"/bin/sh": "bash"}); err != nil {
		return err
	}
	return asApp(ctx, host, glibcImage, glibcAppImage)
}

// asApp makes an image that has USER app of one that has not.
func asApp(ctx context.Context, host, from, name string) error {
	cmd := exec.CommandContext(ctx, "docker", "-H", host, "build", "-q", "-t", name, "-")
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	cmd.Stdin = strings.NewReader("FROM " + from + "\nUSER app\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return nil
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// glibcFiles are programs of this machine with the libraries that they need.
func glibcFiles(ctx context.Context, names ...string) (map[string]string, error) {
	files := map[string]string{}
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			return nil, err
		}
		files[path] = "/bin/" + name
		out, err := exec.CommandContext(ctx, "ldd", path).Output()
		if err != nil {
			return nil, fmt.Errorf("ldd %s: %w", path, err)
		}
		for _, m := range library.FindAllStringSubmatch(string(out), -1) {
			files[m[1]] = m[1]
		}
	}
	return files, nil
}

func importImage(ctx context.Context, host, name string, files map[string]string, applets []string, links map[string]string) error {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	var errs []error
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		errs = append(errs, w.WriteHeader(&h))
		_, err := w.Write(content)
		errs = append(errs, err)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	dirs := []string{"bin", "etc", "proc", "sys", "dev", "empty", "full", "full/sub"}
	for _, to := range files { // what is above a library: else it is root's alone
		for dir := filepath.Dir(to); dir != "/"; dir = filepath.Dir(dir) {
			dirs = append(dirs, dir[1:])
		}
	}
	slices.Sort(dirs) // a directory before what is in it
	for _, dir := range slices.Compact(dirs) {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "full/file", Mode: 0o644}, []byte("the image's own"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"))
	for from, to := range files {
		content, err := os.ReadFile(from)
		errs = append(errs, err)
		add(tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(to, "/"), Mode: 0o755}, content)
	}
	for _, a := range applets {
		if a != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox"}, nil)
		}
	}
	for at, to := range links {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(at, "/"), Linkname: to}, nil)
	}
	errs = append(errs, w.Close())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "docker", "-H", host, "import", "-c", "ENV PATH=/bin", "-", name)
	cmd.Stdin = &buf
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s: %w\n%s", name, err, out)
	}
	return nil
}
