package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// awkward are values that something on the way might take for syntax, or cut.
var awkward = map[string]string{
	"lines":   "\nfirst\nsecond\r\n\n\tthird \n\n",
	"quotes":  `"double" 'single' back\slash $HOME ${NOMAD_TASK_NAME} ${missing} $(id) {{ .x }} %s &<> #`,
	"unicode": "Grüße, 世界 \U0001f511 e\u0301 \u2028 \ufeff",
	"json":    `{"a": [1, "two"]}`,
	"big":     strings.Repeat("0123456789abcde\n", 4096), // 64 KiB
}

// binary is every byte, and so NUL and what is no UTF-8.
var binary = func() []byte {
	var all []byte
	for i := range 1024 {
		all = append(all, byte(i))
	}
	return all
}()

// Values reach files and the environment byte for byte (S7), on both drivers.
func TestValuesAreExact(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := l.NewKV(2, "values-"+driver)
			fields := map[string]any{"nul": "a\x00b", "binary": base64.StdEncoding.EncodeToString(binary)}
			var env strings.Builder
			for name, value := range awkward {
				fields[name] = value
				fmt.Fprintf(&env, "V_%s = %q\n", strings.ToUpper(name), name)
			}
			s.Put(fields)
			alloc := l.RunAll(lab.Job{ID: s.Name, Driver: driver, Role: s.Name, Run: []string{"testapp", "sleep"},
				Config: fmt.Sprintf(`secret "app" {
					path  = %q
					files = true
					env {
						%s
					}
					file "binary" {
						field  = "binary"
						decode = "base64"
					}
					file "template" {
						template = "<{{ .lines }}|{{ .quotes }}|{{ .unicode }}>"
					}
				}`, s.Path(), env.String())})[0]
			l.Lines(alloc, "app", "start ", 1)

			set := environOf(t, l.PIDOf(alloc, driver))
			for name, want := range awkward {
				require.NoError(t, lab.FileIs(alloc, "app/"+name, want))
				require.Equal(t, want, set["V_"+strings.ToUpper(name)], "env of the field %s", name)
			}
			require.NoError(t, lab.FileIs(alloc, "app/nul", "a\x00b"))
			require.NoError(t, lab.FileIs(alloc, "binary", string(binary)))
			require.NoError(t, lab.FileIs(alloc, "template", "<"+awkward["lines"]+"|"+awkward["quotes"]+"|"+awkward["unicode"]+">"))

			// A variable ends at a NUL, so this one is an error, before the program runs.
			refused := lab.Job{ID: s.Name + "-nul", Driver: driver, Role: s.Name, Run: []string{"testapp", "sleep"},
				Config: fmt.Sprintf("secret \"app\" {\n path = %q\n env = { NUL = \"nul\" }\n}", s.Path())}
			failed, err := l.Submit(refused.HCL()).Failed(l.Ctx)
			require.NoError(t, err)
			require.Contains(t, l.Event(failed, "contains a NUL"), `secret "app": env NUL: the field "nul"`)
			starts, err := failed.Lines("app", "start ")
			require.NoError(t, err)
			require.Empty(t, starts)
		})
	}
}

