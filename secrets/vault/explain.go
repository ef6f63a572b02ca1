package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// request is one request to the server, in so far as an error about it must tell of it.
type request struct {
	operation    string // "read database/creds/app"
	token        secrets.Value
	namespace    string
	path         string   // the API's, which is what a policy must name
	capabilities string   // the capabilities, as a policy writes them; empty: no policy would help
	mount        mount    // zero: unknown, or not about a secret
	redact       []string // what was sent beside the token, and must not be quoted back either
	hint         string   // what is likely wrong when the request is refused as it is (400, 403, 404)
}

// kindOf is the kind of an answer's status.
func kindOf(status int) secrets.ErrorKind {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return secrets.Refused
	case http.StatusNotFound:
		return secrets.NotFound
	case http.StatusRequestTimeout,
		http.StatusPreconditionFailed, // a standby that has not caught up
		http.StatusTooManyRequests,    // a quota; for a health check, a standby
		472, 473:                      // recovery mode replication secondary, performance standby
		return secrets.Outage
	}
	if status >= 400 && status < 500 {
		return secrets.Invalid
	}
	return secrets.Outage // 5xx, sealed (503) among them; a redirect that leads nowhere; 1xx
}

// noAnswer is the error of a request that the server did not answer.
func (e request) noAnswer(ctx context.Context, err error) error {
	// The HTTP client's error repeats the URL; what was being done is said already.
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return &secrets.Error{Kind: secrets.Outage, OfServer: true, Err: fmt.Errorf("%s: no answer: %w", e.where(), err)}
}

// refusal is the error of an answer that is not a success.
func (e request) refusal(r reply) error {
	kind := kindOf(r.status)
	said := e.quote(r)
	switch kind {
	case secrets.Refused:
		switch {
		case strings.Contains(said, "invalid token"), strings.Contains(said, "bad token"):
			return secrets.Errorf(kind, "%s: permission denied: the server does not know the token (expired, or revoked)", e.where())
		case said == "permission denied" || said == "":
			said = "permission denied"
		case !strings.Contains(said, "permission denied"):
			said = "permission denied: " + said
		}
		return secrets.Errorf(kind, "%s: %s%s", e.where(), said, e.withHint(e.policy()))
	case secrets.NotFound:
		return secrets.Errorf(kind, "%s: %s%s", e.where(), e.missing(r, said), e.withHint(e.hint)+e.withHint(e.mistyped()))
	case secrets.Outage:
		if r.status == http.StatusServiceUnavailable && said == "" {
			said = "sealed, or in maintenance"
		}
		hint := e.backend(r.status, said)
		return &secrets.Error{
			Kind: kind, Err: fmt.Errorf("%s: the server answers %s%s", e.where(), status(r.status, said), e.withHint(hint)), Elsewhere: hint != "",
			OfServer: r.status == http.StatusServiceUnavailable, Limited: r.status == http.StatusTooManyRequests, RetryAfter: r.retryAfter,
		}
	default:
		hint := e.withHint(e.hint)
		if r.status == http.StatusMethodNotAllowed {
			hint += e.withHint(e.mistyped())
		}
		err := &secrets.Error{Kind: kind, Err: fmt.Errorf("%s: the server answers %s%s", e.where(), status(r.status, said), hint)}
		switch {
		case e.mount.typ == "aws" && awsAway.MatchString(said):
			err.Kind, err.Elsewhere = secrets.Outage, true
		case strings.HasPrefix(said, "Upgrading from non-versioned to versioned data"):
			err.Kind = secrets.Outage // a KV engine on its way from version 1 to 2 says 400, for a few seconds
		case published(e.mount, e.path) && strings.HasPrefix(said, "keys haven't been configured yet"):
			err.Kind = secrets.NotFound // an ssh engine without a CA, as it is while one replaces another
		}
		return err
	}
}

// awsAway is how the aws engine says, with a 400, that AWS did not answer, or that it answered 5xx.
var awsAway = regexp.MustCompile(`RequestError: send request failed|status code: 5\d\d, request id`)

func status(code int, said string) string {
	if said == "" {
		said = strings.ToLower(http.StatusText(code))
	}
	return strings.TrimSuffix(strconv.Itoa(code)+" "+said, " ")
}

func (e request) where() string {
	if e.namespace != "" {
		return e.operation + " in namespace " + e.namespace
	}
	return e.operation
}

func (e request) withHint(hint string) string {
	if hint == "" {
		return ""
	}
	return "; " + hint
}

