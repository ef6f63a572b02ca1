package secrets

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// maxEnv is the longest "NAME=value" that Linux passes to a program (MAX_ARG_STRLEN, with its NUL).
const maxEnv = 128<<10 - 1

// Budget is the time and the output that all of a task's templates have together (S8), over several
// calls of Fit. Not for use by two goroutines. To be closed.
type Budget struct{ templates *templates }

// NewBudget is a whole budget.
func NewBudget() *Budget { return &Budget{newTemplates()} }

// Close ends the budget's use.
func (b *Budget) Close() { b.templates.close() }

func (b *Budget) newRenderer(envRoom int) *renderer {
	return &renderer{set: &Set{Env: map[string]Value{}}, files: newPathSet(), setBy: map[string]string{}, templates: b.templates, envRoom: envRoom}
}

// render makes a set of what fits.
func (b *Budget) render(spec *Spec, answers map[string]Answer, around Around) (Fitted, error) {
	r := b.newRenderer(around.envRoom())
	f := Fitted{Set: r.set, Left: map[string]string{}}
	var granted [ranks][]Secret
	for _, s := range spec.Secrets {
		if !s.Granted {
			r.answers += answers[s.Name].Fields.Size()
		}
	}
	if err := CheckTaskBytes(r.answers); err != nil {
		return Fitted{}, err
	}
	// Named files come first: one that files = true makes must not take the place of one that the job names.
	for _, s := range spec.Secrets {
		if a, ok := r.answer(s, answers); ok {
			r.named(s, a.Fields)
		}
	}
	for _, f := range spec.Files {
		r.file(fmt.Sprintf("file %q", f.Path), f, func() (Value, error) { return r.overAll(spec, f, answers) })
	}
	for _, s := range spec.Secrets {
		a, ok := answers[s.Name]
		switch {
		case !ok:
		case s.Granted:
			granted[rank(s, around)] = append(granted[rank(s, around)], s)
		default:
			r.every(s, a.Fields)
		}
	}
	for _, of := range granted {
		b.granted(r, &f, of, answers, around)
	}
	if err := r.err(); err != nil {
		return Fitted{}, err
	}
	slices.SortFunc(r.set.Files, func(a, b RenderedFile) int { return strings.Compare(a.Path, b.Path) })
	return f, nil
}

type renderer struct {
	set       *Set
	files     *pathSet
	setBy     map[string]string // variable → what sets it
	templates *templates
	size      int // of what is in set
	answers   int // of the answers that it is made of
	envSize   int
	envRoom   int // the most that envSize may be

	problems problems
	invalid  bool  // some problem is of another kind than NotFound
	stopped  error // what ended it: a limit, or that it has to wait
}

func (r *renderer) bad(place string, err error) {
	err = fmt.Errorf("%s: %w", place, err)
	if r.stopped == nil && (IsLimit(err) || KindOf(err) == Outage) {
		r.stopped = err
	}
	r.invalid = r.invalid || KindOf(err) != NotFound
	r.problems.add(err)
}

// done reports whether nothing more need be looked at.
func (r *renderer) done() bool { return r.stopped != nil || r.problems.more }

func (r *renderer) err() error {
	if r.stopped != nil {
		return r.stopped
	}
	err := r.problems.join()
	switch {
	case err == nil:
		return nil
	case r.invalid:
		return &Error{Kind: Invalid, Err: err}
	}
	return &Error{Kind: NotFound, Err: err}
}

// holds counts what is put into the set, and reports whether there is room for it.
func (r *renderer) holds(place string, v Value) bool {
	if r.size += v.Len(); r.size > MaxTaskBytes {
		r.bad(place, Limitf("the task's variables and files are larger than %d MiB together, which is the most for one task; ask for fewer of them", MaxTaskBytes>>20))
		return false
	}
	return true
}

