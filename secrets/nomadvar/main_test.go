package nomadvar

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// This program is also the process that makes a socket where the agent's is looked for: as the user in $listenAs.
const (
	listenAt = "NOMADVAR_TEST_LISTEN"
	listenAs = "NOMADVAR_TEST_UID"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(listenAt); path != "" {
		if err := listen(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// listen answers each request with a variable, and says so.
func listen(path string) error {
	if uid, err := strconv.Atoi(os.Getenv(listenAs)); err == nil {
		if err := syscall.Setuid(uid); err != nil {
			return err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("asked with " + r.Header.Get("X-Nomad-Token"))
		_, _ = w.Write([]byte(`{"Items":{"password":"of somebody else"}}`))
	}))
}
