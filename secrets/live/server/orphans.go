package server

import (
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/mountinfo"
)

// orphanAfter is how long a directory that no feeder declares is kept for one that comes back.
const orphanAfter = time.Minute

// orphans are the directories whose feeder has been away for that long. One that was withdrawn is none: it is gone.
func (s *store) orphans(now time.Time) []*directory {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*directory
	for _, d := range s.dirs {
		if d.feeder == nil && now.Sub(d.left) > orphanAfter {
			found = append(found, d)
		}
	}
	return found
}

// removeUnused takes away those orphans that nobody uses: of which nothing is mounted, in no mount namespace. A feeder binds a
// directory into place and takes it out at its end, so what is mounted is of a task that may still run. A container may have no
// more than a folder of it.
func (s *store) removeUnused(orphans []*directory, device string) error {
	used := map[string]bool{}
	err := mountinfo.Each(func(m mountinfo.Mount) {
		if m.Device == device {
			entry, _, _ := strings.Cut(strings.TrimPrefix(m.Root, "/"), "/")
			used[entry] = true
		}
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range orphans {
		if d.feeder == nil && !used[d.entry] && s.dirs[d.entry] == d {
			s.removeLocked(d)
		}
	}
	return nil
}

func (s *store) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dirs) == 0
}
