package vault

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func TestMountCacheFindsTheLongest(t *testing.T) {
	c := newMountCache(time.Minute)
	now := time.Now()
	for _, path := range []string{"a/", "a/b/", "team/one/kv/"} {
		c.put("", mount{path: path, typ: "kv", at: now})
	}
	c.put("ns", mount{path: "team/", typ: "pki", at: now})
	c.put("", mount{path: "old/", typ: "kv", at: now.Add(-time.Minute)})

	for _, test := range []struct{ namespace, path, want string }{
		{"", "a/x", "a/"},
		{"", "a/b/x/y", "a/b/"},
		{"", "a/b", "a/b/"},
		{"", "a/bc", "a/"},
		{"", "ab/c", ""},
		{"", "team/one/kv/x", "team/one/kv/"},
		{"", "team/one/x", ""}, // never by the first element alone
		{"", "team", ""},
		{"ns", "team/one/kv/x", "team/"},
		{"ns", "a/x", ""},
		{"", "old/x", ""}, // past its age
	} {
		m, ok := c.find(test.namespace, test.path)
		must.EqOp(t, test.want, m.path, must.Sprint(test))
		must.EqOp(t, test.want != "", ok)
	}
}

// The secrets of one start, fetched at once from one mount, cost one look-up; later ones none (S3).
func TestMountLookedUpOnce(t *testing.T) {
	fake := startFake(t, oneField)
	v := newVault(t, Config{Address: fake.URL})
	for range 2 {
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if _, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: fmt.Sprintf("secret/app-%d", i)}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	requests, lookups := fake.seen()
	must.EqOp(t, 1, lookups)
	must.Len(t, 32, requests)
}

func TestMountLookedUpAgainWhenOld(t *testing.T) {
	fake := startFake(t, oneField)
	v := newVault(t, Config{Address: fake.URL, MountMaxAge: time.Nanosecond})
	for range 3 {
		_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
		must.NoError(t, err)
	}
	_, lookups := fake.seen()
	must.EqOp(t, 3, lookups)
}

// What one token may not see says nothing about another's.
func TestMountRefusalIsNotRemembered(t *testing.T) {
	s := startVault(t)
	s.admin(t, "POST", "secret/data/app", map[string]any{"data": map[string]any{"a": "1"}})
	none := s.newToken(t, map[string]any{"policies": []string{"default"}})
	req := secrets.Request{Path: "secret/app"}

	_, err := s.Read(t.Context(), none, req)
	wantKind(t, err, secrets.Refused, `path "secret/app" { capabilities = ["read"] }`, `path "secret/data/app" { capabilities = ["read"] }`)
	a, err := s.Read(t.Context(), rootTok(), req)
	must.NoError(t, err)
	must.Eq(t, map[string]any{"a": "1"}, a.Fields.Map())
	// Nor does what another sees open anything: the read itself is refused.
	_, err = s.Read(t.Context(), none, req)
	wantKind(t, err, secrets.Refused, `read secret/app: permission denied; a policy of the task's token needs: path "secret/data/app" { capabilities = ["read"] }`)
}

// A server that speaks the API but has no such look-up is read from as typed.
func TestMountLookUpUnsupported(t *testing.T) {
	for _, status := range []int{404, 405, 400} {
		fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/other/thing" {
				w.WriteHeader(status)
				return
			}
			fmt.Fprint(w, `{"data":{"a":"1"}}`)
		})
		v := newVault(t, Config{Address: fake.URL})
		a, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "other/thing"})
		must.NoError(t, err)
		must.EqOp(t, secrets.Opaque, a.Kind)

		_, err = v.Read(t.Context(), rootTok(), secrets.Request{Path: "other/thing", Params: map[string]string{}})
		wantKind(t, err, secrets.Invalid, "would overwrite")
		_, err = v.Read(t.Context(), rootTok(), secrets.Request{Path: "other/thing", Version: 2})
		wantKind(t, err, secrets.Invalid, "`version`")
		requests, _ := fake.seen()
		must.Len(t, 1, requests)
	}
}

