package audit

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
)

// Task is a task whose secrets are looked for.
type Task struct {
	Alloc  string `json:"alloc"`
	Name   string `json:"task"`
	Driver string `json:"driver"`
	// Plugin is whether its secrets are this plugin's; else Nomad itself put them there.
	Plugin bool `json:"plugin"`
}

type taskKey struct{ alloc, name string }

func (t Task) key() taskKey { return taskKey{t.Alloc, t.Name} }

// value is something to look for, and what it is to which tasks. Several may have the same.
type value struct {
	owners []owner
}

type owner struct {
	task *Task
	what string // where it was learnt, without anything that a task chose: `secrets/app.env line 3`
}

// The bounds of what is kept. A task that fills its secrets directory must not fill our memory.
const (
	maxValues = 20_000
	maxOwners = 20
	// maxText is what of a value is kept: of a long one the beginning is looked for.
	maxText = 4 << 10
)

// values are what to look for.
type values struct {
	tasks    map[taskKey]*Task
	all      map[string]*value
	Short    int // of values that were skipped since they would be found by chance
	Ordinary int // … since they are ordinary text
	Public   int // … since they are certificates
	TooMany  int
}

func newValues() *values { return &values{tasks: map[taskKey]*Task{}, all: map[string]*value{}} }

// task gives the one record of a task.
func (v *values) task(alloc, name string) *Task {
	key := taskKey{alloc, name}
	if v.tasks[key] == nil {
		v.tasks[key] = &Task{Alloc: alloc, Name: name}
	}
	return v.tasks[key]
}

// add is told of a text that may be a secret value.
func (v *values) add(t *Task, what, text string) {
	if text = strings.Trim(text, "\r\n"); len(text) >= leakscan.MinValue && ordinary(text) {
		v.Ordinary++
		return
	}
	v.addSecret(t, what, text)
}

// addSecret is told of what is a secret value for sure.
func (v *values) addSecret(t *Task, what, text string) {
	text = strings.Trim(text, "\r\n")
	switch {
	case strings.Contains(text, "-----BEGIN CERTIFICATE-----") && !strings.Contains(text, "PRIVATE KEY-----"):
		v.Public++
		return
	case len(text) < leakscan.MinValue:
		v.Short++
		return
	case word.MatchString(text), number.MatchString(text), t.Alloc != "" && strings.Contains(text, t.Alloc):
		v.Ordinary++ // found everywhere, too: what names the allocation is in all of its files
		return
	}
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	known := v.all[text]
	if known == nil {
		if len(v.all) >= maxValues {
			v.TooMany++
			return
		}
		known = &value{}
		v.all[text] = known
	}
	if len(known.owners) < maxOwners && !slices.ContainsFunc(known.owners, func(o owner) bool { return o.task == t }) {
		known.owners = append(known.owners, owner{t, what})
	}
}

var (
	word   = regexp.MustCompile(`^(?:[a-z]{1,12}|[A-Z]{1,12}|[A-Z][a-z]{1,11})$`)
	number = regexp.MustCompile(`^[\d.:]+$`)
	// address is a URL without a password in it, a host's name, or a path. It has the path of a URL, and a name without its port,
	// apart.
	address = regexp.MustCompile(`^(?:[a-z]+://[A-Za-z0-9.-]+(?::\d+)?(/[\w./-]*)?|([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)(?::\d+)?|(?:/[\w.-]+)+/?)$`)
)

// ordinary reports whether a text is found in places that have nothing to do with the task: a word, a number, an address, a path.
func ordinary(text string) bool {
	m := address.FindStringSubmatch(text)
	switch {
	case m == nil:
		return false
	case strings.Contains(text, "://"):
		return !mixed(m[1]) // a webhook's secret is in its path
	case m[2] != "":
		return !mixed(m[2]) // as a JWT is
	}
	return !mixed(text)
}

// mixed reports whether a text looks made by chance: a password or token, rather than a name.
func mixed(text string) bool {
	var upper, lower, digits int
	for _, r := range text {
		switch {
		case unicode.IsUpper(r):
			upper++
		case unicode.IsLower(r):
			lower++
		case unicode.IsDigit(r):
			digits++
		}
	}
	return len(text) >= 12 && (upper > 0 && lower > 0 && digits > 0 || digits >= 4 && upper+lower >= 4)
}

// canaries are what to look for, under names by which find finds them again.
func (v *values) canaries() (all []leakscan.Canary, find map[string]*value) {
	find = map[string]*value{}
	for i, text := range slices.Sorted(maps.Keys(v.all)) {
		name := fmt.Sprintf("value %d", i+1)
		find[name] = v.all[text]
		all = append(all, leakscan.Canary{Name: name, Value: text})
	}
	return all, find
}
