package live

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func (d *daemon) signal(sig syscall.Signal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Signal(sig)
}

// some starts readers of which each reads 20 times a second.
func (d *daemon) some(n int, path string) []*reader {
	d.t.Helper()
	put(d.t, path, "user", "x")
	return d.startReaders(n, "secret/"+path, "rate", "20", "OUT", "/secrets/user")
}

func noErrors(t *testing.T, all []*reader) {
	t.Helper()
	var now []stats
	for _, r := range all {
		before, err := r.stats()
		must.NoError(t, err)
		s := r.until("reads that go on", 20*time.Second, func(s stats) bool { return s.Reads > before.Reads+10 })
		must.Zero(t, s.Errors, must.Sprint(s.FirstError))
		now = append(now, s)
	}
	t.Log(sum(now))
}

func TestTheVolumeDriverIsKilled(t *testing.T) {
	d := startDaemon(t)
	all := d.some(times(10, 50), "kill-daemon")
	for i := range times(5, 20) {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // a random moment
		d.stop(syscall.SIGKILL)
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		d.start()
		if i%5 == 0 {
			v := fmt.Sprint("v", i)
			put(t, "kill-daemon", "user", v)
			all[0].until("the change", 10*time.Second, func(s stats) bool { return s.Seen[v] != 0 })
		}
	}
	noErrors(t, all)
	d.end()
	must.SliceEmpty(t, d.leftovers())
}

// TestTheDockerEngineIsKilled kills it a few times only, unless in full: each time it takes seconds to come back.
func TestTheDockerEngineIsKilled(t *testing.T) {
	d := startDaemon(t)
	all := d.some(times(6, 50), "kill-engine")
	for range times(2, 20) {
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond) // a random moment
		must.NoError(t, lab.engine.Kill(t.Context()))
		must.NoError(t, lab.engine.Start(t.Context()))
	}
	v := "after"
	put(t, "kill-engine", "user", v)
	all[0].until("the change", 10*time.Second, func(s stats) bool { return s.Seen[v] != 0 })
	noErrors(t, all)
	d.end()
	must.SliceEmpty(t, d.leftovers())
}

// TestTheBinaryIsUpgraded replaces the driver's file and restarts it, as a package's installation does.
func TestTheBinaryIsUpgraded(t *testing.T) {
	d := newDaemon(t)
	content, err := os.ReadFile(lab.Plugin())
	must.NoError(t, err)
	d.binary = d.path("nomad-driver-secrets")
	must.NoError(t, os.WriteFile(d.binary, content, 0o755))
	d.start()
	all := d.some(times(10, 50), "upgrade")
	servers := d.servers()
	must.Len(t, 1, servers)
	for i := range 3 {
		next := d.binary + ".new"
		must.NoError(t, os.WriteFile(next, fmt.Appendf(content, "another version %d", i), 0o755))
		must.NoError(t, os.Rename(next, d.binary))
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // a random moment
		d.stop(syscall.SIGTERM)
		d.start()
		v := fmt.Sprint("v", i)
		put(t, "upgrade", "user", v)
		all[i].until("the change", 10*time.Second, func(s stats) bool { return s.Seen[v] != 0 })
	}
	noErrors(t, all)
	must.Eq(t, servers, d.servers())
	d.end()
	must.SliceEmpty(t, d.leftovers())
}

func TestTheFileServerIsKilled(t *testing.T) {
	d := startDaemon(t)
	all := d.some(times(8, 50), "kill-server")
	mustDocker(t, "restart", "-t", "1", all[0].name)
	mustDocker(t, "stop", "-t", "1", all[1].name)
	mustDocker(t, "start", all[1].name)
	slowest := time.Duration(0)
	n := times(6, 20)
	for i := range n {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // a random moment
		sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP}[i%2]
		pids := d.servers()
		must.Len(t, 1, pids)
		at := time.Now()
		must.NoError(t, syscall.Kill(pids[0], sig))
		v := fmt.Sprint("v", i)
		put(t, "kill-server", "user", v)
		for _, r := range all {
			s := r.until("the new value", 10*time.Second, func(s stats) bool { return s.Seen[v] != 0 })
			// What failed did so only in the time that healing may take.
			healed := time.UnixMilli(s.LastFailed).Sub(at)
			slowest = max(slowest, healed)
			must.Less(t, 2*time.Second, healed)
		}
	}
	t.Logf("the last failed read was at most %s after the file server's end", slowest)
	// Containers whose mount is of a dead file server, started again in place. They heal as well.
	for i, r := range all[:4] {
		if i%2 == 0 {
			mustDocker(t, "restart", "-t", "1", r.name)
		} else {
			mustDocker(t, "stop", "-t", "1", r.name)
			mustDocker(t, "start", r.name)
		}
		s := r.until("a read after a restart", 10*time.Second, func(s stats) bool { return s.Seen[fmt.Sprint("v", n-1)] != 0 && s.Seen["v0"] == 0 })
		must.Zero(t, s.Errors, must.Sprint(s.FirstError))
	}
	must.NoError(t, syscall.Kill(d.servers()[0], syscall.SIGKILL))
	at := time.Now()
	put(t, "kill-server", "user", "last")
	for _, r := range all {
		s := r.until("the last value", 10*time.Second, func(s stats) bool { return s.Seen["last"] != 0 })
		must.Less(t, 2*time.Second, time.UnixMilli(s.LastFailed).Sub(at))
	}
	d.end()
	must.SliceEmpty(t, d.leftovers())
}

