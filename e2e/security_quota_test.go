package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// C11: Vault limits the path that one job polls, to less than it asks for. The node's rate stays what it is, and a neighbour's changes are
// seen as ever.
func TestQuotaOfOneJob(t *testing.T) {
	t.Parallel()
	address, err := harness.FreeAddress()
	require.NoError(t, err)
	l := newOwnLab(t, harness.AgentOptions{
		Name: "quota", Placement: placement, Metrics: map[string]string{"raw_exec": address}, Secrets: map[string]any{"poll_interval": "1s"},
	}, lab.DefaultTimeout)
	neighbour := l.NewKV(2, "quota-neighbour")
	neighbour.PutColour("blue")
	require.NoError(t, l.Vault.EnableKV1(l.Ctx, "quota"))
	var blocks strings.Builder
	for i := range 10 {
		name := fmt.Sprint("s", i)
		require.NoError(t, l.Vault.PutKV1(l.Ctx, "quota", name, map[string]any{"value": name}))
		fmt.Fprintf(&blocks, "secret %q {\n path = \"quota/%s\"\n files = true\n change_mode = \"noop\"\n}\n", name, name)
	}
	l.Allow("quota", "quota/*")
	l.Run(lab.Job{ID: "quota", Driver: "raw_exec", Role: "quota", Run: []string{"testapp", "sleep"}, Task: smallTask, Config: blocks.String()}.HCL())
	alloc := l.Run(lab.Job{ID: "quota-neighbour", Driver: "raw_exec", Role: neighbour.Name, Run: []string{"testapp", "sleep"}, Task: smallTask,
		Config: fmt.Sprintf("secret \"kv\" {\n path = %q\n files = true\n change_mode = \"noop\"\n}\n", neighbour.Path())}.HCL())
	_, err = l.Vault.Client().Logical().WriteWithContext(l.Ctx, "sys/quotas/rate-limit/quota", map[string]any{"path": "quota/", "rate": 2, "interval": "1s"})
	require.NoError(t, err)

	metric := func(of string) (sum float64) {
		t.Helper()
		text, err := harness.HTTPGet(l.Ctx, "http://"+address+"/metrics")
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^`+of+` (\S+)$`).FindAllStringSubmatch(text, -1) {
			n, err := strconv.ParseFloat(m[1], 64)
			require.NoError(t, err)
			sum += n
		}
		return sum
	}
	const limited = `nomad_secrets_server_requests_total\{[^}]*result="outage"[^}]*\}`
	before := metric(limited)
	for round := range 10 {
		colour := fmt.Sprint("green", round)
		neighbour.PutColour(colour)
		l.Until("the neighbour's change", func() error { return lab.FileIs(alloc, "kv/colour", colour) })
		refused := metric(limited)
		l.Until("more requests to be limited", func() error {
			if metric(limited) < refused+2 {
				return errors.New("none is")
			}
			return nil
		})
		require.InDelta(t, 20, metric("nomad_secrets_request_rate"), 0.01, "one job's quota has slowed down all")
	}
	require.Greater(t, metric(limited), before+20)
}
