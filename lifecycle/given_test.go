package lifecycle

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// At its start a task's operator sees what it gets from where, and until when that lives where it is known.
func TestGiven(t *testing.T) {
	for name, test := range map[string]struct {
		secrets many
		env     map[string]string
		want    []string
	}{
		"a lease, and a static secret": {
			many{"db": db(""), "app": {Path: "secret/app-1", Env: []map[string]string{{"APP_PW": "password"}}}}, nil,
			[]string{"Secrets: app from secret/app-1: APP_PW; db from database/creds/app (lease 1h): DB_USER, db/password, db/username"},
		},
		"a lease that cannot be renewed": {
			many{"fixed": {Path: "database/creds/fixed", Env: []map[string]string{{"USER_NAME": "username"}}}}, nil,
			[]string{"Secrets: fixed from database/creds/fixed (lease 1h30m, rotates before 1h30m): USER_NAME"},
		},
		"a certificate": {
			many{"tls": {Path: "pki/issue/web", Files: map[string]*secrets.FileConfig{"tls/key.pem": {Field: "password"}}}}, nil,
			[]string{"Secrets: tls from pki/issue/web (rotates before 24h): tls/key.pem"},
		},
		"variables that the task has": {
			many{"app": {Path: "secret/app-1", Env: []map[string]string{{"APP_PW": "password"}}}}, map[string]string{"APP_PW": "hunter2", "OTHER": "x"},
			[]string{
				"Secrets: app from secret/app-1: APP_PW",
				`Secrets: these variables of the job are replaced by secrets: APP_PW (secret "app"); rename them in the job if that is not intended`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withDB(w)
				withApp(w, "hunter2")
				w.vault.roles["database/creds/fixed"] = fakeRole{ttl: 90 * time.Minute, max: 90 * time.Minute, fixed: true}
				w.vault.roles["pki/issue/web"] = fakeRole{issued: 24 * time.Hour}
				s, err := w.keeper.Open(w.t.Context(), w.startOf(test.secrets), w.host)
				require.NoError(t, err)
				require.Equal(t, test.want, s.Given(test.env))
				s.End()
			})
		})
	}
}

// However much a task gets, the event has at most twenty names and 2 KiB (S8).
func TestGivenIsShort(t *testing.T) {
	inWorld(t, func(w *world) {
		all := many{}
		for i := range 100 {
			path := fmt.Sprintf("secret/%s-%03d", strings.Repeat("x", 200), i)
			w.vault.static[path] = map[string]any{"password": "hunter2"}
			all[fmt.Sprintf("s%03d", i)] = secrets.SecretConfig{Path: path, Env: []map[string]string{{fmt.Sprintf("VAR_%03d", i): "password"}}}
		}
		s, err := w.keeper.Open(w.t.Context(), w.startOf(all), w.host)
		require.NoError(t, err)
		env := map[string]string{}
		for i := range 100 {
			env[fmt.Sprintf("VAR_%03d", i)] = "x"
		}
		events := s.Given(env)
		require.Len(t, events, 2)
		for _, e := range events {
			require.LessOrEqual(t, len(e), maxEvent)
			require.LessOrEqual(t, strings.Count(e, "VAR_"), maxNamed)
		}
		require.Contains(t, events[0], "; and 80 more secrets; and 80 more names")
		require.Contains(t, events[1], "VAR_019 (secret \"s019\") and 80 more; rename")
		s.End()
	})
}
