package harness

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
)

// Nginx makes an image of Debian's nginx, the program and its libraries, with the directories that it is built to
// write to.
func (i *Images) Nginx(ctx context.Context) (string, error) {
	program, err := tool("nginx", "nginx")
	if err != nil {
		return "", err
	}
	libraries, err := sharedLibraries(ctx, program)
	if err != nil {
		return "", err
	}
	l := newLayer()
	l.dirs(0o755, "var/log/nginx", "var/lib/nginx", "run", "tmp")
	l.accounts()
	l.copy(program, "usr/sbin/nginx")
	for _, library := range libraries {
		l.copy(library, library[1:])
	}
	layer, err := l.bytes()
	if err != nil {
		return "", err
	}
	docker, err := dockerClient()
	if err != nil {
		return "", err
	}
	defer docker.Close()
	ref := i.run + "/nginx:debian"
	return ref, importImage(ctx, docker, ref, layer, []string{"ENV PATH=/usr/sbin"})
}

var libraryPath = regexp.MustCompile(`(?m)(?:=>|^)\s+(/\S+)`)

// sharedLibraries are the files that a program is linked to, the loader among them, by the names that it knows.
func sharedLibraries(ctx context.Context, program string) (paths []string, err error) {
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	for _, found := range libraryPath.FindAllSubmatch(out, -1) {
		paths = append(paths, string(found[1]))
	}
	return paths, nil
}
