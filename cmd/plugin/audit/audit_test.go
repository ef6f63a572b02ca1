package audit

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
)

// whereOnly is how a value in a file may be told of: by where it is.
var whereOnly = regexp.MustCompile(`^secrets/file( line \d+)?$`)

const alloc = "5a1e7c1e-0000-4000-8000-000000000001"

// texts are what is looked for.
func (v *values) texts() (all []string) {
	for text := range v.all {
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

func TestFilesOfSecrets(t *testing.T) {
	long := strings.Repeat("Zq7", 20)
	for _, tc := range []struct {
		name, content string
		want          []string
	}{
		{"one line", "hunter2-and-more\n", []string{"hunter2-and-more"}},
		{"base64 has an = in it", "c2VjcmV0LXNlY3JldA==", []string{"c2VjcmV0LXNlY3JldA=="}},
		{"env file", "# comment\nDB_PASSWORD=correcthorsebattery\nexport TOKEN=\"a \\\"quoted\\\" one\"\nLOG_LEVEL=production-one\nURL=postgres://u:Xk29fa83Qw@db/app\n",
			[]string{`a "quoted" one`, "correcthorsebattery", "postgres://u:Xk29fa83Qw@db/app"}},
		{"one setting", "PASSWORD=correcthorsebattery", []string{"correcthorsebattery"}},
		{"configuration", "[client]\nuser = someordinaryuser\npassword = 'correct horse'\n", []string{"correct horse"}},
		{"YAML", "db:\n  password: correcthorsebattery\n  host: db.example.com\n", []string{"correcthorsebattery"}},
		{"JSON", `{"user":"someordinaryuser","nested":[{"api_key":"correcthorsebattery"},"Ab3` + long + `"],"pin_code":123456789}`,
			[]string{"Ab3" + long, "correcthorsebattery"}},
		{"bare lines", "someordinaryuser\n" + long + "\n", []string{long}},
		{"key", "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIabc123def456\n-----END EC PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\nMIIBpublicpublic1234\n-----END CERTIFICATE-----\n",
			[]string{"MHcCAQEEIabc123def456"}},
		{"certificate", "-----BEGIN CERTIFICATE-----\nMIIBpublicpublic1234\n-----END CERTIFICATE-----\n", nil},
		{"short", "pin", nil},
		{"word", "production", nil},
		{"address", "https://vault.example.com:8200/v1", nil},
		{"webhook", "https://hooks.example.com/services/T0AB12CD3/B0EF45GH6/x9Yz8Wv7Ut6S", []string{"https://hooks.example.com/services/T0AB12CD3/B0EF45GH6/x9Yz8Wv7Ut6S"}},
		{"host", "db-1.production.example.com:5432", nil},
		{"path", "/etc/ssl/certs/app.pem", nil},
		{"names its allocation", "/opt/nomad/alloc/" + alloc + "/web", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := newValues()
			v.addFile(v.task(alloc, "web"), "secrets/file", []byte(tc.content))
			must.Eq(t, tc.want, v.texts())
			if len(tc.want) == 0 {
				must.Positive(t, v.Short+v.Ordinary+v.Public, must.Sprint("what is not looked for is counted"))
			}
			for _, value := range v.all { // where, and nothing of what
				for _, o := range value.owners {
					must.RegexMatch(t, whereOnly, o.what)
				}
			}
		})
	}
}

// A hostile task cannot hold the audit up, send it elsewhere, or fill its memory.
func TestHostileSecretsDirectory(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	of := filepath.Join(dir, alloc, "web", "secrets")
	must.NoError(t, os.MkdirAll(filepath.Join(of, "a/b"), 0o700))
	must.NoError(t, os.MkdirAll(filepath.Join(dir, alloc, "web", "local"), 0o700))
	must.NoError(t, os.WriteFile(filepath.Join(elsewhere, "x"), []byte("another-ones-secret"), 0o600))
	must.NoError(t, os.Symlink(elsewhere, filepath.Join(of, "link")))
	must.NoError(t, os.Symlink(filepath.Join(elsewhere, "x"), filepath.Join(of, "file-link")))
	must.NoError(t, unix.Mkfifo(filepath.Join(of, "fifo"), 0o600))
	must.NoError(t, os.WriteFile(filepath.Join(of, "a/b/deep"), []byte("a-value-that-is-deep"), 0o600))
	must.NoError(t, os.WriteFile(filepath.Join(dir, alloc, "web", "local", "x"), []byte("a-value-of-the-task"), 0o600))
	must.NoError(t, os.Truncate(filepath.Join(of, "a/b/deep"), 1<<40)) // a terabyte, of which nothing is on disk
	for i := range maxTaskFiles + 5 {
		must.NoError(t, os.WriteFile(filepath.Join(of, fmt.Sprintf("z%04d", i)), []byte(rand.Text()), 0o600))
	}
	v := newValues()
	must.NoError(t, v.collectFiles(t.Context(), dir))
	found := strings.Join(v.texts(), "\n")
	must.StrContains(t, found, "a-value-that-is-deep")
	must.StrNotContains(t, found, "another-ones-secret")
	must.StrNotContains(t, found, "a-value-of-the-task")
	must.Positive(t, v.TooMany)
	for text := range v.all {
		must.LessEq(t, maxText, len(text))
	}
}

func TestJournalsValues(t *testing.T) {
	state := t.TempDir()
	dir := filepath.Join(state, "journal", "docker")
	must.NoError(t, os.MkdirAll(dir, 0o700))
	task := journal.Task{Driver: "docker", AllocID: alloc, Name: "web"}
	prefix := "APP_"
	j, err := journal.Create(dir, journal.Entry{Task: task, OwnEnv: []string{"APP_MODE"}, Config: secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{
		"db":  {Path: "database/creds/app", Env: []map[string]string{{"DB_PASSWORD": "password"}}},
		"app": {Path: "secret/app", EnvPrefix: &prefix},
	}}})
	must.NoError(t, err)
	must.NoError(t, j.SaveToken(journal.FromIdentity, secrets.Token{ID: "1", Value: secrets.TextValue("hvs.the-tasks-token")}))
	must.NoError(t, j.Save(map[string]secrets.Fields{"db": secrets.NewFields(map[string]any{"username": "v-jwt-app-1", "password": "leased-password"})}, func(*journal.Entry) {}))

	v := newValues()
	configs, err := v.collectJournals(state)
	must.NoError(t, err)
	must.Eq(t, []string{"hvs.the-tasks-token", "leased-password", "v-jwt-app-1"}, v.texts())
	web := v.task(alloc, "web")
	must.Eq(t, Task{Alloc: alloc, Name: "web", Driver: "docker", Plugin: true}, *web)

	v = newValues()
	web = v.task(alloc, "web")
	v.addEnv(web, configs[web.key()], map[string]string{
		"DB_PASSWORD": "current-password", "APP_KEY": "a-key-of-the-app", "APP_MODE": "mode-of-the-job", "OTHER": "of-the-image-itself", "NOMAD_ALLOC_ID": alloc,
	})
	must.Eq(t, []string{"a-key-of-the-app", "current-password"}, v.texts())
	granted := configs[web.key()]
	granted.config.FromPolicies = "all"
	v.addEnv(web, granted, map[string]string{"APP2_KEY": "granted-by-policies", "APP_MODE": "mode-of-the-job", "PATH": "/usr/local/special:/usr/bin"})
	must.Eq(t, []string{"a-key-of-the-app", "current-password", "granted-by-policies"}, v.texts())
}

