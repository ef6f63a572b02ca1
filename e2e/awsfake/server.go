// Package awsfake answers those calls of AWS's IAM and STS that Vault's aws engine makes: no real AWS can
// be had where the tests run. On the wire it is as AWS documents it: forms come in (the Query protocol),
// signed with Signature Version 4, which is checked, and XML goes out, errors too. It keeps the users, keys
// and sessions that it gives out, and knows each later by its signature.
package awsfake

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Account is the number of the one account that there is.
const Account = "123456789012"

// Server is that AWS. What it holds outlives Stop.
type Server struct {
	URL  string // the endpoint of both IAM and STS
	Root Key    // of a user who may do everything

	addr string
	http *http.Server

	mu       sync.Mutex // guards what follows
	users    map[string]*user
	sessions map[string]session // by the id of their key
	denied   map[string]bool    // actions
	longest  time.Duration      // of a session; 0: what was asked for
	calls    []Call
}

// Key is what a caller signs with.
type Key struct {
	ID, Secret string
	Token      string // of a session; a user's key has none
}

// Call is one request as it was answered.
type Call struct {
	Action string
	In     url.Values
	Code   string // of the error; empty: there was none
	At     time.Time
}

// New starts a server at addr, host:port.
func New(addr string) (*Server, error) {
	s := &Server{
		URL: "http://" + addr, Root: newKey("AKIA"), addr: addr,
		users: map[string]*user{}, sessions: map[string]session{}, denied: map[string]bool{},
	}
	return s, s.Start()
}

// newKey makes a key: AKIA is how those of users begin, ASIA those of sessions.
func newKey(prefix string) Key {
	return Key{ID: prefix + rand.Text()[:16], Secret: (rand.Text() + rand.Text())[:40]}
}

// Start undoes Stop.
func (s *Server) Start() error {
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	s.http = &http.Server{Handler: s}
	go func(srv *http.Server) { _ = srv.Serve(l) }(s.http)
	return nil
}

// Stop has connections refused.
func (s *Server) Stop() { _ = s.http.Close() }

// Deny has an action refused, as a policy of the caller's that does not allow it would.
func (s *Server) Deny(action string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied[action] = true
}

// SessionsLast has sessions end sooner than they were asked for. The real AWS gives none of less than 15
// minutes, which no test can wait for.
func (s *Server) SessionsLast(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest = d
}

// Calls are the requests for these actions, or all.
func (s *Server) Calls(actions ...string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.calls), func(c Call) bool {
		return len(actions) > 0 && !slices.Contains(actions, c.Action)
	})
}

// caller is who signed a request.
type caller struct {
	key  Key
	arn  string
	id   string
	ends time.Time // of a session
}

// failure is an error as AWS has them.
type failure struct {
	status        int
	code, message string
}

func fail(status int, code, format string, args ...any) *failure {
	return &failure{status, code, fmt.Sprintf(format, args...)}
}

// api is one of the services.
type api struct {
	name, namespace string
	actions         map[string]func(s *Server, from caller, in url.Values) (result any, _ *failure)
}

// apis are the services by their version, which each request names.
var apis = map[string]api{
	"2010-05-08": {"iam", "https://iam.amazonaws.com/doc/2010-05-08/", iamActions},
	"2011-06-15": {"sts", "https://sts.amazonaws.com/doc/2011-06-15/", stsActions},
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller has gone
	}
	in, err := url.ParseQuery(string(body))
	service, known := apis[in.Get("Version")]
	if err != nil || !known || r.Method != http.MethodPost || r.URL.Path != "/" {
		http.Error(w, "only the Query protocol of IAM and STS is spoken here", http.StatusNotFound)
		return
	}
	call := Call{Action: in.Get("Action"), In: in, At: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	result, failed := s.answer(service, call, r, body)
	if failed != nil {
		call.Code = failed.code
	}
	s.calls = append(s.calls, call)
	write(w, service.namespace, call.Action, result, failed)
}

func (s *Server) answer(service api, call Call, r *http.Request, body []byte) (any, *failure) {
	from, failed := s.authenticate(r, body)
	if failed != nil {
		return nil, failed
	}
	act := service.actions[call.Action]
	if act == nil {
		return nil, fail(http.StatusBadRequest, "InvalidAction", "Could not find operation %s", call.Action)
	}
	// Anybody may ask who he is; the rest is Root's alone: what policies allow others is not looked at.
	if call.Action != "GetCallerIdentity" && (s.denied[call.Action] || from.key != s.Root) {
		return nil, fail(http.StatusForbidden, "AccessDenied",
			"User: %s is not authorized to perform: %s:%s because no identity-based policy allows the %[2]s:%[3]s action", from.arn, service.name, call.Action)
	}
	return act(s, from, call.In)
}

// authenticate finds out who signed a request.
func (s *Server) authenticate(r *http.Request, body []byte) (caller, *failure) {
	by, ok := parseAuthorization(r.Header.Get("Authorization"))
	if !ok {
		return caller{}, fail(http.StatusForbidden, "MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	from, ok := s.callerOf(by.keyID)
	switch {
	case !ok || from.key.Token != r.Header.Get("X-Amz-Security-Token"):
		return caller{}, fail(http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request is invalid.")
	case by.signature != signature(r, body, by.scope, by.headers, from.key.Secret):
		return caller{}, fail(http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
	case !from.ends.IsZero() && time.Now().After(from.ends):
		return caller{}, fail(http.StatusForbidden, "ExpiredToken", "The security token included in the request is expired")
	}
	return from, nil
}

func (s *Server) callerOf(keyID string) (caller, bool) {
	if keyID == s.Root.ID {
		return caller{key: s.Root, arn: arn("iam", "user/vault"), id: "AIDAVAULT"}, true
	}
	if session, ok := s.sessions[keyID]; ok {
		return caller(session), true
	}
	for _, u := range s.users {
		if secret, ok := u.keys[keyID]; ok {
			return caller{key: Key{ID: keyID, Secret: secret}, arn: u.arn(), id: u.id}, true
		}
	}
	return caller{}, false
}

func arn(service, resource string) string {
	return "arn:aws:" + service + "::" + Account + ":" + resource
}
