package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/awsfake"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// examplesNeed is what the examples of jobs/ get their secrets from, beside the cluster's own servers.
type examplesNeed struct {
	aws      *awsfake.Server
	postgres *harness.Postgres
	rabbit   *harness.RabbitMQ
}

// setUpExamples sets up the agent's Vault by the very commands of jobs/README.md. What it returns of the
// README are those to run one.
func (l *lab) setUpExamples() (need examplesNeed, readme, run string) {
	l.t.Helper()
	var err error
	need.postgres, err = l.Postgres(l.ctx)
	require.NoError(l.t, err)
	need.rabbit, err = l.RabbitMQ(l.ctx)
	require.NoError(l.t, err)
	need.aws, err = harness.NewAWS()
	require.NoError(l.t, err)
	l.t.Cleanup(need.aws.Stop)
	require.NoError(l.t, l.Images.Named(l.ctx, exampleImage))
	reports := "reports-of-" + l.agent.AuthPath
	require.NoError(l.t, need.postgres.Exec(l.ctx, fmt.Sprintf("CREATE ROLE %q LOGIN", reports)))

	content, err := os.ReadFile("../jobs/README.md")
	require.NoError(l.t, err)
	readme = string(content)
	_, setUp, found := strings.Cut(readme, "## Vault set-up")
	require.True(l.t, found)
	setUp, run, found = strings.Cut(setUp, "## Run one")
	require.True(l.t, found)
	l.shell(strings.Join(shellBlocks(setUp), "\n"),
		"AWS_ADMIN="+need.aws.Root.ID, "AWS_ADMIN_SECRET="+need.aws.Root.Secret, "AWS_ACCOUNT="+awsfake.Account, "AWS_ENDPOINT="+need.aws.URL,
		"PG_ADDR="+need.postgres.Addr, "PG_ADMIN="+need.postgres.AdminUser, "PG_ADMIN_PASSWORD="+need.postgres.AdminPass, "PG_REPORTS="+reports,
		"MQ_API="+need.rabbit.Management, "MQ_ADMIN="+need.rabbit.AdminUser, "MQ_ADMIN_PASSWORD="+need.rabbit.AdminPass)
	return need, readme, run
}

// shell runs commands of the README in the project's root, with variables that it asks for.
func (l *lab) shell(script string, env ...string) {
	l.t.Helper()
	require.NotEmpty(l.t, script)
	cmd := exec.CommandContext(l.ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), l.agent.Vault().ShellEnv()...)
	cmd.Env = append(cmd.Env, "NOMAD_ADDR="+l.agent.Addr, "DB_ADDR="+l.MariaDB.Addr,
		"DB_ADMIN="+l.MariaDB.AdminUser, "DB_ADMIN_PASSWORD="+l.MariaDB.AdminPassword)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	require.NoError(l.t, err, "%s", out)
}

// shellBlocks are the sh blocks of a Markdown text.
func shellBlocks(markdown string) (blocks []string) {
	for _, found := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(markdown, -1) {
		blocks = append(blocks, found[1])
	}
	return blocks
}
