package vault

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func mountKV(t *testing.T, s *vaultServer, path, version string) {
	t.Helper()
	s.admin(t, "POST", "sys/mounts/"+path, map[string]any{"type": "kv", "options": map[string]string{"version": version}})
	if version == "2" {
		awaitKV2(t, s, path)
	}
}

// awaitKV2 waits until a KV version 2 is ready: it answers 400 while it makes itself.
func awaitKV2(t *testing.T, s *vaultServer, path string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		var out map[string]any
		if s.request(t, "GET", path+"/config", nil, &out) == 200 {
			return
		}
		time.Sleep(20 * time.Millisecond) // between two looks at the condition
	}
	t.Fatalf("%s does not become a KV version 2", path)
}

func TestKVRead(t *testing.T) {
	s := startVault(t)
	mountKV(t, s, "v1", "1")
	mountKV(t, s, "team/a/kv", "2")
	mountKV(t, s, "team/b", "1")
	nested := map[string]any{"user": "u", "port": json.Number("5432"), "big": json.Number("1234567890123"),
		"on": true, "no": nil, "deep": map[string]any{"list": []any{"x"}}, "ttl": "90s"}
	first := map[string]any{"data": map[string]any{"rev": "one"}}
	second := map[string]any{"data": nested}
	for _, path := range []string{"secret/data/app", "team/a/kv/data/app", "secret/data/data/odd"} {
		s.admin(t, "POST", path, first)
		s.admin(t, "POST", path, second)
	}
	s.admin(t, "POST", "secret/data/empty", map[string]any{"data": map[string]any{}})
	s.admin(t, "POST", "secret/data/space in/näme?x=1#y", first)
	s.admin(t, "POST", "v1/app", nested)
	s.admin(t, "POST", "v1/data/app", map[string]any{"rev": "v1 below data"})
	s.admin(t, "POST", "team/b/app", nested)

	one := first["data"].(map[string]any)
	for _, test := range []struct {
		name string
		req  secrets.Request
		want map[string]any
	}{
		{"v2 as at the CLI", secrets.Request{Path: "secret/app"}, nested},
		{"v2 as in the API", secrets.Request{Path: "secret/data/app"}, nested},
		{"v2 slashes that mean nothing", secrets.Request{Path: "/secret//./app/"}, nested},
		{"v2 version", secrets.Request{Path: "secret/app", Version: 1}, one},
		{"v2 version, as in the API", secrets.Request{Path: "secret/data/app", Version: 1}, one},
		{"v2 newest version", secrets.Request{Path: "secret/app", Version: 2}, nested},
		{"v2 secret whose name begins with data/", secrets.Request{Path: "secret/data/data/odd"}, nested},
		{"v2 empty", secrets.Request{Path: "secret/empty"}, map[string]any{}},
		{"v2 odd characters", secrets.Request{Path: "secret/space in/näme?x=1#y"}, one},
		{"v2 on a longer mount", secrets.Request{Path: "team/a/kv/app"}, nested},
		{"v1", secrets.Request{Path: "v1/app"}, nested},
		{"v1 where data/ is but a name", secrets.Request{Path: "v1/data/app"}, map[string]any{"rev": "v1 below data"}},
		{"v1 beside a v2 of the same first element", secrets.Request{Path: "team/b/app"}, nested},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := time.Now()
			a, err := s.Read(t.Context(), rootTok(), test.req)
			must.NoError(t, err)
			must.EqOp(t, secrets.Static, a.Kind)
			must.Eq(t, test.want, a.Fields.Map())
			must.EqOp(t, "", string(a.Lease.ID))
			must.False(t, a.At.Before(before) || a.At.After(time.Now()))
		})
	}

	t.Run("cubbyhole", func(t *testing.T) {
		s.admin(t, "POST", "cubbyhole/mine", map[string]any{"a": "b"})
		a, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "cubbyhole/mine"})
		must.NoError(t, err)
		must.EqOp(t, secrets.Static, a.Kind)
	})
}

