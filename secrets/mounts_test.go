package secrets

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
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
	v := newVault(t, VaultConfig{Address: fake.URL})
	for range 2 {
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if _, err := v.Read(t.Context(), rootTok(), Request{Path: fmt.Sprintf("secret/app-%d", i)}); err != nil {
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
	v := newVault(t, VaultConfig{Address: fake.URL, MountMaxAge: time.Nanosecond})
	for range 3 {
		_, err := v.Read(t.Context(), rootTok(), Request{Path: "secret/a"})
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
	req := Request{Path: "secret/app"}

	_, err := s.Read(t.Context(), none, req)
	wantKind(t, err, Refused, `path "secret/app" { capabilities = ["read"] }`, `path "secret/data/app" { capabilities = ["read"] }`)
	a, err := s.Read(t.Context(), rootTok(), req)
	must.NoError(t, err)
	must.Eq(t, map[string]any{"a": "1"}, a.Fields.content())
	// Nor does what another sees open anything: the read itself is refused.
	_, err = s.Read(t.Context(), none, req)
	wantKind(t, err, Refused, `read secret/app: permission denied; a policy of the task's token needs: path "secret/data/app" { capabilities = ["read"] }`)
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
		v := newVault(t, VaultConfig{Address: fake.URL})
		a, err := v.Read(t.Context(), rootTok(), Request{Path: "other/thing"})
		must.NoError(t, err)
		must.EqOp(t, Opaque, a.Kind)

		_, err = v.Read(t.Context(), rootTok(), Request{Path: "other/thing", Params: map[string]string{}})
		wantKind(t, err, Invalid, "would overwrite")
		_, err = v.Read(t.Context(), rootTok(), Request{Path: "other/thing", Version: 2})
		wantKind(t, err, Invalid, "`version`")
		requests, _ := fake.seen()
		must.Len(t, 1, requests)
	}
}

func TestMountLookUpOutage(t *testing.T) {
	fake := startFake(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	v := newVault(t, VaultConfig{Address: fake.URL})
	_, err := v.Read(t.Context(), rootTok(), Request{Path: "other/thing"})
	wantKind(t, err, Outage, "look up the mount of other/thing", "503")
	requests, _ := fake.seen()
	must.Len(t, 0, requests)
}

// A server that hangs is not tried by one secret after the other.
func TestMountLookUpHangs(t *testing.T) {
	release := make(chan struct{})
	fake := startFake(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	v := newVault(t, VaultConfig{Address: fake.URL, Timeout: 250 * time.Millisecond})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			_, err := v.Read(t.Context(), rootTok(), Request{Path: fmt.Sprintf("other/%d", i)})
			if KindOf(err) != Outage {
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
	a, err := newVault(t, VaultConfig{Address: fake.URL}).Read(t.Context(), rootTok(), Request{Path: "team/kv/a"})
	must.NoError(t, err)
	must.EqOp(t, Opaque, a.Kind)
}