// Files belong to the user that the process runs as, and only it may read them, unless the job says
// otherwise; a change does not lose that.
func TestOwnersOfFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, driver string
		id           uint32 // of the user and its group
		task         string
		user         string // of the image
	}{
		{name: "image-user", driver: "docker", id: 1000, user: "USER app:app"},
		{name: "task-user", driver: "docker", id: 65534, task: `user = "nobody"`},
		{name: "raw-exec-user", driver: "raw_exec", id: 65534, task: `user = "nobody"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := l.NewKV(2, "owners-"+c.name)
			s.PutColour("green")
			job := lab.Job{ID: s.Name, Driver: c.driver, Role: s.Name, Task: c.task,
				Run: []string{"/bin/sh", "-c", "cd $NOMAD_SECRETS_DIR && exec testapp sighup app/colour everyone group root"},
				Config: fmt.Sprintf(`secret "app" {
					path        = %q
					files       = true
					change_mode = "noop"
					file "everyone" {
						field = "colour"
						perms = "0444"
						uid   = 0
						gid   = 0
					}
					file "group" {
						field = "colour"
						perms = "0640"
						uid   = 0
					}
					file "root" {
						field = "colour"
						uid   = 0
					}
				}`, s.Path())}
			if c.user != "" {
				var err error
				job.Image, err = l.Images.Variant(l.Ctx, "user", c.user)
				require.NoError(t, err)
			}
			alloc := l.RunAll(job)[0]
			require.Contains(t, l.Lines(alloc, "app", "start ", 1)[0], fmt.Sprintf(" uid=%d ", c.id))

			owned := func() {
				t.Helper()
				require.NoError(t, ownerIs(alloc, "app/colour", 0o400, c.id, c.id))
				require.NoError(t, ownerIs(alloc, "everyone", 0o444, 0, 0))
				require.NoError(t, ownerIs(alloc, "group", 0o640, 0, c.id))
				require.NoError(t, ownerIs(alloc, "root", 0o400, 0, c.id))
			}
			owned()
			require.Equal(t, []string{
				`app/colour "green"`, `everyone "green"`, `group "green"`,
				`root error="open root: permission denied"`,
			}, l.Lines(alloc, "app", "file ", 4))

			s.PutColour("blue")
			l.Until("the files to change", func() error { return lab.FileIs(alloc, "app/colour", "blue") })
			owned()
		})
	}
}

// What a job can say about delivery, in one job: every field as env, fields in nested JSON, a pinned
// version, a secret that need not be there, and a file made of several secrets.
func TestDelivery(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.NewKV(2, "delivery")
	put := func(name string, fields map[string]any) {
		t.Helper()
		require.NoError(t, l.Vault.PutKV2(l.Ctx, s.Name, name, fields))
	}
	l.SetPolicy(s.Name, s.Name+"/data/*")
	put("every", map[string]any{"db-password": "p1", "db.user": "u1", "Count": 3, "on": true})
	put("nested", map[string]any{
		"db":       map[string]any{"primary": map[string]any{"host": "h1", "port": 3306}},
		"with.dot": "whole",
	})
	put("pinned", map[string]any{"colour": "old"})
	put("pinned", map[string]any{"colour": "new"})
	alloc := l.RunAll(lab.Job{ID: s.Name, Driver: "raw_exec", Role: s.Name, Run: []string{"testapp", "sleep"},
		Config: `
			splay = "0s"
			secret "every" {
				path       = "delivery/every"
				env_prefix = "APP_"
			}
			secret "nested" {
				path = "delivery/nested"
				env  = { HOST = "db.primary.host", PORT = "db.primary.port", DB = "db", DOT = "with.dot" }
				file "host" {
					field = "db.primary.host"
				}
			}
			secret "pinned" {
				path    = "delivery/data/pinned"
				version = 1
				env     = { COLOUR = "colour" }
			}
			secret "absent" {
				path       = "delivery/absent"
				required   = false
				env        = { ABSENT = "field" }
				env_prefix = "ABSENT_"
				files      = true
			}
			file "conf/my.cnf" {
				template = "user={{ index .every \"db.user\" }} host={{ .nested.db.primary.host }} colour={{ .pinned.colour }}{{ if .absent }} absent{{ end }}\n"
				perms    = "0440"
			}`})[0]
	l.Lines(alloc, "app", "start ", 1)

	given := func() map[string]string {
		t.Helper()
		found := map[string]string{}
		for name, value := range environOf(t, l.PIDOf(alloc, "raw_exec")) {
			for _, prefix := range []string{"APP_", "HOST", "PORT", "DB", "DOT", "COLOUR", "ABSENT"} {
				if name == prefix || strings.HasSuffix(prefix, "_") && strings.HasPrefix(name, prefix) {
					found[name] = value
				}
			}
		}
		return found
	}
	want := map[string]string{
		"APP_DB_PASSWORD": "p1", "APP_DB_USER": "u1", "APP_COUNT": "3", "APP_ON": "true",
		"HOST": "h1", "PORT": "3306", "DB": `{"primary":{"host":"h1","port":3306}}`, "DOT": "whole",
		"COLOUR": "old",
	}
	require.Equal(t, want, given())
	require.NoError(t, lab.FileIs(alloc, "host", "h1"))
	require.NoError(t, lab.FileIs(alloc, "conf/my.cnf", "user=u1 host=h1 colour=old\n"))
	require.NoError(t, ownerIs(alloc, "conf/my.cnf", 0o440, 0, 0))
	_, err := os.Stat(filepath.Join(alloc.SecretsDir("app"), "absent"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	l.Event(alloc, `secret "absent" not found at delivery/absent; skipped (required = false)`)

	// A pinned secret's new version is none of the task's business; another secret's is, and the file
	// made of all of them is made anew.
	put("pinned", map[string]any{"colour": "newest"})
	put("every", map[string]any{"db-password": "p2", "db.user": "u2"})
	l.Lines(alloc, "app", "start ", 2)
	want["APP_DB_PASSWORD"], want["APP_DB_USER"] = "p2", "u2"
	delete(want, "APP_COUNT")
	delete(want, "APP_ON")
	require.Equal(t, want, given())
	require.NoError(t, lab.FileIs(alloc, "conf/my.cnf", "user=u2 host=h1 colour=old\n"))
	require.Contains(t, l.Event(alloc, "task restarted in place"), `secret "every" changed; task restarted in place`)
	l.StartedTimes(alloc, 2)
}

// environOf is the environment that a process was started with.
func environOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	require.NoError(t, err)
	env := map[string]string{}
	for entry := range bytes.SplitSeq(bytes.TrimSuffix(content, []byte{0}), []byte{0}) {
		name, value, _ := strings.Cut(string(entry), "=")
		env[name] = value
	}
	return env
}

// ownerIs says whether a file in the task "app"'s secrets directory has this mode and owner.
func ownerIs(alloc *harness.Alloc, path string, perms fs.FileMode, uid, gid uint32) error {
	fi, err := os.Stat(filepath.Join(alloc.SecretsDir("app"), path))
	if err != nil {
		return err
	}
	st := fi.Sys().(*syscall.Stat_t)
	if fi.Mode() != perms || st.Uid != uid || st.Gid != gid {
		return fmt.Errorf("file %s is %v of %d:%d, not %v of %d:%d", path, fi.Mode(), st.Uid, st.Gid, perms, uid, gid)
	}
	return nil
}
