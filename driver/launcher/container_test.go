package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/shoenig/test/must"
)

const canary = "canary-5f1c0e"

// L1: the secret is in the process's environment, and nowhere that Docker prints.
func TestSecretIsInTheProcessOnly(t *testing.T) {
	e := newEngine(t)
	s := e.start(t, container.Config{Image: e.image(t), Env: []string{"PLAIN=1", "SHADOWED=docker", "GONE=1"}}, container.HostConfig{})
	must.NoError(t, s.release(Payload{
		Argv:  []string{"sleep", "60"},
		Env:   []string{"SECRET=" + canary, "SHADOWED=payload", "TWICE=1", "TWICE=2"},
		Unset: []string{"GONE"},
	}))
	// Released means running: no wait is needed.
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.pid))
	must.NoError(t, err)
	env := strings.Split(string(environ), "\x00")
	must.SliceContainsAll(t, env, []string{"SECRET=" + canary, "SHADOWED=payload", "PLAIN=1", "TWICE=2", "HOME=/", "",
		"HOSTNAME=" + s.id[:12], "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.pid))
	must.NoError(t, err)
	must.Eq(t, "sleep\x0060\x00", string(cmdline), must.Sprint("PID 1 of the container is the app"))

	inspected, err := json.Marshal(e.inspect(t, s.id))
	must.NoError(t, err)
	must.StrNotContains(t, string(inspected), canary)
	left, err := os.ReadDir(s.channel)
	must.NoError(t, err)
	must.SliceEmpty(t, left, must.Sprint("the FIFOs are removed"))
}

// L1: the app is born as it would have been without the launcher.
func TestBornAsWithoutLauncher(t *testing.T) {
	e := newEngine(t)
	image := e.image(t)
	script := sh(`id; pwd; umask; for l in n c s u; do ulimit -S$l; ulimit -H$l; done; ls /proc/self/fd | busybox wc -l
		busybox grep -E '^(Sig(Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp|NSpid)' /proc/1/status
		busybox cat /proc/1/oom_score_adj /proc/1/limits /proc/1/cmdline
		busybox sort /proc/self/environ | busybox tr '\0' '\n' | busybox grep -v ^HOSTNAME`)
	limit := []*container.Ulimit{{Name: "nofile", Soft: 1000, Hard: 5000}}
	for name, c := range map[string]struct {
		config container.Config
		host   container.HostConfig
	}{
		"root":              {},
		"user by name":      {config: container.Config{User: "app"}},
		"user by number":    {config: container.Config{User: "4321:4322"}},
		"working directory": {config: container.Config{User: "app", WorkingDir: "/work"}},
		"limit of files":    {host: container.HostConfig{Resources: container.Resources{Ulimits: limit}}},
		"read-only":         {host: container.HostConfig{ReadonlyRootfs: true}, config: container.Config{User: "app"}},
		"nothing allowed": {host: container.HostConfig{CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges"},
			ReadonlyRootfs: true}},
		"few processes": {host: container.HostConfig{Resources: container.Resources{PidsLimit: new(int64(10)), Memory: 16 << 20}}},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.Image = image
			plain := c.config
			plain.Entrypoint = script
			want, wantExit := e.plain(t, plain, c.host)
			got, exit := e.start(t, c.config, c.host).run(Payload{Argv: script})
			must.Eq(t, want, got)
			must.Eq(t, wantExit, exit)
		})
	}
	for _, user := range []string{"", "app"} {
		t.Run("few processes of user "+user, func(t *testing.T) {
			// With one process the shell itself runs, and no other: the built-ins of sh must do.
			script := []string{"sh", "-c", "ulimit -Su; ulimit -Hu; while read line; do echo $line; done < /proc/self/limits; echo up"}
			config := container.Config{Image: image, User: user}
			plain := config
			plain.Entrypoint = script
			want, wantExit := e.plain(t, plain, container.HostConfig{Resources: container.Resources{
				Ulimits: []*container.Ulimit{{Name: "nproc", Soft: 1, Hard: 2}},
			}})
			for range 20 { // the launcher's own threads are still there: it must not need another
				got, exit := e.start(t, config, container.HostConfig{}).run(Payload{Argv: script, Processes: &Limit{Soft: 1, Hard: 2}})
				must.Eq(t, want, got)
				must.Eq(t, wantExit, exit)
			}
			must.StrContains(t, want, "\nup\n")
		})
	}
}

