package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// vaultServer is a real Vault in dev mode: in memory, unsealed, with a KV version 2 at secret/.
type vaultServer struct {
	address string
	*Client
}

const rootToken = "root-token-of-the-test"

func rootTok() secrets.Token { return secrets.Token{Value: secrets.TextValue(rootToken)} }

// startVault starts a server that ends with the test.
func startVault(t *testing.T) *vaultServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	listen := l.Addr().String()
	must.NoError(t, l.Close())

	home := t.TempDir()
	out, err := os.Create(filepath.Join(home, "vault.log"))
	must.NoError(t, err)
	defer out.Close()
	cmd := exec.Command(vaultBinary(t), "server", "-dev", "-dev-no-store-token",
		"-dev-listen-address="+listen, "-dev-root-token-id="+rootToken)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	cmd.Dir, cmd.Stdout, cmd.Stderr = home, out, out
	must.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})

	s := &vaultServer{address: "http://" + listen}
	s.Client = newVault(t, Config{Address: s.address})
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := s.LookupToken(t.Context(), rootTok(), ""); err == nil {
			return s
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(out.Name())
			t.Fatalf("vault does not come up:\n%s", log)
		}
		time.Sleep(20 * time.Millisecond) // between two looks at the condition
	}
}

func newVault(t *testing.T, cfg Config) *Client {
	t.Helper()
	v, err := New(cfg)
	must.NoError(t, err)
	t.Cleanup(v.Close)
	return v
}

// vaultBinary finds the server where `make tools` puts it.
func vaultBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("DRIVER_TEST_VAULT"); path != "" {
		return path
	}
	dir, err := os.Getwd()
	must.NoError(t, err)
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			if path := filepath.Join(dir, "bin", "vault"); exec.Command(path, "version").Run() == nil {
				return path
			}
			break
		}
	}
	path, err := exec.LookPath("vault")
	if err != nil {
		t.Fatal("no vault binary: run `make tools`")
	}
	return path
}

// admin does what an operator does, with the root token.
func (s *vaultServer) admin(t *testing.T, method, path string, body any) map[string]any {
	t.Helper()
	var out map[string]any
	status := s.request(t, method, path, body, &out)
	if status >= 300 {
		t.Fatalf("%s %s: %d %v", method, path, status, out)
	}
	return out
}

func (s *vaultServer) request(t *testing.T, method, path string, body any, out *map[string]any) int {
	t.Helper()
	b, err := json.Marshal(body)
	must.NoError(t, err)
	req, err := http.NewRequestWithContext(context.Background(), method, s.address+(&url.URL{Path: "/v1/" + path}).EscapedPath(), bytes.NewReader(b))
	must.NoError(t, err)
	req.Header.Set("X-Vault-Token", rootToken)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	must.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	if len(answer) > 0 {
		must.NoError(t, json.Unmarshal(answer, out))
	}
	return resp.StatusCode
}

// token makes a token with the policy given as text, and the default policy.
func (s *vaultServer) token(t *testing.T, policy string) secrets.Token {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
	s.admin(t, "PUT", "sys/policies/acl/"+name, map[string]any{"policy": policy})
	return s.newToken(t, map[string]any{"policies": []string{name}, "ttl": "1h"})
}

func (s *vaultServer) newToken(t *testing.T, options map[string]any) secrets.Token {
	t.Helper()
	auth := s.admin(t, "POST", "auth/token/create", options)["auth"].(map[string]any)
	return secrets.Token{Value: secrets.TextValue(auth["client_token"].(string)), Accessor: auth["accessor"].(string)}
}

// fakeVault is for faults that a real server does not produce on demand, and for looking at what
// is sent. It says that secret/ is a KV version 2, and leaves the rest to handle.
type fakeVault struct {
	*httptest.Server
	mu       sync.Mutex
	requests []seenRequest
}

type seenRequest struct {
	path, body string
	header     http.Header
}

