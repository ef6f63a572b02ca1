package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// BenchmarkDockerStart is the start of one docker task as Nomad sees it, from the building of its task
// directory until it runs: without secrets, and with one of a KV engine by env and file. They take
// turns, so that the machine's moods meet both alike.
//
//	plain-ms    without
//	secrets-ms  with: the log-in, the read and the launcher are in it
//	added-ms    the difference
//
// What the launcher alone adds, and its size, is BenchmarkStart of driver/launcher (L1).
func BenchmarkDockerStart(b *testing.B) {
	const rounds = 10 // one start more or less is noise
	h := lab.NewLeakSearch(newLab(b))
	require.NoError(b, h.Vault.EnableKV2(h.Ctx, "secret"))
	h.Put("bench-start", "the secret")
	h.AllowLeased("bench-start", "secret/data/bench-start")
	blocks := map[string][2]string{
		"plain": {},
		"secrets": {`identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }`, `role = "bench-start"
        secret "app" {
          path  = "secret/bench-start"
          env   = { VALUE = "value" }
          files = true
        }`},
	}
	took := map[string][]time.Duration{}
	starts := 0
	for b.Loop() {
		for range rounds {
			starts++
			for name, block := range blocks { // with secrets or none, and so with blocks or none
				took[name] = append(took[name], startOf(h, fmt.Sprintf(`
job "bench-start-%s-%d" {
  group "g" {
    task "web" {
      driver = "docker"
      %s
      config {
        image   = "${meta.image}"
        command = "testapp"
        args    = ["sleep"]
        %s
      }
    }
  }
}`, name, starts, block[0], block[1])))
			}
		}
	}
	ms := map[string]float64{}
	for name, all := range took {
		slices.Sort(all) // the median: one slow start is the machine's
		ms[name] = float64(all[len(all)/2].Microseconds()) / 1000
		b.ReportMetric(ms[name], name+"-ms")
	}
	b.ReportMetric(ms["secrets"]-ms["plain"], "added-ms")
}

// startOf is how long the start of a job's one task takes, by Nomad's own events.
func startOf(h *lab.LeakSearch, hcl string) time.Duration {
	h.T.Helper()
	alloc := h.Run(hcl)
	state, err := alloc.State(h.Ctx, "web")
	require.NoError(h.T, err)
	at := map[string]int64{}
	for _, event := range state.Events {
		at[event.Type] = event.Time
	}
	require.NotZero(h.T, at["Task Setup"])
	require.NotZero(h.T, at["Started"])
	require.NoError(h.T, alloc.Job.Stop(h.Ctx))
	return time.Duration(at["Started"] - at["Task Setup"])
}
