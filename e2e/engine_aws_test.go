package e2e

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/awsfake"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// awsLab is a lab with an AWS of its own. Mount, policy, role and job are called like the lab; the
// engine's role is "app".
type awsLab struct {
	*lab.Lab
	aws  *awsfake.Server
	name string
}

// newAWSLab has an engine whose keys of users live for ttl, and can be renewed up to maxTTL.
func newAWSLab(t *testing.T, name, credentialType string, ttl, maxTTL time.Duration) *awsLab {
	t.Helper()
	aws, err := harness.NewAWS()
	require.NoError(t, err)
	t.Cleanup(aws.Stop)
	l := &awsLab{Lab: newLab(t), aws: aws, name: name}
	require.NoError(t, l.Vault.EnableAWS(l.Ctx, name, aws, ttl, maxTTL))
	require.NoError(t, l.Vault.AWSRole(l.Ctx, name, "app", credentialType))
	require.NoError(t, l.Vault.Policy(l.Ctx, name, fmt.Sprintf(`
path "%[1]s/creds/app" { capabilities = ["read"] }
path "%[1]s/sts/app" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }`, name)))
	l.AllowRole(name)
	return l
}

const (
	awsUserEnv    = `env = { AWS_ACCESS_KEY_ID = "access_key", AWS_SECRET_ACCESS_KEY = "secret_key" }`
	awsSessionEnv = `env = { AWS_ACCESS_KEY_ID = "access_key", AWS_SECRET_ACCESS_KEY = "secret_key", AWS_SESSION_TOKEN = "session_token" }`
)

// secret is a secret block, of what is at a path of the engine.
func (l *awsLab) secret(path, more string) string {
	return fmt.Sprintf("secret \"aws\" {\n path = %q\n splay = \"0s\"\n %s\n}", l.name+"/"+path, more)
}

// job is a job that prints its keys.
func (l *awsLab) job(driver, secret string) lab.Job {
	return lab.Job{
		ID: l.name, Driver: driver, Role: l.name, Config: secret,
		Run: []string{"testapp", "env", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"},
	}
}

// key waits for the nth process of the task, and gives the key that it has.
func (l *awsLab) key(alloc *harness.Alloc, n int) awsfake.Key {
	l.T.Helper()
	value := func(name string) string {
		text, err := strconv.Unquote(l.Lines(alloc, "app", "env "+name+"=", n)[n-1])
		require.NoError(l.T, err)
		return text
	}
	return awsfake.Key{ID: value("AWS_ACCESS_KEY_ID"), Secret: value("AWS_SECRET_ACCESS_KEY"), Token: value("AWS_SESSION_TOKEN")}
}

// owner is whose a key is, by what AWS says: the ARN.
func (l *awsLab) owner(key awsfake.Key) string {
	l.T.Helper()
	arn, err := l.aws.Identify(l.Ctx, key)
	require.NoError(l.T, err)
	return arn
}

// onlyUser waits until AWS has no user but the one whose a key is, and Vault no lease but that.
func (l *awsLab) onlyUser(key awsfake.Key) {
	l.T.Helper()
	l.left(10*time.Second, path.Base(l.owner(key)))
	l.Leases(l.name+"/creds/app", 1)
}

// left waits until AWS has these users. It fails where this takes longer than d.
func (l *awsLab) left(d time.Duration, users ...string) {
	l.T.Helper()
	l.Soon(fmt.Sprintf("AWS to have the users %q", users), d, func(context.Context) error {
		if there := l.aws.Users(); !slices.Equal(there, users) {
			return fmt.Errorf("there are %q", there)
		}
		return nil
	})
}

// gone stops the job, and shows that nothing of it is left (E1).
func (l *awsLab) gone(alloc *harness.Alloc, path string) {
	l.T.Helper()
	require.NoError(l.T, alloc.Job.Stop(l.Ctx))
	l.left(lab.RevokedWithin)
	l.Leases(l.name+"/"+path, 0)
	l.NoJournal(alloc)
}

// renewals are the job's.
func (l *awsLab) renewals(since harness.Mark) []harness.Request {
	l.T.Helper()
	all, err := l.Vault.Requests(since, "sys/leases/renew")
	require.NoError(l.T, err)
	return slices.DeleteFunc(all, func(r harness.Request) bool { return r.Job != l.name })
}

// The key of an IAM user is renewed, then replaced before its maximum: the old user is deleted when the
// new one's key is in use (C2), and the last one when the task ends (E1).
func TestAWSUsers(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newAWSLab(t, "awsuser-"+driver, "iam_user", 20*time.Second, 40*time.Second)
			since := l.Mark()
			alloc := l.RunAll(l.job(driver, l.secret("creds/app", awsUserEnv)))[0]
			first := l.key(alloc, 1)
			require.Empty(t, first.Token)
			l.onlyUser(first)

			second := l.key(alloc, 2)
			l.onlyUser(second)
			_, err := l.aws.Identify(l.Ctx, first)
			require.EqualError(t, err, "InvalidClientTokenId")
			deleted := l.aws.Calls("DeleteUser")
			require.Len(t, deleted, 1)
			require.True(t, deleted[0].At.After(l.Generations(alloc)[1].Began), "the old user was deleted before the new process began")
			require.NotEmpty(t, l.renewals(since))
			l.Event(alloc, `secret "aws" rotated (its lease reached its maximum); task restarted in place`)
			l.StartedTimes(alloc, 2)
			l.gone(alloc, "creds/app")
		})
	}
}

