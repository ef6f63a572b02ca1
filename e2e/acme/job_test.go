package acme

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
)

// The two example jobs, set up and run by the commands of docs/acme.md, with the policies that are beside them: the
// issuer keeps a certificate for three names, and nginx serves it. The authority wants it renewed: a client that
// connects all the time sees the serial number change, and no handshake fails. Afterwards the private keys are in
// Vault, and in the memory of the web server's allocation, and nowhere else.
func TestJobs(t *testing.T) {
	t.Parallel()
	cluster, err := harness.Start(t.Context(), harness.Options{
		Agent:    harness.AgentOptions{Placement: harness.InPlace},
		Progress: func(line string) { t.Log(line) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	l := newLab(t, "jobs", cluster.Vault, harness.PebbleOptions{Profiles: map[string]time.Duration{"hour": time.Hour}})
	j := &jobs{lab: l, cluster: cluster}
	t.Cleanup(func() {
		if t.Failed() {
			var out strings.Builder
			cluster.Agent.Dump(&out, j.submitted...)
			t.Log(out.String())
		}
	})
	l.pebble.AskAgainAfter(time.Second) // taken as a minute
	const dnsToken = "canary-of-the-dns-provider"
	nginx, err := cluster.Images.Nginx(l.ctx)
	require.NoError(t, err)

	for range 2 { // the page says that the commands may be given again
		j.run("", `vault kv put secret/acme-dns token="$DNS_TOKEN"`, "DNS_TOKEN="+dnsToken)
	}
	issuer := j.run("acme-issuer", "nomad job run jobs/acme-issuer.nomad.hcl",
		"NOMAD_VAR_program="+j.program(), "NOMAD_VAR_vault_addr="+l.vault.Addr, "NOMAD_VAR_config="+j.config(jwtLogin, webPath, `"web.example.com", "www.example.com", "*.web.example.com"`))
	l.until("the certificate", l.isAt(webPath, ""))
	first := l.issued(webPath, "web.example.com", "www.example.com", "any.web.example.com")
	now := time.Now()
	require.NoError(t, l.pebble.SetRenewalInfo(l.ctx, leafPEM(first), now.Add(30*time.Minute), now.Add(40*time.Minute)))
	j.healthy(issuer)
	byBlock := j.runWithVaultBlock()

	web := j.run("acme-web", "nomad job run jobs/acme-web.nomad.hcl", "NOMAD_VAR_image="+nginx)
	client := j.connect(j.port(web, "https"))
	client.sees(serial(first))
	require.NoError(t, l.pebble.SetRenewalInfo(l.ctx, leafPEM(first), now.Add(-10*time.Minute), now.Add(-5*time.Minute)))
	l.until("another certificate", l.isAt(webPath, serial(first)))
	second := l.issued(webPath, "web.example.com")
	client.sees(serial(second))
	client.stop()
	for _, run := range []struct {
		alloc *harness.Alloc
		task  string
	}{{issuer, "issuer"}, {byBlock, "issuer"}, {web, "web"}} {
		restarts, err := run.alloc.Restarts(l.ctx, run.task)
		require.NoError(t, err)
		require.Zero(t, restarts, "of %s", run.alloc.Job.ID)
	}
	log, err := web.Logs("web", "stderr")
	require.NoError(t, err)
	require.NotRegexp(t, `\[(error|crit|alert|emerg)\]`, log)

	j.run("", "vault kv metadata put -max-versions=2 secret/tls/acme-web")
	j.privateKeysAreNowhereElse(issuer, web, dnsToken)
}

const (
	webPath   = "secret/tls/acme-web"
	blockPath = "secret/tls/by-vault-block"
)

// jobs are the example jobs on a cluster.
type jobs struct {
	*lab
	cluster   *harness.Cluster
	submitted []*harness.Job
}

// run runs an example of the page, which is known by a line of it. Of a job that it submits, it returns the allocation.
func (j *jobs) run(job, line string, env ...string) *harness.Alloc {
	j.t.Helper()
	j.shell("../..", block(j.t, line), append(env, "NOMAD_ADDR="+j.cluster.Agent.Addr)...)
	if job == "" {
		return nil
	}
	submitted := j.cluster.Agent.Job(job)
	j.submitted = append(j.submitted, submitted)
	alloc, err := submitted.Running(j.ctx)
	require.NoError(j.t, err)
	return alloc
}

// program is the issuer where a task of another user can reach it.
func (j *jobs) program() string {
	j.t.Helper()
	program, err := issuerProgram()
	require.NoError(j.t, err)
	content, err := os.ReadFile(program)
	require.NoError(j.t, err)
	path := filepath.Join(j.cluster.Dir(), "nomad-acme-issuer")
	require.NoError(j.t, os.WriteFile(path+".new", content, 0o755))
	require.NoError(j.t, os.Rename(path+".new", path)) // it may be running
	return path
}

const jwtLogin = `
vault {
  jwt {
    role = "acme-issuer"
    file = "${env("NOMAD_SECRETS_DIR")}/nomad_acme.jwt"
  }
}
`

// config is the job's, with the test authority.
func (j *jobs) config(login, path, domains string) string {
	head := strings.Replace(j.head(), "secret/acme/"+j.name, "secret/acme", 1)
	head = strings.ReplaceAll(head, j.pebble.CACert, j.readable(j.pebble.CACert))
	return head + login + fmt.Sprintf(`
http {
  address = "127.0.0.1:${env("NOMAD_PORT_http")}"
}
log {
  level = "trace" # all that is ever logged is looked at for keys
}
certificate "web" {
  domains   = [%s]
  challenge = "zone"
  profile   = "hour"
  path      = %q
}
`, domains, path)
}

var identityBlocks = regexp.MustCompile(`(?s)      identity \{\n.*?\n      \}\n\n`)

// runWithVaultBlock runs the issuer's job with a vault block in the place of its identities: its token is the one that
// Nomad writes into a file.
func (j *jobs) runWithVaultBlock() *harness.Alloc {
	j.t.Helper()
	const name = "acme-issuer-block"
	policy, err := os.ReadFile("../../jobs/policies/acme-issuer.hcl")
	require.NoError(j.t, err)
	require.NoError(j.t, j.vault.Policy(j.ctx, name, strings.Replace(string(policy), "tls/acme-web", strings.TrimPrefix(blockPath, "secret/"), 1)))
	require.NoError(j.t, j.vault.WorkloadRole(j.ctx, j.cluster.Agent.AuthPath, name, harness.WorkloadRole{
		Policies: []string{name}, Period: 30 * time.Minute, Claims: map[string]any{"nomad_job_id": name},
	}))
	hcl, err := os.ReadFile("../../jobs/acme-issuer.nomad.hcl")
	require.NoError(j.t, err)
	require.Len(j.t, identityBlocks.FindAll(hcl, -1), 2)
	text := strings.NewReplacer(`job "acme-issuer"`, fmt.Sprintf("job %q", name), `        role    = "acme-issuer"`+"\n", "",
		"      env {", fmt.Sprintf("      vault {\n        role        = %q\n        change_mode = \"noop\"\n      }\n\n      env {", name),
	).Replace(identityBlocks.ReplaceAllString(string(hcl), ""))
	config := strings.ReplaceAll(j.config("", blockPath, `"block.example.com"`), "${", "$${") // a variable's value is an expression
	job, err := j.cluster.Agent.Submit(j.ctx, text, harness.Var{Name: "program", Value: j.program()},
		harness.Var{Name: "vault_addr", Value: j.vault.Addr}, harness.Var{Name: "config", Value: config})
	require.NoError(j.t, err)
	j.submitted = append(j.submitted, job)
	alloc, err := job.Running(j.ctx)
	require.NoError(j.t, err)
	j.until("the certificate of "+name, j.isAt(blockPath, ""))
	j.issued(blockPath, "block.example.com")
	return alloc
}

// readable is a copy of a file that everybody can read.
func (j *jobs) readable(file string) string {
	j.t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(j.t, err)
	path := filepath.Join(j.cluster.Dir(), "authority.pem")
	require.NoError(j.t, os.WriteFile(path, content, 0o644))
	return path
}

// port is the host's port of a group's label.
func (j *jobs) port(alloc *harness.Alloc, label string) string {
	j.t.Helper()
	info, err := alloc.Info(j.ctx)
	require.NoError(j.t, err)
	for _, port := range info.AllocatedResources.Shared.Ports {
		if port.Label == label {
			return fmt.Sprintf("127.0.0.1:%d", port.Value)
		}
	}
	j.t.Fatalf("no port %s", label)
	return ""
}

// healthy waits for the health check to pass, and looks at the metrics.
func (j *jobs) healthy(alloc *harness.Alloc) {
	j.t.Helper()
	address := "http://" + j.port(alloc, "http")
	j.until("the check to pass", func() error {
		code, body, err := j.httpGet(address + "/health")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d: %s", code, body)
		}
		return err
	})
	_, body, err := j.httpGet(address + "/metrics")
	require.NoError(j.t, err)
	require.Contains(j.t, body, `acme_issuer_orders_total{certificate="web",result="issued"} 1`)
}

// client connects to a server all the time.
type client struct {
	*jobs
	end chan struct{}
	wg  sync.WaitGroup

	mu     sync.Mutex
	last   string
	count  int
	failed []error
}

// connect starts a client once the server answers.
func (j *jobs) connect(address string) *client {
	j.t.Helper()
	roots, err := j.pebble.Roots(j.ctx)
	require.NoError(j.t, err)
	dialer := &tls.Dialer{Config: &tls.Config{ServerName: "www.example.com", RootCAs: roots}}
	shake := func() (string, error) {
		conn, err := dialer.DialContext(j.ctx, "tcp", address)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Text(16), nil
	}
	j.until("the web server to answer", func() error { _, err := shake(); return err })
	c := &client{jobs: j, end: make(chan struct{})}
	c.wg.Go(func() {
		for {
			serial, err := shake()
			c.mu.Lock()
			if c.count++; err != nil {
				c.failed = append(c.failed, err)
			} else {
				c.last = serial
			}
			c.mu.Unlock()
			select {
			case <-c.end:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return c
}

// sees waits until the client is shown a certificate.
func (c *client) sees(serial string) {
	c.t.Helper()
	c.until("the client to see "+serial, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.last != serial {
			return fmt.Errorf("it sees %s; failed: %v", c.last, c.failed)
		}
		return nil
	})
}

// stop ends the client, none of whose handshakes may have failed.
func (c *client) stop() {
	c.t.Helper()
	close(c.end)
	c.wg.Wait()
	require.Empty(c.t, c.failed)
	c.t.Logf("%d handshakes", c.count)
}

// privateKeysAreNowhereElse scans all files of Nomad, Vault, the authority and the issuer's allocation, all logs and
// all command lines. The web server's memory, its tmpfs, is where the key must be.
func (j *jobs) privateKeysAreNowhereElse(issuer, web *harness.Alloc, dnsToken string) {
	j.t.Helper()
	canaries := []leakscan.Canary{{Name: "credential of the DNS provider", Value: dnsToken}}
	learn := func(name, path string) {
		lines := strings.Split(j.fields(path)["private_key"].(string), "\n")
		canaries = append(canaries, leakscan.Canary{Name: name, Value: lines[1]}) // it has the private part whole
	}
	learn("certificate's key", webPath)
	learn("other certificate's key", blockPath)
	accounts, err := j.vault.Client().Logical().ListWithContext(j.ctx, "secret/metadata/acme/accounts")
	require.NoError(j.t, err)
	for _, account := range accounts.Data["keys"].([]any) {
		learn("account's key", "secret/acme/accounts/"+account.(string))
	}
	require.Len(j.t, canaries, 4)
	scanner, err := leakscan.New(canaries...)
	require.NoError(j.t, err)
	health, _, err := j.httpGet("http://" + j.port(issuer, "http") + "/health")
	require.NoError(j.t, err)
	require.Equal(j.t, http.StatusOK, health)

	control, err := scanner.Scan(j.ctx, leakscan.Tree("the web server's secrets", web.SecretsDir("web"), leakscan.TreeOptions{}))
	require.NoError(j.t, err)
	require.NotEmpty(j.t, control.Hits, "the key is where the web server has it")

	report, err := scanner.Scan(j.ctx,
		leakscan.Tree("all files", j.cluster.Dir(), leakscan.TreeOptions{Mounts: leakscan.NoMounts}),
		leakscan.Tree("the issuer's secrets", issuer.SecretsDir("issuer"), leakscan.TreeOptions{}),
		leakscan.URLs("the issuer's answers", "http://"+j.port(issuer, "http")+"/health", "http://"+j.port(issuer, "http")+"/metrics"),
		leakscan.URLs("Nomad's API", j.cluster.Agent.Addr+"/v1/job/acme-issuer", j.cluster.Agent.Addr+"/v1/allocation/"+issuer.ID),
		leakscan.Command("the web server's container", "docker", "inspect", "web-"+web.ID),
		leakscan.Command("the web server's output", "docker", "logs", "web-"+web.ID),
		leakscan.Processes("processes"))
	require.NoError(j.t, err)
	require.Empty(j.t, report.Hits)
	log, err := issuer.Logs("issuer", "stderr")
	require.NoError(j.t, err)
	require.Contains(j.t, log, "[TRACE]", "the log has everything in it")
}
