package acme

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// The authority and Vault are away from before a certificate is due until little of its life is left. The
// certificate in hand stays, and when both are back it is renewed before its end. (That it is so for certificates
// of 90, 64, 45 and six days with a day left, the issuer's own tests show with a clock of theirs.)
func TestAuthorityAndVaultAway(t *testing.T) {
	t.Parallel()
	const life, left = 180 * time.Second, 55 * time.Second // it is due with 60 to 69 seconds left
	vault, err := shared.NewVault(t.Context(), "vault-away")
	require.NoError(t, err)
	require.NoError(t, vault.EnableKV2(t.Context(), "secret"))
	l := newLab(t, "away", vault, harness.PebbleOptions{Profiles: map[string]time.Duration{"brief": life}})
	i := l.start(l.head()+l.certificate("web", "brief", "away.example.com"), "")
	l.until("the first certificate", l.isStored("web"))
	first := l.issued(l.path("web"), "away.example.com")

	l.pebble.SetAway(true)
	sleepUntil(l, time.Until(first.Leaf.NotAfter)/3)
	vault.Stop()
	sleepUntil(l, time.Until(first.Leaf.NotAfter.Add(-left)))
	require.NoError(t, vault.Start(l.ctx))
	require.Equal(t, serial(first), serial(l.stored(l.path("web"))), "the certificate in hand is kept")
	l.pebble.SetAway(false)
	l.until("another certificate", l.isStoredAfter("web", serial(first)))
	require.True(t, time.Now().Before(first.Leaf.NotAfter), "the first had ended")
	l.issued(l.path("web"), "away.example.com")
	require.Contains(t, i.out.String(), "not renewed, the certificate in Vault is kept")
	require.Contains(t, i.out.String(), "result=unavailable")
}

// sleepUntil lets time pass: an outage is one by how long it lasts.
func sleepUntil(l *lab, d time.Duration) {
	l.t.Helper()
	select {
	case <-time.After(d):
	case <-l.ctx.Done():
		l.t.Fatal(l.ctx.Err())
	}
}

func (l *lab) isStored(name string) func() error { return l.isStoredAfter(name, "") }

// isStoredAfter is nil once a certificate is there that is not the one of this serial number.
func (l *lab) isStoredAfter(name, serialNumber string) func() error {
	return l.isAt(l.path(name), serialNumber)
}

func (l *lab) isAt(path, otherThan string) func() error {
	return func() error {
		switch pair := l.stored(path); {
		case pair == nil:
			return errors.New("there is none")
		case serial(pair) == otherThan:
			return errors.New("it is the one from before")
		}
		return nil
	}
}

// The authority moves the moment: not before, and then within the minute that it is asked again, the certificate is
// renewed.
func TestRenewalInformationMovesTheMoment(t *testing.T) {
	t.Parallel()
	l := newLab(t, "moved", shared.Vault, harness.PebbleOptions{Profiles: map[string]time.Duration{"hour": time.Hour}})
	l.pebble.AskAgainAfter(time.Second) // taken as a minute
	var asked atomic.Int32
	l.pebble.Seen(func(r *http.Request) {
		if strings.Contains(r.URL.Path, "/renewalInfo/") {
			asked.Add(1)
		}
	})
	i := l.start(l.head()+l.certificate("web", "hour", "moved.example.com"), "")
	l.until("the first certificate", l.isStored("web"))
	first := l.issued(l.path("web"), "moved.example.com")
	now := time.Now()
	require.NoError(t, l.pebble.SetRenewalInfo(l.ctx, leafPEM(first), now.Add(30*time.Minute), now.Add(40*time.Minute)))
	l.until("the issuer to ask", func() error {
		if asked.Load() == 0 {
			return fmt.Errorf("not yet: %s", i.out)
		}
		return nil
	})
	require.Equal(t, serial(first), serial(l.stored(l.path("web"))))
	require.NoError(t, l.pebble.SetRenewalInfo(l.ctx, leafPEM(first), now.Add(-10*time.Minute), now.Add(-5*time.Minute)))
	l.until("another certificate", l.isStoredAfter("web", serial(first)))
	l.issued(l.path("web"), "moved.example.com")
	require.Contains(t, i.out.String(), `reason="the authority wants it renewed"`)
}
