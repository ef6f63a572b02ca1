package dnsprovider

import (
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// What every installation can use is built in, by lego's names.
func TestAlwaysBuiltIn(t *testing.T) {
	for name, variables := range map[string]map[string]string{
		"exec":    {"EXEC_PATH": "/bin/true"},
		"httpreq": {"HTTPREQ_ENDPOINT": "http://127.0.0.1:1"},
		"rfc2136": {"RFC2136_NAMESERVER": "127.0.0.1"},
	} {
		_, err := New(name, variables)
		require.NoError(t, err, name)
	}
}

// Each of the table's names is known to be built in or left out, and none is both.
func TestTable(t *testing.T) {
	require.Greater(t, len(Names())+len(LeftOut()), 20)
	for _, name := range LeftOut() {
		require.False(t, slices.Contains(Names(), name))
		_, err := New(name, nil)
		require.ErrorIs(t, err, ErrNotBuiltIn)
		require.ErrorContains(t, err, `"`+name+`"`)
	}
	_, err := New("nonesuch", nil)
	require.ErrorIs(t, err, ErrUnknown)
}

// A provider's variables are its own: they are not left in the environment, and what was there is again.
func TestVariablesAreTheProviders(t *testing.T) {
	t.Setenv("EXEC_MODE", "RAW")
	_, err := New("exec", map[string]string{"EXEC_PATH": "/bin/true", "EXEC_MODE": "x"})
	require.NoError(t, err)
	require.Equal(t, "RAW", os.Getenv("EXEC_MODE"))
	_, set := os.LookupEnv("EXEC_PATH")
	require.False(t, set)
	_, err = New("exec", nil)
	require.ErrorContains(t, err, "EXEC_PATH")
}
