package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// attacks is what a raw_exec task of another user tries, once it runs. Each line says how it went.
const attacks = `
cd "$NOMAD_TASK_DIR/.."
try() { name=$1; shift; if "$@" >/dev/null 2>&1 </dev/null; then echo "attack $name worked"; else echo "attack $name denied"; fi; }
try own-file          grep -q . secrets/app/value
try private-list      ls private
try private-read      cat private/vault.jwt
try private-replace   sh -c 'echo x > private/vault.jwt'
try private-create    touch private/other
try private-unlink    unlink private/vault.jwt
try private-symlink   ln -s /etc/passwd private/link
try private-rename    mv private elsewhere
try private-rmdir     rmdir private
try private-unmount   umount private
try private-mode      chmod 0777 private
try neighbour-private ls ../other/private
try neighbour-token   cat ../other/private/vault.jwt
try neighbour-file    cat ../other/secrets/app/value
try neighbour-set     touch ../other/secrets/app/more
try state-list        ls "$1"
try state-read        sh -c 'cat "$0"/journal/*/*/*/*' "$1"
try state-journal     ls "$1/journal"
try state-shared      ls "$1/shared"
try state-channel     touch "$1/shared/channel/x"
try state-live        touch "$1/shared/live/x"
try state-lock        sh -c 'exec 9<"$0/.lock"' "$1"
try state-create      touch "$1/x"
try state-rename      mv "$1" "$1.old"
try state-unmount     umount "$1/journal"
try launcher-replace  sh -c 'echo x > "$0"' "$2"
try launcher-unlink   unlink "$2"
try plugin-environ    cat "/proc/$3/environ"
echo "attacks done"
exec sleep 1000
`

// A raw_exec task of another user can neither read nor replace what the driver reads its identity
// from, nor the journal, nor other tasks' secrets: from the start of its program on, and
// after a restart in place.
func TestHostileTask(t *testing.T) {
	t.Parallel()
	h := lab.NewLeakSearch(newLab(t))
	require.NoError(t, h.Vault.EnableKV2(h.Ctx, "secret"))
	h.Put("hostile", "the secret")
	h.AllowLeased("hostile", "secret/data/hostile")
	plugin, err := h.Agent.PluginPID("raw_exec")
	require.NoError(t, err)
	launchers, err := filepath.Glob("/var/lib/nomad-driver-secrets/launcher-host-*")
	require.NoError(t, err)
	launcher := "/var/lib/nomad-driver-secrets" // none yet, if no other test has run
	if len(launchers) > 0 {
		launcher = launchers[0]
	}

	const task = `
    task "%[1]s" {
      driver = "raw_exec"
      %[2]s
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command = "/bin/sh"
        args    = %[3]s
        role    = "hostile"
        secret "app" {
          path    = "secret/hostile"
          env     = { VALUE = "value" }
          files   = true
          splay   = "0s"
          stagger = "0s"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`
	// Before a task is started its private/ is as Nomad made it (docs/security.md): the neighbour is up first.
	const first = "lifecycle {\n hook = \"prestart\"\n sidecar = true\n}"
	args := fmt.Sprintf("[\"-c\", var.attacks, \"hostile\", %q, %q, \"%d\"]", h.Agent.StateDir, launcher, plugin)
	alloc := h.Run(fmt.Sprintf("variable \"attacks\" {}\njob \"hostile\" {\n  group \"g\" {%s%s\n  }\n}",
		fmt.Sprintf(task, "hostile", `user = "nobody"`, args), fmt.Sprintf(task, "other", first, `["-c", "exec sleep 1000"]`)),
		harness.Var{Name: "attacks", Value: escapeHCL(attacks)})

	check := func(round int) {
		h.Lines(alloc, "hostile", "attacks done", round)
		tried := strings.Count(attacks, "\ntry ")
		results := h.Lines(alloc, "hostile", "attack ", round*tried)
		require.Len(t, results, round*tried)
		for _, result := range results {
			if strings.HasPrefix(result, "own-file ") {
				require.Equal(t, "own-file worked", result, "an attack that can do nothing proves nothing")
				continue
			}
			require.True(t, strings.HasSuffix(result, " denied"), result)
		}
	}
	check(1)
	h.Put("hostile", "the secret, rotated")
	check(2)
}

// escapeHCL keeps Nomad from taking a shell's variables for its own.
func escapeHCL(script string) string { return strings.ReplaceAll(script, "${", "$${") }

// A task gets Nomad's token only if it asks for it, however its vault block hands it out; and
// so it stays over a restart in place.
func TestTokenIsKeptFromTasks(t *testing.T) {
	t.Parallel()
	h := lab.NewLeakSearch(newLab(t))
	require.NoError(t, h.Vault.EnableKV2(h.Ctx, "secret"))
	h.Put("kept", "first")
	h.AllowLeased("kept", "secret/data/kept")

	type variant struct{ driver, vault, config string }
	variants := map[string]variant{
		"plain":    {"docker", "", ""},
		"no-env":   {"docker", "env = false", ""},
		"no-file":  {"docker", "disable_file = true", ""},
		"asks":     {"docker", "", "expose_token = true"},
		"raw":      {"raw_exec", "", ""},
		"raw-asks": {"raw_exec", "", "expose_token = true"},
	}
	var tasks strings.Builder
	for name, v := range variants {
		image := ""
		if v.driver == "docker" {
			image = `image = "${meta.image}"`
		}
		fmt.Fprintf(&tasks, `
    task "%s" {
      driver = "%s"
      vault {
        role = "kept"
        %s
      }
      config {
        %s
        command = "testapp"
        args    = ["sleep"]
        %s
        secret "app" {
          path    = "secret/kept"
          env     = { VALUE = "value" }
          splay   = "0s"
          stagger = "0s"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`, name, v.driver, v.vault, image, v.config)
	}
	alloc := h.Run(fmt.Sprintf("job \"kept\" {\n  group \"g\" {%s\n  }\n}", tasks.String()))

	for round := 1; round <= 2; round++ {
		for name, v := range variants {
			h.Lines(alloc, name, "start ", round)
			token, err := os.ReadFile(alloc.Dir(name, "private", "vault_token"))
			require.NoError(t, err)
			require.NotEmpty(t, token)
			proc := h.ProcDir(alloc, name)
			environ, err := os.ReadFile(filepath.Join(proc, "environ"))
			require.NoError(t, err)
			require.Contains(t, string(environ), "\x00VALUE=", "the environment is the program's")
			inExec, code, err := alloc.Exec(h.Ctx, name, "/bin/sh", "-c", `printf %s "$VAULT_TOKEN"`)
			require.NoError(t, err)
			require.Zero(t, code)

			if v.config != "" {
				require.True(t, bytes.Contains(environ, append([]byte("\x00VAULT_TOKEN="), token...)), "%s asked for the token", name)
				require.Equal(t, string(token), inExec, "%s asked for the token", name)
			} else {
				require.NotContains(t, string(environ), "VAULT_TOKEN", name)
				require.False(t, bytes.Contains(environ, token), name)
				require.Empty(t, inExec, name)
			}
			if v.driver == "docker" {
				inside, err := os.ReadFile(filepath.Join(proc, "root", "secrets", "vault_token"))
				switch {
				case v.config != "":
					require.NoError(t, err)
					require.Equal(t, token, inside, "%s asked for the token", name)
				case name == "no-file":
					require.ErrorIs(t, err, os.ErrNotExist, name)
				default:
					require.NoError(t, err)
					require.Empty(t, inside, "the token's file in %s is covered", name)
				}
			}
		}
		h.Put("kept", "second")
	}
}
