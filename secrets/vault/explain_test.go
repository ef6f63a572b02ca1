package vault

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A server's words go into errors, what was sent to it does not (L4).
func TestQuoteNeverQuotesWhatWasSent(t *testing.T) {
	e := request{
		operation: "write x/y",
		token:     secrets.TextValue("hvs.CAESIsecret"),
		redact:    []string{"line one\nline \"two\"", "otp4", "no"},
	}
	said := func(errs ...string) string { return e.quote(reply{status: 400, body: envelope{Errors: errs}}) }

	for _, text := range []string{
		"bad token hvs.CAESIsecret given", "otp4 is wrong",
		"bad key line one\nline \"two\" given", `bad key "line one\nline \"two\"" given`,
	} {
		got := said(text)
		must.StrContains(t, got, secrets.Redacted)
		for _, secret := range []string{"CAESI", "otp4", "two"} {
			must.StrNotContains(t, got, secret)
		}
	}
	must.EqOp(t, "not enough", said("not enough"))
	must.EqOp(t, "permission denied; invalid token", said("2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"))
	must.EqOp(t, "a; b c", said("a", "b\n\tc"))

	long := said(strings.Repeat("é ", 400))
	must.LessEq(t, maxQuote+len("…"), len(long))
	must.True(t, utf8.ValidString(long))
	must.EqOp(t, "<html> no", e.quote(reply{status: 502, raw: "<html>\n no"}))
}

func TestRefusals(t *testing.T) {
	e := request{operation: "read database/creds/app", path: "database/creds/app", capabilities: `"read"`, mount: mount{path: "database/", typ: "database"}}
	kv := request{operation: "read secret/app", path: "secret/data/app", capabilities: `"read"`, mount: mount{path: "secret/", typ: "kv", v2: true}}
	in := e
	in.namespace = "team"
	aws := request{operation: "read aws/creds/app", path: "aws/creds/app", capabilities: `"read"`, mount: mount{path: "aws/", typ: "aws"}, hint: "look at AWS"}
	for _, test := range []struct {
		e      request
		status int
		said   string
		kind   secrets.ErrorKind
		want   string
	}{
		{e, 403, "1 error occurred:\n\t* permission denied\n\n", secrets.Refused,
			`read database/creds/app: permission denied; a policy of the task's token needs: path "database/creds/app" { capabilities = ["read"] }`},
		{in, 403, "", secrets.Refused,
			`read database/creds/app in namespace team: permission denied; a policy of the task's token needs: path "database/creds/app" { capabilities = ["read"] }`},
		{e, 403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n", secrets.Refused,
			"read database/creds/app: permission denied: the server does not know the token (expired, or revoked)"},
		{e, 400, "unknown role: app", secrets.Invalid, "read database/creds/app: the server answers 400 unknown role: app"},
		{e, 404, "", secrets.NotFound, "read database/creds/app: nothing is there"},
		{e, 405, "unsupported operation", secrets.Invalid, "read database/creds/app: the server answers 405 unsupported operation"},
		{e, 500, "failed to create a new user", secrets.Outage, "read database/creds/app: the server answers 500 failed to create a new user; " +
			"is the system behind the database engine at database/ up, and does it accept connections from the server?"},
		{kv, 500, "", secrets.Outage, "read secret/app: the server answers 500 internal server error"},
		{e, 503, "Vault is sealed", secrets.Outage, "read database/creds/app: the server answers 503 Vault is sealed"},
		{e, 429, "", secrets.Outage, "read database/creds/app: the server answers 429 too many requests"},
		{e, 473, "", secrets.Outage, "read database/creds/app: the server answers 473"},
		{aws, 400, "Error creating IAM user: AccessDenied: no\n\tstatus code: 403, request id: 1", secrets.Invalid,
			"read aws/creds/app: the server answers 400 Error creating IAM user: AccessDenied: no status code: 403, request id: 1; look at AWS"},
		{aws, 400, "Error creating IAM user: InternalFailure: no\n\tstatus code: 500, request id: 1", secrets.Outage,
			"read aws/creds/app: the server answers 400 Error creating IAM user: InternalFailure: no status code: 500, request id: 1; look at AWS"},
		{aws, 400, "Error assuming role: RequestError: send request failed\ncaused by: Post \"https://sts\"", secrets.Outage,
			"read aws/creds/app: the server answers 400 Error assuming role: RequestError: send request failed caused by: Post \"https://sts\"; look at AWS"},
		{e, 307, "", secrets.Outage, "read database/creds/app: the server answers 307 temporary redirect"},
	} {
		r := reply{status: test.status}
		if test.said != "" {
			r.body.Errors = []string{test.said}
		}
		err := test.e.refusal(r)
		must.EqOp(t, test.want, err.Error())
		must.EqOp(t, test.kind, secrets.KindOf(err))
		backend := strings.Contains(test.want, "; look at AWS") || strings.Contains(test.want, "is the system behind")
		must.EqOp(t, backend && test.kind == secrets.Outage, secrets.IsElsewhere(err))
	}
}
