package secrets

import (
	"errors"
	"reflect"
	"regexp/syntax"
	"strings"
)

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
	"split":    guardSplit(0, 1), "splitList": guardSplit(0, 1), "splitn": guardSplit(0, 2),

	// Each character of the one is looked for in the other.
	"trimAll": short(0, 1<<10), "trimall": short(0, 1<<10),

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

// guardSplit bounds how many parts there are: each takes many times the byte that it may hold.
func guardSplit(sep, text int) func([]reflect.Value) error {
	return func(args []reflect.Value) error {
		if n := strings.Count(args[text].String(), args[sep].String()); n > maxTemplateOutput/16 {
			return errTemplateWeight
		}
		return nil
	}
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

// maxPattern bounds what compiling a regular expression takes.
const maxPattern = 4 << 10

// guardRegex bounds the steps of a match: the program's length times the text's to the power.
func guardRegex(power int) func([]reflect.Value) error {
	return func(args []reflect.Value) error {
		if args[0].Len() > maxPattern {
			return errTemplateWeight
		}
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