func TestKVNotThere(t *testing.T) {
	s := startVault(t)
	mountKV(t, s, "v1", "1")
	for range 3 {
		s.admin(t, "POST", "secret/data/app", map[string]any{"data": map[string]any{"a": "1"}})
	}
	s.admin(t, "PUT", "secret/destroy/app", map[string]any{"versions": []int{1}})
	s.admin(t, "DELETE", "secret/data/app", nil)

	for _, test := range []struct {
		req  secrets.Request
		says string
	}{
		{secrets.Request{Path: "secret/app", Version: 1}, "read secret/app: version 1 is destroyed"},
		{secrets.Request{Path: "secret/app"}, "version 3 was deleted at 2"},
		{secrets.Request{Path: "secret/app", Version: 9}, "read secret/app: nothing is there (asked secret/data/app: secret/ is a KV version 2)"},
		{secrets.Request{Path: "secret/other"}, "read secret/other: nothing is there (asked secret/data/other: secret/ is a KV version 2)"},
		{secrets.Request{Path: "v1/other"}, "read v1/other: nothing is there"},
		{secrets.Request{Path: "nowhere/at/all"}, "read nowhere/at/all: no secrets engine is mounted there"},
	} {
		_, err := s.Read(t.Context(), rootTok(), test.req)
		wantKind(t, err, secrets.NotFound, test.says)
	}
	a, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/app", Version: 2})
	must.NoError(t, err)
	must.Eq(t, map[string]any{"a": "1"}, a.Fields.Map())
}

// An engine that is upgraded, or replaced, while its type is cached is followed.
func TestKVChangesUnderTheCache(t *testing.T) {
	s := startVault(t)
	mountKV(t, s, "kv", "1")
	s.admin(t, "POST", "kv/app", map[string]any{"a": "1"})
	read := func() map[string]any {
		t.Helper()
		a, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "kv/app"})
		must.NoError(t, err)
		must.EqOp(t, secrets.Static, a.Kind)
		return a.Fields.Map()
	}
	must.Eq(t, map[string]any{"a": "1"}, read())

	s.admin(t, "POST", "sys/mounts/kv/tune", map[string]any{"options": map[string]string{"version": "2"}})
	awaitKV2(t, s, "kv")
	must.Eq(t, map[string]any{"a": "1"}, read())

	s.admin(t, "DELETE", "sys/mounts/kv", nil)
	mountKV(t, s, "kv", "1")
	s.admin(t, "POST", "kv/app", map[string]any{"a": "2"})
	must.Eq(t, map[string]any{"a": "2"}, read())
}

var stanza = regexp.MustCompile(`path "[^"]+" \{ capabilities = \[[^]]+\] \}`)

// What the error of a 403 tells to paste into a policy allows what was refused (S1).
func TestDeniedTellsThePolicyThatHelps(t *testing.T) {
	s := startVault(t)
	mountKV(t, s, "v1", "1")
	mountPKI(t, s, "1h")
	s.admin(t, "POST", "v1/app", map[string]any{"a": "1"})
	s.admin(t, "POST", "secret/data/app", map[string]any{"data": map[string]any{"a": "1"}})

	for name, test := range map[string]struct {
		policy string
		req    secrets.Request
		want   string
	}{
		"v1":                    {`path "v1/other" { capabilities = ["read"] }`, secrets.Request{Path: "v1/app"}, `path "v1/app" { capabilities = ["read"] }`},
		"v2":                    {`path "secret/data/other" { capabilities = ["read"] }`, secrets.Request{Path: "secret/app"}, `path "secret/data/app" { capabilities = ["read"] }`},
		"params":                {`path "pki/other" { capabilities = ["read"] }`, secrets.Request{Path: "pki/issue/web", Params: map[string]string{"common_name": "a.example.com"}}, `path "pki/issue/web" { capabilities = ["create", "update"] }`},
		"params, mount unknown": {`# nothing`, secrets.Request{Path: "pki/issue/web", Params: map[string]string{"common_name": "a.example.com"}}, `path "pki/issue/web" { capabilities = ["create", "update"] }`},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVault(t, Config{Address: s.address}) // with a cache of its own
			_, err := v.Read(t.Context(), s.token(t, test.policy), test.req)
			wantKind(t, err, secrets.Refused, test.req.Path)
			pasted := stanza.FindString(err.Error())
			must.EqOp(t, test.want, pasted)
			_, err = v.Read(t.Context(), s.token(t, pasted), test.req)
			must.NoError(t, err)
		})
	}
}

