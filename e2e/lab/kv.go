package lab

import (
	"fmt"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// PollInterval is the shared agent's poll_interval.
const PollInterval = 2 * time.Second

// KVSecret is a secret on a KV engine of a test's own, and the role that may read it, all by one name.
type KVSecret struct {
	l       *Lab
	version int    // of the engine
	Name    string // of the engine's mount, the role and its policy
}

// NewKV mounts an engine. The secret is empty until put.
func (l *Lab) NewKV(version int, name string) *KVSecret {
	l.T.Helper()
	s := &KVSecret{l: l, version: version, Name: name}
	if version == 1 {
		require.NoError(l.T, l.Vault.EnableKV1(l.Ctx, name))
	} else {
		require.NoError(l.T, l.Vault.EnableKV2(l.Ctx, name))
	}
	l.Allow(name, s.APIPath())
	return s
}

// Path is what a job and `vault kv put` say.
func (s *KVSecret) Path() string { return s.Name + "/app" }

// APIPath is what requests and policies say.
func (s *KVSecret) APIPath() string {
	if s.version == 1 {
		return s.Path()
	}
	return s.Name + "/data/app"
}

// Put writes the secret.
func (s *KVSecret) Put(fields map[string]any) {
	s.l.T.Helper()
	put := s.l.Vault.PutKV2
	if s.version == 1 {
		put = s.l.Vault.PutKV1
	}
	require.NoError(s.l.T, put(s.l.Ctx, s.Name, "app", fields))
}

// PutColour puts the secret's one field in most tests here.
func (s *KVSecret) PutColour(colour string) {
	s.l.T.Helper()
	s.Put(map[string]any{"colour": colour})
}

// Reads are the requests for the secret by these jobs' tasks, polls included.
func (s *KVSecret) Reads(since harness.Mark, jobs ...string) []harness.Request {
	s.l.T.Helper()
	all, err := s.l.Vault.Requests(since, s.APIPath())
	require.NoError(s.l.T, err)
	return OfJob(all, jobs...)
}

// AwaitPolls waits until what was written at a moment has been polled by the process that serves these
// jobs, and then polled again, so that whatever it had to do about it is begun.
func (s *KVSecret) AwaitPolls(since harness.Mark, written time.Time, jobs ...string) {
	s.l.T.Helper()
	s.l.Until(fmt.Sprintf("two polls of %s for %v", s.APIPath(), jobs), func() error {
		reads := s.Reads(since, jobs...)
		if n := len(reads); n == 0 || reads[n-1].Time.Before(written.Add(2*PollInterval)) {
			return fmt.Errorf("%d reads, not yet two intervals after the write", n)
		}
		return nil
	})
}
