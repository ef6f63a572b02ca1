package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/taskconfig"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// JWTRole is a role of Vault's JWT auth method, as `vault write auth/PATH/role/NAME -` takes it.
type JWTRole struct {
	RoleType       string   `json:"role_type"`
	BoundAudiences []string `json:"bound_audiences"`
	BoundClaims    claims   `json:"bound_claims"`
	UserClaim      string   `json:"user_claim"`
	UserClaimJSON  bool     `json:"user_claim_json_pointer"`
	TokenType      string   `json:"token_type"`
	TokenPeriod    string   `json:"token_period"`
	TokenPolicies  []string `json:"token_policies"`
}

// claims are what a JWT must say: so a role is its job's alone.
type claims struct {
	Namespace string   `json:"nomad_namespace"`
	JobID     string   `json:"nomad_job_id"`
	Tasks     []string `json:"nomad_task"`
}

// vaultAudience is the one that Nomad's documents and this project's use.
const vaultAudience = "vault.io"

func (p *planner) jwt(name string) JWTRole {
	return JWTRole{
		RoleType:    "jwt",
		BoundClaims: claims{Namespace: p.nomadNamespace(), JobID: p.plan.Job},
		UserClaim:   "/nomad_job_id", UserClaimJSON: true,
		TokenType: "service", TokenPeriod: "30m", TokenPolicies: []string{name},
	}
}

// nomadNamespace is the job's.
func (p *planner) nomadNamespace() string {
	return cmp.Or(p.file.Namespace(), p.options.NomadNamespace, "default")
}

// of binds the role to one more task.
func (r *JWTRole) of(t taskconfig.Task, c *taskconfig.Config) {
	if !slices.Contains(r.BoundClaims.Tasks, t.Name) {
		r.BoundClaims.Tasks = append(r.BoundClaims.Tasks, t.Name)
	}
	audiences := []string{vaultAudience}
	read := taskconfig.Below(cmp.Or(c.Ours.IdentityFile, driver.DefaultJWTFile()))
	for _, id := range t.Identities {
		if id == nil || len(id.Audience) == 0 || t.Vault != nil {
			continue
		}
		if taskconfig.WrittenTo(id) == read || c.Ours.IdentityFile == "" && id.Filepath == "" && id.Name == "vault" {
			audiences = id.Audience
		}
	}
	for _, aud := range audiences {
		if !slices.Contains(r.BoundAudiences, aud) {
			r.BoundAudiences = append(r.BoundAudiences, aud)
		}
	}
}

// Policy is the role's policy, as `vault policy write NAME -` takes it.
func (r *Role) Policy() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", of(r.Tasks))
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "# %s\n", secrets.OneLine(note))
	}
	if len(r.Grants) == 0 && len(r.Notes) == 0 {
		b.WriteString("# Nothing: Vault's policy default has all that it needs.\n")
	}
	for _, g := range r.Grants {
		b.WriteString("\n")
		if g.Note != "" {
			fmt.Fprintf(&b, "# %s\n", secrets.OneLine(g.Note))
		}
		fmt.Fprintf(&b, "path \"%s\" {\n  capabilities = [\"%s\"]\n}\n", g.Path, strings.Join(g.Capabilities, `", "`))
	}
	return b.String()
}

func of(tasks []string) string {
	quoted := make([]string, len(tasks))
	for i, t := range tasks {
		quoted[i] = fmt.Sprintf("%q", t)
	}
	if len(tasks) == 1 {
		return "Task " + quoted[0]
	}
	return "Tasks " + strings.Join(quoted, ", ")
}

// beside is what each policy leaves to Vault's own.
const beside = "# Vault's policy default has the rest: to renew and revoke the token, and to renew leases. A role that does\n# without it (token_no_default_policy) needs the lines of jobs/default-policy.hcl, too."

// WritePolicies writes policies alone: one as it is, several with a comment before each that says how to part them.
func (p *Plan) WritePolicies(w io.Writer) error {
	var b strings.Builder
	for i, r := range p.Roles {
		if i > 0 {
			b.WriteString("\n")
		}
		if len(p.Roles) > 1 {
			fmt.Fprintf(&b, "# Policy %q. With -role there is a script that writes each under its name.\n", r.Name)
		}
		b.WriteString(r.Policy())
	}
	switch {
	case len(p.Roles) > 0:
		b.WriteString("\n" + beside + "\n")
	case !p.withoutRole:
		fmt.Fprintf(&b, "# Nothing: no task of job %q has secrets of Vault's.\n", p.Job)
	}
	p.writeNotes(&b)
	for _, v := range p.Variables {
		fmt.Fprintf(&b, "#\n# Beside it an ACL policy of Nomad's, for variables that are not the task's own (-role writes a script that applies it):\n#   %s\n", v.apply(p.Job))
		for line := range strings.Lines(v.Policy()) {
			b.WriteString("#   " + line)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *Plan) writeNotes(b *strings.Builder) {
	for _, note := range p.Notes {
		fmt.Fprintf(b, "# %s\n", secrets.OneLine(note))
	}
}

// WriteScript writes a script of the shell's that writes all policies and roles.
func (p *Plan) WriteScript(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/sh\n# Vault's policies and JWT roles for job %q.\n%s\n", p.Job, beside)
	p.writeNotes(&b)
	b.WriteString("set -e\n")
	for _, v := range p.Variables {
		fmt.Fprintf(&b, "\n%s <<'POLICY'\n%sPOLICY\n", v.apply(p.Job), v.Policy())
	}
	for _, r := range p.Roles {
		in := ""
		if r.Namespace != "" {
			in = fmt.Sprintf("-namespace='%s' ", r.Namespace)
		}
		role, err := json.MarshalIndent(r.JWT, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "\nvault policy write %s'%s' - <<'POLICY'\n%sPOLICY\n", in, r.Name, r.Policy())
		fmt.Fprintf(&b, "\nvault write %s'auth/%s/role/%s' - <<'ROLE'\n%s\nROLE\n", in, p.AuthPath, r.Name, role)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
