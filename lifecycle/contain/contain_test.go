package contain

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPanicTellsNoValue(t *testing.T) {
	got := func(do func()) (p *Panic) {
		defer func() { p = Of(recover()) }()
		do()
		return nil
	}
	require.Nil(t, got(func() {}))
	var none []string
	for want, do := range map[string]func(){
		"index out of range [3] with length 0": func() { _ = none[len("abc")] },
		"panic with a string":                  func() { panic("hunter2") },
		"panic with a *errors.errorString":     func() { panic(errors.New("hunter2")) },
	} {
		p := got(do)
		require.ErrorContains(t, p, want)
		require.NotContains(t, p.Error()+p.Stack, "hunter2")
		require.Contains(t, p.Stack, "TestPanicTellsNoValue", "it says where")
	}
}
