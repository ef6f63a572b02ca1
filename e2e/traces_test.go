package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// What a task leaves, or must not leave, on the host and in the servers.

// revokedWithin is E1's bound.
const revokedWithin = 5 * time.Second

// processesOf are the processes of an allocation that run a program of this name: they have the
// allocation's id in their environment. Those in containers are seen, too.
func processesOf(alloc *harness.Alloc, program string) []string {
	mark := []byte("NOMAD_ALLOC_ID=" + alloc.ID + "\x00")
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != program {
			continue
		}
		env, err := os.ReadFile(filepath.Join(dir, "environ")) // empty of one that only waits to be collected
		if err != nil || !bytes.Contains(append([]byte{0}, env...), append([]byte{0}, mark...)) {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		found = append(found, filepath.Base(dir)+" "+string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
	}
	return found
}

// neverTwo fails the test if the allocation ever has two processes of the test program at once, until
// the test ends.
func neverTwo(t *testing.T, alloc *harness.Alloc) {
	t.Helper()
	done := make(chan struct{})
	var watch sync.WaitGroup
	var most []string
	watch.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if now := processesOf(alloc, "testapp"); len(now) > len(most) {
				most = now
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		watch.Wait()
		require.Len(t, most, 1, "processes of allocation %s at one moment", alloc.ID)
	})
}

// noProcess waits until the test program does not run in an allocation any more, and its container is
// gone.
func (l *lab) noProcess(alloc *harness.Alloc, task string) {
	l.t.Helper()
	l.until("the processes of "+alloc.ID+" to be gone", func() error {
		if left := processesOf(alloc, "testapp"); len(left) > 0 {
			return fmt.Errorf("there are:\n%s", strings.Join(left, "\n"))
		}
		if c, err := alloc.Container(l.ctx, task); err == nil {
			return fmt.Errorf("container %s is there, %s", c.Name, c.State.Status)
		}
		return nil
	})
}

// noJournal waits until the plugin has written down nothing of an allocation any more: its journal is
// gone, and nothing is owed.
func (l *lab) noJournal(alloc *harness.Alloc) {
	l.t.Helper()
	l.until("the journal of "+alloc.ID+" to be gone", func() error {
		return filepath.WalkDir(l.agent.StateDir, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) { // others come and go
				return nil
			}
			if err != nil {
				return err
			}
			if strings.Contains(path, alloc.ID) {
				return fmt.Errorf("there is %s", path)
			}
			if e.IsDir() {
				return nil
			}
			content, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if bytes.Contains(content, []byte(alloc.ID)) {
				return fmt.Errorf("%s names it", path)
			}
			return err
		})
	})
}

// leases waits until there are n leases below prefix, and returns them.
func (l *lab) leases(prefix string, n int) []string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, revokedWithin)
	defer cancel()
	var ids []string
	require.NoError(l.t, harness.Until(ctx, fmt.Sprintf("%d leases of %s", n, prefix), func() (err error) {
		if ids, err = l.Vault.Leases(ctx, prefix); err != nil {
			return err
		}
		if len(ids) != n {
			return fmt.Errorf("there are: %q", ids)
		}
		return nil
	}))
	return ids
}

// databaseUsers are the users that Vault made by a database role, whose name is of 10 letters at most.
func (l *lab) databaseUsers(role string) []string {
	l.t.Helper()
	all, err := l.MariaDB.Users(l.ctx)
	require.NoError(l.t, err)
	var users []string
	for _, user := range all {
		if strings.Contains(user, "-"+role+"-") {
			users = append(users, user)
		}
	}
	return users
}

// lockedRole makes a role of a database engine whose credentials take as long to make as somebody else
// has the lock of the role's name.
func (l *lab) lockedRole(mount, role string) {
	l.t.Helper()
	_, err := l.Vault.Client().Logical().WriteWithContext(l.ctx, mount+"/roles/"+role, map[string]any{
		"db_name": "mariadb",
		"creation_statements": []string{
			awaitLock(role),
			"DO RELEASE_LOCK('" + role + "')",
			"CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
		},
		"revocation_statements": []string{"DROP USER IF EXISTS '{{name}}'@'%'"},
		"default_ttl":           "1h",
		"max_ttl":               "2h",
	})
	require.NoError(l.t, err)
}

func awaitLock(role string) string { return "DO GET_LOCK('" + role + "', 300)" }

// minting waits until the server is making n credentials of a locked role.
func (l *lab) minting(role string, n int) {
	l.t.Helper()
	l.until(fmt.Sprintf("%d credentials in the making", n), func() error {
		running, err := l.MariaDB.Running(l.ctx, awaitLock(role))
		if err == nil && running != n {
			err = fmt.Errorf("there are %d", running)
		}
		return err
	})
}