func TestOwnerIsTheAppsUser(t *testing.T) {
	e := newEngine(t)
	image := e.image(t)
	for user, want := range map[string]Owner{
		"": {0, 0}, "app": {1234, 1235}, "4321": {4321, 0}, "4321:4322": {4321, 4322}, "app:root": {1234, 0},
	} {
		s := e.start(t, container.Config{Image: image, User: user}, container.HostConfig{})
		must.Eq(t, want, s.owner, must.Sprint(user))
		s.hold.Remove()
		must.Eq(t, notFound, s.wait(t, s.id), must.Sprint("a launcher whose FIFO vanished ends"))
		_, stderr := s.logs(t, s.id)
		must.StrContains(t, stderr, "gave up this start")
	}
}

const notFound = 127

func TestUnderDockerInit(t *testing.T) {
	e := newEngine(t)
	s := e.start(t, container.Config{Image: e.image(t), User: "app"}, container.HostConfig{Init: new(true)})
	stdout, exit := s.run(Payload{Argv: sh(`busybox tr '\0' ' ' < /proc/1/cmdline; echo; echo $SECRET; exit 7`), Env: []string{"SECRET=" + canary}})
	must.StrHasPrefix(t, "/sbin/docker-init -- "+ContainerPath+" ", stdout)
	must.StrHasSuffix(t, "\n"+canary+"\n", stdout)
	must.Eq(t, 7, exit)
}

// An image from scratch has no shell, no user database and no libraries.
func TestFromScratch(t *testing.T) {
	e := newEngine(t)
	// The launcher itself is the one program in this image: it says how it is to be used.
	s := e.start(t, container.Config{Image: e.load(t, emptyTar()), User: "7"}, container.HostConfig{ReadonlyRootfs: true})
	must.NoError(t, s.release(Payload{Argv: []string{ContainerPath}}))
	must.Eq(t, notFound, s.wait(t, s.id))
	_, stderr := s.logs(t, s.id)
	must.StrContains(t, stderr, "started by the nomad-driver-secrets plugin only")
}

// emptyTar is an archive of nothing.
func emptyTar() []byte { return make([]byte, 1024) }

func TestCommandIsLookedUpAsRuncDoes(t *testing.T) {
	e := newEngine(t)
	image := e.image(t)
	for name, c := range map[string]struct {
		argv []string
		env  []string
		want string
	}{
		"path of the image":              {argv: []string{"echo", "a"}, want: "a\n"},
		"absolute":                       {argv: []string{"/bin/echo", "b"}, want: "b\n"},
		"relative to the working dir":    {argv: []string{"./run", "c"}, want: "relative c\n"},
		"path of the secret environment": {argv: []string{"run", "d"}, env: []string{"PATH=/bin:/work"}, want: "relative d\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := e.start(t, container.Config{Image: image, WorkingDir: "/work"}, container.HostConfig{})
			stdout, _ := s.run(Payload{Argv: c.argv, Env: c.env})
			must.Eq(t, c.want, stdout)
		})
	}
}