func (r *renderer) answer(s Secret, answers map[string]Answer) (Answer, bool) {
	a, ok := answers[s.Name]
	if !ok && s.Required && !s.PullOnly { // which it has no more once its image is there
		r.bad(placeOf(s), Errorf(Invalid, "there is no answer for it, and it is required"))
	}
	return a, ok
}

func placeOf(s Secret) string { return fmt.Sprintf("secret %q", s.Name) }

// named delivers the fields that the job names.
func (r *renderer) named(s Secret, fields Fields) {
	place := placeOf(s)
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		if r.done() {
			return
		}
		v, err := fieldOf(fields, s.Env[name])
		if err != nil {
			r.bad(place, fmt.Errorf("env %s: %w", name, err))
			continue
		}
		r.env(place, name, s.Env[name], v)
	}
	for _, f := range s.Files {
		r.file(fmt.Sprintf("%s: file %q", place, f.Path), f, func() (Value, error) {
			if f.Template != "" {
				v, err := withNames(func() ([]string, int) { return fields.firstNames(), fields.Len() })(r.templates.render(f.Template, fields.Map))
				if byOwnName(err, f.Template, s.Name) {
					err = fmt.Errorf("%w; in a secret's own file fields go without the secret's name", err)
				}
				return v, err
			}
			v, err := fieldOf(fields, f.Field)
			if err != nil || !f.Base64 {
				return v, err
			}
			if v, err = decodeBase64(v); err != nil {
				return v, fmt.Errorf("field %q: %w", f.Field, err)
			}
			return v, nil
		})
	}
}

// byOwnName reports whether err is of a template that looks for the secret's name among its fields.
func byOwnName(err error, template, name string) bool {
	if missing, ok := errors.AsType[noKeyError](err); ok {
		return string(missing) == name
	}
	// index does not tell what it misses.
	return errors.Is(err, errTemplateKey) && (strings.Contains(template, strconv.Quote(name)) || strings.Contains(template, "`"+name+"`"))
}

// every delivers all fields, where the job asks for that. unset are the variables that are not set, since
// nobody declared them.
func (r *renderer) every(s Secret, fields Fields) (unset []string) {
	if s.EnvPrefix == nil && !s.AllFiles {
		return nil
	}
	place := placeOf(s)
	for _, name := range fields.Names() {
		if r.done() {
			return unset
		}
		v, err := fieldText(fields.content()[name])
		if errors.Is(err, errNull) {
			continue
		}
		if err != nil {
			r.bad(place, fmt.Errorf("field %q %w", name, err))
			continue
		}
		if s.EnvPrefix != nil {
			variable := s.variable(name)
			if s.Granted && isLoaderEnv(variable) {
				unset = append(unset, variable)
			} else {
				r.env(place, variable, name, v)
			}
		}
		if s.AllFiles {
			r.allFile(place, s.Name, name, v)
		}
	}
	return unset
}

func (r *renderer) allFile(place, dir, field string, v Value) {
	if field == "" || field == "." || field == ".." || strings.ContainsAny(field, "/\x00") || len(field) > 255 {
		r.bad(place, fmt.Errorf("files: the field %q cannot be a file's name; deliver the fields by file blocks", field))
		return
	}
	f := File{Path: dir + "/" + field, Perms: DefaultPerms}
	r.file(fmt.Sprintf("%s: files: field %q", place, field), f, func() (Value, error) { return v, nil })
}