// `params` on KV would overwrite the secret: an error, with nothing sent.
func TestParamsNeverOverwrite(t *testing.T) {
	s := startVault(t)
	mountKV(t, s, "v1", "1")
	s.admin(t, "POST", "v1/app", map[string]any{"a": "1"})
	s.admin(t, "POST", "cubbyhole/app", map[string]any{"a": "1"})
	s.admin(t, "POST", "secret/data/app", map[string]any{"data": map[string]any{"a": "1"}})

	for _, path := range []string{"v1/app", "secret/app", "secret/data/app", "cubbyhole/app"} {
		for _, params := range []map[string]string{{}, {"b": "2"}} {
			_, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: path, Params: params})
			wantKind(t, err, secrets.Invalid, "`params` would overwrite the secret")
		}
		a, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: path})
		must.NoError(t, err)
		must.Eq(t, map[string]any{"a": "1"}, a.Fields.Map())
	}
	// Refused, not Invalid: a standby that lags behind a login answers so, too (S2).
	none := s.newToken(t, map[string]any{"policies": []string{"default"}})
	_, err := newVault(t, Config{Address: s.address}).Read(t.Context(), none, secrets.Request{Path: "v1/app", Params: map[string]string{"b": "2"}})
	wantKind(t, err, secrets.Refused, "not sent")
	_, err = s.Read(t.Context(), rootTok(), secrets.Request{Path: "v1/app", Version: 2})
	wantKind(t, err, secrets.Invalid, "`version`")
	_, err = s.Read(t.Context(), rootTok(), secrets.Request{Path: "secret"})
	wantKind(t, err, secrets.Invalid, "an engine is mounted there")
}

// `params` on what is there without a write: an error, with nothing sent. What the write gave would be polled.
func TestParamsNeverOnWhatIsOnlyRead(t *testing.T) {
	paths := map[string]string{"kv": "app", "generic": "app", "cubbyhole": "app", "pki": "cert/ca_chain", "ssh": "config/ca"}
	for engine, r := range rotations {
		paths[engine] = r.dir + "app"
	}
	for engine, rel := range paths {
		t.Run(engine, func(t *testing.T) {
			fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = fmt.Fprintf(w, `{"data":{"path":"m/","type":%q}}`, engine)
			})
			v := newVault(t, Config{Address: fake.URL})
			for _, params := range []map[string]string{{}, {"b": "hush"}} {
				_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "m/" + rel, Params: params})
				wantKind(t, err, secrets.Invalid, "m/"+rel, "`params`", "leave them out to read it")
				must.StrNotContains(t, err.Error(), "hush")
			}
			requests, _ := fake.seen()
			must.SliceEmpty(t, requests)
		})
	}
}

// What no job may read is not asked for, however it is written.
func TestPathsRefused(t *testing.T) {
	fake := startFake(t, oneField)
	v := newVault(t, Config{Address: fake.URL})
	for _, path := range []string{
		"", "/", "sys/mounts", "/sys/mounts", "sys", "auth/token/lookup-self", "identity/entity/id/x",
		"secret/../sys/mounts", "%73ys/mounts", "..", "a/..", "secret/a\nb",
	} {
		_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: path})
		wantKind(t, err, secrets.Invalid, "path")
	}
	requests, lookups := fake.seen()
	must.Len(t, 0, requests)
	must.EqOp(t, 0, lookups)
}

// A KV engine that is being upgraded says 400, and is back in a moment.
func TestKVUpgradeIsAnOutage(t *testing.T) {
	e := request{operation: "read kv/app"}
	err := e.refusal(reply{status: 400, body: envelope{Errors: []string{"Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly."}}})
	wantKind(t, err, secrets.Outage)
}
