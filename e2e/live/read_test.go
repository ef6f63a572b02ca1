package live

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sync/errgroup"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

const readAll = `
for f in user big empty tls/key; do
  for how in 'cat F' 'dd if=F bs=7 2>/dev/null' 'cp F /tmp/c && cat /tmp/c && rm -f /tmp/c' 'head -c 2000000 F' 'tail -c 2000000 F' \
             'tar cf - F 2>/dev/null | tar xOf -' 'reader mmap F' 'reader sendfile F' 'reader splice F'; do
    sum=$(sh -c "$(echo "$how" | while read -r l; do echo "${l//F//secrets/$f}"; done)" | sha256sum)
    echo "sum $f ${sum%% *} $how"
  done
  sum=$(sha256sum /secrets/$f); echo "sum $f ${sum%% *} sha256sum"
done
echo "ls <$(ls /secrets)> $?"
echo "find <$(find /secrets -mindepth 1)> $?"
echo "glob <$(echo /secrets/*)>"
ls -la /secrets >/dev/null; echo "ls -la $?"
cat /secrets/nobody 2>&1 || true
`

const writeAll = `
try() { out=$("$@" 2>&1) && echo "DONE $*"; echo "$out"; }
try sh -c 'echo x > /secrets/user'
try sh -c 'echo x > /secrets/new'
try sh -c 'echo x >> /secrets/user'
try rm /secrets/user
try mv /secrets/user /secrets/other
try chmod 777 /secrets/user
try mkdir /secrets/dir
try ln -s /bin /secrets/link
try truncate -s 0 /secrets/user
reader change /secrets
`

func TestAVolumeIsReadByName(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	t.Run("images", func(t *testing.T) {
		for image, user := range map[string]string{busyboxImage: "0", busyboxAppImage: "1000", glibcImage: "0", glibcAppImage: "1000"} {
			t.Run(filepath.Base(image), func(t *testing.T) {
				t.Parallel()
				d.isReadByName(t, image, user)
			})
		}
	})
	must.SliceEmpty(t, d.leftovers())
}

// isReadByName reads a secret of several versions in all ways, in a container of an image.
func (d *daemon) isReadByName(t *testing.T, image, user string) {
	// Each is of another length than before, longer and shorter.
	lengths := [][]int{{3, 900_000, 0, 2}, {8192, 10, 70_000, 0}, {1, 131_073, 5, 4096}}
	path := "read-" + filepath.Base(image)
	write := func(version int) map[string]string {
		values := map[string]string{"version": fmt.Sprint(version)}
		for i, name := range []string{"user", "big", "empty", "tls/key"} {
			line := fmt.Sprintf("%d of version %d\n", i, version)
			values[name] = strings.Repeat(line, lengths[version][i]/len(line)+1)[:lengths[version][i]]
		}
		must.NoError(t, lab.Vault.PutKV2(t.Context(), "secret", path, map[string]any{
			"version": values["version"], "user": values["user"], "big": values["big"], "empty": values["empty"],
			"tls": map[string]any{"key": values["tls/key"]},
		}))
		return values
	}
	values := write(0)
	name := strings.TrimSpace(mustDocker(t, "run", "-d", "--network", "none", "--tmpfs", "/tmp:mode=1777",
		"--volume-driver", d.name, "-v", "secret/"+path+"/:/secrets", image, "sleep", "1000"))
	defer mustDocker(t, "rm", "-f", name)
	run := func(script string) string { return mustDocker(t, "exec", name, "sh", "-c", script) }
	must.Eq(t, user, strings.TrimSpace(run("id -u")))
	for version := range lengths {
		if version > 0 {
			values = write(version)
			run("until [ \"$(cat /secrets/version)\" = " + fmt.Sprint(version) + " ]; do :; done")
		}
		out, n := run(readAll), 0
		for line := range strings.Lines(out) {
			if f := strings.SplitN(strings.TrimSpace(line), " ", 4); f[0] == "sum" {
				must.Eq(t, fmt.Sprintf("%x", sha256.Sum256([]byte(values[f[1]]))), f[2], must.Sprint(version, " ", line))
				n++
			}
		}
		must.Eq(t, 40, n)
		must.StrContains(t, out, "ls <> 0\nfind <> 0\nglob </secrets/*>\nls -la 0\n")
		must.StrContains(t, out, "No such file or directory")
	}
	out := strings.ToLower(run(writeAll)) // programs and the library spell it differently
	must.StrNotContains(t, out, "done")
	must.Eq(t, 9+15, strings.Count(out, "read-only file system"), must.Sprint(out))
}

