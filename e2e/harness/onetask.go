package harness

import (
	"fmt"
	"strings"
)

// IdentityBlock gives a task an identity, with which the plugin logs in to Vault.
const IdentityBlock = `
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
`

// OneTask is a job of one group with one task, "app", which is not restarted by Nomad. Its file is made here where what is in its blocks
// differs; what only has values of its own is a file of e2e/jobs.
type OneTask struct {
	ID, Driver string
	Count      int
	Run        []string // command and arguments
	Image      string   // docker: if not the usual one
	Config     string   // what else is in config
	Task       string   // what else is in task
}

// HCL is the job's file.
func (j OneTask) HCL() string {
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
      %s
      config {
        %s
        command = %s
        args    = [%s]
        %s
      }
    }
  }
}`, j.ID, j.Count, j.Driver, j.Task, image, run[0], strings.Join(run[1:], ", "), j.Config)
}
