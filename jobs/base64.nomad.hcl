# A field that holds base64, written as the bytes that it stands for.
job "base64" {
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
        role    = "base64"

        secret "app" {
          path = "secret/app-1"

          file "api.key" {
            field  = "api_key"
            decode = "base64"
          }
        }
      }
    }
  }
}
