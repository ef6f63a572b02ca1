package lifecycle

import (
	"fmt"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A job that lets its program finish before a restart (pre_stop_signal, pre_stop_wait) wants the allocations of its group
// to go on serving meanwhile, one after another. That its configuration does not fit is an event at the start, by the allocations that
// others come before: those know that there are several.

// emitOverlap warns of allocations that will be restarted at the same time.
func (s *Session) emitOverlap() {
	if text := overlap(s.spec, s.task.AllocIndex); text != "" {
		s.host.Event(text)
	}
}

// overlap is a warning that an allocation may be stopped while the one before it in the group is not yet back; "": it
// may fit. How long the program takes to be healthy is not known, and counts nothing here.
func overlap(spec *secrets.Spec, index int) string {
	if index == 0 || spec.PreStopSignal == "" && spec.PreStopWait == 0 {
		return ""
	}
	const head = "Secrets: allocations of this group may be restarted at the same time when secret %q changes: "
	for _, sec := range spec.Secrets {
		c := sec.Change
		if c.Mode != secrets.Restart {
			continue
		}
		if busy := min(c.Splay, maxSpread) + spec.StopTime(); c.Stagger <= busy {
			return fmt.Sprintf(head+"stagger (%v) is to be above splay + pre_stop_wait + stop_timeout (%v + %v + %v) and the time that the program takes to be healthy",
				sec.Name, c.Stagger, c.Splay, spec.PreStopWait, spec.StopTimeout)
		}
		if c.Stagger > (maxSpread-min(c.Splay, maxSpread))/time.Duration(index) {
			return fmt.Sprintf(head+"splay + index × stagger (%v + %d × %v) is above %v, beyond which each waits for a random moment; use a shorter stagger, or fewer allocations",
				sec.Name, c.Splay, index, c.Stagger, maxSpread)
		}
	}
	return ""
}
