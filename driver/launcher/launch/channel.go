package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher/internal/wire"
)

const retry = 500 * time.Microsecond

var (
	// errVanished: the driver removes the FIFOs when it gives the start up.
	errVanished = errors.New("the driver gave up this start (its FIFO is gone)")

	// errNotYet: the FIFO is somebody else's. The driver's is, until it gives it to this process's user.
	errNotYet = errors.New("the FIFO is not this user's")
)

// What package syscall does not have.
const (
	oPath   = 0x200000 // O_PATH
	othersW = 0o022    // write permission of others than the owner
	wOK     = 2        // W_OK
)

// channel is the directory of the FIFOs, open. What its path leads to later does not matter.
type channel struct{ fd int }

// openChannel opens the directory and makes sure that nobody but its owner, who is the host's root, may put
// FIFOs there. In a user namespace that root shows as nobody, as all do that are not of it. So the question
// is who may write: not others, and not this process, unless it is root itself.
func openChannel(path string) (channel, error) {
	fail := func(err error) (channel, error) {
		return channel{}, errors.New("the channel to the driver, " + path + ": " + err.Error())
	}
	fd, err := syscall.Open(path, oPath|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return fail(err)
	}
	if st.Mode&othersW != 0 {
		return fail(errors.New("others may write to it"))
	}
	if syscall.Faccessat(fd, ".", wOK, 0) == nil && (os.Geteuid() != 0 || st.Uid != 0) {
		return fail(errors.New("this user may write to it"))
	}
	return channel{fd}, nil
}

// open opens a FIFO without waiting for its other end: a wait inside open could not see the FIFO vanish. It
// cannot before the driver gave it to this user (EACCES) and, to write to it, before the driver listens (ENXIO).
func (c channel) open(name string, flag int) (*os.File, error) {
	for {
		f, err := c.tryOpen(name, flag)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, fs.ErrNotExist):
			return nil, errVanished
		case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENXIO), errors.Is(err, errNotYet):
			time.Sleep(retry)
		default:
			return nil, errors.New("the FIFO " + name + ": " + err.Error())
		}
	}
}

func (c channel) tryOpen(name string, flag int) (*os.File, error) {
	fd, err := syscall.Openat(c.fd, name, flag|syscall.O_NONBLOCK|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := check(fd); err != nil {
		_ = syscall.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// check refuses what is not the FIFO that the driver gave to this process's user. The driver removes a
// FIFO's name as soon as it is in use, so that it may have none by now.
func check(fd int) error {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFIFO:
		return errors.New("it is none")
	case st.Nlink > 1:
		return errors.New("it has another name elsewhere")
	case int(st.Uid) != os.Geteuid():
		return errNotYet
	}
	return nil
}

// receive waits for the driver and reads its payload.
func (c channel) receive(name string) (wire.Payload, error) {
	in, err := c.open(name, os.O_RDONLY)
	if err != nil {
		return wire.Payload{}, err
	}
	defer in.Close()

	header := make([]byte, wire.HeaderLen)
	for {
		_, err := io.ReadFull(in, header)
		if err == nil {
			break
		}
		if err != io.EOF {
			return wire.Payload{}, errors.New("reading the payload: " + err.Error())
		}
		// Nobody writes yet. The driver writes the header before it removes the FIFO: gone and
		// still nothing to read means that nothing will come.
		if gone(in) {
			if _, err := io.ReadFull(in, header); err != nil {
				return wire.Payload{}, errVanished
			}
			break
		}
		time.Sleep(retry)
	}
	n, err := wire.BodyLen(header)
	if err != nil {
		return wire.Payload{}, err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(in, body); err != nil {
		return wire.Payload{}, errors.New("reading the payload: " + err.Error())
	}
	return wire.Decode(body)
}

// gone reports whether an open FIFO has no name any more.
func gone(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return true
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 0
}
