package driver

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/nomadvar"
)

// nomadTokenFile is where Nomad puts a task's default identity in the secrets directory.
const nomadTokenFile = "nomad_token"

// nomadIdentity is what a task's Nomad Variables are read with, as the task may have it itself. A task never gets a token
// that it did not ask for: what the plugin uses is taken from it, as Vault's is. The zero value is that of a task that reads
// none.
type nomadIdentity struct {
	used      bool
	source    string   // the file, below the task directory, or the variable
	variables []string // of the task's environment that hold the same identity
	exposed   bool     // the job wants it left to the task
	ends      bool     // it has an end, before which Nomad renews it in its file
}

// findNomadIdentity finds out what a task's Nomad Variables are read with. A task all of whose secrets are Vault's keeps its own.
func (d *Driver) findNomadIdentity(cfg *drivers.TaskConfig, spec *secrets.Spec) (nomadIdentity, error) {
	if !slices.ContainsFunc(spec.Secrets, func(s secrets.Secret) bool { return s.Request.Provider == secrets.NomadProvider }) {
		return nomadIdentity{}, nil
	}
	d.mu.Lock()
	file := d.opts.nomad.File
	d.mu.Unlock()
	found, err := nomadvar.Identify(file, secrets.Task{
		Name: cfg.Name, Dir: cfg.TaskDir().Dir, UID: jwtOwner(cfg.User), Token: secrets.TextValue(cfg.Env[nomadTokenEnv]),
	})
	if err != nil {
		return nomadIdentity{}, err
	}
	n := nomadIdentity{used: true, source: found.Source, exposed: spec.ExposeToken, ends: !secrets.JWTExpiry(found.Token).IsZero()}
	is := claimsOf(found.Token.Text()).Subject
	for _, name := range slices.Sorted(maps.Keys(cfg.Env)) {
		if name != nomadTokenEnv && !strings.HasPrefix(name, nomadTokenEnv+"_") {
			continue
		}
		if token := cfg.Env[name]; token == found.Token.Text() || is != "" && claimsOf(token).Subject == is {
			n.variables = append(n.variables, name)
		}
	}
	return n, nil
}

// hidden are the task's variables that it does not get.
func (n nomadIdentity) hidden() []string {
	if n.exposed {
		return nil
	}
	return n.variables
}

// inSecrets reports whether the identity is in the task's secrets directory, where the task sees it.
func (n nomadIdentity) inSecrets() bool { return n.source == nomadvar.TokenFile }

// event says what the variables are read with. What a process of the host can read all the same is said, too.
func (n nomadIdentity) event(inContainer bool) string {
	text := "Secrets: reading Nomad Variables with the task's identity in " + n.source
	switch {
	case n.source == nomadvar.TokenEnv && n.ends:
		text += `, which has a ttl, and Nomad renews it in a file alone: give the identity block file = true and filepath = "` + nomadvar.DefaultFile + `"`
	case n.inSecrets() && !inContainer && !n.exposed:
		text += `, which a raw_exec task can read: give the identity block filepath = "` + nomadvar.DefaultFile + `", which only root can`
	}
	return text
}

// NomadToken is Nomad's own token in the task's environment, if the task's variables are read with that.
func (t *task) NomadToken() secrets.Value {
	if t.nomad.source != nomadvar.TokenEnv {
		return secrets.Value{}
	}
	return secrets.TextValue(t.cfg.Env[nomadTokenEnv])
}

// findIdentity finds out what the task's Nomad Variables are to be read with, before anything is asked for (S1).
func (st *start) findIdentity(context.Context) (err error) {
	t := st.t
	if t.nomad, err = st.d.findNomadIdentity(t.cfg, st.spec); err != nil || !t.nomad.used {
		return err
	}
	if t.nomad.source != nomadvar.TokenEnv { // else the plugin needs the variable itself
		for _, name := range t.nomad.hidden() {
			delete(t.cfg.Env, name)
		}
	}
	st.d.events.emit(t.cfg, t.nomad.event(st.d.wrapped.inContainer))
	return nil
}

// restoreNomadIdentity finds it for a task that is recovered. The task runs on without, and its variables are read again once
// there is one.
func (t *task) restoreNomadIdentity() {
	var err error
	if t.nomad, err = t.d.findNomadIdentity(t.cfg, t.session.Spec()); err != nil {
		t.d.log.Warn("the identity that the task's Nomad Variables are read with cannot be read", "task_id", t.cfg.ID, "error", err)
		t.nomad = nomadIdentity{used: true, variables: []string{nomadTokenEnv}, exposed: t.session.Spec().ExposeToken}
	}
}
