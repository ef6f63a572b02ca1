package volumes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stateVersion is raised when an older driver could not read the file.
const stateVersion = 1

// saved is the state file: what volumes there are and who has them. It has no secret.
type saved struct {
	Version int            `json:"version"`
	Boot    string         `json:"boot"` // the mounts are of this boot of the machine
	Volumes []*savedVolume `json:"volumes"`
}

type savedVolume struct {
	Name    string               `json:"name"`
	Options Options              `json:"options"`
	Created time.Time            `json:"created"`
	Mounts  map[string]time.Time `json:"mounts,omitempty"` // by Docker's id
}

func statePath(dir string) string { return filepath.Join(dir, "volumes.json") }

// loadState reads the state. Mounts of an earlier boot are gone.
func loadState(dir string) ([]*savedVolume, error) {
	b, err := os.ReadFile(statePath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w: put it right, or move it away (then the volumes must be created again)", statePath(dir), err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%s is of version %d, this driver knows %d: use the newer driver, or move the file away", statePath(dir), s.Version, stateVersion)
	}
	if s.Boot != bootID() {
		for _, v := range s.Volumes {
			v.Mounts = nil
		}
	}
	return s.Volumes, nil
}

// lockHome makes sure that there is one driver for a home, as long as the file is open.
func lockHome(home string) (*os.File, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(home, "volumes.lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is locked: another volume driver runs with this directory", f.Name())
	}
	return f, nil
}

// saveState replaces the state file as a whole.
func saveState(dir string, volumes []*savedVolume) error {
	b, err := json.MarshalIndent(saved{Version: stateVersion, Boot: bootID(), Volumes: volumes}, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".volumes-")
	if err != nil {
		return fmt.Errorf("save the volumes' state: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), statePath(dir))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("save the volumes' state: %w", err)
	}
	return nil
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
