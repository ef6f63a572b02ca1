package nomadvar

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// This program is also the process that makes a socket where the agent's is looked for: as the user in $listenAs.
const (
	listenAt = "NOMADVAR_TEST_LISTEN"
	listenAs = "NOMADVAR_TEST_UID"
	// handOver has it give the socket to a child, and end.
	handOver = "NOMADVAR_TEST_HAND_OVER"
	handed   = "NOMADVAR_TEST_HANDED"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(listenAt); path != "" {
		if err := listen(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(handed) != "" {
		l, err := net.FileListener(os.NewFile(3, "listener"))
		if err == nil {
			err = answer(l)
		}
		fmt.Println(err)
		os.Exit(1)
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
	if os.Getenv(handOver) != "" {
		unix := l.(*net.UnixListener)
		unix.SetUnlinkOnClose(false)
		f, err := unix.File()
		if err != nil {
			return err
		}
		child := exec.Command(os.Args[0])
		child.Env, child.ExtraFiles = []string{handed + "=1"}, []*os.File{f}
		if err := child.Start(); err != nil {
			return err
		}
		fmt.Println(child.Process.Pid)
		return nil
	}
	fmt.Println("ready")
	return answer(l)
}

func answer(l net.Listener) error {
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("asked with " + r.Header.Get("X-Nomad-Token"))
		_, _ = w.Write([]byte(`{"Items":{"password":"of somebody else"}}`))
	}))
}
