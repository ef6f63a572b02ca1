package nomadvar

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A variable is read as its task, in its job's namespace, whatever the agent's own environment says.
func TestRead(t *testing.T) {
	t.Setenv("NOMAD_ADDR", "http://127.0.0.1:1")
	t.Setenv("NOMAD_TOKEN", "the agent's own")
	t.Setenv("NOMAD_NAMESPACE", "other")
	n, nomad := newNode(t), newFakeNomad()
	task := n.task("alloc", "web")
	n.serve(task, nomad)
	c := n.client(Config{})

	nomad.put("nomad/jobs/web", map[string]string{"password": "a\nb\x00c", "tls/key.pem": "k", "a.b": "dots"})
	a, err := c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
	must.NoError(t, err)
	must.EqOp(t, secrets.Static, a.Kind)
	must.EqOp(t, "11", a.Revision)
	must.EqOp(t, "a\nb\x00c", text(t, a, "password"))
	must.EqOp(t, "k", text(t, a, "tls/key.pem"))
	must.EqOp(t, "dots", text(t, a, "a.b"))
	must.Eq(t, []string{"token-of-web team nomad/jobs/web"}, nomad.requests())

	_, err = c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/none"))
	must.EqOp(t, secrets.NotFound, secrets.KindOf(err))
	must.ErrorContains(t, err, `there is no Nomad Variable at nomad/jobs/none in namespace "team"; make it: nomad var put -namespace team nomad/jobs/none KEY=VALUE`)
}

// A wait ends with each change: of the content, the end, a new beginning, and an index that falls.
func TestWait(t *testing.T) {
	n, nomad := newNode(t), newFakeNomad()
	task := n.task("alloc", "web")
	n.serve(task, nomad)
	c := n.client(Config{})
	req := of(task, "nomad/jobs/web")
	atMost := time.Hour
	wait := func(since string) (string, error) { return c.Wait(t.Context(), secrets.Token{}, req, since, atMost) }
	after := func(change func(), since string) string {
		t.Helper()
		revision := make(chan string)
		go func() {
			r, err := wait(since)
			if err != nil {
				r = err.Error()
			}
			revision <- r
		}()
		for len(nomad.requests()) == 0 { // it waits
			time.Sleep(time.Millisecond)
		}
		change()
		return <-revision
	}
	at := func(since, want string) {
		t.Helper()
		is, err := wait(since)
		must.NoError(t, err)
		must.EqOp(t, want, is)
	}
	put := func() { nomad.put(req.Path, map[string]string{"a": "b"}) }

	at("", none)
	at("absent", none) // a secret that may be missing, and is
	must.EqOp(t, "11", after(put, none))
	at("", "11")
	must.EqOp(t, "12", after(put, "11"))
	must.EqOp(t, none, after(func() { nomad.remove(req.Path) }, "12"))
	must.EqOp(t, "15", after(func() { nomad.put("other", nil); put() }, none), must.Sprint("another variable ends no wait"))
	at("12", "15")

	atMost = 50 * time.Millisecond
	at("15", "15")
	at("7000", "15") // Nomad's state is an older one
	nomad.remove(req.Path)
	at(none, none)
}

// What Nomad answers is an error of a kind, which says what helps.
func TestAnswers(t *testing.T) {
	n, nomad := newNode(t), newFakeNomad()
	task := n.task("alloc", "web")
	task.JobID = "web/dispatch-1700000000-abc"
	n.serve(task, nomad)
	c := n.client(Config{})
	long := strings.Repeat("x", 10_000)
	for _, test := range []struct {
		status  int
		ends    time.Duration // of the token, from now
		kind    secrets.ErrorKind
		ofAsker bool
		says    string
	}{
		{http.StatusForbidden, time.Hour, secrets.Refused, false, `read Nomad Variable apps/db of namespace "team" with the identity in private/nomad.jwt: permission denied. A job may read nomad/jobs/web and below; for more, put ` +
			"`" + `namespace "team" { variables { path "apps/db" { capabilities = ["read"] } } }` + "`" + ` into a file and run: nomad acl policy apply -namespace team -job web <name> <file>`},
		{http.StatusUnauthorized, time.Hour, secrets.Refused, false, "permission denied"},
		{http.StatusInternalServerError, time.Hour, secrets.Outage, true, "status 500: xxx"},
		{http.StatusInternalServerError, -30 * time.Second, secrets.Outage, true, "status 500"},
		{http.StatusInternalServerError, -2 * time.Minute, secrets.Outage, true, "; the identity in private/nomad.jwt has ended: Nomad renews it when its servers are there"},
		{http.StatusTooManyRequests, time.Hour, secrets.Outage, false, "status 429"},
		{http.StatusBadRequest, time.Hour, secrets.Invalid, false, "status 400"},
		{http.StatusFound, time.Hour, secrets.Invalid, false, "status 302"},
	} {
		jwt := jwtUntil(time.Now().Add(test.ends))
		path := filepath.Join(task.Dir, DefaultFile)
		must.NoError(t, os.WriteFile(path, []byte(jwt), 0o600))
		nomad.with(func() { nomad.status, nomad.body = test.status, long })
		_, err := c.Read(t.Context(), secrets.Token{}, of(task, "apps/db"))
		must.ErrorContains(t, err, test.says)
		must.EqOp(t, test.kind, secrets.KindOf(err), must.Sprint(err))
		must.EqOp(t, test.ofAsker, secrets.IsOfAsker(err), must.Sprint(err))
		must.Less(t, 1000, len(err.Error()))
		must.StrNotContains(t, err.Error(), jwt)
	}
}

