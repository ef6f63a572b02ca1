package secrets

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp/syntax"
	"slices"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

// withoutFunctions are sprig's hermetic functions that templates do not have.
var withoutFunctions = []string{
	// They make keys, or use up a lot of time for one.
	"bcrypt", "htpasswd", "genPrivateKey", "derivePassword", "buildCustomCert", "genCA", "genCAWithKey",
	"genSelfSignedCert", "genSelfSignedCertWithKey", "genSignedCert", "genSignedCertWithKey", "encryptAES", "decryptAES",
	// Hermetic by name only: another output at each run would look like a rotation (C7).
	"shuffle", "randInt", "ago", "durationRound",
	// Their output is as large as a number says.
	"repeat", "until", "untilStep", "seq",
}

// functions are what a template of this run may call, each guarded: its arguments and its result are
// weighed, and the clock is looked at. Functions whose work or output is more than a small multiple of
// their arguments have a guard of their own.
func (r *templateRun) functions() template.FuncMap {
	all := sprig.HermeticTxtFuncMap()
	for _, name := range withoutFunctions {
		delete(all, name)
	}
	maps.Copy(all, template.FuncMap{
		// Go's own, which take and make text of any size. "call", "and", "or", "not" and the
		// comparisons have nothing to bound.
		"print":    fmt.Sprint,
		"println":  fmt.Sprintln,
		"printf":   printf,
		"html":     template.HTMLEscaper,
		"js":       template.JSEscaper,
		"urlquery": template.URLQueryEscaper,
		// Go's own gives nothing for a key that is not there.
		"index": index,
		// Sprig's are in an order of chance, and each render must give the same (C7).
		"keys":   sortedKeys,
		"values": sortedValues,
	})
	for name, guard := range guards {
		all[name] = guarded(all[name], guard)
	}
	for name, fn := range all {
		all[name] = r.weighed(fn)
	}
	all[fnTick], all[fnEnter], all[fnLeave], all[fnEmit] = r.tick, r.enter, r.leave, r.emit
	return all
}

// weighed is fn with its arguments and result admitted by the run, and errors where it panics.
func (r *templateRun) weighed(fn any) any {
	f := reflect.ValueOf(fn)
	t := f.Type()
	errType := reflect.TypeFor[error]()
	in := make([]reflect.Type, t.NumIn())
	for i := range in {
		in[i] = t.In(i)
	}
	out := []reflect.Type{t.Out(0), errType}
	fail := func(err error) []reflect.Value {
		return []reflect.Value{reflect.Zero(t.Out(0)), reflect.ValueOf(&err).Elem()}
	}
	return reflect.MakeFunc(reflect.FuncOf(in, out, t.IsVariadic()), func(args []reflect.Value) []reflect.Value {
		if _, err := r.tick(); err != nil {
			return fail(err)
		}
		w := weight{limit: maxTemplateOutput}
		for _, a := range args {
			w.add(a, 0)
		}
		if w.over {
			return fail(errTemplateWeight)
		}
		var res []reflect.Value
		if t.IsVariadic() {
			res = f.CallSlice(args)
		} else {
			res = f.Call(args)
		}
		if len(res) == 2 && !res[1].IsNil() {
			return fail(res[1].Interface().(error))
		}
		w = weight{limit: min(maxTemplateOutput, r.budget)}
		w.add(res[0], 0)
		if w.over {
			return fail(errTemplateWeight)
		}
		r.budget -= w.sum
		return []reflect.Value{res[0], reflect.Zero(errType)}
	}).Interface()
}

// admit refuses a value that is too large to be made into text.
func (r *templateRun) admit(v any) error {
	w := weight{limit: maxTemplateOutput}
	w.add(reflect.ValueOf(v), 0)
	if w.over {
		return errTemplateWeight
	}
	_, err := r.tick()
	return err
}

// weight sums up how large a value would be with everything in it written out: a list that holds
// one long string a thousand times weighs a thousand strings, for that is what joining it would make.
// It stops at the limit, so that values which hold themselves are over it and not endless.
type weight struct {
	sum, limit int
	over       bool
}

// maxDepth of nested values: their indented JSON grows with its square.
const maxDepth = 100

func (w *weight) add(v reflect.Value, depth int) {
	if w.sum += 16; w.sum > w.limit || depth > maxDepth {
		w.over = true
	}
	if w.over || !v.IsValid() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		w.grow(v.Len())
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			w.grow(v.Len())
			return
		}
		for i := 0; i < v.Len() && !w.over; i++ {
			w.add(v.Index(i), depth+1)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next() && !w.over; {
			w.add(it.Key(), depth+1)
			w.add(it.Value(), depth+1)
		}
	case reflect.Interface, reflect.Pointer:
		if !v.IsNil() {
			w.add(v.Elem(), depth+1)
		}
	case reflect.Struct:
		for i := 0; i < v.NumField() && !w.over; i++ {
			w.add(v.Field(i), depth+1)
		}
	}
}

func (w *weight) grow(n int) {
	if w.sum += n; w.sum > w.limit {
		w.over = true
	}
}

