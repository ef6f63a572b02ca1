package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/awsfake"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// ExampleServers is what the examples of jobs/ get their secrets from, beside the cluster's own servers.
type ExampleServers struct {
	AWS      *awsfake.Server
	Postgres *harness.Postgres
	RabbitMQ *harness.RabbitMQ
}

// SetUpExamples sets up the agent's Vault by the very commands of jobs/README.md. What it returns of the
// README are those to run one.
func (l *Lab) SetUpExamples() (need ExampleServers, readme, run string) {
	l.T.Helper()
	var err error
	need.Postgres, err = l.Postgres(l.Ctx)
	require.NoError(l.T, err)
	need.RabbitMQ, err = l.RabbitMQ(l.Ctx)
	require.NoError(l.T, err)
	need.AWS, err = harness.NewAWS()
	require.NoError(l.T, err)
	l.T.Cleanup(need.AWS.Stop)
	require.NoError(l.T, l.Images.Named(l.Ctx, ExampleImage))
	reports := "reports-of-" + l.Agent.AuthPath
	require.NoError(l.T, need.Postgres.Exec(l.Ctx, fmt.Sprintf("CREATE ROLE %q LOGIN", reports)))

	content, err := os.ReadFile("../jobs/README.md")
	require.NoError(l.T, err)
	readme = string(content)
	_, setUp, found := strings.Cut(readme, "## Vault set-up")
	require.True(l.T, found)
	setUp, run, found = strings.Cut(setUp, "## Run one")
	require.True(l.T, found)
	var twice strings.Builder // the page says that each command may be given again
	for _, block := range shellBlocks(setUp) {
		twice.WriteString(block + block)
	}
	l.Shell(twice.String(),
		"AWS_ADMIN="+need.AWS.Root.ID, "AWS_ADMIN_SECRET="+need.AWS.Root.Secret, "AWS_ACCOUNT="+awsfake.Account, "AWS_ENDPOINT="+need.AWS.URL,
		"PG_ADDR="+need.Postgres.Addr, "PG_ADMIN="+need.Postgres.AdminUser, "PG_ADMIN_PASSWORD="+need.Postgres.AdminPass, "PG_REPORTS="+reports,
		"MQ_API="+need.RabbitMQ.Management, "MQ_ADMIN="+need.RabbitMQ.AdminUser, "MQ_ADMIN_PASSWORD="+need.RabbitMQ.AdminPass)
	return need, readme, run
}

// Shell runs commands of the README in the project's root, with variables that it asks for.
func (l *Lab) Shell(script string, env ...string) {
	l.T.Helper()
	require.NotEmpty(l.T, script)
	bin := l.T.TempDir()
	require.NoError(l.T, os.Symlink(l.Agent.PluginFile("docker"), filepath.Join(bin, "nomad-driver-secrets")))
	cmd := exec.CommandContext(l.Ctx, "bash", "-euo", "pipefail", "-c", "PATH="+bin+":$PATH\n"+script)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), l.Agent.Vault().ShellEnv()...)
	cmd.Env = append(cmd.Env, "NOMAD_ADDR="+l.Agent.Addr, "DB_ADDR="+l.MariaDB.Addr,
		"DB_ADMIN="+l.MariaDB.AdminUser, "DB_ADMIN_PASSWORD="+l.MariaDB.AdminPassword)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	require.NoError(l.T, err, "%s", out)
}

// shellBlocks are the sh blocks of a Markdown text.
func shellBlocks(markdown string) (blocks []string) {
	for _, found := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(markdown, -1) {
		blocks = append(blocks, found[1])
	}
	return blocks
}

// ExampleImage is the image that the jobs name.
const ExampleImage = "secrets-demo/busybox:1"