// Where there is no socket, and cannot be, an operator's address is asked.
func TestAddress(t *testing.T) {
	n, nomad := newNode(t), newFakeNomad()
	nomad.put("nomad/jobs/web", map[string]string{"password": "x"})
	s := httptest.NewTLSServer(nomad)
	defer s.Close()
	task := n.task("alloc", "web")
	ca := filepath.Join(n.dir, "ca.pem")
	c := n.client(Config{Address: s.URL, CACert: ca})
	_, err := c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
	must.EqOp(t, secrets.Outage, secrets.KindOf(err), must.Sprint("the certificate may come later: ", err))
	must.NoError(t, os.WriteFile(ca, pemOf(s), 0o600))
	a, err := c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
	must.NoError(t, err)
	must.EqOp(t, "x", text(t, a, "password"))
	must.Eq(t, []string{"token-of-web team nomad/jobs/web"}, nomad.requests())

	n.serve(task, nomad)
	s.Close()
	_, err = c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
	must.NoError(t, err, must.Sprint("a socket comes first"))
}

// The identity is looked for in turn. What somebody else put in its place is an error.
func TestIdentify(t *testing.T) {
	task := newNode(t).task("alloc", "web")
	task.Token = secrets.TextValue("of the environment")
	write := func(rel, content string) {
		must.NoError(t, os.WriteFile(filepath.Join(task.Dir, rel), []byte(content), 0o600))
	}
	find := func(source, token string) {
		t.Helper()
		id, err := Identify(DefaultFile, task)
		must.NoError(t, err)
		must.EqOp(t, source, id.Source)
		must.EqOp(t, token, id.Token.Text())
	}
	write(TokenFile, "of the file")
	find(DefaultFile, "token-of-web")
	must.NoError(t, os.Remove(filepath.Join(task.Dir, DefaultFile)))
	find(TokenFile, "of the file")
	must.NoError(t, os.Chown(filepath.Join(task.Dir, TokenFile), 4242, -1))
	_, err := Identify(DefaultFile, task)
	must.ErrorContains(t, err, "owned by user 4242")
	task.UID = 4242
	find(TokenFile, "of the file")
	must.NoError(t, os.Remove(filepath.Join(task.Dir, TokenFile)))
	find(TokenEnv, "of the environment")
	task.Token = secrets.Value{}
	_, err = Identify(DefaultFile, task)
	must.EqOp(t, secrets.Invalid, secrets.KindOf(err), must.Sprint("it is not the variable that is missing"))
	must.ErrorContains(t, err, `task "web" has no identity to read Nomad Variables with: add to the task  identity { file = true  filepath = "private/nomad.jwt" }`)

	jwt := func(audience string) string {
		return "h." + base64.RawURLEncoding.EncodeToString([]byte(`{"aud":"`+audience+`"}`)) + ".s"
	}
	write("vault.jwt", jwt("vault.io"))
	_, err = Identify(DefaultFile, task)
	must.ErrorContains(t, err, "with: add to the task")
	write("private/other.jwt", jwt(secrets.NomadAudience))
	_, err = Identify(DefaultFile, task)
	must.ErrorContains(t, err, `task "web" has no identity to read Nomad Variables with at private/nomad.jwt: there is one at "private/other.jwt": give its identity block filepath = "private/nomad.jwt"`)
}
