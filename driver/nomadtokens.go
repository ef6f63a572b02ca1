package driver

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/nomadvar"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// nomadTokenEnv is the variable of a task's default identity. That of another one ends with its name.
const nomadTokenEnv = "NOMAD_TOKEN"

// nomadTokens are Nomad's own tokens in the task's environment as they are now: Nomad renews them in their files only,
// and the environment that it gave us holds those of the task's start (C13). What cannot be read is left out.
func (t *task) nomadTokens() map[string]string {
	current := map[string]string{}
	if t.isFirst() {
		return current
	}
	for name, old := range t.cfg.Env {
		switch {
		case name == vaultTokenEnv:
			if token := t.vaultToken(); token != "" {
				current[name] = token
			}
		case name == nomadTokenEnv || strings.HasPrefix(name, nomadTokenEnv+"_"):
			if token := t.renewedIdentity(name, old); token != "" {
				current[name] = token
			}
		}
	}
	return current
}

// isFirst reports whether the task has had no process yet: then Nomad has just made what it gave us.
func (t *task) isFirst() bool { return t.currentProcess().handle == nil }

// vaultToken is the token of the job's vault block; "" if it cannot be read.
func (t *task) vaultToken() string {
	if t.isFirst() {
		return ""
	}
	token, err := taskdir.ReadPrivate(t.cfg.TaskDir().Dir, "private/vault_token")
	if err != nil {
		return ""
	}
	return token.Text()
}

// renewedIdentity looks for the JWT of the same identity as an old one in the files where it may be; "" if it is in none.
func (t *task) renewedIdentity(variable, old string) string {
	was := claimsOf(old)
	if was.Subject == "" {
		return ""
	}
	files := []string{nomadvar.TokenFile, t.nomadFile()}
	if id, ok := strings.CutPrefix(variable, nomadTokenEnv+"_"); ok {
		files = []string{"secrets/nomad_" + id + ".jwt", t.identityFile()}
	}
	for _, file := range files {
		if file == "" {
			continue
		}
		token, err := taskdir.ReadPrivate(t.cfg.TaskDir().Dir, file, jwtOwner(t.cfg.User))
		if err != nil {
			continue
		}
		// A task may have put another's there, in its own secrets directory.
		if is := claimsOf(token.Text()); is.Subject == was.Subject && is.Expires >= was.Expires {
			return token.Text()
		}
	}
	return ""
}

// nomadFile is where the operator has identities for Nomad Variables.
func (t *task) nomadFile() string {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	return t.d.opts.nomad.File
}

// identityFile is the file of the identity that the task's secrets are read with, below its directory.
func (t *task) identityFile() string {
	if file := t.session.Spec().IdentityFile; file != "" {
		return file
	}
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	return t.d.opts.lifecycle.JWTFile
}

// claims are what a JWT of Nomad's says of itself. Nothing is verified: they only tell one identity from another.
type claims struct {
	Subject string `json:"sub"`
	Expires int64  `json:"exp"`
}

func claimsOf(jwt string) (c claims) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return claims{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return claims{}
	}
	return c
}
