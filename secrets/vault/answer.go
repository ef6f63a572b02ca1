package vault

import (
	"encoding/json"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// answerOf makes an Answer of a reply that came from mount m. What kind a secret is of decides how
// it is watched, and the error to avoid is to poll what each read makes anew: so Static is only
// what is known to be there already.
func answerOf(m mount, e request, r reply) (secrets.Answer, error) {
	if wrapped := string(r.body.WrapInfo); wrapped != "" && wrapped != "null" {
		return secrets.Answer{}, secrets.Errorf(secrets.Invalid, "%s: the answer is wrapped twice, which is not supported", e.operation)
	}
	data := r.body.Data
	a := secrets.Answer{At: r.at}
	if m.v2 {
		// The fields may be null: a version without any.
		data, _ = data["data"].(map[string]any)
	} else if data == nil {
		return secrets.Answer{}, secrets.Errorf(secrets.NotFound, "%s: the answer is empty", e.operation)
	}
	if data == nil {
		data = map[string]any{}
	}
	if !m.known() {
		m.typ = r.body.MountType // newer servers say it with the answer
	}
	ends := endOf(m.typ, data)
	switch {
	case r.body.LeaseID != "":
		a.Kind = secrets.Leased
		a.Lease = secrets.Lease{
			ID:        secrets.LeaseID(r.body.LeaseID),
			Duration:  time.Duration(r.body.LeaseDuration) * time.Second,
			Renewable: r.body.Renewable,
		}
	case readMakesNothing(m, e.path):
		// KV version 1 gives a lease_duration without a lease: a hint to readers, no more.
		a.Kind = secrets.Static
		a.Own = m.typ == "cubbyhole"
		if rotation, ok := rotationOf(m, e.path); ok {
			a.Changes, a.Settings = rotation.next(r, data), rotation.settings
			if rotation.countdown != "" {
				delete(data, rotation.countdown)
			}
		}
	case !ends.IsZero():
		a.Kind = secrets.Issued
		a.Ends = ends.Add(-r.ahead) // by our clock
	default:
		a.Kind = secrets.Opaque
	}
	a.Fields = secrets.NewFields(data)
	return a, nil
}

// readMakesNothing reports whether a read of path leaves the server as it was: what is there was written, or is rotated by
// the server's own schedule, or is what a CA has published (its chain, its public key, which change with the CA).
func readMakesNothing(m mount, path string) bool {
	_, rotated := rotationOf(m, path)
	return m.isKV() || rotated || published(m, path)
}

// published reports whether path is where a CA has what those read who trust it.
func published(m mount, path string) bool {
	rel, on := strings.CutPrefix(path, m.path)
	switch {
	case !on || m.path == "":
		return false
	case m.typ == "pki":
		return strings.HasPrefix(rel, "cert/")
	default:
		return m.typ == "ssh" && rel == "config/ca"
	}
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
	d, _ := secondsIn(field)
	return d
}

// secondsIn tells a duration of 0 from one that is not there.
func secondsIn(field any) (time.Duration, bool) {
	number, ok := field.(json.Number)
	if !ok {
		return 0, false
	}
	n, err := number.Int64()
	if err != nil {
		return 0, false
	}
	return time.Duration(n) * time.Second, true
}
