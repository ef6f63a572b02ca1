// Package wire is what the driver and the launcher say to each other over two FIFOs (L1). It is
// compiled into the launcher, which is to stay small: no fmt, no reflection.
//
// The launcher opens "out" and says which version it speaks. The driver writes one payload to "in":
// a header (magic, version, length of the body) and the body (counts and length-prefixed strings:
// argv, env, unset and, since version 2, limits). When the launcher has all of it, it answers Ready, and
// then either execs, which closes "out", or writes a failure: four bytes of errno and a text.
package wire

import (
	"errors"
	"strconv"
	"strings"
)

const (
	// Version is the one that this launcher speaks: its FIFOs are in a channel of the task's own. A
	// container keeps the launcher that it was started with, so a newer driver meets older launchers
	// when it execs.
	Version = 2

	// InSecrets is the version before: its FIFOs are in the task's secrets directory.
	InSecrets = 1

	// HeaderLen is the length of a payload's header.
	HeaderLen = 12

	// Ready is the launcher's word that it has the whole payload.
	Ready = 'R'

	// MaxBody bounds a payload. The kernel takes far less: a quarter of the stack's limit.
	MaxBody = 32 << 20

	magic = "NDSL"
)

var (
	errFormat  = errors.New("malformed payload")
	errVersion = errors.New("payload of another version")
	errSize    = errors.New("payload is too large")
	errNoArgv  = errors.New("no command specified")
	errNUL     = errors.New("command or environment contains a NUL byte")
	errEnv     = errors.New("environment entry without a name")
)

// Payload is what to run: Argv and Env as for exec, over the environment that the launcher itself
// has, less the names in Unset.
type Payload struct {
	Argv, Env, Unset []string

	// Processes limits how many processes the user may have (RLIMIT_NPROC), from then on; nil leaves it.
	// The launcher itself, a Go program with its threads, needs more than an app may.
	Processes *Limit
}

// Limit is a resource limit.
type Limit struct{ Soft, Hard uint64 }

// limits are the limits as the body has them: none, or two numbers.
func (p Payload) limits() []string {
	if p.Processes == nil {
		return nil
	}
	return []string{strconv.FormatUint(p.Processes.Soft, 10), strconv.FormatUint(p.Processes.Hard, 10)}
}

func (p *Payload) setLimits(list []string) error {
	if len(list) == 0 {
		return nil
	}
	if len(list) != 2 {
		return errFormat
	}
	var n [2]uint64
	for i, s := range list {
		var err error
		if n[i], err = strconv.ParseUint(s, 10, 64); err != nil || strconv.FormatUint(n[i], 10) != s {
			return errFormat
		}
	}
	p.Processes = &Limit{Soft: n[0], Hard: n[1]}
	return nil
}

// Encode gives header and body for a launcher of a version. Its errors quote nothing of the payload (L4).
func Encode(version byte, p Payload) ([]byte, error) {
	if len(p.Argv) == 0 {
		return nil, errNoArgv
	}
	lists := [][]string{p.Argv, p.Env, p.Unset}
	if version != InSecrets {
		lists = append(lists, p.limits())
	}
	size := 4 * len(lists)
	for _, list := range lists {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return nil, errNUL
			}
			size += 4 + len(s)
		}
	}
	for _, s := range p.Env {
		if strings.IndexByte(s, '=') < 1 {
			return nil, errEnv
		}
	}
	if size > MaxBody {
		return nil, errSize
	}
	b := make([]byte, 0, HeaderLen+size)
	b = append(b, magic...)
	b = append(b, version, 0, 0, 0)
	b = put(b, size)
	for _, list := range lists {
		b = put(b, len(list))
		for _, s := range list {
			b = append(put(b, len(s)), s...)
		}
	}
	return b, nil
}

// BodyLen reads a header of the version spoken here.
func BodyLen(header []byte) (int, error) {
	if len(header) != HeaderLen || string(header[:4]) != magic {
		return 0, errFormat
	}
	if header[4] != Version {
		return 0, errVersion
	}
	n, _ := take(header[8:])
	if n > MaxBody {
		return 0, errSize
	}
	return n, nil
}

// Decode reads a body.
func Decode(body []byte) (p Payload, err error) {
	var limits []string
	for _, list := range []*[]string{&p.Argv, &p.Env, &p.Unset, &limits} {
		count, rest := take(body)
		// Each string has at least its length: a count beyond that is a lie, to be found before
		// anything is allocated for it.
		if count < 0 || count > len(rest)/4 {
			return Payload{}, errFormat
		}
		body = rest
		*list = make([]string, count)
		for i := range *list {
			n, rest := take(body)
			if n < 0 || n > len(rest) {
				return Payload{}, errFormat
			}
			(*list)[i], body = string(rest[:n]), rest[n:]
		}
	}
	if len(body) != 0 || len(p.Argv) == 0 {
		return Payload{}, errFormat
	}
	if err := p.setLimits(limits); err != nil {
		return Payload{}, err
	}
	return p, nil
}

// Failure encodes why an exec failed.
func Failure(errno int, text string) []byte { return append(put(nil, errno), text...) }

// ParseFailure reads what Failure made; ok is false for anything else.
func ParseFailure(b []byte) (errno int, text string, ok bool) {
	if len(b) < 4 {
		return 0, "", false
	}
	errno, rest := take(b)
	return errno, string(rest), true
}

func put(b []byte, n int) []byte {
	return append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func take(b []byte) (n int, rest []byte) {
	if len(b) < 4 {
		return -1, nil
	}
	return int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3]), b[4:]
}
