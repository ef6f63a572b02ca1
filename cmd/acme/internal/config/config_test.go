package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// good is a configuration without a mistake. Tests change a part of it.
const good = `account {
  directory    = "https://ca.example/dir"
  email        = "ops@example.com"
  accept_terms = true
}

storage {
  path = "secret/acme"
}

challenge "dns-01" "zone" {
  provider    = "exec"
  environment = { EXEC_PATH = "/bin/true" }
}

challenge "http-01" "web" {
  address = ":8080"
}

certificate "one" {
  domains   = ["Example.com", "*.example.com", "bücher.example"]
  challenge = "zone"
  path      = "secret/tls/one"
}

certificate "two" {
  domains   = ["two.example.com"]
  challenge = "web"
  path      = "/secret/tls/two/"
  key_type  = "rsa2048"
  profile   = "shortlived"
}
`

func TestGood(t *testing.T) {
	c, err := Parse("acme.hcl", []byte(good))
	require.NoError(t, err)
	require.Equal(t, []string{"example.com", "*.example.com", "xn--bcher-kva.example"}, c.Certificates[0].Domains)
	require.Equal(t, "ec256", c.Certificates[0].KeyType)
	require.Equal(t, DNS01, c.Certificates[0].Challenge.Type)
	require.Equal(t, HTTP01, c.Certificates[1].Challenge.Type)
	require.True(t, c.Challenges[0].ChecksPropagation())
}

