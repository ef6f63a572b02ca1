package launcher

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/shoenig/test/must"
)

// remapped is a Docker engine of the test's own that maps containers' users to others on the host
// (userns-remap), and the first of those.
func remapped(t *testing.T) (e engine, first int) {
	dir := t.TempDir()
	must.NoError(t, os.Chmod(filepath.Dir(dir), 0o711)) // all that the test makes is below: let the mapped users pass
	must.NoError(t, os.Chmod(dir, 0o711))
	socket := "unix://" + filepath.Join(dir, "sock")
	config, err := json.Marshal(map[string]any{
		"data-root": filepath.Join(dir, "data"), "exec-root": filepath.Join(dir, "exec"),
		"pidfile": filepath.Join(dir, "pid"), "hosts": []string{socket},
		"userns-remap": "default", "storage-driver": "vfs", // whatever this machine's file system can
		"bridge": "none", "iptables": false, "ip6tables": false,
	})
	must.NoError(t, err)
	file := filepath.Join(dir, "daemon.json")
	must.NoError(t, os.WriteFile(file, config, 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	must.NoError(t, err)
	defer log.Close()
	cmd := exec.Command("dockerd", "--config-file", file)
	cmd.Stdout, cmd.Stderr = log, log
	// In a network of its own: an engine without a bridge removes docker0, which is the machine's engine's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	must.NoError(t, cmd.Start())
	t.Cleanup(func() {
		must.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		_ = cmd.Wait() // its status is the signal's
	})

	c, err := client.NewClientWithOpts(client.WithHost(socket), client.WithAPIVersionNegotiation())
	must.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	for until := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err = c.Ping(t.Context()); err == nil {
			break
		}
		said, _ := os.ReadFile(log.Name())
		must.True(t, time.Now().Before(until), must.Sprintf("dockerd does not come up:\n%s", said))
	}
	return engine{c}, firstOf(t, "dockremap")
}

// firstOf is the first id on the host of a user's range (subuid(5)).
func firstOf(t *testing.T, user string) int {
	ranges, err := os.ReadFile("/etc/subuid")
	must.NoError(t, err)
	for line := range strings.Lines(string(ranges)) {
		if rest, ok := strings.CutPrefix(line, user+":"); ok {
			n, err := strconv.Atoi(rest[:strings.IndexByte(rest, ':')])
			must.NoError(t, err)
			return n
		}
	}
	t.Fatalf("no range of %s in /etc/subuid", user)
	return 0
}

// L1: where Docker maps users, the app's user is another one on the host, and it alone can take the
// payload.
func TestUsernsRemap(t *testing.T) {
	e, first := remapped(t)
	image := e.image(t)
	// Nobody is whom the host's root shows as in there.
	for user, uid := range map[string]int{"": 0, "app": 1234, "65534": 65534} {
		s := e.start(t, container.Config{Image: image, User: user}, container.HostConfig{})
		must.Eq(t, first+uid, s.owner.UID)
		out, exit := s.run(Payload{Argv: sh("id -u; echo $SECRET"), Env: []string{"SECRET=" + canary}})
		must.Eq(t, strconv.Itoa(uid)+"\n"+canary+"\n", out)
		must.Zero(t, exit)
	}
}
