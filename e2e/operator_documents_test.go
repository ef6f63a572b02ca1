package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/docs/pages"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// documents are the commands of the documents, run as they are in a network of their own, where servers are at the addresses that they
// usually have. Paths of the machine are below a directory; sudo, systemctl, make and bao are stand-ins.
type documents struct {
	*lab.Lab
	dir     string // of everything; in its root/ is what the commands see of the repository
	network int    // a process in it
	env     []string
}

// The documents' commands work, those that say so also when they are given again: on a laptop with Nomad alone; and on a node of a
// cluster with Vault, from the first trust to the operator's commands and the plugin's removal; then beside the built-in drivers.
func TestDocuments(t *testing.T) {
	t.Parallel()
	t.Run("laptop", func(t *testing.T) {
		t.Parallel()
		newDocuments(t, "laptop").run("laptop")
	})
	t.Run("node", func(t *testing.T) {
		t.Parallel()
		d := newDocuments(t, "node")
		d.cluster()
		d.run("trust", "production", "vault", "openbao", "operator")
		d.stopJobs() // as "Back" says
		d.run("back")
		d.removed()
		d.run("beside")
	})
}

func newDocuments(t *testing.T, name string) *documents {
	t.Helper()
	l := newLab(t)
	l.SetTimeout(4 * time.Minute)
	require.NoError(t, l.Images.Named(l.Ctx, lab.ExampleImage))
	// A short path, and Nomad's directories right below it: that of a task's API socket has a limit.
	d := &documents{Lab: l, dir: filepath.Join(l.Dir(), name[:2])}
	d.env = []string{ // and no more: what a shell has on this machine must not decide
		"PATH=" + d.path("shims") + ":" + strings.TrimPrefix(l.Agent.Vault().ShellEnv()[0], "PATH="), "HOME=" + d.dir, "TMPDIR=" + d.dir, "NOMAD_ADDR=http://127.0.0.1:4646",
	}
	d.makeRoot()
	d.makeShims()

	network := exec.Command("sh", "-c", "ip link set lo up; echo up; exec sleep infinity")
	network.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	up, err := network.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, network.Start())
	t.Cleanup(func() {
		_ = network.Process.Kill()
		_ = network.Wait()
	})
	_, err = up.Read(make([]byte, 2))
	require.NoError(t, err)
	d.network = network.Process.Pid
	return d
}

func (d *documents) path(of string) string { return filepath.Join(d.dir, of) }

// makeRoot makes the directory that commands are given in: the program as it was built, the jobs, and the agents' configurations.
func (d *documents) makeRoot() {
	d.T.Helper()
	for _, dir := range []string{"shims", "root/bin", "root/docs/install"} {
		require.NoError(d.T, os.MkdirAll(d.path(dir), 0o755))
	}
	require.NoError(d.T, os.Symlink(filepath.Join(repoRoot(d.T), "jobs"), d.path("root/jobs")))
	require.NoError(d.T, os.Link(d.Agent.PluginFile("docker"), d.path("root/bin/nomad-driver-secrets")))
	for _, name := range []string{"laptop.hcl", "production.hcl", "beside.hcl"} {
		config, err := os.ReadFile(filepath.Join(repoRoot(d.T), "docs/install", name))
		require.NoError(d.T, err)
		require.NoError(d.T, os.WriteFile(d.path("root/docs/install/"+name), []byte(d.here(string(config))), 0o600))
	}
}

var (
	secretsBlock = regexp.MustCompile(`(?m)secrets \{(\})?$`)
	dockerBlock  = regexp.MustCompile(`plugin "docker" \{\n  config \{\n`)
)

// here is a text of the documents with the paths and the server of this test. The Docker engine is shared with other tests.
func (d *documents) here(text string) string {
	text = strings.NewReplacer("/opt/nomad", d.path("opt/nomad"), "/usr/local/bin", d.path("usr/local/bin"), "/etc/nomad.d", d.path("etc/nomad.d"),
		"/run/nomad-driver-secrets", d.path("run"), "https://vault.example.com:8200", "http://127.0.0.1:8200").Replace(text)
	text = secretsBlock.ReplaceAllString(text, "secrets {\n      state_dir = \""+d.path("run")+"\"\n$1")
	if strings.Contains(text, "dangling_containers") { // as for the built-in driver beside ours
		return text
	}
	return dockerBlock.ReplaceAllString(text, "$0    gc {\n      image = false\n      dangling_containers {\n        enabled = false\n      }\n    }\n")
}

