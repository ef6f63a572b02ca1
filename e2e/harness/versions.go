package harness

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Versions names the servers that a cluster is made of, and the Docker engine.
func Versions(ctx context.Context) (string, error) {
	var all []string
	for _, name := range []string{"nomad", "vault"} {
		bin, err := server(name)
		if err != nil {
			return "", err
		}
		out, err := exec.CommandContext(ctx, bin, "version").Output()
		if err != nil {
			return "", fmt.Errorf("ask %s for its version: %w", bin, err)
		}
		words := strings.Fields(string(out)) // "Nomad v1.11.3"
		if len(words) < 2 {
			return "", fmt.Errorf("%s says of its version: %q", bin, out)
		}
		all = append(all, words[0]+" "+strings.Trim(words[1], "v,"))
	}
	docker, err := dockerClient()
	if err != nil {
		return "", err
	}
	defer docker.Close()
	engine, err := docker.ServerVersion(ctx)
	if err != nil {
		return "", err
	}
	return strings.Join(append(all, "Docker "+engine.Version), ", "), nil
}
