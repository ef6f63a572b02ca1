package lifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A static secret that a rotation is dropping is not looked at meanwhile, whatever a poll has found: the watch goes on.
func TestStaticThatARotationDrops(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "x")
		s := w.open(many{"app": app("")})
		s.results <- func() {
			h := s.secrets["app"]
			delete(s.secrets, "app")
			s.statics["app"].changed.Store(true)
			s.stepStatic(time.Now(), "app", s.statics["app"])
			s.secrets["app"] = h
		}
		synctest.Wait()
		require.NotContains(w.t, w.host.said(), "not watched any more")
		s.End()
	})
}
