// Package contain keeps a panic in what is done for one task from ending the plugin, which serves all tasks of its node.
package contain

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Panic is a panic as an error. Neither its text nor its stack holds a value: what was panicked with may be a secret.
type Panic struct {
	reason string
	Stack  string // of the goroutine, from the panic on
}

func (p *Panic) Error() string { return "an error in this plugin: " + p.reason }

// Of is the panic that recover has given; nil if it gave none. It is to be called in the function that was deferred.
func Of(recovered any) *Panic {
	if recovered == nil {
		return nil
	}
	p := &Panic{reason: fmt.Sprintf("panic with a %T", recovered), Stack: string(debug.Stack())}
	if err, ok := recovered.(runtime.Error); ok { // it tells of lengths and types
		p.reason = err.Error()
	}
	return p
}