// env sets a variable (S4, S7).
func (r *renderer) env(place, name, field string, v Value) {
	what := fmt.Sprintf("%s (field %q)", place, field)
	if err := checkEnvName(name); err != nil {
		r.bad(place, fmt.Errorf("field %q gives the variable %q: %w", field, name, err))
		return
	}
	if other, ok := r.setBy[name]; ok {
		if other != what { // env and env_prefix may agree
			r.bad(place, fmt.Errorf("field %q gives the variable %s, which %s sets too; give one of them another name", field, name, other))
		}
		return
	}
	if strings.IndexByte(v.Text(), 0) >= 0 {
		r.bad(place, fmt.Errorf("env %s: the field %q contains a NUL, which no variable can hold; deliver it as a file", name, field))
		return
	}
	if len(name)+1+v.Len() > maxEnv {
		r.bad(place, fmt.Errorf("env %s: the field %q is %d bytes long, and Linux takes no variable above 128 KiB; deliver it as a file", name, field, v.Len()))
		return
	}
	if r.envSize += len(name) + v.Len() + 10; r.envSize > r.envRoom { // "=", a NUL and a pointer
		r.bad(place, Limitf("the task's variables are larger than %s together, and Linux passes no more to its program beside what the job itself gives it; deliver some as files", FormatSize(uint64(r.envRoom))))
		return
	}
	if !r.holds(place, v) {
		return
	}
	r.setBy[name] = what
	r.set.Env[name] = v
}

func (r *renderer) file(place string, f File, content func() (Value, error)) {
	if r.done() {
		return
	}
	if len(r.set.Files) == MaxFiles {
		r.bad(place, Limitf("the task has more than %d files, which is the most for one task; take files = true out, or ask for fewer", MaxFiles))
		return
	}
	if err := r.files.addFile(f.Path, place); err != nil {
		r.bad(place, err)
		return
	}
	v, err := content()
	if err != nil {
		r.bad(place, err)
		return
	}
	if !r.holds(place, v) {
		return
	}
	r.set.Files = append(r.set.Files, RenderedFile{Path: f.Path, Data: v, Perms: f.Perms, UID: f.UID, GID: f.GID})
}

// overAll renders a file of the config level, in which secrets go by name.
func (r *renderer) overAll(spec *Spec, f File, answers map[string]Answer) (Value, error) {
	data := func() map[string]any {
		all := map[string]any{}
		for _, s := range spec.Secrets {
			all[s.Name] = answers[s.Name].Fields.Map()
		}
		return all
	}
	names := func() (first []string, all int) {
		for _, s := range spec.Secrets {
			fields := answers[s.Name].Fields
			all += fields.Len()
			if len(first) >= maxNames {
				continue
			}
			for _, name := range fields.firstNames() {
				first = append(first, s.Name+"."+name)
			}
		}
		return first, all
	}
	return withNames(names)(r.templates.render(f.Template, data))
}

// withNames adds to a template's error about a missing field which ones there are.
func withNames(names func() (first []string, all int)) func(Value, error) (Value, error) {
	return func(v Value, err error) (Value, error) {
		if KindOf(err) != NotFound {
			return v, err
		}
		if first, all := names(); all > 0 {
			return v, fmt.Errorf("%w; there are: %s", err, listOf(first, all, ", "))
		}
		return v, err
	}
}

func fieldOf(fields Fields, path string) (Value, error) {
	found, ok := fields.Lookup(path)
	if !ok {
		return Value{}, fields.noField(path)
	}
	v, err := fieldText(found)
	if err != nil {
		return Value{}, Errorf(Invalid, "field %q %w", path, err)
	}
	return v, nil
}

// variable is the variable that env_prefix makes of a field.
func (s *Secret) variable(field string) string { return *s.EnvPrefix + fieldEnvName(field) }

// fieldEnvName is a field's name as the end of a variable's: upper case, other characters to _.
func fieldEnvName(field string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 'A'
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return c
		}
		return '_'
	}, field)
}

// decodeBase64 takes the standard and the URL alphabet, with padding or without, and ignores line
// ends and spaces: all of these are what tools print.
func decodeBase64(v Value) (Value, error) {
	text := strings.Map(func(c rune) rune {
		switch c {
		case ' ', '\t', '\r', '\n', '=':
			return -1
		case '-':
			return '+'
		case '_':
			return '/'
		}
		return c
	}, v.Text())
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return Value{}, errors.New("is not base64; take decode out, or store the field in base64")
	}
	return NewValue(b), nil
}
