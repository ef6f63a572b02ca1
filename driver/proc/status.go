package proc

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Status is whom a process runs as, and what it may do, as our user namespace shows it (proc(5)).
type Status struct {
	Users, Groups IDs
	Capabilities  uint64 // the effective ones
}

// IDs are the real, the effective, the saved and the file system id.
type IDs [4]int

// Roots reports whether all of a process's users are root. What is run by a set-uid program has another real one.
func (s Status) Roots() bool { return s.Users == IDs{} }

// ReadStatus looks at a process.
func ReadStatus(pid int) (Status, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Status{}, fmt.Errorf("process %d: %w", pid, err)
	}
	s, err := parseStatus(string(text))
	if err != nil {
		return Status{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return s, nil
}

// parseStatus refuses a status without ids: a reader of one that is cut short would take it for root's.
func parseStatus(text string) (s Status, err error) {
	seen := 0
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "Uid":
			err = s.Users.scan(value)
		case "Gid":
			err = s.Groups.scan(value)
		case "CapEff":
			_, err = fmt.Sscanf(value, "%x", &s.Capabilities)
		default:
			continue
		}
		if err != nil {
			return Status{}, fmt.Errorf("%s in its status: %w", key, err)
		}
		seen++
	}
	const lines = 3
	if seen != lines {
		return Status{}, errors.New("its status has no ids")
	}
	return s, nil
}

func (ids *IDs) scan(text string) error {
	_, err := fmt.Sscan(text, &ids[0], &ids[1], &ids[2], &ids[3])
	return err
}
