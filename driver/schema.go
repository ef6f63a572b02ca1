package driver

import (
	"maps"

	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

// secretsBlock is the operator's `secrets {}` block within a plugin's config.
var secretsBlock = hclspec.NewBlock("secrets", false, hclspec.NewObject(map[string]*hclspec.Spec{
	"address":         hclspec.NewAttr("address", "string", false),
	"namespace":       hclspec.NewAttr("namespace", "string", false),
	"ca_cert":         hclspec.NewAttr("ca_cert", "string", false),
	"ca_path":         hclspec.NewAttr("ca_path", "string", false),
	"client_cert":     hclspec.NewAttr("client_cert", "string", false),
	"client_key":      hclspec.NewAttr("client_key", "string", false),
	"tls_server_name": hclspec.NewAttr("tls_server_name", "string", false),
	"tls_skip_verify": hclspec.NewAttr("tls_skip_verify", "bool", false),
	"jwt": hclspec.NewBlock("jwt", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"path": withDefault("path", "string", `"jwt-nomad"`),
		"role": withDefault("role", "string", `"nomad-workloads"`),
		"file": withDefault("file", "string", `"private/vault.jwt"`),
	})),
	"nomad": hclspec.NewBlock("nomad", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"file":            withDefault("file", "string", `"private/nomad.jwt"`),
		"address":         hclspec.NewAttr("address", "string", false),
		"ca_cert":         hclspec.NewAttr("ca_cert", "string", false),
		"ca_path":         hclspec.NewAttr("ca_path", "string", false),
		"client_cert":     hclspec.NewAttr("client_cert", "string", false),
		"client_key":      hclspec.NewAttr("client_key", "string", false),
		"tls_server_name": hclspec.NewAttr("tls_server_name", "string", false),
		"tls_skip_verify": hclspec.NewAttr("tls_skip_verify", "bool", false),
	})),
	"poll_interval":        withDefault("poll_interval", "string", `"10s"`),
	"lease_check_interval": withDefault("lease_check_interval", "string", `"60s"`),
	"request_rate":         withDefault("request_rate", "number", `20`),
	"start_timeout":        withDefault("start_timeout", "string", `"2m"`),
	"from_policies":        withDefault("from_policies", "string", `"off"`),
	"token_file":           hclspec.NewAttr("token_file", "string", false),
	"token_file_paths":     hclspec.NewAttr("token_file_paths", "list(string)", false),
	"state_dir":            withDefault("state_dir", "string", `"/run/nomad-driver-secrets"`),
	"metrics": hclspec.NewBlock("metrics", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"address":    hclspec.NewAttr("address", "string", false),
		"per_secret": withDefault("per_secret", "bool", `true`),
	})),
}))

// fileBlock is a `file "PATH" {}` block, of a secret or of the task. A task's own takes templates
// only; Compile says so in words where a schema could not.
var fileBlock = hclspec.NewBlockMap("file", []string{"path"}, hclspec.NewObject(map[string]*hclspec.Spec{
	"field":    hclspec.NewAttr("field", "string", false),
	"template": hclspec.NewAttr("template", "string", false),
	"perms":    hclspec.NewAttr("perms", "string", false),
	"uid":      hclspec.NewAttr("uid", "number", false),
	"gid":      hclspec.NewAttr("gid", "number", false),
	"decode":   hclspec.NewAttr("decode", "string", false),
}))

var scriptBlock = hclspec.NewBlock("change_script", false, hclspec.NewObject(map[string]*hclspec.Spec{
	"command": hclspec.NewAttr("command", "string", true),
	"args":    hclspec.NewAttr("args", "list(string)", false),
	"timeout": hclspec.NewAttr("timeout", "string", false),
}))

var csrBlock = hclspec.NewBlock("csr", false, hclspec.NewObject(map[string]*hclspec.Spec{
	"common_name":  hclspec.NewAttr("common_name", "string", false),
	"dns_names":    hclspec.NewAttr("dns_names", "list(string)", false),
	"ip_addresses": hclspec.NewAttr("ip_addresses", "list(string)", false),
	"key_type":     hclspec.NewAttr("key_type", "string", false),
	"key_bits":     hclspec.NewAttr("key_bits", "number", false),
	"reuse_key":    hclspec.NewAttr("reuse_key", "bool", false),
}))

