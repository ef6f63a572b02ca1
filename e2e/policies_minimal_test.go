package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// policyLine is one thing that a policy grants.
type policyLine struct {
	path, capability string
	without          string // the policy, less this
}

var exampleStanza = regexp.MustCompile(`(?s)path "([^"]+)" \{\s*capabilities = \[([^]]*)\]\s*\}\n?`)

// policyLines takes the policy in a file apart.
func policyLines(t *testing.T, file string) (lines []policyLine) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	policy := string(content)
	stanzas := exampleStanza.FindAllStringSubmatch(policy, -1)
	require.Len(t, stanzas, strings.Count("\n"+policy, "\npath "), "%s has a stanza that is not understood here", file)
	for _, stanza := range stanzas {
		granted := strings.Split(stanza[2], ", ")
		for i, capability := range granted {
			rest := ""
			if len(granted) > 1 {
				others := slices.Delete(slices.Clone(granted), i, i+1)
				rest = fmt.Sprintf("path %q {\n  capabilities = [%s]\n}\n", stanza[1], strings.Join(others, ", "))
			}
			lines = append(lines, policyLine{
				path: stanza[1], capability: strings.Trim(capability, `"`),
				without: "# empty is no policy\n" + strings.Replace(policy, stanza[0], rest, 1),
			})
		}
	}
	return lines
}

// isNamed waits for an event of the task "app" that names the line.
func (p policyLine) isNamed(l *lab.Lab, alloc *harness.Alloc) {
	l.T.Helper()
	stanza := regexp.MustCompile(fmt.Sprintf(`path %q \{ capabilities = \[[^]]*%q`, strings.TrimSuffix(p.path, "*"), p.capability))
	short := fmt.Sprintf("(policy needs %s on %s)", p.capability, p.path)
	l.Until("an event that names "+p.path, func() error {
		events, err := alloc.Events(l.Ctx, "app")
		if err != nil {
			return err
		}
		for _, event := range events {
			if stanza.MatchString(event) || strings.Contains(event, short) {
				return nil
			}
		}
		return fmt.Errorf("events:\n%s", strings.Join(events, "\n"))
	})
}

// late reports whether the line is missed only when a lease is to be revoked, and not at the start.
func (p policyLine) late() bool { return p.path == "sys/leases/revoke" }

// Each line of an example's policy is needed: without it the job does not start, or it starts and warns,
// and the event names the line. (That no other line is needed, TestExampleJobs shows.)
func TestExamplePoliciesAreMinimal(t *testing.T) {
	t.Parallel()
	vault, err := shared.NewVault(t.Context(), "vault-minimal")
	require.NoError(t, err)
	l := newOwnLab(t, harness.AgentOptions{
		Name: "minimal", Placement: harness.InPlace, Vault: vault, Secrets: map[string]any{"lease_check_interval": "2s"},
	}, lab.DefaultTimeout)
	l.SetUpExamples()
	require.NoError(t, vault.PutKV2(l.Ctx, "secret", "orders/tls", map[string]any{"cert": "cert", "key": "key"}))
	_, err = vault.Client().Logical().WriteWithContext(l.Ctx, "database/config/mariadb", map[string]any{ // that of the harness's roles
		"plugin_name": "mysql-database-plugin", "connection_url": "{{username}}:{{password}}@tcp(" + l.MariaDB.Addr + ")/",
		"username": l.MariaDB.AdminUser, "password": l.MariaDB.AdminPassword, "allowed_roles": "*",
	})
	require.NoError(t, err)
	require.NoError(t, vault.DatabaseRole(l.Ctx, "database", "orders-db", time.Hour, 2*time.Hour))
	require.NoError(t, vault.DatabaseRole(l.Ctx, "database", "brief", 15*time.Second, time.Hour))

	t.Run("declared", func(t *testing.T) { t.Parallel(); declaredAreMinimal(newLabOn(t, l.Agent), t) })
	t.Run("from_policies", func(t *testing.T) { t.Parallel(); grantedAreMinimal(newLabOn(t, l.Agent), t) })
	t.Run("default", func(t *testing.T) { t.Parallel(); defaultIsMinimal(newLabOn(t, l.Agent), t) })
}

