package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A container that ends while it waits for its command has ended like any other: the restart block says what
// is next. With this stack no program lives to its first line.
func TestContainerEndsAtTheLauncher(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.PutColour("stackless", "green")
	l.AllowLeased("stackless", "secret/data/stackless")
	job := l.SubmitFile("stackless", nil)
	alloc := l.GroupAlloc(job, "g")
	l.Event(alloc, "the process ended while it waited at the launcher")
	state, err := alloc.Ended(l.Ctx, "app")
	require.NoError(t, err)
	require.True(t, state.Failed)
	require.EqualValues(t, 1, state.Restarts)
	l.NoProcess(alloc, "app")
	l.NoJournal(alloc)
}

// A container that allows its program one process starts as it does without secrets, and its program is told no
// other limit (L1): the launcher needs more, and has them before.
func TestFewProcesses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.PutColour("few-processes", "green")
	l.AllowLeased("few-processes", "secret/data/few-processes")
	const secret = `
        role = "few-processes"
        secret "app" {
          path    = "secret/few-processes"
          env     = { COLOUR = "colour" }
          splay   = "0s"
          stagger = "0s"
        }`
	tasks, user := "", 4301
	for name, limits := range map[string]string{
		"pids": "pids_limit = 1", "nproc": "ulimit {\n nproc = \"1:2\"\n nofile = \"100\"\n}",
	} {
		for suffix, block := range map[string]string{"plain": "", "secret": secret} {
			tasks += fmt.Sprintf(`
    task "%[1]s-%[2]s" {
      driver = "docker"
      user   = "%[6]d"
      %[3]s
      config {
        image   = "${meta.image}"
        command = "/bin/sh"
        args    = ["-c", "echo start $COLOUR; ulimit -Su; ulimit -Hu; ulimit -n; echo done; exec sleep 1000"]
        %[4]s
        %[5]s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`, name, suffix, lab.IdentityBlock, limits, block, user)
			user++ // the kernel counts a user's processes over all containers
		}
	}
	alloc := l.Run("job \"few-processes\" {\n group \"g\" {" + tasks + "\n }\n}")
	said := func(task string) string {
		out, err := alloc.Logs(task, "stdout")
		require.NoError(t, err)
		_, last, _ := strings.Cut(out[strings.LastIndex(out, "start"):], "\n")
		return last
	}
	for round := 1; round <= 2; round++ {
		for _, limit := range []string{"pids", "nproc"} {
			with, without := limit+"-secret", limit+"-plain"
			l.Lines(alloc, with, "done", round)
			l.Lines(alloc, without, "done", 1)
			require.Equal(t, said(without), said(with), limit)
			l.Until("the container's limit", func() error {
				a, err := alloc.Container(l.Ctx, with)
				if err != nil {
					return err
				}
				b, err := alloc.Container(l.Ctx, without)
				if err != nil {
					return err
				}
				if limit, plain := pidsLimit(a), pidsLimit(b); limit != plain {
					return fmt.Errorf("it is %d, and %d without secrets", limit, plain)
				}
				return nil
			})
		}
		// A command in a container of so few processes may fail, for its launcher needs some threads (docs/differences.md): not always.
		out, code, err := alloc.Exec(l.Ctx, "nproc-secret", "/bin/sh", "-c", "ulimit -Su; ulimit -Hu; echo $COLOUR")
		require.NoError(t, err)
		require.Zero(t, code, out)
		require.Equal(t, "1\n2\n"+[]string{"", "green", "blue"}[round]+"\n", out)
		l.PutColour("few-processes", "blue")
	}
}

// pidsLimit is a container's; 0: none.
func pidsLimit(inspected container.InspectResponse) int64 {
	if limit := inspected.HostConfig.PidsLimit; limit != nil {
		return *limit
	}
	return 0
}
