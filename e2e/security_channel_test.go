package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/hostile"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// attemptsEach is how often an attacker must have tried while one kind of thing was done to a task.
const attemptsEach = 1000

// Users of nobody else on the host, and in containers; and the one of some tasks.
const (
	stranger       = 4242
	strangerInside = 4243
	nobody         = 65534
)

// channelTask is a task that is attacked, one of as many as there are victims. Its program is a shell of root's, or of another user's.
const channelTask = `
    task %[1]q {
      driver = %[2]q
      user   = %[3]q
      %[4]s
      service {
        name = "channel-%[1]s"
        %[5]s
      }
      config {
        %[6]s
        command = "/bin/sh"
        args    = ["-c", "echo start $COLOUR; exec sleep 1000"]
        role    = "channel"
        splay   = "0s"
        stagger = "0s"
        secret "a" {
          path = "secret/channel"
          env  = { COLOUR = "colour" }
        }
        secret "b" {
          path        = "secret/channel-script"
          env         = { SCRIPT = "colour" }
          change_mode = "script"
          change_script {
            command = "/bin/sh"
            args    = ["-c", "echo script $SCRIPT >> $NOMAD_TASK_DIR/scripts"]
            timeout = "20s"
          }
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`

// L1: processes of another user, on the host and beside a container's main process, and of the task's own
// user go after the launcher's FIFOs, at each start, restart in place, command, script check and change_script.
// None of theirs runs, nothing is read, and every victim but those of their own user gets on with what it does.
func TestLaunchersAreNotTakenOver(t *testing.T) {
	t.Parallel()
	l := newCheckLab(t, "channel")
	l.SetTimeout(8 * time.Minute) // it is many tests in one
	l.PutColour("channel", "start 1")
	l.PutColour("channel-script", "none")
	l.AllowLeased("channel", "secret/data/channel", "secret/data/channel-script")

	tasks := ""
	for name, of := range map[string][2]string{
		"docker": {"docker", "root"}, "raw": {"raw_exec", "root"},
		"docker-own": {"docker", "nobody"}, "raw-own": {"raw_exec", "nobody"},
	} {
		image := ""
		if of[0] == "docker" {
			image = `image = "${meta.image}"`
		}
		tasks += fmt.Sprintf(channelTask, name, of[0], of[1], lab.IdentityBlock,
			lab.ScriptCheck("colour", "20s", lab.ShellCommand("echo check $COLOUR")), image)
	}
	alloc := l.Run("job \"channel\" {\n group \"g\" {" + tasks + "\n }\n}")
	a := &channelAttack{CheckLab: l, alloc: alloc}
	victims := []string{"docker", "raw"}
	for _, task := range victims {
		l.Lines(alloc, task, "start ", 1)
	}

	// What there is to attack is root's, also where Nomad had made it anybody's.
	for _, task := range []string{"docker", "raw", "docker-own", "raw-own"} {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(alloc.SecretsDir(task), &st))
		require.Equal(t, uint32(unix.S_IFDIR|unix.S_ISVTX|0o777), st.Mode, "secrets of %s", task)
		require.Zero(t, st.Uid)
	}

	host := a.onHost(stranger, "docker", "raw", "docker-own", "raw-own")
	inside := a.inContainer("docker", strangerInside)
	ownHost := a.onHost(nobody, "raw-own")
	ownInside := a.inContainer("docker-own", nobody)
	strangers := []*attacker{host, inside}

	a.phase("streaming exec", append(strangers, ownHost, ownInside), func(i int) {
		for _, task := range victims {
			out, code, err := alloc.Exec(l.Ctx, task, "/bin/sh", "-c", "echo exec $COLOUR")
			require.NoError(t, err)
			require.Zero(t, code, out)
			require.Equal(t, "exec start 1\n", out)
		}
		for _, task := range []string{"docker-own", "raw-own"} { // whose user may spoil it
			_, _, _ = alloc.ExecAsIs(l.Ctx, task, "/bin/sh", "-c", "echo exec")
		}
	})
	ownHost.stop()
	ownInside.stop()
	failed := []func() []string{l.WatchCheck("channel-docker", "colour"), l.WatchCheck("channel-raw", "colour")}
	a.phase("script check", strangers, func(i int) {
		for _, task := range victims {
			l.Until("the check of "+task, func() error {
				got, err := l.Check("channel-"+task, "colour")
				if err == nil && got.Output != "check start 1\n" {
					err = fmt.Errorf("it is %q: %q", got.Status, got.Output)
				}
				return err
			})
		}
	})
	a.phase("change_script", strangers, func(i int) {
		colour := fmt.Sprintf("round %d", i)
		l.PutColour("channel-script", colour)
		for _, task := range victims {
			l.Until("the script in "+task, func() error {
				said, err := os.ReadFile(alloc.Dir(task, "local", "scripts"))
				if err == nil && !strings.HasSuffix(string(said), "script "+colour+"\n") {
					err = fmt.Errorf("it has said %q", said)
				}
				return err
			})
		}
	})
	rounds := 0
	a.phase("restart in place", []*attacker{host}, func(i int) {
		rounds++
		colour := fmt.Sprintf("start %d", 1+rounds)
		l.PutColour("channel", colour)
		for _, task := range victims {
			require.Equal(t, colour, l.Lines(alloc, task, "start ", 1+rounds)[rounds])
		}
	})
	for _, f := range failed {
		require.Empty(t, f(), "checks that failed")
	}
	l.NotRestarted(alloc, "docker")
	l.NotRestarted(alloc, "raw")
	colour := fmt.Sprintf("start %d", 1+rounds)
	a.phase("start", []*attacker{host}, func(i int) {
		rounds++
		for _, task := range victims {
			require.NoError(t, alloc.Restart(l.Ctx, task))
		}
		for _, task := range victims {
			require.Equal(t, colour, l.Lines(alloc, task, "start ", 1+rounds)[rounds])
		}
	})

	for _, of := range a.attackers {
		n := *of.counts.Load()
		t.Logf("%s: %+v", of.name, n)
		require.Zero(t, n.Injected, of.name)
		if !of.own {
			require.Equal(t, hostile.Counts{Attempts: n.Attempts, Replaced: n.Replaced}, n, of.name)
		}
		// In secrets/ anybody may make files, and no launcher looks there.
		require.Zero(t, n.Renamed, of.name)
		require.Zero(t, n.Removed, of.name)
	}
	for _, proof := range a.proofs() {
		_, err := os.Lstat(proof)
		require.ErrorIs(t, err, fs.ErrNotExist, "an attacker's command ran")
	}
	channels, err := os.ReadDir(filepath.Join(l.Agent.StateDir, "shared", "channel"))
	require.NoError(t, err)
	require.Len(t, channels, 4, "a channel a task")
	require.NoError(t, alloc.Job.Stop(l.Ctx))
	l.Until("the channels to be gone", func() error {
		left, err := os.ReadDir(filepath.Join(l.Agent.StateDir, "shared", "channel"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("there are %v", left)
		}
		return err
	})
}

