package lifecycle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A warning comes where allocations of a group are certain to be restarted at the same time, and only there.
func TestOverlap(t *testing.T) {
	const far = "beyond which each waits for a random moment"
	for _, test := range []struct {
		name           string
		index          int
		stagger, splay time.Duration
		wait, stop     time.Duration
		signal         string
		mode           secrets.Mode
		want           string
	}{
		{name: "fits", index: 1, stagger: 41 * time.Second, splay: 5 * time.Second, wait: 30 * time.Second, stop: 5 * time.Second, mode: secrets.Restart},
		{name: "just not", index: 1, stagger: 40 * time.Second, splay: 5 * time.Second, wait: 30 * time.Second, stop: 5 * time.Second, mode: secrets.Restart, want: "(5s + 30s + 5s)"},
		{name: "defaults", index: 2, stagger: 10 * time.Second, splay: 5 * time.Second, stop: 5 * time.Second, signal: "SIGHUP", mode: secrets.Restart, want: "(5s + 0s + 5s)"},
		{name: "the only one, for all it knows", stagger: 0, wait: time.Minute, mode: secrets.Restart},
		{name: "does not finish", index: 1, stagger: 0, splay: 5 * time.Second, stop: 5 * time.Second, mode: secrets.Restart},
		{name: "no restart", index: 1, stagger: 0, wait: time.Minute, mode: secrets.SendSignal},
		{name: "at the bound", index: 5, stagger: time.Minute, wait: 30 * time.Second, mode: secrets.Restart},
		{name: "beyond it", index: 6, stagger: time.Minute, wait: 30 * time.Second, mode: secrets.Restart, want: far},
		{name: "beyond it with splay", index: 5, stagger: time.Minute, splay: time.Second, wait: 30 * time.Second, mode: secrets.Restart, want: far},
		{name: "splay beyond it", index: 1, stagger: 10 * time.Minute, splay: 10 * time.Minute, wait: time.Second, mode: secrets.Restart, want: far},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := &secrets.Spec{
				PreStopSignal: test.signal, PreStopWait: test.wait, StopTimeout: test.stop,
				Secrets: []secrets.Secret{{Name: "app", Change: secrets.Change{Mode: test.mode, Stagger: test.stagger, Splay: test.splay}}},
			}
			got := overlap(spec, test.index)
			if test.want == "" {
				require.Empty(t, got)
				return
			}
			require.Contains(t, got, `secret "app"`)
			require.Contains(t, got, test.want)
		})
	}
}

// It is an event of the start, of an allocation that others come before.
func TestOverlapIsTold(t *testing.T) {
	for index, told := range map[int]bool{0: false, 1: true} {
		inWorld(t, func(w *world) {
			withApp(w, "one")
			start := w.startOf(many{"app": app("")})
			start.Config.PreStopWait, start.Task.AllocIndex = "30s", index
			var err error
			start.Spec, err = w.keeper.providers.compile(start.Config)
			require.NoError(t, err)
			s, err := w.keeper.Open(w.t.Context(), start, w.host)
			require.NoError(t, err)
			if told {
				require.Contains(t, w.host.said(), "may be restarted at the same time")
			} else {
				require.NotContains(t, w.host.said(), "may be restarted at the same time")
			}
			s.End()
		})
	}
}
