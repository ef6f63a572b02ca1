package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
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

const (
	// MaxFile is more than any file of a journal comes to, and none is written that is larger: what
	// was written can be read. It keeps a damaged one from filling the memory of a plugin that all tasks
	// share.
	MaxFile = 64 << 20
	// maxEntryFile bounds an entry, which is rewritten at each step of its task.
	maxEntryFile = 16 << 20
)

// Token is a token as it rests in the token file, and whose it is.
type Token struct {
	Token  secrets.Token
	Source TokenSource
	// SavedAt is when the token was first seen: a server's standbys may not know it for a moment.
	SavedAt time.Time
}

// tokenRecord is a Token in the file: the one place where a token's value leaves its type.
type tokenRecord struct {
	Value     []byte
	Server    string `json:",omitempty"`
	Accessor  string `json:",omitempty"`
	Batch     bool   `json:",omitempty"`
	Source    TokenSource
	SavedAt   time.Time
	Expires   time.Time     `json:",omitzero"`
	TTL       time.Duration `json:",omitempty"`
	Renewable bool          `json:",omitempty"`
}

// SaveToken keeps a token for recovery, beside those kept already: leases end with the token that
// they were made under, so an older one is still needed while a lease of it is in use. Tokens are
// known by their ID. It is to be called again after each renewal, for its expiry.
func (j *Journal) SaveToken(src TokenSource, tok secrets.Token) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	saved := time.Now()
	if old, ok := j.tokens[tok.ID]; ok && old.Token.Value.Text() == tok.Value.Text() {
		saved = old.SavedAt
	}
	return j.writeTokensLocked(func(m map[string]Token) {
		m[tok.ID] = Token{Token: tok, Source: src, SavedAt: saved}
	})
}

// Token gives a kept token by its ID.
func (j *Journal) Token(id string) (Token, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	t, ok := j.tokens[id]
	return t, ok
}

// Tokens gives every kept token, by its ID.
func (j *Journal) Tokens() map[string]Token {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.tokens)
}

// ReplaceToken keeps a token instead of another that its owner has replaced: the leases made under that are revoked
// with the new one.
func (j *Journal) ReplaceToken(src TokenSource, old string, tok secrets.Token) error {
	if err := j.SaveToken(src, tok); err != nil || old == tok.ID {
		return err
	}
	err := j.Update(func(e *Entry) {
		for i := range e.Leases {
			if e.Leases[i].TokenID == old {
				e.Leases[i].TokenID = tok.ID
			}
		}
		for name, s := range e.Secrets {
			if s.TokenID == old {
				s.TokenID = tok.ID
				e.Secrets[name] = s
			}
		}
		if e.TokenID == old {
			e.TokenID = tok.ID
		}
	})
	if err != nil {
		return err
	}
	return j.ForgetToken(old)
}

// ForgetToken drops a token that is ended and that no lease needs any more.
func (j *Journal) ForgetToken(id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.writeTokensLocked(func(m map[string]Token) { delete(m, id) })
}

func (j *Journal) writeTokensLocked(change func(map[string]Token)) error {
	if j.closed {
		return ErrClosed
	}
	next := make(map[string]Token, len(j.tokens)+1)
	for k, t := range j.tokens {
		next[k] = t
	}
	change(next)
	if err := writeTokens(j.dir, j.e, next); err != nil {
		return err
	}
	j.tokens = next
	return nil
}

// tokenFile is the token file. Namespace and KeepTokens are the entry's, too: without that the tokens can be revoked, and it is known whether
// they may be.
type tokenFile struct {
	Version    int
	Namespace  string `json:",omitempty"`
	KeepTokens bool   `json:",omitempty"` // an older version did not write it
	Tokens     map[string]tokenRecord
}