// taskKeys is what a task's config takes beside the wrapped driver's own keys. Maps are
// list(map(string)), which accepts both `env = {}` and `env {}`.
var taskKeys = map[string]*hclspec.Spec{
	"secret": hclspec.NewBlockMap("secret", []string{"name"}, hclspec.NewObject(map[string]*hclspec.Spec{
		"provider":      hclspec.NewAttr("provider", "string", false),
		"path":          hclspec.NewAttr("path", "string", true),
		"version":       hclspec.NewAttr("version", "number", false),
		"params":        hclspec.NewAttr("params", "list(map(string))", false),
		"csr":           csrBlock,
		"env":           hclspec.NewAttr("env", "list(map(string))", false),
		"env_prefix":    hclspec.NewAttr("env_prefix", "string", false),
		"file":          fileBlock,
		"files":         hclspec.NewAttr("files", "bool", false),
		"live_dir":      hclspec.NewAttr("live_dir", "string", false),
		"live_listing":  hclspec.NewAttr("live_listing", "bool", false),
		"live_stale":    hclspec.NewAttr("live_stale", "string", false),
		"change_mode":   hclspec.NewAttr("change_mode", "string", false),
		"change_signal": hclspec.NewAttr("change_signal", "string", false),
		"change_script": scriptBlock,
		"splay":         hclspec.NewAttr("splay", "string", false),
		"stagger":       hclspec.NewAttr("stagger", "string", false),
		"required":      hclspec.NewAttr("required", "bool", false),
	})),
	"file":          fileBlock,
	"role":          hclspec.NewAttr("role", "string", false),
	"namespace":     hclspec.NewAttr("namespace", "string", false),
	"identity_file": hclspec.NewAttr("identity_file", "string", false),
	"expose_token":  hclspec.NewAttr("expose_token", "bool", false),
	"from_policies": hclspec.NewAttr("from_policies", "string", false),
	"stop_signal":   hclspec.NewAttr("stop_signal", "string", false),
	"stop_timeout":  hclspec.NewAttr("stop_timeout", "string", false),
	"change_mode":   hclspec.NewAttr("change_mode", "string", false),
	"splay":         hclspec.NewAttr("splay", "string", false),
	"stagger":       hclspec.NewAttr("stagger", "string", false),

	"pre_stop_signal": hclspec.NewAttr("pre_stop_signal", "string", false),
	"pre_stop_wait":   hclspec.NewAttr("pre_stop_wait", "string", false),

	"registry_auth": hclspec.NewBlock("registry_auth", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"secret":         hclspec.NewAttr("secret", "string", true),
		"username":       hclspec.NewAttr("username", "string", false),
		"password":       hclspec.NewAttr("password", "string", false),
		"server_address": hclspec.NewAttr("server_address", "string", false),
	})),
}

func withDefault(name, kind, literal string) *hclspec.Spec {
	return hclspec.NewDefault(hclspec.NewAttr(name, kind, false), hclspec.NewLiteral(literal))
}

// extend is the inner driver's schema with our keys in it. The inner's is a package variable of
// Nomad's, so it is copied first.
func extend(inner *hclspec.Spec, keys map[string]*hclspec.Spec) *hclspec.Spec {
	all := maps.Clone(inner.GetObject().GetAttributes())
	maps.Copy(all, keys)
	return hclspec.NewObject(all)
}

// ConfigSchema is the inner driver's plugin options and the `secrets` block.
func (d *Driver) ConfigSchema() (*hclspec.Spec, error) {
	inner, err := d.inner.ConfigSchema()
	if err != nil {
		return nil, err
	}
	keys := map[string]*hclspec.Spec{"secrets": secretsBlock}
	maps.Copy(keys, d.wrapped.options)
	return extend(inner, keys), nil
}

// TaskConfigSchema is the inner driver's task options and ours.
func (d *Driver) TaskConfigSchema() (*hclspec.Spec, error) {
	inner, err := d.inner.TaskConfigSchema()
	if err != nil {
		return nil, err
	}
	return extend(inner, taskKeys), nil
}