// The error for each mistake has its line and column, and what would be right.
func TestMistakes(t *testing.T) {
	for name, test := range map[string]struct{ old, new, want string }{
		"syntax":                    {`path = "secret/acme"`, `path = `, "acme.hcl:8,10: Invalid expression"},
		"unknown key":               {`email  `, `mail  `, `acme.hcl:3,3: Unsupported argument: An argument named "mail" is not expected here`},
		"missing key":               {`  path = "secret/acme"` + "\n", "", `acme.hcl:7,9: Missing required argument: The argument "path" is required`},
		"wrong type":                {`["two.example.com"]`, `"two.example.com"`, "acme.hcl:27,16: Unsuitable value type: Unsuitable value: list of string required"},
		"unset variable":            {`"ops@example.com"`, `env("ACME_TEST_UNSET")`, "acme.hcl:3,23: Invalid function argument: Invalid value for \"name\" parameter: the environment variable ACME_TEST_UNSET is not set"},
		"http":                      {"https://ca", "http://ca", "acme.hcl:2,3: directory is not an https URL: use the authority's ACME directory"},
		"terms":                     {"accept_terms = true", "accept_terms = false", "acme.hcl:4,3: the authority's terms of service are not accepted: read them, and set accept_terms = true"},
		"unknown provider":          {`"exec"`, `"httprek"`, `acme.hcl:12,3: unknown provider "httprek": none of lego's is named so; there are http`},
		"not built in":              {`"exec"`, `"azuredns"`, `acme.hcl:12,3: provider "azuredns" is not built in: its dependency github.com/Azure/`},
		"missing variable":          {`{ EXEC_PATH = "/bin/true" }`, `{}`, `acme.hcl:12,3: provider "exec" cannot be used: exec: some credentials information are missing: EXEC_PATH: set its variables in the task's environment, or here by environment = { … }`},
		"no provider":               {`  provider    = "exec"` + "\n", "", "acme.hcl:11,1: no provider: dns-01 needs one of lego's"},
		"wildcard by http":          {`["two.example.com"]`, `["*.two.example.com"]`, `acme.hcl:27,3: wildcard "*.two.example.com" by http-01: authorities give wildcards by dns-01 only`},
		"unknown challenge":         {`"http-01" "web"`, `"http-1" "web"`, `acme.hcl:16,11: unknown challenge "http-1": use dns-01, http-01 or tls-alpn-01`},
		"no such challenge":         {`challenge = "web"`, `challenge = "wep"`, `acme.hcl:28,3: no challenge is named "wep": add challenge "dns-01" "wep" { … }; there are "zone", "web"`},
		"two challenges":            {`"http-01" "web"`, `"http-01" "zone"`, `acme.hcl:16,21: two challenges named "zone": the other is at acme.hcl:11: rename one`},
		"address":                   {`":8080"`, `"8080"`, `acme.hcl:17,3: bad address "8080": use HOST:PORT or :PORT`},
		"no address":                {`  address = ":8080"` + "\n", "", "acme.hcl:16,1: no address: http-01 needs a port of the job's"},
		"provider for http":         {`address = ":8080"`, "address = \":8080\"\n  provider = \"exec\"", "acme.hcl:18,3: provider is for dns-01"},
		"one path":                  {`"/secret/tls/two/"`, `"secret/tls/one"`, `acme.hcl:29,3: certificates "one" and "two" have one path: each would replace the other's; that one's is at acme.hcl:23`},
		"path in storage":           {`"/secret/tls/two/"`, `"secret/acme/locks/x"`, "acme.hcl:29,3: path is below the storage's"},
		"path of the API":           {`"/secret/tls/two/"`, `"secret/data/tls/two"`, `acme.hcl:29,3: path "secret/data/tls/two" is one of the API's: leave out "data", as at the CLI`},
		"bad path":                  {`"/secret/tls/two/"`, `"secret/../x"`, `acme.hcl:29,3: bad path "secret/../x"`},
		"two certificates":          {`"two" {`, `"one" {`, `acme.hcl:26,13: two certificates named "one": the other is at acme.hcl:20`},
		"name":                      {`"two" {`, `"t/wo" {`, `acme.hcl:26,13: bad name "t/wo"`},
		"key type":                  {`"rsa2048"`, `"rsa1024"`, `acme.hcl:30,3: unknown key_type "rsa1024": use ec256`},
		"domain":                    {`["two.example.com"]`, `["two example.com"]`, `acme.hcl:27,3: bad domain "two example.com"`},
		"wildcard within":           {`["two.example.com"]`, `["a.*.example.com"]`, `acme.hcl:27,3: bad domain "a.*.example.com"`},
		"no domains":                {`["two.example.com"]`, `[]`, "acme.hcl:27,3: 0 domains: a certificate has 1 to 100"},
		"a domain twice":            {`["two.example.com"]`, `["two.example.com", "TWO.example.com"]`, `acme.hcl:27,3: domain "TWO.example.com" twice`},
		"level":                     {"storage {", "log {\n  level = \"loud\"\n}\nstorage {", `acme.hcl:8,3: unknown level "loud"`},
		"two tokens":                {"storage {", "vault {\n  token_file = \"a\"\n  jwt {\n    file = \"b\"\n  }\n}\nstorage {", "acme.hcl:7,1: both token_file and jwt"},
		"ca_cert that is not there": {"accept_terms = true", "accept_terms = true\n  ca_cert = \"nowhere.pem\"", "acme.hcl:5,3: ca_cert cannot be read: open nowhere.pem: no such file or directory"},
		"ca_cert that is none":      {"accept_terms = true", "accept_terms = true\n  ca_cert = \"config_test.go\"", "acme.hcl:5,3: ca_cert has no certificate: config_test.go must be in PEM"},
		"resolver":                  {"storage {", "dns_resolvers = [\"10.0.0.1\", \"here\"]\nstorage {", `acme.hcl:7,1: bad address "here"`},
		"no storage":                {"storage {\n  path = \"secret/acme\"\n}\n", "", "no storage: add storage"},
		"incomplete binding":        {"accept_terms = true", "accept_terms = true\n  external_account_binding {\n    key_id = \"a\"\n    hmac_key = \"\"\n  }", "acme.hcl:7,5: external_account_binding is incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, good, test.old)
			_, err := Parse("acme.hcl", []byte(strings.Replace(good, test.old, test.new, 1)))
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "must be known")
		})
	}
}

// One run reports all mistakes.
func TestAllMistakes(t *testing.T) {
	_, err := Parse("acme.hcl", []byte(strings.NewReplacer("= true\n}\n\nstorage", "= false\n}\n\nstorage", `":8080"`, `"x"`, "rsa2048", "x").Replace(good)))
	require.Len(t, strings.Split(err.Error(), "\n"), 3)
}

func TestValuesFromOutside(t *testing.T) {
	t.Setenv("ACME_TEST_EMAIL", "outside@example.com")
	file := filepath.Join(t.TempDir(), "hmac")
	require.NoError(t, os.WriteFile(file, []byte("c2VjcmV0\n"), 0o600))
	c, err := Parse("acme.hcl", []byte(strings.NewReplacer(`"ops@example.com"`, `env("ACME_TEST_EMAIL")`,
		"accept_terms = true", "accept_terms = true\n  external_account_binding {\n    key_id = \"a\"\n    hmac_key = file(\""+file+"\")\n  }").Replace(good)))
	require.NoError(t, err)
	require.Equal(t, "outside@example.com", c.Account.Email)
	require.Equal(t, "c2VjcmV0", c.Account.Binding.HMACKey)
}