// A session ends when AWS says, and cannot be renewed: it is replaced before.
func TestAWSSessions(t *testing.T) {
	t.Parallel()
	const lasts = 40 * time.Second
	for _, test := range []struct {
		credentialType, driver, path, params string
		asked                                string // of AWS, in seconds
		arn                                  string
	}{
		{"assumed_role", "docker", "creds/app", "", "3600", "assumed-role/app/vault-"},
		{"federation_token", "raw_exec", "sts/app", `params = { ttl = "15m" }`, "900", "federated-user/vault-"},
	} {
		t.Run(test.credentialType, func(t *testing.T) {
			t.Parallel()
			l := newAWSLab(t, "aws-"+test.credentialType, test.credentialType, time.Hour, time.Hour)
			l.aws.SessionsLast(lasts)
			since := l.Mark()
			alloc := l.RunAll(l.job(test.driver, l.secret(test.path, awsSessionEnv+"\n"+test.params)))[0]
			first := l.key(alloc, 1)
			require.Contains(t, l.owner(first), "arn:aws:sts::"+awsfake.Account+":"+test.arn)
			l.Leases(l.name+"/"+test.path, 1)

			second := l.key(alloc, 2)
			require.NotEqual(t, first.Token, second.Token)
			require.Contains(t, l.owner(second), test.arn)
			given := l.aws.Calls("AssumeRole", "GetFederationToken")
			require.Len(t, given, 2)
			require.Equal(t, test.asked, given[0].In.Get("DurationSeconds"))
			require.True(t, l.Generations(alloc)[1].Began.Before(given[0].At.Add(lasts)), "the first session ended before the new process began")
			l.Event(alloc, `secret "aws" rotated (its lease cannot be renewed); task restarted in place`)
			l.Leases(l.name+"/"+test.path, 1)
			require.Empty(t, l.renewals(since))
			l.StartedTimes(alloc, 2)
			l.gone(alloc, test.path)
		})
	}
}