// policy is the stanza that would allow the request, ready to paste (S1).
func (e request) policy() string {
	if e.capabilities == "" {
		return e.hint
	}
	// To grant a path that nothing is at would not help.
	before, capabilities := "", e.capabilities
	if typo := e.mistyped(); typo != "" {
		before = typo + " If not, "
		if !e.mount.known() && e.mount.unlisted.instead == "" && lacksParams(e.path, e.writes()) {
			before, capabilities = typo+" With them ", `"update"`
		}
	} else if e.mount.unlisted.listed {
		before = "this token sees no secrets engine there. If there is one, "
	}
	text := before + "a policy of the task's token needs: " + pathStanza(e.path, capabilities)
	// Without any right on a mount its type is unknown: on KV version 2 the path is another.
	first, rest, ok := strings.Cut(e.path, "/")
	if ok && !e.mount.known() && !e.writes() && !strings.HasPrefix(rest, "data/") && !(e.mount.unlisted.instead != "" && givesCredentials(e.path)) {
		text += " (if " + first + "/ is a KV version 2: " + pathStanza(first+"/data/"+rest, e.capabilities) + ")"
	}
	return text
}

// writes reports whether the request is one with params.
func (e request) writes() bool { return e.capabilities != `"read"` }

// mistyped says what the path of a secret is likely meant to be; empty: nothing is wrong with it, or it is no secret's.
func (e request) mistyped() string {
	first, _, _ := strings.Cut(e.path, "/")
	switch {
	case e.capabilities == "", secrets.IsServersOwn(first):
		return ""
	case e.mount.unlisted.instead != "":
		return e.mount.unlisted.describe(e.path)
	}
	return mistyped(e.mount, e.path, e.writes())
}

func pathStanza(path, capabilities string) string {
	return fmt.Sprintf("path %q { capabilities = [%s] }", path, capabilities)
}

// backend says what to look at when a server that is up fails to make a credential: what its engine
// makes it in, which the server's own words need not name. Empty if it is not that: a standby without a leader
// says 500, too.
func (e request) backend(status int, said string) string {
	if status != http.StatusInternalServerError || credentialPaths[e.mount.typ] == nil || strings.Contains(said, "local node not active") {
		return ""
	}
	return fmt.Sprintf("is the system behind the %s engine at %s up, and does it accept connections from the server?", e.mount.typ, e.mount.path)
}

// missing says what a 404 is about.
func (e request) missing(r reply, said string) string {
	if metadata, ok := r.body.Data["metadata"].(map[string]any); ok && e.mount.v2 {
		version := fmt.Sprint(metadata["version"])
		if metadata["destroyed"] == true {
			return "version " + version + " is destroyed"
		}
		if at, _ := metadata["deletion_time"].(string); at != "" {
			return "version " + version + " was deleted at " + at
		}
	}
	switch {
	case strings.HasPrefix(said, "no handler for route"):
		return "no secrets engine is mounted there"
	case said != "":
		return "not found: " + said
	case e.mount.v2:
		return fmt.Sprintf("nothing is there (asked %s: %s is a KV version 2)", e.path, e.mount.path)
	}
	return "nothing is there"
}

// maxQuote bounds what of the server's words goes into an error. Task events are short.
const maxQuote = 300

// quote is what the server says, on one line, without what was sent to it.
func (e request) quote(r reply) string {
	said := strings.Join(r.body.Errors, "; ")
	if said == "" {
		said = r.raw
	}
	for _, secret := range append(e.redact[:len(e.redact):len(e.redact)], e.token.Text()) {
		// Shorter ones are no secrets, and would blot out half of any sentence.
		if len(secret) < 4 {
			continue
		}
		said = strings.ReplaceAll(said, secret, secrets.Redacted)
		if quoted := strconv.Quote(secret); quoted != `"`+secret+`"` {
			said = strings.ReplaceAll(said, quoted[1:len(quoted)-1], secrets.Redacted)
		}
	}
	// The server lists: "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n".
	if head, list, ok := strings.Cut(said, " occurred:"); ok && (strings.HasSuffix(head, " error") || strings.HasSuffix(head, " errors")) {
		said = strings.TrimPrefix(strings.TrimSpace(list), "* ")
		said = strings.ReplaceAll(said, "\n\t* ", "; ")
	}
	said = strings.ToValidUTF8(secrets.OneLine(said), "?")
	if len(said) > maxQuote {
		said = strings.ToValidUTF8(said[:maxQuote], "") + "…"
	}
	return said
}
