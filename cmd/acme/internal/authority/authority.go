// Package authority orders certificates from an ACME authority, with lego. Its errors say what repeating an
// order may do (renew.Failure), and when the authority wants to be asked again.
package authority

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-acme/lego/v5/acme"
	"github.com/go-acme/lego/v5/acme/api"
	"github.com/go-acme/lego/v5/certcrypto"
	"github.com/go-acme/lego/v5/certificate"
	"github.com/go-acme/lego/v5/lego"
	"github.com/go-acme/lego/v5/registration"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/challenge"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/renew"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/store"
)

// Authority is an ACME server, and the account there.
type Authority struct {
	conf      *config.Account
	store     *store.Store
	solvers   *challenge.Solvers
	transport *http.Transport

	mu      sync.Mutex     // one registration at a time
	account *store.Account // nil until it is registered
}

// New is the authority of a configuration. It asks it nothing.
func New(conf *config.Account, s *store.Store, solvers *challenge.Solvers) *Authority {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	transport.ResponseHeaderTimeout = 30 * time.Second
	transport.TLSClientConfig = &tls.Config{RootCAs: conf.Roots}
	return &Authority{conf: conf, store: s, solvers: solvers, transport: transport}
}

// Close closes the connections that are kept.
func (a *Authority) Close() { a.transport.CloseIdleConnections() }

// Order gets a new certificate. If it replaces one that the authority gave renewal information for, the
// order names it: the authority counts such an order less.
func (a *Authority) Order(ctx context.Context, cert *config.Certificate, replaces *x509.Certificate) (*store.Certificate, error) {
	client, notes, err := a.client(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.solvers.Install(cert.Challenge, client.Challenge); err != nil {
		return nil, NewError(renew.Misconfigured, 0, err)
	}
	keyType, err := certcrypto.ToKeyType(cert.KeyType)
	if err != nil {
		return nil, NewError(renew.Misconfigured, 0, err)
	}
	request := certificate.ObtainRequest{Domains: cert.Domains, KeyType: keyType, Profile: cert.Profile, Bundle: true}
	if replaces != nil {
		if request.ReplacesCertID, err = api.MakeARICertID(replaces); err != nil {
			return nil, fmt.Errorf("renewal information's id: %w", err)
		}
	}
	resource, err := client.Certificate.Obtain(ctx, request)
	if err != nil {
		return nil, a.failed(err, notes)
	}
	got, err := store.NewCertificate(resource.Certificate, resource.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("the authority's certificate: %w", err)
	}
	return got, nil
}

// Advice is when the authority wants a certificate to be renewed.
type Advice struct {
	Window     renew.Window
	RetryAfter time.Duration // when it wants to be asked again, 0 if it did not say
}

// ErrNoAdvice is the error of an authority that gives no renewal information.
var ErrNoAdvice = errors.New("the authority gives no renewal information")

// Advice asks for a certificate's renewal information.
func (a *Authority) Advice(ctx context.Context, leaf *x509.Certificate) (Advice, error) {
	client, notes, err := a.client(ctx)
	if err != nil {
		return Advice{}, err
	}
	info, err := client.Certificate.GetRenewalInfo(ctx, leaf)
	if errors.Is(err, api.ErrNoARI) {
		return Advice{}, ErrNoAdvice
	}
	if err != nil {
		return Advice{}, a.failed(err, notes)
	}
	return Advice{
		Window:     renew.Window{Start: info.SuggestedWindow.Start, End: info.SuggestedWindow.End},
		RetryAfter: info.RetryAfter,
	}, nil
}

// client is a client with the registered account. Each order has its own, since the challenge that it
// solves is the client's.
func (a *Authority) client(ctx context.Context) (*lego.Client, *notes, error) {
	account, err := a.registered(ctx)
	if err != nil {
		return nil, nil, err
	}
	return a.clientOf(ctx, account)
}

func (a *Authority) clientOf(ctx context.Context, account *store.Account) (*lego.Client, *notes, error) {
	key, err := certcrypto.ParsePEMPrivateKey(account.Key)
	if err != nil {
		return nil, nil, &Error{Failure: renew.Misconfigured, err: errors.New("the account's private_key in Vault is not a key in PEM")}
	}
	noted := &notes{next: a.transport, ctx: ctx}
	conf := lego.NewConfig(&user{email: a.conf.Email, url: account.URL, key: key})
	conf.CADirURL = a.conf.Directory
	conf.UserAgent = "nomad-acme-issuer"
	conf.HTTPClient = &http.Client{Timeout: time.Minute, Transport: noted}
	conf.Certificate.Timeout = 90 * time.Second
	client, err := lego.NewClient(conf)
	if err != nil {
		return nil, nil, classify(err, noted)
	}
	return client, noted, nil
}

// registered is the account, registered if it is not yet. Its key is in Vault before the authority knows it.
func (a *Authority) registered(ctx context.Context) (*store.Account, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.account != nil {
		return a.account, nil
	}
	account, err := a.store.Account(ctx, a.conf.Directory, newAccountKey)
	if err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}
	if account.URL == "" || account.Email != a.conf.Email {
		if err := a.register(ctx, account); err != nil {
			return nil, err
		}
	}
	a.account = account
	return account, nil
}

