# A session of AWS's STS, as the variables that AWS's SDKs and its CLI look for. Nobody can renew a session:
# it is replaced before it ends, and the old one lives on at AWS until its end. params make the request a write.
job "aws" {
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
        role    = "aws"

        secret "aws" {
          path   = "aws/sts/app"
          params = { ttl = "15m" }
          env = {
            AWS_ACCESS_KEY_ID     = "access_key"
            AWS_SECRET_ACCESS_KEY = "secret_key"
            AWS_SESSION_TOKEN     = "session_token"
          }
        }
      }
    }
  }
}