// One leak for a value in a place, of the task whose place it is, and never the value.
func TestReport(t *testing.T) {
	const other = "5a1e7c1e-0000-4000-8000-000000000002"
	value := rand.Text()
	v := newValues()
	web, neighbour := v.task(alloc, "web"), v.task(other, "web")
	web.Driver, neighbour.Driver, neighbour.Plugin = "docker", "docker", true
	v.add(web, "secrets/app.env line 1", value)
	v.add(neighbour, `secret "app", field "value"`, value)
	canaries, find := v.canaries()
	must.Len(t, 1, canaries)
	scanner, err := leakscan.New(canaries...)
	must.NoError(t, err)
	quoted, err := json.Marshal(map[string][]string{"Env": {"A=" + value, "B=" + value}})
	must.NoError(t, err)
	hostile := "x\x1b[2J" + value
	found, err := scanner.Scan(t.Context(), leakscan.Text("docker inspect", "web-"+alloc, quoted), leakscan.Text("Nomad's data", hostile, []byte(value)))
	must.NoError(t, err)
	var all leaks
	for _, hit := range found.Hits {
		all.add(find[hit.Canary], hit)
	}
	must.Len(t, 3, all.all) // the second place is of neither
	a := audit{values: v}
	a.report.Leaks, a.report.Values = all.all, 1
	r := a.finish()
	must.False(t, r.Clean())

	var out strings.Builder
	must.NoError(t, Write(screen.Screen{Out: &out}, r))
	must.StrContains(t, out.String(), "LEAK  task web, alloc 5a1e7c1e, driver docker, put there by Nomad: secrets/app.env line 1 is in docker inspect: web-"+alloc+" (plain, 2 times)\n")
	must.StrContains(t, out.String(), "found: 1 value of this plugin's, 1 that Nomad put there\n")
	for line := range strings.Lines(onTerminal(t, r)) {
		must.LessEq(t, 80, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), must.Sprint(line))
	}
	encoded, err := json.Marshal(r)
	must.NoError(t, err)
	for _, printed := range []string{out.String(), string(encoded)} {
		must.StrNotContains(t, printed, value)
		must.StrNotContains(t, printed, "\x1b")
	}
	must.True(t, Report{}.Clean())
	must.False(t, Report{Errors: []string{"Docker: away"}}.Clean(), must.Sprint("what was not looked at is not clean"))
}

// onTerminal is what one of 80 columns shows of a report, without its colours.
func onTerminal(t *testing.T, r Report) string {
	t.Helper()
	var out strings.Builder
	must.NoError(t, Write(screen.Screen{Out: &out, Terminal: true, Width: 80, Colours: true}, r))
	must.StrContains(t, out.String(), "\x1b[31mLEAK\x1b[0m  task web")
	return text.StripEscape(out.String())
}

func TestProcesses(t *testing.T) {
	must.MapEmpty(t, environ("/proc/self/environ-that-is-not-there"))
	must.Positive(t, parentOf("/proc/self"))
	must.NotEq(t, "", driverOf("/proc/self"))
}