func (a *Authority) register(ctx context.Context, account *store.Account) error {
	client, noted, err := a.clientOf(ctx, account)
	if err != nil {
		return err
	}
	var resource *acme.ExtendedAccount
	switch b := a.conf.Binding; {
	case account.URL != "":
		resource, err = client.Registration.UpdateRegistration(ctx, registration.RegisterOptions{TermsOfServiceAgreed: true})
	case b != nil:
		resource, err = client.Registration.RegisterWithExternalAccountBinding(ctx,
			registration.RegisterEABOptions{TermsOfServiceAgreed: true, Kid: b.KeyID, HmacEncoded: b.HMACKey})
	default:
		resource, err = client.Registration.Register(ctx, registration.RegisterOptions{TermsOfServiceAgreed: true})
	}
	if err != nil {
		err = classify(fmt.Errorf("register the account: %w", err), noted)
		if isUnknownAccount(err) { // as a test authority does that was started anew
			account.URL = ""
			return errors.Join(err, a.store.PutAccount(ctx, a.conf.Directory, account))
		}
		return err
	}
	account.URL, account.Email = resource.Location, a.conf.Email
	if err := a.store.PutAccount(ctx, a.conf.Directory, account); err != nil {
		return fmt.Errorf("account: %w", err)
	}
	return nil
}

// failed classifies an error. An account that the authority does not know is registered again next time.
func (a *Authority) failed(err error, noted *notes) error {
	if isUnknownAccount(err) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.account != nil {
			forgotten := *a.account
			forgotten.URL = ""
			if putErr := a.store.PutAccount(noted.ctx, a.conf.Directory, &forgotten); putErr != nil {
				return errors.Join(classify(err, noted), putErr)
			}
			a.account = nil
		}
		return &Error{Failure: renew.Unavailable, err: fmt.Errorf("the account is registered again: %w", err)}
	}
	return classify(err, noted)
}

// newAccountKey makes the account's key.
func newAccountKey() (store.PrivateKey, error) {
	key, err := certcrypto.GeneratePrivateKey(certcrypto.EC256)
	if err != nil {
		return nil, err
	}
	return certcrypto.PEMEncode(key), nil
}

// user is the account as lego wants it.
type user struct {
	email, url string
	key        crypto.Signer
}

func (u *user) GetEmail() string             { return u.email }
func (u *user) GetPrivateKey() crypto.Signer { return u.key }

func (u *user) GetRegistration() *acme.ExtendedAccount {
	if u.url == "" {
		return nil
	}
	return &acme.ExtendedAccount{Location: u.url}
}
