package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/docs/pages"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// idiom is one of docs/migrating.md: what stands in a task before the change, and what after it.
type idiom struct{ name, before, after string }

// migratingIdioms are those of the page, and what each job has once.
func migratingIdioms(t *testing.T) (identity string, all []idiom) {
	t.Helper()
	blocks, err := pages.Of(repoRoot(t), "docs/migrating.md")
	require.NoError(t, err)
	blocks = slices.DeleteFunc(blocks, func(b pages.Block) bool { return b.Lang != "hcl" })
	require.Equal(t, 1, len(blocks)%2, "an identity, and pairs")
	for pair := range slices.Chunk(blocks[1:], 2) {
		all = append(all, idiom{name: fmt.Sprintf("line-%d", pair[0].Line), before: pair[0].Text, after: pair[1].Text})
	}
	return blocks[0].Text, all
}

// migratingRun prints the task's variables, and then lives on.
const migratingRun = `
  command = "sh"
  args    = ["-c", "env; echo printed; trap exit TERM; while true; do sleep 1; done"]
`

// migratingJob has a group for each idiom, of two tasks that differ in where their secrets come from.
func migratingJob(id, identity string, idioms []idiom) string {
	var groups strings.Builder
	for _, i := range idioms {
		before := "config {\n  image = \"" + lab.ExampleImage + "\"\n" + migratingRun + "}\nvault {\n  role = \"migrating\"\n}\n" + i.before
		config := migratingRun
		if !nomadsOwn.MatchString(i.after) {
			config += "  role = \"migrating\"\n"
		}
		after := strings.Replace(i.after, "config {\n", "config {\n"+config, 1)
		fmt.Fprintf(&groups, "group %q {\n", i.name)
		for task, inside := range map[string]string{"before": before, "after": identity + after} {
			fmt.Fprintf(&groups, "task %q {\n driver = \"docker\"\n resources {\n cpu = 20\n memory = 32\n }\n%s}\n", task, inside)
		}
		groups.WriteString("}\n")
	}
	return fmt.Sprintf("job %q {\n%s}\n", id, groups.String())
}

// nomadsOwn is in an idiom whose secrets are not from Vault, where a role is an error.
var nomadsOwn = regexp.MustCompile(`provider += "nomad"`)

type migratingLab struct{ *lab.Lab }