func startFake(t *testing.T, handle http.HandlerFunc) *fakeVault {
	t.Helper()
	f := &fakeVault{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.requests = append(f.requests, seenRequest{r.URL.Path, string(body), r.Header.Clone()})
		f.mu.Unlock()
		if strings.HasPrefix(r.URL.Path, "/v1/sys/internal/ui/mounts/secret/") {
			fmt.Fprint(w, `{"data":{"path":"secret/","type":"kv","options":{"version":"2"}}}`)
			return
		}
		handle(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// seen gives the requests but the mount look-ups.
func (f *fakeVault) seen() (others []seenRequest, lookups int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if strings.HasPrefix(r.path, "/v1/sys/internal/ui/mounts/") {
			lookups++
		} else {
			others = append(others, r)
		}
	}
	return others, lookups
}

func oneField(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `{"data":{"data":{"a":"1"},"metadata":{"version":1}}}`)
}

func wantKind(t *testing.T, err error, kind secrets.ErrorKind, parts ...string) {
	t.Helper()
	must.Error(t, err)
	must.EqOp(t, kind, secrets.KindOf(err), must.Sprint(err))
	for _, part := range parts {
		must.StrContains(t, err.Error(), part)
	}
}

// A plugin whose operator set nothing runs; only who asks for a secret is told.
func TestVaultWithoutAddress(t *testing.T) {
	t.Setenv("VAULT_ADDR", "")
	v := newVault(t, Config{})
	_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
	wantKind(t, err, secrets.Invalid, "secrets { address =")

	fake := startFake(t, oneField)
	t.Setenv("VAULT_ADDR", fake.URL)
	v = newVault(t, Config{})
	_, err = v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
	must.NoError(t, err)
}

func TestVaultConfigRefused(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no scheme":        {Address: "vault.example.com:8200"},
		"no URL":           {Address: "https://user:hunter2@%zz"},
		"cert without key": {Address: "https://v", ClientCert: "c.pem"},
		"key without cert": {Address: "https://v", ClientKey: "k.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(cfg)
			wantKind(t, err, secrets.Invalid)
			must.StrNotContains(t, err.Error(), "hunter2")
		})
	}
}

// The agent's own Vault settings decide nothing of what a task reads.
func TestVaultTakesNothingFromTheEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"VAULT_TOKEN": "agents-own", "VAULT_NAMESPACE": "agents-own", "VAULT_HEADERS": `{"X-Agents":"own"}`,
		"VAULT_WRAP_TTL": "5m", "VAULT_MAX_RETRIES": "7", "VAULT_RATE_LIMIT": "0.001:0",
		"VAULT_AGENT_ADDR": "http://127.0.0.1:1", "VAULT_PROXY_ADDR": "http://127.0.0.1:1",
	} {
		t.Setenv(name, value)
	}
	fake := startFake(t, oneField)
	v := newVault(t, Config{Address: fake.URL})
	_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
	must.NoError(t, err)
	_, err = v.Login(t.Context(), secrets.Login{Mount: "jwt", Role: "r", JWT: secrets.TextValue("a.b.c")})
	wantKind(t, err, secrets.Invalid) // oneField has no token in it

	requests, _ := fake.seen()
	must.Len(t, 2, requests)
	for _, r := range requests {
		must.EqOp(t, "true", r.header.Get("X-Vault-Request"))
		for _, name := range []string{"X-Vault-Namespace", "X-Agents", "X-Vault-Wrap-Ttl"} {
			must.EqOp(t, "", r.header.Get(name), must.Sprint(name))
		}
	}
	must.EqOp(t, rootToken, requests[0].header.Get("X-Vault-Token"))
	must.EqOp(t, "", requests[1].header.Get("X-Vault-Token"))
}

