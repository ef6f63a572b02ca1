package main

import "errors"

const (
	version = 1

	headerLen = 12
	ready     = 'R'
	maxBody   = 32 << 20
	magic     = "NDSL"
)

var (
	errFormat  = errors.New("malformed payload")
	errVersion = errors.New("payload of another version")
	errSize    = errors.New("payload is too large")
)

// payload is what to run: Argv and Env as for exec, over the environment that the launcher itself
// has, less the names in Unset.
type payload struct{ Argv, Env, Unset []string }

// bodyLen reads a header.
func bodyLen(header []byte) (int, error) {
	if len(header) != headerLen || string(header[:4]) != magic {
		return 0, errFormat
	}
	if header[4] != version {
		return 0, errVersion
	}
	n, _ := take(header[8:])
	if n > maxBody {
		return 0, errSize
	}
	return n, nil
}

// decode reads a body.
func decode(body []byte) (p payload, err error) {
	for _, list := range []*[]string{&p.Argv, &p.Env, &p.Unset} {
		count, rest := take(body)
		// Each string has at least its length: a count beyond that is a lie, to be found before
		// anything is allocated for it.
		if count < 0 || count > len(rest)/4 {
			return payload{}, errFormat
		}
		body = rest
		*list = make([]string, count)
		for i := range *list {
			n, rest := take(body)
			if n < 0 || n > len(rest) {
				return payload{}, errFormat
			}
			(*list)[i], body = string(rest[:n]), rest[n:]
		}
	}
	if len(body) != 0 || len(p.Argv) == 0 {
		return payload{}, errFormat
	}
	return p, nil
}

// failure encodes why an exec failed.
func failure(errno int, text string) []byte { return append(put(nil, errno), text...) }

func put(b []byte, n int) []byte {
	return append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func take(b []byte) (n int, rest []byte) {
	if len(b) < 4 {
		return -1, nil
	}
	return int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3]), b[4:]
}
