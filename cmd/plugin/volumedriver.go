package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	docker "github.com/docker/go-plugins-helpers/volume"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/volumes"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

const volumeDriverUsage = `Usage: nomad-driver-secrets volume-driver [options]

Serves secrets to Docker as volumes: a volume named like a secret's path is a read-only directory that
lists nothing and has a file for each field, always current.

  nomad-driver-secrets volume-driver -address https://vault.example.com:8200 \
      -token-file /etc/nomad-driver-secrets/token -allow 'secret/app-*' &
  docker run --rm --volume-driver secrets -v secret/app-1/:/secrets IMAGE cat /secrets/password

Docker finds it by its socket: /run/docker/plugins/NAME.sock makes it the volume driver NAME.

Exit status: 0 when a signal ends it; 1 when it cannot serve; 2 for wrong usage.

Options:
`

// volumeOptions are the command's options.
type volumeOptions struct {
	vault       vault.Config
	credentials volumes.Credentials
	allow       []string
	socket      string
	stateDir    string
	runDir      string
	logLevel    string
}

func parseVolumeOptions(args []string, out io.Writer) (volumeOptions, error) {
	var o volumeOptions
	f := flag.NewFlagSet("volume-driver", flag.ContinueOnError)
	f.SetOutput(out)
	f.Usage = func() {
		_, _ = fmt.Fprint(out, volumeDriverUsage)
		f.PrintDefaults()
	}
	f.StringVar(&o.vault.Address, "address", os.Getenv("VAULT_ADDR"), "the secrets server's `URL`; $VAULT_ADDR")
	f.StringVar(&o.vault.Namespace, "namespace", "", "the namespace of the token, and of volumes that name none")
	f.StringVar(&o.vault.CACert, "ca-cert", "", "a `file` with the server's CA certificate")
	f.StringVar(&o.vault.CAPath, "ca-path", "", "a `directory` of CA certificates")
	f.StringVar(&o.vault.ClientCert, "client-cert", "", "a `file` with a client certificate")
	f.StringVar(&o.vault.ClientKey, "client-key", "", "a `file` with its key")
	f.StringVar(&o.vault.TLSServerName, "tls-server-name", "", "the `name` that the server's certificate is for")
	f.BoolVar(&o.vault.TLSSkipVerify, "tls-skip-verify", false, "do not check the server's certificate")
	f.Func("allow", "a `path` that volumes may have, with + for one element and * at the end for the rest; may be given several times", appendTo(&o.allow))
	f.StringVar(&o.credentials.TokenFile, "token-file", "", "a `file` with a token")
	f.StringVar(&o.credentials.RoleID, "approle-role-id", "", "log in with an AppRole: the role's `id`")
	f.StringVar(&o.credentials.SecretIDFile, "approle-secret-id-file", "", "… and a `file` with a secret id")
	f.StringVar(&o.credentials.AppRoleMount, "approle-path", "approle", "… at this auth `path`")
	f.StringVar(&o.credentials.JWTFile, "jwt-file", "", "log in with a JWT from this `file`, which is read again at each login")
	f.StringVar(&o.credentials.JWTMount, "jwt-path", "jwt", "… at this auth `path`")
	f.StringVar(&o.credentials.Role, "role", "", "… with this `role`")
	f.StringVar(&o.socket, "socket", "/run/docker/plugins/secrets.sock", "where Docker finds the driver; systemd's socket is used instead if there is one")
	f.StringVar(&o.stateDir, "state-dir", "/var/lib/nomad-driver-secrets/volumes", "a `directory` on disk: which volumes there are, and the audit log; no secrets")
	f.StringVar(&o.runDir, "run-dir", "/run/nomad-driver-secrets", "a `directory` for what the machine's end ends; the same as the plugins' state_dir shares their file server")
	f.StringVar(&o.logLevel, "log-level", "info", "trace, debug, info, warn or error")
	if err := parseOptions(f, args); err != nil {
		return o, err
	}
	if o.vault.Address == "" {
		return o, errors.New("no -address of a secrets server, and no $VAULT_ADDR")
	}
	if hclog.LevelFromString(o.logLevel) == hclog.NoLevel {
		return o, fmt.Errorf("-log-level %q is not known; use trace, debug, info, warn or error", o.logLevel)
	}
	o.credentials.Namespace = o.vault.Namespace
	return o, o.credentials.Check()
}

type volumeDriverCommand struct{ stderr io.Writer }

func (volumeDriverCommand) Synopsis() string { return "Serve secrets to Docker as volumes" }

func (volumeDriverCommand) Help() string {
	var help strings.Builder
	_, _ = parseVolumeOptions([]string{"-h"}, &help)
	return strings.TrimSpace(help.String())
}

func (c volumeDriverCommand) Run(args []string) int {
	o, err := parseVolumeOptions(args, io.Discard)
	if err == nil {
		var allow volumes.Allow
		if allow, err = volumes.ParseAllow(o.allow); err == nil {
			if err = serveVolumes(o, allow); err == nil {
				return 0
			}
			_, _ = fmt.Fprintln(c.stderr, "volume-driver:", err)
			return 1
		}
	}
	_, _ = fmt.Fprintf(c.stderr, "volume-driver: %v\nRun it with -h for help.\n", err)
	return 2
}

// serveVolumes runs until a signal ends it.
func serveVolumes(o volumeOptions, allow volumes.Allow) error {
	ctx, stop := interruptible()
	defer stop()
	if os.Geteuid() != 0 {
		return fmt.Errorf("user %d cannot mount volumes: root with CAP_SYS_ADMIN is needed", os.Geteuid())
	}
	log := hclog.New(&hclog.LoggerOptions{Name: "volume-driver", Level: hclog.LevelFromString(o.logLevel)})
	server, err := vault.New(o.vault)
	if err != nil {
		return err
	}
	defer server.Close()
	home, shared, err := liveDirs(o.runDir)
	if err != nil {
		return err
	}
	d, err := volumes.Open(volumes.Config{
		Server: server, Credentials: o.credentials, Allow: allow, StateDir: o.stateDir, Home: home, Shared: shared, Log: log,
	})
	if err != nil {
		return err
	}
	defer d.Close()
	listener, err := dockerSocket(o.socket)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	log.Info("serving volumes", "socket", listener.Addr(), "allow", strings.Join(allow, " "))
	err = docker.NewHandler(d).Serve(listener)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// liveDirs makes the directories of live directories below a run directory, as the plugins have them.
func liveDirs(runDir string) (home, shared string, err error) {
	if !filepath.IsAbs(runDir) {
		return "", "", fmt.Errorf("-run-dir %s: not an absolute path", runDir)
	}
	if err := os.MkdirAll(runDir, 0o711); err != nil {
		return "", "", err
	}
	// Mounts are known by their real paths.
	if runDir, err = filepath.EvalSymlinks(runDir); err != nil {
		return "", "", err
	}
	if err := live.SharedDir(filepath.Join(runDir, "shared")); err != nil {
		return "", "", err
	}
	shared = filepath.Join(runDir, "shared", "live")
	return filepath.Join(runDir, "live"), shared, os.MkdirAll(shared, 0o711)
}

// dockerSocket is systemd's socket, or one made here.
func dockerSocket(path string) (net.Listener, error) {
	given, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	if len(given) > 0 && given[0] != nil {
		return given[0], nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("%s: another volume driver is listening there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	old := syscall.Umask(0o177) // root's alone from the first moment
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}
