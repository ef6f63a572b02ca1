package secrets

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// MaxGrantedEnv is how many bytes all of a task's variables may take with those that its policies grant. The
// kernel takes a quarter of the stack's limit, which is 2 MiB as a rule, for them and the arguments.
const MaxGrantedEnv = 1 << 20

// maxFitTries bounds how often templates are rendered to find which granted secret they fail with.
const maxFitTries = 20

// Around is what the secrets that policies grant have to fit in with. The zero Around bounds nothing.
type Around struct {
	Env    []string               // variables that the job itself sets
	Has    func(name string) bool // granted secrets that the task has already; nil: none
	Fits   func(*Set) error       // why a set's files have no room in the task's secrets directory; nil: they have
	MaxEnv int                    // bytes that all variables may take with what is granted; 0: any
	// EnvRoom is how many bytes all variables may take, whoever asks for them, so that the task's program can be
	// started; 0: what is usual.
	EnvRoom int
}

// envRoom is EnvRoom, or what is usual.
func (a Around) envRoom() int {
	if a.EnvRoom > 0 {
		return a.EnvRoom
	}
	return usualEnvRoom
}

// maxEnv is what all variables may take with what is granted.
func (a Around) maxEnv() int {
	if a.MaxEnv > 0 {
		return min(a.MaxEnv, a.envRoom())
	}
	return a.envRoom()
}

func (a Around) has(name string) bool { return a.Has != nil && a.Has(name) }

// Fitted is what a task gets of what it was granted.
type Fitted struct {
	Set   *Set
	Left  map[string]string // granted secrets that are not in Set, by name, and why
	Unset []Skipped         // variables that Set lacks, by the path of their secret
}

// Fit makes a task's set of its spec and one moment's answers, keyed by the secrets' names. The same answers give the same set.
//
// A secret that is not required may be without an answer: it then sets no variable and makes no file
// of its own, and a template of the config level sees an empty map in its place, so that
// {{ if .db }}…{{ end }} tells whether it is there.
//
// A field that is null is an error where the job names it. Where the job asks for every field
// (env_prefix, files) it is left out, because servers answer null for what does not apply
// (aws/creds: security_token).
//
// All problems are reported at once, one line each, and none quotes a value. The error is of kind
// NotFound if only fields are missing, and Invalid otherwise. The first limit that is reached (S8) ends it.
//
// Of the secrets that policies grant those are left out that do not fit: what is wrong with one is an error only of
// what the job declares. A secret is left out as a whole, for a user without its password helps nobody. Names go as
// Expand says: to the job's own variables and files, to what the task has already, to what a policy names exactly, to
// the rest; where two of the same right claim one, neither gets it.
func Fit(spec *Spec, answers map[string]Answer, around Around) (Fitted, error) {
	b := NewBudget()
	defer b.Close()
	return b.Fit(spec, answers, around)
}

// Fit is Fit within what is left of the budget.
func (b *Budget) Fit(spec *Spec, answers map[string]Answer, around Around) (Fitted, error) {
	all, err := b.fit(spec, answers, around)
	if err == nil {
		return all, nil
	}
	// A template of the job's over all secrets may fail for what somebody has put into one of them.
	rest := maps.Clone(answers)
	var added []Secret
	for _, s := range spec.Secrets {
		if _, ok := answers[s.Name]; ok && s.Granted && !around.has(s.Name) {
			added = append(added, s)
			delete(rest, s.Name)
		}
	}
	if len(added) == 0 {
		return Fitted{}, err
	}
	without, restErr := b.fit(spec, rest, around)
	if restErr != nil {
		return Fitted{}, err // it is the job's own
	}
	left := map[string]string{}
	slices.SortStableFunc(added, func(a, b Secret) int { return cmp.Compare(rank(a, around), rank(b, around)) })
	for i, s := range added {
		if i >= maxFitTries {
			left[s.Name] = "a template of the job's fails with what is granted"
			continue
		}
		rest[s.Name] = answers[s.Name]
		with, err := b.fit(spec, rest, around)
		if err != nil {
			left[s.Name] = firstLine(err)
			delete(rest, s.Name)
			continue
		}
		without = with
	}
	maps.Copy(without.Left, left)
	return without, nil
}

