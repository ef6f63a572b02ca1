// Package vault reads and writes the issuer's KV v2 secrets with the job's own token.
//
// The token comes from Nomad: from a file that Nomad writes for the job's vault block and replaces when it
// must, or by a login with the JWT that it writes for an identity block. Files are read anew when they are
// needed, so that a replaced one is followed.
package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// Options say where the server is and whose token to use. Empty fields come from the environment, as with
// the Vault CLI.
type Options struct {
	Address   string
	Namespace string
	CACert    string
	TokenFile string
	JWT       *JWT
}

// JWT is a login with a workload identity. File is its, and it is read at each login.
type JWT struct {
	Path string // of the auth method
	Role string // empty is the method's default
	File string
}

// DefaultJWTPath is where Nomad's documentation puts the auth method.
const DefaultJWTPath = "jwt-nomad"

// Session is the server, and a token for it that is kept valid.
type Session struct {
	opts   Options
	client *api.Client // without a token: each request takes the one that is current
	now    func() time.Time

	mu      sync.Mutex
	token   string    // of the last login
	renewAt time.Time // when another login is due
}

// requestTimeout bounds one request to the server.
const requestTimeout = 30 * time.Second

// NewSession makes a session. It asks the server nothing.
func NewSession(opts Options) (*Session, error) {
	conf := api.DefaultConfig()
	if conf.Error != nil {
		return nil, fmt.Errorf("client for Vault: %w", conf.Error)
	}
	conf.Timeout = requestTimeout
	conf.MaxRetries = 2
	if opts.Address != "" {
		conf.Address = opts.Address
	}
	if opts.CACert != "" {
		if err := conf.ConfigureTLS(&api.TLSConfig{CACert: opts.CACert}); err != nil {
			return nil, fmt.Errorf("ca_cert of vault: %w", err)
		}
	}
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("client for Vault: %w", err)
	}
	if opts.Namespace != "" {
		client.SetNamespace(opts.Namespace)
	}
	if opts.TokenFile == "" && opts.JWT == nil && client.Token() == "" {
		return nil, errors.New("no Vault token: give the job an identity block and the configuration vault { jwt { file = … } }, or the job a vault block and vault { token_file = … }, or set VAULT_TOKEN")
	}
	return &Session{opts: opts, client: client, now: time.Now}, nil
}

// do runs a request with a current token. One that is refused for its token is tried once more with a new
// one: Nomad may have replaced it, or the server forgotten it.
func (s *Session) do(ctx context.Context, request func(*api.Client) error) error {
	for attempt := 0; ; attempt++ {
		token, err := s.current(ctx)
		if err != nil {
			return err
		}
		client, err := s.withToken(token)
		if err != nil {
			return err
		}
		err = request(client)
		if attempt > 0 || !isStatus(err, http.StatusForbidden) || !s.replaced(token) {
			return err
		}
	}
}

func (s *Session) withToken(token string) (*api.Client, error) {
	client, err := s.client.CloneWithHeaders()
	if err != nil {
		return nil, fmt.Errorf("client for Vault: %w", err)
	}
	client.SetToken(token)
	return client, nil
}

// current is the token to use now.
func (s *Session) current(ctx context.Context) (string, error) {
	switch {
	case s.opts.JWT != nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.token == "" || !s.now().Before(s.renewAt) {
			return s.token, s.login(ctx)
		}
		return s.token, nil
	case s.opts.TokenFile != "":
		token, err := readToken(s.opts.TokenFile)
		if err != nil {
			return "", fmt.Errorf("token of the job's vault block: %w", err)
		}
		return token, nil
	default:
		return s.client.Token(), nil
	}
}

// replaced reports whether there may be another token than this one.
func (s *Session) replaced(token string) bool {
	switch {
	case s.opts.JWT != nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.token == token {
			s.token = ""
		}
		return true
	case s.opts.TokenFile != "":
		now, err := readToken(s.opts.TokenFile)
		return err == nil && now != token
	}
	return false
}

// login gets a token. It is replaced at two thirds of its life, and the old one is left to its end.
func (s *Session) login(ctx context.Context) error {
	jwt, err := readToken(s.opts.JWT.File)
	if err != nil {
		return fmt.Errorf("identity of the task: %w", err)
	}
	client, err := s.withToken("")
	if err != nil {
		return err
	}
	path := s.opts.JWT.Path
	if path == "" {
		path = DefaultJWTPath
	}
	body := map[string]any{"jwt": jwt}
	if s.opts.JWT.Role != "" {
		body["role"] = s.opts.JWT.Role
	}
	secret, err := client.Logical().WriteWithContext(ctx, "auth/"+path+"/login", body)
	if err != nil {
		return fmt.Errorf("log in at auth/%s as role %q: %w", path, s.opts.JWT.Role, err)
	}
	if secret == nil || secret.Auth == nil {
		return fmt.Errorf("log in at auth/%s: the server gave no token", path)
	}
	s.token = secret.Auth.ClientToken
	s.renewAt = loginDue(s.now(), time.Duration(secret.Auth.LeaseDuration)*time.Second)
	return nil
}

// loginDue is when a token that lives for ttl is to be replaced. One without an end is used for a day.
func loginDue(now time.Time, ttl time.Duration) time.Time {
	if ttl <= 0 {
		ttl = 36 * time.Hour
	}
	return now.Add(ttl * 2 / 3)
}

// Close revokes the token of a login. The token of a vault block is Nomad's.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.JWT == nil || s.token == "" {
		return nil
	}
	client, err := s.withToken(s.token)
	if err != nil {
		return err
	}
	s.token = ""
	return client.Auth().Token().RevokeSelfWithContext(ctx, "")
}

func readToken(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(content))
	if token == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return token, nil
}

func isStatus(err error, status int) bool {
	var response *api.ResponseError
	return errors.As(err, &response) && response.StatusCode == status
}