func writeTokens(dir string, e Entry, tokens map[string]Token) error {
	file := tokenFile{entryVersion, e.Namespace, e.KeepTokens, map[string]tokenRecord{}}
	for id, t := range tokens {
		file.Tokens[id] = tokenRecord{
			Value:     t.Token.Value.Bytes(),
			Server:    t.Token.Server,
			Accessor:  t.Token.Accessor,
			Batch:     t.Token.Batch,
			Source:    t.Source,
			SavedAt:   t.SavedAt,
			Expires:   t.Token.Expires,
			TTL:       t.Token.TTL,
			Renewable: t.Token.Renewable,
		}
	}
	return writeJSON(dir, tokensFile, file)
}

// readTokens gives the tokens kept in dir, and what their file has of the entry; none if there is no file.
func readTokens(dir string) (e Entry, _ map[string]Token, _ error) {
	var file tokenFile
	if err := readJSON(dir, tokensFile, &file); err != nil {
		return Entry{}, nil, err
	}
	tokens := make(map[string]Token, len(file.Tokens))
	for id, r := range file.Tokens {
		tokens[id] = Token{
			Source:  r.Source,
			SavedAt: r.SavedAt,
			Token: secrets.Token{
				Value:     secrets.NewValue(r.Value),
				ID:        id,
				Server:    r.Server,
				Accessor:  r.Accessor,
				Batch:     r.Batch,
				Expires:   r.Expires,
				TTL:       r.TTL,
				Renewable: r.Renewable,
			},
		}
	}
	return Entry{Namespace: file.Namespace, KeepTokens: file.KeepTokens}, tokens, nil
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
		return cannotRead(err)
	}
	if err := checkVersion(b); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %s is not what was written", ErrUnreadable, path)
	}
	return nil
}

// writeFile replaces dir/name by rename.
func writeFile(dir, name string, b []byte) error {
	f, err := stageFile(dir, name, MaxFile, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	return f.commit()
}

// stagedFile is a whole file that is to take the place of another.
type stagedFile struct{ tmp, path string }

// stageFile writes a file that commit puts in the place of dir/name. The temporary name is fixed, so that
// a crash leaves one leftover at the most; it is made afresh each time, so that nothing put there is
// written through. On an error, for want of room for one, nothing is left of it.
func stageFile(dir, name string, limit int64, write func(io.Writer) error) (_ *stagedFile, err error) {
	staged := &stagedFile{filepath.Join(dir, "."+name+".tmp"), filepath.Join(dir, name)}
	if err := os.Remove(staged.tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(staged.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			staged.discard()
		}
	}()
	w := bufio.NewWriterSize(&boundedWriter{w: f, left: limit, limit: limit, name: name}, 64<<10)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	return staged, errors.Join(err, f.Close())
}

func (f *stagedFile) commit() error { return os.Rename(f.tmp, f.path) }

// discard removes what was not committed.
func (f *stagedFile) discard() { _ = os.Remove(f.tmp) }

// boundedWriter refuses to write what could not be read again.
type boundedWriter struct {
	w           io.Writer
	left, limit int64
	name        string
}

func (b *boundedWriter) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, secrets.Errorf(secrets.Invalid, "the task's journal would be larger than the %d MiB that %s may have; make the job's config, or its secrets, smaller", b.limit>>20, b.name)
	}
	return b.w.Write(p)
}

// errNotOurs is of a file in a journal that no plugin of ours has written.
var errNotOurs = errors.New("not a file or directory of ours")

// cannotRead is ErrUnreadable about what is not ours, for good; what the machine lacks for a moment, such as
// descriptors, says nothing of the journal.
func cannotRead(err error) error {
	if errors.Is(err, errNotOurs) {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return err
}

// readOwnFile reads a regular file of ours, and nothing that was put in its place.
func readOwnFile(path string) ([]byte, error) {
	f, err := openOwnFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(b) > MaxFile {
		err = fmt.Errorf("%s: larger than %d bytes: %w", path, MaxFile, errNotOurs)
	}
	return b, err
}

func openOwnFile(path string) (*os.File, error) {
	// Not blocking: a FIFO in the file's place would hold the open for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		err = fmt.Errorf("%w: %w", err, errNotOurs)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || ownerOf(info) != os.Geteuid()) {
		err = fmt.Errorf("%s: %w", path, errNotOurs)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func removeFiles(dir string, names ...string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
