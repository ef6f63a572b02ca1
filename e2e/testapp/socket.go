package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

// fakeSocket makes a socket in the place of what is there, and prints what each connection sends first.
func fakeSocket(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: socket PATH")
	}
	if err := os.Remove(args[0]); err != nil {
		return err
	}
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	context.AfterFunc(ctx, func() { l.Close() })
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil // it was closed
		}
		fmt.Println("connected")
		go func() {
			defer conn.Close()
			request := make([]byte, 4096)
			if n, _ := conn.Read(request); n > 0 {
				fmt.Printf("asked %q\n", request[:n])
			}
		}()
	}
}
