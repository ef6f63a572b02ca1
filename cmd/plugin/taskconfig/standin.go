package taskconfig

import (
	"path"
	"slices"

	"github.com/zclconf/go-cty/cty"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// NotKnown stands in the place of a text that is not known here.
const NotKnown = "not_known_here"

// optional are keys of ours that take only some texts, and that may be left out: so they are, where their value is not known.
var optional = []string{
	"change_mode", "splay", "stagger", "live_stale", "stop_timeout", "pre_stop_wait", "stop_signal", "pre_stop_signal",
	"perms", "decode", "provider", "from_policies", "timeout", "key_type",
}

// standIns replaces what is not known by what fits, and notes where that is.
func (c *Config) standIns(v cty.Value) (cty.Value, error) {
	return cty.Transform(v, func(at cty.Path, v cty.Value) (cty.Value, error) {
		if v.IsKnown() {
			return v, nil
		}
		steps := stepsOf(at)
		if !c.told(steps) { // what is of the wrong type is known to be wrong
			c.unknown = append(c.unknown, steps)
		}
		key := ""
		if len(steps) > 0 {
			key = steps[len(steps)-1]
		}
		switch {
		case !v.Type().Equals(cty.String), slices.Contains(optional, key):
			return cty.NullVal(v.Type()), nil
		case key == "change_signal":
			return cty.StringVal("SIGHUP"), nil
		case key == "ip_addresses":
			return cty.StringVal("127.0.0.1"), nil
		}
		return cty.StringVal(NotKnown), nil
	})
}

// stepsOf are a path's keys, without the places in lists.
func stepsOf(at cty.Path) (steps []string) {
	for _, step := range at {
		switch s := step.(type) {
		case cty.GetAttrStep:
			steps = append(steps, s.Name)
		case cty.IndexStep:
			if s.Key.Type().Equals(cty.String) {
				steps = append(steps, s.Key.AsString())
			}
		}
	}
	return steps
}

// fit makes stand-ins fit what is beside them.
func (c *Config) fit(inContainer bool) {
	for name, s := range c.Ours.Secrets {
		if c.Unknown("secret", name, "change_mode") {
			switch {
			case s.ChangeSignal != "":
				s.ChangeMode = secrets.SendSignal.String()
			case s.ChangeScript != nil:
				s.ChangeMode = secrets.RunScript.String()
			}
		}
		if c.Unknown("secret", name, "live_dir") && s.LiveDir == "" || s.LiveDir == NotKnown {
			s.LiveDir = path.Join(NotKnown, name)
			if inContainer {
				s.LiveDir = "/" + s.LiveDir
			}
		}
		if s.CSR != nil && c.Unknown("secret", name, "csr", "key_type") {
			s.CSR.KeyBits = 0
		}
	}
}