// channelAttack is an allocation and who attacks it.
type channelAttack struct {
	lab.CheckLab
	alloc     *harness.Alloc
	attackers []*attacker
}

// attacker is a hostile process.
type attacker struct {
	name   string
	own    bool // it is of the victim's own user
	counts atomic.Pointer[hostile.Counts]
	stop   func() // and wait for its end
}

// proofs are what an attacker's command would leave: beside the tasks, on the host and as containers see it.
func (a *channelAttack) proofs() []string {
	return []string{a.alloc.Dir("alloc", "data", "owned"), "/alloc/data/owned"}
}

func (a *channelAttack) command() string {
	return fmt.Sprintf("id > %s || id > %s", a.proofs()[0], a.proofs()[1])
}

// onHost starts a process on the host that attacks these tasks.
func (a *channelAttack) onHost(uid uint32, tasks ...string) *attacker {
	args := []string{"takeover", a.command()}
	for _, task := range tasks {
		args = append(args, a.alloc.SecretsDir(task), filepath.Join(a.Agent.StateDir, "shared", "channel", a.alloc.ID+"-"+task))
	}
	cmd := exec.Command(filepath.Join(a.Dir(), "bin", "testapp"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Dir = "/"
	return a.start(fmt.Sprintf("user %d on the host", uid), uid == nobody, cmd)
}

// inContainer starts a process in a task's container, beside its main process.
func (a *channelAttack) inContainer(task string, uid int) *attacker {
	a.T.Helper()
	container, err := a.alloc.Container(a.Ctx, task)
	require.NoError(a.T, err)
	cmd := exec.Command("docker", "exec", "-u", fmt.Sprint(uid), container.ID,
		"/bin/testapp", "takeover", a.command(), "/secrets", "/.nomad-secrets-channel")
	return a.start(fmt.Sprintf("user %d in the container of %s", uid, task), uid == nobody, cmd)
}

func (a *channelAttack) start(name string, own bool, cmd *exec.Cmd) *attacker {
	a.T.Helper()
	of := &attacker{name: name, own: own}
	of.counts.Store(&hostile.Counts{})
	out, err := cmd.StdoutPipe()
	require.NoError(a.T, err)
	require.NoError(a.T, cmd.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		hostile.Follow(out, of.counts.Store)
	}()
	of.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	a.T.Cleanup(of.stop)
	a.attackers = append(a.attackers, of)
	return of
}

// phase does something to the tasks, again and again, until each of the attackers has had its attempts.
func (a *channelAttack) phase(what string, by []*attacker, do func(i int)) {
	a.T.Helper()
	before := make([]int64, len(by))
	for i, of := range by {
		before[i] = of.counts.Load().Attempts
	}
	rounds := 0
	a.Until(what+" under attack", func() error {
		do(rounds)
		rounds++
		var errs []error
		for i, of := range by {
			if n := of.counts.Load().Attempts - before[i]; n < attemptsEach {
				errs = append(errs, fmt.Errorf("%s has tried %d times", of.name, n))
			}
		}
		if rounds < 3 {
			errs = append(errs, errors.New("too few rounds"))
		}
		return errors.Join(errs...)
	})
	for i, of := range by {
		a.T.Logf("%s: %d rounds, %d attempts of %s", what, rounds, of.counts.Load().Attempts-before[i], of.name)
	}
}
