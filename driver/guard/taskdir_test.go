package guard

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func asUser(t *testing.T, uid uint32, script string, args ...string) error {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Dir = "/"
	return cmd.Run()
}

// In a hardened directory a user of the host still writes, but cannot replace what root opens there by name.
func TestHardenTaskDir(t *testing.T) {
	allocDir, taskDir, host := tree(t)
	for dir := taskDir; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		must.NoError(t, os.Chmod(dir, 0o755)) // let other users pass
	}
	const nobody = 65534
	local, log, dns := filepath.Join(taskDir, "local"), filepath.Join(taskDir, "executor.out"), filepath.Join(taskDir, "resolv.conf")
	for _, dir := range []string{taskDir, local} { // as Nomad makes them
		must.NoError(t, os.Chown(dir, nobody, nobody))
		must.NoError(t, os.Chmod(dir, 0o777))
	}
	must.NoError(t, asUser(t, nobody, `ln -s "$1" "$2" && mv "$3" "$3.x" && mv "$3.x" "$3"`, filepath.Join(host, "secret"), log, local))
	must.NoError(t, os.WriteFile(dns, []byte("root's"), 0o644))

	for range 2 {
		must.NoError(t, HardenTaskDir(allocDir, "web", "executor.out", "resolv.conf"))
	}
	info, err := os.Lstat(log)
	must.NoError(t, err)
	must.True(t, info.Mode().IsRegular())
	content, err := os.ReadFile(dns)
	must.NoError(t, err)
	must.EqOp(t, "root's", string(content))
	for _, attack := range []string{`rm -f "$1" && ln -s /x "$1"`, `mv "$1" "$1.x"`, `mv "$2" "$2.x"`, `chmod 0777 "$3"`, `rmdir "$2/data"; mv "$2" x`} {
		must.Error(t, asUser(t, nobody, attack, log, local, taskDir), must.Sprint(attack))
	}
	must.NoError(t, asUser(t, nobody, `echo x > "$1/x" && rm "$1/x" && echo x > "$2/x" && mv "$2/x" "$2/y"`, taskDir, local))

	must.NoError(t, os.Rename(local, local+"2"))
	must.NoError(t, os.Symlink(host, local))
	must.ErrorContains(t, HardenTaskDir(allocDir, "web"), "something else than Nomad")
	var st unix.Stat_t
	must.NoError(t, unix.Stat(host, &st))
	must.EqOp(t, 0, st.Mode&unix.S_ISVTX, must.Sprint("what a symlink leads to was changed"))
}

func TestRemoveForeign(t *testing.T) {
	allocDir, _, host := tree(t)
	hosts := filepath.Join(allocDir, "hosts")
	must.NoError(t, RemoveForeign(allocDir, "hosts"))
	must.NoError(t, os.WriteFile(hosts, []byte("x"), 0o644))
	must.NoError(t, RemoveForeign(allocDir, "hosts"))
	_, err := os.Stat(hosts)
	must.NoError(t, err, must.Sprint("root's own is kept"))
	must.NoError(t, os.Remove(hosts))
	must.NoError(t, os.Symlink(filepath.Join(host, "secret"), hosts))
	must.NoError(t, RemoveForeign(allocDir, "hosts"))
	_, err = os.Lstat(hosts)
	must.ErrorIs(t, err, os.ErrNotExist)
}
