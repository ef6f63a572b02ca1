package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A state_dir on a disk has no credential on it: the plugin mounts memory there, once, and finds it again after
// any restart.
func TestStateDirOnADisk(t *testing.T) {
	t.Parallel()
	l := newOwnLab(t, harness.AgentOptions{Name: "state-disk", Placement: harness.InPlace}, 5*time.Minute)
	tasks := []*lab.Survivor{
		lab.RecoveryTask{Driver: "docker", Token: "identity"}.Start(l, "state-disk"),
		lab.RecoveryTask{Driver: "raw_exec", Token: "vault"}.Start(l, "state-disk"),
	}
	var on unix.Statfs_t
	require.NoError(t, unix.Statfs(l.Agent.StateDir, &on))
	t.Logf("state_dir is on a file system of type %#x", on.Type)

	h := lab.NewLeakSearch(l)
	clean := func() {
		t.Helper()
		h.LearnJournal()
		h.Canaries = slices.DeleteFunc(h.Canaries, func(c leakscan.Canary) bool { return strings.HasSuffix(c.Name, " colour") }) // too short
		resting := h.Scan(leakscan.Tree("journal", l.Agent.JournalDir(), leakscan.TreeOptions{}))
		require.NotEmpty(t, resting.Hits, "the scan sees nothing")
		report := h.Scan(leakscan.Tree("state_dir", l.Agent.StateDir, leakscan.TreeOptions{Mounts: leakscan.NoTmpfs}))
		require.NoError(t, lab.NoHits(report))
	}
	clean()
	mounts := stateMounts(l)
	require.Len(t, mounts, 2)
	for _, mount := range mounts {
		require.Contains(t, mount, " - tmpfs nomad-driver-secrets ")
		for _, option := range []string{"nosuid", "nodev", "noexec"} {
			require.Contains(t, mount, option)
		}
	}
	l.KillPlugins()
	require.NoError(t, l.Agent.Restart(l.Ctx))
	for _, s := range tasks {
		s.Untouched(l)
		s.Rotate(l, "blue")
	}
	require.Equal(t, mounts, stateMounts(l), "the mounts outlive the plugin, and nothing is mounted over them")
	clean()
	for _, s := range tasks {
		s.Stop(l)
	}
	l.JournalEmpty()
}

// stateMounts are the kernel's lines about what is mounted below state_dir.
func stateMounts(l *lab.Lab) (mounts []string) {
	l.T.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(l.T, err)
	for line := range strings.Lines(string(info)) {
		if strings.HasPrefix(strings.Fields(line)[4], l.Agent.StateDir+"/") {
			mounts = append(mounts, line)
		}
	}
	return mounts
}

// A state_dir that cannot be made memory keeps tasks with secrets from starting, recoverably: the error names
// it, and the remedy lets them start. The agent and its other tasks go on.
func TestStateDirThatIsNoMemory(t *testing.T) {
	t.Parallel()
	l := newOwnLab(t, harness.AgentOptions{Name: "state-refused", Placement: harness.InPlace}, 5*time.Minute)
	require.NoError(t, l.Vault.EnableKV2(l.Ctx, "secret"))
	l.PutColour("state-refused", "green")
	journal := l.Agent.JournalDir()
	require.NoError(t, unix.Mount("operators", journal, "proc", 0, ""))

	plain := l.RunPlain("state-refused-plain")
	l.KillPlugins() // the next ones recover them
	l.AllKept(plain)
	for _, s := range plain {
		l.NoPluginEvents(s)
	}

	jobs := map[string]*harness.Job{}
	for _, driver := range []string{"docker", "raw_exec"} {
		name, image := "state-refused-"+driver, ""
		if driver == "docker" {
			image = `image = "${meta.image}"`
		}
		l.AllowLeased(name, "secret/data/state-refused")
		jobs[driver] = l.Submit(fmt.Sprintf(fixJob, name, driver, image+"\nsecret \"app\" {\n path = \"secret/state-refused\"\n}"))
	}
	for driver, job := range jobs {
		alloc := l.FirstAlloc(job)
		event, err := alloc.WaitEvent(l.Ctx, "web", "state_dir cannot be used")
		require.NoError(t, err, driver)
		require.Contains(t, event, l.Agent.StateDir)
		require.Contains(t, event, "what is mounted at journal is not in memory")
		require.Contains(t, event, "unmount it")
		require.NotContains(t, event, "unrecoverable")
	}

	require.NoError(t, unix.Unmount(journal, 0))
	for driver, job := range jobs {
		alloc, err := job.Running(l.Ctx)
		require.NoError(t, err, driver)
		l.Lines(alloc, "web", "start ", 1)
	}
}

// onlyTheNewPlace: nothing of an older version's is left in state_dir.
func onlyTheNewPlace(l *lab.Lab) {
	l.T.Helper()
	l.Until("the old place to be gone", func() error {
		entries, err := os.ReadDir(l.Agent.StateDir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch e.Name() {
			case ".lock", "journal", "shared", "status":
			default:
				return fmt.Errorf("there is %s", filepath.Join(l.Agent.StateDir, e.Name()))
			}
		}
		return nil
	})
}
