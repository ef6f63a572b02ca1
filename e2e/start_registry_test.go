package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// registryLab is an agent, and a registry that wants a login.
type registryLab struct {
	*lab.LeakSearch
	registry *harness.Registry
	allocs   []*harness.Alloc // that have been made
}

func newRegistryLab(t *testing.T) *registryLab {
	t.Helper()
	h := newLeakSearch(t, harness.AgentOptions{Name: "registry", Placement: harness.InPlace, LogLevel: "trace"})
	registry, err := h.NewRegistry(h.Ctx, "registry-auth")
	require.NoError(t, err)
	l := &registryLab{LeakSearch: h, registry: registry}
	l.setPassword("the first")
	return l
}

// setPassword makes a new password the only one that the registry takes.
func (l *registryLab) setPassword(name string) {
	l.T.Helper()
	require.NoError(l.T, l.registry.SetPassword(rand.Text()))
	l.learnLogin(name, l.registry.User, l.registry.Password)
}

// learnLogin has what a registry is sent looked for, in both forms.
func (l *registryLab) learnLogin(name, user, password string) {
	l.Learn(name+" password", password)
	l.Learn(name+" login", base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// putLogin writes a secret with the registry's login, as it is now or with another password.
func (l *registryLab) putLogin(name, password string) {
	l.T.Helper()
	require.NoError(l.T, l.Vault.PutKV2(l.Ctx, "secret", name, map[string]any{"username": l.registry.User, "password": password}))
}

// push makes an image that only the registry has.
func (l *registryLab) push(name string) string {
	l.T.Helper()
	local, err := l.Images.Variant(l.Ctx, "registry", "ENV RELEASE="+name)
	require.NoError(l.T, err)
	ref, err := l.registry.Push(l.Ctx, local, name)
	require.NoError(l.T, err)
	return ref
}

// pulling is a task whose image is pulled with a secret that nothing else makes use of.
func (l *registryLab) pulling(id, image, secret, more string) lab.Job {
	return lab.Job{
		ID: id, Driver: "docker", Role: "registry", Run: []string{"testapp", "sleep"}, Image: image,
		Config: fmt.Sprintf(`
secret "login" {
  path = %q
}
registry_auth {
  secret = "login"
  %s
}
`, secret, more),
	}
}

// run runs a task that has to come up.
func (l *registryLab) run(job lab.Job) *harness.Alloc {
	l.T.Helper()
	alloc := l.RunAll(job)[0]
	l.allocs = append(l.allocs, alloc)
	l.Lines(alloc, lab.App, "start ", 1)
	return alloc
}

// fails runs a task that must not come up, and gives the event that says why.
func (l *registryLab) fails(job lab.Job, text string) string {
	l.T.Helper()
	alloc, err := l.Submit(job.HCL()).Failed(l.Ctx)
	require.NoError(l.T, err)
	l.allocs = append(l.allocs, alloc)
	return l.Event(alloc, text)
}

// patient is a job that Nomad starts again for as long as it takes.
func patient(job lab.Job) string {
	return strings.Replace(job.HCL(), "attempts = 0\n      mode     = \"fail\"", "attempts = 1\n      interval = \"5s\"\n      delay    = \"1s\"\n      mode     = \"delay\"", 1)
}

// An image is pulled with a secret of the task's, from a registry that wants a login: at the first start, at each start with
// force_pull, and with what the credentials are by then. Who is refused is told which secret it was, and is started again. The
// credentials are in none of the places that docs/guarantees.md names (Leaks).
func TestRegistryAuth(t *testing.T) {
	t.Parallel()
	l := newRegistryLab(t)
	l.AllowLeased("registry", "secret/data/registry", "secret/data/registry-wrong", "secret/data/registry-app", "registry-db/creds/pull")
	l.putLogin("registry", l.registry.Password)
	l.Learn("a wrong password", rand.Text())
	l.putLogin("registry-wrong", l.Canaries[len(l.Canaries)-1].Value)
	ref := l.push("app:1")

	// Nothing is sent to a registry that the credentials are not for, nor to Vault; nor where the job has auth, too.
	elsewhere := l.push("elsewhere:1")
	sent, mark := l.requestsFor("elsewhere"), l.Mark()
	l.fails(l.pulling("registry-elsewhere", elsewhere, "secret/registry", `server_address = "registry.example.com"`),
		`registry_auth: server_address "registry.example.com" is another registry than the image's, which is `+l.registry.Addr)
	both := l.pulling("registry-both", elsewhere, "secret/registry", "")
	both.Config += "auth {\n username = \"somebody\"\n}"
	l.fails(both, "registry_auth: the job has an auth block, too; take one of them out")
	require.Equal(t, sent, l.requestsFor("elsewhere"), "the registry was asked")
	asked, err := l.Vault.Requests(mark)
	require.NoError(t, err)
	require.Empty(t, lab.OfJob(asked, "registry-elsewhere", "registry-both"))

	l.PutColour("registry-app", "green")
	own := l.pulling("registry-first", ref, "secret/registry", fmt.Sprintf("server_address = %q", "http://"+l.registry.Addr))
	own.Config += "force_pull = true\nsecret \"app\" {\n path = \"secret/registry-app\"\n env = { COLOUR = \"colour\" }\n splay = \"0s\"\n}"
	first := l.run(own)
	l.Clean("after the first pull", l.allocs...)

	// What is on the node is used without asking; with force_pull the registry is asked.
	l.run(l.pulling("registry-on-node", ref, "secret/registry-wrong", ""))

	// Two at once, and one of them is wrong: it is refused, and does not take the other along, or get its image.
	forced := l.pulling("registry-forced", ref, "secret/registry", "")
	forced.Config += "force_pull = true"
	wrong := l.pulling("registry-wrong", ref, "secret/registry-wrong", "")
	wrong.Config += "force_pull = true"
	jobs := []*harness.Job{l.Submit(patient(wrong)), l.Submit(patient(forced))}
	refused := l.FirstAlloc(jobs[0])
	event := l.Event(refused, `registry_auth: with the credentials of secret "login": Failed to pull`)
	require.Contains(t, event, "unauthorized")
	right, err := jobs[1].Running(l.Ctx)
	require.NoError(t, err)
	l.allocs = append(l.allocs, refused, right)
	l.Lines(right, lab.App, "start ", 1)
	l.StartedTimes(right, 1) // the other's refusal was not its own
	starts, err := refused.Lines(lab.App, "start ")
	require.NoError(t, err)
	require.Empty(t, starts, "it has got an image that it may not pull")

	// The credentials change. Nothing is restarted; the next starts have the new ones, also where the old were wrong.
	l.setPassword("the second")
	l.putLogin("registry", l.registry.Password)
	l.putLogin("registry-wrong", l.registry.Password)
	l.Lines(refused, lab.App, "start ", 1)
	require.NoError(t, right.Restart(l.Ctx, lab.App))
	l.Lines(right, lab.App, "start ", 2)
	l.SameProcess(first)

	l.pullByLease()
	l.SameProcess(first)

	// A restart in place asks no registry (C10).
	l.registry.Stop()
	l.PutColour("registry-app", "blue")
	l.Lines(first, lab.App, "start ", 2)
	l.StartedTimes(first, 2)
	l.Clean("after all pulls", l.allocs...)
}

// requestsFor are the requests that the registry has had for an image.
func (l *registryLab) requestsFor(image string) int {
	l.T.Helper()
	log, err := os.ReadFile(l.registry.LogPath)
	require.NoError(l.T, err)
	return strings.Count(string(log), "/v2/"+image+"/")
}

// pullByLease pulls with credentials that are made for it: they live for as long as the pull takes, however long that is, and
// no longer.
func (l *registryLab) pullByLease() {
	l.T.Helper()
	require.NoError(l.T, l.Vault.EnableDatabase(l.Ctx, "registry-db", l.MariaDB))
	require.NoError(l.T, l.Vault.DatabaseRole(l.Ctx, "registry-db", "pull", time.Hour, 2*time.Hour))
	held, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	release := sync.OnceFunc(func() { close(goOn) })
	var mu sync.Mutex
	logins := map[string]string{}
	front := l.registry.Front(func(ctx context.Context, user, password, path string) bool {
		if !l.MariaDB.CanLogin(ctx, user, password) {
			return false
		}
		mu.Lock()
		logins[user] = password
		mu.Unlock()
		if strings.Contains(path, "/manifests/") {
			once.Do(func() { close(held) })
			<-goOn
		}
		return true
	})
	l.T.Cleanup(front.Close)
	l.T.Cleanup(release)
	ref, err := front.Name(l.push("leased:1"))
	require.NoError(l.T, err)

	job := l.Submit(l.pulling("registry-leased", ref, "registry-db/creds/pull", "").HCL())
	select {
	case <-held:
	case <-l.Ctx.Done():
		require.Fail(l.T, "nobody pulls")
	}
	require.Len(l.T, l.Leases("registry-db/creds/pull", 1), 1)
	release()
	alloc, err := job.Running(l.Ctx)
	require.NoError(l.T, err)
	l.allocs = append(l.allocs, alloc)
	l.Until("the lease to be revoked", func() error {
		ids, err := l.Vault.Leases(l.Ctx, "registry-db/creds/pull")
		if err == nil && len(ids) > 0 {
			err = fmt.Errorf("there are %q", ids)
		}
		return err
	})
	l.SameProcess(alloc)
	mu.Lock()
	defer mu.Unlock()
	require.Len(l.T, logins, 1)
	for user, password := range logins {
		l.learnLogin("a lease's", user, password)
	}
}
