// nomad-driver-secrets is a Nomad task driver: Nomad's own docker or raw_exec driver, with a
// secrets lifecycle around it. Its file name says which: see the README. Started by anybody but Nomad it
// is the operator's commands.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
)

func main() {
	surviveBrokenStderr()
	if driver.ServeHelper(os.Args) {
		return
	}
	// What Nomad starts as a plugin has this in its environment (go-plugin's handshake).
	if os.Getenv(base.Handshake.MagicCookieKey) != base.Handshake.MagicCookieValue {
		os.Exit(runCommand(os.Args[1:], os.Stdout, os.Stderr))
	}
	if err := serve(os.Args[0]); err != nil {
		logFailure(os.Stderr, err)
		os.Exit(1)
	}
}

// logFailure tells the agent why its plugin ends. Nomad itself says only that the plugin may not be for this architecture; a
// line of hclog's JSON gets into the agent's log at its level.
func logFailure(stderr io.Writer, err error) {
	hclog.New(&hclog.LoggerOptions{Name: name, JSONFormat: true, Output: stderr}).Error("the plugin cannot be served", "error", err)
}

// surviveBrokenStderr keeps the process alive when what it logs finds no reader: an agent that was
// killed, or for a helper a plugin, took the other end of the pipe with it. Without a handler the first
// line logged would end us (os/signal), perhaps in the middle of a rotation. A handler, and not an
// ignored signal, which our children would inherit.
func surviveBrokenStderr() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}

// serve is the plugin, until Nomad ends it.
func serve(path string) error {
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true})
	d, err := driver.New(context.Background(), path, log)
	if err != nil {
		return err
	}
	defer d.Close()
	drivers.Serve(d, log)
	return nil
}
