package secrets

import "time"

// MinLifetime is the shortest lifetime that a certificate may have: one is issued anew well before its end, and
// this must not happen every few seconds for each secret of each task.
const MinLifetime = time.Minute

// CheckLifetime refuses a certificate that lives for less than MinLifetime. Slack is how far life may be off.
func CheckLifetime(name, path string, life, slack time.Duration) error {
	if life+slack >= MinLifetime {
		return nil
	}
	return Errorf(Invalid, "secret %q: %s: its lifetime is %v, and %v is the least for a certificate: ask for a longer ttl in the secret's params, or raise the ttl and max_ttl of the role",
		name, path, max(life, 0).Round(time.Second), MinLifetime)
}
