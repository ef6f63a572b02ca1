package e2e

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// firstFailureIsSeen has a change_script fail once: it is not run again, and the alert is on its way all the same.
func firstFailureIsSeen(l *lab.Lab, prometheus *harness.Prometheus) {
	l.T.Helper()
	put := func(colour string) {
		require.NoError(l.T, l.Vault.PutKV2(l.Ctx, "metrics", "script", map[string]any{"colour": colour}))
	}
	put("blue")
	l.Run(lab.Job{
		ID: "metrics-script", Driver: "raw_exec", Role: "metrics", Run: []string{"testapp", "sleep"},
		Config: `secret "app" {
				path        = "metrics/script"
				files       = true
				change_mode = "script"
				change_script {
					command = "/bin/false"
				}
			}`,
	}.HCL())
	const failed = `nomad_secrets_rotations_total{cause="changed",mode="script",result="error"}`
	oneSample(l, prometheus, "sum("+failed+") == 0")
	put("red")
	oneSample(l, prometheus, failed+" == 1")
	l.Until("the alert about the script", func() error {
		pending, err := prometheus.Pending(l.Ctx, "NomadSecretsRotationsFail")
		for _, alert := range pending {
			if alert.Labels["mode"] == "script" && alert.Labels["result"] == "error" {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("there are %v", pending))
	})
	oneSample(l, prometheus, failed+" == 1")
}

// overlapIsScraped deploys a job twice by a canary, so that two versions of a group run side by side while they are scraped: they
// are one series, with the moment of the one that ends first, and no scrape has an error. First the new version is that one, then
// the old, so each is seen to be counted.
func overlapIsScraped(l *lab.Lab, prometheus *harness.Prometheus, address string) {
	l.T.Helper()
	job := &versioned{Lab: l, prometheus: prometheus}
	job.deploy("24h")
	job.endsIn(24 * time.Hour)
	began := time.Now()
	job.deploy("12h")
	job.endsIn(12 * time.Hour)
	job.promote()
	job.endsIn(12 * time.Hour)
	job.deploy("24h")
	job.endsIn(12 * time.Hour)
	checkScrape(l, address)
	job.promote()
	job.endsIn(24 * time.Hour)

	up := fmt.Sprintf("min_over_time(up[%ds])", int(time.Since(began).Seconds())+1)
	all, err := prometheus.Query(l.Ctx, up)
	require.NoError(l.T, err)
	require.Len(l.T, all, 2)
	for _, target := range all {
		require.Equal(l.T, "1", target.Value, "%v was not scraped once", target.Labels)
	}
	// What of a scrape cannot be collected is left out of the answer, and told there.
	log, err := os.ReadFile(l.Agent.LogPath)
	require.NoError(l.T, err)
	require.Empty(l.T, regexp.MustCompile(`.*\[WARN\] .*: metrics: .*`).FindAllString(string(log), -1))
}

// versioned is a job whose certificate ends sooner or later in each of its versions.
type versioned struct {
	*lab.Lab
	prometheus *harness.Prometheus
	job        *harness.Job
	version    int
}

// deploy submits the next version, and waits until it runs: the first alone, another as a canary beside the one before.
func (v *versioned) deploy(ttl string) {
	v.T.Helper()
	hcl := lab.Job{
		ID: "metrics-deployed", Driver: "docker", Role: "metrics", Run: []string{"testapp", "sleep"},
		Config: fmt.Sprintf(`secret "tls" {
				path   = "metrics-pki/issue/web"
				params = { common_name = "web.example.com", ttl = %q }
				files  = true
			}`, ttl),
	}.HCL()
	v.job = v.Submit(strings.Replace(hcl, "count = 1", fmt.Sprintf(`count = 1
    meta {
      version = %d
    }
    update {
      canary           = 1
      health_check     = "task_states"
      min_healthy_time = "1s"
    }`, v.version), 1))
	running := 1
	if v.version > 0 {
		running = 2
	}
	v.running(running)
	v.version++
}

// promote waits for the canary to be healthy, and then for the version before to have ended.
func (v *versioned) promote() {
	v.T.Helper()
	v.Until("the canary to be promoted", func() error {
		d, _, err := v.Agent.Client().Jobs().LatestDeployment(v.job.ID, (&api.QueryOptions{}).WithContext(v.Ctx))
		if err != nil {
			return err
		}
		if d.TaskGroups["g"].HealthyAllocs < 1 {
			return errors.New("it is not healthy yet")
		}
		_, _, err = v.Agent.Client().Deployments().PromoteAll(d.ID, (&api.WriteOptions{}).WithContext(v.Ctx))
		return err
	})
	v.running(1)
}

// running waits until n allocations run, and no others.
func (v *versioned) running(n int) {
	v.T.Helper()
	v.Until(fmt.Sprintf("%d allocations", n), func() error {
		allocs, err := v.job.Allocs(v.Ctx)
		if err != nil {
			return err
		}
		running := 0
		for _, alloc := range allocs {
			info, err := alloc.Info(v.Ctx)
			if err != nil {
				return err
			}
			if info.ClientStatus == api.AllocClientStatusRunning {
				running++
			}
		}
		if running != n {
			return fmt.Errorf("%d run", running)
		}
		return nil
	})
}

// endsIn waits for a scrape that began after now, and in which the certificate ends in about so long.
func (v *versioned) endsIn(want time.Duration) {
	v.T.Helper()
	const of = `{driver="docker",job="metrics-deployed",group="g",task="app",secret="tls"}`
	const end = "nomad_secrets_expiration_timestamp_seconds" + of
	oneSample(v.Lab, v.prometheus, fmt.Sprintf("abs(%[1]s - time() - %[2]f) < 3600 and timestamp(%[1]s) > %[3]d", end, want.Seconds(), time.Now().Unix()+1))
	oneSample(v.Lab, v.prometheus, "nomad_secrets_ready"+of+" == 1")
}
