package taskconfig

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// decode decodes a config of jobspec2's form.
func decode(t *testing.T, config map[string]any) *Config {
	t.Helper()
	group := "app"
	c, err := Decode(Task{Job: "web", Namespace: "shop", Group: &api.TaskGroup{Name: &group}, Task: &api.Task{Name: "t", Driver: "docker", Config: config}})
	must.NoError(t, err)
	return c
}

func secretOf(name string, keys map[string]any) map[string]any {
	return map[string]any{"image": "x", "secret": []map[string]any{{name: []map[string]any{keys}}}}
}

// What the file tells is filled in, the rest is not known and stands as it is written.
func TestValues(t *testing.T) {
	c := decode(t, secretOf("a", map[string]any{
		"path": "secret/${NOMAD_NAMESPACE}/${NOMAD_JOB_ID}/${NOMAD_GROUP_NAME}/${NOMAD_TASK_NAME}", "env": []map[string]any{{"A": "${meta.x}", "B": "b"}},
	}))
	must.SliceEmpty(t, c.Problems)
	must.Eq(t, "secret/shop/web/app/t", c.Spec.Secrets[0].Request.Path)
	must.False(t, c.Unknown("secret", "a", "path"))
	must.True(t, c.Unknown("secret", "a", "env"))
	must.True(t, c.Unknown("secret", "a", "env", "A"))
	must.False(t, c.Unknown("secret", "a", "env", "B"))
	must.Eq(t, "${meta.x}", c.Written("secret", "a", "env", "A"))
	must.Eq(t, map[string]string{"A": NotKnown, "B": "b"}, c.Spec.Secrets[0].Env)

	must.Eq(t, "", c.Written("secret", "none", "path"))
	must.Eq(t, "", c.Written())
}

// A mode that is not known is the one that what is beside it is for.
func TestUnknownMode(t *testing.T) {
	for mode, beside := range map[string]map[string]any{
		"restart": {}, "signal": {"change_signal": "SIGHUP"}, "script": {"change_script": []map[string]any{{"command": "x"}}},
	} {
		keys := map[string]any{"path": "secret/a", "files": true, "change_mode": "${meta.mode}"}
		for k, v := range beside {
			keys[k] = v
		}
		c := decode(t, secretOf("a", keys))
		must.SliceEmpty(t, c.Problems)
		must.Eq(t, mode, c.Spec.Secrets[0].Change.Mode.String())
	}
}

// A value of a wrong type is said once, and is not taken for one that is not known.
func TestWrongType(t *testing.T) {
	c := decode(t, secretOf("a", map[string]any{"path": "secret/a", "files": true, "version": "x"}))
	must.Eq(t, []Problem{{Steps: []string{"secret", "a", "version"}, Text: `secret "a": version: a number is required`}}, c.Problems)
	must.False(t, c.Unknown("secret", "a", "version"))
	must.Nil(t, c.Spec)
}

// Other shapes than jobspec2's, as JSON has them, and damaged ones, bring nothing down.
func TestShapes(t *testing.T) {
	good := decode(t, map[string]any{"image": "x", "secret": map[string]any{"a": map[string]any{"path": "secret/a", "files": true}}})
	must.SliceEmpty(t, good.Problems)
	must.Eq(t, "a", good.Spec.Secrets[0].Name)
	for _, config := range []map[string]any{
		nil, {}, {"secret": 1}, {"secret": []any{1}}, {"secret": map[string]any{"a": 1}}, {"secret": map[string]any{"a": []any{1}}},
		{"image": map[string]any{}}, {"secret": []any{map[string]any{"a": nil}}}, {"image": []any{}}, {"dynamic": 1}, {"mount": "x"},
	} {
		must.SliceNotEmpty(t, decode(t, config).Problems, must.Sprintf("%v", config))
	}
}

// A key whose value only Nomad knows is none that is wrong.
func TestKeysNotKnown(t *testing.T) {
	keys := 0
	for field := range reflect.TypeFor[secrets.SecretConfig]().Fields() {
		key, _, _ := strings.Cut(field.Tag.Get("codec"), ",")
		if field.Type.Kind() != reflect.String || key == "-" {
			continue
		}
		keys++
		given := map[string]any{"path": "secret/a", "files": true, key: "${meta.x}"}
		for _, p := range decode(t, secretOf("a", given)).Problems {
			must.StrNotContains(t, p.Text, NotKnown, must.Sprintf("%s: it goes into `optional`", key))
			must.StrNotContains(t, p.Text, "${meta.x}", must.Sprintf("%s: it goes into `optional`", key))
		}
	}
	must.Positive(t, keys)
}

