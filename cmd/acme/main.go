// nomad-acme-issuer keeps certificates from an ACME authority valid in Vault's KV, for tasks that read
// them there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// The exit statuses.
const (
	exitFailed = 1 // a certificate could not be renewed, or the issuer could not start
	exitUsage  = 2 // the command line, the configuration or the rights in Vault are not right
)

func main() {
	// Keys are in this process's memory: no core dump, and nobody else's ptrace.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// mode is what to do with a configuration.
type mode struct{ check, once bool }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("nomad-acme-issuer", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", "acme.hcl", "the configuration's `FILE`")
	var m mode
	flags.BoolVar(&m.check, "check", false, "check the configuration and the rights in Vault, order nothing")
	flags.BoolVar(&m.once, "once", false, "renew what is due, and end; the exit status is 1 if a certificate could not be")
	providers := flags.Bool("providers", false, "list the dns-01 providers that are built in, and those that are not")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	if flags.NArg() > 0 || m.check && m.once {
		fmt.Fprintln(stderr, "usage: nomad-acme-issuer [-check | -once] -config FILE")
		return exitUsage
	}
	if *providers {
		listProviders(stdout)
		return 0
	}
	err := serve(ctx, *file, m, stdout, stderr)
	var wrong *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	fmt.Fprintln(stderr, err)
	return exitFailed
}

// usageError is an error to be corrected in the command line, the configuration or Vault.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
