package live

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
)

func TestNobodyElseReads(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	put(t, "mine", "user", "mine")
	put(t, "other", "user", "other")
	mustDocker(t, "volume", "create", "-d", d.name, "-o", "path=secret/mine", "-o", "uid=1000", d.name+"-mine")
	r := d.startReader(busyboxImage, d.name+"-mine", []string{"--user", "1000"}, "rate", "10", "OUT", "/secrets/user")
	r.until("a read", 10*time.Second, func(s stats) bool { return s.Reads > 0 && s.Errors == 0 })

	// Another user in a container with the same volume, without capabilities and with root's number.
	_, err := docker(t, "run", "--rm", "--network", "none", "--user", "1001", "--volume-driver", d.name, "-v", d.name+"-mine:/secrets", busyboxImage, "cat", "/secrets/user")
	must.ErrorContains(t, err, "Permission denied")
	_, err = docker(t, "run", "--rm", "--network", "none", "--cap-drop", "ALL", "--volume-driver", d.name, "-v", d.name+"-mine:/secrets", busyboxImage, "cat", "/secrets/user")
	must.ErrorContains(t, err, "Permission denied")

	// A container with another volume reaches that alone.
	out, err := docker(t, "run", "--rm", "--network", "none", "--volume-driver", d.name, "-v", "secret/other:/secrets", busyboxImage, "sh", "-c",
		"cat /secrets/user; cat /secrets/../mine/user /secrets/mine /secrets/..data '/secrets/volumes:x' 2>/dev/null; true")
	must.NoError(t, err)
	must.Eq(t, "other", out)

	// Users of the host, by the path that Docker has.
	at := strings.TrimSpace(mustDocker(t, "volume", "inspect", "-f", "{{.Mountpoint}}", d.name+"-mine"))
	must.StrHasPrefix(t, d.dir, at)
	for _, uid := range []uint32{1000, 1001, 65534} {
		for _, path := range []string{at, at + "/user", filepath.Dir(at), d.path("run/live"), d.path("run/live/v1"), d.path("state/audit.log"), d.path("state/volumes.json"), d.socket()} {
			cmd := exec.Command("cat", path)
			if path == at {
				cmd = exec.Command("ls", path)
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			text, err := cmd.CombinedOutput()
			must.Error(t, err, must.Sprint(uid, " ", path))
			must.False(t, bytes.Contains(text, []byte("mine\n")))
		}
	}
}

func TestAValueIsNowhere(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	value := fmt.Sprintf("leak-%d-%s", os.Getpid(), strings.Repeat("q7Zx", 8))
	put(t, "leak", "password", value)
	r := d.startReader(busyboxImage, "secret/leak", nil, "rate", "50", "OUT", "/secrets/nobody")
	mustDocker(t, "exec", r.name, "sh", "-c", "cat /secrets/password | wc -c; cat /secrets/password >/dev/null; ls -la /secrets")
	// It is there to be found: by the one way there is.
	must.Eq(t, value, mustDocker(t, "exec", r.name, "cat", "/secrets/password"))

	pids := append(d.servers(), d.pid())
	must.Len(t, 2, pids)
	scanner, err := leakscan.New(leakscan.Canary{Name: "value", Value: value}, leakscan.Canary{Name: "token", Value: lab.token})
	must.NoError(t, err)
	docker := func(args ...string) leakscan.Source {
		return leakscan.Command("docker "+args[0], "docker", append([]string{"-H", lab.engine.Host}, args...)...)
	}
	scan := func(more ...leakscan.Source) leakscan.Report {
		report, err := scanner.Scan(t.Context(), append(more,
			docker("inspect", r.name), docker("volume", "inspect", "secret/leak"), docker("logs", r.name), docker("info"),
			leakscan.Tree("the engine's files", filepath.Join(lab.Dir(), "engine"), leakscan.TreeOptions{}),
			leakscan.Tree("the volume driver's files", d.dir, leakscan.TreeOptions{Skip: []string{"token"}}),
			leakscan.Processes("processes", pids...))...)
		must.NoError(t, err)
		return report
	}
	report := scan()
	must.SliceEmpty(t, report.Hits, must.Sprint(report.Hits))
	must.Greater(t, 20, report.Places["the engine's files"])
	must.Greater(t, 4, report.Places["the volume driver's files"])
	// The scan can find it.
	must.Len(t, 1, scan(leakscan.Text("a proof", "proof", []byte("x"+value))).Hits)

	// No core dump, and no memory to be had by who is not root: not even from a crash.
	must.NoError(t, syscall.Kill(pids[0], syscall.SIGSEGV))
	must.NoError(t, harness.Until(t.Context(), "another file server", func() error {
		if now := d.servers(); len(now) != 1 || now[0] == pids[0] {
			return fmt.Errorf("%v", now)
		}
		return nil
	}))
	cores, err := filepath.Glob("/core*")
	must.NoError(t, err)
	must.SliceEmpty(t, cores)
	pids = append(d.servers(), d.pid())
	report = scan()
	must.SliceEmpty(t, report.Hits, must.Sprint(report.Hits))
}

func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Pid
}
