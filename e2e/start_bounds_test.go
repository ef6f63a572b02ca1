package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A start costs one login and one request a secret, and one look-up a mount the first time that the
// process meets it; all secrets are fetched at once (S3).
func TestRequestsOfAStart(t *testing.T) {
	t.Parallel()
	const slow = 3 * time.Second // what the server takes to make one credential
	l := newLab(t)
	kv := l.NewKV(2, "start-kv")
	kv.PutColour("green")

	// Pinned secrets, for they are not polled: what is counted is the start alone.
	var blocks strings.Builder
	paths := []string{kv.APIPath()}
	for i := range 4 {
		name := fmt.Sprintf("pinned%d", i)
		require.NoError(t, l.Vault.PutKV2(l.Ctx, kv.Name, name, map[string]any{"colour": name}))
		fmt.Fprintf(&blocks, "secret %q {\n path = \"%s/%s\"\n version = 1\n files = true\n}\n", name, kv.Name, name)
		paths = append(paths, kv.Name+"/data/"+name)
	}
	// A connection makes one user at a time, so each slow secret has an engine of its own.
	var creds []string
	for i := range 3 {
		mount := fmt.Sprintf("start-db%d", i)
		require.NoError(t, l.Vault.EnableDatabase(l.Ctx, mount, l.MariaDB))
		_, err := l.Vault.Client().Logical().WriteWithContext(l.Ctx, mount+"/roles/slow", map[string]any{
			"db_name": "mariadb", "default_ttl": "1h", "max_ttl": "1h",
			"creation_statements": []string{
				fmt.Sprintf("DO SLEEP(%d)", int(slow.Seconds())),
				"CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
			},
			"revocation_statements": []string{"DROP USER IF EXISTS '{{name}}'@'%'"},
		})
		require.NoError(t, err)
		fmt.Fprintf(&blocks, "secret \"db%d\" {\n path = \"%s/creds/slow\"\n files = true\n}\n", i, mount)
		creds = append(creds, mount+"/creds/slow")
	}
	l.Allow("start", append(paths, creds...)...)

	start := func(id string) (logins, lookUps int, reads map[string]time.Time) {
		t.Helper()
		mark, _ := l.Now()
		alloc := l.RunAll(lab.Job{ID: id, Driver: "raw_exec", Role: "start", Config: blocks.String(),
			Run: []string{"/bin/sh", "-c", `echo "start $(date +%s%N)"; exec sleep 1000`}})[0]
		began := lab.Nanoseconds(t, l.Lines(alloc, "app", "start ", 1)[0])
		all, err := l.Vault.Requests(mark)
		require.NoError(t, err)
		reads = map[string]time.Time{}
		for _, r := range all {
			switch {
			case r.Job != id || r.Time.After(began):
			case r.Path == "auth/jwt-nomad/login":
				logins++
			case strings.HasPrefix(r.Path, "sys/internal/ui/mounts/"):
				lookUps++
			default:
				require.NotContains(t, reads, r.Path, "read twice")
				reads[r.Path] = r.Time
			}
		}
		return logins, lookUps, reads
	}

	logins, lookUps, reads := start("start-first")
	require.Equal(t, 1, logins)
	require.Equal(t, 1+len(creds), lookUps, "one a mount")
	require.Len(t, reads, 4+len(creds), "%v", reads)
	var done []time.Time
	for _, path := range creds {
		require.Contains(t, reads, path)
		done = append(done, reads[path])
	}
	spread := slices.MaxFunc(done, time.Time.Compare).Sub(slices.MinFunc(done, time.Time.Compare))
	require.Less(t, spread, slow, "the slow credentials were made one after another")

	logins, lookUps, reads = start("start-second")
	require.Equal(t, 1, logins)
	require.Zero(t, lookUps, "the mounts are known")
	require.Len(t, reads, 4+len(creds), "%v", reads)
}

// A set of files above 45% of the secrets directory is an error that says what would do, before
// anything is written and before the program runs (S5).
func TestSetIsTooLarge(t *testing.T) {
	t.Parallel()
	const fits = 200 << 10
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := l.NewKV(2, "large-"+driver)
			fill := func(size int) { // two files
				text := strings.Repeat("x", size/2)
				s.Put(map[string]any{"one": text, "two": text})
			}
			job := lab.Job{ID: s.Name, Driver: driver, Role: s.Name, Run: []string{"testapp", "sleep"},
				Config: fmt.Sprintf("secret \"app\" {\n path = %q\n files = true\n splay = \"0s\"\n}", s.Path())}

			fill(600 << 10)
			mark, _ := l.Now()
			failed, err := l.Submit(job.HCL()).Failed(l.Ctx)
			require.NoError(t, err)
			require.Contains(t, l.Event(failed, "of which one set may take 45%"), "set secrets = 2 or more in the task's resources block")
			require.NoError(t, nothingPublished(failed))
			starts, err := failed.Lines("app", "start ")
			require.NoError(t, err)
			require.Empty(t, starts, "the program ran")
			if driver == "docker" {
				_, err := failed.Container(l.Ctx, "app")
				require.ErrorContains(t, err, "No such container")
			}
			l.Until("the task's token to be revoked", func() error {
				revoked, err := l.Vault.Requests(mark, "auth/token/revoke-self")
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(revoked, func(r harness.Request) bool { return r.Job == job.ID }) {
					return fmt.Errorf("%d others", len(revoked))
				}
				return nil
			})

			roomy := job
			roomy.ID, roomy.Task = job.ID+"-roomy", "resources {\n secrets = 2\n}"
			l.RunAll(roomy)

			// A change is held to it, too, and the task keeps what it has.
			fill(fits)
			small := job
			small.ID += "-small"
			alloc := l.RunAll(small)[0]
			l.Lines(alloc, "app", "start ", 1)
			fill(600 << 10)
			l.Event(alloc, "of which one set may take 45%")
			require.NoError(t, lab.FileIs(alloc, "app/one", strings.Repeat("x", fits/2)))
			l.StartedTimes(alloc, 1)
			fill(fits / 2)
			l.Lines(alloc, "app", "start ", 2)
			require.NoError(t, lab.FileIs(alloc, "app/one", strings.Repeat("x", fits/4)))
		})
	}
}

// nothingPublished says whether anything of ours is in a task's secrets directory.
func nothingPublished(alloc *harness.Alloc) error {
	entries, err := os.ReadDir(alloc.SecretsDir("app"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") || e.Name() == "app" {
			return fmt.Errorf("%s is in the secrets directory", e.Name())
		}
	}
	return nil
}
