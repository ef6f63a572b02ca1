package secrets

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
)

// Comparisons of templates. They mean what Go's own do, which cannot be used: nothing bounds what one call of
// them compares, nor looks at the clock between.

var (
	errCompareKinds = errors.New("values of different kinds cannot be compared")
	errCompareValue = errors.New("values of this kind cannot be compared")
	errCompareNone  = errors.New("there is nothing to compare with")
)

// equalsAny reports whether a equals one of others.
func equalsAny(a any, others ...any) (bool, error) {
	if len(others) == 0 {
		return false, errCompareNone
	}
	for _, b := range others {
		if same, err := equal(a, b); same || err != nil {
			return same, err
		}
	}
	return false, nil
}

func differs(a, b any) (bool, error) {
	same, err := equal(a, b)
	return !same, err
}

func equal(a, b any) (bool, error) {
	if a == nil || b == nil {
		return a == nil && b == nil, nil
	}
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if ofSecret(a) != ofSecret(b) && va.Kind() != vb.Kind() && (va.Type() == reflect.TypeFor[string]() || vb.Type() == reflect.TypeFor[string]()) {
		return fmt.Sprint(a) == fmt.Sprint(b), nil // a secret may have a port as the one or the other
	}
	if order, err := compare(a, b); err == nil {
		return order == 0, nil
	} else if errors.Is(err, errCompareKinds) {
		return false, err
	}
	if va.Kind() == reflect.Bool && vb.Kind() == reflect.Bool {
		return va.Bool() == vb.Bool(), nil
	}
	if va.Type() != vb.Type() || !va.Comparable() || !vb.Comparable() {
		return false, errCompareValue
	}
	return a == b, nil
}

// compare orders numbers and text. Numbers are whole or not: 1 and 1.0 are of different kinds, but for those of a
// secret, since JSON has one kind.
func compare(a, b any) (int, error) {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if !va.IsValid() || !vb.IsValid() {
		return 0, errCompareValue
	}
	if ofSecret(a) || ofSecret(b) {
		if na, nb := numberOf(va), numberOf(vb); na != nil && nb != nil {
			return na.Cmp(nb), nil
		}
		return 0, errCompareKinds
	}
	ordered := func(v reflect.Value) bool {
		return v.CanInt() || v.CanUint() || v.CanFloat() || v.Kind() == reflect.String
	}
	switch {
	case va.CanInt() && vb.CanInt():
		return cmp.Compare(va.Int(), vb.Int()), nil
	case va.CanUint() && vb.CanUint():
		return cmp.Compare(va.Uint(), vb.Uint()), nil
	case va.CanInt() && vb.CanUint():
		if va.Int() < 0 {
			return -1, nil
		}
		return cmp.Compare(uint64(va.Int()), vb.Uint()), nil
	case va.CanUint() && vb.CanInt():
		order, err := compare(b, a)
		return -order, err
	case va.CanFloat() && vb.CanFloat():
		return cmp.Compare(va.Float(), vb.Float()), nil
	case va.Kind() == reflect.String && vb.Kind() == reflect.String:
		return cmp.Compare(va.String(), vb.String()), nil
	case ordered(va) || ordered(vb):
		return 0, errCompareKinds
	}
	return 0, errCompareValue
}

// ofSecret reports whether a value is a number that a secret holds.
func ofSecret(v any) bool {
	switch v.(type) {
	case wholeNumber, json.Number:
		return true
	}
	return false
}

// numberOf is a number, exact to 64 bits; nil of what is none.
func numberOf(v reflect.Value) *big.Float {
	n := new(big.Float).SetPrec(64)
	switch {
	case v.CanInt():
		return n.SetInt64(v.Int())
	case v.CanUint():
		return n.SetUint64(v.Uint())
	case v.CanFloat() && !math.IsNaN(v.Float()):
		return n.SetFloat64(v.Float())
	case v.Type() == reflect.TypeFor[json.Number]():
		f, err := strconv.ParseFloat(v.String(), 64) // big.ParseFloat would make what an exponent says
		if err == nil {
			return n.SetFloat64(f)
		}
	}
	return nil
}

func less(a, b any) (bool, error) {
	order, err := compare(a, b)
	return order < 0, err
}

func lessOrEqual(a, b any) (bool, error) {
	order, err := compare(a, b)
	return order <= 0, err
}

func greater(a, b any) (bool, error) {
	order, err := compare(a, b)
	return order > 0, err
}

func greaterOrEqual(a, b any) (bool, error) {
	order, err := compare(a, b)
	return order >= 0, err
}
