package driver

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/structs"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// fingerprinted is a wrapped driver that is found, and says so twice.
type fingerprinted struct{ drivers.DriverPlugin }

func (fingerprinted) Fingerprint(context.Context) (<-chan *drivers.Fingerprint, error) {
	out := make(chan *drivers.Fingerprint, 2)
	for range 2 {
		out <- &drivers.Fingerprint{
			Attributes: map[string]*structs.Attribute{"driver.docker": structs.NewBoolAttribute(true)},
			Health:     drivers.HealthStateHealthy,
		}
	}
	close(out)
	return out, nil
}

// A node whose plugin has no address of a server is healthy, and does not look like one that gives secrets.
func TestFingerprintWithoutAddress(t *testing.T) {
	for name, test := range map[string]struct {
		option, environment string
		attribute           bool
		told                int
	}{
		"option":         {"https://vault:8200", "", true, 0},
		"environment":    {"", "https://vault:8200", true, 0},
		"neither":        {"", "", false, 1},
		"no URL of ours": {"", "vault:8200", false, 0}, // an error of another line, which the keeper gives
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("VAULT_ADDR", test.environment)
			var log bytes.Buffer
			noDir := filepath.Join(t.TempDir(), "file") // no keeper is made
			must.NoError(t, os.WriteFile(noDir, nil, 0o600))
			d := &Driver{
				name: "docker", wrapped: &wrappedDocker, inner: fingerprinted{}, ctx: t.Context(),
				log: hclog.New(&hclog.LoggerOptions{Output: &log}), opts: options{vault: vault.Config{Address: test.option}, stateDir: noDir},
			}
			d.begun.Do(d.logWithoutAddress) // in the place of all else that is begun
			found, err := d.Fingerprint(t.Context())
			must.NoError(t, err)
			for range 2 {
				fp := <-found
				_, here := fp.Attributes["driver.docker.secrets"]
				must.EqOp(t, test.attribute, here)
				must.MapContainsKey(t, fp.Attributes, "driver.docker")
				must.MapContainsKey(t, fp.Attributes, "driver.docker.secrets.nomad")
				must.EqOp(t, drivers.HealthStateHealthy, fp.Health)
			}
			must.EqOp(t, test.told, strings.Count(log.String(), "set `address`"), must.Sprint(log.String()))
		})
	}
}
