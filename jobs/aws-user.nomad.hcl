# The key of an IAM user that Vault makes for the task. It is renewed while the task runs, and the user is
# deleted when the task ends. It has no session token: to name that field would be an error. All of AWS knows
# a new key only after some seconds, so let the program try again, or prefer the job aws.
job "aws-user" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }

    task "app" {
      driver = "docker"

      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }

      config {
        image   = "secrets-demo/busybox:1"
        command = "sh"
        args    = ["-c", "trap exit INT TERM; while true; do sleep 1; done"]
        role    = "aws-user"

        secret "aws" {
          path = "aws/creds/user"
          env  = { AWS_ACCESS_KEY_ID = "access_key", AWS_SECRET_ACCESS_KEY = "secret_key" }
        }
      }
    }
  }
}
