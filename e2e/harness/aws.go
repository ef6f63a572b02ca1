package harness

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/awsfake"
)

// NewAWS starts an emulator of AWS for one test. Stop ends it.
func NewAWS() (*awsfake.Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return awsfake.New(fmt.Sprintf("127.0.0.1:%d", port))
}

// EnableAWS mounts an AWS engine that may do everything in aws. The keys of IAM users live for ttl, and can
// be renewed up to maxTTL.
func (v *Vault) EnableAWS(ctx context.Context, mount string, aws *awsfake.Server, ttl, maxTTL time.Duration) error {
	if err := v.mount(ctx, mount, &api.MountInput{Type: "aws"}); err != nil {
		return err
	}
	if err := v.AWSKey(ctx, mount, aws, aws.Root); err != nil {
		return err
	}
	return v.write(ctx, mount+"/config/lease", map[string]any{"lease": ttl.String(), "lease_max": maxTTL.String()})
}

// AWSKey says with which key an AWS engine goes to aws.
func (v *Vault) AWSKey(ctx context.Context, mount string, aws *awsfake.Server, key awsfake.Key) error {
	return v.write(ctx, mount+"/config/root", map[string]any{
		"access_key": key.ID, "secret_key": key.Secret, "region": "us-east-1",
		"iam_endpoint": aws.URL, "sts_endpoint": aws.URL,
	})
}

// AWSRole makes a role of an AWS engine. The credential type is iam_user, assumed_role or federation_token.
func (v *Vault) AWSRole(ctx context.Context, mount, name, credentialType string) error {
	role := map[string]any{"credential_type": credentialType}
	if credentialType == "assumed_role" {
		role["role_arns"] = "arn:aws:iam::" + awsfake.Account + ":role/" + name
	} else {
		role["policy_document"] = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}]}`
		role["policy_arns"] = "arn:aws:iam::aws:policy/ReadOnlyAccess"
	}
	return v.write(ctx, mount+"/roles/"+name, role)
}