func TestMountLookUpOutage(t *testing.T) {
	fake := startFake(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	v := newVault(t, Config{Address: fake.URL})
	_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "other/thing"})
	wantKind(t, err, secrets.Outage, "look up the mount of other/thing", "503")
	requests, _ := fake.seen()
	must.Len(t, 0, requests)
}

// A server that hangs is not tried by one secret after the other.
func TestMountLookUpHangs(t *testing.T) {
	release := make(chan struct{})
	fake := startFake(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	v := newVault(t, Config{Address: fake.URL, Timeout: 250 * time.Millisecond})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: fmt.Sprintf("other/%d", i)})
			if secrets.KindOf(err) != secrets.Outage {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, lookups := fake.seen()
	must.Less(t, 8, lookups)
}

// A look-up that answers about another place than asked is no ground to map paths on.
func TestMountAnswerForAnotherPath(t *testing.T) {
	fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/sys/internal/ui/mounts/team/kv/a" {
			fmt.Fprint(w, `{"data":{"path":"kv/","type":"kv","options":{"version":"2"}}}`)
			return
		}
		must.EqOp(t, "/v1/team/kv/a", r.URL.Path)
		fmt.Fprint(w, `{"data":{"a":"1"}}`)
	})
	a, err := newVault(t, Config{Address: fake.URL}).Read(t.Context(), rootTok(), secrets.Request{Path: "team/kv/a"})
	must.NoError(t, err)
	must.EqOp(t, secrets.Opaque, a.Kind)
}

// A KV engine is replaced by one of the other version at its path, and the role may read the path of the new one only:
// what the cache still says of the old one is forbidden, and is found out at once.
func TestMountReplacedByTheOtherVersion(t *testing.T) {
	for name, versions := range map[string][2]string{"1 by 2": {"1", "2"}, "2 by 1": {"2", "1"}} {
		t.Run(name, func(t *testing.T) {
			s := startVault(t)
			mount := func(version string) {
				_ = s.request(t, "DELETE", "sys/mounts/kv", nil, new(map[string]any))
				s.admin(t, "POST", "sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]any{"version": version}})
				if version == "2" {
					awaitKV2(t, s, "kv")
					s.admin(t, "POST", "kv/data/app", map[string]any{"data": map[string]any{"of": version}})
				} else {
					s.admin(t, "POST", "kv/app", map[string]any{"of": version})
				}
			}
			mount(versions[0])
			_, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "kv/app"}) // fills the cache
			must.NoError(t, err)
			path := map[string]string{"1": "kv/app", "2": "kv/data/app"}[versions[1]]
			tok := s.token(t, `path "`+path+`" { capabilities = ["read"] }`)

			mount(versions[1])
			a, err := s.Read(t.Context(), tok, secrets.Request{Path: "kv/app"})
			must.NoError(t, err)
			must.Eq(t, map[string]any{"of": versions[1]}, a.Fields.Map())
		})
	}
}

// A credential that takes the server long to make is waited for as long as its own tools wait; what makes nothing
// is not.
func TestReadWaitsForWhatIsMade(t *testing.T) {
	fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond) // the server's work
		fmt.Fprint(w, `{"lease_id":"database/creds/app/1","lease_duration":60,"data":{"a":"1"}}`)
	})
	v := newVault(t, Config{Address: fake.URL, Timeout: 100 * time.Millisecond})
	v.mounts.put("", mount{path: "database/", typ: "database", at: time.Now()})
	v.mounts.put("", mount{path: "kv/", typ: "kv", at: time.Now()})
	a, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "database/creds/app"})
	must.NoError(t, err)
	must.EqOp(t, secrets.Leased, a.Kind)
	_, err = v.Read(t.Context(), rootTok(), secrets.Request{Path: "database/static-creds/app"})
	wantKind(t, err, secrets.Outage, "database/static-creds/app")
	_, err = v.Read(t.Context(), rootTok(), secrets.Request{Path: "kv/app"})
	wantKind(t, err, secrets.Outage, "kv/app")
	must.EqOp(t, time.Minute, makeTimeout)
}
