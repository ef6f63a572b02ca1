package taskconfig

import (
	"cmp"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Namespace is the one in which a start reads Vault's secrets; empty: that of the plugins. It is as the job has it where it is not known
// here.
func (c *Config) Namespace() (text string, known bool) { return c.namespace, !c.Unknown("namespace") }

// inNamespace puts a task that reads Vault into the namespace that a start reads in: the config's, else VAULT_NAMESPACE
// of the task's environment (Session.identify in lifecycle). Nomad puts that of a vault block there, beneath the job's own env.
func (c *Config) inNamespace(t Task, spec *secrets.Spec) {
	if spec == nil || !c.ReadsVault() {
		return
	}
	var known bool
	c.namespace, known = c.namespaceOf(t)
	in := strings.Trim(c.namespace, "/")
	if !known {
		in = ""
		c.unknown = append(c.unknown, []string{"namespace"})
	}
	spec.Namespace = in
	for i := range spec.Secrets {
		if req := &spec.Secrets[i].Request; req.Provider == secrets.DefaultProvider {
			req.Namespace = in
		}
	}
}

func (c *Config) namespaceOf(t Task) (text string, known bool) {
	if c.Unknown("namespace") {
		return c.Written("namespace"), false
	}
	if strings.Trim(c.Ours.Namespace, "/") != "" {
		return c.Ours.Namespace, true
	}
	if value, known, given := t.GivenEnv("VAULT_NAMESPACE"); given {
		if value == "" && !known {
			value = "${VAULT_NAMESPACE}" // a template's
		}
		return value, known
	}
	if v := t.Vault; v != nil && (v.Env == nil || *v.Env) {
		text = cmp.Or(deref(v.Namespace), t.VaultNamespace)
	}
	return text, !interpolated(text)
}
