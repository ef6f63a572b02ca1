package awsfake

import (
	"cmp"
	"crypto/rand"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// user is one of IAM's.
type user struct {
	name, path, id string
	since          time.Time
	keys           map[string]string // id → secret
	policies       map[string]string // inline: name → document
	attached       map[string]bool   // managed policies, by ARN
}

func (u *user) arn() string { return arn("iam", "user"+u.path+u.name) }

// Users are the names of IAM's users but Root's.
func (s *Server) Users() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.users))
}

// AddUser makes a user, as an administrator does.
func (s *Server) AddUser(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newUser(name, "/")
}

func (s *Server) newUser(name, path string) *user {
	s.users[name] = &user{
		name: name, path: path, id: "AIDA" + rand.Text()[:17], since: time.Now(),
		keys: map[string]string{}, policies: map[string]string{}, attached: map[string]bool{},
	}
	return s.users[name]
}

var iamActions = map[string]func(*Server, caller, url.Values) (any, *failure){
	"CreateUser":               (*Server).createUser,
	"GetUser":                  ofUser(getUser),
	"PutUserPolicy":            ofUser(putUserPolicy),
	"AttachUserPolicy":         ofUser(attachUserPolicy),
	"CreateAccessKey":          ofUser(createAccessKey),
	"ListGroupsForUser":        ofUser(listGroupsForUser),
	"ListUserPolicies":         ofUser(listUserPolicies),
	"ListAttachedUserPolicies": ofUser(listAttachedUserPolicies),
	"ListAccessKeys":           ofUser(listAccessKeys),
	"DeleteAccessKey":          ofUser(deleteAccessKey),
	"DetachUserPolicy":         ofUser(detachUserPolicy),
	"DeleteUserPolicy":         ofUser(deleteUserPolicy),
	"DeleteUser":               (*Server).deleteUser,
}

// names of users and sessions; their length is another for each.
var nameForm = regexp.MustCompile(`^[\w+=,.@-]+$`)

func badName(name string, least, most int) *failure {
	if len(name) >= least && len(name) <= most && nameForm.MatchString(name) {
		return nil
	}
	return fail(http.StatusBadRequest, "ValidationError", "The specified value for a name is invalid: %q", name)
}

func (s *Server) createUser(_ caller, in url.Values) (any, *failure) {
	name := in.Get("UserName")
	if bad := badName(name, 1, 64); bad != nil {
		return nil, bad
	}
	if s.users[name] != nil {
		return nil, fail(http.StatusConflict, "EntityAlreadyExists", "User with name %s already exists.", name)
	}
	return getUser(s.newUser(name, cmp.Or(in.Get("Path"), "/")), nil)
}

func getUser(u *user, _ url.Values) (any, *failure) {
	type userElement struct{ Path, UserName, UserId, Arn, CreateDate string }
	return struct{ User userElement }{userElement{u.path, u.name, u.id, u.arn(), date(u.since)}}, nil
}

func (s *Server) deleteUser(_ caller, in url.Values) (any, *failure) {
	return ofUser(func(u *user, _ url.Values) (any, *failure) {
		if len(u.keys)+len(u.policies)+len(u.attached) > 0 {
			return nil, fail(http.StatusConflict, "DeleteConflict", "Cannot delete entity, must delete its keys and policies first.")
		}
		delete(s.users, u.name)
		return noResult{}, nil
	})(s, caller{}, in)
}

// ofUser makes an action of what is done to a user who must be there.
func ofUser(act func(u *user, in url.Values) (any, *failure)) func(*Server, caller, url.Values) (any, *failure) {
	return func(s *Server, _ caller, in url.Values) (any, *failure) {
		u := s.users[in.Get("UserName")]
		if u == nil {
			return nil, noSuch("user", in.Get("UserName"))
		}
		return act(u, in)
	}
}

func noSuch(what, name string) *failure {
	return fail(http.StatusNotFound, "NoSuchEntity", "The %s with name %s cannot be found.", what, name)
}

func putUserPolicy(u *user, in url.Values) (any, *failure) {
	u.policies[in.Get("PolicyName")] = in.Get("PolicyDocument")
	return noResult{}, nil
}

func attachUserPolicy(u *user, in url.Values) (any, *failure) {
	u.attached[in.Get("PolicyArn")] = true
	return noResult{}, nil
}

type accessKey struct {
	UserName, AccessKeyId, Status, CreateDate string

	SecretAccessKey string `xml:",omitempty"` // told once, when it is made
}

func createAccessKey(u *user, _ url.Values) (any, *failure) {
	if len(u.keys) == 2 {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2")
	}
	key := newKey("AKIA")
	u.keys[key.ID] = key.Secret
	return struct{ AccessKey accessKey }{accessKey{u.name, key.ID, "Active", date(time.Now()), key.Secret}}, nil
}

func listAccessKeys(u *user, _ url.Values) (any, *failure) {
	var list members[accessKey]
	for id := range u.keys {
		list.Member = append(list.Member, accessKey{UserName: u.name, AccessKeyId: id, Status: "Active", CreateDate: date(u.since)})
	}
	return struct {
		AccessKeyMetadata members[accessKey]
		IsTruncated       bool
	}{list, false}, nil
}

func listGroupsForUser(*user, url.Values) (any, *failure) {
	return struct {
		Groups      members[string]
		IsTruncated bool
	}{}, nil
}

func listUserPolicies(u *user, _ url.Values) (any, *failure) {
	return struct {
		PolicyNames members[string]
		IsTruncated bool
	}{members[string]{slices.Collect(maps.Keys(u.policies))}, false}, nil
}

func listAttachedUserPolicies(u *user, _ url.Values) (any, *failure) {
	type policy struct{ PolicyName, PolicyArn string }
	var list members[policy]
	for arn := range u.attached {
		list.Member = append(list.Member, policy{arn[strings.LastIndexByte(arn, '/')+1:], arn})
	}
	return struct {
		AttachedPolicies members[policy]
		IsTruncated      bool
	}{list, false}, nil
}

func deleteAccessKey(u *user, in url.Values) (any, *failure) {
	return drop(u.keys, "Access Key", in.Get("AccessKeyId"))
}

func detachUserPolicy(u *user, in url.Values) (any, *failure) {
	return drop(u.attached, "policy", in.Get("PolicyArn"))
}

func deleteUserPolicy(u *user, in url.Values) (any, *failure) {
	return drop(u.policies, "user policy", in.Get("PolicyName"))
}

func drop[V any](from map[string]V, what, name string) (any, *failure) {
	if _, ok := from[name]; !ok {
		return nil, noSuch(what, name)
	}
	delete(from, name)
	return noResult{}, nil
}
