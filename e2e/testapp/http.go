package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// think is how long a request takes.
const think = 100 * time.Millisecond

// serveHTTP answers each request with the allocation's id, after a while. From the first SIGHUP on it says at /health that
// nothing more is to be sent to it, and serves what comes all the same. It ends when what it serves is answered.
func serveHTTP(ctx context.Context, hangup <-chan os.Signal, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: http ADDR")
	}
	var finishing atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if finishing.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(think)
		fmt.Fprint(w, os.Getenv("NOMAD_ALLOC_ID"))
	})
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	fmt.Printf("listening %s\n", l.Addr())
	for {
		select {
		case <-hangup:
			fmt.Println("hangup")
			finishing.Store(true)
		case err := <-ended:
			return err
		case <-ctx.Done():
			return server.Shutdown(context.WithoutCancel(ctx))
		}
	}
}
