package lifecycle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// C5: a path whose engine is replaced by one that lends, and later by a static one again, is polled whenever it is static.
func TestStaticAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		s := w.open(many{"app": app("")})
		lends := func(yes bool, value string) {
			w.vault.with(func() {
				delete(w.vault.roles, "secret/app-1")
				delete(w.vault.static, "secret/app-1")
				if yes {
					w.vault.roles["secret/app-1"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
				} else {
					w.vault.static["secret/app-1"] = map[string]any{"password": value}
				}
			})
		}
		restarts := 0
		for range 2 {
			lends(true, "")
			w.sleep(2 * time.Minute)
			restarts++
			require.Equal(t, restarts, w.host.count("restart"), "the lent one")
			lends(false, "two")
			w.sleep(time.Hour)
			restarts++
			require.Equal(t, restarts, w.host.count("restart"), "the static one, once the lease ends")
			lends(false, "three")
			w.sleep(2 * time.Minute)
			restarts++
			require.Equal(t, restarts, w.host.count("restart"), "a change of it")
		}
		s.End()
	})
}
