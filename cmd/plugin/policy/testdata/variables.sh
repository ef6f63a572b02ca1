#!/bin/sh
# Vault's policies and JWT roles for job "web".
# Vault's policy default has the rest: to renew and revoke the token, and to renew leases. A role that does
# without it (token_no_default_policy) needs the lines of jobs/default-policy.hcl, too.
set -e

nomad acl policy apply -namespace 'shop' -job 'web' -group 'app' -task 'app' 'web-app-app-831f8149df0c0903' - <<'POLICY'
# Task "app/app"
namespace "shop" {
  variables {
    path "shared/db" {
      capabilities = ["read"]
    }
  }
}
POLICY