// blocked are the processes that wait in the kernel and cannot be killed: the tests' readers, and whoever waits for a file server.
func blocked() (found []string) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil || !strings.Contains(string(b), ") D ") {
			continue
		}
		stack, _ := os.ReadFile(filepath.Join(filepath.Dir(stat), "stack"))
		if strings.Contains(string(b), " (reader) D ") || strings.Contains(string(stack), " fuse_") {
			found = append(found, "blocked: "+string(b)+string(stack))
		}
	}
	return found
}

// TestAContainerThatEndsTheFileSystemHeals is about who is root in a container with CAP_SYS_ADMIN.
func TestAContainerThatEndsTheFileSystemHeals(t *testing.T) {
	d := startDaemon(t)
	put(t, "force", "user", "x")
	put(t, "neighbour", "user", "the neighbour's")
	other := d.startReader(busyboxImage, "secret/neighbour", nil, "rate", "50", "OUT", "/secrets/user")
	bad := d.startReader(busyboxImage, "secret/force", []string{"--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined", "--security-opt", "seccomp=unconfined"},
		"rate", "50", "OUT", "/secrets/user")
	for _, r := range []*reader{other, bad} {
		r.until("a read", 10*time.Second, func(s stats) bool { return s.Reads > 0 })
	}
	server := d.servers()
	_, _ = docker(t, "exec", bad.name, "mount", "-o", "remount,rw", "/secrets")
	out, _ := docker(t, "exec", bad.name, "sh", "-c", "echo y > /secrets/user; mkdir /secrets/x; ls -A /secrets")
	must.Eq(t, "", out)
	out = mustDocker(t, "exec", bad.name, "sh", "-c", `
		mkdir /tmp/m && mount --bind /secrets /tmp/m && ls -A /tmp/m /tmp/m/..
		cat /tmp/m/../*/user /secrets/../*/user /secrets/volumes:*/user 2>/dev/null | grep neighbour
		reader handle /secrets; umount /tmp/m; rmdir /tmp/m`)
	must.StrContains(t, out, "by handle: operation not permitted")
	must.StrNotContains(t, out, "neighbour")

	// With CAP_DAC_READ_SEARCH, too, it gets above its directory, where nothing is listed and no name can be guessed.
	worse := d.startReader(busyboxImage, "secret/force", []string{"--cap-add", "SYS_ADMIN", "--cap-add", "DAC_READ_SEARCH", "--security-opt", "apparmor=unconfined",
		"--security-opt", "seccomp=unconfined"}, "rate", "50", "OUT", "/secrets/user")
	roots := fuseRoots(t, d.path("run/shared"))
	must.Len(t, 2, roots)
	for i, own := range roots {
		theirs := roots[1-i]
		guess := theirs[:strings.LastIndexByte(theirs, ':')]
		out = mustDocker(t, "exec", worse.name, "reader", "handle", "/secrets", guess, guess+own[strings.LastIndexByte(own, ':'):])
		must.StrContains(t, out, "by handle: <nil>")
		must.Eq(t, 2, strings.Count(out, "no such file or directory"), must.Sprint(out))
	}

	_, err := docker(t, "exec", bad.name, "umount", "-f", "/secrets")
	at := time.Now()
	t.Logf("umount -f: %v", err)
	put(t, "neighbour", "user", "y")
	s := other.until("the new value", 10*time.Second, func(s stats) bool { return s.Seen["y"] != 0 })
	t.Logf("errors in another container: %d (%s); file servers %v, then %v", s.Errors, s.LastError, server, d.servers())
	must.Less(t, 100, s.Errors) // two seconds' reads
	must.Less(t, 2*time.Second, time.UnixMilli(s.LastFailed).Sub(at))

	// What it has taken from itself it has again when it is restarted.
	put(t, "force", "user", "z")
	mustDocker(t, "restart", "-t", "1", bad.name)
	s = bad.until("the new value", 10*time.Second, func(s stats) bool { return s.Seen["z"] != 0 && s.Seen["x"] == 0 })
	must.Zero(t, s.Errors, must.Sprint(s.FirstError))
}

// fuseRoots are the directories of a file server that are mounted below a directory of the host.
func fuseRoots(t *testing.T, dir string) (roots []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir+"/") && strings.Contains(line, " fuse.live ") {
			roots = append(roots, strings.TrimPrefix(f[3], "/"))
		}
	}
	return roots
}
