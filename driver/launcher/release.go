package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher/internal/wire"
)

var (
	// ErrEnded means that the process was killed, or ended by itself, before it had its command.
	ErrEnded = errors.New("the process ended while it waited at the launcher")

	// ErrTimeout means that the launcher did not take its command within Bound.
	ErrTimeout = errors.New("the launcher did not take its command in time")
)

// ExecError says that the app could not be started, in the words that Docker has for it, such as
//
//	exec: "foo": executable file not found in $PATH
//
// It unwraps to the errno.
type ExecError struct {
	Errno syscall.Errno // 0 if the kernel was not asked
	Text  string
}

func (e *ExecError) Error() string { return e.Text }

func (e *ExecError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Payload is what to run in the place of the launcher.
type Payload struct {
	Argv  []string
	Env   []string // NAME=value, over the environment that Docker gave the process
	Unset []string // names to take out of it

	// Processes is the limit of the user's processes (RLIMIT_NPROC) that it gets; nil: the one it has. The
	// launcher may need more of them than the app may have. An older launcher leaves what there is.
	Processes *Limit
}

// Limit is a resource limit, of which the highest number is none.
type Limit = wire.Limit

// Format makes every fmt verb print nothing of a payload (L4).
func (Payload) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// MarshalJSON prints nothing of a payload either (L4).
func (Payload) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

const (
	firstLook = 200 * time.Microsecond // how often to look whether the launcher has come, at first
	laterLook = 5 * time.Millisecond   // and once it is late
	late      = 100 * time.Millisecond // a launcher comes within a few ms of its container's start
	glance    = 50 * time.Millisecond  // how often to look whether the process still lives
	maxText   = 1024                   // of an exec error: it comes from the container
)

// Release gives the waiting process its command and environment, and returns nil once it runs. If
// the command cannot be run the error is an *ExecError; if the process is gone, ErrEnded; if it never
// came to take its command, ErrTimeout. alive says whether the process, or its container, still
// lives (see Alive), and may be nil. The FIFOs are removed in any case.
func (h *Hold) Release(ctx context.Context, alive func() error, owner Owner, p Payload) error {
	defer h.Remove()
	ctx, cancel := context.WithTimeoutCause(ctx, h.bound, ErrTimeout)
	defer cancel()
	if alive == nil {
		alive = func() error { return nil }
	}
	w := &waiter{ctx: ctx, alive: alive}

	message, err := wire.Encode(h.version, wire.Payload(p))
	if err != nil {
		return err
	}
	// Listen before the launcher may open: it opens "out" first, and cannot without a reader.
	out, err := h.out.open(os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open the launcher's FIFO: %w", err)
	}
	defer out.Close()
	for _, f := range []*fifo{h.out, h.in} {
		if err := f.chown(owner); err != nil {
			return fmt.Errorf("give the launcher's FIFO to user %d: %w", owner.UID, err)
		}
	}
	in, err := h.openForWaiting(w)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := w.hello(out, h.version); err != nil {
		return err
	}
	if h.meet != nil {
		h.meet()
	}
	// The header tells the launcher that the FIFO's vanishing is no reason to give up.
	if err := w.write(in, message[:wire.HeaderLen]); err != nil {
		return err
	}
	h.disappear()
	if err := w.write(in, message[wire.HeaderLen:]); err != nil {
		return err
	}
	return w.result(out)
}

// openForWaiting opens "in" as soon as a launcher has it open.
func (h *Hold) openForWaiting(w *waiter) (*os.File, error) {
	began := time.Now()
	looked := began
	for {
		in, err := h.in.open(os.O_WRONLY)
		if err == nil {
			return in, nil
		}
		if !errors.Is(err, syscall.ENXIO) {
			return nil, fmt.Errorf("open the launcher's FIFO: %w", err)
		}
		pause := firstLook
		if time.Since(began) > late {
			pause = laterLook
		}
		select {
		case <-w.ctx.Done():
			return nil, w.cause()
		case <-time.After(pause):
		}
		if time.Since(looked) > glance {
			if err := w.check(); err != nil {
				return nil, err
			}
			looked = time.Now()
		}
	}
}

// waiter does I/O with a process that may end, or never come to its part.
type waiter struct {
	ctx   context.Context
	alive func() error
}

// check says whether there is still something to wait for.
func (w *waiter) check() error {
	if w.ctx.Err() != nil {
		return w.cause()
	}
	if err := w.alive(); err != nil {
		return fmt.Errorf("%w: %w", ErrEnded, err)
	}
	return nil
}

func (w *waiter) cause() error {
	return fmt.Errorf("wait for the launcher: %w", context.Cause(w.ctx))
}

// write writes all of b, which a pipe may not have room for at once.
func (w *waiter) write(f *os.File, b []byte) error {
	for {
		if err := f.SetWriteDeadline(time.Now().Add(glance)); err != nil {
			return err
		}
		n, err := f.Write(b)
		b = b[n:]
		switch {
		case len(b) == 0:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := w.check(); err != nil {
				return err
			}
		case errors.Is(err, syscall.EPIPE):
			return ErrEnded
		default:
			return fmt.Errorf("write to the launcher: %w", err)
		}
	}
}

// read reads what there is, at least one byte, or io.EOF. What a process said before it ended counts: a
// short-lived app may have come and gone since we last looked.
func (w *waiter) read(f *os.File, b []byte) (int, error) {
	for ended := error(nil); ; {
		if err := f.SetReadDeadline(time.Now().Add(glance)); err != nil {
			return 0, err
		}
		n, err := f.Read(b)
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, io.EOF):
			return 0, io.EOF
		case errors.Is(err, os.ErrDeadlineExceeded):
			if ended != nil {
				return 0, ended
			}
			ended = w.check()
		default:
			return 0, fmt.Errorf("read from the launcher: %w", err)
		}
	}
}

// expect reads one byte, which a process that ends does not say.
func (w *waiter) expect(out *os.File) (byte, error) {
	var b [1]byte
	_, err := w.read(out, b[:])
	if errors.Is(err, io.EOF) {
		return 0, ErrEnded
	}
	return b[0], err
}

// hello reads which version the launcher speaks.
func (w *waiter) hello(out *os.File, want byte) error {
	version, err := w.expect(out)
	if err == nil && version != want {
		err = fmt.Errorf("the container's launcher speaks version %d, this plugin %d: restart the task", version, want)
	}
	return err
}

// result reads how the start went: an end without a word, after the launcher had everything, is exec
// closing the FIFO.
func (w *waiter) result(out *os.File) error {
	ready, err := w.expect(out)
	if err != nil {
		return err
	}
	if ready != wire.Ready {
		return fmt.Errorf("unexpected answer from the launcher")
	}
	var said []byte
	buf := make([]byte, maxText)
	for len(said) < maxText {
		n, err := w.read(out, buf)
		said = append(said, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if len(said) == 0 {
		return nil
	}
	errno, text, ok := wire.ParseFailure(said)
	if !ok {
		return fmt.Errorf("unexpected answer from the launcher")
	}
	return &ExecError{Errno: syscall.Errno(errno), Text: printable(text)}
}

// printable is text as it may stand in an event: it comes from the container.
func printable(text string) string {
	text = text[:min(len(text), maxText)]
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
