package driver

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/nomadvar"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// What a task's Nomad Variables are read with is taken from the task: from its environment, and in a container from its
// secrets directory. Where the job wants it, the task gets it as it gets its secrets; Docker has it never.
func TestNomadIdentity(t *testing.T) {
	const of = "global:default:web:g:app:"
	token := jwtOf(of+"default", 10)
	for name, test := range map[string]struct {
		provider string
		files    []string // that hold the token
		exposed  bool

		source    string
		gets      []string // of the variables that hold a token
		covered   bool
		pluginHas bool // after the start, in the variable
	}{
		"a file of the operator's":    {provider: "nomad", files: []string{"private/nomad.jwt"}, source: "private/nomad.jwt", gets: []string{"NOMAD_TOKEN_other"}},
		"Nomad's own file":            {provider: "nomad", files: []string{nomadvar.TokenFile}, source: nomadvar.TokenFile, gets: []string{"NOMAD_TOKEN_other"}, covered: true},
		"the variable":                {provider: "nomad", source: "NOMAD_TOKEN", gets: []string{"NOMAD_TOKEN_other"}, pluginHas: true},
		"exposed":                     {provider: "nomad", files: []string{nomadvar.TokenFile}, exposed: true, source: nomadvar.TokenFile, gets: []string{"NOMAD_TOKEN", "NOMAD_TOKEN_other"}},
		"all its secrets are Vault's": {provider: "vault", files: []string{nomadvar.TokenFile}, gets: []string{"NOMAD_TOKEN", "NOMAD_TOKEN_other"}},
	} {
		t.Run(name, func(t *testing.T) {
			job := &drivers.TaskConfig{
				ID: "alloc/app/1", Name: "app", AllocID: "alloc", AllocDir: t.TempDir(),
				Env: map[string]string{"NOMAD_TOKEN": token, "NOMAD_TOKEN_other": jwtOf(of+"other", 10), "NOMAD_SECRETS_DIR": "/secrets"},
			}
			must.NoError(t, job.EncodeConcreteDriverConfig(map[string]any{"image": "app"}))
			for _, sub := range []string{"private", "secrets"} {
				must.NoError(t, os.MkdirAll(filepath.Join(job.TaskDir().Dir, sub), 0o700))
			}
			for _, file := range test.files {
				must.NoError(t, os.WriteFile(filepath.Join(job.TaskDir().Dir, file), []byte(token), 0o600))
			}
			d := &Driver{name: "docker", wrapped: &wrappedDocker, log: testLog(t), opts: options{nomad: nomadvar.Config{File: nomadvar.DefaultFile}}}
			d.events = newEvents(t.Context(), d.log, newFakeInner())
			spec := &secrets.Spec{ExposeToken: test.exposed, Secrets: []secrets.Secret{{Request: secrets.Request{Provider: test.provider}}}}
			tk, err := d.newTask(job, test.exposed)
			must.NoError(t, err)
			tk.session = &fakeSession{spec: spec}
			st := &start{d: d, cfg: job, spec: spec, t: tk}
			must.NoError(t, st.findIdentity(t.Context()))
			must.EqOp(t, test.source, tk.nomad.source)
			if test.pluginHas {
				must.EqOp(t, token, tk.NomadToken().Text())
			} else {
				must.True(t, tk.NomadToken().IsEmpty())
			}

			// A process of the host's.
			cfg, err := tk.innerConfig(nil, map[string]any{})
			must.NoError(t, err)
			var gets []string
			for variable := range cfg.Env {
				if variable != "NOMAD_SECRETS_DIR" {
					gets = append(gets, variable)
				}
			}
			slices.Sort(gets)
			must.Eq(t, test.gets, gets)

			// A container.
			channel := launcher.ChannelOf(t.TempDir(), job.AllocID, job.Name)
			must.NoError(t, channel.Make())
			hold, err := launcher.New(channel.Path())
			must.NoError(t, err)
			defer hold.Remove()
			tk.files, err = taskdir.OpenPublisher(job.TaskDir().SecretsDir)
			must.NoError(t, err)
			c := tk.runner.(*containers)
			c.files = (&launcher.Installer{Dirs: []string{t.TempDir()}}).FilesFor
			cfg, _, err = c.waitingConfig(t.Context(), tk, channel, hold)
			must.NoError(t, err)
			_, told := cfg.Env["NOMAD_TOKEN"]
			must.EqOp(t, test.provider == "vault", told, must.Sprint("as Nomad has it, of a task that does not use it here"))
			must.EqOp(t, test.exposed, slices.Contains(tk.environ(&secrets.Set{}), "NOMAD_TOKEN="+token))
			must.EqOp(t, test.covered, slices.ContainsFunc(cfg.Mounts, func(m *drivers.MountConfig) bool { return m.TaskPath == "/secrets/nomad_token" }))
		})
	}
}

// The event says what the variables are read with, and what is to be done about an identity that will not do for long, or that others see.
func TestEventOfNomadIdentity(t *testing.T) {
	for want, n := range map[string]nomadIdentity{
		"private/nomad.jwt": {source: nomadvar.DefaultFile, ends: true},
		"NOMAD_TOKEN":       {source: nomadvar.TokenEnv},
		`NOMAD_TOKEN, which has a ttl, and Nomad renews it in a file alone: give the identity block file = true and filepath = "private/nomad.jwt"`: {source: nomadvar.TokenEnv, ends: true},
		`secrets/nomad_token, which a raw_exec task can read: give the identity block filepath = "private/nomad.jwt", which only root can`:          {source: nomadvar.TokenFile},
	} {
		must.EqOp(t, "Secrets: reading Nomad Variables with the task's identity in "+want, n.event(false))
	}
}
