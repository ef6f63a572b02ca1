package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

const (
	// connections bounds how many operators are connected at once.
	connections = 32
	// answerTimeout is how long one may take to take an answer.
	answerTimeout = 30 * time.Second
	// closeTimeout is how long the end waits for answers that are under way.
	closeTimeout = 5 * time.Second
)

// Server is a plugin process's socket.
type Server struct {
	dir      dir
	socket   socket
	listener *net.UnixListener
	log      hclog.Logger
}

// Listen makes the socket of the process pid of a driver. What killed processes have left is removed.
func Listen(stateDir, driver string, pid int, log hclog.Logger) (*Server, error) {
	d, err := makeDir(stateDir)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: d, socket: socketOf(driver, pid), log: log}
	if err := s.listen(); err != nil {
		d.close()
		return nil, fmt.Errorf("status socket: %w", err)
	}
	return s, nil
}

func (s *Server) listen() (err error) {
	if err := s.dir.sweep(); err != nil {
		return err
	}
	// Under another name until it listens: else whoever sweeps would take it for one that a killed process has left.
	temporary := s.socket.newName()
	_ = s.dir.remove(temporary)
	if s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: s.dir.path(temporary), Net: "unix"}); err != nil {
		return err
	}
	s.listener.SetUnlinkOnClose(false)
	fd := int(s.dir.f.Fd())
	if err = os.Chmod(s.dir.path(temporary), 0o600); err == nil {
		err = unix.Renameat(fd, temporary, fd, s.socket.name)
	}
	if err != nil {
		return errors.Join(err, s.listener.Close(), s.dir.remove(temporary))
	}
	return nil
}

// Serve answers until ctx ends, and has joined all that it began when it returns. The socket is gone then.
func (s *Server) Serve(ctx context.Context, p Plugin) error {
	defer s.dir.close()
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler:           http.MaxBytesHandler(handler(p), maxRequest),
		ReadHeaderTimeout: answerTimeout, ReadTimeout: answerTimeout, IdleTimeout: answerTimeout,
		MaxHeaderBytes: maxRequest,
		BaseContext:    func(net.Listener) context.Context { return ctx },
		ErrorLog:       s.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	work.Go(func() {
		<-ctx.Done()
		_ = s.dir.remove(s.socket.name)
		closing, stop := context.WithTimeout(context.Background(), closeTimeout)
		defer stop()
		_ = server.Shutdown(closing)
		_ = server.Close()
	})
	err := server.Serve(netutil.LimitListener(rootListener{s.listener, s.log}, connections))
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("status socket: %w", err)
}

// rootListener accepts connections of root's alone. The directory's mode keeps everybody else away before; this is for
// one that a descriptor was handed to.
type rootListener struct {
	*net.UnixListener
	log hclog.Logger
}

// Accept gives the next connection that is root's.
func (l rootListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peer(c)
		if err == nil && (uid == 0 || uid == os.Geteuid()) {
			return c, nil
		}
		l.log.Warn("a connection to the status socket was refused: only root may ask", "uid", uid, "error", err)
		_ = c.Close()
	}
}

// peer is the user at the other end.
func peer(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return -1, cerr
	}
	if err != nil {
		return -1, err
	}
	return int(cred.Uid), nil
}

func handler(p Plugin) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, func(w http.ResponseWriter, _ *http.Request) { answer(w, p.Report()) })
	for _, op := range []lifecycle.Operation{lifecycle.Refresh, lifecycle.Rotate} {
		mux.HandleFunc("POST "+opPath+string(op), func(w http.ResponseWriter, r *http.Request) {
			var sel lifecycle.Selection
			decoder := json.NewDecoder(r.Body)
			decoder.DisallowUnknownFields() // an older plugin must not do more than it was asked for
			if err := decoder.Decode(&sel); err != nil {
				http.Error(w, "what is asked for is not understood: "+err.Error(), http.StatusBadRequest)
				return
			}
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // it may take minutes
			done, err := p.Operate(r.Context(), op, sel)
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			answer(w, done)
		})
	}
	return mux
}

func answer(w http.ResponseWriter, v any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // an operator who has gone
}
