package secrets

import "fmt"

// RegistryAuth is where the credentials are that a task's image is pulled with.
type RegistryAuth struct {
	Secret             string // of the task
	Username, Password string // field paths
	ServerAddress      string // the only registry that they may be sent to; empty: whichever the image is of
}

// RegistryLogin are the credentials that a task's image is pulled with.
type RegistryLogin struct {
	Secret             string // that they are of
	Username, Password Value
}

// RegistryLogin reads the credentials for the pull from the answers. There are none (nil) where the job asks for none,
// and where their secret is not there and need not be.
func (s *Spec) RegistryLogin(answers map[string]Answer) (*RegistryLogin, error) {
	r := s.RegistryAuth
	if r == nil {
		return nil, nil
	}
	a, ok := answers[r.Secret]
	if !ok {
		return nil, nil // a required one is there by now
	}
	login := &RegistryLogin{Secret: r.Secret}
	for _, f := range []struct {
		key, path string
		into      *Value
	}{{"username", r.Username, &login.Username}, {"password", r.Password, &login.Password}} {
		v, err := fieldOf(a.Fields, f.path)
		if err == nil && v.Len() == 0 {
			err = Errorf(NotFound, "field %q is empty", f.path)
		}
		if err != nil {
			return nil, fmt.Errorf("registry_auth: %s: secret %q: %w", f.key, r.Secret, err)
		}
		*f.into = v
	}
	return login, nil
}
