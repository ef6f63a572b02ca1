# A secret that may be missing: nothing is at secret/app-2. The task starts without it, and a task
# event says so.
job "optional" {
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
        role    = "optional"

        secret "app" {
          path       = "secret/app-1"
          env_prefix = "APP_"
        }

        secret "extra" {
          path       = "secret/app-2"
          env_prefix = "EXTRA_"
          required   = false
        }
      }
    }
  }
}
