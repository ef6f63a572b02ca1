package driver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// The operator's from_policies takes no token from a job that declares nothing; one that declares a secret, or
// from_policies itself, gets none that it did not ask for. What is decided is in the config that is
// journalled, so that later processes of the task, and of the plugin, are treated alike.
func TestOperatorsPoliciesLeaveTheToken(t *testing.T) {
	declared := map[string]*secrets.SecretConfig{"app": {Path: "secret/app"}}
	for name, test := range map[string]struct {
		operators   string
		ours        secrets.TaskConfig
		token       bool
		want        string
		byOperator  bool
		byDefault   bool
		exposeToken bool
	}{
		"nothing declared": {operators: "all", token: true, want: "all", byOperator: true, byDefault: true, exposeToken: true},
		"a secret":         {operators: "all", token: true, ours: secrets.TaskConfig{Secrets: declared}, want: "all", byOperator: true},
		"the job's own":    {operators: "all", token: true, ours: secrets.TaskConfig{FromPolicies: "env"}, want: "env"},
		"off by the job":   {operators: "all", token: true, ours: secrets.TaskConfig{FromPolicies: "off"}, want: "off"},
		"off":              {operators: "off", token: true, want: ""},
		"no identity":      {operators: "all", want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &drivers.TaskConfig{Name: "web", AllocDir: t.TempDir()}
			if test.token {
				private := filepath.Join(cfg.TaskDir().Dir, "private")
				must.NoError(t, os.MkdirAll(private, 0o700))
				must.NoError(t, os.WriteFile(filepath.Join(private, "vault_token"), []byte("hvs.token"), 0o600))
			}
			d := &Driver{name: "docker", wrapped: &wrappedDocker, log: testLog(t), keeper: new(lifecycle.Keeper)}
			d.opts.fromPolicies = test.operators
			ours := test.ours
			byDefault := d.fromPolicies(cfg, &ours)
			must.EqOp(t, test.byDefault, byDefault)
			must.EqOp(t, test.want, ours.FromPolicies)
			must.EqOp(t, test.byOperator, ours.ByOperator)
			must.EqOp(t, test.exposeToken, ours.ExposeToken)
		})
	}
}
