package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// The files in a task's journal directory.
const (
	entryFile  = "entry.json"
	tokensFile = "tokens.json"
	valuesFile = "values.json"
)

// maxJournalFile is more than any file of a journal comes to; it keeps a damaged one from filling
// the memory of a plugin that all tasks share.
const maxJournalFile = 64 << 20

// storedToken is a token as it rests in the token file, and whose it is.
type storedToken struct {
	Token  secrets.Token
	Source tokenSource
	// SavedAt is when the token was first seen: a server's standbys may not know it for a moment.
	SavedAt time.Time
}

// tokenRecord is a storedToken in the file: the one place where a token's value leaves its type.
type tokenRecord struct {
	Value     []byte
	Source    tokenSource
	SavedAt   time.Time
	Expires   time.Time     `json:",omitzero"`
	TTL       time.Duration `json:",omitempty"`
	Renewable bool          `json:",omitempty"`
}

// saveToken keeps a token for recovery, beside those kept already: leases end with the token that
// they were made under, so an older one is still needed while a lease of it is held. Tokens are
// known by their accessor; batch tokens have none, and only the newest of them is kept. It is to be
// called again after each renewal, for its expiry.
func (j *journal) saveToken(src tokenSource, tok secrets.Token) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	saved := time.Now()
	if old, ok := j.tokens[tok.Accessor]; ok && old.Token.Value.Text() == tok.Value.Text() {
		saved = old.SavedAt
	}
	return j.writeTokensLocked(func(m map[string]storedToken) {
		m[tok.Accessor] = storedToken{Token: tok, Source: src, SavedAt: saved}
	})
}

// token gives a kept token by its accessor.
func (j *journal) token(accessor string) (storedToken, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	t, ok := j.tokens[accessor]
	return t, ok
}

// allTokens gives every kept token.
func (j *journal) allTokens() []storedToken {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Collect(maps.Values(j.tokens))
}

// forgetToken drops a token that is ended and that no lease needs any more.
func (j *journal) forgetToken(accessor string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.writeTokensLocked(func(m map[string]storedToken) { delete(m, accessor) })
}

func (j *journal) writeTokensLocked(change func(map[string]storedToken)) error {
	if j.closed {
		return errJournalClosed
	}
	next := make(map[string]storedToken, len(j.tokens)+1)
	for k, t := range j.tokens {
		next[k] = t
	}
	change(next)
	if err := writeTokens(j.dir, next); err != nil {
		return err
	}
	j.tokens = next
	return nil
}

func writeTokens(dir string, tokens map[string]storedToken) error {
	file := struct {
		Version int
		Tokens  map[string]tokenRecord
	}{entryVersion, map[string]tokenRecord{}}
	for accessor, t := range tokens {
		file.Tokens[accessor] = tokenRecord{
			Value:     t.Token.Value.Bytes(),
			Source:    t.Source,
			SavedAt:   t.SavedAt,
			Expires:   t.Token.Expires,
			TTL:       t.Token.TTL,
			Renewable: t.Token.Renewable,
		}
	}
	return writeJSON(dir, tokensFile, file)
}

// readTokens gives the tokens kept in dir, none if there is no file.
func readTokens(dir string) (map[string]storedToken, error) {
	var file struct{ Tokens map[string]tokenRecord }
	if err := readJSON(dir, tokensFile, &file); err != nil {
		return nil, err
	}
	tokens := make(map[string]storedToken, len(file.Tokens))
	for accessor, r := range file.Tokens {
		tokens[accessor] = storedToken{
			Source:  r.Source,
			SavedAt: r.SavedAt,
			Token: secrets.Token{
				Value:     secrets.NewValue(r.Value),
				Accessor:  accessor,
				Expires:   r.Expires,
				TTL:       r.TTL,
				Renewable: r.Renewable,
			},
		}
	}
	return tokens, nil
}

// saveValues keeps the values that recovery cannot ask the server for again, by a name of the
// session's: those of leased and issued secrets, which another read would make anew. It replaces
// all that was kept. What the bytes mean is the session's, too.
func (j *journal) saveValues(values map[string]secrets.Value) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return errJournalClosed
	}
	file := struct {
		Version int
		Values  map[string][]byte
	}{entryVersion, make(map[string][]byte, len(values))}
	for name, v := range values {
		file.Values[name] = v.Bytes()
	}
	return writeJSON(j.dir, valuesFile, file)
}

// loadValues gives what saveValues kept last; none if it never did.
func (j *journal) loadValues() (map[string]secrets.Value, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, errJournalClosed
	}
	var file struct{ Values map[string][]byte }
	if err := readJSON(j.dir, valuesFile, &file); err != nil {
		return nil, err
	}
	values := make(map[string]secrets.Value, len(file.Values))
	for name, b := range file.Values {
		values[name] = secrets.NewValue(b)
	}
	return values, nil
}

func writeJSON(dir, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: not possible as JSON", filepath.Join(dir, name)) // err may quote a value
	}
	return writeFile(dir, name, b)
}

// readJSON reads a file of values; no file leaves v as it is. Errors quote nothing of the content (L4).
func readJSON(dir, name string, v any) error {
	path := filepath.Join(dir, name)
	b, err := readOwnFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errJournalUnreadable, err)
	}
	if err := checkVersion(b); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %s is not what was written", errJournalUnreadable, path)
	}
	return nil
}

// writeFile replaces dir/name by rename. The temporary name is fixed, so that a crash leaves one
// leftover at the most; it is made afresh each time, so that nothing put there is written through.
func writeFile(dir, name string, b []byte) (err error) {
	tmp := filepath.Join(dir, "."+name+".tmp")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	if _, err = f.Write(b); err != nil {
		_ = f.Close()
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}

// readOwnFile reads a regular file of ours, and nothing that was put in its place.
func readOwnFile(path string) ([]byte, error) {
	// Not blocking: a FIFO in the file's place would hold the open for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || ownerOf(info) != os.Geteuid() {
		return nil, fmt.Errorf("%s: not a regular file of ours", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxJournalFile+1))
	if err == nil && len(b) > maxJournalFile {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxJournalFile)
	}
	return b, err
}

func removeFiles(dir string, names ...string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
