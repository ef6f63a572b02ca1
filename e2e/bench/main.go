// Bench measures this driver beside the built-in ones with `vault` and `template`, on one machine and in one run, and writes
// docs/benchmarks.md. Run it by `make bench`, or rows of it by `make bench BENCH=regexp`, which only prints them.
//
// Each row is one function in rows. What ours and the built-in's do is measured in turns, so that the machine's moods meet all
// alike, and each turn begins when the machine is quiet; a figure is the median of its turns.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// row is what is measured together: some lines of the table.
type row struct {
	name    string
	measure func(context.Context, *bench) ([]line, error)
	// waits is of a row that waits for most of its time: such rows are measured at once, after all others.
	waits bool
}

var rows = []row{
	{name: "idle", measure: idle}, // before there were tasks
	{name: "plugin-start", measure: pluginStart},
	{name: "start-docker-one", measure: starts("docker", 1, 9)},
	{name: "start-docker-many", measure: starts("docker", many, 5)},
	{name: "start-raw_exec-one", measure: starts("raw_exec", 1, 9)},
	{name: "start-raw_exec-many", measure: starts("raw_exec", many, 5)},
	{name: "start-requests", measure: startRequests},
	{name: "gap", measure: gaps},
	{name: "live-reads", measure: liveReads},
	{name: "live-server", measure: liveServer},
	{name: "leases", measure: leases},
	{name: "request-rate", measure: requestRate, waits: true},
	{name: "change", measure: changes, waits: true},
}

// many is how many tasks are started at once.
const many = 20

func main() {
	only := flag.String("run", "", "measure only the rows whose name matches this regular expression, and print them")
	rounds := flag.Float64("rounds", 1, "so many times the usual rounds")
	out := flag.String("o", "", "write this file; of a run of all rows it is docs/benchmarks.md")
	list := flag.Bool("list", false, "list the rows")
	flag.Parse()
	if *list {
		for _, r := range rows {
			fmt.Println(r.name)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *rounds, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, rounds float64, out string) (err error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	began := time.Now()
	b := newBench(rounds, func(text string) { fmt.Printf("%6.1fs %s\n", time.Since(began).Seconds(), text) })
	defer func() { err = errors.Join(err, b.close()) }()

	measured := make([][]line, len(rows))
	var waiting errgroup.Group
	for _, waits := range []bool{false, true} {
		for i, r := range rows {
			if r.waits != waits || !pattern.MatchString(r.name) {
				continue
			}
			measure := func() (err error) {
				measured[i], err = b.measure(ctx, r)
				return err
			}
			if waits {
				waiting.Go(measure)
			} else if err := measure(); err != nil {
				return err
			}
		}
	}
	if err := waiting.Wait(); err != nil {
		return err
	}
	doc, err := newDocument(ctx, measured, time.Since(began))
	if err != nil {
		return err
	}
	fmt.Println("\n" + doc.Table())
	if only == "" && out == "" {
		root, err := harness.RepoRoot()
		if err != nil {
			return err
		}
		out = filepath.Join(root, "docs", "benchmarks.md")
	}
	if out == "" {
		return nil
	}
	b.say("writing " + out)
	return doc.write(out)
}

// measure measures a row, and once more if that fails: of twenty minutes one start that went wrong is not to be the end.
func (b *bench) measure(ctx context.Context, r row) ([]line, error) {
	b.say("measuring " + r.name)
	lines, err := r.measure(ctx, b)
	if err != nil && ctx.Err() == nil {
		b.say(fmt.Sprintf("measuring %s again: %v", r.name, err))
		lines, err = r.measure(ctx, b)
	}
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", r.name, err)
	}
	for _, l := range lines {
		b.say("  " + l.String())
	}
	return lines, nil
}
