package driver

import (
	"testing"
	"time"

	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// dockerJob has every kind of option of the wrapped driver beside ours, maps both as attributes and
// as blocks.
const dockerJob = `
config {
  image      = "busybox:1"
  command    = "/bin/sh"
  args       = ["-c", "sleep 1"]
  entrypoint = ["/entry", "point"]
  port_map {
    http = 8080
  }
  labels {
    team = "a"
  }
  cpu_hard_limit = true
  shm_size       = 65536
  mount {
    type   = "tmpfs"
    target = "/scratch"
    tmpfs_options {
      size = 100000
    }
  }
  logging {
    type = "json-file"
    config {
      max-size = "1m"
    }
  }
  volumes = ["local/a:/a"]

  secret "db" {
    path = "database/creds/app"
    env  = { DB_USER = "username", DB_PASSWORD = "password" }
    change_script {
      command = "/bin/reload"
      args    = ["now"]
      timeout = "9s"
    }
    required = false
  }
  secret "app" {
    path       = "secret/app-1"
    version    = 3
    env_prefix = "APP_"
    files      = true
    env {
      A = "a"
      B = "b"
    }
  }
  secret "tls" {
    path   = "pki/issue/web"
    params = { common_name = "web.example.com", ttl = "24h" }
    file "tls/cert.pem" {
      template = "{{ .certificate }}"
    }
    file "tls/key.pem" {
      field = "private_key"
      perms = "0440"
      uid   = 1000
      gid   = 0
    }
  }
  secret "own" {
    path = "pki/sign/web"
    csr {
      common_name  = "web.example.com"
      dns_names    = ["a.example.com", "b.example.com"]
      ip_addresses = ["10.0.0.1"]
      key_type     = "rsa"
      key_bits     = 3072
      reuse_key    = true
    }
  }
  file "my.cnf" {
    template = "user={{ .db.username }}"
  }
  expose_token = true
  splay        = "1s"

  pre_stop_signal = "SIGUSR1"
  pre_stop_wait   = "30s"

  registry_auth {
    secret         = "db"
    password       = "token"
    server_address = "registry.example.com"
  }
}`

func taskSchema(t *testing.T, inner drivers.DriverPlugin) *hclspec.Spec {
	spec, err := inner.TaskConfigSchema()
	must.NoError(t, err)
	return extend(spec, taskKeys)
}

// Ours and the wrapped driver's options are read from one config, each blind to the other's.
func TestTaskConfigCarriesBoth(t *testing.T) {
	inner := docker.NewDockerDriver(t.Context(), testLog(t))
	schema := taskSchema(t, inner)
	parser := hclutils.NewConfigParser(schema)

	var ours secrets.TaskConfig
	parser.ParseHCL(t, dockerJob, &ours)
	must.MapLen(t, 4, ours.Secrets)
	db, app, tls := ours.Secrets["db"], ours.Secrets["app"], ours.Secrets["tls"]
	must.Eq(t, "database/creds/app", db.Path)
	must.Eq(t, []map[string]string{{"DB_USER": "username", "DB_PASSWORD": "password"}}, db.Env)
	must.Eq(t, &secrets.ScriptConfig{Command: "/bin/reload", Args: []string{"now"}, Timeout: "9s"}, db.ChangeScript)
	must.False(t, *db.Required)
	must.Nil(t, db.EnvPrefix)
	must.Eq(t, 3, app.Version)
	must.Eq(t, "APP_", *app.EnvPrefix)
	must.True(t, app.AllFiles)
	must.Nil(t, app.Required)
	must.Nil(t, app.ChangeScript)
	must.Eq(t, []map[string]string{{"A": "a", "B": "b"}}, app.Env)
	must.SliceEmpty(t, app.Params)
	must.Eq(t, []map[string]string{{"common_name": "web.example.com", "ttl": "24h"}}, tls.Params)
	must.Nil(t, tls.CSR)
	must.Eq(t, &secrets.CSRConfig{
		CommonName: "web.example.com", DNSNames: []string{"a.example.com", "b.example.com"}, IPAddresses: []string{"10.0.0.1"},
		KeyType: "rsa", KeyBits: 3072, ReuseKey: true,
	}, ours.Secrets["own"].CSR)
	must.SliceEmpty(t, tls.Env)
	must.MapLen(t, 2, tls.Files)
	must.Nil(t, tls.Files["tls/cert.pem"].UID)
	must.Eq(t, "0440", tls.Files["tls/key.pem"].Perms)
	must.Eq(t, 1000, *tls.Files["tls/key.pem"].UID)
	must.Eq(t, 0, *tls.Files["tls/key.pem"].GID)
	must.MapLen(t, 1, ours.Files)
	must.True(t, ours.ExposeToken)
	must.Eq(t, "1s", ours.Splay)
	must.Eq(t, "SIGUSR1", ours.PreStopSignal)
	must.Eq(t, "30s", ours.PreStopWait)
	must.Eq(t, &secrets.RegistryAuthConfig{Secret: "db", Password: "token", ServerAddress: "registry.example.com"}, ours.RegistryAuth)

	var theirs docker.TaskConfig
	parser.ParseHCL(t, dockerJob, &theirs)
	must.Eq(t, "busybox:1", theirs.Image)
	must.Eq(t, []string{"-c", "sleep 1"}, theirs.Args)
}

// A restart in place hands the wrapped driver its config anew, from the journal: it must be the same.
func TestWrappedOptionsSurviveTheJournal(t *testing.T) {
	inner := docker.NewDockerDriver(t.Context(), testLog(t))
	parser := hclutils.NewConfigParser(taskSchema(t, inner))
	var want docker.TaskConfig
	parser.ParseHCL(t, dockerJob, &want)
	var options map[string]any
	parser.ParseHCL(t, dockerJob, &options)

	cfg := &drivers.TaskConfig{ID: "a/b/c", Name: "b", AllocID: "a", Env: map[string]string{"X": "y"}}
	raw, err := record{HandleState: []byte{1, 2}, Image: "sha256:x"}.encode(cfg, options)
	must.NoError(t, err)
	n, cfg2, options2, err := decodeRecord(raw)
	must.NoError(t, err)
	must.Eq(t, "sha256:x", n.Image)
	must.Eq(t, cfg.Env, cfg2.Env)
	must.NoError(t, cfg2.EncodeConcreteDriverConfig(options2))
	var got docker.TaskConfig
	must.NoError(t, cfg2.DecodeDriverConfig(&got))
	must.Eq(t, want, got)
}

// Beside the built-in driver, ours leaves containers that it does not know alone (docs/nomad.md).
func TestReconcilerIsOffBeside(t *testing.T) {
	inner := docker.NewDockerDriver(t.Context(), testLog(t))
	spec, err := inner.ConfigSchema()
	must.NoError(t, err)
	parser := hclutils.NewConfigParser(spec)
	for _, job := range []string{`config {}`, `config { gc { image = false } }`} {
		var m map[string]any
		parser.ParseHCL(t, job, &m)
		var raw []byte
		must.NoError(t, base.MsgPackEncode(&raw, m))
		off, err := dockerConfig(raw, true)
		must.NoError(t, err)
		var was, is docker.DriverConfig
		must.NoError(t, base.MsgPackDecode(raw, &was))
		must.NoError(t, base.MsgPackDecode(off, &is))
		must.True(t, was.GC.DanglingContainers.Enabled)
		must.False(t, is.GC.DanglingContainers.Enabled)
		was.GC.DanglingContainers, is.GC.DanglingContainers = docker.ContainerGCConfig{}, docker.ContainerGCConfig{}
		must.Eq(t, was.GC, is.GC)
		must.Eq(t, was.Volumes, is.Volumes)
	}
}

// C10: the image that a restart in place uses again stays for longer than the restart takes, whatever the operator says of images that
// no task uses.
func TestImagesDoNotGoAtOnce(t *testing.T) {
	inner := docker.NewDockerDriver(t.Context(), testLog(t))
	spec, err := inner.ConfigSchema()
	must.NoError(t, err)
	parser := hclutils.NewConfigParser(spec)
	for given, want := range map[string]string{
		`config {}`: "3m", `config { gc { image_delay = "0s" } }`: "3m", `config { gc { image_delay = "-1s" } }`: "3m",
		`config { gc { image_delay = "179s" } }`: "3m", `config { gc { image_delay = "181s" } }`: "181s",
		`config { gc { image_delay = "soon" } }`: "soon", // refused by the wrapped driver
	} {
		var m map[string]any
		parser.ParseHCL(t, given, &m)
		var raw []byte
		must.NoError(t, base.MsgPackEncode(&raw, m))
		for _, beside := range []bool{true, false} {
			changed, err := dockerConfig(raw, beside)
			must.NoError(t, err)
			var was, is docker.DriverConfig
			must.NoError(t, base.MsgPackDecode(raw, &was))
			must.NoError(t, base.MsgPackDecode(changed, &is))
			must.EqOp(t, want, is.GC.ImageDelay, must.Sprint(given))
			if !beside {
				was.GC.ImageDelay, is.GC.ImageDelay = "", ""
				must.Eq(t, was.GC, is.GC)
			}
		}
	}
	for _, without := range [][]byte{nil, {0x80}} {
		same, err := dockerConfig(without, false)
		must.NoError(t, err)
		must.Eq(t, without, same)
	}
	wait, err := time.ParseDuration(leastImageDelay)
	must.NoError(t, err)
	must.Greater(t, engineAllowance, wait)
}
