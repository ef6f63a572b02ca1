package live

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// TestUserNamespaces is about an engine that maps containers' users to others on the host (userns-remap): a task's user reads
// its live directory there as well, whichever user it is, also after the file server has died. So do containers with volumes.
func TestUserNamespaces(t *testing.T) {
	t.Parallel()
	engine, err := lab.NewRemappedEngine(t.Context(), "remapped")
	if engine != nil {
		t.Cleanup(func() { must.NoError(t, engine.Close()) })
	}
	must.NoError(t, err)
	must.NoError(t, makeBusybox(t.Context(), engine.Host))
	first := firstID(t, "dockremap")

	t.Run("tasks", func(t *testing.T) {
		put(t, "userns", "user", "zero")
		agent, err := newAgent(t.Context(), engine, harness.AgentOptions{Name: "userns"})
		if agent != nil {
			t.Cleanup(func() { must.NoError(t, agent.Close()) })
		}
		must.NoError(t, err)
		n := nodeOf(t, agent)
		for name, uid := range map[string]uint32{"root": 0, "app": 1000} {
			value := "of " + name
			n.run("userns-"+name, func(driver string) liveTask {
				task := liveOnly("userns", "50")(driver)
				if driver == "docker" {
					task.user = name
				}
				return task
			})
			var of syscall.Stat_t
			must.NoError(t, syscall.Stat("/proc/"+strconv.Itoa(n.pid("docker")), &of))
			must.Eq(t, first+uid, of.Uid)
			sendTo(t, n.servers(), syscall.SIGKILL)
			at := time.Now()
			put(t, "userns", "user", value)
			n.seen(value, 10*time.Second)
			for _, r := range n.readers() {
				s, err := r.stats()
				must.NoError(t, err)
				must.Less(t, 2*time.Second, time.UnixMilli(s.LastFailed).Sub(at))
			}
			in := func(uid, script string) string {
				out, _ := dockerAt(t, engine, "exec", "-u", uid, "docker-"+n.alloc.ID, "sh", "-c", script)
				return out
			}
			own := strconv.Itoa(int(uid))
			must.Eq(t, value+" "+own+"\n", in(own, "cat /run/app/user; echo \" $(stat -c %u /run/app/user)\""))
			must.Eq(t, "", in("1234", "cat /run/app/user; ls -A /run/app"))
			must.StrContains(t, in(own, "(echo x > /run/app/user) 2>&1"), "Read-only file system")
			must.NoError(t, n.job.Stop(t.Context()))
			n.nothingLeft(15 * time.Second)
		}
	})

	t.Run("volumes", func(t *testing.T) {
		d := startDaemon(t)
		put(t, "userns-volume", "user", "bob")
		for _, image := range []string{busyboxImage, busyboxAppImage} {
			for _, target := range []string{"/full", "/none"} {
				out, err := dockerAt(t, engine, "run", "--rm", "--network", "none", "--volume-driver", d.name, "-v", "secret/userns-volume:"+target, image,
					"sh", "-c", "cat "+target+`/user; printf "<$(ls -A `+target+`)>"`)
				must.NoError(t, err)
				must.Eq(t, "bob<>", out)
			}
		}
		_, err := dockerAt(t, engine, "volume", "rm", "secret/userns-volume")
		must.NoError(t, err)
		must.SliceEmpty(t, d.leftovers())
	})
}

// firstID is the first id on the host of a user's range (subuid(5)).
func firstID(t *testing.T, user string) uint32 {
	t.Helper()
	ranges, err := os.ReadFile("/etc/subuid")
	must.NoError(t, err)
	for line := range strings.Lines(string(ranges)) {
		if rest, ok := strings.CutPrefix(line, user+":"); ok {
			first, _, _ := strings.Cut(rest, ":")
			id, err := strconv.ParseUint(first, 10, 32)
			must.NoError(t, err)
			return uint32(id)
		}
	}
	t.Fatalf("no range of %s in /etc/subuid", user)
	return 0
}
