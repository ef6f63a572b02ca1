package e2e

import (
	"crypto"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/awsfake"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"software.sslmate.com/src/go-pkcs12"
)

const envCreds = `echo $DB_USER $DB_PASSWORD`

// fileCreds prints the same of a file with lines user=… and password=…
func fileCreds(name string) string {
	return `f=$NOMAD_SECRETS_DIR/` + name + `; echo $(sed -n s/^user=//p $f) $(sed -n s/^password=//p $f)`
}

// databaseExample has credentials as env, and in a file too.
func databaseExample(file bool) example {
	check := func(e *exampleRun) {
		e.user(envCreds)
		if file {
			require.Equal(e.T, e.sh(envCreds), e.sh(fileCreds("db.env")))
		}
	}
	return example{starts: check, changes: check}
}

// serverExample has credentials of another server in variables with a prefix, and others once they ended.
func serverExample(prefix string, canLogin func(e *exampleRun, user, password string) bool, end func(*exampleRun) error) example {
	check := func(e *exampleRun) {
		e.working(fmt.Sprintf("echo $%[1]sUSER $%[1]sPASSWORD", prefix), func(user, password string) bool { return canLogin(e, user, password) })
	}
	return example{starts: check, changes: func(e *exampleRun) {
		require.NoError(e.T, end(e))
		check(e)
		e.Until("a new container", func() error { return e.replaced(0) })
	}}
}

// envExample prints values of secret/app-1 from its environment.
func envExample(script, first, second string) example {
	return example{
		starts: func(e *exampleRun) { require.Equal(e.T, first, e.sh(script)) },
		changes: func(e *exampleRun) {
			e.prints(script, second)
			e.newProcess(first != second)
		},
	}
}