// makeShims makes the commands that are others here.
func (d *documents) makeShims() {
	d.T.Helper()
	for name, script := range map[string]string{
		"sudo": `exec "$@"`,
		"make": `[ "$*" = build ]`, // which the tests have done
		"bao":  `exec vault "$@"`,
		// The agent of the documents' node is its server, too.
		"systemctl": `[ "$*" = "restart nomad" ]
if [ -e agent.pid ]; then kill -INT $(cat agent.pid); while [ -e /proc/$(cat agent.pid)/exe ]; do sleep 0.1; done; fi
VAULT_ADDR= VAULT_TOKEN= nomad agent -dev -config ` + d.path("etc/nomad.d") + ` >>nomad.log 2>&1 </dev/null &
echo $! >agent.pid`,
		"nomad-driver-secrets": `case $1 in
status|refresh|rotate) set -- "$@" -state-dir ` + d.path("run") + ` ;;
doctor|audit) case "$*" in *-config*) ;; *) set -- "$@" -config ` + d.path("etc/nomad.d") + ` ;; esac ;;
esac
exec ` + d.path("usr/local/bin/nomad-driver-secrets") + ` "$@"`,
	} {
		require.NoError(d.T, os.WriteFile(d.path("shims/"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
}

// cluster starts what a cluster has before this plugin: a Vault, and a Nomad.
func (d *documents) cluster() {
	d.T.Helper()
	d.env = append(d.env, "VAULT_ADDR=http://127.0.0.1:8200", "VAULT_TOKEN=root", "BAO_ADDR=http://127.0.0.1:8200", "BAO_TOKEN=root")
	d.stays("vault server -dev -dev-root-token-id=root")
	require.NoError(d.T, os.MkdirAll(d.path("etc/nomad.d"), 0o755))
	_, err := d.bash("systemctl restart nomad")
	require.NoError(d.T, err)
	d.T.Cleanup(func() {
		// Again and again: one that has just been started ignores it, as a shell's background process does.
		stop := exec.Command("sh", "-c", "p=$(cat agent.pid); while [ -e /proc/$p/exe ]; do kill -INT $p; sleep 1; done")
		stop.Dir = d.path("root")
		_ = stop.Run()
	})
	d.until("vault status", "")
	d.until("nomad operator api /.well-known/jwks.json", "kid")
}

// stopJobs stops all jobs, and waits until no task has secrets.
func (d *documents) stopJobs() {
	d.T.Helper()
	_, err := d.bash(`nomad job status | awk 'NR > 1 { print $1 }' | while read -r job; do nomad job stop -detach "$job"; done`)
	require.NoError(d.T, err)
	d.until(`shown=$(nomad-driver-secrets status); ! grep ALLOC <<<"$shown"`, "")
}

// removed waits until the node has the built-in drivers, and nothing of ours.
func (d *documents) removed() {
	d.T.Helper()
	d.until(`shown=$(nomad node status -self -verbose); grep '^driver.docker ' <<<"$shown"; ! grep 'driver\..*\.secrets' <<<"$shown"`, "")
	_, err := d.bash("! grep " + d.path("run") + " /proc/self/mounts")
	require.NoError(d.T, err)
}

func (d *documents) command(script string) *exec.Cmd {
	cmd := exec.CommandContext(d.Ctx, "nsenter", "-t", strconv.Itoa(d.network), "-n", "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = d.path("root"), d.env
	return cmd
}

func (d *documents) bash(script string) (string, error) {
	out, err := d.command(script).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s\n%w: %s", script, err, out)
	}
	return string(out), err
}

// stays runs a command until the test ends.
func (d *documents) stays(script string) {
	d.T.Helper()
	log, err := os.OpenFile(d.path("root/nomad.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(d.T, err)
	defer log.Close()
	cmd := d.command("exec " + strings.TrimPrefix(script, "sudo "))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	require.NoError(d.T, cmd.Start())
	d.T.Cleanup(func() {
		_ = cmd.Cancel()
		_ = cmd.Wait()
	})
}

// until gives a command again until it succeeds, and prints this.
func (d *documents) until(script, prints string) {
	d.T.Helper()
	d.Until(script, func() error {
		out, err := d.bash(script)
		if err == nil && !strings.Contains(out, prints) {
			err = errors.New("it prints " + out)
		}
		return err
	})
}

// run runs the blocks of these set-ups, and makes the files that are among them.
func (d *documents) run(setUps ...string) {
	d.T.Helper()
	blocks, err := pages.All(repoRoot(d.T))
	require.NoError(d.T, err)
	defer func() {
		if log, err := os.ReadFile(d.path("root/nomad.log")); d.T.Failed() && err == nil {
			d.T.Logf("%s", log[max(0, len(log)-20_000):])
		}
	}()
	for _, b := range blocks {
		if name, ok := strings.CutPrefix(b.Mark, "file: "); ok {
			require.NoError(d.T, os.WriteFile(d.path("root/"+name), []byte(b.Text), 0o600))
		}
	}
	for _, setUp := range setUps {
		ran := 0
		for _, b := range blocks {
			if name, how := b.SetUp(); name == setUp {
				d.runBlock(b, how)
				ran++
			}
		}
		require.Positive(d.T, ran, setUp)
	}
}

func (d *documents) runBlock(b pages.Block, how string) {
	d.T.Helper()
	script := d.here(b.Text)
	if prints, ok := strings.CutPrefix(how, "until it prints "); ok {
		d.until(script, prints)
		return
	}
	switch how {
	case "and stays":
		d.stays(script)
	case "until it succeeds":
		d.until(script, "")
	case "", "twice":
		for range 1 + strings.Count(how, "twice") {
			out, err := d.bash(script)
			require.NoError(d.T, err, b.Where())
			d.T.Logf("%s:\n%s", b.Where(), out)
		}
	default:
		require.Fail(d.T, "unknown", "%s: %q", b.Where(), how)
	}
}
