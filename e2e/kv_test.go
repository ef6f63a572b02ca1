package e2e

import (
	"fmt"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// pollInterval is the shared agent's poll_interval.
const pollInterval = 2 * time.Second

// kvSecret is a secret on a KV engine of a test's own, and the role that may read it, all by one name.
type kvSecret struct {
	l       *lab
	version int // of the engine
	name    string
}

// newKV mounts an engine. The secret is empty until put.
func (l *lab) newKV(version int, name string) *kvSecret {
	l.t.Helper()
	s := &kvSecret{l: l, version: version, name: name}
	if version == 1 {
		require.NoError(l.t, l.Vault.EnableKV1(l.ctx, name))
	} else {
		require.NoError(l.t, l.Vault.EnableKV2(l.ctx, name))
	}
	l.allow(name, s.apiPath())
	return s
}

// path is what a job and `vault kv put` say.
func (s *kvSecret) path() string { return s.name + "/app" }

// apiPath is what requests and policies say.
func (s *kvSecret) apiPath() string {
	if s.version == 1 {
		return s.path()
	}
	return s.name + "/data/app"
}

func (s *kvSecret) put(fields map[string]any) {
	s.l.t.Helper()
	put := s.l.Vault.PutKV2
	if s.version == 1 {
		put = s.l.Vault.PutKV1
	}
	require.NoError(s.l.t, put(s.l.ctx, s.name, "app", fields))
}

// paint puts the secret's one field in most tests here.
func (s *kvSecret) paint(colour string) {
	s.l.t.Helper()
	s.put(map[string]any{"colour": colour})
}

// reads are the requests for the secret by these jobs' tasks, polls included.
func (s *kvSecret) reads(since harness.Mark, jobs ...string) []harness.Request {
	s.l.t.Helper()
	all, err := s.l.Vault.Requests(since, s.apiPath())
	require.NoError(s.l.t, err)
	var found []harness.Request
	for _, r := range all {
		for _, job := range jobs {
			if r.Job == job {
				found = append(found, r)
			}
		}
	}
	return found
}

// settled waits until what was written at a moment has been polled by the process that serves these
// jobs, and then polled again, so that whatever it had to do about it is begun.
func (s *kvSecret) settled(since harness.Mark, written time.Time, jobs ...string) {
	s.l.t.Helper()
	s.l.until(fmt.Sprintf("two polls of %s for %v", s.apiPath(), jobs), func() error {
		reads := s.reads(since, jobs...)
		if n := len(reads); n == 0 || reads[n-1].Time.Before(written.Add(2*pollInterval)) {
			return fmt.Errorf("%d reads, not yet two intervals after the write", n)
		}
		return nil
	})
}

// allow makes a policy that lets a role of the same name read paths.
func (l *lab) allow(role string, paths ...string) {
	l.t.Helper()
	l.setPolicy(role, paths...)
	l.grant(role)
}

// grant makes a role for tasks that has the policy of the same name.
func (l *lab) grant(role string) {
	l.t.Helper()
	require.NoError(l.t, l.Vault.WorkloadRole(l.ctx, "jwt-nomad", role, harness.WorkloadRole{Policies: []string{role}, TTL: time.Hour}))
}

// setPolicy says what a role may read, from now on.
func (l *lab) setPolicy(role string, paths ...string) {
	l.t.Helper()
	policy := "# empty is no policy\n"
	for _, path := range paths {
		policy += fmt.Sprintf("path %q { capabilities = [\"read\"] }\n", path)
	}
	require.NoError(l.t, l.Vault.Policy(l.ctx, role, policy))
}

// now is a mark in Vault's audit log, and the time.
func (l *lab) now() (harness.Mark, time.Time) {
	l.t.Helper()
	mark, err := l.Vault.Mark()
	require.NoError(l.t, err)
	return mark, time.Now()
}

// simpleJob is a job of one group with one task "app" that has an identity.
type simpleJob struct {
	id, driver, role string
	run              []string // command and arguments
	config           string   // what else is in config: the secrets
	count            int      // 0: 1
	image            string   // docker: if not the usual one
	task             string   // what else is in task
}

func (j simpleJob) hcl() string {
	run := make([]string, len(j.run))
	for i, word := range j.run {
		run[i] = fmt.Sprintf("%q", word)
	}
	image := ""
	if j.driver == "docker" {
		image = `image = "${meta.image}"`
		if j.image != "" {
			image = fmt.Sprintf("image = %q", j.image)
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
}`, j.id, max(j.count, 1), j.driver, image, run[0], strings.Join(run[1:], ", "), j.role, j.config, j.task)
}

// runAll submits jobs together and gives each one's first allocation.
func (l *lab) runAll(specs ...simpleJob) []*harness.Alloc {
	l.t.Helper()
	jobs := make([]*harness.Job, len(specs))
	for i, spec := range specs {
		jobs[i] = l.submit(spec.hcl())
	}
	allocs := make([]*harness.Alloc, len(jobs))
	for i, job := range jobs {
		var err error
		allocs[i], err = job.Running(l.ctx)
		require.NoError(l.t, err)
	}
	return allocs
}

// startedTimes says that the task "app" has been started n times, all of them unseen by Nomad but
// the first (C8).
func (l *lab) startedTimes(alloc *harness.Alloc, n int) {
	l.t.Helper()
	starts, err := alloc.Lines("app", "start ")
	require.NoError(l.t, err)
	require.Len(l.t, starts, n, "starts of %s", alloc.Job.ID)
	restarts, err := alloc.Restarts(l.ctx, "app")
	require.NoError(l.t, err)
	require.Zero(l.t, restarts, "Nomad restarted %s", alloc.Job.ID)
}

// event waits for an event of the task "app".
func (l *lab) event(alloc *harness.Alloc, text string) string {
	l.t.Helper()
	event, err := alloc.WaitEvent(l.ctx, "app", text)
	require.NoError(l.t, err)
	return event
}
