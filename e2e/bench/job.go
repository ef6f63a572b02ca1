package main

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

const (
	task  = "app"   // harness.OneTask's
	mount = "bench" // of the KV engine, v2
	role  = "bench" // and its policy
)

// variant is whose driver runs a task, and whether the task has secrets.
type variant int

const (
	ours        variant = iota // this driver, with an identity block and secrets
	oursBare                   // this driver, a task without secrets
	builtIn                    // Nomad's own driver, with vault and template
	builtInBare                // Nomad's own driver alone
	variants    = 4
)

func (v variant) String() string {
	return [variants]string{"ours", "ours without secrets", "the built-in's with vault and template", "the built-in's without"}[v]
}

func (v variant) ours() bool { return v == ours || v == oursBare }

// spec is a job of one task.
type spec struct {
	driver  string
	count   int
	secrets []string // names below the mount; of each the user is in the environment, and the password in a file
	run     []string // the test program's arguments
	extra   string   // in a secret's block of ours
}

// ids makes names for jobs that were never used before.
type ids struct{ last atomic.Int64 }

func (i *ids) next() string { return fmt.Sprintf("bench-%d", i.last.Add(1)) }

// hcl is the job's file: made here, since what differs is in its blocks.
func (s spec) hcl(v variant, id string) string {
	var inTask, inConfig strings.Builder
	switch v {
	case ours:
		inTask.WriteString(harness.IdentityBlock)
		fmt.Fprintf(&inConfig, "role = %q\nsplay = \"0s\"\nstagger = \"0s\"\n", role)
		for i, name := range s.secrets {
			fmt.Fprintf(&inConfig, `secret "s%d" {
          path = "%s/%s"
          env  = { USER_%[1]d = "user" }
          file "password-%[1]d" {
            field = "password"
          }
          %[4]s
        }
`, i, mount, name, s.extra)
		}
	case builtIn:
		fmt.Fprintf(&inTask, "vault {\n role = %q\n}\n", role)
		for i, name := range s.secrets {
			fmt.Fprintf(&inTask, `template {
        data        = "{{ with secret \"%[2]s/data/%[3]s\" }}USER_%[1]d={{ .Data.data.user }}{{ end }}\n"
        destination = "secrets/env-%[1]d"
        env         = true
        splay       = "0s"
      }
      template {
        data        = "{{ with secret \"%[2]s/data/%[3]s\" }}{{ .Data.data.password }}{{ end }}"
        destination = "secrets/password-%[1]d"
        splay       = "0s"
      }
`, i, mount, name)
		}
	case oursBare, builtInBare:
	}
	inTask.WriteString("resources {\n cpu = 20\n memory = 32\n}\n")
	return harness.OneTask{
		ID: id, Driver: s.driver, Count: s.count, Run: append([]string{"testapp"}, s.run...), Config: inConfig.String(), Task: inTask.String(),
	}.HCL()
}
