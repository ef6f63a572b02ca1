# Fields of a KV v2 secret as environment variables, each named. The task is restarted in place
# when somebody writes other values.
job "kv-env" {
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
        role    = "kv-env"

        secret "app" {
          path = "secret/app-1"

          env {
            APP_USER     = "username"
            APP_PASSWORD = "password"
          }
        }
      }
    }
  }
}