// removeLine has a role's only policy, of the same name, be without a line.
func removeLine(l *lab.Lab, line policyLine, role string) {
	l.T.Helper()
	vault := l.Agent.Vault()
	require.NoError(l.T, vault.Policy(l.Ctx, role, line.without))
	require.NoError(l.T, vault.WorkloadRole(l.Ctx, l.Agent.AuthPath, role, harness.WorkloadRole{Policies: []string{role}, Period: 30 * time.Minute}))
}

// leasesEnd revokes all leases of a path, as somebody else: their tasks then rotate, and have old leases
// to revoke.
func leasesEnd(l *lab.Lab, paths ...string) {
	l.T.Helper()
	for _, path := range paths {
		require.NoError(l.T, l.Agent.Vault().Client().Sys().RevokePrefixWithContext(l.Ctx, path))
	}
}

// exampleNamed is a job of jobs/ as it is, but for the name that it and its role have.
func exampleNamed(t *testing.T, file, name string) string {
	t.Helper()
	hcl, err := os.ReadFile(file)
	require.NoError(t, err)
	return regexp.MustCompile(`(?m)^(job |\s*role += )"[^"]*"`).ReplaceAllString(string(hcl), fmt.Sprintf("$1%q", name))
}

// tried waits until the start of a job's task has succeeded or failed.
func tried(l *lab.Lab, job *harness.Job) (alloc *harness.Alloc, runs bool) {
	l.T.Helper()
	alloc = l.FirstAlloc(job)
	l.Until("the start of "+job.ID, func() error {
		state, err := alloc.State(l.Ctx, "app")
		if err == nil && state.State == "pending" {
			err = errors.New("it is pending")
		}
		if err == nil {
			runs = state.State == "running"
		}
		return err
	})
	return alloc, runs
}

// declaredAreMinimal runs all examples at once, each without each line of its policy.
func declaredAreMinimal(l *lab.Lab, t *testing.T) {
	files := exampleFiles(t, "../jobs/policies/*.hcl")
	const withoutVault = 1 // nomad-variables
	require.Len(t, files, len(examples)-withoutVault, "policies, and what is known of jobs here")
	type variant struct {
		policyLine
		job *harness.Job
	}
	var variants []variant
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".hcl")
		for i, line := range policyLines(t, file) {
			without := fmt.Sprintf("%s-without-%d", name, i)
			removeLine(l, line, without)
			variants = append(variants, variant{line, l.Submit(exampleNamed(t, "../jobs/"+name+".nomad.hcl", without))})
		}
	}
	for _, v := range variants {
		t.Run(v.job.ID, func(t *testing.T) {
			l := l.For(t)
			alloc, runs := tried(l, v.job)
			require.Equal(t, v.late(), runs, "whether it runs without %s", v.path)
			if !runs {
				v.isNamed(l, alloc)
				require.NoError(t, v.job.Stop(l.Ctx)) // or Nomad tries again and again
			}
		})
	}
	leasesEnd(l, "database/creds/app", "database/creds/pg-app", "rabbitmq/creds/app", "aws/creds/user", "aws/sts/app")
	for _, v := range variants {
		if v.late() {
			t.Run(v.job.ID+" rotates", func(t *testing.T) {
				l := l.For(t)
				v.isNamed(l, l.FirstAlloc(v.job))
			})
		}
	}
}

// ordersFiles are what the jobs of from_policies/ get, and by which line of their policy.
var ordersFiles = map[string][]string{
	"orders-db/username": {"database/creds/orders-db"},
	"orders-mq/username": {"rabbitmq/creds/orders-mq"},
	"tls/cert":           {"secret/data/orders/*", "secret/metadata/orders/*"},
}