// Each idiom of docs/migrating.md gives a task the same before and after: the same variables, and files with the same content, from a real
// Vault and from Nomad's variables. What may be missing is so at first, and then there.
func TestMigratingIdiomsAreTheSame(t *testing.T) {
	t.Parallel()
	vault, err := shared.NewVault(t.Context(), "vault-migrating")
	require.NoError(t, err)
	l := migratingLab{newOwnLab(t, harness.AgentOptions{Name: "migrating", Placement: harness.InPlace, Vault: vault}, 6*time.Minute)}
	require.NoError(t, l.Images.Named(l.Ctx, lab.ExampleImage))
	require.NoError(t, vault.EnableKV2(l.Ctx, "secret"))
	require.NoError(t, vault.PutKV2(l.Ctx, "secret", "app-1", map[string]any{"username": "app", "password": "first", "api_key": "a2V5"}))
	require.NoError(t, vault.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(t, vault.DatabaseRole(l.Ctx, "database", "app", hour, hour))
	require.NoError(t, vault.EnablePKI(l.Ctx, "pki", "web"))
	require.NoError(t, vault.Policy(l.Ctx, "migrating", `
path "secret/data/*" { capabilities = ["read"] }
path "secret/metadata/*" { capabilities = ["list"] }
path "database/creds/app" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["create", "update"] }
path "sys/leases/revoke" { capabilities = ["update"] }`))
	l.AllowRole("migrating")
	l.PutVariable("default", "nomad/jobs/web", "of-nomad")

	identity, idioms := migratingIdioms(t)
	require.GreaterOrEqual(t, len(idioms), 9)
	l.sameBeforeAndAfter(l.Submit(migratingJob("web", identity, idioms)), idioms)

	optional := slices.DeleteFunc(slices.Clone(idioms), func(i idiom) bool { return !strings.Contains(i.after, "required = false") })
	require.Len(t, optional, 1)
	require.NoError(t, vault.PutKV2(l.Ctx, "secret", "extra", map[string]any{"key": "now there"}))
	l.sameBeforeAndAfter(l.Submit(migratingJob("extra", identity, optional)), optional)
}

// sameBeforeAndAfter compares the two tasks of each idiom.
func (l migratingLab) sameBeforeAndAfter(job *harness.Job, idioms []idiom) {
	l.T.Helper()
	for _, i := range idioms {
		alloc := l.GroupAlloc(job, i.name)
		for _, task := range []string{"before", "after"} {
			l.Until(i.name+", task "+task, func() error {
				printed, err := alloc.Lines(task, "printed")
				if err == nil && len(printed) == 0 {
					events, _ := alloc.Events(l.Ctx, task)
					err = fmt.Errorf("it does not run:\n%s", strings.Join(events, "\n"))
				}
				return err
			})
		}
		before, after := l.got(alloc, "before"), l.got(alloc, "after")
		require.Equal(l.T, before, after, "docs/migrating.md, %s:\n%s\n%s", i.name, i.before, i.after)
		l.T.Logf("%s: %q", i.name, after)
	}
}

var (
	notSecrets = regexp.MustCompile(`^(NOMAD_|VAULT_|HOSTNAME=|HOME=|PATH=|PWD=|SHLVL=|printed$)`)
	user       = regexp.MustCompile(`(?mi)^((?:DB_)?USER)=(v-\S+)$`)
	password   = regexp.MustCompile(`(?mi)^((?:DB_)?PASSWORD)=(\S+)$`)
)

// got is what a task has of its secrets: variables, and files by their names. Credentials that were made for it, and are good, are replaced
// by what they are; of certificates and keys their kinds are given, in whichever files they are.
func (l migratingLab) got(alloc *harness.Alloc, task string) map[string]string {
	l.T.Helper()
	env, err := alloc.Logs(task, "stdout")
	require.NoError(l.T, err)
	var variables []string
	for line := range strings.Lines(env) {
		if line = strings.TrimSuffix(line, "\n"); !notSecrets.MatchString(line) {
			variables = append(variables, line)
		}
	}
	slices.Sort(variables)
	all := map[string]string{"variables": l.credentials(strings.Join(variables, "\n"))}
	for name, content := range secretFiles(l.T, alloc.SecretsDir(task)) {
		all[name] = l.credentials(content)
	}
	return all
}

// credentials are replaced by their kind where the database knows them.
func (l migratingLab) credentials(text string) string {
	l.T.Helper()
	u, p := user.FindStringSubmatch(text), password.FindStringSubmatch(text)
	if u == nil || p == nil {
		return text
	}
	require.True(l.T, l.MariaDB.CanLogin(l.Ctx, u[2], p[2]), "%s", text)
	return password.ReplaceAllString(user.ReplaceAllString(text, "$1=a user"), "$1=its password")
}

// secretFiles are the files in a secrets directory, and in those that links in it lead to. Certificates and keys are together under one name.
func secretFiles(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		require.NoError(t, err)
		switch {
		case strings.HasPrefix(e.Name(), ".."), strings.HasSuffix(e.Name(), "_token"): // what leads to the files; Nomad's own
		case filepath.Ext(path) == ".env": // from which Nomad takes variables, for a template
		case info.IsDir():
			for name, content := range secretFiles(t, path) {
				if name != "PEM" {
					name = e.Name() + "/" + name
				}
				all[name] += content
			}
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			if kinds := pemKinds(content); kinds != nil {
				all["PEM"] += strings.Join(kinds, "")
			} else {
				all[e.Name()] = string(content)
			}
		}
	}
	return all
}

// pemKinds says what the blocks of a PEM file are, certificates by their names; nil if it is none.
func pemKinds(content []byte) (kinds []string) {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		kind := block.Type + "\n"
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			kind = fmt.Sprintf("certificate of %s%v for %s\n", cert.Subject.CommonName, cert.DNSNames, cert.NotAfter.Sub(cert.NotBefore).Round(time.Hour))
		}
		kinds = append(kinds, kind)
	}
	return kinds
}
