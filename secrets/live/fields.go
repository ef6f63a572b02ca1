package live

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// Flatten makes files of a secret's fields. An object becomes a folder with its members; text is served as it is, and all
// else as JSON. What cannot be a file is left out, and told in the error: the rest can be served all the same.
func Flatten(fields secrets.Fields) ([]Field, error) {
	var f flat
	f.add("", fields.Map())
	return f.fields, errors.Join(f.errs...)
}

type flat struct {
	fields []Field
	names  int // bytes of theirs
	errs   []error
}

func (f *flat) add(folder string, object map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		path := name
		if folder != "" {
			path = folder + "/" + name
		}
		if child, ok := object[name].(map[string]any); ok {
			f.add(path, child)
			continue
		}
		value, err := content(object[name])
		switch {
		case err != nil:
		case strings.Contains(name, "/"): // so no field can be in the way of another
			err = fmt.Errorf("field %q: cannot be the name of a file", name)
		case len(f.fields) == wire.MaxFields:
			err = fmt.Errorf("field %q: a live directory has at most %d", path, wire.MaxFields)
		case f.names+len(path) > wire.MaxNames:
			err = fmt.Errorf("field %.40q: the names of a live directory's fields have at most %d bytes", path, wire.MaxNames)
		default:
			err = wire.CheckFields([]wire.Field{{Path: path, Size: len(value)}})
		}
		if err != nil {
			f.errs = append(f.errs, err)
			continue
		}
		f.names += len(path)
		f.fields = append(f.fields, Field{path, secrets.NewValue(value)})
	}
}

func content(v any) ([]byte, error) {
	switch v := v.(type) {
	case string:
		return []byte(v), nil
	case nil:
		return nil, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("cannot be written as JSON: %T", v)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
