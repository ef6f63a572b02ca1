package fleet

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// lenderEnv makes the test binary the server of TestLender.
const lenderEnv = "FLEET_LENDER"

// startLender starts a server that makes ACL tokens as Nomad does, and only says yes, and returns its address. It is a process of
// its own: a thousand nodes' connections are all that one may have.
func startLender(t testing.TB) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLender$")
	cmd.Env = append(os.Environ(), lenderEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close()) // which ends it
		_, err := io.Copy(io.Discard, out)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait())
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(address)
}

// TestLender is startLender's process.
func TestLender(t *testing.T) {
	if os.Getenv(lenderEnv) == "" {
		return
	}
	var made atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"AccessorID": "accessor-%d", "SecretID": "secret-%d"}`, made.Add(1), made.Load())
	}))
	defer s.Close()
	s.Config.SetKeepAlivesEnabled(false) // the engine makes a client for each request, and would leave its connection open
	_, err := fmt.Println(s.URL)
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
