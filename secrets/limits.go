package secrets

import (
	"errors"
	"fmt"
	"time"
)

// What one task may ask for (S8). The plugin serves every task of the node, so that what one job uses up
// the others do not have. Each limit is an error that names it; IsLimit tells such an error.
const (
	MaxSecrets     = 200      // of a task, declared and discovered
	MaxFiles       = 1000     // of a task, those of `files = true` included
	MaxSecretBytes = 8 << 20  // of one answer, as the server writes it
	MaxTaskBytes   = 32 << 20 // of all of a task's answers, and of all that is rendered from them
)

// Bounds of what goes with them.
const (
	// maxConfig is what a job's own configuration may come to, templates and params included: they are journalled.
	maxConfig = 4 << 20
	// maxNodes and maxNesting bound the shape of an answer. 8 MiB of "[],[],…" would take 100 times as much
	// once decoded.
	maxNodes   = 100_000
	maxNesting = 100
	// nodeBytes is what each object, list, field and element of an answer counts beside its text.
	nodeBytes = 64
	// usualEnvRoom is what Linux passes to a program under the usual limit of the stack, a quarter of 8 MiB.
	usualEnvRoom = 2 << 20
	// maxPath, of a secret and of a field, keeps errors that name one within their bound.
	maxPath = 512
	// maxWord is the longest role, namespace and the like.
	maxWord = 256
)

// Limits of all of a task's templates together, beside those of one (template.go).
const (
	maxTemplatesOutput = 8 << 20
	maxTemplatesTime   = 2 * time.Second
)

// limitReached is an error about one of the limits.
type limitReached struct{ text string }

func (e *limitReached) Error() string { return e.text }

// Limitf is an error about a limit; its text names the limit.
func Limitf(format string, args ...any) error {
	return &Error{Kind: Invalid, Err: &limitReached{fmt.Sprintf(format, args...)}}
}

// IsLimit reports whether err is that a task asks for more than it may (S8): waiting does not help.
func IsLimit(err error) bool { return errors.As(err, new(*limitReached)) }

// errTaskBytes is the error of answers that are too large together.
func errTaskBytes() error {
	return Limitf("the task's secrets are larger than %d MiB together, which is the most for one task; ask for fewer, or smaller ones", MaxTaskBytes>>20)
}

// CheckTaskBytes upholds MaxTaskBytes for the sum of the Size of a task's answers.
func CheckTaskBytes(sum int) error {
	if sum > MaxTaskBytes {
		return errTaskBytes()
	}
	return nil
}

// size of a job's own configuration: its texts, with something for each of them.
func (c TaskConfig) size() int {
	n := 0
	texts := func(all ...string) {
		for _, s := range all {
			n += len(s) + 16
		}
	}
	files := func(m map[string]*FileConfig) {
		for p, f := range m {
			texts(p)
			if f != nil {
				texts(f.Field, f.Template, f.Perms, f.Decode)
			}
		}
	}
	texts(c.Role, c.Namespace, c.IdentityFile, c.FromPolicies, c.StopSignal, c.StopTimeout, c.PreStopSignal, c.PreStopWait, c.ChangeMode, c.Splay, c.Stagger)
	if r := c.RegistryAuth; r != nil {
		texts(r.Secret, r.Username, r.Password, r.ServerAddress)
	}
	files(c.Files)
	for name, s := range c.Secrets {
		texts(name)
		if s == nil {
			continue
		}
		texts(s.Provider, s.Path, s.LiveDir, s.LiveStale, s.ChangeMode, s.ChangeSignal, s.Splay, s.Stagger)
		for _, list := range [][]map[string]string{s.Params, s.Env} {
			for _, m := range list {
				n += 16
				for k, v := range m {
					texts(k, v)
				}
			}
		}
		if s.EnvPrefix != nil {
			texts(*s.EnvPrefix)
		}
		if s.CSR != nil {
			texts(s.CSR.CommonName, s.CSR.KeyType)
			texts(s.CSR.DNSNames...)
			texts(s.CSR.IPAddresses...)
		}
		if s.ChangeScript != nil {
			texts(s.ChangeScript.Command, s.ChangeScript.Timeout)
			texts(s.ChangeScript.Args...)
		}
		files(s.Files)
	}
	return n
}

// fileCount is the number of a job's file blocks.
func (c TaskConfig) fileCount() int {
	n := len(c.Files)
	for _, s := range c.Secrets {
		if s != nil {
			n += len(s.Files)
		}
	}
	return n
}

// keyCount is the number of a job's keys that are made here.
func (c TaskConfig) keyCount() (n int) {
	for _, s := range c.Secrets {
		if s != nil && s.CSR != nil {
			n++
		}
	}
	return n
}

// checkLimits refuses a config that asks for too much, before anything is made of it.
func (c TaskConfig) checkLimits() error {
	if n := len(c.Secrets); n > MaxSecrets {
		return Limitf("%d secrets are more than the %d that one task may have; ask for fewer, or put several fields into one secret", n, MaxSecrets)
	}
	if n := c.fileCount(); n > MaxFiles {
		return Limitf("%d file blocks are more than the %d files that one task may have; ask for fewer", n, MaxFiles)
	}
	if n := c.keyCount(); n > maxKeys {
		return Limitf("%d csr blocks are more than the %d that one task may have; ask for fewer, or for one certificate with several names", n, maxKeys)
	}
	if n := c.size(); n > maxConfig {
		return Limitf("the secret and file blocks are larger than %d MiB together, which is the most for one task; make the templates shorter", maxConfig>>20)
	}
	return nil
}