// ofJob are the config's values in a job's file, whose job and task have more in them.
func ofJob(t *testing.T, job, task, config string) *Config {
	t.Helper()
	src := "job \"web\" {\n" + job + "\ngroup \"app\" {\ntask \"t\" {\ndriver = \"docker\"\n" + task + "\nconfig {\n" + config + "\n}\n}\n}\n}\n"
	file, problems := jobfile.Parse("job", []byte(src), jobfile.Options{})
	must.SliceEmpty(t, problems, must.Sprint(src))
	g := file.Job.TaskGroups[0]
	c, err := Decode(Of(file, g, g.Tasks[0]))
	must.NoError(t, err)
	return c
}

// A job has an ID and a name; each run of a periodic or parameterized one has its own, which Nomad makes. What the job's env
// says of such a variable counts more than what Nomad does.
func TestJobsVariables(t *testing.T) {
	const config = "image = \"x\"\nsecret \"a\" {\npath = \"secret/%s\"\nfiles = true\n}"
	for _, tc := range []struct{ job, task, path, want string }{
		{"", "", "${NOMAD_JOB_ID}/${NOMAD_JOB_NAME}", "web/web"},
		{`name = "The-Web"`, "", "${NOMAD_JOB_ID}/${NOMAD_JOB_NAME}", "web/The-Web"},
		{"", "", "${NOMAD_JOB_PARENT_ID}", ""},
		{"periodic {\ncrons = [\"@daily\"]\n}", "", "${NOMAD_JOB_ID}", ""},
		{"periodic {\ncrons = [\"@daily\"]\n}", "", "${NOMAD_JOB_NAME}", ""},
		{"periodic {\ncrons = [\"@daily\"]\n}", "", "${NOMAD_JOB_PARENT_ID}/${NOMAD_TASK_NAME}", "web/t"},
		{"type = \"batch\"\nparameterized {}", "", "${NOMAD_JOB_ID}", ""},
		{"type = \"batch\"\nparameterized {}", "", "${NOMAD_JOB_PARENT_ID}", "web"},
		{"type = \"batch\"\nparameterized {}\nperiodic {\ncrons = [\"@daily\"]\n}", "", "${NOMAD_JOB_PARENT_ID}", ""},
		{"", "env {\nNOMAD_JOB_ID = \"other\"\n}", "${NOMAD_JOB_ID}", "other"},
		{"", "env {\nNOMAD_JOB_ID = \"${meta.x}\"\n}", "${NOMAD_JOB_ID}", ""},
	} {
		c := ofJob(t, tc.job, tc.task, fmt.Sprintf(config, tc.path))
		must.SliceEmpty(t, c.Problems)
		must.EqOp(t, tc.want == "", c.Unknown("secret", "a", "path"), must.Sprintf("%+v", tc))
		if tc.want != "" {
			must.EqOp(t, "secret/"+tc.want, c.Spec.Secrets[0].Request.Path)
		}
	}
}

// A job that Nomad made of another has an ID of its own.
func TestChildJob(t *testing.T) {
	file, problems := jobfile.Parse("job", []byte(`{"Job": {"ID": "web/dispatch-1", "Name": "web/dispatch-1", "ParentID": "web", "Dispatched": true, "ParameterizedJob": {},
		"TaskGroups": [{"Name": "app", "Tasks": [{"Name": "t", "Driver": "docker", "Config": {"image": "x"}}]}]}}`), jobfile.Options{})
	must.SliceEmpty(t, problems)
	must.False(t, file.MakesJobs())
	must.EqOp(t, "web", file.WorkloadID())
	g := file.Job.TaskGroups[0]
	task := Of(file, g, g.Tasks[0])
	must.EqOp(t, "web/dispatch-1", task.Job)
	must.EqOp(t, "web", task.Parent)
}