// fit renders until what is left out is in nothing that is rendered, the job's templates included.
func (b *Budget) fit(spec *Spec, answers map[string]Answer, around Around) (Fitted, error) {
	left := map[string]string{}
	for {
		f, err := b.render(spec, answers, around)
		if err != nil {
			return Fitted{}, err
		}
		again := len(f.Left) > 0 && len(spec.Files) > 0
		maps.Copy(left, f.Left)
		if !again {
			f.Left = left
			return f, nil
		}
		answers = maps.Clone(answers)
		for name := range f.Left {
			delete(answers, name)
		}
	}
}

// The order in which granted secrets get their names.
const (
	rankHas = iota
	rankExact
	rankFound
	ranks
)

func rank(s Secret, around Around) int {
	switch {
	case around.has(s.Name):
		return rankHas
	case s.Exact:
		return rankExact
	}
	return rankFound
}

// offer is one granted secret, rendered alone.
type offer struct {
	Secret
	*renderer
	answer int // the size of its answer
}

// granted adds the granted secrets of one rank, as far as they fit.
func (b *Budget) granted(r *renderer, f *Fitted, of []Secret, answers map[string]Answer, around Around) {
	var offers []offer
	claims := map[string][]string{} // variable → paths of those that set it
	for _, s := range of {
		alone := b.newRenderer(around.envRoom())
		unset := alone.every(s, answers[s.Name].Fields)
		if err := alone.err(); err != nil {
			f.Left[s.Name] = strings.TrimPrefix(firstLine(err), placeOf(s)+": ")
			continue
		}
		if len(unset) > 0 {
			f.Unset = append(f.Unset, Skipped{s.Request.Path, fmt.Sprintf("its %s is not set, since it changes how programs run", strings.Join(unset[:min(len(unset), 3)], ", "))})
		}
		offers = append(offers, offer{s, alone, answers[s.Name].Fields.Size()})
		for name := range alone.set.Env {
			claims[name] = append(claims[name], s.Request.Path)
		}
	}
	// The small before the large, so that one that is too large takes no other's room.
	slices.SortStableFunc(offers, func(a, b offer) int { return cmp.Compare(a.size, b.size) })
	for _, o := range offers {
		if why := r.refuse(o, claims, around); why != "" {
			f.Left[o.Name] = why
			continue
		}
		r.take(o)
	}
}

// refuse says why a granted secret does not fit.
func (r *renderer) refuse(o offer, claims map[string][]string, around Around) string {
	for _, name := range slices.Sorted(maps.Keys(o.set.Env)) {
		if other, ok := r.setBy[name]; ok {
			return fmt.Sprintf("its variable %s is set by %s", name, other)
		}
		if slices.Contains(around.Env, name) {
			return fmt.Sprintf("its variable %s is set by the job itself", name)
		}
		if all := claims[name]; len(all) > 1 {
			other := all[0]
			if other == o.Request.Path {
				other = all[1]
			}
			return fmt.Sprintf("its variable %s would be that of %s, too", name, other)
		}
	}
	for _, file := range o.set.Files {
		if err := r.files.taken(file.Path); err != nil {
			return err.Error()
		}
	}
	switch n := r.envSize + o.envSize; {
	case len(o.set.Env) > 0 && n > around.maxEnv():
		return fmt.Sprintf("with it the task's variables would take %s, and %s is the most", FormatSize(uint64(n)), FormatSize(uint64(around.maxEnv())))
	case len(r.set.Files)+len(o.set.Files) > MaxFiles:
		return fmt.Sprintf("with it the task would have more than %d files", MaxFiles)
	case r.size+o.size > MaxTaskBytes || r.answers+o.answer > MaxTaskBytes:
		return fmt.Sprintf("with it the task's secrets would be larger than %d MiB", MaxTaskBytes>>20)
	}
	if len(o.set.Files) > 0 && around.Fits != nil {
		if err := around.Fits(&Set{Files: slices.Concat(r.set.Files, o.set.Files)}); err != nil {
			return err.Error()
		}
	}
	return ""
}

func (r *renderer) take(o offer) {
	for name, v := range o.set.Env {
		r.set.Env[name] = v
		r.setBy[name] = placeOf(o.Secret)
	}
	for _, file := range o.set.Files {
		if err := r.files.addFile(file.Path, placeOf(o.Secret)); err != nil {
			r.bad(placeOf(o.Secret), err) // taken was asked
		}
	}
	r.set.Files = append(r.set.Files, o.set.Files...)
	r.size, r.envSize, r.answers = r.size+o.size, r.envSize+o.envSize, r.answers+o.answer
}
