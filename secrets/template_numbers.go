package secrets

import (
	"encoding/json"
	"reflect"
	"strconv"
)

// wholeNumber is a whole number of a secret in a template: an integer to text/template, with the methods that
// it has as a json.Number.
type wholeNumber int64

// Int64 is the number.
func (n wholeNumber) Int64() int64 { return int64(n) }

// Float64 is the number as a fraction.
func (n wholeNumber) Float64() float64 { return float64(n) }

// String is the number as the server wrote it.
func (n wholeNumber) String() string { return strconv.FormatInt(int64(n), 10) }

// withNumbers makes integers of the whole numbers in a template's data, in place. A number with a fraction or an
// exponent, or of more than 64 bits, stays the text that the server wrote: it is delivered as that, and compared
// and printed as a number.
func withNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = withNumbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = withNumbers(e)
		}
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil && v != "-0" {
			return wholeNumber(n)
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n
		}
	}
	return v
}

// withPlainNumbers is a function of sprig's that gets integers of Go's own type, which is what sprig knows.
func withPlainNumbers(fn any) any {
	f := reflect.ValueOf(fn)
	return reflect.MakeFunc(f.Type(), func(args []reflect.Value) []reflect.Value {
		for i, arg := range args {
			args[i] = plainNumber(arg)
		}
		if f.Type().IsVariadic() {
			return f.CallSlice(args)
		}
		return f.Call(args)
	}).Interface()
}

func plainNumber(arg reflect.Value) reflect.Value {
	switch {
	case !arg.IsValid():
	case arg.Type() == reflect.TypeFor[any]():
		if n, ok := arg.Interface().(wholeNumber); ok {
			plain := reflect.New(arg.Type()).Elem()
			plain.Set(reflect.ValueOf(int64(n)))
			return plain
		}
	case arg.Type() == reflect.TypeFor[[]any](): // perhaps a template's list: it is not written to
		list := arg.Interface().([]any)
		plain := make([]any, len(list))
		for i, e := range list {
			plain[i] = e
			if n, ok := e.(wholeNumber); ok {
				plain[i] = int64(n)
			}
		}
		return reflect.ValueOf(plain)
	}
	return arg
}
