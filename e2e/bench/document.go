package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/template"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/nomadversion"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// page is docs/benchmarks.md around the figures: its notes are written by hand, here.
//
//go:embed benchmarks.md.tmpl
var page string

// document is what the page is made of.
type document struct {
	Date, Took, Machine, Commit, Versions string
	Busy                                  string // how many turns, if the machine was not quiet before some
	lines                                 []line
}

func newDocument(ctx context.Context, measured [][]line, took time.Duration) (*document, error) {
	versions, err := harness.Versions(ctx)
	if err != nil {
		return nil, err
	}
	d := &document{
		Date: time.Now().UTC().Format(time.DateOnly), Took: took.Round(time.Second).String(),
		Machine: machine(), Commit: commit(ctx),
		Versions: fmt.Sprintf("%s; the wrapped drivers are Nomad %s's; built with %s", versions, nomadversion.Wrapped(), runtime.Version()),
	}
	if turns.busy > turns.all/20 {
		d.Busy = fmt.Sprintf("%d of %d", turns.busy, turns.all)
	}
	for _, lines := range measured {
		d.lines = append(d.lines, lines...)
	}
	return d, nil
}

// Table has a row for each line.
func (d *document) Table() string {
	var b strings.Builder
	b.WriteString("| | ours | ours, no secrets | built-in with `vault` + `template` | built-in, no secrets |\n| --- | --- | --- | --- | --- |\n")
	for _, l := range d.lines {
		b.WriteString("| " + l.what)
		for _, figure := range l.figures {
			if figure == "" {
				figure = "–"
			}
			b.WriteString(" | " + figure)
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

func (d *document) write(path string) error {
	t, err := template.New("page").Parse(page)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, d); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// machine says what it ran on, without the machine's name.
func machine() string {
	of := func(path, key string) string {
		content, _ := os.ReadFile(path)
		for text := range strings.Lines(string(content)) {
			if rest, ok := strings.CutPrefix(text, key); ok {
				return strings.TrimSpace(strings.TrimLeft(rest, " \t:"))
			}
		}
		return "unknown"
	}
	var kib uint64
	_, _ = fmt.Sscan(of("/proc/meminfo", "MemTotal:"), &kib)
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d × %s, %d GiB of memory, Linux %s", runtime.NumCPU(), of("/proc/cpuinfo", "model name"), (kib+1<<19)>>20, strings.TrimSpace(string(kernel)))
}

// commit is the source's, where there is a repository.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude", "*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