// The namespace is the one that a start reads in: the config's, else VAULT_NAMESPACE of the task's environment, where a vault block's is
// beneath the job's own.
func TestNamespace(t *testing.T) {
	const secret = "image = \"x\"\nsecret \"a\" {\npath = \"secret/a\"\nfiles = true\n}\n"
	const env = "env {\nVAULT_NAMESPACE = %q\n}\n"
	vault := "vault {\nnamespace = \"team-a\"\n%s\n}\n"
	for _, tc := range []struct {
		task, config, want string
		unknown            bool
	}{
		{"", "", "", false},
		{"", "namespace = \"/mine/\"", "mine", false},
		{fmt.Sprintf(vault, ""), "", "team-a", false},
		{fmt.Sprintf(vault, "env = true"), "", "team-a", false},
		{fmt.Sprintf(vault, "env = false"), "", "", false},
		{fmt.Sprintf(vault, ""), "namespace = \"mine\"", "mine", false},
		{fmt.Sprintf(env, "team-b"), "", "team-b", false},
		{fmt.Sprintf(vault, "") + fmt.Sprintf(env, "team-b"), "", "team-b", false},
		{fmt.Sprintf(vault, "") + fmt.Sprintf(env, ""), "", "", false},
		{fmt.Sprintf(vault, "") + fmt.Sprintf(env, "${meta.x}"), "", "${meta.x}", true},
		{fmt.Sprintf(vault, "") + fmt.Sprintf(env, "${meta.x}"), "namespace = \"mine\"", "mine", false},
		{"", "namespace = \"${meta.x}\"", "${meta.x}", true},
		{"vault {\nnamespace = \"${meta.x}\"\n}\n", "", "${meta.x}", true},
		{"template {\ndata = \"VAULT_NAMESPACE=x\"\ndestination = \"local/x\"\nenv = true\n}", "", "${VAULT_NAMESPACE}", true},
		{"template {\ndata = \"X={{ env `VAULT_NAMESPACE` }}\"\ndestination = \"local/x\"\nenv = true\n}", "", "", false},
	} {
		c := ofJob(t, "", tc.task, secret+tc.config)
		must.SliceEmpty(t, c.Problems)
		text, known := c.Namespace()
		must.EqOp(t, tc.want, strings.Trim(text, "/"), must.Sprintf("%+v", tc))
		must.EqOp(t, !tc.unknown, known, must.Sprintf("%+v", tc))
		in := tc.want
		if tc.unknown {
			in = ""
		}
		must.EqOp(t, in, c.Spec.Namespace)
		must.EqOp(t, in, c.Spec.Secrets[0].Request.Namespace)
	}
	// Nomad Variables are in no namespace of Vault's.
	c := ofJob(t, "", fmt.Sprintf(vault, ""), "image = \"x\"\nsecret \"a\" {\nprovider = \"nomad\"\npath = \"nomad/jobs\"\nfiles = true\n}\n")
	text, known := c.Namespace()
	must.EqOp(t, "", text)
	must.True(t, known)
	must.EqOp(t, "", c.Spec.Secrets[0].Request.Namespace)

	// A job as nomad job run -vault-namespace has it.
	task := Task{VaultNamespace: "all", Task: &api.Task{Vault: &api.Vault{}}}
	text, _ = new(Config).namespaceOf(task)
	must.EqOp(t, "all", text)
}