// leftovers waits until nothing is mounted, no file server runs and no reader is blocked, or gives what is. What a daemon that lives keeps is its
// tmpfs.
func (d *daemon) leftovers() []string {
	var left []string
	_ = harness.Until(d.t.Context(), "nothing left", func() error {
		left = blocked()
		for _, m := range mountsBelow(d.t, d.dir) {
			if m != d.path("run/shared") {
				left = append(left, m)
			}
		}
		for _, pid := range d.servers() {
			left = append(left, fmt.Sprint("file server ", pid))
		}
		if len(left) > 0 {
			return fmt.Errorf("%q", left)
		}
		return nil
	})
	return left
}

func TestAnImagesOwnDirectoryIsHidden(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	put(t, "app-2", "user", "bob")
	var g errgroup.Group
	g.SetLimit(3)
	for _, target := range []string{"/empty", "/full", "/none"} {
		for _, image := range []string{busyboxImage, busyboxAppImage, glibcImage, glibcAppImage} {
			for _, readOnly := range []string{"false", "true"} {
				g.Go(func() error {
					out, err := docker(t, "run", "--rm", "--network", "none", "--read-only="+readOnly, "--volume-driver", d.name,
						"-v", "secret/app-2/:"+target, image, "sh", "-c", "cat "+target+"/user; echo \" <$(ls -A "+target+")>\"")
					if err == nil && out != "bob <>\n" {
						err = fmt.Errorf("%s at %s: %q", image, target, out)
					}
					return err
				})
			}
		}
	}
	must.NoError(t, g.Wait())
}

// TestAMillionMadeUpNames tries a fifth of them, unless in full.
func TestAMillionMadeUpNames(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	put(t, "app-3", "user", "bob", "password", "x")
	keep := d.startReader(busyboxImage, "secret/app-3", nil, "rate", "10", "OUT", "/secrets/user")
	keep.until("a read", 10*time.Second, func(s stats) bool { return s.Reads > 0 })
	must.Len(t, 1, d.servers())
	pid := d.servers()[0]
	lookups := func(n int) int {
		out := mustDocker(t, "exec", keep.name, "/bin/reader", "lookups", fmt.Sprint(n), "/secrets")
		must.Eq(t, "nothing\n", out)
		return rss(t, pid)
	}
	idle := rss(t, pid)
	before := lookups(times(50_000, 100_000)) // by then it has the threads and the heap that this load needs
	after := lookups(times(150_000, 900_000))
	t.Logf("the file server's memory: %d kB idle, %d kB after some look-ups, %d kB after many more", idle, before, after)
	must.Less(t, 24<<10, after)
	must.Less(t, before+2048, after)
	s := keep.until("reads", 5*time.Second, func(s stats) bool { return s.Reads > 0 })
	must.Zero(t, s.Errors, must.Sprint(s.FirstError))
	for _, name := range []string{"audit.log", "audit.log.1"} {
		if info, err := os.Stat(d.path("state/" + name)); err == nil {
			must.Less(t, 17<<20, int(info.Size()))
		}
	}
}

func rss(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must.NoError(t, err)
	_, rest, ok := strings.Cut(string(b), "VmRSS:")
	must.True(t, ok)
	var kb int
	_, err = fmt.Sscan(rest, &kb)
	must.NoError(t, err)
	return kb
}
