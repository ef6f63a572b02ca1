package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// authority signs certificates for 127.0.0.1 and "vault.internal".
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	must.NoError(t, err)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t *testing.T, name string) (certPEM, keyPEM []byte, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"vault.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	must.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must.NoError(t, err)
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	pair, err = tls.X509KeyPair(certPEM, keyPEM)
	must.NoError(t, err)
	return certPEM, keyPEM, pair
}

// tlsServer serves with a certificate that can be swapped, and says which client came.
type tlsServer struct {
	*httptest.Server
	pair   atomic.Pointer[tls.Certificate]
	client atomic.Value // string
}

func startTLS(t *testing.T, pair tls.Certificate, clientCA *authority) *tlsServer {
	t.Helper()
	s := &tlsServer{}
	s.pair.Store(&pair)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			s.client.Store(r.TLS.PeerCertificates[0].Subject.CommonName)
		}
		oneField(w, r)
	}))
	s.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		config := &tls.Config{Certificates: []tls.Certificate{*s.pair.Load()}}
		if clientCA != nil {
			config.ClientAuth = tls.RequireAndVerifyClientCert
			config.ClientCAs = x509.NewCertPool()
			config.ClientCAs.AddCert(clientCA.cert)
		}
		return config, nil
	}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	must.NoError(t, os.WriteFile(path+".new", content, 0o600))
	must.NoError(t, os.Rename(path+".new", path))
}

func readOne(t *testing.T, v *Client) error {
	t.Helper()
	_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "cubbyhole/a"})
	return err
}

// A CA file may come after the agent, and is followed when it changes.
func TestTLSFileComesLateAndRotates(t *testing.T) {
	for _, option := range []string{"ca_cert", "ca_path"} {
		t.Run(option, func(t *testing.T) {
			old, renewed := newAuthority(t), newAuthority(t)
			_, _, pair := old.issue(t, "server")
			server := startTLS(t, pair, nil)

			dir := filepath.Join(t.TempDir(), "tls")
			file := filepath.Join(dir, "ca.pem")
			cfg := Config{Address: server.URL, CACert: file}
			if option == "ca_path" {
				cfg = Config{Address: server.URL, CAPath: dir}
			}
			v := newVault(t, cfg)
			wantKind(t, readOne(t, v), secrets.Outage, option, dir)

			must.NoError(t, os.Mkdir(dir, 0o700))
			wantKind(t, readOne(t, v), secrets.Outage, option, dir)
			write(t, file, []byte("not yet whole"))
			wantKind(t, readOne(t, v), secrets.Outage, option, "no certificate in")
			write(t, file, old.pem)
			must.NoError(t, readOne(t, v))

			_, _, pair = renewed.issue(t, "server")
			server.pair.Store(&pair)
			server.CloseClientConnections()
			wantKind(t, readOne(t, v), secrets.Outage, "certificate")
			write(t, file, renewed.pem)
			must.NoError(t, readOne(t, v))

			must.NoError(t, os.Remove(file))
			wantKind(t, readOne(t, v), secrets.Outage, option)
		})
	}
}

func TestTLSClientCertificateRotates(t *testing.T) {
	ca := newAuthority(t)
	_, _, pair := ca.issue(t, "server")
	server := startTLS(t, pair, ca)
	dir := t.TempDir()
	cfg := Config{
		Address: server.URL, CACert: filepath.Join(dir, "ca.pem"),
		ClientCert: filepath.Join(dir, "client.pem"), ClientKey: filepath.Join(dir, "client.key"),
	}
	write(t, cfg.CACert, ca.pem)
	cert, key, _ := ca.issue(t, "first")
	write(t, cfg.ClientCert, cert)
	v := newVault(t, cfg)
	wantKind(t, readOne(t, v), secrets.Outage, "client_key", cfg.ClientKey)
	write(t, cfg.ClientKey, key)
	must.NoError(t, readOne(t, v))
	must.Eq(t, "first", server.client.Load().(string))

	// Half-way through a rotation the two do not match.
	cert, key, _ = ca.issue(t, "second")
	write(t, cfg.ClientCert, cert)
	wantKind(t, readOne(t, v), secrets.Outage, "client_cert")
	write(t, cfg.ClientKey, key)
	must.NoError(t, readOne(t, v))
	must.Eq(t, "second", server.client.Load().(string))
}

func TestTLSServerName(t *testing.T) {
	ca := newAuthority(t)
	_, _, pair := ca.issue(t, "server")
	server := startTLS(t, pair, nil)
	file := filepath.Join(t.TempDir(), "ca.pem")
	write(t, file, ca.pem)
	must.NoError(t, readOne(t, newVault(t, Config{Address: server.URL, CACert: file, TLSServerName: "vault.internal"})))
	wantKind(t, readOne(t, newVault(t, Config{Address: server.URL, CACert: file, TLSServerName: "vault.elsewhere"})), secrets.Outage, "vault.elsewhere")
	wantKind(t, readOne(t, newVault(t, Config{Address: server.URL})), secrets.Outage, "unknown authority")
	must.NoError(t, readOne(t, newVault(t, Config{Address: server.URL, TLSSkipVerify: true})))
}
