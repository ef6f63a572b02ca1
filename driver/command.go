package driver

import (
	"cmp"
	"fmt"
	"sort"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// vaultTokenFile is where Nomad puts the token of a job's vault block in the secrets directory.
const vaultTokenFile = "vault_token"

// taskCommand is what a docker task's config says about what to run.
func taskCommand(options map[string]any) (launcher.TaskCommand, error) {
	var c launcher.TaskCommand
	var err error
	if c.Entrypoint, err = stringList(options, "entrypoint"); err != nil {
		return c, err
	}
	if c.Args, err = stringList(options, "args"); err != nil {
		return c, err
	}
	c.Command, _ = options["command"].(string)
	return c, nil
}

// stringList is an option that is a list of strings; nil where the job does not set it.
func stringList(options map[string]any, key string) ([]string, error) {
	value, ok := options[key]
	if !ok || value == nil {
		return nil, nil
	}
	items, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("%s is %T, not a list of strings", key, value)
	}
	list := make([]string, 0, len(items))
	for _, item := range items {
		s, ok := item.(string)
		if !ok {
			return nil, fmt.Errorf("%s has %T in it, not only strings", key, item)
		}
		list = append(list, s)
	}
	return list, nil
}

// environ is what the launcher gives a process of the task: the secrets in the clear, and Nomad's
// tokens that they are read with where the task asked for them.
func (t *task) environ(set *secrets.Set) []string {
	list := make([]string, 0, len(set.Env)+1)
	if token, ok := t.cfg.Env[vaultTokenEnv]; ok {
		if current := t.vaultToken(); current != "" {
			token = current
		}
		list = append(list, vaultTokenEnv+"="+token)
	}
	if t.nomad.exposed {
		current := t.nomadTokens()
		for _, name := range t.nomad.variables {
			list = append(list, name+"="+cmp.Or(current[name], t.cfg.Env[name]))
		}
	}
	for name, value := range set.Env {
		list = append(list, name+"="+value.Text())
	}
	sort.Strings(list)
	return list
}
