# Every field of a secret as an environment variable: APP_USERNAME, APP_PASSWORD, APP_API_KEY.
job "kv-env-prefix" {
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
        role    = "kv-env-prefix"

        secret "app" {
          path       = "secret/app-1"
          env_prefix = "APP_"
        }
      }
    }
  }
}
