package journal

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// The values of a task may be large, and the journal's form of them larger. They are written and read in
// pieces, one secret after the other, so that neither takes a second copy of all of them in memory.

// Save keeps the values that recovery cannot ask the server for again, by secret, and changes the entry
// that goes with them. It replaces all that was kept. Both are written before either takes its place, so
// that for want of room neither does.
func (j *Journal) Save(values map[string]secrets.Fields, change func(*Entry)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	v, err := stageFile(j.dir, valuesFile, MaxFile, func(w io.Writer) error { return writeValues(w, values) })
	if err != nil {
		return err
	}
	defer v.discard()
	e, next, err := j.stageEntry(change)
	if err != nil {
		return err
	}
	defer e.discard()
	if err := v.commit(); err != nil {
		return err
	}
	if err := e.commit(); err != nil {
		return err
	}
	j.e = next
	return nil
}

func writeValues(w io.Writer, values map[string]secrets.Fields) error {
	if _, err := fmt.Fprintf(w, `{"Version":%d,"Values":{`, entryVersion); err != nil {
		return err
	}
	sep := ""
	for _, name := range slices.Sorted(maps.Keys(values)) {
		key, err := json.Marshal(name)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, `%s%s:"`, sep, key); err != nil {
			return err
		}
		sep = ","
		text := base64.NewEncoder(base64.StdEncoding, w)
		if err := values[name].WriteJSON(text); err != nil {
			return err
		}
		if err := text.Close(); err != nil {
			return err
		}
		if _, err := io.WriteString(w, `"`); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "}}")
	return err
}

// Values gives what save kept last; none if it never did.
func (j *Journal) Values() (map[string]secrets.Fields, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, ErrClosed
	}
	path := filepath.Join(j.dir, valuesFile)
	f, err := openOwnFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, cannotRead(err)
	}
	defer f.Close()
	values, err := readValues(bufio.NewReaderSize(io.LimitReader(f, MaxFile), 64<<10))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return values, nil
}

// readValues reads what writeValues wrote, here or in another version of this plugin. Errors quote nothing
// of the content (L4).
func readValues(r io.Reader) (map[string]secrets.Fields, error) {
	notWritten := fmt.Errorf("%w: it is not what was written", ErrUnreadable)
	dec := json.NewDecoder(r)
	version := 0
	var values map[string]secrets.Fields
	err := eachKey(dec, func(key string) error {
		switch key {
		case "Version":
			return dec.Decode(&version)
		case "Values":
			if version > entryVersion {
				return nil // and is refused below
			}
			values = map[string]secrets.Fields{}
			return eachKey(dec, func(name string) error {
				var b []byte
				if err := dec.Decode(&b); err != nil {
					return err
				}
				fields, err := secrets.FieldsFromJSON(b)
				values[name] = fields
				return err
			})
		}
		return dec.Decode(new(json.RawMessage))
	})
	if checked := checkVersionIs(version); checked != nil && (err == nil || version > 0) {
		return nil, checked
	}
	if err != nil {
		return nil, notWritten
	}
	return values, nil
}

// eachKey calls value for each key of the object that comes next. It must read the key's value.
func eachKey(dec *json.Decoder, value func(key string) error) error {
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(errors.New("no object"), err)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		name, ok := key.(string)
		if !ok {
			return errors.New("no key")
		}
		if err := value(name); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}
