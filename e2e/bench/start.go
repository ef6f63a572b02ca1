package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
)

// startSecrets are of each task that is started with secrets.
var startSecrets = []string{"start-1", "start-2"}

// starts measures how long n tasks take to start: from the moment at which the agent has the first allocation until the last
// program runs, by Nomad's own events. Beside it, what of the machine's processor time went to whom.
func starts(driver string, n, usual int) func(context.Context, *bench) ([]line, error) {
	return func(ctx context.Context, b *bench) ([]line, error) {
		p, err := b.agents(ctx)
		if err != nil {
			return nil, err
		}
		for _, name := range startSecrets {
			if err := p.put(ctx, name, "password"); err != nil {
				return nil, err
			}
		}
		var took, cpu [variants][]time.Duration
		var parts [variants][]usage
		for round := range b.rounds(usual) + 1 { // the first fills caches
			for i := range variants {
				v := variant((i + round) % variants) // none is always the one after another
				d, used, err := p.startOnce(ctx, v, spec{driver: driver, count: n, secrets: startSecrets, run: []string{"sleep"}})
				if err != nil {
					return nil, err
				}
				if driver == "raw_exec" {
					used.engine = 0 // whatever it does, it is not for us
				}
				if round > 0 {
					took[v], cpu[v], parts[v] = append(took[v], d), append(cpu[v], used.sum()/time.Duration(n)), append(parts[v], used)
				}
			}
		}
		what := fmt.Sprintf("start of one %s task, ms", driver)
		if n > 1 {
			what = fmt.Sprintf("start of %d %s tasks at once, ms", n, driver)
		}
		lines := []line{{what: what}, {what: "– more than without"}, {what: "– processor time a start, ms"}, {what: "– of it Nomad / plugin and helpers / Docker engine / Vault"}}
		for v := range variants {
			lines[0].figures[v], lines[2].figures[v] = millis(took[v]), millis(cpu[v])
			lines[3].figures[v] = split(parts[v], n)
		}
		for _, v := range []variant{ours, builtIn} {
			lines[1].figures[v] = more(took[v], took[v+1])
		}
		return lines, nil
	}
}

// split is the medians of what was used by each, a task.
func split(all []usage, n int) string {
	of := func(part func(usage) time.Duration) int64 {
		var each []time.Duration
		for _, u := range all {
			each = append(each, part(u)/time.Duration(n))
		}
		return median(each).Milliseconds()
	}
	return fmt.Sprintf("%d / %d / %d / %d",
		of(func(u usage) time.Duration { return u.nomad }), of(func(u usage) time.Duration { return u.plugin }),
		of(func(u usage) time.Duration { return u.engine }), of(func(u usage) time.Duration { return u.vault }))
}

// startOnce is one turn. The job is stopped before it returns.
func (p *pair) startOnce(ctx context.Context, v variant, s spec) (took time.Duration, used usage, err error) {
	if err := settle(ctx); err != nil {
		return 0, usage{}, err
	}
	m := p.newMeter()
	before := m.read()
	r, err := p.start(ctx, v, s)
	if err != nil {
		return 0, usage{}, err
	}
	used = m.since(before)
	defer func() { err = errors.Join(err, r.stop(ctx)) }()
	first, last, err := span(r.allocs)
	return last.Sub(first), used, err
}

// span is from the first allocation's arrival to the last program's start.
func span(allocs []*api.AllocationListStub) (first, last time.Time, err error) {
	for _, a := range allocs {
		received, ok := eventTime(a, api.TaskReceived)
		started, ok2 := eventTime(a, api.TaskStarted)
		if !ok || !ok2 {
			return first, last, fmt.Errorf("allocation %s has lost its first events", a.ID)
		}
		if first.IsZero() || received.Before(first) {
			first = received
		}
		if started.After(last) {
			last = started
		}
	}
	return first, last, nil
}

// startRequests counts what one start asks of Vault, by its audit log.
func startRequests(ctx context.Context, b *bench) ([]line, error) {
	p, err := b.agents(ctx)
	if err != nil {
		return nil, err
	}
	l := line{what: fmt.Sprintf("requests to Vault for the start of a task with %d secrets", len(startSecrets))}
	for _, v := range []variant{ours, builtIn} {
		var counts []int
		for range b.rounds(3) {
			n, err := p.requestsOfStart(ctx, v)
			if err != nil {
				return nil, err
			}
			counts = append(counts, n)
		}
		l.figures[v] = fmt.Sprint(median(counts))
	}
	return []line{l}, nil
}

func (p *pair) requestsOfStart(ctx context.Context, v variant) (n int, err error) {
	for _, name := range startSecrets {
		if err := p.put(ctx, name, "password"); err != nil {
			return 0, err
		}
	}
	mark, err := p.Vault.Mark()
	if err != nil {
		return 0, err
	}
	r, err := p.start(ctx, v, spec{driver: "raw_exec", count: 1, secrets: startSecrets, run: []string{"sleep"}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.stop(ctx)) }()
	started, _ := eventTime(r.allocs[0], api.TaskStarted)
	all, err := p.Vault.Requests(mark)
	for _, request := range all {
		if request.Job == r.ID && request.Time.Before(started) { // after that ours polls
			n++
		}
	}
	return n, err
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
