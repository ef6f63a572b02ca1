package live

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
)

// documented are the commands of a text, each with the lines that it goes on in, and without what a # comments on.
func documented(text string) []string {
	var list []string
	text = strings.ReplaceAll(text, "\\\n", "")
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
		if regexp.MustCompile(`^(sudo )?(nomad-driver-secrets volume-driver|docker (run|volume)) `).MatchString(line) {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

// app is a secret of the daemon's own: Docker remembers which driver a volume's name was of, for as long as it runs.
func (d *daemon) app() string { return "app-" + d.name }

// here is a documented command as it is run by these tests: with the test's own server, engine, image and driver.
func (d *daemon) here(command string) string {
	return strings.NewReplacer(
		"https://vault.example.com:8200", lab.Vault.Addr,
		"/root/vault-token", d.token(), "/etc/nomad-driver-secrets/token", d.token(),
		"--volume-driver secrets", "--volume-driver "+d.name, "-d secrets", "-d "+d.name,
		"busybox ", busyboxImage+" ", "IMAGE", busyboxImage, "secret/app-1", "secret/"+d.app(),
	).Replace(command)
}

// shims make commands do what they would elsewhere. The engine of these tests has no network.
func (d *daemon) shims() string {
	real, err := exec.LookPath("docker")
	must.NoError(d.t, err)
	dir := d.path("shims")
	must.NoError(d.t, os.MkdirAll(dir, 0o755))
	for name, script := range map[string]string{
		"sudo":                 `exec "$@"`,
		"nomad-driver-secrets": fmt.Sprintf(`exec %s "$@" -socket %s -state-dir %s -run-dir %s`, lab.Plugin(), d.socket(), d.path("state"), d.path("run")),
		"docker":               fmt.Sprintf(`c=$1; shift; [ "$c" != run ] || set -- --network none "$@"; exec %s -H %s "$c" "$@"`, real, lab.engine.Host),
	} {
		must.NoError(d.t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	return "PATH=" + dir + ":$PATH; "
}

func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/live.md")
	must.NoError(t, err)
	_, section, ok := strings.Cut(string(page), "\n## Plain Docker")
	must.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")
	help, err := exec.Command(lab.Plugin(), "volume-driver", "-h").CombinedOutput()
	must.NoError(t, err)
	for name, text := range map[string]string{"page": section, "help": string(help)} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t)
			put(t, d.app(), "password", "of-app-1")
			commands := documented(text)
			must.StrContains(t, commands[0], "volume-driver")
			must.StrHasSuffix(t, "&", commands[0])
			path := d.shims()
			d.binary, d.args = "/bin/sh", []string{"-c", path + "exec " + d.here(strings.TrimSuffix(commands[0], "&"))}
			d.start()
			cats := 0
			for _, c := range commands[1:] {
				out, err := exec.Command("/bin/sh", "-c", path+d.here(c)).CombinedOutput()
				must.NoError(t, err, must.Sprint(c, "\n", string(out)))
				switch {
				case strings.Contains(c, " cat "):
					must.Eq(t, "of-app-1", string(out), must.Sprint(c))
					cats++
				case strings.Contains(c, " ls "):
					must.Eq(t, "", string(out), must.Sprint(c))
				}
			}
			must.Positive(t, cats)
			if name == "page" { // whose last command made a volume for one user
				must.Len(t, 4, commands)
				run := func(uid string) error {
					_, err := docker(t, "run", "--rm", "--network", "none", "--cap-drop", "ALL", "--user", uid, "-v", "app-1:/secrets", busyboxImage, "cat", "/secrets/password")
					return err
				}
				must.NoError(t, run("1000"))
				must.ErrorContains(t, run("1001"), "Permission denied")
			}
			d.end()
			must.SliceEmpty(t, d.leftovers())
		})
	}
}

// unitLine is the value of a key in a unit.
func unitLine(t *testing.T, unit, key string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(unit)
	must.Len(t, 2, m, must.Sprint(key))
	return m[1]
}

// TestTheUnits runs the driver as docs/systemd has it: with a socket that stays, so that Docker waits for a driver that is away.
func TestTheUnits(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile("../../docs/systemd/nomad-driver-secrets-volumes." + name)
		must.NoError(t, err)
		return string(b)
	}
	service, socket := read("service"), read("socket")
	must.Eq(t, "/run/docker/plugins/secrets.sock", unitLine(t, socket, "ListenStream"))
	must.Eq(t, "docker.service", unitLine(t, socket, "Before"))
	must.Eq(t, "docker.service", unitLine(t, service, "Before"))
	must.Eq(t, "process", unitLine(t, service, "KillMode"))
	must.Eq(t, "continue", unitLine(t, service, "OOMPolicy"))
	must.Eq(t, "always", unitLine(t, service, "Restart"))
	must.Eq(t, "0", unitLine(t, service, "StartLimitIntervalSec"))

	d := newDaemon(t)
	options := d.here(unitLine(t, service, `#\s+OPTIONS`))
	command := strings.Fields(strings.Replace(unitLine(t, service, "ExecStart"), "$OPTIONS", options, 1))
	must.Eq(t, "/usr/local/bin/nomad-driver-secrets", command[0])
	d.args = append(command[1:], "-state-dir", d.path("state"), "-run-dir", d.path("run"))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.socket(), Net: "unix"})
	must.NoError(t, err)
	defer l.Close()
	f, err := l.File()
	must.NoError(t, err)
	defer f.Close()
	d.wrapper, d.files = []string{"/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`}, []*os.File{f}

	d.start()
	put(t, d.app(), "user", "x")
	r := d.startReader(busyboxImage, "secret/"+d.app(), nil, "rate", "50", "OUT", "/secrets/user")
	for i, action := range [][]string{{"restart", "-t", "1", r.name}, {"run", "--rm", "--network", "none", "-v", "secret/" + d.app() + ":/secrets", busyboxImage, "cat", "/secrets/user"}} {
		d.stop([]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[i])
		done := make(chan error, 1)
		go func() {
			_, err := docker(t, action...)
			done <- err
		}()
		d.start()
		must.NoError(t, <-done)
	}
	noErrors(t, []*reader{r})
	d.end()
	must.SliceEmpty(t, d.leftovers())
}
