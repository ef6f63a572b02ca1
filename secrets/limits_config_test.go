package secrets

import (
	"reflect"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// Each string of a job's configuration counts (maxConfig), for all of it is journalled: one that size leaves out is as
// large as a job likes.
func TestEveryStringCounts(t *testing.T) {
	text := strings.Repeat("x", 10_000)
	for n := 1; ; n++ {
		var c TaskConfig
		left := n
		place, ok := putString(reflect.ValueOf(&c).Elem(), &left, text)
		if !ok {
			must.Greater(t, 20, n, must.Sprint("there are more strings than those"))
			return
		}
		must.Greater(t, len(text), c.size(), must.Sprintf("size (limits.go) does not count %s", place))
	}
}

// putString puts text into the string of v that comes left-th, and says where that is; false: there are fewer. Pointers,
// lists and maps on the way get one element.
func putString(v reflect.Value, left *int, text string) (place string, ok bool) {
	switch v.Kind() {
	case reflect.String:
		if *left--; *left == 0 {
			v.SetString(text)
			return "", true
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return putString(v.Elem(), left, text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		return putString(v.Index(0), left, text)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		if _, ok = putString(key, left, text); ok {
			place = "'s key"
		} else {
			place, ok = putString(value, left, text)
		}
		v.SetMapIndex(key, value)
		return place, ok
	case reflect.Struct:
		for i := range v.NumField() {
			if place, ok = putString(v.Field(i), left, text); ok {
				return "." + v.Type().Field(i).Name + place, true
			}
		}
	case reflect.Bool, reflect.Int:
	default:
		panic("TestEveryStringCounts does not know what is in a " + v.Type().String())
	}
	return "", false
}