// grantedAreMinimal is the same of the jobs that declare nothing. Without a line that grants a secret
// they go without it: that there might have been one, nobody can know.
func grantedAreMinimal(l *lab.Lab, t *testing.T) {
	require.NoError(t, l.Agent.Vault().RabbitMQRole(l.Ctx, "rabbitmq", "orders-mq"))
	lines := policyLines(t, "../jobs/from_policies/orders.hcl")
	jobs := make([]*harness.Job, len(lines))
	for i, line := range lines {
		driver := []string{"docker", "raw_exec"}[i%2]
		without := fmt.Sprintf("orders-%s-without-%d", driver, i)
		removeLine(l, line, without)
		hcl := exampleNamed(t, "../jobs/from_policies/"+driver+".nomad.hcl", without)
		// As the operator would say for all.
		jobs[i] = l.Submit(strings.Replace(hcl, "config {", "config {\nfrom_policies = \"all\"\n", 1))
	}
	for i, line := range lines {
		t.Run("without "+line.path, func(t *testing.T) {
			l := l.For(t)
			alloc, err := jobs[i].Running(l.Ctx)
			require.NoError(t, err)
			for file, grantedBy := range ordersFiles {
				_, err := os.Stat(filepath.Join(alloc.SecretsDir("app"), file))
				require.Equal(t, slices.Contains(grantedBy, line.path), errors.Is(err, os.ErrNotExist), "whether %s is missing", file)
			}
			if line.late() {
				leasesEnd(l, "database/creds/orders-db")
			}
			if line.late() || line.capability == "list" {
				line.isNamed(l, alloc)
			}
			require.NoError(t, jobs[i].Stop(l.Ctx))
		})
	}
}

// defaultIsMinimal is the same of jobs/default-policy.hcl, for a job whose role goes without Vault's
// policy `default`. Its token and its lease live briefly, so that each line is soon missed; and with all of
// them nothing is.
func defaultIsMinimal(l *lab.Lab, t *testing.T) {
	own, err := os.ReadFile("../jobs/policies/raw_exec-database.hcl")
	require.NoError(t, err)
	lines := policyLines(t, "../jobs/default-policy.hcl")
	all, err := os.ReadFile("../jobs/default-policy.hcl")
	require.NoError(t, err)
	brief := strings.NewReplacer("creds/app", "creds/brief", "config {", "config {\nfrom_policies = \"env\"\n")
	run := func(name, policy string) *harness.Job {
		require.NoError(t, l.Agent.Vault().Policy(l.Ctx, name, brief.Replace(string(own))+policy))
		require.NoError(t, l.Agent.Vault().WorkloadRole(l.Ctx, l.Agent.AuthPath, name, harness.WorkloadRole{
			Policies: []string{name}, TTL: 15 * time.Second, MaxTTL: 30 * time.Second, Bare: true,
		}))
		return l.Submit(brief.Replace(exampleNamed(t, "../jobs/raw_exec-database.nomad.hcl", name)))
	}
	jobs := []*harness.Job{run("bare", string(all))}
	for i, line := range lines {
		jobs = append(jobs, run(fmt.Sprintf("bare-%d", i), line.without))
	}
	for i, line := range lines {
		t.Run("without "+line.path, func(t *testing.T) {
			l := l.For(t)
			alloc, runs := tried(l, jobs[i+1])
			require.Equal(t, line.path != "sys/internal/ui/resultant-acl", runs)
			line.isNamed(l, alloc)
			require.NoError(t, jobs[i+1].Stop(l.Ctx))
		})
	}
	t.Run("with all", func(t *testing.T) {
		l := l.For(t)
		alloc, err := jobs[0].Running(l.Ctx)
		require.NoError(t, err)
		l.Events(alloc, 2, "the token it was made under reached its maximum", "task restarted in place")
		events, err := alloc.Events(l.Ctx, "app")
		require.NoError(t, err)
		require.NotContains(t, strings.Join(events, "\n"), "policy needs")
	})
}
