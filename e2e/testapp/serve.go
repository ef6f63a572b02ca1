package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
)

// serve shakes hands with whoever comes, by the pair that it has read at the start and reads anew on
// each SIGHUP. It prints where it listens, each pair that it reads, and each that does not match,
// with which it goes on as before.
func serve(ctx context.Context, hangup <-chan os.Signal, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: serve DIR CERT KEY")
	}
	var current atomic.Pointer[tls.Certificate]
	load := func() {
		pair, err := readPair(args[0], args[1], args[2])
		if err != nil {
			fmt.Printf("mismatch %v\n", err)
			return
		}
		current.Store(&pair)
		fmt.Printf("serving serial=%s\n", serialOf(pair))
	}
	load()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
	})
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	fmt.Printf("listening %s\n", l.Addr())
	go func() {
		for range hangup {
			fmt.Println("hangup")
			load()
		}
	}()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = conn.(*tls.Conn).Handshake()
		}()
	}
}
