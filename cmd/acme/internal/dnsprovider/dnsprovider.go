// Package dnsprovider makes lego's dns-01 providers by lego's own names. A provider takes its settings from
// the environment variables that lego documents for it, or from files that NAME_FILE variables name.
package dnsprovider

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/go-acme/lego/v5/challenge"
)

//go:generate go run ./gen

// ErrUnknown is the error for a name that is none of lego's.
var ErrUnknown = errors.New("unknown provider")

// ErrNotBuiltIn is the error for one of lego's providers that this program was built without.
var ErrNotBuiltIn = errors.New("not built in")

// environment is the lock on the process's environment while a provider is made.
var environment sync.Mutex

// New makes the provider of this name. The variables are set on top of the process's environment while the
// provider reads its settings, so that two providers of one name can have different ones.
func New(name string, variables map[string]string) (challenge.Provider, error) {
	construct, err := lookUp(name)
	if err != nil {
		return nil, err
	}
	environment.Lock()
	defer environment.Unlock()
	defer restore(variables)()
	for key, value := range variables {
		if err := os.Setenv(key, value); err != nil {
			return nil, fmt.Errorf("variable %s: %w", key, err)
		}
	}
	return construct()
}

func lookUp(name string) (func() (challenge.Provider, error), error) {
	if construct := constructors[name]; construct != nil {
		return construct, nil
	}
	if module := leftOut[name]; module != "" {
		return nil, fmt.Errorf("provider %q is %w: its dependency %s could not be had as a module; use exec or httpreq, or build with it", name, ErrNotBuiltIn, module)
	}
	return nil, fmt.Errorf("%w %q: none of lego's is named so%s", ErrUnknown, name, didYouMean(name))
}

// restore returns the function that sets these variables back to what they are now.
func restore(variables map[string]string) func() {
	type variable struct {
		value string
		set   bool
	}
	before := map[string]variable{}
	for key := range variables {
		value, set := os.LookupEnv(key)
		before[key] = variable{value, set}
	}
	return func() {
		for key, was := range before {
			if was.set {
				_ = os.Setenv(key, was.value)
			} else {
				_ = os.Unsetenv(key)
			}
		}
	}
}

// Names are all providers that are built in, sorted.
func Names() []string { return slices.Sorted(maps.Keys(constructors)) }

// LeftOut are lego's providers that are not built in, sorted.
func LeftOut() []string { return slices.Sorted(maps.Keys(leftOut)) }

// didYouMean names the providers that a wrong name may have meant.
func didYouMean(name string) string {
	var near []string
	for _, known := range slices.Sorted(maps.Keys(constructors)) {
		if len(name) > 2 && (strings.HasPrefix(known, name[:3]) || strings.Contains(known, name)) {
			near = append(near, known)
		}
	}
	if len(near) == 0 || len(near) > 8 {
		return ""
	}
	return "; there are " + strings.Join(near, ", ")
}
