package driver

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/nomadvar"
)

// readOptions takes a plugin block's way: through the schema, the plugin boundary and our check. What
// Nomad refuses by the schema is the first error, as it tells it.
func readOptions(t *testing.T, name, config string) (options, error) {
	t.Helper()
	d := newDriver(t.Context(), name, served[name], testLog(t))
	defer d.Close()
	schema, err := d.ConfigSchema()
	must.NoError(t, err)
	spec, diags := hclspecutils.Convert(schema)
	must.SliceEmpty(t, diags)
	value, _, errs := hclutils.ParseHclInterface(hclutils.HclConfigToInterface(t, config), spec, nil)
	if len(errs) > 0 {
		return options{}, errors.Join(errs...)
	}
	var decoded map[string]any
	var cfg drivers.TaskConfig // only for its decoding
	must.NoError(t, cfg.EncodeDriverConfig(value))
	must.NoError(t, cfg.DecodeDriverConfig(&decoded))
	var raw []byte
	must.NoError(t, base.MsgPackEncode(&raw, decoded))
	return parseOptions(name, raw)
}

func TestOptions(t *testing.T) {
	for _, config := range []string{
		`config {}`,
		`config { secrets {} }`,
		`config { secrets { jwt {} } }`,
		`config { secrets { nomad {} } }`,
	} {
		o, err := readOptions(t, "raw_exec", config)
		must.NoError(t, err)
		must.Eq(t, "", o.vault.Address)
		must.Eq(t, "jwt-nomad", o.lifecycle.JWTMount)
		must.Eq(t, "nomad-workloads", o.lifecycle.JWTRole)
		must.Eq(t, "private/vault.jwt", o.lifecycle.JWTFile)
		must.Eq(t, nomadvar.Config{File: "private/nomad.jwt"}, o.nomad)
		must.Eq(t, "/run/nomad-driver-secrets", o.stateDir)
		must.Eq(t, 10*time.Second, o.lifecycle.PollInterval)
		must.Eq(t, time.Minute, o.lifecycle.LeaseCheckInterval)
		must.Eq(t, 2*time.Minute, o.lifecycle.StartTimeout)
		must.Eq(t, 20, o.lifecycle.RequestRate)
		must.Eq(t, "", o.metrics.Address)
	}

	o, err := readOptions(t, "docker-secrets", `config {
		endpoint = "unix:///run/other.sock"
		secrets {
			address          = "https://vault.example.com:8200"
			namespace        = "team"
			ca_cert          = "/not/there.pem"
			token_file       = "/not/there/either"
			token_file_paths = ["secret/*"]
			state_dir        = "/run/elsewhere/"
			poll_interval    = "1m"
			request_rate     = 0.5
			jwt {
				role = "other"
			}
			nomad {
				file    = "secrets/own.jwt"
				address = "https://127.0.0.1:4646"
				ca_cert = "/not/there.pem"
			}
		}
	}`)
	must.NoError(t, err) // files that are missing are no reason to stop an agent
	must.Eq(t, "https://vault.example.com:8200", o.vault.Address)
	must.Eq(t, "/not/there.pem", o.vault.CACert)
	must.Eq(t, "team", o.lifecycle.Namespace)
	must.Eq(t, []string{"secret/*"}, o.lifecycle.TokenFilePaths)
	must.Eq(t, "/run/elsewhere", o.stateDir)
	must.Eq(t, time.Minute, o.lifecycle.PollInterval)
	must.Eq(t, 0.5, o.lifecycle.RequestRate)
	must.Eq(t, "other", o.lifecycle.JWTRole)
	must.Eq(t, "jwt-nomad", o.lifecycle.JWTMount)
	must.Eq(t, nomadvar.Config{File: "secrets/own.jwt", Address: "https://127.0.0.1:4646", CACert: "/not/there.pem"}, o.nomad)
	must.Eq(t, "unix:///run/other.sock", o.docker.host)

	o, err = readOptions(t, "docker", `config { secrets { metrics { address = "127.0.0.1:9641" } } }`)
	must.NoError(t, err)
	must.Eq(t, metricsConfig{Address: "127.0.0.1:9641", PerSecret: true}, o.metrics)
	o, err = readOptions(t, "docker", `config { secrets { metrics {
		address    = "[::]:9641"
		per_secret = false
	} } }`)
	must.NoError(t, err)
	must.Eq(t, metricsConfig{Address: "[::]:9641"}, o.metrics)
}

// What is wrong is refused, by its key.
func TestWrongOptions(t *testing.T) {
	for _, c := range []struct{ secrets, says string }{
		{`adress = "http://127.0.0.1:8200"`, `No argument or block type is named "adress"`},
		{`jwt { rule = "x" }`, `No argument or block type is named "rule"`},
		{`request_rate = "fast"`, "a number is required"},
		{`poll_interval = "soon"`, `plugin "raw_exec": secrets.poll_interval: "soon" is not a duration; write it like "10s" or "2m"`},
		{`poll_interval = "10ms"`, "secrets.poll_interval: 10ms is too short; the least is 1s"},
		{`poll_interval = ""`, `secrets.poll_interval: "" is not a duration`},
		{`lease_check_interval = "60"`, `secrets.lease_check_interval: "60" is not a duration`},
		{`start_timeout = "-2m"`, "secrets.start_timeout: -2m is too short"},
		{`request_rate = 0`, "secrets.request_rate: 0 is not a rate"},
		{`from_policies = "some"`, `secrets.from_policies: "some" is not known; use off, env, files or all`},
		{`state_dir = "run"`, `secrets.state_dir: "run" is not an absolute path`},
		{`metrics { adress = "x" }`, `No argument or block type is named "adress"`},
		{`metrics { address = "9641" }`, `secrets.metrics.address: "9641" is not an address to listen at; write it like "127.0.0.1:9641"`},
		{`metrics { address = "127.0.0.1:0" }`, `secrets.metrics.address: "127.0.0.1:0" is not an address`},
		{`token_file = "token"`, `secrets.token_file: "token" is not an absolute path`},
		{`token_file = "/token"`, "secrets.token_file_paths: needed with token_file"},
		{`token_file_paths = ["secret/*"]`, "secrets.token_file_paths: set without token_file"},
		{`client_cert = "/cert.pem"`, "secrets.client_cert: client_cert and client_key go together"},
		{`address = "vault:8200"`, `plugin "raw_exec": secrets.address: "vault:8200" is not a URL that begins with https://, http:// or unix://`},
		{`nomad { address = "127.0.0.1:4646" }`, `secrets.nomad.address: not a URL, such as "https://127.0.0.1:4646"`},
		{`nomad { address = "unix:///run/nomad.sock" }`, `secrets.nomad.address: "unix:///run/nomad.sock" is not a URL that begins with https:// or http://`},
		{`nomad { address = "https://user:hunter2@:80:90" }`, "secrets.nomad.address: not a URL"},
		{`nomad { ca_cert = "/ca.pem" }`, "secrets.nomad.address: missing"},
		{`nomad { client_cert = "/cert.pem" }`, "secrets.nomad.client_cert: client_cert and client_key go together"},
		{`nomad { file = "../other/private/nomad.jwt" }`, `secrets.nomad.file: "../other/private/nomad.jwt" is not a path below the task directory`},
		{`address = "https://user:hunter2@:80:90"`, "secrets.address: not a URL"},
	} {
		t.Run(c.secrets, func(t *testing.T) {
			_, err := readOptions(t, "raw_exec", "config { secrets { "+c.secrets+" } }")
			must.ErrorContains(t, err, c.says)
		})
	}
}
