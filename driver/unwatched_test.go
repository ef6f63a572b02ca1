package driver

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// E1: a task whose journal's entry is damaged runs on unwatched, which an event says; at its end its token is revoked.
func TestEndOfAnUnwatchedTask(t *testing.T) {
	revoked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/auth/token/revoke-self" {
			revoked <- r.Header.Get("X-Vault-Token") + " in " + r.Header.Get("X-Vault-Namespace")
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	client, err := vault.New(vault.Config{Address: server.URL})
	must.NoError(t, err)
	defer client.Close()
	dir := filepath.Join(t.TempDir(), "state", "docker")
	keeper, err := lifecycle.New(lifecycle.Config{Providers: map[string]lifecycle.Provider{secrets.DefaultProvider: client}, StateDir: dir})
	must.NoError(t, err)
	defer keeper.Close()

	tk := fakeTask(t, &fakeRunner{inner: newFakeInner()})
	handle := drivers.NewTaskHandle(1)
	handle.Config = tk.cfg.Copy()
	handle.Config.Env = nil
	d := tk.d
	d.tasks.remove(tk.cfg.ID) // the plugin that started it is gone
	task := lifecycleTask(d.name, handle.Config)
	j, err := journal.Create(dir, journal.Entry{Task: task, Step: journal.StepWatching, TokenSource: journal.FromIdentity, TokenProvider: secrets.DefaultProvider, Namespace: "team"})
	must.NoError(t, err)
	must.NoError(t, j.SaveToken(journal.FromIdentity, secrets.Token{Value: secrets.TextValue("hvs.T"), ID: "1", Server: client.Address()}))
	must.NoError(t, os.WriteFile(filepath.Join(dir, task.AllocID, task.Name, "entry.json"), []byte(`{"Version":1,"Ta`), 0o600))

	_, cause := keeper.Recover(task, nil)
	must.ErrorIs(t, cause, lifecycle.ErrJournalUnreadable)
	must.NoError(t, d.recoverUnwatched(keeper, handle, cause))
	must.NoError(t, d.DestroyTask(task.ID, true))
	must.EqOp(t, "hvs.T in team", await(t, revoked))
}
