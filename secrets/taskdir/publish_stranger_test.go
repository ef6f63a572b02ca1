package taskdir

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

const strangersDir = "SECRETS_TEST_STRANGER"

// TestStrangersProcess is a hostile process of another user: it takes every name that a publication needs, over and
// over, as a directory that it fills, as a link, and tries to move and remove what is there. It runs in a copy of this
// test.
func TestStrangersProcess(t *testing.T) {
	dir := os.Getenv(strangersDir)
	if dir == "" {
		return
	}
	outside := filepath.Join(filepath.Dir(dir), "outside")
	for n := 0; ; n++ {
		if n%10 == 0 {
			fmt.Println(n)
		}
		names := []string{"f", "d", "..data", "..link", "..new-x", "..set-000000000500"}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), "-moved") {
				names = append(names, e.Name())
			}
		}
		if current, err := os.Readlink(filepath.Join(dir, "..data")); err == nil {
			if number, ok := setNumber(current); ok {
				for next := range uint64(20) {
					names = append(names, setName(number+next))
				}
			}
		}
		for i, name := range names {
			path := filepath.Join(dir, name)
			if os.Rename(path, path+"-moved") == nil {
				_ = os.RemoveAll(path + "-moved")
			} else {
				_ = os.Remove(path)
			}
			switch (n + i) % 3 {
			case 0:
				_ = os.Mkdir(path, 0o777)
				_ = os.WriteFile(filepath.Join(path, strconv.Itoa(n%5)), nil, 0o666)
			case 1:
				_ = os.Symlink(outside, path)
			default:
				_ = os.Symlink("..data/"+name, path)
			}
		}
	}
}

