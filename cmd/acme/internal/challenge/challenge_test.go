package challenge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/go-acme/lego/v5/challenge"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
)

func TestMain(m *testing.M) {
	// A provider's library logs from a goroutine of its own for ever.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/baidubce/bce-sdk-go/util/log.NewLogger.func1"))
}

// Clients that have connected and say nothing do not keep a server from closing, and no goroutine of theirs is left when it has.
func TestCloseBreaksHandshakesOff(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s, err := listenTLSALPN("127.0.0.1:0")
	require.NoError(t, err)
	connect := func(n int) {
		for range n {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.listener.Addr().String())
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close() })
		}
	}
	connect(maxHandshakes - 1)
	require.NoError(t, s.Present(t.Context(), "one.example.com", "", "answer"))
	require.NoError(t, shake(t, s, "one.example.com"), "the last place, after all others were taken")
	connect(2) // one too many
	began := time.Now()
	s.close()
	require.Less(t, time.Since(began), readTimeout/2)
	require.NoError(t, goleak.Find(before))
}

// One port answers several tokens at once, and each no longer than its order needs it.
func TestHTTP(t *testing.T) {
	s, err := listenHTTP("127.0.0.1:0")
	require.NoError(t, err)
	defer s.close()
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.listener.Addr().String()+path, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	for _, token := range []string{"one", "two"} {
		require.NoError(t, s.Present(t.Context(), token+".example.com", token, "answer-"+token))
	}
	for _, token := range []string{"one", "two"} {
		code, body := get("/.well-known/acme-challenge/" + token)
		require.Equal(t, http.StatusOK, code)
		require.Equal(t, "answer-"+token, body)
	}
	require.NoError(t, s.CleanUp(t.Context(), "one.example.com", "one", ""))
	code, _ := get("/.well-known/acme-challenge/one")
	require.Equal(t, http.StatusNotFound, code)
	code, _ = get("/.well-known/acme-challenge/two")
	require.Equal(t, http.StatusOK, code)
	code, _ = get("/")
	require.Equal(t, http.StatusNotFound, code)
}

// shake asks for a domain's challenge, as an authority does.
func shake(t *testing.T, s *alpnServer, name string) error {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{ServerName: name, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(t.Context(), "tcp", s.listener.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	require.Equal(t, "acme-tls/1", state.NegotiatedProtocol)
	require.Equal(t, []string{name}, state.PeerCertificates[0].DNSNames)
	return nil
}

func TestTLSALPN(t *testing.T) {
	s, err := listenTLSALPN("127.0.0.1:0")
	require.NoError(t, err)
	defer s.close()
	require.NoError(t, s.Present(t.Context(), "one.example.com", "", "answer"))
	require.NoError(t, s.Present(t.Context(), "two.example.com", "", "answer"))
	require.NoError(t, shake(t, s, "one.example.com"))
	require.NoError(t, shake(t, s, "two.example.com"))
	require.Error(t, shake(t, s, "three.example.com"))
	require.NoError(t, s.CleanUp(t.Context(), "one.example.com", "", ""))
	require.Error(t, shake(t, s, "one.example.com"))
	require.NoError(t, shake(t, s, "two.example.com"))
}

func TestPortInUse(t *testing.T) {
	s, err := listenHTTP("127.0.0.1:0")
	require.NoError(t, err)
	defer s.close()
	_, err = Listen(&config.Config{Challenges: []*config.Challenge{
		{Type: config.TLSALPN01, Name: "free", Address: "127.0.0.1:0"},
		{Type: config.HTTP01, Name: "web", Address: s.listener.Addr().String()},
	}})
	require.ErrorContains(t, err, `challenge "web": http-01: listen tcp `+s.listener.Addr().String()+": bind: address already in use")
}

// recorder is a provider.
type recorder struct{ cleaned error }

func (r *recorder) Present(context.Context, string, string, string) error { return nil }

func (r *recorder) CleanUp(ctx context.Context, _, _, _ string) error {
	r.cleaned = ctx.Err()
	return nil
}

type inTurn struct{ recorder }

func (*inTurn) Sequential() time.Duration { return time.Second }

// Records are removed also when the order was ended, and a provider keeps its own pace.
func TestRecordsAreRemoved(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	inner := &recorder{cleaned: errors.New("not called")}
	p := thorough(inner)
	require.NoError(t, p.CleanUp(ctx, "", "", ""))
	require.NoError(t, inner.cleaned)
	_, sequential := p.(interface{ Sequential() time.Duration })
	require.False(t, sequential)
	require.Equal(t, time.Second, thorough(&inTurn{}).(interface{ Sequential() time.Duration }).Sequential())
	require.Implements(t, (*challenge.ProviderTimeout)(nil), p)
}
