package e2e

import "github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"

// refusal is one thing that a job must not get.
type refusal struct {
	name   string
	config string   // of the task
	says   []string // in the event
	// asks: the server has to be asked to see that it cannot be; without it no request may be made.
	asks   bool
	driver string // raw_exec, if empty
	task   string // more of the task, if not the identity
}

// On the mount "refuse" the task may read app, binary, big and none, which is not there.
var refusals = []refusal{
	// What is not there, and what may not be had.
	{name: "unknown-field", asks: true, config: `secret "app" {
		path = "refuse/app"
		env  = { A = "color" }
	}`, says: []string{`secret "app": env A: no field "color"; there are: colour, size`}},
	{name: "unknown-field-docker", asks: true, driver: "docker", config: `secret "app" {
		path = "refuse/app"
		file "a" { field = "color" }
	}`, says: []string{`secret "app": file "a": no field "color"; there are: colour, size`}},
	{name: "unknown-field-template", asks: true, config: `
	secret "app" { path = "refuse/app" }
	file "all" { template = "{{ .app.color }}" }`,
		says: []string{`file "all": template line 1`, `no field "color"`, "there are: app.colour, app.size"}},
	{name: "unknown-path", asks: true, config: `secret "app" { path = "refuse/none" }`,
		says: []string{`secret "app": read refuse/none: nothing is there (asked refuse/data/none: refuse/ is a KV version 2)`}},
	{name: "denied", asks: true, config: `secret "app" { path = "refuse/denied" }`,
		says: []string{`secret "app": read refuse/denied: permission denied`, `path "refuse/data/denied" { capabilities = ["read"] }`}},
	{name: "denied-docker", asks: true, driver: "docker", config: `secret "app" { path = "refuse/denied" }`,
		says: []string{`secret "app": read refuse/denied: permission denied`, `path "refuse/data/denied" { capabilities = ["read"] }`}},
	{name: "no-mount", asks: true, config: `secret "app" { path = "nowhere/app" }`,
		says: []string{`secret "app": read nowhere/app: permission denied; this token sees no secrets engine there. If there is one, a policy`}},
	{name: "mistyped-mount", asks: true, config: `secret "db" { path = "refusdb/creds/undone" }`,
		says: []string{`secret "db": read refusdb/creds/undone: permission denied; this token sees no secrets engine at "refusdb/": is it mistyped for "refusedb/"? If not, a policy`}},
	{name: "mistyped-mount-params", asks: true, config: `secret "db" {
		path   = "refusdb/creds/undone"
		params = { ttl = "1h" }
	}`, says: []string{`secret "db": write refusdb/creds/undone: not sent`, `is it mistyped for "refusedb/"?`}},
	{name: "mistyped-engine-path", asks: true, config: `secret "db" { path = "refusedb/cred/undone" }`,
		says: []string{`secret "db": read refusedb/cred/undone: permission denied; the engine "database" has credentials at creds/ and static-creds/: is "cred/undone" mistyped? If not, a policy`}},
	{name: "mistyped-engine-path-allowed", asks: true, config: `secret "db" { path = "refusedb/crds/undone" }`,
		says: []string{`secret "db": read refusedb/crds/undone: `, `the engine "database" has credentials at creds/ and static-creds/: is "crds/undone" mistyped?`}},
	{name: "mistyped-issue", asks: true, config: `secret "web" {
		path   = "refuse-pki/isue/web"
		params = { common_name = "web.example.com" }
	}`, says: []string{`secret "web": write refuse-pki/isue/web: permission denied; the engine "pki" has credentials at issue/ and sign/: is "isue/web" mistyped? If not, a policy`}},
	{name: "issue-without-params", asks: true, config: `secret "web" { path = "refuse-pki/issue/web" }`,
		says: []string{`secret "web": read refuse-pki/issue/web: not sent`, "give the secret `params`"}},
	{name: "issue-without-params-unlisted", asks: true, config: `secret "web" { path = "unlisted/issue/web" }`,
		says: []string{`secret "web": read unlisted/issue/web: permission denied; issue/ and sign/ of a pki or ssh engine take parameters: give the secret params. With them a policy of the task's token needs: path "unlisted/issue/web" { capabilities = ["update"] }`}},
	{name: "unknown-role", asks: true, config: `
	role = "refuse-nobody"
	secret "app" { path = "refuse/app" }`,
		says: []string{`log in at auth/jwt-nomad as role refuse-nobody`, `role "refuse-nobody" could not be found`}},
	{name: "params-on-kv", asks: true, config: `secret "app" {
		path   = "refuse/app"
		params = { colour = "red" }
	}`, says: []string{`secret "app": write refuse/app`, "would overwrite the secret", "leave them out to read it"}},
	{name: "params-on-kv-data", asks: true, config: `secret "app" {
		path   = "refuse/data/app"
		params = { data = "red" }
	}`, says: []string{`secret "app": write refuse/data/app`, "would overwrite the secret"}},
	{name: "params-on-unknown", asks: true, config: `secret "app" {
		path   = "refuse-hidden/app"
		params = { colour = "red" }
	}`, says: []string{`secret "app": write refuse-hidden/app: not sent`, `path "refuse-hidden/app" { capabilities = ["create", "update"] }`}},
	{name: "nul-in-env", asks: true, config: `secret "app" {
		path = "refuse/binary"
		env  = { A = "nul" }
	}`, says: []string{`secret "app": env A: the field "nul" contains a NUL`, "deliver it as a file"}},
	{name: "nul-in-env-docker", asks: true, driver: "docker", config: `secret "app" {
		path       = "refuse/binary"
		env_prefix = "APP_"
	}`, says: []string{`secret "app": env APP_NUL: the field "nul" contains a NUL`, "deliver it as a file"}},
	{name: "not-base64", asks: true, config: `secret "app" {
		path = "refuse/app"
		file "a" {
			field  = "colour"
			decode = "base64"
		}
	}`, says: []string{`secret "app": file "a": field "colour": is not base64`}},
	{name: "too-large", asks: true, config: `secret "app" {
		path  = "refuse/big"
		files = true
	}`, says: []string{"publish files", "one set may take 45%", "set secrets = 2 or more in the task's resources block"}},
	{name: "prefix-clash", asks: true, config: `
	secret "one" {
		path       = "refuse/app"
		env_prefix = "X_"
	}
	secret "two" {
		path = "refuse/app"
		env  = { X_SIZE = "colour" }
	}`, says: []string{`field "size" gives the variable X_SIZE`, `secret "two"`}},
	{name: "nomad-by-prefix", asks: true, config: `secret "app" {
		path       = "refuse/nomad"
		env_prefix = ""
	}`, says: []string{`field "nomad_addr" gives the variable "NOMAD_ADDR"`, "NOMAD_ are Nomad's"}},
	{name: "taken-file", asks: true, config: `secret "app" {
		path = "refuse/app"
		file "mine" { field = "colour" }
	}`, task: lab.IdentityBlock + `
	template {
		data        = "x"
		destination = "secrets/mine"
	}`, says: []string{`file "mine": something else has that name in the secrets directory`}},

	// Paths that are no secrets.
	{name: "sys", config: `secret "app" { path = "sys/auth" }`, says: []string{`secret "app": path "sys/auth": sys/ holds the server's own settings`}},
	{name: "auth", config: `secret "app" {
		path   = "auth/token/create"
		params = { policies = "root" }
	}`, says: []string{`path "auth/token/create": auth/ holds the server's own settings`}},
	{name: "identity", config: `secret "app" { path = "/Identity/oidc/token/x" }`, says: []string{`path "/Identity/oidc/token/x": identity/ holds the server's own settings`}},
	{name: "sys-escaped", config: `secret "app" { path = "%73ys/auth" }`, says: []string{"with its escapes undone: sys/ holds the server's own settings"}},
	{name: "sys-dotdot", config: `secret "app" { path = "refuse/../sys/auth" }`, says: []string{`".." is not allowed; write the path in full`}},

	// Variables (S4).
	{name: "bad-env", config: `secret "app" {
		path = "refuse/app"
		env  = { "BAD-NAME" = "colour" }
	}`, says: []string{`secret "app": env: "BAD-NAME": not a valid variable name`}},
	{name: "bad-env-docker", driver: "docker", config: `secret "app" {
		path = "refuse/app"
		env  = { "A=B" = "colour" }
	}`, says: []string{`secret "app": env: "A=B": not a valid variable name`}},
	{name: "same-env", config: `
	secret "one" {
		path = "refuse/app"
		env  = { SAME = "colour" }
	}
	secret "two" {
		path = "refuse/app"
		env  = { SAME = "size" }
	}`, says: []string{`secret "two": env: "SAME" is set by secret "one" too`}},
	{name: "nomad-env", config: `secret "app" {
		path = "refuse/app"
		env  = { NOMAD_TASK_DIR = "colour" }
	}`, says: []string{`secret "app": env: "NOMAD_TASK_DIR": names that begin with NOMAD_ are Nomad's`}},

	// Files (S5).
	{name: "dotdot-file", config: `secret "app" {
		path = "refuse/app"
		file "../local/x" { field = "colour" }
	}`, says: []string{`secret "app": file "../local/x": the path contains ".."; use a path below the secrets directory`}},
	{name: "absolute-file", config: `secret "app" {
		path = "refuse/app"
		file "/etc/x" { field = "colour" }
	}`, says: []string{`secret "app": file "/etc/x": the path is absolute; use a path below the secrets directory`}},
	{name: "dotdot-task-file", config: `
	secret "app" { path = "refuse/app" }
	file "a/../../x" { template = "x" }`, says: []string{`file "a/../../x": the path contains ".."`}},
	{name: "same-file", config: `
	secret "one" {
		path = "refuse/app"
		file "same" { field = "colour" }
	}
	secret "two" {
		path = "refuse/app"
		file "same/a" { field = "colour" }
	}`, says: []string{`secret "two": file "same/a": the directory "same" is a file of secret "one"`}},
	{name: "bad-perms", config: `secret "app" {
		path = "refuse/app"
		file "a" {
			field = "colour"
			perms = "rw-r--r--"
		}
	}`, says: []string{`secret "app": file "a": perms "rw-r--r--" are not valid; use octal digits`}},
	{name: "empty-file", config: `secret "app" {
		path = "refuse/app"
		file "a" {}
	}`, says: []string{`secret "app": file "a": neither field nor template is given`}},

	// Templates.
	{name: "bad-template", config: `secret "app" {
		path = "refuse/app"
		file "a" { template = "{{ .colour " }
	}`, says: []string{`secret "app": file "a": template line 1: unclosed action`}},
	{name: "env-template", config: `secret "app" {
		path = "refuse/app"
		file "a" { template = "{{ env \"VAULT_TOKEN\" }}" }
	}`, says: []string{`secret "app": file "a": template line 1: function "env" is not available`}},
	{name: "not-hermetic", config: `
	secret "app" { path = "refuse/app" }
	file "a" { template = "{{ expandenv \"$VAULT_TOKEN\" }}" }
	file "b" { template = "{{ getHostByName \"example.com\" }}" }
	file "c" { template = "{{ now }}" }
	file "d" { template = "{{ randAlphaNum 8 }}" }
	file "e" { template = "{{ genPrivateKey \"rsa\" }}" }
	file "f" { template = "{{ repeat 1000000000 \"x\" }}" }
	file "g" { template = "{{ osBase \"/etc\" | readFile }}" }`, says: []string{
		`file "a": template line 1: function "expandenv" is not available`, `"getHostByName" is not available`,
		`"now" is not available`, `"randAlphaNum" is not available`, `"genPrivateKey" is not available`,
		`"repeat" is not available`, `"readFile" is not available`}},
	{name: "endless-range", asks: true, config: `secret "app" {
		path = "refuse/app"
		file "a" { template = "{{ range 1000000000 }}{{ printf \"%4096d\" 1 }}{{ end }}" }
	}`, says: []string{`secret "app": file "a": template`, "its output is longer than 1 MiB"}},
	{name: "endless-silence", asks: true, config: `secret "app" {
		path = "refuse/app"
		file "a" { template = "{{ range 100000000000 }}{{ end }}" }
	}`, says: []string{`secret "app": file "a": template`, "it runs for longer than 1s"}},
	{name: "endless-calls", asks: true, config: `secret "app" {
		path = "refuse/app"
		file "a" { template = "{{ define \"x\" }}{{ template \"x\" }}{{ end }}{{ template \"x\" }}" }
	}`, says: []string{`secret "app": file "a": template`, "call one another more than 200 deep"}},
	{name: "quoting-template", asks: true, config: `secret "app" {
		path = "refuse/app"
		file "a" { template = "{{ .colour.shade }}{{ atoi .colour | fail }}" }
	}`, says: []string{`secret "app": file "a": template line 1`, "the reason is not shown: it might quote a secret"}},

	// What a change does.
	{name: "bad-duration", config: `
	stop_timeout = "5"
	secret "app" {
		path  = "refuse/app"
		splay = "soon"
	}`, says: []string{`stop_timeout "5" is not a duration`, `secret "app": splay "soon" is not a duration; use a number with a unit, such as "5s"`}},
	{name: "unknown-mode", config: `secret "app" {
		path        = "refuse/app"
		change_mode = "reload"
	}`, says: []string{`secret "app": change_mode "reload" is not known; use restart, signal, script or noop`}},
	{name: "no-signal", config: `secret "app" {
		path        = "refuse/app"
		change_mode = "signal"
	}`, says: []string{`secret "app": change_mode "signal" needs a change_signal, such as "SIGHUP"`}},
	{name: "bad-signal", config: `secret "app" {
		path          = "refuse/app"
		change_mode   = "signal"
		change_signal = "HUP"
	}`, says: []string{`secret "app": change_signal "HUP" is not a signal; use a name such as "SIGHUP"`}},
	{name: "no-script", config: `secret "app" {
		path        = "refuse/app"
		change_mode = "script"
	}`, says: []string{`secret "app": change_mode "script" needs a change_script block with a command`}},

	{name: "live-absolute", config: `secret "app" {
		path     = "refuse/app"
		live_dir = "/run/app"
	}`, says: []string{`secret "app": live_dir "/run/app": an absolute path; with this driver it is a path below the secrets directory`}},
	{name: "live-relative", driver: "docker", config: `secret "app" {
		path     = "refuse/app"
		live_dir = "live"
	}`, says: []string{`secret "app": live_dir "live": not an absolute path; with this driver it is a directory in the container`}},
	{name: "live-taken", driver: "docker", config: `secret "app" {
		path     = "refuse/app"
		live_dir = "/secrets/app"
	}`, says: []string{`secret "app": live_dir "/secrets/app": /secrets is not a secret's to cover; use a directory of its own`}},

	// Not there yet.
	{name: "from-policies", config: `from_policies = "some"`, says: []string{`from_policies "some" is not known`}},
	{name: "provider", config: `secret "app" {
		provider = "consul"
		path     = "app"
	}`, says: []string{`secret "app": provider "consul" is not known; use nomad or vault`}},
	{name: "nomad-path", config: `secret "app" {
		provider = "nomad"
		path     = "nomad/jobs/x.y"
	}`, says: []string{`secret "app": path "nomad/jobs/x.y": a Nomad Variable's path has letters, digits, -, _, ~ and /, 128 at the most`}},

	// Who asks.
	{name: "nobody", config: `secret "app" { path = "refuse/app" }`, task: "# no identity",
		says: []string{"the task has no identity to read secrets with: add to it", `filepath = "private/vault.jwt"`, "or a vault {} block"}},
	{name: "identity-file", config: `
	identity_file = "../../other/private/vault.jwt"
	secret "app" { path = "refuse/app" }`, says: []string{`identity_file "../../other/private/vault.jwt": the path contains ".."`}},

	// Nomad's own words.
	{name: "unknown-key", config: `
	secrets_path = "x"
	secret "app" { path = "refuse/app" }`, says: []string{`No argument or block type is named "secrets_path"`}},
	{name: "unknown-key-in-secret", config: `secret "app" {
		path = "refuse/app"
		feild = "colour"
	}`, says: []string{`No argument or block type is named "feild". Did you mean "file"?`}},
	{name: "no-path", config: `secret "app" {}`, says: []string{`"path" is required`}},
}
