package taskconfig

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

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
		if !c.reported(steps) { // what is of the wrong type is known to be wrong
			c.unknown = append(c.unknown, steps)
		}
		key := ""
		if len(steps) > 0 {
			key = steps[len(steps)-1]
		}
		if !v.Type().Equals(cty.String) || slices.Contains(optional, key) {
			return cty.NullVal(v.Type()), nil
		}
		text := c.standInFor(steps)
		c.standIn[placeKey(steps)] = text
		return cty.StringVal(text), nil
	})
}

// standInFor is what stands in the place of a text. What is known of it stays where that alone may be wrong.
func (c *Config) standInFor(steps []string) string {
	switch {
	case steps[len(steps)-1] == "change_signal":
		return "SIGHUP"
	case steps[len(steps)-1] == "ip_addresses":
		return "127.0.0.1"
	case len(steps) == 3 && steps[0] == "secret" && steps[2] == "path":
		return c.partly(steps...)
	case slices.Equal(steps, []string{"namespace"}):
		return NotKnown + "_namespace" // no path begins with it
	case slices.Equal(steps, []string{"image"}):
		return c.image()
	case slices.Equal(steps, []string{"registry_auth", "server_address"}):
		if host, known := hostOf(c.partly(steps...)); known {
			return host
		}
		return "" // then there is nothing to compare the image's with
	}
	return NotKnown
}

func placeKey(steps []string) string { return strings.Join(steps, "\x00") }

// partly is a text of the config with what is known filled in, and NotKnown for each part that is not.
func (c *Config) partly(steps ...string) string {
	expr, diags := hclsyntax.ParseTemplate([]byte(c.Written(steps...)), "", hcl.InitialPos)
	if diags.HasErrors() {
		return NotKnown
	}
	parts := []hclsyntax.Expression{expr}
	if template, ok := expr.(*hclsyntax.TemplateExpr); ok {
		parts = template.Parts
	}
	var text strings.Builder
	for _, part := range parts {
		v, diags := part.Value(c.context)
		if v, err := convert.Convert(v, cty.String); err == nil && !diags.HasErrors() && v.IsKnown() && !v.IsNull() {
			text.WriteString(v.AsString())
		} else {
			text.WriteString(NotKnown)
		}
	}
	return text.String()
}

// image stands in the place of an image's name: one of the same registry, or, if that is not known, of the one that the
// credentials are for.
func (c *Config) image() string {
	host, slash, _ := strings.Cut(strings.TrimPrefix(c.partly("image"), "https://"), "/")
	if slash != "" && !strings.Contains(host, NotKnown) {
		return host + "/" + NotKnown
	}
	if host, known := hostOf(c.partly("registry_auth", "server_address") + "/"); known && host != "" {
		return host + "/" + NotKnown
	}
	return NotKnown
}

// hostOf is the host of a registry's address or URL, of which what follows may not be known; known: it is all there.
func hostOf(address string) (host string, known bool) {
	for _, scheme := range []string{"https://", "http://"} {
		address = strings.TrimPrefix(address, scheme)
	}
	host, _, found := strings.Cut(address, "/")
	return host, found && !strings.Contains(host, NotKnown)
}

// asWritten is a problem's text, with what the job has written in the place of a stand-in.
func (c *Config) asWritten(p secrets.Problem) string {
	places := [][]string{p.Place}
	if len(p.Place) > 2 && p.Place[0] == "secret" { // a csr block's problem may be the path
		places = append(places, []string{"secret", p.Place[1], "path"})
	}
	text := p.Text
	for _, steps := range places {
		if standIn, ok := c.standIn[placeKey(steps)]; ok {
			text = strings.Replace(text, strconv.Quote(standIn), strconv.Quote(c.Written(steps...)), 1)
		}
	}
	return text
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
		if c.Unknown("secret", name, "change_mode") || s.ChangeMode == "" && c.Unknown("change_mode") {
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
		if s.CSR != nil {
			c.fitCSR(name, s)
		}
	}
	if r := c.Ours.RegistryAuth; r != nil && c.Unknown("registry_auth", "secret") && len(c.Ours.Secrets) > 0 {
		r.Secret = slices.Min(slices.Collect(maps.Keys(c.Ours.Secrets)))
	}
}

// fitCSR makes those of a secret with a csr block one that can be signed.
func (c *Config) fitCSR(name string, s *secrets.SecretConfig) {
	if c.Unknown("secret", name, "csr", "key_type") {
		s.CSR.KeyBits = 0
	}
	if c.Unknown("secret", name, "csr", "dns_names") && len(s.CSR.DNSNames) == 0 || c.Unknown("secret", name, "csr", "ip_addresses") && len(s.CSR.IPAddresses) == 0 {
		s.CSR.DNSNames = []string{NotKnown} // a list of which nothing is known
	}
	if !c.Unknown("secret", name, "path") {
		return
	}
	// What a part that is not known stands for may have slashes: only if the last two elements are known can it be said that
	// the path is not one that signs.
	segments := secrets.Segments(s.Path)
	notKnown := func(segment string) bool { return strings.Contains(segment, NotKnown) }
	if !slices.ContainsFunc(segments[max(0, len(segments)-2):], notKnown) {
		return
	}
	known := segments[:slices.IndexFunc(segments, notKnown)]
	s.Path = path.Join(append(slices.Clone(known), NotKnown, "sign", NotKnown)...)
	c.standIn[placeKey([]string{"secret", name, "path"})] = s.Path
}