// guards refuse calls whose work or output is out of proportion to their arguments. They get the
// arguments as given, a variadic part as one slice.
var guards = map[string]func(args []reflect.Value) error{
	"indent":   guardIndent,
	"nindent":  guardIndent,
	"wrap":     short(1, 16<<10),
	"wrapWith": guardWrapWith,
	"replace":  guardReplace,
	"join":     guardJoin,

	// Each element is compared with each.
	"uniq": few, "mustUniq": few, "without": few, "mustWithout": few,

	"regexMatch": guardRegex(1), "mustRegexMatch": guardRegex(1),
	"regexFind": guardRegex(1), "mustRegexFind": guardRegex(1),
	"regexFindAll": guardRegex(2), "mustRegexFindAll": guardRegex(2),
	"regexSplit": guardRegex(2), "mustRegexSplit": guardRegex(2),
	"regexReplaceAll": guardRegex(2), "mustRegexReplaceAll": guardRegex(2),
	"regexReplaceAllLiteral": guardRegex(2), "mustRegexReplaceAllLiteral": guardRegex(2),
}

// guarded is fn behind a guard.
func guarded(fn any, guard func([]reflect.Value) error) any {
	f := reflect.ValueOf(fn)
	t := f.Type()
	return reflect.MakeFunc(t, func(args []reflect.Value) []reflect.Value {
		if err := guard(args); err != nil {
			panic(err) // text/template makes it an error
		}
		if t.IsVariadic() {
			return f.CallSlice(args)
		}
		return f.Call(args)
	}).Interface()
}

// tooMuch is whether a·b is more than limit.
func tooMuch(a, b, limit int) bool { return a > 0 && b > limit/a }

func guardIndent(args []reflect.Value) error {
	lines := strings.Count(args[1].String(), "\n") + 1
	if n := int(args[0].Int()); n < 0 || tooMuch(lines, n, maxTemplateOutput) {
		return errTemplateWeight
	}
	return nil
}

func short(arg, limit int) func([]reflect.Value) error {
	return func(args []reflect.Value) error {
		if args[arg].Len() > limit {
			return errTemplateWeight
		}
		return nil
	}
}

func guardWrapWith(args []reflect.Value) error {
	if err := short(2, 16<<10)(args); err != nil {
		return err
	}
	if tooMuch(args[2].Len()+1, args[1].Len(), maxTemplateOutput) {
		return errTemplateWeight
	}
	return nil
}

func guardReplace(args []reflect.Value) error {
	if tooMuch(strings.Count(args[2].String(), args[0].String()), args[1].Len(), maxTemplateOutput) {
		return errTemplateWeight
	}
	return nil
}

func guardJoin(args []reflect.Value) error {
	list := args[1]
	if list.Kind() == reflect.Interface {
		list = list.Elem()
	}
	if list.Kind() == reflect.Slice && tooMuch(list.Len(), args[0].Len(), maxTemplateOutput) {
		return errTemplateWeight
	}
	return nil
}

func few(args []reflect.Value) error {
	w := weight{limit: 32 << 10}
	for _, a := range args {
		w.add(a, 0)
	}
	if w.over {
		return errTemplateWeight
	}
	return nil
}

// guardRegex bounds the steps of a match: the program's length times the text's to the power.
func guardRegex(power int) func([]reflect.Value) error {
	return func(args []reflect.Value) error {
		parsed, err := syntax.Parse(args[0].String(), syntax.Perl)
		if err != nil {
			return errors.New("not a regular expression")
		}
		prog, err := syntax.Compile(parsed.Simplify())
		if err != nil {
			return errors.New("not a regular expression")
		}
		steps := len(prog.Inst)
		for range power {
			if tooMuch(steps, args[1].Len(), 1<<24) {
				return errTemplateWeight
			}
			steps *= args[1].Len()
		}
		if power == 2 && args[2].Kind() == reflect.String && tooMuch(args[1].Len()+1, args[2].Len(), maxTemplateOutput) {
			return errTemplateWeight
		}
		return nil
	}
}

// printf is fmt.Sprintf without large widths.
func printf(format string, args ...any) (string, error) {
	total, n := 0, 0
	for i := range len(format) {
		switch c := format[i]; {
		case c == '*':
			return "", errors.New(`printf: "*" is not available; write the width`)
		case c >= '0' && c <= '9':
			n = min(n*10+int(c-'0'), maxTemplateOutput)
			continue
		}
		total += n
		n = 0
	}
	if total > 64<<10 {
		return "", errTemplateWeight
	}
	return fmt.Sprintf(format, args...), nil
}

// index is Go's, but for a key that a map does not have, which is an error.
func index(item any, keys ...any) (any, error) {
	for _, key := range keys {
		v := reflect.ValueOf(item)
		switch v.Kind() {
		case reflect.Map:
			k := reflect.ValueOf(key)
			if !k.IsValid() || !k.Type().ConvertibleTo(v.Type().Key()) || k.Kind() != v.Type().Key().Kind() {
				return nil, errors.New("index: not a key of this map")
			}
			e := v.MapIndex(k.Convert(v.Type().Key()))
			if !e.IsValid() {
				return nil, errTemplateKey
			}
			item = e.Interface()
		case reflect.Slice, reflect.Array, reflect.String:
			k := reflect.ValueOf(key)
			if !k.IsValid() || !k.CanInt() || k.Int() < 0 || k.Int() >= int64(v.Len()) {
				return nil, errTemplateKey
			}
			item = v.Index(int(k.Int())).Interface()
		default:
			return nil, errors.New("index: neither a map nor a list")
		}
	}
	return item, nil
}

func sortedKeys(dicts ...map[string]any) []string {
	var out []string
	for _, d := range dicts {
		out = append(out, slices.Sorted(maps.Keys(d))...)
	}
	return out
}

func sortedValues(dict map[string]any) []any {
	var out []any
	for _, key := range slices.Sorted(maps.Keys(dict)) {
		out = append(out, dict[key])
	}
	return out
}
