package secrets

import (
	"encoding/json"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// answerOf makes an Answer of a reply that came from mount m. What kind a secret is of decides how
// it is watched, and the error to avoid is to poll what is minted by each read: so only what is
// known to be stored is Static.
func answerOf(m mount, e errand, r reply) (Answer, error) {
	if wrapped := string(r.body.WrapInfo); wrapped != "" && wrapped != "null" {
		return Answer{}, Errorf(Invalid, "%s: the answer is wrapped twice: open it otherwise", e.doing)
	}
	data := r.body.Data
	a := Answer{At: r.at}
	if m.v2 {
		// The fields may be null: a version without any.
		data, _ = data["data"].(map[string]any)
	} else if data == nil {
		return Answer{}, Errorf(NotFound, "%s: the answer is empty", e.doing)
	}
	if data == nil {
		data = map[string]any{}
	}
	a.Fields = NewFields(data)

	if !m.known() {
		m.typ = r.body.MountType // newer servers say it with the answer
	}
	ends := endOf(m.typ, data)
	switch {
	case r.body.LeaseID != "":
		a.Kind = Leased
		a.Lease = Lease{
			ID:        LeaseID(r.body.LeaseID),
			Duration:  time.Duration(r.body.LeaseDuration) * time.Second,
			Renewable: r.body.Renewable,
		}
	case stored(m, e.path):
		// KV version 1 gives a lease_duration without a lease: a hint to readers, no more.
		a.Kind = Static
		a.Own = m.typ == "cubbyhole"
		if rotated(m, e.path) {
			a.Changes = nextRotation(m.typ, a.At, data)
			delete(data, "ttl") // it is another at each read, and no part of the secret (C7)
		}
	case !ends.IsZero():
		a.Kind = Issued
		a.Ends = ends.Add(-r.ahead) // by our clock
	default:
		a.Kind = Opaque
	}
	return a, nil
}

// stored reports whether a read makes nothing: what is there was written, or is rotated by the
// server's own schedule, or is what a CA has published (its chain, which changes with the CA).
func stored(m mount, path string) bool {
	published := m.typ == "pki" && m.path != "" && strings.HasPrefix(path, m.path+"cert/")
	return m.isKV() || rotated(m, path) || published
}

// rotated reports whether the server changes what is there by a schedule of its own.
func rotated(m mount, path string) bool {
	rel, on := strings.CutPrefix(path, m.path)
	switch {
	case m.path == "" || !on:
		return false
	case m.typ == "database", m.typ == "aws":
		return strings.HasPrefix(rel, "static-creds/")
	case m.typ == "ldap", m.typ == "openldap":
		return strings.HasPrefix(rel, "static-cred/")
	}
	return false
}

// nextRotation is when the server will rotate what was asked for at that moment; zero: not told.
func nextRotation(mountType string, at time.Time, data map[string]any) time.Time {
	if mountType != "aws" {
		return at.Add(seconds(data["ttl"]))
	}
	text, _ := data["expiration"].(string)
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}
	}
	return when
}

// endOf is when an issued certificate stops being valid; zero if there is none in data.
func endOf(mountType string, data map[string]any) time.Time {
	switch mountType {
	case "pki":
		return unixTime(data["expiration"])
	case "ssh":
		text, _ := data["signed_key"].(string)
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
		if err != nil {
			return time.Time{}
		}
		if cert, ok := key.(*ssh.Certificate); ok && cert.ValidBefore != ssh.CertTimeInfinity {
			return time.Unix(int64(cert.ValidBefore), 0)
		}
	}
	return time.Time{}
}

func unixTime(field any) time.Time {
	number, ok := field.(json.Number)
	if !ok {
		return time.Time{}
	}
	seconds, err := number.Int64()
	if err != nil || seconds <= 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// seconds is a duration field of an answer; 0 if it is not there.
func seconds(field any) time.Duration {
	number, ok := field.(json.Number)
	if !ok {
		return 0
	}
	n, err := number.Int64()
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}