// What cannot be run is an error in the words that Docker itself has for it.
func TestExecErrors(t *testing.T) {
	e := newEngine(t)
	image := e.image(t)
	for name, c := range map[string]struct {
		argv  []string
		env   []string
		errno syscall.Errno
		text  string
		exit  int
		other bool // Docker says it otherwise, or only after it said that the container runs
	}{
		"missing":           {[]string{"foo"}, nil, syscall.ENOENT, `exec: "foo": executable file not found in $PATH`, 127, false},
		"missing, absolute": {[]string{"/bin/foo"}, nil, syscall.ENOENT, `exec: "/bin/foo": stat /bin/foo: no such file or directory`, 127, false},
		"not executable":    {[]string{"/bin/readable"}, nil, syscall.EACCES, `exec: "/bin/readable": permission denied`, 126, false},
		"not in path":       {[]string{"echo"}, []string{"PATH=/work"}, syscall.ENOENT, `exec: "echo": executable file not found in $PATH`, 127, false},
		"empty":             {[]string{""}, nil, syscall.ENOENT, `exec: "": executable file not found in $PATH`, 127, true},
		"no program":        {[]string{"/bin/garbage"}, nil, syscall.ENOEXEC, "exec /bin/garbage: exec format error", 126, true},
		"one value too big": {[]string{"true"}, []string{"A=" + strings.Repeat("x", 200<<10)}, syscall.E2BIG, "exec /bin/true: argument list too long", 126, true},
		"all too big":       {[]string{"true"}, many(100, 64<<10), syscall.E2BIG, "exec /bin/true: argument list too long", 126, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := e.start(t, container.Config{Image: image}, container.HostConfig{})
			err := s.release(Payload{Argv: c.argv, Env: c.env})
			failed, ok := errors.AsType[*ExecError](err)
			must.True(t, ok, must.Sprint(err))
			must.Eq(t, c.text, failed.Text)
			must.ErrorIs(t, err, c.errno)
			must.Eq(t, c.exit, s.wait(t, s.id))
			if c.other {
				return
			}
			id, err := e.create(t, &container.Config{Image: image, Entrypoint: c.argv, Env: c.env}, &container.HostConfig{})
			must.NoError(t, err)
			err = e.ContainerStart(context.Background(), id, container.StartOptions{})
			must.ErrorContains(t, err, c.text)
		})
	}
}

func many(n, size int) (env []string) {
	for i := range n {
		env = append(env, fmt.Sprintf("V%d=%s", i, strings.Repeat(string(rune('a'+i%26)), size)))
	}
	return env
}

// S7: values are bytes, large and many. The FIFO has room for 64 KiB.
func TestPayloads(t *testing.T) {
	e := newEngine(t)
	image := e.image(t)
	var odd strings.Builder
	for b := 1; b < 256; b++ {
		odd.WriteByte(byte(b))
	}
	for name, c := range map[string]struct {
		env  []string
		argv []string
	}{
		"odd bytes":     {env: []string{"ODD=" + odd.String(), "EMPTY=", "EQ==a=b"}},
		"64 KiB values": {env: many(16, 64<<10)},
		"2000 names":    {env: many(2000, 100)},
		"long command":  {argv: many(500, 1000)},
	} {
		t.Run(name, func(t *testing.T) {
			s := e.start(t, container.Config{Image: image, User: "app"}, container.HostConfig{})
			argv := append([]string{"sh", "-c", "sleep 60; true"}, c.argv...)
			must.NoError(t, s.release(Payload{Argv: argv, Env: c.env}))
			cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.pid))
			must.NoError(t, err)
			must.Eq(t, strings.Join(argv, "\x00")+"\x00", string(cmdline))
			environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.pid))
			must.NoError(t, err)
			got := strings.Split(strings.TrimSuffix(string(environ), "\x00"), "\x00")
			want := append(c.env, "HOME=/work", "HOSTNAME="+s.id[:12], "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
			slices.Sort(got)
			slices.Sort(want)
			must.True(t, slices.Equal(want, got), must.Sprintf("%d entries, %d wanted", len(got), len(want)))
		})
	}
}

// Signals and exit codes are the app's.
func TestSignalsReachTheApp(t *testing.T) {
	e := newEngine(t)
	image := e.image(t)
	for name, c := range map[string]struct {
		script string
		signal string
		exit   int
	}{
		"handled":               {`trap 'exit 42' TERM; echo up; while :; do sleep 0.01; done`, "TERM", 42},
		"user's":                {`trap 'exit 43' USR1; echo up; while :; do sleep 0.01; done`, "USR1", 43},
		"killed":                {`echo up; while :; do sleep 0.01; done`, "KILL", 137},
		"pipe is not ignored":   {`echo up; sleep 60 & busybox kill -PIPE $!; wait $!; exit $?`, "", 128 + 13},
		"hangup is not ignored": {`echo up; sleep 60 & busybox kill -HUP $!; wait $!; exit $?`, "", 128 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := e.start(t, container.Config{Image: image}, container.HostConfig{})
			must.NoError(t, s.release(Payload{Argv: sh(c.script)}))
			eventually(t, "the app is up", func() bool { out, _ := s.logs(t, s.id); return out == "up\n" })
			if c.signal != "" {
				must.NoError(t, e.ContainerKill(context.Background(), s.id, c.signal))
			}
			must.Eq(t, c.exit, e.wait(t, s.id))
		})
	}
}