// examples are the jobs in jobs/, by name.
var examples = map[string]example{
	"readme":            databaseExample(false),
	"docker-database":   databaseExample(true),
	"raw_exec-database": databaseExample(true),
	"vault-block":       databaseExample(false),

	"postgresql": serverExample("PG", func(e *exampleRun, user, password string) bool {
		return e.Postgres.CanLogin(e.Ctx, user, password)
	}, func(e *exampleRun) error {
		return e.Agent.Vault().Client().Sys().RevokePrefixWithContext(e.Ctx, "database/creds/pg-app")
	}),
	"static-role": serverExample("PG", func(e *exampleRun, user, password string) bool {
		return e.Postgres.CanLogin(e.Ctx, user, password)
	}, func(e *exampleRun) error {
		_, err := e.Agent.Vault().Client().Logical().WriteWithContext(e.Ctx, "database/rotate-role/reports", nil)
		return err
	}),
	"rabbitmq": serverExample("MQ_", func(e *exampleRun, user, password string) bool {
		return e.RabbitMQ.CanLogin(user, password)
	}, func(e *exampleRun) error {
		return e.Agent.Vault().Client().Sys().RevokePrefixWithContext(e.Ctx, "rabbitmq/creds/app")
	}),

	"kv-env":        envExample(`echo $APP_USER $APP_PASSWORD`, "app first", "app second"),
	"kv-env-prefix": envExample(`test -n "$APP_API_KEY"; echo $APP_USERNAME $APP_PASSWORD`, "app first", "app second"),
	"kv1":           envExample(`echo $APP_USER $APP_PASSWORD`, "app first", "app first"),

	"kv-version": {
		starts: func(e *exampleRun) { require.Equal(e.T, "first", e.sh(`echo $APP_PASSWORD`)) },
		changes: func(e *exampleRun) {
			require.Equal(e.T, "second", e.field("password"))
			require.Equal(e.T, "first", e.sh(`echo $APP_PASSWORD`))
			e.newProcess(false)
		},
	},
	"kv-files": {
		starts: func(e *exampleRun) {
			require.Equal(e.T, "app first", e.sh(`cd /secrets/app; echo $(cat username) $(cat password)`))
			require.Equal(e.T, "0:0:400 0:0:400 1000:1000:440",
				e.sh(`cd /secrets; echo $(stat -Lc %u:%g:%a app/username app/password shared/password)`))
		},
		changes: func(e *exampleRun) {
			e.prints(`cat /secrets/app/password /secrets/shared/password`, "secondsecond")
			e.Until("a new container", func() error { return e.replaced(0) })
		},
	},
	"nomad-variables": {
		starts: func(e *exampleRun) {
			require.Equal(e.T, "app first", e.sh(`echo $APP_USER $(cat /secrets/password)`))
		},
		changes: func(e *exampleRun) {
			e.Shell("nomad var put -force nomad/jobs/nomad-variables username=app password=second")
			e.prints(`cat /secrets/password; echo`, "second")
			e.Until("a new container", func() error { return e.replaced(0) })
		},
	},
	"live-docker": {
		starts: func(e *exampleRun) {
			require.Equal(e.T, "<> first", e.sh(`echo "<$(ls -A /run/app-1)>" $(cat /run/app-1/password)`))
		},
		changes: func(e *exampleRun) {
			e.prints("cat /run/app-1/password; echo", "second")
			e.newProcess(false)
		},
	},
	"live-raw_exec": {
		starts: func(e *exampleRun) {
			require.Equal(e.T, "api_key password username first", e.sh(`d=$NOMAD_SECRETS_DIR/live/app-1; echo $(ls $d) $(cat $d/password)`))
		},
		changes: func(e *exampleRun) {
			e.prints("cat $NOMAD_SECRETS_DIR/live/app-1/password; echo", "second")
			e.Lines(e.allocs[0], "app", "hangup", 1)
		},
	},
	"template": {
		starts: func(e *exampleRun) {
			e.user(fileCreds("app.conf"))
			require.Equal(e.T, `api_key="`+e.field("api_key")+`"`, e.sh(`grep api_key /secrets/app.conf`))
		},
		changes: func(e *exampleRun) {
			e.user(fileCreds("app.conf"))
			e.prints(`grep api_key /secrets/app.conf`, `api_key="`+e.field("api_key")+`"`)
			e.Until("a new container", func() error { return e.replaced(0) })
		},
	},
	"pki": {starts: func(e *exampleRun) {
		cert, key := e.file("tls/cert.pem"), e.file("tls/key.pem")
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		require.NoError(e.T, err)
		require.Len(e.T, pair.Certificate, 2, "certificate and chain")
		require.NoError(e.T, pair.Leaf.VerifyHostname("web.example.com"))
		require.WithinDuration(e.T, time.Now().Add(24*time.Hour), pair.Leaf.NotAfter, time.Hour)
	}},
	"pki-csr": {starts: func(e *exampleRun) {
		pair, err := tls.X509KeyPair([]byte(e.file("tls/cert.pem")), []byte(e.file("tls/key.pem")))
		require.NoError(e.T, err)
		require.NoError(e.T, pair.Leaf.VerifyHostname("www.example.com"))
		key, leaf, _, err := pkcs12.DecodeChain([]byte(e.file("tls/web.p12")), "changeit")
		require.NoError(e.T, err)
		require.Equal(e.T, leaf.PublicKey, key.(crypto.Signer).Public())
		require.Equal(e.T, pair.Leaf.Raw, leaf.Raw)
	}},
	"aws":      awsExample("aws/sts/app", ":assumed-role/app/"),
	"aws-user": awsExample("aws/creds/user", ":user/"),
	"kv-certificate": {
		starts: func(e *exampleRun) { e.noted = e.certificate() },
		changes: func(e *exampleRun) {
			readme, err := os.ReadFile("../jobs/README.md")
			require.NoError(e.T, err)
			e.Shell(regexp.MustCompile(`(?m)^vault write .* vault kv put secret/tls/web -$`).FindString(string(readme)))
			e.Lines(e.allocs[0], "app", "reloaded", 1)
			require.NotEqual(e.T, e.noted, e.certificate())
			e.newProcess(false)
		},
	},
	"ssh": {starts: func(e *exampleRun) {
		cert := parseSSHCertificate(e.T, e.file("ssh/id_ed25519-cert.pub"))
		ca, err := e.Agent.Vault().Client().Logical().ReadWithContext(e.Ctx, "ssh/config/ca")
		require.NoError(e.T, err)
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(ca.Data["public_key"].(string)))
		require.NoError(e.T, err)
		checkSSHCertificate(e.T, cert, key, cert.Key, "deploy")
	}},
	"cubbyhole": {starts: func(e *exampleRun) {
		_, err := e.allocs[0].WaitEvent(e.Ctx, "app", "not found at cubbyhole/app; skipped (required = false)")
		require.NoError(e.T, err)
	}},
	"change-signal": {
		starts: func(e *exampleRun) { require.Equal(e.T, "first", e.sh(`cat /secrets/app/password`)) },
		changes: func(e *exampleRun) {
			e.Lines(e.allocs[0], "app", "reloaded", 1)
			require.Equal(e.T, "second", e.sh(`cat /secrets/app/password`))
			e.newProcess(false)
		},
	},
	"change-script": {
		starts: func(e *exampleRun) { require.Equal(e.T, "first", e.sh(`cat /secrets/app/password`)) },
		changes: func(e *exampleRun) {
			e.prints(`cat /local/changes`, "changed")
			require.Equal(e.T, "second", e.sh(`cat /secrets/app/password`))
			e.newProcess(false)
		},
	},
	"change-noop": {
		starts: func(e *exampleRun) { require.Equal(e.T, "first", e.sh(`cat /secrets/app/password`)) },
		changes: func(e *exampleRun) {
			e.prints(`cat /secrets/app/password`, "second")
			e.newProcess(false)
		},
	},
	"optional": {
		starts: func(e *exampleRun) {
			require.Equal(e.T, "app first", e.sh(`echo $APP_USERNAME $APP_PASSWORD $(env | grep EXTRA_)`))
			_, err := e.allocs[0].WaitEvent(e.Ctx, "app", "not found at secret/app-2")
			require.NoError(e.T, err)
		},
		changes: func(e *exampleRun) { e.prints(`echo $APP_PASSWORD`, "second") },
	},
	"base64": {
		starts:  isDecodedKey,
		changes: isDecodedKey,
	},
	"group-stagger": {
		allocs: 3,
		starts: func(e *exampleRun) { require.Equal(e.T, "first", e.sh(`echo $APP_PASSWORD`)) },
		changes: func(e *exampleRun) {
			restarted := map[int]time.Time{}
			for i, alloc := range e.allocs {
				e.Until("a new container that runs", func() error {
					if err := e.replaced(i); err != nil {
						return err
					}
					inspect, err := alloc.Container(e.Ctx, "app")
					if err != nil {
						return err
					}
					if !inspect.State.Running {
						return errors.New("it is not started yet")
					}
					restarted[e.index(i)], err = time.Parse(time.RFC3339Nano, inspect.State.StartedAt)
					return err
				})
			}
			require.Len(e.T, restarted, 3)
			for i := range 2 {
				gap := restarted[i+1].Sub(restarted[i])
				require.Greater(e.T, gap, 5*time.Second, "between allocations %d and %d: 15 s, give or take what a start takes", i, i+1)
			}
		},
	},
	"network": {
		starts: func(e *exampleRun) {
			e.noted = e.sh(`ip addr show eth0 | grep inet`)
			require.NotEmpty(e.T, e.noted)
		},
		changes: func(e *exampleRun) {
			e.prints(`echo $APP_PASSWORD`, "second")
			e.newProcess(true)
			require.Equal(e.T, e.noted, e.sh(`ip addr show eth0 | grep inet`))
		},
	},
	"expose-token": {
		starts: func(e *exampleRun) {
			token := e.sh(`test "$VAULT_TOKEN" = "$(cat /secrets/vault_token)"; echo $VAULT_TOKEN`)
			client, err := e.Agent.Vault().ClientWithToken(token)
			require.NoError(e.T, err)
			_, err = client.KVv2("secret").Get(e.Ctx, "app-1")
			require.NoError(e.T, err)
			require.Equal(e.T, "first", e.sh(`echo $APP_PASSWORD`))
		},
		changes: func(e *exampleRun) { e.prints(`echo $APP_PASSWORD`, "second") },
	},
}

