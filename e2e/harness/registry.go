package harness

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	dockerregistry "github.com/docker/docker/api/types/registry"
	"golang.org/x/crypto/bcrypt"
)

// Registry is a Docker registry on this machine that wants a login.
type Registry struct {
	Addr     string // host:port, the first part of its images' names
	User     string
	Password string
	LogPath  string

	bin      string
	config   string
	htpasswd string
	proc     *process
	pushed   []string
}

const registryConfig = `version: 0.1
storage:
  filesystem:
    rootdirectory: %s
http:
  addr: %s
auth:
  htpasswd:
    realm: e2e
    path: %s
`

func startRegistry(ctx context.Context, dir string) (*Registry, error) {
	bin, err := tool("docker-registry", "docker-registry")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r := &Registry{
		Addr:     fmt.Sprintf("127.0.0.1:%d", port),
		User:     "puller",
		Password: "registry-password-of-the-tests",
		LogPath:  filepath.Join(dir, "registry.log"),
		bin:      bin,
		config:   filepath.Join(dir, "config.yml"),
		htpasswd: filepath.Join(dir, "htpasswd"),
	}
	if err := r.SetPassword(r.Password); err != nil {
		return nil, err
	}
	yml := fmt.Sprintf(registryConfig, filepath.Join(dir, "data"), r.Addr, r.htpasswd)
	if err := os.WriteFile(r.config, []byte(yml), 0o600); err != nil {
		return nil, err
	}
	return r, r.Start(ctx)
}

// SetPassword makes another password the only one that the registry takes, from the next request on.
func (r *Registry) SetPassword(password string) error {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.htpasswd+".new", []byte(r.User+":"+string(hash)+"\n"), 0o600); err != nil {
		return err
	}
	r.Password = password
	return os.Rename(r.htpasswd+".new", r.htpasswd) // it reads the file anew when its time is another
}

// Start starts the registry, again on the same data if it was stopped.
func (r *Registry) Start(ctx context.Context) (err error) {
	r.proc, err = startProcess("docker-registry", r.LogPath, nil, r.bin, "serve", r.config)
	if err != nil {
		return err
	}
	return Until(ctx, "the registry to answer", func() error {
		if err := r.proc.alive(); err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Addr+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// Stop ends the registry: a pull finds nobody there.
func (r *Registry) Stop() { r.proc.stop(syscall.SIGTERM, 10*time.Second) }

// Push tags a local image as name (without the registry's address), pushes it, and removes the local
// tag again, so that the next use of it must pull. It returns the full name.
func (r *Registry) Push(ctx context.Context, local, name string) (string, error) {
	docker, err := dockerClient()
	if err != nil {
		return "", err
	}
	defer docker.Close()
	ref := r.Addr + "/" + name
	if err := docker.ImageTag(ctx, local, ref); err != nil {
		return "", err
	}
	auth, err := json.Marshal(dockerregistry.AuthConfig{Username: r.User, Password: r.Password, ServerAddress: r.Addr})
	if err != nil {
		return "", err
	}
	out, err := docker.ImagePush(ctx, ref, image.PushOptions{RegistryAuth: base64.URLEncoding.EncodeToString(auth)})
	if err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	if err := drain(out); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	r.pushed = append(r.pushed, ref)
	_, err = docker.ImageRemove(ctx, ref, image.RemoveOptions{})
	return ref, err
}

// Through is the name by which a pushed image is pulled from what stands before the registry at addr.
func (r *Registry) Through(addr, ref string) string {
	ref = addr + strings.TrimPrefix(ref, r.Addr)
	r.pushed = append(r.pushed, ref)
	return ref
}

// removeImages removes what has been pulled from here.
func (r *Registry) removeImages(ctx context.Context) error {
	docker, err := dockerClient()
	if err != nil {
		return err
	}
	defer docker.Close()
	var errs []error
	for _, ref := range r.pushed {
		if _, err := docker.ImageRemove(ctx, ref, image.RemoveOptions{Force: true}); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