// Tasks of different namespaces and tokens share one client, and never each other's headers.
func TestVaultTokenAndNamespaceAreTheRequests(t *testing.T) {
	fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"data":{"data":{"token":%q,"namespace":%q}}}`,
			r.Header.Get("X-Vault-Token"), r.Header.Get("X-Vault-Namespace"))
	})
	v := newVault(t, Config{Address: fake.URL, Namespace: "of-the-plugin"})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			token, namespace := fmt.Sprintf("token-%d", i), fmt.Sprintf("team-%d/", i%3)
			want := namespace
			if i%3 == 0 {
				namespace, want = "", "of-the-plugin"
			}
			a, err := v.Read(t.Context(), secrets.Token{Value: secrets.TextValue(token)}, secrets.Request{Namespace: namespace, Path: "secret/a"})
			if err != nil {
				t.Error(err)
				return
			}
			if a.Fields.Map()["token"] != token || a.Fields.Map()["namespace"] != want {
				t.Errorf("sent %v for %s %s", a.Fields.Map(), token, want)
			}
		})
	}
	wg.Wait()
}

func TestVaultRefusesWhatIsNoHeader(t *testing.T) {
	fake := startFake(t, oneField)
	v := newVault(t, Config{Address: fake.URL})
	_, err := v.Read(t.Context(), secrets.Token{Value: secrets.TextValue("tok\nen")}, secrets.Request{Path: "secret/a"})
	wantKind(t, err, secrets.Refused, "control characters")
	_, err = v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a", Namespace: "a\r\nX-Evil: b"})
	wantKind(t, err, secrets.Invalid, "namespace")
	_, err = v.Read(t.Context(), secrets.Token{}, secrets.Request{Path: "secret/a"})
	wantKind(t, err, secrets.Refused, "no token")
	requests, lookups := fake.seen()
	must.Len(t, 0, requests)
	must.EqOp(t, 0, lookups)
}

// Whatever waiting helps against is an Outage (S2), and each call is one attempt.
func TestVaultOutages(t *testing.T) {
	for _, status := range []int{408, 412, 429, 472, 473, 500, 502, 503, 504} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			fake := startFake(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				fmt.Fprint(w, `{"errors":["Vault is sealed"]}`)
			})
			v := newVault(t, Config{Address: fake.URL})
			_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
			wantKind(t, err, secrets.Outage, "read secret/a: the server answers", fmt.Sprint(status), "Vault is sealed")
			requests, _ := fake.seen()
			must.Len(t, 1, requests)

			_, err = v.Login(t.Context(), secrets.Login{Mount: "jwt", Role: "r", JWT: secrets.TextValue("a.b.c")})
			wantKind(t, err, secrets.Outage)
			_, err = v.Renew(t.Context(), rootTok(), "", "pki/issue/x/1", time.Hour)
			wantKind(t, err, secrets.Outage)
			_, err = v.LookupToken(t.Context(), rootTok(), "")
			wantKind(t, err, secrets.Outage)
			wantKind(t, v.Revoke(t.Context(), rootTok(), "", "pki/issue/x/1"), secrets.Outage)
			wantKind(t, v.RevokeToken(t.Context(), rootTok(), ""), secrets.Outage)
		})
	}
	t.Run("not an API", func(t *testing.T) {
		fake := startFake(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Welcome!") })
		_, err := newVault(t, Config{Address: fake.URL}).Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
		wantKind(t, err, secrets.Outage, "not one of the Vault API")
	})
	t.Run("cut off", func(t *testing.T) {
		fake := startFake(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"data":{"data":{"a":"b"}}`)
		})
		_, err := newVault(t, Config{Address: fake.URL}).Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
		wantKind(t, err, secrets.Outage, "no answer")
	})
	t.Run("nobody listens", func(t *testing.T) {
		fake := startFake(t, oneField)
		fake.Close()
		_, err := newVault(t, Config{Address: fake.URL}).Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
		wantKind(t, err, secrets.Outage, "connection refused")
		must.StrNotContains(t, err.Error(), "http://")
	})
	t.Run("plain HTTP", func(t *testing.T) {
		fake := startFake(t, oneField)
		address := strings.Replace(fake.URL, "http:", "https:", 1)
		_, err := newVault(t, Config{Address: address}).Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
		wantKind(t, err, secrets.Outage)
	})
}

func TestVaultSealed(t *testing.T) {
	s := startVault(t)
	s.admin(t, "PUT", "sys/seal", nil)
	_, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
	wantKind(t, err, secrets.Outage, "503", "sealed")
	_, err = s.LookupToken(t.Context(), rootTok(), "")
	wantKind(t, err, secrets.Outage, "sealed")
}

func TestVaultHangs(t *testing.T) {
	release := make(chan struct{})
	fake := startFake(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)

	v := newVault(t, Config{Address: fake.URL, Timeout: 50 * time.Millisecond})
	_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/a"})
	wantKind(t, err, secrets.Outage, "no answer")
	must.ErrorIs(t, err, context.DeadlineExceeded)

	v = newVault(t, Config{Address: fake.URL})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = v.Read(ctx, rootTok(), secrets.Request{Path: "secret/a"})
	wantKind(t, err, secrets.Outage)
	must.ErrorIs(t, err, context.DeadlineExceeded)
}

// A standby sends clients to the active server: the request goes there whole.
func TestVaultFollowsOneRedirect(t *testing.T) {
	active := startFake(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"lease_duration":3600,"renewable":true}`)
	})
	standby := startFake(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, active.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	v := newVault(t, Config{Address: standby.URL})
	lease, err := v.Renew(t.Context(), rootTok(), "team", "database/creds/x/1", time.Hour)
	must.NoError(t, err)
	must.Eq(t, secrets.Lease{ID: "database/creds/x/1", Duration: time.Hour, Renewable: true}, lease)
	requests, _ := active.seen()
	must.Len(t, 1, requests)
	must.EqOp(t, rootToken, requests[0].header.Get("X-Vault-Token"))
	must.EqOp(t, "team", requests[0].header.Get("X-Vault-Namespace"))
	must.EqOp(t, `{"increment":3600,"lease_id":"database/creds/x/1"}`, requests[0].body)
}
