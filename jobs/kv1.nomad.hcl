# A KV v1 secret: the version of the mount is found out, the job is the same.
job "kv1" {
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
        role    = "kv1"

        secret "app" {
          path = "kv1/app"
          env  = { APP_USER = "username", APP_PASSWORD = "password" }
        }
      }
    }
  }
}
