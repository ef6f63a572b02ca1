package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A reader that opens the set's directory once, then certificate and key by openat, gets a pair that
// matches, over some rotations, on both drivers (S6). It takes its time between the two,
// so that most swaps find it in the middle of a pair.
func TestCertificateAndKeyMatch(t *testing.T) {
	t.Parallel()
	const rotations, pairs = 3, 10_000
	l := newLab(t)
	require.NoError(t, l.Vault.EnablePKI(l.Ctx, "pairs", "web"))
	require.NoError(t, l.Vault.Policy(l.Ctx, "pairs", `path "pairs/issue/web" { capabilities = ["create", "update"] }`))
	l.AllowRole("pairs")

	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			alloc := l.RunAll(lab.Job{ID: "pairs-" + driver, Driver: driver, Role: "pairs",
				Run: []string{"/bin/sh", "-c", "exec testapp -every 1ms -pause 2ms pki $NOMAD_SECRETS_DIR/tls cert.pem key.pem"},
				// A minute is the shortest life that there may be.
				Config: `secret "tls" {
					path        = "pairs/issue/web"
					params      = { common_name = "web.example.com", ttl = "60s" }
					change_mode = "noop"
					splay       = "0s"
					file "tls/cert.pem" {
						template = "{{ .certificate }}\n{{ .issuing_ca }}\n"
					}
					file "tls/key.pem" {
						field = "private_key"
					}
				}`})[0]

			serials := l.Lines(alloc, "app", "cert serial=", 1+rotations)
			slices.Sort(serials)
			require.Len(t, slices.Compact(serials), len(serials), "a certificate came back")
			l.Until(fmt.Sprintf("%d pairs", pairs), func() error {
				counts, err := alloc.Lines("app", "pairs ")
				if err != nil || len(counts) == 0 {
					return errors.Join(errors.New("no pairs counted yet"), err)
				}
				n := pairsSoFar.FindStringSubmatch(counts[len(counts)-1])
				require.NotNil(t, n, counts)
				if have, _ := strconv.Atoi(n[1]); have < pairs {
					return fmt.Errorf("%d pairs", have)
				}
				return nil
			})
			bad, err := alloc.Lines("app", "mismatch ")
			require.NoError(t, err)
			require.Empty(t, bad)
			l.StartedTimes(alloc, 1)
		})
	}
}

// pairsSoFar is testapp's line about the pairs so far.
var pairsSoFar = regexp.MustCompile(`^n=(\d+) `)
