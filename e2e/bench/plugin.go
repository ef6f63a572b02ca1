package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hashicorp/nomad/plugins/base"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// idle is the memory of agents that have no task.
func idle(ctx context.Context, b *bench) ([]line, error) {
	p, err := b.agents(ctx)
	if err != nil {
		return nil, err
	}
	if err := settle(ctx); err != nil {
		return nil, err
	}
	plugin := line{what: "memory of the docker plugin's process without tasks, MiB"}
	pid, err := p.ours.PluginPID("docker")
	if err != nil {
		return nil, err
	}
	plugin.figures[oursBare] = mib(resident(pid))
	all := line{what: "memory without tasks, MiB: agent and plugins"}
	for v, agent := range map[variant]*harness.Agent{oursBare: p.ours, builtInBare: p.builtIn} {
		all.figures[v] = mib(residentOf(agent))
	}
	return []line{plugin, all}, nil
}

// pluginStart is from the exec of the plugin's binary until it says to the agent that it serves.
func pluginStart(ctx context.Context, b *bench) ([]line, error) {
	p, err := b.agents(ctx)
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(p.Dir(), "docker") // the name says what it wraps
	if err := os.Symlink(p.Plugin(), binary); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	var took []time.Duration
	for range b.rounds(9) {
		if err := settle(ctx); err != nil {
			return nil, err
		}
		d, err := servesAfter(ctx, binary)
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	return []line{one("start of the plugin's process, ms", millis(took))}, nil
}

func servesAfter(ctx context.Context, binary string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, binary)
	cmd.Env = append(os.Environ(), base.Handshake.MagicCookieKey+"="+base.Handshake.MagicCookieValue)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, err = bufio.NewReader(out).ReadString('\n')
	took := time.Since(began)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil {
		return 0, fmt.Errorf("the plugin has not said that it serves: %w", err)
	}
	return took, nil
}