// A waiting container ends at once when it is asked to, also as PID 1, whose default actions the kernel
// drops; and Release says so, promptly.
func TestKilledAtTheLauncher(t *testing.T) {
	e := newEngine(t)
	image := e.image(t)
	for _, withInit := range []bool{false, true} {
		for signal, exit := range map[string]int{"TERM": 143, "INT": 130, "QUIT": 131, "KILL": 137} {
			t.Run(fmt.Sprint(signal, " init ", withInit), func(t *testing.T) {
				s := e.start(t, container.Config{Image: image, User: "app"}, container.HostConfig{Init: &withInit})
				eventually(t, "the launcher is up", s.launcherUp)
				began := time.Now()
				released := make(chan error, 1)
				// An owner that is not the process's keeps it waiting.
				go func() {
					released <- s.hold.Release(context.Background(), Alive(s.pid), Owner{9999, 9999}, Payload{Argv: []string{"true"}})
				}()
				must.NoError(t, e.ContainerKill(context.Background(), s.id, "HUP"), must.Sprint("dropped"))
				must.NoError(t, e.ContainerKill(context.Background(), s.id, "USR1"), must.Sprint("dropped"))
				must.NoError(t, e.ContainerKill(context.Background(), s.id, signal))
				must.ErrorIs(t, <-released, ErrEnded)
				must.Eq(t, exit, e.wait(t, s.id))
				must.Less(t, 3*time.Second, time.Since(began))
				left, err := os.ReadDir(s.channel)
				must.NoError(t, err)
				must.SliceEmpty(t, left)
			})
		}
	}
}

// launcherUp reports whether the launcher, run by a user other than root, has got to where it waits:
// it made itself undumpable, and what is in its /proc directory therefore root's.
func (s *waiting) launcherUp() bool {
	pids := []string{fmt.Sprint(s.pid)}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.pid, s.pid))
	for _, pid := range append(pids, strings.Fields(string(children))...) {
		cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		var st syscall.Stat_t
		if strings.HasPrefix(string(cmdline), ContainerPath) && syscall.Stat("/proc/"+pid+"/environ", &st) == nil && st.Uid == 0 {
			return true
		}
	}
	return false
}

// An exec gets the current environment the same way, and its terminal and input are its own.
func TestExec(t *testing.T) {
	e := newEngine(t)
	ctx := context.Background()
	s := e.start(t, container.Config{Image: e.image(t), User: "app"}, container.HostConfig{})
	must.NoError(t, s.release(Payload{Argv: []string{"sleep", "60"}, Env: []string{"SECRET=old"}}))
	for _, tty := range []bool{false, true} {
		hold, err := New(s.channel)
		must.NoError(t, err)
		defer hold.Remove()
		x, err := e.ContainerExecCreate(ctx, s.id, container.ExecOptions{
			Cmd:         append([]string{ContainerPath}, hold.Args(ContainerChannel)...),
			AttachStdin: true, AttachStdout: true, Tty: tty, WorkingDir: "/work",
		})
		must.NoError(t, err)
		conn, err := e.ContainerExecAttach(ctx, x.ID, container.ExecAttachOptions{Tty: tty})
		must.NoError(t, err)
		defer conn.Close()
		// What is typed before the command runs is the command's to read.
		_, err = conn.Conn.Write([]byte("typed\n"))
		must.NoError(t, err)
		var pid int
		eventually(t, "exec has a process", func() bool {
			i, err := e.ContainerExecInspect(ctx, x.ID)
			must.NoError(t, err)
			pid = i.Pid
			return pid != 0
		})
		must.NoError(t, hold.Release(ctx, Alive(pid), s.owner, Payload{
			Argv: sh(`read line; echo "got $line, $SECRET, $(pwd), $(id -u)"; exit 9`), Env: []string{"SECRET=" + canary},
		}))
		var out strings.Builder
		_, err = conn.Reader.WriteTo(&out)
		must.NoError(t, err)
		must.StrContains(t, out.String(), "got typed, "+canary+", /work, 1234")
		i, err := e.ContainerExecInspect(ctx, x.ID)
		must.NoError(t, err)
		must.Eq(t, 9, i.ExitCode)
	}
}
