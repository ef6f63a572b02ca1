package statedir

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Making takes milliseconds. Whoever holds the lock for longer is stopped, or its disk hangs.
const (
	lockTimeout = 10 * time.Second
	lockPause   = 10 * time.Millisecond
)

// lock lets one process at a time make what is in the state directory. A process that is killed gives it back.
func lock(top *os.File, timeout time.Duration) (unlock func(), err error) {
	fd, err := unix.Openat(int(top.Fd()), lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", lockName, err)
	}
	f := os.NewFile(uintptr(fd), lockName)
	for deadline := time.Now().Add(timeout); ; time.Sleep(lockPause) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", lockName, err), f.Close())
		case time.Now().After(deadline):
			return nil, errors.Join(fmt.Errorf("lock %s: another process of this plugin still has it after %s", lockName, timeout), f.Close())
		}
	}
}
