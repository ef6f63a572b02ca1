package taskdir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const taskUser = 12345

// taskDir is as Nomad leaves it: private/ is 0777 and nobody's.
func taskDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("run as root: owners are what this is about")
	}
	dir := t.TempDir()
	private := filepath.Join(dir, "private")
	must.NoError(t, os.Mkdir(private, 0o777))
	must.NoError(t, os.Chmod(private, 0o777))
	must.NoError(t, os.Chown(private, 65534, 65534))
	return dir
}

func TestHardenPrivate(t *testing.T) {
	dir := taskDir(t)
	for range 2 { // at every start and recovery
		must.NoError(t, HardenPrivate(dir))
		var st unix.Stat_t
		must.NoError(t, unix.Lstat(filepath.Join(dir, "private"), &st))
		must.EqOp(t, 0o40700, st.Mode)
		must.EqOp(t, 0, st.Uid)
		must.EqOp(t, 0, st.Gid)
	}

	wantKind(t, HardenPrivate(t.TempDir()), secrets.NotFound, "private")
	wantKind(t, HardenPrivate(filepath.Join(dir, "nowhere")), secrets.NotFound)

	victim, hostile := t.TempDir(), t.TempDir()
	must.NoError(t, os.Chmod(victim, 0o755))
	must.NoError(t, os.Symlink(victim, filepath.Join(hostile, "private")))
	wantKind(t, HardenPrivate(hostile), secrets.Invalid, "symlink")
	info, err := os.Stat(victim)
	must.NoError(t, err)
	must.EqOp(t, 0o755, info.Mode().Perm())

	file := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(file, "private"), nil, 0o644))
	wantKind(t, HardenPrivate(file), secrets.Invalid)
}

func TestReadPrivate(t *testing.T) {
	dir := taskDir(t)
	put := func(name, content string, uid int) {
		t.Helper()
		path := filepath.Join(dir, name)
		must.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		must.NoError(t, os.Chown(path, uid, -1))
	}
	put("private/vault_token", "hvs.token\n", 0)
	put("private/vault.jwt", "a.b.c", taskUser)
	put("private/big", strings.Repeat("x", maxPrivate+1), 0)
	put("private/largest", strings.Repeat("x", maxPrivate), 0)
	put("private/empty", " \n", 0)
	put("secrets/deep/nomad_vault.jwt", "d.e.f", 0)
	put("private/linked", "hvs.linked", 0)
	must.NoError(t, os.Link(filepath.Join(dir, "private/linked"), filepath.Join(dir, "private/another")))
	must.NoError(t, os.Symlink("vault_token", filepath.Join(dir, "private/symlink")))
	must.NoError(t, os.Symlink("private", filepath.Join(dir, "dirlink")))
	must.NoError(t, unix.Mkfifo(filepath.Join(dir, "private/fifo"), 0o600))
	must.NoError(t, os.Mkdir(filepath.Join(dir, "private/dir"), 0o700))

	for _, test := range []struct {
		rel    string
		owners []int
		want   string
	}{
		{"private/vault_token", nil, "hvs.token"},
		{"private/vault_token", []int{taskUser}, "hvs.token"},
		{"./private/../private/vault_token", nil, "hvs.token"},
		{"private/vault.jwt", []int{taskUser}, "a.b.c"},
		{"private/largest", nil, strings.Repeat("x", maxPrivate)},
		{"secrets/deep/nomad_vault.jwt", nil, "d.e.f"},
	} {
		got, err := ReadPrivate(dir, test.rel, test.owners...)
		must.NoError(t, err)
		must.EqOp(t, test.want, got.Text())
	}

	for _, test := range []struct {
		rel  string
		kind secrets.ErrorKind
		says string
	}{
		{"private/vault.jwt", secrets.Invalid, "owned by user 12345"},
		{"private/symlink", secrets.Invalid, "symlink"},
		{"dirlink/vault_token", secrets.Invalid, "symlink"},
		{"private/linked", secrets.Invalid, "another name"},
		{"private/fifo", secrets.Invalid, "not a regular file"},
		{"private/dir", secrets.Invalid, "not a regular file"},
		{"private/big", secrets.Invalid, "64 KiB"},
		{"private/empty", secrets.NotFound, "empty"},
		{"private/none", secrets.NotFound, "no such file"},
		{"none/none", secrets.NotFound, "no such file"},
		{"private/vault_token/x", secrets.Invalid, "no directory"},
		{"../private/vault_token", secrets.Invalid, "not below"},
		{"/etc/hostname", secrets.Invalid, "not below"},
		{"", secrets.Invalid, "not below"},
		{".", secrets.Invalid, "not a regular file"},
	} {
		_, err := ReadPrivate(dir, test.rel)
		wantKind(t, err, test.kind, test.says)
		must.StrNotContains(t, err.Error(), "hvs.")
	}
}

// Nomad truncates the file and writes it anew: nobody reads half of it.
func TestReadPrivateWhileItIsWritten(t *testing.T) {
	const whole = "first half, second half"
	for name, test := range map[string]struct {
		found string
		age   time.Duration // of what is found, at the first read
		// written while the reader pauses, one each time
		writes []string
		want   string
	}{
		"old":              {whole, time.Hour, nil, whole},
		"just whole":       {whole, 0, nil, whole},
		"half":             {"first half, ", 0, []string{whole}, whole},
		"truncated":        {"", 0, []string{"", "first half, ", whole}, whole},
		"long truncated":   {"", time.Hour, []string{whole}, whole},
		"empty to the end": {"", time.Hour, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(taskDir(t), "private/vault.jwt")
			now := time.Now()
			write := func(content string, at time.Time) {
				must.NoError(t, os.WriteFile(path, []byte(content), 0o600))
				must.NoError(t, os.Chtimes(path, at, at))
			}
			write(test.found, now.Add(-test.age))
			f, err := os.Open(path)
			must.NoError(t, err)
			defer f.Close()
			got, err := readStable(f, nil, func() time.Time { return now }, func() {
				now = now.Add(stableFor)
				if len(test.writes) > 0 {
					write(test.writes[0], now)
					test.writes = test.writes[1:]
				}
			})
			if test.want == "" {
				wantKind(t, err, secrets.NotFound, "being written")
				return
			}
			must.NoError(t, err)
			must.EqOp(t, test.want, got.Text())
		})
	}
}

func wantKind(t *testing.T, err error, kind secrets.ErrorKind, parts ...string) {
	t.Helper()
	must.Error(t, err)
	must.EqOp(t, kind, secrets.KindOf(err), must.Sprint(err))
	for _, part := range parts {
		must.StrContains(t, err.Error(), part)
	}
}

// A device is not opened: that alone may do something. This one has no driver, so that to open it is an error of its own.
func TestReadPrivateOpensNoDevice(t *testing.T) {
	task := t.TempDir()
	must.NoError(t, unix.Mknod(filepath.Join(task, "jwt"), unix.S_IFCHR|0o600, int(unix.Mkdev(240, 240))))
	_, err := ReadPrivate(task, "jwt")
	must.ErrorContains(t, err, "not a regular file")
}
