package check

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// fakeServer has engines, and a token with rights.
type fakeServer struct {
	mounts map[string]vault.Mount
	rights map[string][]string
	// instead is what is said of paths on no mount.
	instead map[string]string
	err     error
}

func (f fakeServer) MountOf(_ context.Context, _ secrets.Token, _, path string) (vault.Mount, bool, error) {
	first, _, _ := strings.Cut(path, "/")
	m, ok := f.mounts[first]
	return m, ok, f.err
}

func (f fakeServer) SeenInstead(_ context.Context, _ secrets.Token, _, path string) string {
	return f.instead[path]
}

func (f fakeServer) Capabilities(_ context.Context, _ secrets.Token, _ string, paths []string) (map[string][]string, error) {
	all := map[string][]string{}
	for _, path := range paths {
		all[path] = f.rights[path]
	}
	return all, nil
}

func (f fakeServer) Whose(context.Context, secrets.Token) (string, error) { return `"me"`, nil }

const liveJob = `job "web" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }
    task "app" {
      driver = "docker"
      vault {
        change_mode = "noop"
      }
      config {
        image = "x"
        secret "kv" {
          path  = "secret/app"
          files = true
        }
        secret "db" {
          path  = "database/creds/app"
          files = true
        }
        secret "typo" {
          path  = "database/role/app"
          files = true
        }
        secret "written" {
          path   = "secret/written"
          params = { a = "b" }
          files  = true
        }
        secret "away" {
          path  = "none/app"
          files = true
        }
        secret "mount" {
          path  = "databse/creds/app"
          files = true
        }
        secret "later" {
          path  = "secret/${meta.x}"
          files = true
        }
      }
    }
  }
}
`

// Live tells of each path what it is and whether this token may use it, and whose token that is.
func TestLive(t *testing.T) {
	server := fakeServer{
		mounts:  map[string]vault.Mount{"secret": {Path: "secret/", Type: "kv", V2: true}, "database": {Path: "database/", Type: "database"}},
		rights:  map[string][]string{"secret/data/app": {"list", "read"}, "database/creds/app": {"read"}, "database/role/app": {"deny"}},
		instead: map[string]string{"databse/creds/app": `is it mistyped for "database/"?`},
	}
	file, problems := jobfile.Parse("job", []byte(liveJob), jobfile.Options{})
	must.SliceEmpty(t, problems)
	r := Job(file, Options{})
	must.SliceEmpty(t, r.Findings)
	must.NoError(t, r.Live(t.Context(), server, secrets.Token{}))

	var found []string
	for _, f := range r.Findings {
		found = append(found, f.At.String()+": "+string(f.Severity)+": "+f.Text)
	}
	must.Eq(t, []string{
		`job:19: warning: secret "db": this token may not update sys/leases/revoke (it has: nothing)`,
		`job:23: warning: secret "typo": path "database/role/app": the engine "database" has credentials at creds/ and static-creds/: is "role/app" mistyped?`,
		`job:23: warning: secret "typo": this token may not read database/role/app (it has: deny)`,
		"job:27: error: secret \"written\": write secret/written: `params` would overwrite the secret: secret/ is a kv mount; leave them out to read it",
		`job:32: warning: secret "away": path "none/app": no engine is mounted there, or this token has no right on it`,
		`job:36: warning: secret "mount": path "databse/creds/app": is it mistyped for "database/"?`,
	}, found)
	var out strings.Builder
	must.NoError(t, r.Print(&out, Style{}))
	must.StrContains(t, out.String(), `Judged by the rights of the token "me", which need not be the task's.`)
	must.StrContains(t, out.String(), "secret/app (kv v2)")
	for _, s := range r.Tasks[0].Secrets {
		switch s.Name {
		case "kv":
			must.True(t, *s.Allowed)
		case "db", "typo":
			must.False(t, *s.Allowed)
		default:
			must.Nil(t, s.Allowed)
		}
	}

	server.err = errors.New("no answer")
	must.ErrorContains(t, r.Live(t.Context(), server, secrets.Token{}), "no answer")
}

// inNamespaces notes in which namespaces it is asked.
type inNamespaces struct {
	fakeServer
	asked map[string]bool
}

func (f inNamespaces) MountOf(ctx context.Context, tok secrets.Token, namespace, path string) (vault.Mount, bool, error) {
	f.asked["mount of "+path+" in "+namespace] = true
	return f.fakeServer.MountOf(ctx, tok, namespace, path)
}

func (f inNamespaces) Capabilities(ctx context.Context, tok secrets.Token, namespace string, paths []string) (map[string][]string, error) {
	f.asked["capabilities in "+namespace] = true
	return f.fakeServer.Capabilities(ctx, tok, namespace, paths)
}

// The server is asked in the namespace that a start reads in, which a vault block may name; and not at all if only Nomad knows it.
func TestLiveNamespace(t *testing.T) {
	for in, want := range map[string]map[string]bool{
		`namespace = "team-a"`:                  {"mount of secret/app in team-a": true, "capabilities in team-a": true},
		`namespace = "${meta.team}"`:            {},
		"namespace = \"team-a\"\n  env = false": {"mount of secret/app in ": true, "capabilities in ": true},
	} {
		job := strings.Replace(liveJob, `change_mode = "noop"`, "change_mode = \"noop\"\n"+in, 1)
		before, _, _ := strings.Cut(job, `secret "db"`)
		file, problems := jobfile.Parse("job", []byte(before+"}\n}\n}\n}\n"), jobfile.Options{})
		must.SliceEmpty(t, problems)
		server := inNamespaces{fakeServer{mounts: map[string]vault.Mount{"secret": {Path: "secret/", Type: "kv", V2: true}}}, map[string]bool{}}
		must.NoError(t, Job(file, Options{}).Live(t.Context(), server, secrets.Token{}))
		must.Eq(t, want, server.asked)
	}
}