// awsExample has a key of AWS's, and another once its lease is revoked.
func awsExample(path, owner string) example {
	working := func(e *exampleRun) {
		e.Until("a working key, other than "+e.noted, func() error {
			out, err := e.trySh(`echo $AWS_ACCESS_KEY_ID,$AWS_SECRET_ACCESS_KEY,$AWS_SESSION_TOKEN`)
			if err != nil {
				return err
			}
			key := strings.Split(out, ",")
			if len(key) != 3 || key[0] == e.noted {
				return errors.New("it is " + out)
			}
			arn, err := e.AWS.Identify(e.Ctx, awsfake.Key{ID: key[0], Secret: key[1], Token: key[2]})
			if err != nil {
				return err
			}
			require.Contains(e.T, arn, owner)
			e.noted = key[0]
			return nil
		})
	}
	return example{starts: working, changes: func(e *exampleRun) {
		require.NoError(e.T, e.Agent.Vault().Client().Sys().RevokePrefixWithContext(e.Ctx, path))
		working(e)
	}}
}

// certificate is the serial number of the task's; its key matches.
func (e *exampleRun) certificate() (serial string) {
	e.T.Helper()
	pair, err := tls.X509KeyPair([]byte(e.file("tls/cert.pem")), []byte(e.file("tls/key.pem")))
	require.NoError(e.T, err)
	require.NoError(e.T, pair.Leaf.VerifyHostname("web.example.com"))
	return pair.Leaf.SerialNumber.Text(16)
}

// isDecodedKey: the file has the bytes that the field stands for.
func isDecodedKey(e *exampleRun) {
	key, err := base64.StdEncoding.DecodeString(e.field("api_key"))
	require.NoError(e.T, err)
	e.Until("the decoded key in its file", func() error {
		content, err := os.ReadFile(e.allocs[0].SecretsDir("app") + "/api.key")
		if err == nil && string(content) != string(key) {
			err = errors.New("it has something else")
		}
		return err
	})
}
