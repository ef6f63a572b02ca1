package metrics

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// tryAgain is how far apart attempts are to listen at an address that is taken: by the plugin process before this
	// one, perhaps, or by the other driver's.
	tryAgain = 10 * time.Second

	requestTimeout = 10 * time.Second
	answerTimeout  = 30 * time.Second
	endTimeout     = time.Second // go-plugin gives a plugin 2 s to end
)

// Serve answers scrapes at an address until ctx ends.
func (m *Metrics) Serve(ctx context.Context, address string) {
	listener, ok := listen(ctx, m.log, address, net.Listen)
	if !ok {
		return
	}
	m.log.Info("metrics", "address", listener.Addr().String())
	server := &http.Server{
		Handler: m.Handler(), ReadTimeout: requestTimeout, WriteTimeout: answerTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: m.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		m.log.Error("metrics are not served any more", "error", err)
	case <-ctx.Done():
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if server.Shutdown(ending) != nil { // it waits for scrapes, and not for one that does not end
			_ = server.Close()
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			m.log.Error("metrics were not served any more", "error", err)
		}
	}
}

// listen waits until an address can be listened at. ok is false once ctx has ended.
func listen(ctx context.Context, log hclog.Logger, address string, open func(network, address string) (net.Listener, error)) (l net.Listener, ok bool) {
	for try := 0; ctx.Err() == nil; try++ {
		l, err := open("tcp", address)
		if err == nil {
			return l, true
		}
		if try == 0 {
			log.Warn("metrics cannot be served yet, and are as soon as the address can be listened at: each plugin needs one of its own", "address", address, "error", err)
		}
		t := time.NewTimer(tryAgain)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
	return nil, false
}
