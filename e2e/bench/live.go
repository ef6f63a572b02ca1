package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

// liveReads counts opening, reading and closing a file: of a live directory, and of the built-in's template, which is an ordinary
// file on a tmpfs and has what was there at the task's start.
func liveReads(ctx context.Context, b *bench) (_ []line, err error) {
	p, err := b.agents(ctx)
	if err != nil {
		return nil, err
	}
	const secret = "live"
	if err := p.put(ctx, secret, "password"); err != nil {
		return nil, err
	}
	jobs, err := p.startBoth(ctx, func(variant) spec {
		return spec{driver: "raw_exec", count: 1, secrets: []string{secret}, run: []string{"sleep"}, extra: `live_dir = "live"`}
	})
	if err != nil {
		return nil, err
	}
	defer jobs.stop(ctx, &err)
	paths := map[variant]string{ours: "secrets/live/password", builtIn: "secrets/password-0"}
	for v, r := range jobs {
		alloc, err := r.alloc(ctx)
		if err != nil {
			return nil, err
		}
		paths[v] = alloc.Dir(task, paths[v])
	}
	var lines []line
	for _, readers := range []int{1, 8} {
		rates := map[variant][]int{}
		for range b.rounds(5) {
			if err := settle(ctx); err != nil {
				return nil, err
			}
			for _, v := range []variant{ours, builtIn} {
				n, err := readsASecond(paths[v], readers)
				if err != nil {
					return nil, err
				}
				rates[v] = append(rates[v], n)
			}
		}
		l := line{what: fmt.Sprintf("reads a second of a live directory (the built-in's: of a file), readers: %d", readers)}
		for v, all := range rates {
			l.figures[v] = fmt.Sprintf("%d", median(all)/100*100)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func readsASecond(path string, readers int) (int, error) {
	counts := make([]int, readers)
	var g errgroup.Group
	for i := range readers {
		g.Go(func() error {
			for end := time.Now().Add(time.Second); time.Now().Before(end); counts[i]++ {
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				if string(content) != "password" {
					return fmt.Errorf("%s has %d other bytes than the secret", path, len(content))
				}
			}
			return nil
		})
	}
	err := g.Wait()
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return sum, err
}
