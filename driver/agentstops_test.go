package driver

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

// A start that waits is told when the agent begins to stop, by its socket that goes; where there is none it waits as ever.
func TestWhileAgentStays(t *testing.T) {
	cfg, _ := taskOnDisk(t)
	d := &Driver{log: testLog(t)}
	ctx, done := d.whileAgentStays(t.Context(), cfg)
	must.EqOp(t, t.Context(), ctx, must.Sprint("there is no socket to look for"))
	done()

	socket := filepath.Join(cfg.TaskDir().SecretsDir, taskAPI)
	listen := func() net.Listener {
		l, err := net.Listen("unix", socket)
		must.NoError(t, err)
		return l
	}
	l := listen()
	ctx, done = d.whileAgentStays(t.Context(), cfg)
	must.NoError(t, ctx.Err())
	must.NoError(t, l.Close()) // which removes it, as an agent that stops does
	<-ctx.Done()
	must.ErrorIs(t, context.Cause(ctx), errAgentStops)
	done()

	l = listen()
	defer l.Close()
	ctx, done = d.whileAgentStays(t.Context(), cfg)
	done() // and the goroutine has ended
	must.ErrorIs(t, context.Cause(ctx), context.Canceled)
	must.NoError(t, l.Close())
	must.NoError(t, os.WriteFile(socket, nil, 0o600))
	ctx, done = d.whileAgentStays(t.Context(), cfg)
	must.EqOp(t, t.Context(), ctx, must.Sprint("what is there is no socket"))
	done()
}
