package main

import (
	"context"
	"fmt"
	"time"
)

// requestRate counts the reads of N tasks' static secrets while nothing happens. The built-in's template reads each secret of each
// task again every 255 to 285 s, so they are counted for longer than that.
func requestRate(ctx context.Context, b *bench) (_ []line, err error) {
	const each = 5
	p, err := b.agents(ctx)
	if err != nil {
		return nil, err
	}
	s := spec{driver: "raw_exec", count: many, run: []string{"sleep"}}
	for i := range each {
		name := fmt.Sprintf("rate-%d", i)
		if err := p.put(ctx, name, "password"); err != nil {
			return nil, err
		}
		s.secrets = append(s.secrets, name)
	}
	l := line{what: fmt.Sprintf("reads a minute of %d tasks × %d secrets that do not change", many, each)}
	memory := line{what: fmt.Sprintf("memory with %d tasks of %[2]d secrets, MiB: agent and plugins", many, each)}
	jobs, err := p.startBoth(ctx, func(variant) spec { return s })
	if err != nil {
		return nil, err
	}
	defer jobs.stop(ctx, &err)
	mark, err := p.Vault.Mark()
	if err != nil {
		return nil, err
	}
	const counted = 5 * time.Minute
	b.say("  request-rate: counting for " + counted.String())
	if err := pause(ctx, counted); err != nil {
		return nil, err
	}
	all, err := p.Vault.Requests(mark, mount+"/data/rate-")
	if err != nil {
		return nil, err
	}
	for v, r := range jobs {
		reads := 0
		for _, request := range all {
			if request.Job == r.ID {
				reads++
			}
		}
		l.figures[v] = fmt.Sprintf("%.0f", float64(reads)/counted.Minutes())
		memory.figures[v] = mib(residentOf(r.agent))
	}
	return []line{l, memory}, nil
}