// What only Nomad knows is no error, and what is known beside it is looked at all the same.
func TestPartlyKnown(t *testing.T) {
	const pulled = "secret \"reg\" {\npath = \"secret/reg\"\n}\nregistry_auth {\nsecret = %q\nserver_address = %q\n}\n"
	image := func(image, secret, server string) string {
		return fmt.Sprintf("image = %q\n"+pulled, image, secret, server)
	}
	signed := func(path string) string {
		return fmt.Sprintf("image = \"x\"\nsecret \"a\" {\npath = %q\nfiles = true\ncsr {\ncommon_name = \"x\"\n}\n}\n", path)
	}
	at := func(path string) string {
		return fmt.Sprintf("image = \"x\"\nsecret \"a\" {\npath = %q\nfiles = true\n}\n", path)
	}
	for _, tc := range []struct{ config, want string }{
		{image("registry.example.com/app:${NOMAD_META_version}", "reg", "registry.example.com"), ""},
		{image("registry.example.com/app@sha256:${meta.digest}", "reg", "https://registry.example.com/v2/"), ""},
		{image("https://registry.example.com/${meta.app}", "reg", "registry.example.com"), ""},
		{image("registry.example.com/app:${NOMAD_META_version}", "reg", "other.example.com"), `registry_auth: server_address "other.example.com" is another registry than the image's, which is registry.example.com`},
		{image("team/app:${NOMAD_META_version}", "reg", "other.example.com"), "which is docker.io"},
		{image("${meta.registry}/app:1", "reg", "registry.example.com"), ""},
		{image("registry.example.com:${meta.port}/app:1", "reg", "registry.example.com"), ""},
		{image("${meta.image}", "reg", "registry.example.com:5000"), ""},
		{image("app:${meta.version}", "reg", "registry.example.com"), ""}, // the version may be 5000/app
		{image("${meta.image}", "reg", "nohost"), "not a registry"},
		{image("registry.example.com/app:1", "reg", "${meta.registry}"), ""},
		{image("registry.example.com/app:1", "reg", "https://${meta.registry}/v2"), ""},
		{image("registry.example.com/app:1", "reg", "other.example.com/${meta.x}"), "is another registry than the image's"},
		{image("registry.example.com/app:1", "reg", "registry.example.com/${meta.x}"), ""},
		{image("registry.example.com/app:1", "${meta.secret}", "registry.example.com"), ""},
		{"image = \"x\"\nregistry_auth {\nsecret = \"${meta.secret}\"\n}\n", `registry_auth: secret "${meta.secret}" is not one of the task's, which declares none`},

		{signed("${meta.pki}/sign/web"), ""},
		{signed("pki/sign/${meta.role}"), ""},
		{signed("pki/${meta.what}"), ""},
		{signed("${meta.path}"), ""},
		{signed("${meta.pki}/issue/web"), `secret "a": csr: path "${meta.pki}/issue/web" is not one that signs`},
		{signed("sys/${meta.what}"), `path "sys/${meta.what}": sys/ holds the server's own settings`},

		{at("${meta.path}"), ""},
		{at("${meta.a}auth/b"), ""},
		{at("auth/${meta.a}"), `secret "a": path "auth/${meta.a}": auth/ holds the server's own settings`},
		{at("secret/${meta.a}/../b"), `".." is not allowed`},
		{at("${meta.ns}/auth/b") + "namespace = \"${meta.other}\"\n", ""},

		{at("secret/a") + "change_mode = \"${meta.mode}\"\n", ""},
		{strings.Replace(at("secret/a"), "files = true", "files = true\nchange_signal = \"SIGHUP\"", 1) + "change_mode = \"${meta.mode}\"\n", ""},
		{strings.Replace(signed("pki/sign/web"), "common_name = \"x\"", "dns_names = \"$${jsondecode(meta.names)}\"", 1), ""},
	} {
		c := ofJob(t, "", "", tc.config)
		if tc.want == "" {
			must.SliceEmpty(t, c.Problems, must.Sprintf("%s %v", tc.config, c.Problems))
			continue
		}
		must.Len(t, 1, c.Problems, must.Sprintf("%s %v", tc.config, c.Problems))
		must.StrContains(t, c.Problems[0].Text, tc.want)
	}
}

// Nomad joins a filepath to the task's directory.
func TestWrittenTo(t *testing.T) {
	for want, ids := range map[string][]api.WorkloadIdentity{
		"private/vault.jwt":      {{File: true, Filepath: "private/vault.jwt"}, {File: true, Filepath: "/private/vault.jwt"}, {File: true, Filepath: "private//vault.jwt"}, {File: true, Filepath: "./private/x/../vault.jwt"}},
		"../t/private/vault.jwt": {{File: true, Filepath: "../t/private/vault.jwt"}},
		"secrets/nomad_token":    {{File: true}, {File: true, Name: "default"}},
		"secrets/nomad_a.jwt":    {{File: true, Name: "a"}},
		"":                       {{}, {Name: "a"}},
	} {
		for _, id := range ids {
			must.EqOp(t, want, WrittenTo(&id))
		}
	}
}
