package launcher

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	imageapi "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// engine is the Docker engine of this machine.
type engine struct{ *client.Client }

func newEngine(tb testing.TB) engine {
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	must.NoError(tb, err)
	tb.Cleanup(func() { _ = c.Close() })
	return engine{c}
}

// image imports an image of busybox, two users and a few files that cannot be run. There is no
// registry to pull one from.
func (e engine) image(tb testing.TB, changes ...string) string {
	busybox, err := os.ReadFile("/bin/busybox")
	must.NoError(tb, err, must.Sprint("install busybox-static"))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		must.NoError(tb, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		must.NoError(tb, err)
	}
	for _, dir := range []string{"bin/", "etc/", "work/", "tmp/"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, "")
	}
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, string(busybox))
	for _, applet := range []string{"sh", "cat", "env", "id", "sleep", "ls", "echo", "true", "pwd", "sha256sum"} {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, "")
	}
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, "root:x:0:0::/:/bin/sh\napp:x:1234:1235::/work:/bin/sh\n")
	add(tar.Header{Name: "etc/group", Mode: 0o644}, "root:x:0:\napp:x:1235:\n")
	add(tar.Header{Name: "work/run", Mode: 0o755}, "#!/bin/sh\necho relative \"$@\"\n")
	add(tar.Header{Name: "bin/readable", Mode: 0o644}, "no program\n")
	add(tar.Header{Name: "bin/garbage", Mode: 0o755}, "\x01\x02no program\n")
	must.NoError(tb, w.Close())
	return e.load(tb, b.Bytes(), changes...)
}

// load imports a file system as an image, with Dockerfile instructions.
func (e engine) load(tb testing.TB, tarball []byte, changes ...string) string {
	ctx := context.Background()
	ref := "launcher-test-" + strings.ToLower(rand.Text()) + ":1"
	r, err := e.ImageImport(ctx, imageapi.ImportSource{Source: bytes.NewReader(tarball), SourceName: "-"}, ref,
		imageapi.ImportOptions{Changes: changes})
	must.NoError(tb, err)
	var answer bytes.Buffer
	_, err = answer.ReadFrom(r)
	must.NoError(tb, err)
	must.NoError(tb, r.Close())
	must.StrNotContains(tb, answer.String(), `"error"`)
	tb.Cleanup(func() {
		_, err := e.ImageRemove(ctx, ref, imageapi.RemoveOptions{Force: true, PruneChildren: true})
		must.NoError(tb, err)
	})
	return ref
}

// create makes a container, removed at the end.
func (e engine) create(tb testing.TB, c *container.Config, h *container.HostConfig) (id string, err error) {
	ctx := context.Background()
	h.NetworkMode = "none" // starts faster, and no test needs one
	answer, err := e.ContainerCreate(ctx, c, h, nil, nil, "launcher-test-"+strings.ToLower(rand.Text()))
	if err == nil {
		tb.Cleanup(func() {
			must.NoError(tb, e.ContainerRemove(ctx, answer.ID, container.RemoveOptions{Force: true}))
		})
	}
	return answer.ID, err
}

func (e engine) inspect(tb testing.TB, id string) container.InspectResponse {
	c, err := e.ContainerInspect(context.Background(), id)
	must.NoError(tb, err)
	return c
}

// wait gives the exit code.
func (e engine) wait(tb testing.TB, id string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ended, failed := e.ContainerWait(ctx, id, container.WaitConditionNotRunning)
	select {
	case w := <-ended:
		return int(w.StatusCode)
	case err := <-failed:
		must.NoError(tb, err)
		return -1
	}
}

func (e engine) logs(tb testing.TB, id string) (stdout, stderr string) {
	r, err := e.ContainerLogs(context.Background(), id, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	must.NoError(tb, err)
	defer r.Close()
	var out, err2 bytes.Buffer
	_, err = stdcopy.StdCopy(&out, &err2, r)
	must.NoError(tb, err)
	return out.String(), err2.String()
}

// plain runs a command without the launcher, and gives what it prints.
func (e engine) plain(tb testing.TB, c container.Config, h container.HostConfig) (stdout string, exit int) {
	id, err := e.create(tb, &c, &h)
	must.NoError(tb, err)
	must.NoError(tb, e.ContainerStart(context.Background(), id, container.StartOptions{}))
	exit = e.wait(tb, id)
	stdout, _ = e.logs(tb, id)
	return stdout, exit
}

// waiting is a container whose process waits at the launcher.
type waiting struct {
	engine
	tb      testing.TB
	id      string
	pid     int
	owner   Owner
	channel string // on the host
	hold    *Hold
}

// start starts a container that the launcher holds.
func (e engine) start(tb testing.TB, c container.Config, h container.HostConfig) *waiting {
	channel := testChannel(tb)
	s := &waiting{engine: e, tb: tb, channel: channel.Path()}
	files, err := (&Installer{Dirs: []string{tb.TempDir()}}).FilesFor(channel)
	must.NoError(tb, err)
	s.hold, err = New(s.channel)
	must.NoError(tb, err)
	tb.Cleanup(s.hold.Remove)

	c.Entrypoint = append([]string{ContainerPath}, s.hold.Args(ContainerChannel)...)
	c.Cmd = nil
	h.Binds = append([]string{files.Launcher + ":" + ContainerPath + ":ro", s.channel + ":" + ContainerChannel + ":ro", secretsDir(tb) + ":/secrets"}, h.Binds...)
	s.id, err = e.create(tb, &c, &h)
	must.NoError(tb, err)
	must.NoError(tb, e.ContainerStart(context.Background(), s.id, container.StartOptions{}))
	s.pid = e.inspect(tb, s.id).State.Pid
	s.owner, err = s.hold.WaitingOwner(context.Background(), s.pid)
	must.NoError(tb, err)
	return s
}

// release gives it a command.
func (s *waiting) release(p Payload) error {
	return s.hold.Release(context.Background(), Alive(s.pid), s.owner, p)
}

// run releases, waits for the end and gives what the app printed.
func (s *waiting) run(p Payload) (stdout string, exit int) {
	must.NoError(s.tb, s.release(p))
	exit = s.wait(s.tb, s.id)
	stdout, stderr := s.logs(s.tb, s.id)
	must.Eq(s.tb, "", stderr)
	return stdout, exit
}

// secretsDir is a directory as Nomad makes it: a tmpfs without exec, which anybody may write to.
func secretsDir(tb testing.TB) string {
	dir := tb.TempDir()
	must.NoError(tb, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "size=8m,mode=0777"))
	tb.Cleanup(func() { must.NoError(tb, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func sh(script string) []string { return []string{"sh", "-c", script} }

// eventually waits for a condition.
func eventually(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !done() {
		must.True(tb, time.Now().Before(deadline), must.Sprint("not in time: ", what))
		time.Sleep(time.Millisecond)
	}
}
