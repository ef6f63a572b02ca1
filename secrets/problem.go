package secrets

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a job's config, for who has the job's text and can show the place.
type Problem struct {
	// Place is the keys and names that lead to it in the task's `config`: "secret", "db", "env", "DB_USER". Empty: all of it.
	Place []string
	// Text is the whole of it, the place in words included.
	Text string
}

// Problems are those that an error of Compile or of CheckLiveDirs is made of. What has no place of its own is one of the
// task's whole config.
func Problems(err error) []Problem {
	if err == nil {
		return nil
	}
	var joined interface {
		error
		Unwrap() []error
	}
	if errors.As(err, &joined) && errors.Join(joined.Unwrap()...).Error() == joined.Error() {
		var all []Problem
		for _, e := range joined.Unwrap() {
			all = append(all, Problems(e)...)
		}
		return all
	}
	if p := (*problem)(nil); errors.As(err, &p) {
		return []Problem{{Place: p.place, Text: p.text}}
	}
	return []Problem{{Text: err.Error()}}
}

// problem is an error about a place in a task's config.
type problem struct {
	place []string
	text  string
}

func (p *problem) Error() string { return p.text }

// Problemf is what is wrong at a place such as `registry_auth`, as an error of kind Invalid. The text begins with the key that it
// is about, if it is about one.
func Problemf(place, format string, args ...any) error {
	return &Error{Kind: Invalid, Err: newProblem(place, fmt.Sprintf(format, args...))}
}

// newProblem is about a place such as `secret "db": file "x"`. What follows begins with the key that it is about, if it is
// about one.
func newProblem(place, msg string) *problem {
	p := &problem{place: stepsOf(place), text: msg}
	key, rest, _ := strings.Cut(msg, " ")
	key, list := strings.CutSuffix(key, ":")
	if slices.Contains(configKeys, key) {
		p.place = append(p.place, key)
		if name, err := strconv.QuotedPrefix(rest); list && err == nil { // `env: "X" …`
			p.place = append(p.place, unquote(name))
		}
	}
	if place != "" {
		p.text = place + ": " + msg
	}
	return p
}

// stepsOf reads a place: words, each with a name or without, and colons between.
func stepsOf(place string) (steps []string) {
	for place != "" {
		end := strings.IndexAny(place, " :")
		if end < 0 {
			return append(steps, place)
		}
		steps = append(steps, place[:end])
		rest := strings.TrimPrefix(place[end:], " ")
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			steps = append(steps, unquote(quoted))
			rest = rest[len(quoted):]
		} else if name, after, _ := strings.Cut(rest, ": "); name != "" && rest != place[end:] {
			steps = append(steps, name)
			rest = after
		}
		place = strings.TrimPrefix(rest, ": ")
	}
	return steps
}

func unquote(quoted string) string {
	name, err := strconv.Unquote(quoted)
	if err != nil {
		return quoted
	}
	return name
}

// configKeys are the keys of a task's config that are ours, at any depth.
var configKeys = keysOf(reflect.TypeFor[TaskConfig]())

func keysOf(t reflect.Type) (keys []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Map || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if key := f.Tag.Get("codec"); key != "" && key != "-" {
			keys = append(append(keys, key), keysOf(f.Type)...)
		}
	}
	return keys
}
