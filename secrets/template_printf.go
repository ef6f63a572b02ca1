package secrets

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

var errPrintf = errors.New("the format does not fit its arguments")

// printf is fmt.Sprintf without large widths, and with an error where that would leave a mark in the text
// (`%!d(string=…)`): a file with one in it is no configuration.
func printf(format string, args ...any) (string, error) {
	verbs, err := parseFormat(format)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	used := make([]bool, len(args))
	for _, v := range verbs {
		if v.char == 0 {
			out.WriteString(v.text)
			continue
		}
		if v.arg >= len(args) {
			return "", errPrintf
		}
		used[v.arg] = true
		arg, err := printable(args[v.arg], v.char)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, v.text, arg)
	}
	if slices.Contains(used, false) {
		return "", errPrintf
	}
	return out.String(), nil
}

// printed is fmt.Sprint or Sprintln, which have a mark for what is null.
func printed(fn func(...any) string) func(...any) (string, error) {
	return func(args ...any) (string, error) {
		if slices.Contains(args, nil) {
			return "", errTemplateNull
		}
		return fn(args...), nil
	}
}

// directive is one directive of a format, or the text before one, which has no char.
type directive struct {
	text string // as fmt takes it, without an argument's index
	char rune
	arg  int
}

// parseFormat reads a format as fmt does: %[flags][width][.precision][[index]]verb. A width that is an argument
// is refused, since it cannot be bounded here.
func parseFormat(format string) (all []directive, err error) {
	total, arg := 0, 0
	for format != "" {
		text, rest, found := strings.Cut(format, "%")
		if text != "" {
			all = append(all, directive{text: text})
		}
		if !found {
			break
		}
		flags := rest[:len(rest)-len(strings.TrimLeft(rest, "+-# 0"))]
		rest = rest[len(flags):]
		width, rest, n := digits(rest)
		total += n
		precision := ""
		if after, ok := strings.CutPrefix(rest, "."); ok {
			precision, rest, n = digits(after)
			precision = "." + precision
			total += n
		}
		if after, ok := strings.CutPrefix(rest, "["); ok {
			var number string
			if number, rest, n = digits(after); !strings.HasPrefix(rest, "]") || number == "" || n == 0 {
				return nil, errPrintf
			}
			arg, rest = n-1, rest[1:]
		}
		if total > 64<<10 {
			return nil, errTemplateWeight
		}
		if rest == "" || rest[0] == '*' {
			return nil, errPrintf
		}
		char, size := utf8.DecodeRuneInString(rest)
		format = rest[size:]
		if char == '%' {
			all = append(all, directive{text: "%"})
			continue
		}
		all = append(all, directive{text: "%" + flags + width + precision + string(char), char: char, arg: arg})
		arg++
	}
	return all, nil
}

// digits cuts a number off a text; n is at most maxTemplateOutput.
func digits(s string) (number, rest string, n int) {
	rest = strings.TrimLeft(s, "0123456789")
	number = s[:len(s)-len(rest)]
	for _, c := range number {
		n = min(n*10+int(c-'0'), maxTemplateOutput)
	}
	return number, rest, n
}

// printable is an argument as its verb takes it. Numbers are text or have a fraction where the verb is for that:
// JSON has one kind of number.
func printable(arg any, verb rune) (any, error) {
	if arg == nil {
		return nil, errTemplateNull
	}
	if n, ok := arg.(json.Number); ok {
		arg = n.String()
		if f, err := n.Float64(); err == nil && strings.ContainsRune(floatVerbs, verb) {
			arg = f
		}
	}
	switch of := arg.(type) {
	case wholeNumber:
		arg = int64(of)
	case fmt.Stringer:
		arg = of.String()
	}
	v := reflect.ValueOf(arg)
	verbs := "v"
	switch kind := v.Kind(); {
	case v.CanInt() || v.CanUint():
		if strings.ContainsRune(floatVerbs, verb) {
			return v.Convert(reflect.TypeFor[float64]()).Interface(), nil
		}
		verbs = "bcdoOxXUv"
	case v.CanFloat():
		verbs = "bxXv" + floatVerbs
	case kind == reflect.Bool:
		verbs = "tv"
	case kind == reflect.String || v.Type() == reflect.TypeFor[[]byte]():
		verbs = "sqvxX"
	case kind == reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			var err error
			if list[i], err = printable(v.Index(i).Interface(), verb); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	switch {
	case strings.ContainsRune(verbs, verb):
		return arg, nil
	case strings.ContainsRune("sq", verb):
		return fmt.Sprint(arg), nil
	}
	return nil, errPrintf
}

// floatVerbs are fmt's for numbers with a fraction.
const floatVerbs = "eEfFgG"