// In a secrets directory that is root's and sticky, another user's process can neither exchange nor remove what
// is published, nor keep anything from being published, whatever names it takes first.
func TestPublishDespiteAStranger(t *testing.T) {
	base, err := os.MkdirTemp("", "")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(base)) })
	must.NoError(t, os.Chmod(base, 0o755))
	dir, outside := filepath.Join(base, "secrets"), filepath.Join(base, "outside")
	must.NoError(t, os.Mkdir(dir, 0o755))
	must.NoError(t, os.Mkdir(outside, 0o777))
	must.NoError(t, os.Chmod(outside, 0o777))
	must.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, "size=8m,mode=0777")) // as Nomad does
	t.Cleanup(func() { must.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	tries := stranger(t, base, dir)

	p := publisher(t, dir)
	before := tries.Load()
	const publications = 300
	for i := range publications {
		text := strconv.Itoa(i)
		must.NoError(t, p.Publish(setOf(map[string]string{"f": text, "d/x": text, "late" + text: text}), 1234, 1234))
		must.Eq(t, text, read(t, dir, "f"))
		must.Eq(t, text, read(t, dir, "d/x"))
		must.Eq(t, text, read(t, dir, "late"+text))
		if i%50 == 0 { // as at a new start
			must.NoError(t, p.Remove())
			must.NoError(t, p.Close())
			p = publisher(t, dir)
		}
	}
	must.Eq(t, strconv.Itoa(publications-1), read(t, dir, "f"))
	for deadline := time.Now().Add(time.Minute); tries.Load()-before < 1000; { // the last one stays, too
		must.Eq(t, strconv.Itoa(publications-1), read(t, dir, "f"))
		must.True(t, time.Now().Before(deadline))
	}
	t.Logf("%d rounds of the stranger's in %d publications", tries.Load()-before, publications)
	must.SliceEmpty(t, listing(t, outside))
}

func stranger(t *testing.T, base, dir string) *atomic.Int64 {
	self, err := os.ReadFile(os.Args[0])
	must.NoError(t, err)
	copied := filepath.Join(base, "stranger")
	must.NoError(t, os.WriteFile(copied, self, 0o755))
	cmd := exec.Command(copied, "-test.run=^TestStrangersProcess$")
	cmd.Env, cmd.Dir = []string{strangersDir + "=" + dir}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}
	out, err := cmd.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	tries := &atomic.Int64{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.ParseInt(strings.TrimSpace(lines.Text()), 10, 64); err == nil {
				tries.Store(n)
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	for tries.Load() == 0 {
		select {
		case <-read:
			t.Fatal("the stranger has ended")
		default:
		}
	}
	return tries
}

// What nobody but root can have made is believed; what somebody else made to look like it is not.
func TestAStrangersSetIsNone(t *testing.T) {
	dir := secretsDir(t)
	p := publisher(t, dir)
	must.NoError(t, os.WriteFile(filepath.Join(dir, "own"), nil, 0o600))
	must.NoError(t, os.Mkdir(filepath.Join(dir, setName(7)), 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(dir, setName(7), "own"), nil, 0o600))
	must.NoError(t, os.Symlink(setName(7), filepath.Join(dir, dataLink)))
	st, err := p.state()
	must.NoError(t, err)
	must.Eq(t, []string{"own"}, st.tops)
	for name, path := range map[string]string{"the link": dataLink, "the directory": setName(7)} {
		must.NoError(t, os.Lchown(filepath.Join(dir, path), 4242, -1))
		st, err := p.state()
		must.NoError(t, err)
		must.Eq(t, &published{}, st, must.Sprint(name))
		must.NoError(t, os.Lchown(filepath.Join(dir, path), 0, -1))
	}
	// A link to the set that is another user's could be moved by them.
	must.NoError(t, os.Symlink("..data/f", filepath.Join(dir, "f")))
	must.NoError(t, os.Lchown(filepath.Join(dir, "f"), 4242, -1))
	must.NoError(t, p.Publish(setOf(map[string]string{"f": "1"}), 1234, 1234))
	must.True(t, p.isRoots("f"))
	must.Eq(t, "1", read(t, dir, "f"))
}

// Only what is the task's, or Nomad's, keeps its name.
func TestNamesThatAreTaken(t *testing.T) {
	for owner, refused := range map[int]bool{0: true, 1234: true, 4242: false} {
		dir := secretsDir(t)
		p := publisher(t, dir)
		must.NoError(t, os.Mkdir(filepath.Join(dir, "f"), 0o777))
		must.NoError(t, os.Chown(filepath.Join(dir, "f"), owner, -1))
		err := p.Publish(setOf(map[string]string{"f": "1"}), 1234, 1234)
		if refused {
			must.ErrorContains(t, err, "something else has that name")
			continue
		}
		must.NoError(t, err)
		must.Eq(t, "1", read(t, dir, "f"))
	}
}

// The token's cover goes over Nomad's file alone.
func TestOnlyNomads(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	must.NoError(t, os.WriteFile(victim, []byte("victim"), 0o600))
	for name, c := range map[string]struct {
		make func(path string) error
		want bool
	}{
		"none":            {func(string) error { return nil }, false},
		"Nomad's":         {func(path string) error { return os.WriteFile(path, []byte("t"), 0o666) }, true},
		"a link":          {func(path string) error { return os.Symlink(victim, path) }, false},
		"a directory":     {func(path string) error { return os.MkdirAll(path+"/x", 0o777) }, false},
		"another user's":  {func(path string) error { _ = os.WriteFile(path, nil, 0o666); return os.Chown(path, 4242, -1) }, false},
		"with a 2nd name": {func(path string) error { _ = os.WriteFile(path, nil, 0o666); return os.Link(path, path+"-2") }, false},
	} {
		dir := secretsDir(t)
		path := filepath.Join(dir, "vault_token")
		must.NoError(t, c.make(path))
		got, err := publisher(t, dir).OnlyNomads("vault_token")
		must.NoError(t, err, must.Sprint(name))
		must.Eq(t, c.want, got, must.Sprint(name))
		_, err = os.Lstat(path)
		must.Eq(t, c.want, err == nil, must.Sprint(name))
	}
	must.Eq(t, "victim", read(t, outside, "victim"))
}
