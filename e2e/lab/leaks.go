package lab

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
	"github.com/stretchr/testify/require"
)

// LeakSearch is a lab that knows the values it has made, and where to look for them.
type LeakSearch struct {
	*Lab
	Canaries []leakscan.Canary
	known    map[string]bool
	events   *recording
}

// NewLeakSearch is a search in a lab.
func NewLeakSearch(l *Lab) *LeakSearch { return &LeakSearch{Lab: l, known: map[string]bool{}} }

// NewOwnLeakSearch is a search on an agent of its own, for as long as the test takes.
func NewOwnLeakSearch(t testing.TB, cluster *harness.Cluster, opts harness.AgentOptions) *LeakSearch {
	t.Helper()
	h := NewLeakSearch(NewOwn(t, cluster, opts, 6*time.Minute))
	h.events = new(recording)
	require.NoError(t, h.Vault.EnableKV2(h.Ctx, "secret"))
	h.Record()
	return h
}

// Learn makes a value one that is looked for from now on.
func (h *LeakSearch) Learn(name, value string) {
	if !h.known[value] {
		h.known[value] = true
		h.Canaries = append(h.Canaries, leakscan.Canary{Name: name, Value: value})
	}
}

// canary is a value that looks different in every form.
func (h *LeakSearch) canary(name string) string {
	value := rand.Text() + ` "/+<é> = ` + rand.Text()[:4]
	h.Learn(name, value)
	return value
}

// PutSecretVariable is Put for a Nomad Variable.
func (h *LeakSearch) PutSecretVariable(path, name string) string {
	h.T.Helper()
	value := h.canary(name)
	h.PutVariable("default", path, value)
	return value
}

// Put writes secret/<path>, whose one field `value` is a canary.
func (h *LeakSearch) Put(path, name string) string {
	h.T.Helper()
	value := h.canary(name)
	require.NoError(h.T, h.Vault.PutKV2(h.Ctx, "secret", path, map[string]any{"value": value}))
	return value
}

// journalValues are the journal's files that have values in them, by contract.
var journalValues = []string{"tokens.json", "values.json"}

// LearnJournal makes canaries of what only the driver knows, and may rest in those two files alone:
// its tokens, and the leased secrets.
func (h *LeakSearch) LearnJournal() {
	h.T.Helper()
	learnt := map[string]int{}
	for _, file := range journalValues {
		paths, err := filepath.Glob(filepath.Join(h.Agent.JournalDir(), "*", "*", "*", file))
		require.NoError(h.T, err)
		for _, path := range paths {
			content, err := os.ReadFile(path)
			require.NoError(h.T, err)
			var doc struct {
				Tokens map[string]struct{ Value []byte }
				Values map[string][]byte
			}
			require.NoError(h.T, json.Unmarshal(content, &doc))
			task := filepath.Base(filepath.Dir(path))
			for _, token := range doc.Tokens {
				h.Learn(task+"'s token", string(token.Value))
				learnt["token"]++
			}
			for name, fields := range doc.Values {
				var values map[string]string
				require.NoError(h.T, json.Unmarshal(fields, &values))
				for field, value := range values {
					h.Learn(fmt.Sprintf("%s's %s %s", task, name, field), value)
					learnt[field]++
				}
			}
		}
	}
	for _, what := range []string{"token", "username", "password"} {
		require.NotZero(h.T, learnt[what], "no %s is in the journal", what)
	}
}

// Scan searches for all canaries.
func (h *LeakSearch) Scan(sources ...leakscan.Source) leakscan.Report {
	h.T.Helper()
	scanner, err := leakscan.New(h.Canaries...)
	require.NoError(h.T, err)
	report, err := scanner.Scan(h.Ctx, sources...)
	require.NoError(h.T, err, "not all could be looked at")
	return report
}

// Clean fails the test if a value is anywhere.
func (h *LeakSearch) Clean(when string, allocs ...*harness.Alloc) {
	h.T.Helper()
	report := h.Scan(h.Sources(allocs...)...)
	h.T.Logf("%s: looked for %d values in %v", when, len(h.Canaries), report.Places)
	require.NoError(h.T, NoHits(report), when)
}

// NoHits is the error that something was found.
func NoHits(report leakscan.Report) error {
	if len(report.Hits) > 0 {
		return fmt.Errorf("values were found:\n%s", HitLines(report.Hits))
	}
	return nil
}

// HitLines are hits, one a line.
func HitLines(hits []leakscan.Hit) string {
	var all strings.Builder
	for _, hit := range hits {
		fmt.Fprintln(&all, " ", hit)
	}
	return all.String()
}

// Found says whether a canary was found in a place or source.
func Found(report leakscan.Report, canary, place string) bool {
	for _, hit := range report.Hits {
		if hit.Canary == canary && (strings.Contains(hit.Place, place) || hit.Source == place) {
			return true
		}
	}
	return false
}

// SeesEverywhere looks for what must be in every place: an allocation's id, and a container's.
func (h *LeakSearch) SeesEverywhere(alloc *harness.Alloc) {
	h.T.Helper()
	container, err := alloc.Container(h.Ctx, "docker")
	require.NoError(h.T, err)
	scanner, err := leakscan.New(leakscan.Canary{Name: "alloc", Value: alloc.ID}, leakscan.Canary{Name: "container", Value: container.ID},
		leakscan.Canary{Name: "image", Value: container.Image})
	require.NoError(h.T, err)
	sources := h.Sources(alloc)
	report, err := scanner.Scan(h.Ctx, sources...)
	require.NoError(h.T, err)
	seen := map[string]bool{"launcher": true} // one file, the same for all tasks
	for _, hit := range report.Hits {
		seen[hit.Source] = true
	}
	for _, source := range sources {
		if source.Name == "/run/containerd" || source.Name == "/var/lib/containerd" {
			continue // Docker may have a containerd of its own, in its own directories
		}
		require.True(h.T, seen[source.Name], "nothing of the task was found in %s, so the scan does not look there:\n%s", source.Name, HitLines(report.Hits))
	}
	// Where values may rest, they are found.
	resting := h.Scan(leakscan.Tree("journal", h.Agent.JournalDir(), leakscan.TreeOptions{}))
	for _, file := range journalValues {
		require.Contains(h.T, HitLines(resting.Hits), "/"+file)
	}
}

// ExecSees runs a shell in a task, whose variable must be this.
func (h *LeakSearch) ExecSees(alloc *harness.Alloc, task, name, want string) {
	h.T.Helper()
	h.Until(fmt.Sprintf("$%s of an exec in %s to be the current one", name, task), func() error {
		out, code, err := alloc.Exec(h.Ctx, task, "/bin/sh", "-c", `printf %s "$`+name+`"`)
		switch {
		case err != nil:
			return err
		case code != 0:
			return fmt.Errorf("exit code %d: %s", code, out)
		case out != want:
			return errors.New("it is another")
		}
		return nil
	})
}

// Contains waits until a file has this in it.
func (h *LeakSearch) Contains(path, want string) {
	h.T.Helper()
	h.Until(path+" to have the new content", func() error {
		content, err := os.ReadFile(path)
		if err == nil && !bytes.Contains(content, []byte(want)) {
			err = errors.New("it has other content")
		}
		return err
	})
}
