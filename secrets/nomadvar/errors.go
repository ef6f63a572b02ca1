package nomadvar

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// expiredFor is how long ago a token must have ended for that to be why Nomad does not take it: clocks differ, and Nomad
	// renews it before.
	expiredFor = time.Minute
	// maxQuoted bounds what is quoted of an answer.
	maxQuoted = 300
)

func hasAnswered(err error) bool {
	answer, ok := errors.AsType[api.UnexpectedResponseError](err)
	return ok && answer.HasStatusCode()
}

// explain is an error of a kind: what was asked, what Nomad said, and what helps.
func explain(err error, id Identity, req secrets.Request) error {
	what := fmt.Sprintf("read Nomad Variable %s of namespace %q", req.Path, req.Namespace)
	if missing, ok := errors.AsType[*socketError](err); ok {
		kind := secrets.Outage
		if missing.tooLong() {
			kind = secrets.Invalid
		}
		return secrets.Errorf(kind, "%s: %w", what, missing)
	}
	answer, ok := errors.AsType[api.UnexpectedResponseError](err)
	if !ok || !answer.HasStatusCode() {
		return secrets.Errorf(secrets.Outage, "%s: %w", what, err)
	}
	said := secrets.Cut(secrets.OneLine(answer.Body()), maxQuoted)
	code := answer.StatusCode()
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return secrets.Errorf(secrets.Refused, "%s with the identity in %s: permission denied. A job may read nomad/jobs/%s and below; for more, put `%s` into a file and run: nomad acl policy apply -namespace %s -job %[3]s <name> <file>",
			what, id.Source, jobOf(req.Task), policy(req), req.Namespace)
	case code >= http.StatusInternalServerError:
		// It answers so as well to a token whose allocation has just ended, and to one that has ended itself: while its servers are away Nomad
		// renews none, and does soon after.
		hint := ""
		if expired(id.Token) {
			hint = fmt.Sprintf("; the identity in %s has ended: Nomad renews it when its servers are there", id.Source)
		}
		return &secrets.Error{Kind: secrets.Outage, OfAsker: true, Err: fmt.Errorf("%s: status %d: %s%s", what, code, said, hint)}
	case code == http.StatusTooManyRequests:
		return secrets.Errorf(secrets.Outage, "%s: status %d: %s", what, code, said)
	}
	return secrets.Errorf(secrets.Invalid, "%s: status %d: %s", what, code, said)
}

// jobOf is the id of the job that has a task's rights: a child's are its parent's.
func jobOf(task secrets.Task) string {
	for _, of := range []string{"/dispatch-", "/periodic-"} {
		if i := strings.LastIndex(task.JobID, of); i >= 0 {
			return task.JobID[:i]
		}
	}
	return task.JobID
}

// policy is the least that lets a job read a variable.
func policy(req secrets.Request) string {
	return fmt.Sprintf(`namespace %q { variables { path %q { capabilities = ["read"] } } }`, req.Namespace, req.Path)
}

func expired(token secrets.Value) bool {
	ends := secrets.JWTExpiry(token)
	return !ends.IsZero() && time.Since(ends) > expiredFor
}

func notFound(req secrets.Request) error {
	return secrets.Errorf(secrets.NotFound, "there is no Nomad Variable at %s in namespace %q; make it: nomad var put -namespace %[2]s %[1]s KEY=VALUE", req.Path, req.Namespace)
}
