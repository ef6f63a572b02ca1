package lab

import (
	"fmt"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// IdentityBlock gives a task an identity, with which the plugin logs in to Vault.
const IdentityBlock = `
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }`

// Job is a job of one group with one task "app" that has an identity.
type Job struct {
	ID, Driver, Role string
	Run              []string // command and arguments
	Config           string   // what else is in config: the secrets
	Count            int      // 0: 1
	Image            string   // docker: if not the usual one
	Task             string   // what else is in task
}

// HCL is the job's file: made here, since tables of tests say what is in its blocks.
func (j Job) HCL() string {
	run := make([]string, len(j.Run))
	for i, word := range j.Run {
		run[i] = fmt.Sprintf("%q", word)
	}
	image := ""
	if j.Driver == "docker" {
		image = `image = "${meta.image}"`
		if j.Image != "" {
			image = fmt.Sprintf("image = %q", j.Image)
		}
	}
	return fmt.Sprintf(`
job %q {
  group "g" {
    count = %d
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "app" {
      driver = %q
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        %s
        command = %s
        args    = [%s]
        role    = %q
        %s
      }
      %s
    }
  }
}`, j.ID, max(j.Count, 1), j.Driver, image, run[0], strings.Join(run[1:], ", "), j.Role, j.Config, j.Task)
}

// RunAll submits jobs together and gives each one's first allocation.
func (l *Lab) RunAll(specs ...Job) []*harness.Alloc {
	l.T.Helper()
	jobs := make([]*harness.Job, len(specs))
	for i, spec := range specs {
		jobs[i] = l.Submit(spec.HCL())
	}
	allocs := make([]*harness.Alloc, len(jobs))
	for i, job := range jobs {
		var err error
		allocs[i], err = job.Running(l.Ctx)
		require.NoError(l.T, err)
	}
	return allocs
}
