package awsfake

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// session is who signs with the key of a session.
type session caller

var stsActions = map[string]func(*Server, caller, url.Values) (any, *failure){
	"GetCallerIdentity":  (*Server).getCallerIdentity,
	"AssumeRole":         (*Server).assumeRole,
	"GetFederationToken": (*Server).getFederationToken,
}

func (s *Server) getCallerIdentity(from caller, _ url.Values) (any, *failure) {
	return struct{ Arn, UserId, Account string }{from.arn, from.id, Account}, nil
}

func (s *Server) assumeRole(_ caller, in url.Values) (any, *failure) {
	name := in.Get("RoleSessionName")
	if bad := badName(name, 2, 64); bad != nil {
		return nil, bad
	}
	role, ok := strings.CutPrefix(in.Get("RoleArn"), arn("iam", "role/"))
	if !ok {
		return nil, fail(http.StatusBadRequest, "ValidationError", "%s is invalid", in.Get("RoleArn"))
	}
	given, failed := s.newSession(arn("sts", "assumed-role/"+role+"/"+name), "AROA"+rand.Text()[:17]+":"+name, 12*time.Hour, in)
	if failed != nil {
		return nil, failed
	}
	type assumed struct{ AssumedRoleId, Arn string }
	return struct {
		Credentials     credentials
		AssumedRoleUser assumed
	}{given.credentials(), assumed{given.id, given.arn}}, nil
}

func (s *Server) getFederationToken(_ caller, in url.Values) (any, *failure) {
	name := in.Get("Name")
	if bad := badName(name, 2, 32); bad != nil {
		return nil, bad
	}
	given, failed := s.newSession(arn("sts", "federated-user/"+name), Account+":"+name, 36*time.Hour, in)
	if failed != nil {
		return nil, failed
	}
	type federated struct{ FederatedUserId, Arn string }
	return struct {
		Credentials   credentials
		FederatedUser federated
	}{given.credentials(), federated{given.id, given.arn}}, nil
}

// newSession makes a session that lasts for as long as was asked for, which is 15 minutes at least.
func (s *Server) newSession(arn, id string, most time.Duration, in url.Values) (session, *failure) {
	const least = 15 * time.Minute
	seconds, err := strconv.Atoi(in.Get("DurationSeconds"))
	d := time.Duration(seconds) * time.Second
	if err != nil || d < least || d > most {
		return session{}, fail(http.StatusBadRequest, "ValidationError",
			"Value '%s' at 'durationSeconds' failed to satisfy constraint: between %.0f and %.0f", in.Get("DurationSeconds"), least.Seconds(), most.Seconds())
	}
	if s.longest > 0 {
		d = min(d, s.longest)
	}
	given := session{key: newKey("ASIA"), arn: arn, id: id, ends: time.Now().Add(d)}
	given.key.Token = rand.Text() + rand.Text()
	s.sessions[given.key.ID] = given
	return given, nil
}

type credentials struct{ AccessKeyId, SecretAccessKey, SessionToken, Expiration string }

func (s session) credentials() credentials {
	return credentials{s.key.ID, s.key.Secret, s.key.Token, date(s.ends)}
}
