# One version of a KV v2 secret, whatever is written later.
job "kv-version" {
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
        role    = "kv-version"

        secret "app" {
          path    = "secret/app-1"
          version = 1
          env     = { APP_PASSWORD = "password" }
        }
      }
    }
  }
}