// What AWS refuses is told in its own words, with where to look. It is tried once, and nothing is started.
func TestAWSRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, credentialType string
		wrongKey             bool   // the engine's
		action               string // that is refused
		says                 []string
		users                int
	}{
		{"user", "iam_user", false, "CreateUser", []string{"Error creating IAM user: AccessDenied", "iam:CreateUser"}, 0},
		// The user without a key that this leaves is deleted by Vault, after five minutes.
		{"key", "iam_user", false, "CreateAccessKey", []string{"Error creating access keys: AccessDenied", "iam:CreateAccessKey"}, 1},
		{"role", "assumed_role", false, "AssumeRole", []string{"Error assuming role: AccessDenied", "sts:AssumeRole"}, 0},
		{"federation", "federation_token", false, "GetFederationToken", []string{"Error generating STS keys: AccessDenied", "sts:GetFederationToken"}, 0},
		{"iam", "iam_user", true, "CreateUser", []string{"Error creating IAM user: SignatureDoesNotMatch"}, 0},
		{"sts", "assumed_role", true, "GetCallerIdentity", []string{"could not obtain sts client"}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newAWSLab(t, "aws-refuses-"+test.name, test.credentialType, time.Hour, time.Hour)
			if test.wrongKey {
				require.NoError(t, l.Vault.AWSKey(l.Ctx, l.name, l.aws, awsfake.Key{ID: l.aws.Root.ID, Secret: "wrong"}))
			} else {
				l.aws.Deny(test.action)
			}
			l.refused(t, awsUserEnv, append(test.says, `secret "aws": read `+l.name+"/creds/app: ", "; look at the role, at "+l.name+"/config/root, and")...)
			require.Len(t, l.aws.Calls(test.action), 1)
			require.Len(t, l.aws.Users(), test.users)
		})
	}
}

// The key of a user comes without a session token: a job that names it is wrong, and the user who was made
// before that was seen is deleted.
func TestAWSUserHasNoSession(t *testing.T) {
	t.Parallel()
	l := newAWSLab(t, "aws-nosession", "iam_user", time.Hour, time.Hour)
	l.refused(t, awsSessionEnv, `secret "aws": env AWS_SESSION_TOKEN: field "session_token" is null`)
	require.Len(t, l.aws.Calls("CreateUser"), 1)
	l.left(lab.RevokedWithin)
}

// refused runs a job that must not start, and whose event says this. Nothing of it is left in Vault and here.
func (l *awsLab) refused(t *testing.T, env string, says ...string) {
	t.Helper()
	config := l.secret("creds/app", env) + fmt.Sprintf("\nrole = %q\ncommand = \"testapp\"\nargs = [\"sleep\"]", l.name)
	alloc, err := l.Submit(fmt.Sprintf(refusalJob, l.name, "raw_exec", lab.IdentityBlock, config)).Failed(l.Ctx)
	require.NoError(t, err)
	state, err := alloc.State(l.Ctx, "web")
	require.NoError(t, err)
	refusal{says: says}.check(t, state)
	l.NoProcess(alloc, "web")
	l.NoJournal(alloc)
	l.Leases(l.name+"/creds/app", 0)
}

// While AWS is away a start waits for it (S2), and a rotation is tried until it is back (C3). Vault's
// engine says 400 to both.
func TestAWSAway(t *testing.T) {
	t.Parallel()
	l := newAWSLab(t, "aws-away", "iam_user", 20*time.Second, 40*time.Second)
	since := l.Mark()
	l.aws.Stop()
	job := l.Submit(l.job("raw_exec", l.secret("creds/app", awsUserEnv)).HCL())
	l.Until("a start that AWS does not answer", func() error {
		asked, err := l.Vault.Requests(since, l.name+"/creds/app")
		if err == nil && len(asked) == 0 {
			err = errors.New("nobody has asked yet")
		}
		return err
	})
	require.NoError(t, l.aws.Start())
	alloc, err := job.Running(l.Ctx)
	require.NoError(t, err)
	l.onlyUser(l.key(alloc, 1))

	l.aws.Stop()
	l.Event(alloc, "not rotated: secret ")
	l.StartedTimes(alloc, 1)
	require.NoError(t, l.aws.Start())
	l.onlyUser(l.key(alloc, 2))
	l.StartedTimes(alloc, 2)
	l.gone(alloc, "creds/app")
}
