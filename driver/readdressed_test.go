package driver

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// E1: an agent that is started without an address after one with it, by mistake, drops no pending revocation: they wait, as the log says,
// and are done by the agent that has the address again.
func TestRevocationsOutliveAMissingAddress(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	asked, revoked := make(chan struct{}, 10), make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			asked <- struct{}{}
			return
		}
		if r.URL.Path == "/v1/auth/token/revoke-self" {
			revoked <- r.Header.Get("X-Vault-Token")
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	dir := filepath.Join(t.TempDir(), "state", "docker")
	log := make(lines, 100)
	keep := func(address string) *lifecycle.Keeper {
		client, err := vault.New(vault.Config{Address: address})
		must.NoError(t, err)
		t.Cleanup(func() { client.Close() })
		keeper, err := lifecycle.New(lifecycle.Config{
			Providers: map[string]lifecycle.Provider{secrets.DefaultProvider: client}, StateDir: dir,
			Log: hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Warn}),
		})
		must.NoError(t, err)
		return keeper
	}

	keeper := keep(server.URL)
	task := journal.Task{Driver: "docker", AllocID: "alloc", Name: "web", ID: "alloc/web/1"}
	j, err := journal.Create(dir, journal.Entry{Task: task, Step: journal.StepWatching, TokenSource: journal.FromIdentity, TokenProvider: secrets.DefaultProvider})
	must.NoError(t, err)
	must.NoError(t, j.SaveToken(journal.FromIdentity, secrets.Token{Value: secrets.TextValue("hvs.T"), ID: "1", Server: server.URL}))
	must.NoError(t, keeper.Abandon(task))
	await(t, asked)
	keeper.Close()

	keeper = keep("")
	for !strings.Contains(await(t, log), "pending revocations wait until their secrets server is this plugin's address again") {
	}
	keeper.Close()

	away.Store(false)
	keeper = keep(server.URL)
	defer keeper.Close()
	must.EqOp(t, "hvs.T", await(t, revoked))
}

// lines are what is logged.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}
