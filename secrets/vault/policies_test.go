package vault

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// stanzaOf matches one path of an example's policy.
var stanzaOf = regexp.MustCompile(`(?s)path "([^"]+)" \{\s*capabilities = \["(\w+)"\]\s*\}`)

// Each example's policy is the least: with any path of it dropped, what the example does is refused, in
// words that name the stanza that is missing.
func TestExamplePoliciesAreMinimal(t *testing.T) {
	s := startVault(t)
	mountKV(t, s, "kv1", "1")
	s.admin(t, "POST", "sys/mounts/database", map[string]any{"type": "database"})
	s.admin(t, "POST", "sys/mounts/rabbitmq", map[string]any{"type": "rabbitmq"})
	s.admin(t, "POST", "sys/mounts/pki", map[string]any{"type": "pki"})
	s.admin(t, "POST", "sys/mounts/aws", map[string]any{"type": "aws"})
	s.admin(t, "POST", "sys/mounts/ssh", map[string]any{"type": "ssh"})
	s.admin(t, "POST", "secret/data/orders/tls", map[string]any{"data": map[string]any{"k": "v"}})

	// ask does with a token what the example needs the stanza for.
	ask := func(tok secrets.Token, path, capability string) error {
		switch {
		case path == "sys/leases/revoke":
			return s.Revoke(t.Context(), tok, "", "database/creds/app/none")
		case capability == "list":
			d, err := s.Discover(t.Context(), tok, "", nil, nil)
			must.NoError(t, err)
			for _, skipped := range d.Skipped {
				if strings.Contains(skipped.Why, strings.TrimSuffix(path, "*")) {
					return secrets.Errorf(secrets.Refused, "%s", skipped.Why)
				}
			}
			return nil
		case strings.HasSuffix(path, "*"):
			_, err := s.Read(t.Context(), tok, secrets.Request{Path: strings.TrimSuffix(path, "*") + "tls"})
			return err
		case capability == "update":
			_, err := s.Read(t.Context(), tok, secrets.Request{Path: path, Params: map[string]string{"common_name": "x"}})
			return err
		}
		_, err := s.Read(t.Context(), tok, secrets.Request{Path: path})
		return err
	}

	files, err := filepath.Glob("../../jobs/policies/*.hcl")
	must.NoError(t, err)
	must.SliceNotEmpty(t, files)
	// The issuer writes, as no task does: e2e/acme shows its policy.
	files = slices.DeleteFunc(files, func(f string) bool { return filepath.Base(f) == "acme-issuer.hcl" })
	for _, file := range append(files, "../../jobs/from_policies/orders.hcl") {
		text, err := os.ReadFile(file)
		must.NoError(t, err)
		stanzas := stanzaOf.FindAllStringSubmatch(string(text), -1)
		must.EqOp(t, strings.Count("\n"+string(text), "\npath \""), len(stanzas), must.Sprintf("%s: a stanza that is not understood here", file))
		for n, dropped := range stanzas {
			t.Run(fmt.Sprintf("%s/%d", filepath.Base(file), n), func(t *testing.T) {
				path, capability := dropped[1], dropped[2]
				err := ask(s.token(t, string(text)), path, capability)
				must.NotEqOp(t, secrets.Refused, secrets.KindOf(err), must.Sprintf("with all of it: %v", err))
				err = ask(s.token(t, strings.Replace(string(text), dropped[0], "", 1)), path, capability)
				must.EqOp(t, secrets.Refused, secrets.KindOf(err), must.Sprintf("without %s: %v", path, err))
				must.StrContains(t, err.Error(), strings.TrimSuffix(path, "*"))
				must.StrContains(t, err.Error(), `"`+capability+`"`)
			})
		}
	}
}
